"""An event larger than the brokers take is recorded smaller, and says so.

The longest texts of the body are replaced by their digest, size and beginning until the value fits, so
that a large argument never costs the record of the write.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any

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
        name = max(smaller, key=lambda field: _size(smaller[field]))
        if _size(smaller[name]) <= 2 * _HEAD_CHARACTERS:
            raise ValueError(f"{len(value)} bytes can't be reduced to {limit_bytes}")
        smaller[name] = _reduced(smaller[name])
        value = encode(smaller)
    return value


def _size(field: Any) -> int:
    return len(field) if isinstance(field, str) else 0


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
