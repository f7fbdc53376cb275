"""PostgreSQL passes the suite of every kind; what is its own is in test_postgresql_reads."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from tests.reconcilers.targets.conformance import SECRET, Conformance, Subject
from tests.reconcilers.targets.watching import Watching

_CONTRACT = """\
[targets.subject]
kind = "postgresql"
[targets.subject.resources.items]
table = "items"
doc = "doc"
key = ["id"]
tenant = "tenant"
"""

_TOLD_BY_ITSELF = _CONTRACT.replace("[targets.subject.r", 'writers = "exclusive"\n[targets.subject.r') + (
    'changes = { column = "updated_at" }\n'
)
_TOLD_BY_A_TABLE = _TOLD_BY_ITSELF.replace("column =", 'table = "item_changes", column =').replace("updated_at", "seq")
_ITEMS: LiteralString = "CREATE TABLE items (tenant text, id text, doc json, PRIMARY KEY (tenant, id))"
_STAMP: LiteralString = """
ALTER TABLE items ADD updated_at timestamptz NOT NULL DEFAULT clock_timestamp();
CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.updated_at = clock_timestamp(); RETURN NEW; END';
CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON items FOR EACH ROW EXECUTE FUNCTION stamp();
"""
# The keys of the change table are of another type than the table's: they are read as that writes them.
_NOTE: LiteralString = """
CREATE TABLE item_changes (seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant varchar(40), id char(64));
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO item_changes (tenant, id) SELECT r.tenant, r.id FROM (SELECT (coalesce(NEW, OLD)).*) AS r;
    RETURN NULL;
END $$;
CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON items FOR EACH ROW EXECUTE FUNCTION note();
"""


class Postgres:
    """A table of documents in the suite's own server, behind a role that may log in or not."""

    lost_contract = (_CONTRACT.replace('"items"', '"itemz"'), "itemz")

    def __init__(self, admin_dsn: str, dsn: str, contract: str = _CONTRACT) -> None:
        self.contract = contract
        self._admin_dsn = admin_dsn
        self._dsn = dsn
        self.connection = {"dsn": dsn}
        self.refused = {"dsn": make_conninfo(dsn, user="nobody", password=SECRET)}

    def put(self, tenant: str, key: str, fields: Mapping[str, Any]) -> None:
        with psycopg.connect(self._dsn) as connection:
            connection.execute(
                "INSERT INTO items (tenant, id, doc) VALUES (%s, %s, %s)"
                " ON CONFLICT (tenant, id) DO UPDATE SET doc = excluded.doc",
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


def made(admin_dsn: str, *statements: LiteralString) -> str:
    """A fresh database with an empty table of items."""
    with psycopg.connect(admin_dsn, autocommit=True) as admin:
        admin.execute("DROP DATABASE IF EXISTS subject WITH (FORCE)")
        admin.execute("CREATE DATABASE subject")
    dsn = make_conninfo(admin_dsn, dbname="subject")
    with psycopg.connect(dsn) as connection:
        for statement in (_ITEMS, *statements):
            connection.execute(statement)
    return dsn


class TestPostgres(Conformance):
    @pytest.fixture
    def subject(self, admin_dsn: str) -> Subject:
        return Postgres(admin_dsn, made(admin_dsn))


class TestChangesInAColumn(Watching):
    lost = (("updated_at", "updated"),)

    @pytest.fixture
    def subject(self, admin_dsn: str) -> Subject:
        return Postgres(admin_dsn, made(admin_dsn, _STAMP), _TOLD_BY_ITSELF)


class TestChangesInATable(Watching):
    lost = (("item_changes", "item_change"), ('"seq"', '"sequence"'))

    @pytest.fixture
    def subject(self, admin_dsn: str) -> Subject:
        return Postgres(admin_dsn, made(admin_dsn, _NOTE), _TOLD_BY_A_TABLE)
