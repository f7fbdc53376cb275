"""What is audited is hostile text: before a terminal sees it, whatever could act or hide there is made visible."""

import unicodedata


def shown(text: object, limit: int | None = None) -> str:
    """`text` on one line, with every acting or unseen character as its escape; cut at `limit` characters.

    Escaped is what Unicode calls other (controls, bidirectional and zero-width formats, tags, surrogates, private use,
    unassigned) and every line or paragraph separator.
    """
    plain = str(text)
    is_cut = limit is not None and len(plain) > limit
    escaped = "".join(map(_visible, plain[:limit] if is_cut else plain))
    if limit is None or (not is_cut and len(escaped) <= limit):
        return escaped
    return escaped[: limit - 1] + "…"


def _visible(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    code = ord(character)
    if code < 0x100:
        return {9: "\\t", 10: "\\n", 13: "\\r"}.get(code, f"\\x{code:02x}")
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
