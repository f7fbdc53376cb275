"""The oldest servers that we support, and PgBouncer, private to the run.

Kafka comes as the local stack's does. Postgres and PgBouncer are Debian's, which ops/install-test-packages.sh installs;
they run under the user that the local stack uses for Postgres, listen on the loopback interface alone, and end with the
process that started them, however that ends.
"""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from counterfoil_console.stack import LocalStack, StackState, default_directories
from counterfoil_console.stack.jars import read_lock
from counterfoil_console.stack.layout import Layout
from counterfoil_console.stack.ports import HOST, is_open, pick
from counterfoil_console.stack.postgres import account, answers
from tests.waiting import wait_until

OLDEST = "15"
PROGRAMS = Path("/usr/lib/postgresql") / OLDEST / "bin"
SETTINGS = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "shared_buffers=32MB", "fsync=off")
RunAs = Callable[..., list[str]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what is marked so on the newest and on the oldest server."""
    for mark, fixture, names in (
        ("oldest_postgres_too", "admin_dsn", ("postgres-18", f"postgres-{OLDEST}")),
        ("oldest_kafka_too", "kafka", ("kafka-4.4", "kafka-3.3")),
    ):
        if metafunc.definition.get_closest_marker(mark) and fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, ["newest", "oldest"], indirect=True, scope="session", ids=names)


@pytest.fixture(scope="session")
def oldest_kafka() -> Iterator[StackState]:
    """A stack with the oldest Kafka that we support: the first whose KRaft was ready for production."""
    with tempfile.TemporaryDirectory(prefix="counterfoil-") as folder:
        cache = default_directories(os.environ).cache
        jars = read_lock(Path(__file__).with_name("kafka-3.3.lock.toml"))
        with LocalStack(Path(folder) / "data", cache, os.environ.get("PATH"), locked_jars=jars).running() as state:
            yield state


def program(path: Path | str, package: str) -> str:
    """The full path of a program of a Debian package; without it the test is skipped, which CI counts as a failure."""
    found = shutil.which(path)
    if found is None:
        pytest.skip(f"{package} is not installed; ops/install-test-packages.sh says how to get it")
    return found


@contextmanager
def folder_of_servers() -> Iterator[tuple[Path, RunAs]]:
    """A folder for servers' files, and the way to start their programs as the user whose folder it is."""
    with tempfile.TemporaryDirectory(prefix="counterfoil-") as name:
        folder = Path(name)
        user = account(Layout(folder))
        ends_with_us = ["setpriv", "--pdeathsig", "INT"]
        if user is not None:
            os.chown(folder, user.uid, user.gid)
            ends_with_us += [f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups"]
        yield folder, lambda *command: [*ends_with_us, *map(str, command)]


@contextmanager
def served(command: list[str], log: Path, is_up: Callable[[], bool]) -> Iterator[None]:
    """A server for the length of a block, which begins when it is up; SIGINT ends it."""
    with log.open("ab") as said:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd="/")
    try:
        wait_until(lambda: process.poll() is not None or is_up())
        assert process.poll() is None, log.read_text()
        yield
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(15)
        finally:
            process.kill()


@pytest.fixture(scope="session")
def oldest_postgres() -> Iterator[str]:
    """The administrator's DSN of the oldest Postgres that we support."""
    initdb = program(PROGRAMS / "initdb", f"postgresql-{OLDEST}")
    with folder_of_servers() as (folder, run_as):
        password, port = folder / "password", pick(None, ())
        password.write_text("only-on-loopback")
        password.chmod(0o644)
        data = folder / "data"
        making = run_as(initdb, "-D", data, "-U", "postgres", "--pwfile", password, "-A", "scram-sha-256", "-E", "UTF8",
                        "--locale", "C.UTF-8", "--no-sync")  # fmt: skip
        subprocess.run(making, check=True, capture_output=True, cwd="/")
        settings = [part for setting in (*SETTINGS, f"port={port}") for part in ("-c", setting)]
        dsn = f"postgresql://postgres:only-on-loopback@{HOST}:{port}/postgres?sslmode=disable"
        with served(run_as(PROGRAMS / "postgres", "-D", data, *settings), folder / "log", lambda: answers(dsn, port)):
            yield dsn


NewPgBouncer = Callable[..., AbstractContextManager[str]]


@pytest.fixture
def new_pgbouncer(admin_dsn: str) -> NewPgBouncer:
    """Runs a PgBouncer before the test's Postgres; gives a DSN without database and user.

    `users` are logins with the tests' password; other keywords are settings of pgbouncer.ini.
    """
    bouncer = program("/usr/sbin/pgbouncer", "pgbouncer")
    server = conninfo_to_dict(admin_dsn)

    @contextmanager
    def run(users: list[str], **settings: str | int) -> Iterator[str]:
        with folder_of_servers() as (folder, run_as):
            port = pick(None, ())
            (folder / "users").write_text("".join(f'"{user}" "only-on-loopback"\n' for user in users))
            ours = {
                "listen_addr": HOST, "listen_port": port, "unix_socket_dir": "", "auth_type": "scram-sha-256",
                "auth_file": folder / "users",
            }  # fmt: skip
            (folder / "ini").write_text(
                f"[databases]\n* = host={server['host']} port={server['port']}\n[pgbouncer]\n"
                + "".join(f"{name} = {value}\n" for name, value in (ours | settings).items())
            )
            dsn = make_conninfo(host=HOST, port=port, password="only-on-loopback", sslmode="disable")
            with served(run_as(bouncer, folder / "ini"), folder / "log", lambda: is_open(port)):
                yield dsn

    return run
