"""An event larger than the brokers take is recorded smaller, and says so.

The longest texts of the body are replaced by their digest, size and beginning until the value fits, so
that a large argument never costs the record of the write.
"""

import dataclasses
import hashlib
import json
from typing import Any

from counterfoil.codec import encode
from counterfoil.event import Event

MAX_EVENT_BYTES = 900_000
_HEAD_CHARACTERS = 2_000


def encode_within_limit(event: Event, limit_bytes: int = MAX_EVENT_BYTES) -> bytes:
    """The Kafka value of `event`, at most `limit_bytes` long.

    Raises ValueError when it does not fit even with every text reduced.
    """
    value = encode(event)
    body = dict(event.body or {})
    while len(value) > limit_bytes:
        name = max(body, key=lambda field: _size(body[field]))
        if _size(body[name]) <= 2 * _HEAD_CHARACTERS:
            raise ValueError(f"a {event.kind} of {len(value)} bytes can't be reduced to {limit_bytes}")
        body[name] = _reduced(body[name])
        value = encode(dataclasses.replace(event, body=body))
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
