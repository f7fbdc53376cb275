"""Redis passes the suite of every kind, with JSON texts and with hashes; what is its own is in test_redis_keys."""

import json
import uuid
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from counterfoil_reconcilers.contracts import ContractError, Contracts
from counterfoil_reconcilers.targets.port import Target
from counterfoil_reconcilers.touched import Search
from tests.fix_redis import RedisServer
from tests.reconcilers.targets.conformance import MINE, NAME, SECRET, Conformance, Subject, contracts_of

_CONTRACT = """\
[targets.subject]
kind = "redis"
[targets.subject.resources.items]
redis_key = "{redis_key}"
type = "{type}"
key = ["id"]
tenant = "tenant"
"""
_FIND = """\
[tools.make]
target = "subject"
[[tools.make.writes]]
resource = "items"
create = true
find = { status = "'paid'" }
"""


class Texts:
    """JSON texts under keys that begin with the tenant."""

    type = "json-string"
    redis_key = "{tenant}:item:{id}"

    def __init__(self, server: RedisServer) -> None:
        self._server = server
        self._client = server.client()
        self._prefix = uuid.uuid4().hex
        self.contract = _CONTRACT.format(redis_key=f"{self._prefix}:{self.redis_key}", type=self.type)
        self.lost_contract = (self.contract.replace("{id}", "{number}"), "number")
        self.connection = {"url": server.url, "timeout_seconds": "3"}
        self.refused = {"url": server.url.replace("only-on-loopback", SECRET)}

    def put(self, tenant: str, key: str, fields: Mapping[str, Any]) -> None:
        self._client.set(self.name_of(tenant, key), json.dumps({"tenant": tenant, **fields}))

    def remove(self, tenant: str, key: str) -> None:
        self._client.delete(self.name_of(tenant, key))

    def away(self) -> AbstractContextManager[None]:
        return self._server.silent()

    def name_of(self, tenant: str, key: str) -> str:
        return f"{self._prefix}:{self.redis_key}".replace("{tenant}", tenant).replace("{id}", key)


class TextsOfAll(Texts):
    """JSON texts that say inside whose they are."""

    redis_key = "item:{id}"


class Hashes(Texts):
    """Hashes, likewise."""

    type = "hash"
    redis_key = "item:{id}"

    def put(self, tenant: str, key: str, fields: Mapping[str, Any]) -> None:
        for field, value in {"tenant": tenant, **fields}.items():
            self._client.hset(self.name_of(tenant, key), field, value)


class TestRedis(Conformance):
    @pytest.fixture(params=[Texts, TextsOfAll])
    def subject(self, redis_server: RedisServer, request: pytest.FixtureRequest) -> Subject:
        made: Subject = request.param(redis_server)
        return made

    def test_rows_are_found_by_what_they_hold(self, subject: Subject, target: Target, contracts: Contracts) -> None:
        """They are not, and no contract gets as far as this."""
        assert not contracts.targets[NAME].capabilities.finds
        with pytest.raises(NotImplementedError):
            target.find(MINE, [Search("items", (("status", "paid"),))], 10)

    def test_a_contract_that_needs_to_find_is_refused(self, subject: Subject, tmp_path: Path) -> None:
        with pytest.raises(ContractError, match="can't be searched"):
            contracts_of(tmp_path, subject.contract + _FIND)


class TestRedisHashes(TestRedis):
    documents: Mapping[str, Any] = {"status": "paid", "count": "3", "note": 'Ärger, "quoted"\nline', "nothing": ""}

    @pytest.fixture
    def subject(self, redis_server: RedisServer) -> Subject:
        return Hashes(redis_server)
