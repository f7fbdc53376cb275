"""Bodies of events whose fields of JSON text are parsed, to be walked through and written again without a loss."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from counterfoil_schemas import json_fields

_text_of = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Document(NamedTuple):
    """A body's fields; those in `parsed` were JSON text, and are what it says."""

    fields: dict[str, Any]
    parsed: frozenset[str]


class _Repeated(str):
    """A name that its object has already: equal to no other, so that both stay."""

    __slots__ = ()
    __eq__ = object.__eq__
    __hash__ = object.__hash__


def document_of(kind: str, body: Mapping[str, Any]) -> Document:
    """The body with its fields of JSON text parsed; what is none stays text.

    Raises RecursionError for what is nested too deeply.
    """
    fields = dict(body)
    parsed = set()
    for name in json_fields(kind):
        text = body.get(name)
        if isinstance(text, str):
            try:
                fields[name] = json.loads(text, object_pairs_hook=_object)
            except ValueError:
                continue
            parsed.add(name)
    return Document(fields, frozenset(parsed))


def json_text(value: Any) -> str:
    """A value of a document as compact JSON text."""
    return _text_of(value)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) == len(pairs):
        return value
    value = {}
    for name, item in pairs:
        value[_Repeated(name) if name in value else name] = item
    return value
