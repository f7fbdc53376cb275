"""Brings a database to the schema of this version, one plain SQL file at a time, while ingest goes on.

Migrations named pre add what this version needs, and leave the version before it working; those named post take away
what only that one needed. So pre migrations are applied, then every process is upgraded, then post ones are applied.

Two migrators at once do no harm: each migration is applied under a lock on schema_migration. (No advisory lock: any
login may hold those, a tenant's, too.) A database newer than the code is refused.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from counterfoil_consumers.errors import StoreAway, StoreError
from counterfoil_schemas import Migration, migrations

# Whoever waits for a lock lets nobody past: so not for long, and again after a pause.
_LOCK_TIMEOUT = "800ms"
_LOCK_TRIES = 60
_PAUSE_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Applied:
    """A migration that a database has."""

    phase: str
    sha256: str


def applied(connection: psycopg.Connection[Any]) -> dict[int, Applied]:
    """By number, what this database has; nothing where there is no store, or none that this login may look into."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        try:
            cursor.execute("SELECT number, phase, sha256 FROM counterfoil.schema_migration ORDER BY number")
        except (psycopg.errors.UndefinedTable, psycopg.errors.InsufficientPrivilege):
            return {}
        return {number: Applied(phase, sha256) for number, phase, sha256 in cursor}


def pending(have: Mapping[int, Applied]) -> list[Migration]:
    """What is still to be applied, in order.

    Raises StoreError when the database has a migration that this code does not know, or another text of one.
    """
    newer = sorted(set(have) - {migration.number for migration in migrations()})
    if newer:
        raise _too_new(newer[-1])
    return _pending(have)


def refuse_unfit(connection: psycopg.Connection[Any]) -> None:
    """Raise StoreError where this version can't work with the store.

    It can where post migrations wait, and where a newer version has applied pre ones.
    """
    have = applied(connection)
    ours = {migration.number for migration in migrations()}
    newer = sorted(number for number, one in have.items() if number not in ours and one.phase == "post")
    if newer:
        raise _too_new(newer[-1])
    waiting = [migration for migration in _pending(have) if migration.phase == "pre"]
    if waiting:
        many = f"{len(waiting)} migrations are" if len(waiting) > 1 else "1 migration is"
        raise StoreError(f"the store is not of this version, {many} to be applied; run `counterfoil migrate`")


def _too_new(number: int) -> StoreError:
    known = max(migration.number for migration in migrations())
    return StoreError(
        f"the store has migration {number:04}, and this version knows {known:04}: upgrade counterfoil first"
    )


def _pending(have: Mapping[int, Applied]) -> list[Migration]:
    for migration in migrations():
        if migration.number in have and have[migration.number].sha256 != migration.sha256:
            raise StoreError(
                f"migration {migration.number:04} of the store is not the one of this version: its text differs; "
                "use the version that made the store, or a new database"
            )
    return [migration for migration in migrations() if migration.number not in have]


def migrate(dsn: str, *, pre_only: bool = False) -> Iterator[Migration]:
    """Apply what is pending, yielding each migration once it is committed; with `pre_only` none named post.

    `dsn` logs in as a role with CREATEROLE and CREATE on the database. Raises StoreAway or StoreError.
    """
    try:
        connection = psycopg.connect(dsn, autocommit=True, connect_timeout=5, application_name="counterfoil-migrate")
    except psycopg.OperationalError as error:
        raise StoreAway(f"the store does not answer: {_first_line(error)}; check COUNTERFOIL_STORE__DSN") from error
    except psycopg.ProgrammingError as error:
        raise StoreError(f"the store's DSN can't be read: {_first_line(error)}") from error
    with connection:
        if pre_only:
            _refuse_unfinished(pending(applied(connection)))
        for migration in pending(applied(connection)):
            if (migration.phase == "pre" or not pre_only) and _apply(connection, migration):
                yield migration


def _refuse_unfinished(waiting: Sequence[Migration]) -> None:
    """A version's pre migrations may build on the post ones of the version before."""
    phases = [migration.phase for migration in waiting]
    if phases != sorted(phases, reverse=True):
        first = next(migration for migration in waiting if migration.phase == "post")
        raise StoreError(
            f"{first} of an earlier version stands before pre migrations of this one: once no process of the version "
            "before that is left, run `counterfoil migrate` without --pre"
        )


def _apply(connection: psycopg.Connection[Any], migration: Migration) -> bool:
    """Returns whether it was done here, and not by another migrator meanwhile."""
    for tries_left in reversed(range(_LOCK_TRIES)):
        try:
            return _apply_once(connection, migration)
        except psycopg.errors.LockNotAvailable as error:
            if not tries_left:
                raise StoreError(
                    f"migration {migration} got no lock in {_LOCK_TRIES} tries, and changed nothing: "
                    f"{_first_line(error)}; end long queries (pg_stat_activity), and run it again"
                ) from error
            time.sleep(_PAUSE_SECONDS)
        except psycopg.Error as error:
            if migration.number in applied(connection):  # the first one, which can't wait for the other's lock
                return False
            raise StoreError(f"migration {migration} failed and changed nothing: {_first_line(error)}") from error
    raise AssertionError("the last try returns or raises")


def _apply_once(connection: psycopg.Connection[Any], migration: Migration) -> bool:
    with connection.transaction():
        connection.execute("SELECT set_config('client_min_messages', 'warning', true)")
        connection.execute("SELECT set_config('lock_timeout', %s, true)", (_LOCK_TIMEOUT,))
        if migration.number > 1:  # the first one makes the owner
            connection.execute("SET LOCAL ROLE counterfoil_owner")
            connection.execute("SET LOCAL search_path TO counterfoil")
            connection.execute("LOCK TABLE schema_migration IN SHARE ROW EXCLUSIVE MODE")
            if connection.execute("SELECT FROM schema_migration WHERE number = %s", (migration.number,)).rowcount:
                return False
        # The text is a file of our own package, never a user's.
        connection.execute(sql.SQL(migration.sql))
        connection.execute(
            "INSERT INTO counterfoil.schema_migration (number, phase, name, sha256) VALUES (%s, %s, %s, %s)",
            (migration.number, migration.phase, migration.name, migration.sha256),
        )
    return True


def _first_line(error: psycopg.Error) -> str:
    return str(error).strip().splitlines()[0]
