"""The span that is open around an event, where the program uses OpenTelemetry; it is not imported otherwise."""

import sys
from typing import Any, NamedTuple

_API = "opentelemetry.trace"


class Span(NamedTuple):
    """W3C trace-id (16 bytes) and parent-id (8 bytes)."""

    trace_id: bytes
    span_id: bytes

    @property
    def traceparent(self) -> str:
        """As the header `traceparent` (W3C Trace Context, section 3.2)."""
        return f"00-{self.trace_id.hex()}-{self.span_id.hex()}-01"


def current_span() -> Span | None:
    """The span of this context; None where there is none, or no OpenTelemetry. Never raises."""
    api: Any = sys.modules.get(_API)
    if api is None:
        return None
    try:
        context = api.get_current_span().get_span_context()
        if context.is_valid:
            return Span(context.trace_id.to_bytes(16, "big"), context.span_id.to_bytes(8, "big"))
    except Exception:  # noqa: BLE001  # the audit goes on without the trace
        return None
    return None
