"""An event larger than the brokers take is recorded smaller, and says so.

The longest texts of the body are replaced by their digest, size and beginning until the value fits, and lists are cut
to their beginning, so that a large argument never costs the record of the write.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

from counterfoil.lists import OMITTED, beginning, list_text, weight_of

MAX_EVENT_BYTES = 900_000
_HEAD_CHARACTERS = 2_000


def encode_within_limit(
    encode: Callable[[Mapping[str, Any]], bytes], body: Mapping[str, Any], limit_bytes: int = MAX_EVENT_BYTES
) -> bytes:
    """The Kafka value that `encode` makes of `body`, at most `limit_bytes` long.

    Raises ValueError when it does not fit even with every text reduced.
    """
    value = encode(body)
    if len(value) <= limit_bytes:
        return value
    smaller = dict(body)
    while len(value) > limit_bytes:
        name = max(smaller, key=lambda field: weight_of(smaller[field]))
        if weight_of(smaller[name]) <= 2 * _HEAD_CHARACTERS:
            raise ValueError(f"{len(value)} bytes can't be reduced to {limit_bytes}")
        if isinstance(smaller[name], str):
            smaller[name] = _reduced(smaller[name])
        elif OMITTED in smaller:
            smaller |= _cut(name, smaller[name], limit_bytes // 2)
        else:
            raise ValueError(f"its {name} are {len(smaller[name])}, too many for an event")
        value = encode(smaller)
    return value


def _cut(name: str, items: list[Any], limit_bytes: int) -> dict[str, Any]:
    """The list's beginning, and what is said of the rest."""
    kept = beginning(items, min(limit_bytes, weight_of(items) // 2))
    content = list_text(items).encode("utf-8", "backslashreplace")
    said = {
        "$reduced": "larger than an event may be",
        "field": name,
        "count": len(items),
        "kept": len(kept),
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    return {name: kept, OMITTED: json.dumps(said)}


def _reduced(text: str) -> str:
    content = text.encode("utf-8", "backslashreplace")
    return json.dumps(
        {
            "$reduced": "larger than an event may be",
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
            "head": text[:_HEAD_CHARACTERS],
        }
    )
