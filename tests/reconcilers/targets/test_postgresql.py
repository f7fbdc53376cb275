"""PostgreSQL passes the suite of every kind; what is its own is in test_postgresql_reads."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.reconcilers.targets.conformance import SECRET, Conformance, Subject

_CONTRACT = """\
[targets.subject]
kind = "postgresql"
[targets.subject.resources.items]
table = "items"
doc = "doc"
key = ["id"]
tenant = "tenant"
"""


class Postgres:
    """A table of documents in the suite's own server, behind a role that may log in or not."""

    contract = _CONTRACT
    lost_contract = (_CONTRACT.replace('"items"', '"itemz"'), "itemz")

    def __init__(self, admin_dsn: str, dsn: str) -> None:
        self._admin_dsn = admin_dsn
        self._dsn = dsn
        self.connection = {"dsn": dsn}
        self.refused = {"dsn": make_conninfo(dsn, user="nobody", password=SECRET)}

    def put(self, tenant: str, key: str, fields: Mapping[str, Any]) -> None:
        with psycopg.connect(self._dsn) as connection:
            connection.execute(
                "INSERT INTO items VALUES (%s, %s, %s) ON CONFLICT (tenant, id) DO UPDATE SET doc = excluded.doc",
                (tenant, key, json.dumps(dict(fields))),
            )

    def remove(self, tenant: str, key: str) -> None:
        with psycopg.connect(self._dsn) as connection:
            connection.execute("DELETE FROM items WHERE (tenant, id) = (%s, %s)", (tenant, key))

    @contextmanager
    def away(self) -> Iterator[None]:
        """The server ends the session, and lets nobody into the database."""
        name = psycopg.conninfo.conninfo_to_dict(self._dsn)["dbname"]
        with psycopg.connect(self._admin_dsn, autocommit=True) as admin:
            self._allow(admin, str(name), "false")
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
            yield
            self._allow(admin, str(name), "true")

    def _allow(self, admin: psycopg.Connection[Any], name: str, whether: str) -> None:
        flag = psycopg.sql.SQL("true" if whether == "true" else "false")
        query = psycopg.sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
        admin.execute(query.format(psycopg.sql.Identifier(name), flag))


class TestPostgres(Conformance):
    @pytest.fixture
    def subject(self, admin_dsn: str) -> Subject:
        with psycopg.connect(admin_dsn, autocommit=True) as admin:
            admin.execute("DROP DATABASE IF EXISTS subject WITH (FORCE)")
            admin.execute("CREATE DATABASE subject")
        dsn = make_conninfo(admin_dsn, dbname="subject")
        with psycopg.connect(dsn) as connection:
            connection.execute("CREATE TABLE items (tenant text, id text, doc json, PRIMARY KEY (tenant, id))")
        return Postgres(admin_dsn, dsn)
