"""The event as this process holds it: the flat envelope of DESIGN.md section 4 around one body."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from counterfoil.ids import STANDARD, Id

Outcome = Literal["ok", "accepted", "failed", "unknown", "partial", "denied"]
Mode = Literal["live", "shadow", "replay"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One immutable record. Ids are 16 bytes, times microseconds since the epoch.

    `body` holds the fields of the kind's Avro record; it is None when the kind or the body's schema is
    unknown here, and then `raw_body` alone says what was sent.
    """

    event_id: Id
    kind: str
    body: Mapping[str, Any] | None
    tenant: str
    workflow: str
    task_id: Id
    agent: str
    producer_id: Id
    seq: int
    occurred_at: int
    retention_class: str = STANDARD
    environment: str = "production"
    mode: str = "live"
    task_ref: str | None = None
    parent_task_id: Id | None = None
    conversation_id: str | None = None
    subject_ref: str | None = None
    release: str | None = None
    principal: str | None = None
    on_behalf_of: str | None = None
    effect_id: Id | None = None
    attempt: int | None = None
    causation_id: Id | None = None
    trace_id: bytes | None = None
    span_id: bytes | None = None
    redaction: str | None = None
    body_schema: bytes = b""
    raw_body: bytes = b""
    content_encoding: str = "identity"
    key_id: str | None = None
    subject: str | None = None
