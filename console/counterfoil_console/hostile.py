"""What is audited is hostile text: before a terminal sees it, whatever could act there is made visible."""

import re

# C0 and C1 controls, DEL, bidirectional overrides and isolates, zero-width and line separators.
_ACTING = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")


def shown(text: object, limit: int | None = None) -> str:
    """`text` on one line, with every acting character as its escape; cut at `limit` characters."""
    escaped = _ACTING.sub(lambda match: _escape(match[0]), str(text))
    return escaped if limit is None or len(escaped) <= limit else escaped[: limit - 1] + "…"


def _escape(character: str) -> str:
    code = ord(character)
    return {9: "\\t", 10: "\\n", 13: "\\r"}.get(code, f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
