"""Brings a database to the schema of this version, one plain SQL file at a time.

Two migrators at once do no harm: an advisory lock lets one of them work. A database newer than the
code is refused.
"""

from collections.abc import Iterator

import psycopg
from psycopg import sql

from counterfoil_consumers.errors import StoreAway, StoreError
from counterfoil_schemas import Migration, migrations

_LOCK = 0x636F_756E_7465_7266  # "counterf"


def applied(connection: psycopg.Connection[tuple[object, ...]]) -> dict[int, str]:
    """Number and SHA-256 of the migrations that this database has."""
    row = connection.execute("SELECT to_regclass('counterfoil.schema_migration') IS NOT NULL").fetchone()
    if row is None or not row[0]:
        return {}
    rows = connection.execute("SELECT number, sha256 FROM counterfoil.schema_migration ORDER BY number").fetchall()
    return {int(str(number)): str(digest) for number, digest in rows}


def pending(have: dict[int, str]) -> list[Migration]:
    """What is still to be applied.

    Raises StoreError when the database is newer than this code, or a released migration was changed.
    """
    ours = {migration.number: migration for migration in migrations()}
    newer = sorted(set(have) - set(ours))
    if newer:
        raise StoreError(
            f"the store has migration {newer[-1]:04}, and this version knows {max(ours):04}: upgrade counterfoil first"
        )
    for number, digest in have.items():
        if ours[number].sha256 != digest:
            raise StoreError(
                f"migration {number:04} of the store is not the one of this version: its text differs; "
                "use the version that made the store, or a new database"
            )
    return [migration for number, migration in ours.items() if number not in have]


def migrate(dsn: str) -> Iterator[Migration]:
    """Apply what is pending, yielding each migration once it is committed.

    `dsn` logs in as a role with CREATEROLE and CREATE on the database. Raises StoreAway or StoreError.
    """
    try:
        connection = psycopg.connect(dsn, autocommit=True, connect_timeout=5, application_name="counterfoil-migrate")
    except psycopg.OperationalError as error:
        first = str(error).strip().splitlines()[0]
        raise StoreAway(f"the store does not answer: {first}; check COUNTERFOIL_STORE__DSN") from error
    except psycopg.ProgrammingError as error:
        raise StoreError(f"the store's DSN can't be read: {str(error).strip().splitlines()[0]}") from error
    with connection:
        connection.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
        for migration in pending(applied(connection)):
            _apply(connection, migration)
            yield migration


def _apply(connection: psycopg.Connection[tuple[object, ...]], migration: Migration) -> None:
    try:
        with connection.transaction():
            connection.execute("SET LOCAL client_min_messages = warning")
            if migration.number > 1:  # the first one makes the owner
                connection.execute("SET LOCAL ROLE counterfoil_owner")
                connection.execute("SET LOCAL search_path TO counterfoil")
            # The text is a file of our own package, never a user's.
            connection.execute(sql.SQL(migration.sql))
            connection.execute(
                "INSERT INTO counterfoil.schema_migration (number, phase, name, sha256) VALUES (%s, %s, %s, %s)",
                (migration.number, migration.phase, migration.name, migration.sha256),
            )
    except psycopg.Error as error:
        first = str(error).strip().splitlines()[0]
        raise StoreError(f"migration {migration} failed and changed nothing: {first}") from error
