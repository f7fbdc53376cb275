"""Servers of Debian's packages, started privately: PgBouncer, and whatever else the tests bring.

They run under the user that the local stack uses for Postgres, listen on the loopback interface alone, and end with the
process that started them, however that ends.
"""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from counterfoil_console.stack.layout import Layout
from counterfoil_console.stack.ports import HOST, is_open, pick
from counterfoil_console.stack.postgres import account

PROGRAM = Path("/usr/sbin/pgbouncer")
PASSWORD = "only-on-loopback"
RunAs = Callable[..., list[str]]
_START_SECONDS = 30.0
_STOP_SECONDS = 15.0


@contextmanager
def folder_of_servers(within: str | None = None) -> Iterator[tuple[Path, RunAs]]:
    """A folder for servers' files, and the way to start their programs as the user whose folder it is."""
    with tempfile.TemporaryDirectory(prefix="counterfoil-", dir=within) as name:
        folder = Path(name)
        user = account(Layout(folder))
        ends_with_us = ["setpriv", "--pdeathsig", "INT"]
        if user is not None:
            os.chown(folder, user.uid, user.gid)
            ends_with_us += [f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups"]
        yield folder, lambda *command: [*ends_with_us, *map(str, command)]


@contextmanager
def served(command: list[str], log: Path, is_up: Callable[[], bool]) -> Iterator[int]:
    """A server for the length of a block, which begins when it is up; SIGINT ends it. Gives its process' id."""
    with log.open("ab") as said:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd="/")
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not is_up():
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{command[-1]} did not start: {log.read_text()}")
            time.sleep(0.02)
        yield process.pid
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_STOP_SECONDS)
        finally:
            process.kill()


@contextmanager
def pgbouncer(server_dsn: str, users: Mapping[str, str], **settings: str | int) -> Iterator[str]:
    """A PgBouncer before a Postgres; gives a DSN without database and user.

    `users` are logins with their passwords or SCRAM secrets; keywords are settings of pgbouncer.ini.
    """
    server = conninfo_to_dict(server_dsn)
    with folder_of_servers() as (folder, run_as):
        port = pick(None, ())
        (folder / "users").write_text("".join(f'"{user}" "{secret}"\n' for user, secret in users.items()))
        ours = {
            "listen_addr": HOST, "listen_port": port, "unix_socket_dir": "", "auth_type": "scram-sha-256",
            "auth_file": folder / "users",
        }  # fmt: skip
        (folder / "ini").write_text(
            f"[databases]\n* = host={server['host']} port={server['port']}\n[pgbouncer]\n"
            + "".join(f"{name} = {value}\n" for name, value in (ours | settings).items())
        )
        dsn = make_conninfo(host=HOST, port=port, password=PASSWORD, sslmode="disable")
        with served(run_as(PROGRAM, folder / "ini"), folder / "log", lambda: is_open(port)):
            yield dsn
