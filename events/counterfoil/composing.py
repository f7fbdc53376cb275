"""An event made and encoded: the one place where envelope, body and numbers meet."""

import time
from collections.abc import Mapping
from typing import Any

from counterfoil.errors import UsageError
from counterfoil.event import Event
from counterfoil.ids import Id
from counterfoil.origin import NOTHING, SHARED, About, Origin
from counterfoil.reduction import encode_within_limit
from counterfoil.spool import Headers


def compose(
    origin: Origin,
    kind: str,
    body: Mapping[str, Any],
    *,
    event_id: Id,
    producer_id: Id,
    seq: int,
    about: About = NOTHING,
) -> bytes:
    """The Kafka value of one event.

    Raises UsageError when the body can't be encoded.
    """
    event = Event(
        **{name: getattr(origin, name) for name in SHARED},
        kind=kind,
        body=body,
        event_id=event_id,
        effect_id=about.effect_id,
        attempt=about.attempt,
        causation_id=about.causation_id,
        producer_id=producer_id,
        seq=seq,
        occurred_at=time.time_ns() // 1000,
    )
    try:
        return encode_within_limit(event)
    except (ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"this {kind} can't be recorded: {error}") from error


def headers_of(kind: str) -> Headers:
    """The Kafka headers of an event."""
    return (("counterfoil-kind", kind),)
