"""Redis passes the suite of every kind, with JSON texts and with hashes; what is its own is in test_redis_keys."""

import json
import uuid
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import pytest

from tests.fix_redis import RedisServer
from tests.reconcilers.targets.conformance import SECRET, Conformance, Subject

_CONTRACT = """\
[targets.subject]
kind = "redis"
[targets.subject.resources.items]
redis_key = "{redis_key}"
type = "{type}"
key = ["id"]
tenant = "tenant"
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


class TestRedisHashes(TestRedis):
    documents: Mapping[str, Any] = {"status": "paid", "count": "3", "note": 'Ärger, "quoted"\nline', "nothing": ""}

    @pytest.fixture
    def subject(self, redis_server: RedisServer) -> Subject:
        return Hashes(redis_server)
