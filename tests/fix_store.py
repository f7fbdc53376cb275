"""A store for each test: a database cloned from a template that the real migrations made.

Everything runs as a role with CREATEROLE and no more, as on a managed Postgres.
"""

import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, suppress

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from counterfoil_console.stack import StackState
from counterfoil_consumers.migrations import migrate
from counterfoil_consumers.store import Connection, connect
from counterfoil_consumers.window import open_window

MIGRATOR = "test_migrator"
_PASSWORD = "only-on-loopback"


@pytest.fixture(scope="session")
def admin_dsn(request: pytest.FixtureRequest) -> str:
    """The administrator of the test's Postgres: makes databases, nothing else.

    The stack's; for what is marked `oldest_postgres_too` once more the oldest that we support.
    """
    if getattr(request, "param", "newest") == "oldest":
        return str(request.getfixturevalue("oldest_postgres"))
    stack: StackState = request.getfixturevalue("stack")
    return stack.postgres_dsn


@pytest.fixture(scope="session")
def empty_database(admin_dsn: str) -> str:
    """DSN of the migrator on a database without anything in it, or with the store that it made there before."""
    role, password = sql.Identifier(MIGRATOR), sql.Literal(_PASSWORD)
    with psycopg.connect(admin_dsn, autocommit=True) as admin, suppress(psycopg.errors.DuplicateObject):
        admin.execute(sql.SQL("CREATE ROLE {} LOGIN CREATEROLE PASSWORD {}").format(role, password))
        admin.execute(sql.SQL("CREATE DATABASE template_store OWNER {}").format(role))
    return make_conninfo(admin_dsn, dbname="template_store", user=MIGRATOR, password=_PASSWORD)


@pytest.fixture(scope="session")
def store_template(empty_database: str) -> str:
    """The migrator's DSN of the template, migrated, with the partitions that ingest makes at its start."""
    for _ in migrate(empty_database):
        pass
    with closing(connect(empty_database, "ingester", application="test")) as ingester:
        open_window(ingester)
    return empty_database


@pytest.fixture
def new_database(admin_dsn: str, store_template: str) -> Iterator[Callable[[], str]]:
    """Makes fresh clones of the template; their DSN is that of their owner, a role with CREATEROLE."""
    made: list[sql.Identifier] = []
    with psycopg.connect(admin_dsn, autocommit=True) as admin:

        def make() -> str:
            name = f"t_{uuid.uuid4().hex[:12]}"
            made.append(sql.Identifier(name))
            owner = sql.Identifier(MIGRATOR)
            # The default writes every page of it to the log, which takes twice the processor's time.
            copy = "CREATE DATABASE {} TEMPLATE template_store OWNER {} STRATEGY FILE_COPY"
            admin.execute(sql.SQL(copy).format(made[-1], owner))
            return make_conninfo(store_template, dbname=name)

        yield make
        for identifier in made:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(identifier))


@pytest.fixture
def database(new_database: Callable[[], str]) -> str:
    """DSN of the test's own store."""
    return new_database()


@pytest.fixture
def operator(database: str) -> Iterator[Connection]:
    """A connection that reads everything in the test's store."""
    with closing(connect(database, "operator", application="test")) as connection:
        yield connection
