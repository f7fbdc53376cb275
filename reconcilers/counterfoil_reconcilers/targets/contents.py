"""What a target gives as bytes, read as the row that a contract says it is."""

from typing import Final, Literal

from counterfoil_reconcilers.values import Json, Unreadable, parse_json

LONGEST_ROW_BYTES: Final = 4_000_000
Form = Literal["json", "text"]


def document_of(content: bytes, form: Form) -> Json:
    """The JSON that the bytes are, or `{"text": ...}`; `Unreadable` if they are not UTF-8, or no such JSON."""
    text = text_of(content)
    return parse_json(text) if form == "json" else {"text": text}


def text_of(content: bytes) -> str:
    """UTF-8, strictly, and without NUL; else `Unreadable`."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise Unreadable(f"it is no UTF-8 (byte {error.start})") from None
    if "\0" in text:
        raise Unreadable("it holds a NUL character")
    return text


def too_long(size_bytes: int | None) -> str:
    """The problem of a row that is not read because of its size, if that is known."""
    if size_bytes is None:
        return f"it has more than {LONGEST_ROW_BYTES} bytes"
    return f"it has {size_bytes} bytes, more than {LONGEST_ROW_BYTES}"


def beside(document: Json, name: str | None, value: Json) -> Json:
    """The document with one more field; `Unreadable` where it has that field already, or has no fields."""
    if name is None:
        return document
    if not isinstance(document, dict):
        raise Unreadable(f"it is no object that could have the field {name}, too")
    if name in document:
        raise Unreadable(f"it has a field {name} of its own; give another name in the contract")
    return {**document, name: value}
