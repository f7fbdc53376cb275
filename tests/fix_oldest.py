"""The oldest servers that we support, and PgBouncer, private to the run.

Kafka comes as the local stack's does. Postgres and PgBouncer are Debian's, which ops/install-test-packages.sh installs.
"""

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import pytest

from bench.pgbouncer import PASSWORD, PROGRAM, RunAs, folder_of_servers, pgbouncer, served
from counterfoil_console.stack import LocalStack, StackState, default_directories
from counterfoil_console.stack.jars import read_lock
from counterfoil_console.stack.ports import HOST, pick
from counterfoil_console.stack.postgres import answers
from tests.fix_stack import memory_folder

OLDEST = "15"
IS_SOAK = "COUNTERFOIL_TEST_OLDEST_POSTGRES" in os.environ
PROGRAMS = Path("/usr/lib/postgresql") / OLDEST / "bin"
SETTINGS = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "shared_buffers=32MB", "fsync=off")
NewPgBouncer = Callable[..., AbstractContextManager[str]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what is marked so on the newest and on the oldest server."""
    postgres = ("admin_dsn", ("postgres-18", f"postgres-{OLDEST}"))
    for mark, fixture, names in (
        ("oldest_postgres_too", *postgres),
        *([("oldest_postgres_in_soak", *postgres)] if IS_SOAK else []),
        ("oldest_kafka_too", "kafka", ("kafka-4.4", "kafka-3.3")),
    ):
        if metafunc.definition.get_closest_marker(mark) and fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, ["newest", "oldest"], indirect=True, scope="session", ids=names)


@pytest.fixture(scope="session")
def oldest_kafka() -> Iterator[StackState]:
    """A stack with the oldest Kafka that we support: the first whose KRaft was ready for production."""
    with tempfile.TemporaryDirectory(prefix="counterfoil-", dir=memory_folder()) as folder:
        cache = default_directories(os.environ).cache
        jars = read_lock(Path(__file__).with_name("kafka-3.3.lock.toml"))
        with LocalStack(Path(folder) / "data", cache, os.environ.get("PATH"), locked_jars=jars).running() as state:
            yield state


def need(program: Path, package: str) -> None:
    """Skip the test where a Debian package is missing, which CI counts as a failure."""
    if not program.exists():
        pytest.skip(f"{package} is not installed; ops/install-test-packages.sh says how to get it")


@pytest.fixture(scope="session")
def oldest_postgres() -> Iterator[str]:
    """The administrator's DSN of the oldest Postgres that we support."""
    need(PROGRAMS / "initdb", f"postgresql-{OLDEST}")
    with folder_of_servers(memory_folder()) as (folder, run_as):
        make_postgres(folder, run_as, "data")
        with running_postgres(folder, run_as, "data") as dsn:
            yield dsn


def make_postgres(folder: Path, run_as: RunAs, data: str) -> None:
    """Data of a server that was never started."""
    (folder / "password").write_text(PASSWORD)
    making = run_as(PROGRAMS / "initdb", "-D", folder / data, "-U", "postgres", "--pwfile", folder / "password",
                    "-A", "scram-sha-256", "-E", "UTF8", "--locale", "C.UTF-8", "--no-sync")  # fmt: skip
    subprocess.run(making, check=True, capture_output=True, cwd="/")


@contextmanager
def running_postgres(
    folder: Path, run_as: RunAs, data: str, *settings: str, clock: tuple[str, ...] = ()
) -> Iterator[str]:
    """The administrator's DSN of a server on data that is there; `clock` is a command that others are run by."""
    port = pick(None, ())
    given = [part for setting in (*SETTINGS, f"port={port}", *settings) for part in ("-c", setting)]
    command = run_as(*clock, PROGRAMS / "postgres", "-D", folder / data, *given)
    dsn = f"postgresql://postgres:{PASSWORD}@{HOST}:{port}/postgres?sslmode=disable"
    with served(command, folder / f"{data}.log", lambda: answers(dsn, port)):
        yield dsn


@pytest.fixture
def new_pgbouncer(admin_dsn: str) -> NewPgBouncer:
    """Runs a PgBouncer before the test's Postgres: logins, and settings of pgbouncer.ini."""
    need(PROGRAM, "pgbouncer")
    return partial(pgbouncer, admin_dsn)
