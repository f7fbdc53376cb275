"""Reads a golden example: JSON in which bytes are hex, made into what the codec holds."""

import json
from importlib.resources import files
from typing import Any

from counterfoil_schemas import AvroSchema


def example_of(schema: AvroSchema) -> dict[str, Any]:
    """The example file beside a schema; `fingerprint`, `hex` and the values as `body` or `event`."""
    path = files("counterfoil_schemas").joinpath("avro", schema.subject, f"{schema.version}.example.json")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def values_of(schema: AvroSchema, example: dict[str, Any]) -> dict[str, Any]:
    """The example's values, hex read as bytes wherever the schema says fixed or bytes."""
    values = example["event" if schema.subject == "event" else "body"]
    read = _read(schema.definition, values, {})
    assert isinstance(read, dict)
    return read


def _read(node: Any, value: Any, named: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return None if value is None else _read(next(branch for branch in node if branch != "null"), value, named)
    if isinstance(node, str):
        if node in named:
            return _read(named[node], value, named)
        return bytes.fromhex(value) if node == "bytes" else value
    if "name" in node:
        named[node["name"]] = node
    match node["type"]:
        case "record":
            assert set(value) == {field["name"] for field in node["fields"]}, node["name"]
            return {field["name"]: _read(field["type"], value[field["name"]], named) for field in node["fields"]}
        case "fixed":
            return bytes.fromhex(value)
        case "array":
            return [_read(node["items"], item, named) for item in value]
        case inner:
            return _read(inner, value, named)
