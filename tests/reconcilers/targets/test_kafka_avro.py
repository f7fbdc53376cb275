"""Kafka with Avro passes the suite of every kind; what is its own is in test_kafka_avro_reads and _registry."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from tests.fix_avro_bus import AvroBus, as_written, framed
from tests.fix_registry import Apicurio
from tests.reconcilers.targets.conformance import MINE, SECRET, Conformance, Subject

_CONTRACT = """\
[targets.subject]
kind = "kafka"
[targets.subject.resources.items]
topic = "{topic}"
value = "avro"
rows = "latest"
key = ["id"]
tenant = "tenant"
message_key = "id"
message_key_is = "avro"
headers = {{ tenant = "tenant" }}
"""
_KEY = {
    "type": "record",
    "name": "Key",
    "fields": [{"name": "tenant", "type": "string"}, {"name": "id", "type": "string"}],
}
_LINES = {"type": "array", "items": "string"}
_ADDRESS = {
    "type": "record",
    "name": "Address",
    "fields": [{"name": "city", "type": "string"}, {"name": "lines", "type": _LINES}],
}
_ITEM = {
    "type": "record",
    "name": "Item",
    "fields": [
        {"name": name, "type": ["null", kind], "default": None}
        for name, kind in {
            "status": "string",
            "count": "long",
            "price": "double",
            "note": "string",
            "flag": "boolean",
            "nothing": "string",
            "address": _ADDRESS,
        }.items()
    ],
}


class AvroItems:
    """A topic of Avro keyed by Avro, with schemas in a registry that asks for a login."""

    def __init__(self, avro_bus: AvroBus, guarded: Mapping[str, str], registry: Apicurio) -> None:
        self._bus = avro_bus
        self._registry = registry
        self._value_id = avro_bus.register(_ITEM)
        self._key_id = avro_bus.register(_KEY, f"{avro_bus.topic}-key")
        self.contract = _CONTRACT.format(topic=avro_bus.topic)
        self.lost_contract = (_CONTRACT.format(topic="itemz"), "itemz")
        self.connection = {
            "bootstrap_servers": avro_bus.broker,
            "schema_registry_url": guarded["url"],
            "schema_registry_basic_auth_user_info": guarded["basic.auth.user.info"],
            "schema_registry_timeout": "1",
            "schema_registry_max_retries": "0",
        }
        self.refused = {**self.connection, "schema_registry_basic_auth_user_info": f"agent:{SECRET}"}

    def put(self, tenant: str, key: str, fields: Mapping[str, Any]) -> None:
        self._produce(tenant, key, framed(self._value_id, as_written(_ITEM, fields)))

    def remove(self, tenant: str, key: str) -> None:
        self._produce(tenant, key, None)

    def _produce(self, tenant: str, key: str, value: bytes | None) -> None:
        raw_key = framed(self._key_id, as_written(_KEY, {"tenant": tenant, "id": key}))
        self._bus.write(value, key=raw_key, headers=[("tenant", tenant)])

    @contextmanager
    def away(self) -> Iterator[None]:
        """The registry does not answer, and the row is written by a schema that was not asked for before."""
        more = [*_ITEM["fields"], {"name": "more", "type": ["null", "string"], "default": None}]
        self._value_id = self._bus.register({**_ITEM, "fields": more})
        value = as_written({**_ITEM, "fields": more}, {"status": "paid"})
        self._produce(MINE, "A-1", framed(self._value_id, value))
        with self._registry.silent():
            yield


class TestKafkaAvro(Conformance):
    @pytest.fixture
    def subject(self, avro_bus: AvroBus, guarded_registry: dict[str, str], apicurio: Apicurio) -> Subject:
        return AvroItems(avro_bus, guarded_registry, apicurio)
