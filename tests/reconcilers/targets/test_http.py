"""A real PocketBase, declared as an HTTP target, passes the suite of every kind."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import pytest

from tests.fix_pocketbase import PocketBase
from tests.reconcilers.targets.conformance import SECRET, Conformance, Subject
from tests.reconcilers.targets.watching import Watching

CONTRACT = """\
[targets.subject]
kind = "http"
auth_scheme = ""
timeout_seconds = 4
pages = { style = "number", param = "page", size_param = "perPage", size = 50, total = "$.totalItems" }
[targets.subject.resources.items]
key = ["id"]
tenant = "tenant"
get = "/api/collections/items/records/{id}"
items = "$.items[*]"
[targets.subject.resources.items.list]
path = "/api/collections/items/records"
query = { sort = "id" }
[targets.subject.resources.items.find]
path = "/api/collections/items/records"
query = { filter = "(status={status:quoted} && tenant={tenant:quoted})", sort = "id" }
"""
TELLING = (
    CONTRACT.replace("auth_scheme", 'writers = "exclusive"\nauth_scheme')
    + """\
[targets.subject.resources.items.changes]
path = "/api/collections/items/records"
query = { filter = "(updated>={since:quoted} && tenant={tenant:quoted})", sort = "id" }
at = "updated"
"""
)
FIELDS = {
    "tenant": "text", "status": "text", "count": "number", "price": "number", "note": "text", "flag": "bool",
    "nothing": "json", "address": "json",
}  # fmt: skip


class Records:
    """A collection of a PocketBase, each row a record with its columns."""

    lost_contract = (CONTRACT.replace("collections/items/", "collections/itemz/"), "itemz")

    def __init__(self, server: PocketBase, contract: str = CONTRACT) -> None:
        self.contract = contract
        self._server = server
        self.connection = {"url": server.url, "token": server.token}
        self.refused = {"url": server.url, "token": SECRET}

    def put(self, tenant: str, key: str, fields: Mapping[str, Any]) -> None:
        self._server.put("items", key, {"tenant": tenant, **fields})

    def remove(self, tenant: str, key: str) -> None:
        self._server.remove("items", key)

    def away(self) -> AbstractContextManager[None]:
        return self._server.stopped()


class TestPocketBase(Conformance):
    answers_within_seconds = 20.0  # its time-out is four seconds, and this machine may be slow

    @pytest.fixture
    def subject(self, pocketbase: PocketBase) -> Subject:
        pocketbase.make_collection("items", FIELDS)
        return Records(pocketbase)


class TestChangesOfPocketBase(Watching):
    many = 60  # more than a page
    lost = (('"updated"', '"updating"'),)

    @pytest.fixture
    def subject(self, pocketbase: PocketBase) -> Subject:
        pocketbase.make_collection("items", {**FIELDS, "updated": "autodate"})
        return Records(pocketbase, TELLING)
