"""Debian's MariaDB, private to the run: on loopback, with data of its own, its certificate the suite's authority's."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pymysql
import pytest

from bench.pgbouncer import PASSWORD, RunAs, folder_of_servers, served
from counterfoil_console.stack.ports import HOST, is_open, pick
from tests.fix_oldest import need
from tests.fix_stack import memory_folder

PROGRAM = Path("/usr/sbin/mariadbd")
ADMIN, READER = "admin", "reader"
_SQL = Path("/usr/share/mysql")
_SYSTEM = ("mysql_system_tables.sql", "mysql_performance_tables.sql", "mysql_system_tables_data.sql")
_LOGINS = f"""
FLUSH PRIVILEGES;
CREATE USER {ADMIN}@'%' IDENTIFIED BY '{PASSWORD}', {READER}@'%' IDENTIFIED BY '{PASSWORD}';
GRANT ALL ON *.* TO {ADMIN}@'%' WITH GRANT OPTION;
"""
_SMALL = ("--no-defaults", "--innodb-buffer-pool-size=32M", "--innodb-log-file-size=8M", "--innodb-use-native-aio=0")
# --gdb: it takes SIGINT for its end, as the other servers of the tests do.
_SETTINGS = (
    *_SMALL, "--gdb", f"--bind-address={HOST}", "--skip-log-bin", "--performance-schema=OFF",
    "--innodb-flush-log-at-trx-commit=0", "--innodb-fast-shutdown=2", "--character-set-server=utf8mb4",
)  # fmt: skip


@dataclass
class MariaDb:
    """A server that can be ended and started again; its databases stay."""

    folder: Path
    run_as: RunAs
    certificate: str
    clock: tuple[str, ...] = ()
    port: int = field(default_factory=lambda: pick(None, ()))
    _running: ExitStack = field(default_factory=ExitStack)
    pid: int = 0

    def url(self, database: str = "", *, user: str = READER, password: str = PASSWORD, query: str = "") -> str:
        """Where an adapter reaches it."""
        return f"mysql://{user}:{quote(password, safe='')}@{HOST}:{self.port}/{database}{query}"

    def connect(
        self, database: str | None = None, *, user: str = ADMIN
    ) -> "pymysql.Connection[pymysql.cursors.Cursor]":
        """A connection around the adapter, of the administrator if nobody else is named."""
        return pymysql.connect(
            host=HOST, port=self.port, user=user, password=PASSWORD, database=database, charset="utf8mb4",
            autocommit=True, read_timeout=120, ssl_disabled=True,
        )  # fmt: skip

    def run(self, *statements: str, database: str | None = None) -> None:
        """SQL by the administrator."""
        with self.connect(database) as connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)

    def new_database(self, name: str, *statements: str) -> None:
        """An empty database that the reader may read, and what the statements put there."""
        self.run(
            f"DROP DATABASE IF EXISTS {name}",
            f"CREATE DATABASE {name}",
            f"GRANT SELECT, EXECUTE ON {name}.* TO {READER}@'%'",
        )
        self.run(*statements, database=name)

    def make(self) -> None:
        """The system's own tables and the two logins, by the server's bootstrap mode."""
        script = "CREATE DATABASE mysql;\nUSE mysql;\n"
        script += "".join((_SQL / name).read_text() for name in _SYSTEM) + _LOGINS
        command = self.run_as(PROGRAM, *_SMALL, "--bootstrap", f"--datadir={self.folder}")
        made = subprocess.run(command, input=script, text=True, capture_output=True, cwd="/", check=False)
        assert made.returncode == 0, made.stderr

    def start(self) -> None:
        """Start it, and return when it takes connections."""
        log = self.folder.with_name("log")
        own = (f"--datadir={self.folder}", f"--port={self.port}", f"--socket={self.folder}/socket")
        tls = (f"--ssl-cert={self.certificate}", f"--ssl-key={self.certificate}")
        command = self.run_as(*self.clock, PROGRAM, *_SETTINGS, *own, *tls, f"--pid-file={self.folder}/pid")
        self.pid = self._running.enter_context(served(command, log, lambda: is_open(self.port)))

    def stop(self) -> None:
        """End it, and return when it is gone."""
        self._running.close()

    @contextmanager
    def away(self) -> Iterator[None]:
        """It is down for the length of a block."""
        self.stop()
        try:
            yield
        finally:
            self.start()


@pytest.fixture(scope="session")
def mariadb(authority: Path) -> Iterator[MariaDb]:
    """The server, up; its reader may read what `new_database` makes."""
    with running_mariadb(authority) as server:
        yield server


@contextmanager
def running_mariadb(authority: Path, clock: tuple[str, ...] = ()) -> Iterator[MariaDb]:
    """A server for the length of a block; `clock` is a command that others are run by."""
    need(PROGRAM, "mariadb-server-core")
    with folder_of_servers(memory_folder()) as (folder, run_as):
        data, certificate = folder / "data", folder / "certificate.pem"
        certificate.write_bytes((authority / "keystore.pem").read_bytes())
        subprocess.run(run_as("mkdir", data), check=True)
        server = MariaDb(data, run_as, str(certificate), clock)
        server.make()
        server.start()
        try:
            yield server
        finally:
            server.stop()
