"""A topic whose schemas are in a real Schema Registry, and targets that read it."""

import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import fastavro
import pytest
from confluent_kafka.schema_registry import Schema, SchemaReference, SchemaRegistryClient

from counterfoil.framing import Definition
from counterfoil_reconcilers.targets.kafka import KafkaTarget
from counterfoil_reconcilers.targets.port import TargetUnavailable
from tests.reconcilers.targets.bus import Bus, opening

AVRO = 'value = "avro"\n'
BY_STATUS = """
[tools.publish]
target = "bus"
[[tools.publish.writes]]
resource = "orders"
create = true
find = { status = "args.status" }
set.status = "args.status"
"""


def order_schema(*more: Mapping[str, Any], name: str = "Order") -> dict[str, Any]:
    fields = [{"name": "id", "type": "string"}, {"name": "status", "type": "string"}]
    return {"type": "record", "name": name, "namespace": "com.acme", "fields": [*fields, *more]}


V1 = order_schema()
V2 = order_schema({"name": "total", "type": ["null", "double"], "default": None})


def as_written(definition: Definition, value: Any) -> bytes:
    """The bytes of a value that is given as its Avro type, without logical types."""
    bare = json.loads(json.dumps(definition), object_hook=_without_logical_type)
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(bare), value)
    return out.getvalue()


def _without_logical_type(node: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in node.items() if name != "logicalType"}


class AvroBus(Bus):
    """A topic whose schemas are in a registry."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.client = SchemaRegistryClient({"url": self.schema_registry["url"]})

    def register(
        self,
        definition: Any,
        subject: str | None = None,
        kind: str = "AVRO",
        references: Mapping[str, str] | None = None,
    ) -> int:
        """The schema's id. `references`: a type's name, and the subject where its newest version is."""
        text = definition if kind == "PROTOBUF" else json.dumps(definition)
        named = [
            SchemaReference(name, where, self.client.get_latest_version(where).version)
            for name, where in (references or {}).items()
        ]
        return self.client.register_schema(subject or f"{self.topic}-value", Schema(text, kind, named))

    def framed(self, definition: Any, value: Any, subject: str | None = None) -> bytes:
        """A value as Confluent's serializer writes it."""
        return framed(self.register(definition, subject), as_written(definition, value))


def framed(schema_id: int, content: bytes) -> bytes:
    return b"\x00" + schema_id.to_bytes(4, "big") + content


@pytest.fixture
def avro_bus(kafka: dict[str, str], schema_registry: dict[str, str], tmp_path: Path) -> Iterator[AvroBus]:
    impatient = {**schema_registry, "timeout": "1", "max.retries": "0"}
    made = AvroBus(kafka["bootstrap.servers"], tmp_path, schema_registry=impatient)
    with closing(made.client):
        yield made


@pytest.fixture
def open_avro(avro_bus: AvroBus) -> Iterator[Callable[..., KafkaTarget]]:
    """Opens targets on the bus, and closes them."""
    with opening(avro_bus) as open_:
        yield open_


def trouble_of(ask: Callable[[], Any]) -> tuple[str, str]:
    with pytest.raises(TargetUnavailable) as caught:
        ask()
    return caught.value.trouble, caught.value.reason
