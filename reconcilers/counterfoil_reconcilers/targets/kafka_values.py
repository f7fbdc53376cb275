"""What a message's value and key are to a row, by the form in which a resource says that they are written."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from counterfoil.framing import ID_END, ID_MAGIC
from counterfoil_reconcilers.targets.avro_values import SchemaUnread
from counterfoil_reconcilers.targets.kafka_options import KafkaResource
from counterfoil_reconcilers.targets.kafka_schemas import Schemas
from counterfoil_reconcilers.values import MISSING, Unreadable, parse_json


@dataclass(frozen=True)
class Forms:
    """How the messages of one resource are read.

    `fields`: those of a value, strictly; raises Unreadable. `quickly`: as far as they can be told quickly: enough to
    narrow a search; alike for one value at any time. `key`: the label that a key is; bytes where it is none. All raise
    TargetUnavailable.
    """

    fields: Callable[[bytes], dict[str, Any]]
    quickly: Callable[[bytes], dict[str, Any]]
    key: Callable[[bytes | None], Any]


def forms_of(options: KafkaResource, schemas: Schemas | None) -> Forms:
    """The forms that a resource says; `schemas` is there where one is Avro."""
    key: Callable[[bytes | None], Any] = text_of
    if options.message_key_is == "avro":
        assert schemas is not None  # noqa: S101  # of every target that has such a resource
        key = _avro_key(schemas, options.message_key or "")
    if options.value == "text":
        return Forms(_text_fields, _text_quickly, key)
    if options.value == "json":
        return Forms(_json_fields, _json_quickly, key)
    assert schemas is not None  # noqa: S101  # as above
    fields = _avro_fields(schemas)
    return Forms(fields, _tolerant(fields), key)


def text_of(data: bytes | str | None) -> Any:
    """Text of UTF-8; what is none stays bytes."""
    if not isinstance(data, bytes):
        return data
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _strict_text(value: bytes) -> str:
    text = text_of(value)
    if not isinstance(text, str):
        raise Unreadable("its value is no UTF-8 text")
    return text


def _text_fields(value: bytes) -> dict[str, Any]:
    return {"value": _strict_text(value)}


def _text_quickly(value: bytes) -> dict[str, Any]:
    return {"value": text_of(value)}


def _json_fields(value: bytes) -> dict[str, Any]:
    fields = parse_json(_strict_text(_unframed(value)))
    if not isinstance(fields, dict):
        raise Unreadable("its value is no JSON object")
    return dict(fields)


def _json_quickly(value: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(_unframed(value))
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def _unframed(value: bytes) -> bytes:
    """JSON without the id of its JSON Schema: no JSON text begins with a zero byte."""
    return value[ID_END:] if value.startswith(ID_MAGIC) else value


def _avro_fields(schemas: Schemas) -> Callable[[bytes], dict[str, Any]]:
    def read(value: bytes) -> dict[str, Any]:
        fields = schemas.decode(value)
        if not isinstance(fields, dict):
            raise Unreadable("its value is no Avro record")
        return fields

    return read


def _tolerant(read: Callable[[bytes], dict[str, Any]]) -> Callable[[bytes], dict[str, Any]]:
    def read_quickly(value: bytes) -> dict[str, Any]:
        try:
            return read(value)
        except Unreadable:
            return {}

    return read_quickly


def _avro_key(schemas: Schemas, field: str) -> Callable[[bytes | None], Any]:
    """Of a record its field of that name, else the key itself. One of a schema that is not read may be any row's."""

    def read(key: bytes | None) -> Any:
        if key is None:
            return None
        try:
            held = schemas.decode(key)
        except SchemaUnread as error:
            raise schemas.unanswerable(error) from error
        except Unreadable:
            return key
        return held.get(field, MISSING) if isinstance(held, dict) else held

    return read
