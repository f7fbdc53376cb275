"""The local stack as a place to work in: a store that is migrated, topics that exist, keys that stay.

`stack` starts the servers; this makes them Counterfoil's, and remembers how in one file that only its owner reads.
"""

import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from counterfoil_console.stack import LocalStack, Report, StackState, default_directories, silent
from counterfoil_console.stack.state import write_private
from counterfoil_consumers.migrations import migrate
from counterfoil_consumers.topics import admin_client, create_missing
from counterfoil_schemas import topics

_MIGRATOR = "counterfoil_migrator"
_DATABASE = "counterfoil"
_FILE = "counterfoil.json"


def local_stack(data: Path | None) -> LocalStack:
    """The stack of a data directory; of the user's own, if none is named."""
    own = default_directories(os.environ)
    return LocalStack(data or own.data, own.cache, os.environ.get("PATH"))


def up(data: Path | None, *, fresh: bool = False, report: Report = silent) -> dict[str, Any]:
    """Start the servers and prepare them; returns the settings that reach them.

    Raises StackError, StoreError, TopicsError and what else the servers say.
    """
    stack = local_stack(data)
    return prepare(stack.data_directory, stack.up(fresh=fresh, report=report))


def prepare(data: Path, state: StackState) -> dict[str, Any]:
    """Make database, roles, schema and topics where they are missing; returns the settings that reach them."""
    remembered = _remembered(data)
    _make_database(state.postgres_dsn, remembered["password"])
    dsn = _store_dsn(state, remembered["password"])
    for _ in migrate(dsn):
        pass
    create_missing(admin_client({"bootstrap.servers": state.bootstrap_servers}), list(topics("local").values()))
    return _settings(state, dsn, remembered["identity_key"])


def settings_of_running_stack(data: Path | None) -> dict[str, Any] | None:
    """Settings that reach the stack of `data`, or None when it is not up."""
    stack = local_stack(data)
    status = stack.status()
    if status.overall != "up" or status.state is None:
        return None
    remembered = _remembered(stack.data_directory)
    return _settings(status.state, _store_dsn(status.state, remembered["password"]), remembered["identity_key"])


def _store_dsn(state: StackState, password: str) -> str:
    return make_conninfo(state.postgres_dsn, dbname=_DATABASE, user=_MIGRATOR, password=password)


def _settings(state: StackState, dsn: str, identity_key: str) -> dict[str, Any]:
    return {
        "kafka": {"bootstrap.servers": state.bootstrap_servers},
        "profile": "local",
        "store": {"dsn": dsn},
        "identity_key": identity_key,
        "admit_tenants": True,
    }


def exports(settings: Mapping[str, Any]) -> dict[str, str]:
    """The same settings as environment variables."""
    return {
        "COUNTERFOIL_KAFKA__BOOTSTRAP_SERVERS": settings["kafka"]["bootstrap.servers"],
        "COUNTERFOIL_PROFILE": settings["profile"],
        "COUNTERFOIL_STORE__DSN": settings["store"]["dsn"],
        "COUNTERFOIL_IDENTITY_KEY": settings["identity_key"],
        "COUNTERFOIL_ADMIT_TENANTS": "true",
    }


def _remembered(data: Path) -> dict[str, str]:
    """The password and the identity key of this data directory, made at the first call."""
    path = data / _FILE
    try:
        found: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        found = {"password": secrets.token_hex(16), "identity_key": secrets.token_hex(32)}
        write_private(path, json.dumps(found).encode())
    return found


def _make_database(admin_dsn: str, password: str) -> None:
    with psycopg.connect(admin_dsn, autocommit=True) as admin:
        role, database = sql.Identifier(_MIGRATOR), sql.Identifier(_DATABASE)
        if admin.execute("SELECT FROM pg_roles WHERE rolname = %s", (_MIGRATOR,)).fetchone() is None:
            admin.execute(sql.SQL("CREATE ROLE {} LOGIN CREATEROLE CREATEDB").format(role))
        admin.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(role, sql.Literal(password)))
        if admin.execute("SELECT FROM pg_database WHERE datname = %s", (_DATABASE,)).fetchone() is None:
            admin.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(database, role))
