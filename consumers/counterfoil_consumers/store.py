"""The way into the store: connections with a role and limits, and the named queries.

Every limit here is below the consumer group's session timeout, so that a zombie stalled inside its
transaction is ended by Postgres before another owner has to wait for it (DESIGN.md section 9).
"""

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, LiteralString, cast

import psycopg
from psycopg import sql
from psycopg.rows import DictRow, dict_row

from counterfoil_consumers.binary_copy import Items, ItemsDumper
from counterfoil_consumers.errors import StoreAway, StoreError
from counterfoil_schemas import sql_queries

Connection = psycopg.Connection[DictRow]

_LIMITS = {
    "idle_in_transaction_session_timeout": "10s",
    "lock_timeout": "10s",
    "statement_timeout": "20s",
    "search_path": "counterfoil",
    "timezone": "UTC",
}
# What says that a connection, or its transaction, is gone. The last is how a zombie learns, on waking, that Postgres
# ended its transaction; psycopg counts it as internal.
WENT_AWAY = (psycopg.OperationalError, psycopg.InterfaceError, psycopg.errors.IdleInTransactionSessionTimeout)
_NAME = re.compile(r"^-- name: ([a-z_]+)$", re.MULTILINE)


@cache
def queries(file: str) -> dict[str, sql.SQL]:
    """The named queries of `sql/<file>.sql`.

    Raises ValueError where a name stands twice.
    """
    parts = _NAME.split(sql_queries(file))
    if len(set(parts[1::2])) < len(parts[1::2]):
        raise ValueError(f"a name stands twice in {file}.sql")
    # The text comes from our own package, never from a user.
    return {
        name: sql.SQL(cast("LiteralString", text.strip())) for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }


def array_text(numbers: Iterable[int]) -> str:
    """As Postgres writes an array: arrays of arrays, as parameters, would have to be of one length."""
    return "{" + ",".join(map(str, numbers)) + "}"


def arrays_text(many: Iterable[Sequence[int] | None]) -> Iterator[str | None]:
    """As Postgres writes arrays of which most are the same, as the log's ends read in one turn are."""
    written: dict[tuple[int, ...], str] = {}
    for numbers in (None if one is None else tuple(one) for one in many):
        if numbers is not None and numbers not in written:
            written[numbers] = array_text(numbers)
        yield None if numbers is None else written[numbers]


def connect(dsn: str, role: str, *, application: str, **limits: str) -> Connection:
    """A connection in `role` (such as `ingester`), autocommit, rows as dicts.

    Raises StoreAway when the server does not answer, StoreError when it refuses or has no store.
    """
    try:
        connection = psycopg.connect(
            dsn,
            autocommit=True,
            row_factory=dict_row,
            application_name=f"counterfoil-{application}",
            connect_timeout=5,
            tcp_user_timeout=8_000,
            keepalives_idle=10,
        )
    except psycopg.OperationalError as error:
        raise StoreAway(f"the store does not answer: {_sentence(error)}; check COUNTERFOIL_STORE__DSN") from error
    except psycopg.ProgrammingError as error:
        raise StoreError(f"COUNTERFOIL_STORE__DSN can't be read: {_sentence(error)}") from error
    connection.adapters.register_dumper(Items, ItemsDumper)
    try:
        _prepare(connection, role, _LIMITS | limits)
    except StoreError:
        connection.close()
        raise
    except WENT_AWAY as error:
        connection.close()
        raise StoreAway(f"the store went away: {_sentence(error)}") from error
    except psycopg.errors.InvalidParameterValue as error:
        connection.close()
        raise StoreError(
            f"the role counterfoil_{role} does not exist in this database; run `counterfoil migrate`"
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        connection.close()
        raise StoreError(f"the store's user may not act as counterfoil_{role}: {_sentence(error)}") from error
    return connection


def _prepare(connection: Connection, role: str, limits: dict[str, str]) -> None:
    with connection.transaction():
        for name, value in limits.items():
            connection.execute("SELECT set_config(%s, %s, false)", (name, value))
        connection.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(f"counterfoil_{role}")))
        # The roles belong to the cluster: another database may have made them.
        found = connection.execute("SELECT to_regnamespace('counterfoil') IS NOT NULL AS found").fetchone()
        if found is None or not found["found"]:
            raise StoreError(f"the database {connection.info.dbname} holds no store; run `counterfoil migrate`")


def batches(rows: Iterable[DictRow], size: int) -> Iterator[list[DictRow]]:
    """The rows, at most so many at a time."""
    left = iter(rows)
    while batch := list(itertools.islice(left, size)):
        yield batch


@contextmanager
def snapshot(connection: Connection) -> Iterator[Connection]:
    """A transaction that reads the store as it is now, whatever others commit meanwhile, and writes nothing."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        yield connection


def _sentence(error: psycopg.Error) -> str:
    return str(error).strip().split("\n")[0]


def fetch_one(connection: Connection, query: sql.SQL, params: dict[str, Any] | None = None) -> DictRow:
    """The one row of a query that always has one."""
    row = connection.execute(query, params).fetchone()
    if row is None:
        raise StoreError("a query that always has a row had none; the store is not as this version needs it")
    return row
