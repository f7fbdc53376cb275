"""MariaDB passes the suite of every kind, with rows of documents and with rows of columns; more is in test_mysql_*."""

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import pytest

from tests.fix_mariadb import MariaDb
from tests.reconcilers.targets.conformance import SECRET, Conformance, Subject

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


class Documents:
    """A table of documents, and the server that holds it."""

    contract = _CONTRACT
    lost_contract = (_CONTRACT.replace('"items"', '"itemz"'), "itemz")

    def __init__(self, server: MariaDb) -> None:
        self._server = server
        self.connection = {"url": server.url("subject")}
        self.refused = {"url": server.url("subject", password=SECRET)}

    def put(self, tenant: str, key: str, fields: Mapping[str, Any]) -> None:
        self._write("REPLACE INTO items VALUES (%s, %s, %s)", tenant, key, json.dumps(dict(fields)))

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
