"""MariaDB passes the suite of every kind, with rows of documents and with rows of columns; more is in test_mysql_*."""

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import pytest

from tests.fix_mariadb import MariaDb
from tests.reconcilers.targets.conformance import SECRET, Conformance, Subject
from tests.reconcilers.targets.watching import Watching

_CONTRACT = """\
[targets.subject]
kind = "mysql"
[targets.subject.resources.items]
table = "items"
doc = "doc"
key = ["id"]
tenant = "tenant"
"""
_DOCUMENTS = "CREATE TABLE items (tenant varchar(40), id varchar(64), doc json, PRIMARY KEY (tenant, id))"
# The collation that takes most for the same: capitals, accents, spaces at the end.
_COLUMNS = """
    CREATE TABLE `Items of ours` (
        tenant varchar(40), id varchar(64), status varchar(20), count int, price decimal(12,2), note text, flag bool,
        nothing int, address json, PRIMARY KEY (tenant, id)
    ) CHARACTER SET utf8mb4 COLLATE utf8mb4_general_ci
"""

_TOLD_BY_ITSELF = _CONTRACT.replace("[targets.subject.r", 'writers = "exclusive"\n[targets.subject.r') + (
    'changes = { column = "updated_at" }\n'
)
_TOLD_BY_A_TABLE = _TOLD_BY_ITSELF.replace("column =", 'table = "subject.item_changes", column =').replace(
    "updated_at", "seq"
)
_STAMP = "ALTER TABLE items ADD updated_at timestamp(6) DEFAULT now(6) ON UPDATE now(6), ADD INDEX (tenant, updated_at)"
# Its keys are in another collation: they are read as the table's own writes them.
_NOTE = (
    "CREATE TABLE item_changes (seq int AUTO_INCREMENT PRIMARY KEY, tenant varchar(60), id text) COLLATE utf8mb4_bin",
    *(
        f"CREATE TRIGGER note_{what.lower()} AFTER {what} ON items FOR EACH ROW"
        f" INSERT INTO item_changes (tenant, id) VALUES ({row}.tenant, {row}.id)"
        for what, row in (("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD"))
    ),
)


class Documents:
    """A table of documents, and the server that holds it."""

    contract = _CONTRACT
    lost_contract = (_CONTRACT.replace('"items"', '"itemz"'), "itemz")

    def __init__(self, server: MariaDb, contract: str | None = None) -> None:
        self.contract = contract or self.contract
        self._server = server
        self.connection = {"url": server.url("subject")}
        self.refused = {"url": server.url("subject", password=SECRET)}

    def put(self, tenant: str, key: str, fields: Mapping[str, Any]) -> None:
        self._write("REPLACE INTO items (tenant, id, doc) VALUES (%s, %s, %s)", tenant, key, json.dumps(dict(fields)))

    def remove(self, tenant: str, key: str) -> None:
        self._write("DELETE FROM items WHERE tenant = %s AND id = %s", tenant, key)

    def away(self) -> AbstractContextManager[None]:
        return self._server.away()

    def _write(self, statement: str, *values: object) -> None:
        with self._server.connect("subject") as connection, connection.cursor() as cursor:
            cursor.execute(statement, values)


class Columns(Documents):
    """A table whose columns are the fields, behind the adapter's other name."""

    contract = (
        _CONTRACT.replace('"mysql"', '"mariadb"')
        .replace('"items"', '"subject.`Items of ours`"')
        .replace('doc = "doc"\n', "")
    )
    lost_contract = (contract.replace('"tenant"', '"tenants"'), "tenants")

    def put(self, tenant: str, key: str, fields: Mapping[str, Any]) -> None:
        values = {n: json.dumps(v) if isinstance(v, dict) else v for n, v in fields.items()}
        places, names = ", %s" * len(values), "".join(f", `{name}`" for name in values)
        statement = f"REPLACE INTO `Items of ours` (tenant, id{names}) VALUES (%s, %s{places})"
        self._write(statement, tenant, key, *values.values())

    def remove(self, tenant: str, key: str) -> None:
        self._write("DELETE FROM `Items of ours` WHERE tenant = %s AND id = %s", tenant, key)


class TestMySqlDocuments(Conformance):
    @pytest.fixture
    def subject(self, mariadb: MariaDb) -> Subject:
        mariadb.new_database("subject", _DOCUMENTS)
        return Documents(mariadb)


class TestMariaDbColumns(Conformance):
    @pytest.fixture
    def subject(self, mariadb: MariaDb) -> Subject:
        mariadb.new_database("subject", _COLUMNS)
        return Columns(mariadb)


class TestChangesInAColumn(Watching):
    lost = (("updated_at", "updated"),)

    @pytest.fixture
    def subject(self, mariadb: MariaDb) -> Subject:
        mariadb.new_database("subject", _DOCUMENTS, _STAMP)
        return Documents(mariadb, _TOLD_BY_ITSELF)


class TestChangesInATable(Watching):
    lost = (("item_changes", "item_change"), ('"seq"', '"sequence"'))

    @pytest.fixture
    def subject(self, mariadb: MariaDb) -> Subject:
        mariadb.new_database("subject", _DOCUMENTS, *_NOTE)
        return Documents(mariadb, _TOLD_BY_A_TABLE)
