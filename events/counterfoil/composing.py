"""An event made and encoded: the one place where envelope, body and numbers meet."""

import time
from collections.abc import Mapping
from functools import cache
from typing import Any

from counterfoil.codec import EnvelopeEncoder
from counterfoil.errors import UsageError
from counterfoil.framing import Framing
from counterfoil.ids import Id
from counterfoil.origin import NOTHING, SHARED, About, Origin
from counterfoil.redaction import Redacted, Redactor
from counterfoil.reduction import encode_within_limit
from counterfoil.signing import Signer
from counterfoil.spool import Headers
from counterfoil.tracing import Span


class Composer:
    """Makes the events of one task and one producer; what they share is redacted and encoded once.

    With a `signer` its headers sign them. Raises UsageError when a name in `origin` can't be encoded.
    """

    def __init__(
        self, origin: Origin, producer_id: Id, framing: Framing, redactor: Redactor, signer: Signer | None
    ) -> None:
        self.redactor = redactor
        self._signer = signer
        told = redactor.origin(origin)
        shared = {name: getattr(told, name) for name in SHARED}
        try:
            self._envelope = EnvelopeEncoder(
                shared | {"producer_id": producer_id, "redaction": redactor.stamp}, framing
            )
        except (ValueError, TypeError) as error:
            raise UsageError(f"this task can't be recorded: {error}") from error

    def compose(
        self,
        kind: str,
        body: Redacted,
        event_id: Id,
        seq: int,
        about: About = NOTHING,
        span: Span | None = None,
    ) -> bytes:
        """The Kafka value of one event, in the trace of `span` if there is one.

        Raises UsageError when the body can't be encoded.
        """
        occurred_at = time.time_ns() // 1000
        traced = span or ()

        def encode(body: Mapping[str, Any]) -> bytes:
            return self._envelope.encode(
                kind, body, event_id, seq, occurred_at, about.effect_id, about.attempt, about.causation_id, *traced
            )

        try:
            return encode_within_limit(encode, body)
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(f"this {kind} can't be recorded: {error}") from error

    def headers(self, kind: str, value: bytes, span: Span | None = None) -> Headers:
        """The Kafka headers of an event whose final bytes are `value`."""
        plain = headers_of(kind, span)
        return plain if self._signer is None else (*plain, self._signer.header(value))


def headers_of(kind: str, span: Span | None = None) -> Headers:
    """The Kafka headers of an event that is not signed."""
    plain = _headers(kind)
    return plain if span is None else (*plain, ("traceparent", span.traceparent))


@cache
def _headers(kind: str) -> Headers:
    return (("counterfoil-kind", kind),)
