"""DynamoDB's typed values and JSON: both ways, exactly ("DynamoDB low-level API", data type descriptors).

A set becomes a sorted list, binary base64 text (RFC 4648, section 4), and a number a whole one where it is whole.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from counterfoil_reconcilers.values import Json, Unreadable, key_text

Attribute = Mapping[str, Any]  # one entry: the type's letters, and the value as botocore gives it

LONGEST_KEY_BYTES: Final = {"HASH": 2_048, "RANGE": 1_024}
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d*[1-9])?", re.ASCII)
_MOST_DIGITS: Final = 38
_LARGEST, _SMALLEST = Decimal("9.9999999999999999999999999999999999999E+125"), Decimal("1E-130")


def json_of(value: Attribute) -> Any:
    """An attribute's value, which `plain` then takes or refuses; `Unreadable` for what is of no known type."""
    if len(value) != 1:
        raise Unreadable(f"it holds a value of {len(value)} types")
    [(kind, held)] = value.items()
    match kind:
        case "S" | "BOOL":
            return held
        case "NULL":
            return None
        case "N":
            return _number(held)
        case "B":
            return _base64(held)
        case "M":
            return {name: json_of(item) for name, item in held.items()}
        case "L":
            return [json_of(item) for item in held]
        case "SS":
            return sorted(held)
        case "NS":
            return sorted(map(_number, held))
        case "BS":
            return sorted(map(_base64, held))
    raise Unreadable(f"it holds a value of type {kind}, which nobody here knows")


def key_of(kind: str, text: str, role: str) -> Attribute | None:
    """A key's text as the value of a key attribute, whose type is S, N or B; None where no such value has this text.

    A number has one text only, its canonical one: `17` names a row, `017` and `17.0` do not. Binary is base64.
    """
    try:
        content = text.encode() if kind != "B" else base64.b64decode(text, validate=True)
    except (UnicodeEncodeError, binascii.Error, ValueError):
        return None
    if not 0 < len(content) <= LONGEST_KEY_BYTES[role] and kind != "N":
        return None
    match kind:
        case "S":
            return {"S": text}
        case "N":
            return {"N": text} if is_number(text) else None
        case "B":
            return {"B": content} if _base64(content) == text else None
    return None


def text_of_key(value: Attribute) -> str:
    """The way back; `Unreadable` for what no key attribute holds."""
    match dict(value):
        case {"S": str(text)}:
            return text
        case {"N": str(text)}:
            return number_text(_decimal(text))
        case {"B": bytes(content)}:
            return _base64(content)
    raise Unreadable("it is no value of a key")


def alternatives(value: Json) -> list[Attribute]:
    """What an attribute may be that holds a value: text beside a number is one. Of maps and lists nothing is said."""
    match value:
        case None:
            return [{"NULL": True}]
        case bool():
            return [{"BOOL": value}]
        case str():
            return [{"S": value}, *([{"N": value}] if is_number(value) else [])]
        case int() | float():
            text = number_text(Decimal(repr(value)))
            return [*([{"N": text}] if is_number(text) else []), {"S": key_text(value)}]
    return []


def is_number(text: str) -> bool:
    """Whether it is the canonical text of a number that DynamoDB holds ("Naming rules and data types")."""
    if len(text) > 200 or not _NUMBER.fullmatch(text) or text == "-0":
        return False
    number = Decimal(text)
    digits = "".join(map(str, number.as_tuple().digits)).strip("0")
    return len(digits) <= _MOST_DIGITS and (number == 0 or _SMALLEST <= number.copy_abs() <= _LARGEST)


def number_text(number: Decimal) -> str:
    """The one text of a number: all its digits, no exponent, and nothing that could be left away."""
    text = format(number, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def _number(text: str) -> int | float:
    number = _decimal(text)
    is_whole = number == number.to_integral_value()
    return int(number) if is_whole else float(number)


def _decimal(text: str) -> Decimal:
    try:
        number = Decimal(text)
    except (InvalidOperation, TypeError, ValueError):
        raise Unreadable("it holds a number that is none") from None
    if not number.is_finite():
        raise Unreadable("it holds a number that is not finite")
    return number


def _base64(content: bytes) -> str:
    return base64.b64encode(bytes(content)).decode()
