"""The Avro contracts: readable, safe, and never changed once released."""

import io
import json
from pathlib import Path
from typing import Any

import fastavro
import pytest
from fastavro.schema import to_parsing_canonical_form

from counterfoil.codec import decode, encode, kinds
from counterfoil.event import Event
from counterfoil_schemas import AvroSchema, avro_schemas
from counterfoil_schemas.loading import read_schemas, refuse_unsafe
from tests.schemas.avro_text import example_of, values_of

KINDS = {
    *("task_started", "task_suspended", "task_ended", "message", "prompt", "completion", "retrieval", "tool_intent"),
    *("tool_result", "approval", "denial", "review", "observation", "verdict", "finding", "dead_lettered", "redriven"),
    *("operation", "control_order", "control_ack", "producer_opened", "producer_beat", "producer_closed", "gap"),
}
EVERY_SCHEMA = pytest.mark.parametrize(
    "schema", avro_schemas(), ids=lambda schema: f"{schema.subject}-{schema.version}"
)


def parsed(schema: AvroSchema) -> Any:
    return fastavro.parse_schema(schema.definition)


def newest(subject: str) -> AvroSchema:
    return [schema for schema in avro_schemas() if schema.subject == subject][-1]


def crc_64_avro(content: bytes) -> bytes:
    """Avro 1.12, "Schema fingerprints", written out; little-endian as single-object encoding wants it."""
    empty = 0xC15D213AA4D7A795
    table = []
    for byte in range(256):
        entry = byte
        for _ in range(8):
            entry = (entry >> 1) ^ (empty & -(entry & 1))
        table.append(entry)
    found = empty
    for byte in content:
        found = (found >> 8) ^ table[(found ^ byte) & 0xFF]
    return found.to_bytes(8, "little")


def test_every_kind_of_the_design_has_a_schema_and_no_other() -> None:
    assert kinds() == KINDS


@EVERY_SCHEMA
def test_a_released_schema_keeps_its_fingerprint(schema: AvroSchema) -> None:
    canonical = to_parsing_canonical_form(schema.definition).encode()
    assert crc_64_avro(canonical).hex() == example_of(schema)["fingerprint"]


@EVERY_SCHEMA
def test_the_example_is_written_to_its_bytes_and_read_from_them(schema: AvroSchema) -> None:
    example = example_of(schema)
    out = io.BytesIO()
    fastavro.schemaless_writer(out, parsed(schema), values_of(schema, example), strict=True)
    content = bytes.fromhex(example["hex"])
    if schema.subject == "event":
        assert content[:10] == b"\xc3\x01" + bytes.fromhex(example["fingerprint"])
        content = content[10:]
    assert out.getvalue().hex() == content.hex()
    assert fastavro.schemaless_reader(io.BytesIO(content), parsed(schema), None) == values_of(schema, example)


@EVERY_SCHEMA
def test_every_version_is_readable_by_the_newest(schema: AvroSchema) -> None:
    content = bytes.fromhex(example_of(schema)["hex"])
    content = content[10:] if schema.subject == "event" else content
    reader = newest(schema.subject)
    record = fastavro.schemaless_reader(io.BytesIO(content), parsed(schema), parsed(reader))
    assert isinstance(record, dict)
    assert set(record) == {field["name"] for field in reader.definition["fields"]}
    kept = {name: value for name, value in values_of(schema, example_of(schema)).items() if name in record}
    assert {name: record[name] for name in kept} == kept


@EVERY_SCHEMA
def test_every_field_says_what_it_is(schema: AvroSchema) -> None:
    assert schema.definition["doc"]
    assert [field["name"] for field in schema.definition["fields"] if not field.get("doc")] == []


def test_the_codec_reads_the_envelope_s_example_and_writes_it_again() -> None:
    example = example_of(newest("event"))
    intent = next(schema for schema in avro_schemas() if (schema.subject, schema.version) == ("tool_intent", 1))
    event = decode(bytes.fromhex(example["hex"]))
    assert event.body == values_of(intent, example_of(intent))
    values = values_of(newest("event"), example)
    body = values.pop("body")
    assert event == Event(**values, body=event.body, raw_body=body)
    assert encode(event).hex() == example["hex"]


def record(fields: list[Any], name: str = "R") -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": [{"name": f"f{i}", "type": t} for i, t in enumerate(fields)]}


@pytest.mark.parametrize(
    ("definition", "reason"),
    [
        (record(["R"]), "R contains itself"),
        (record([["null", "R"]]), "R contains itself"),
        (record([{"type": "array", "items": "R"}]), "R contains itself"),
        (record([record([{"type": "map", "values": ["null", "R"]}], "Inner")]), "R contains itself"),
        (record([]), "no size"),
        (record([{"type": "array", "items": "null"}]), "no size"),
        (record([{"type": "map", "values": "null"}]), "no size"),
        (record([{"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}}]), "no size"),
        (record([{"type": "array", "items": record([], "Empty")}]), "no size"),
        (record([{"type": "array", "items": record(["null"], "OnlyNull")}]), "no size"),
        (record([{"type": "array", "items": {"type": "null"}}]), "no size"),
        ({**record(["counterfoil.R"]), "namespace": "counterfoil"}, "R contains itself"),
    ],
)
def test_what_crashes_a_reader_is_refused(definition: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refused:
        refuse_unsafe(definition, "kind/9.avsc")
    assert "kind/9.avsc" in str(refused.value)


def test_a_type_used_twice_side_by_side_is_no_recursion() -> None:
    digest = {"type": "fixed", "name": "Digest", "size": 32}
    refuse_unsafe(record([digest, "Digest", {"type": "array", "items": "Digest"}]), "kind/1.avsc")


def test_versions_come_oldest_first(tmp_path: Path) -> None:
    (tmp_path / "kind").mkdir()
    for version in (10, 2, 1):
        (tmp_path / "kind" / f"{version}.avsc").write_text(json.dumps(record(["long"])))
    (tmp_path / "kind" / "1.example.json").write_text("{}")
    assert [schema.version for schema in read_schemas(tmp_path)] == [1, 2, 10]
