"""JSON text of whatever an agent hands over: it never raises, and says where it had to reduce.

An audit must not stop the agent's own work because an argument is odd: cycles, NaN, depth and
foreign objects become a form that says so.
"""

import base64
import dataclasses
import datetime as dt
import enum
import json
import math
import re
import uuid
from collections.abc import Mapping, Set
from decimal import Decimal
from typing import Any

import pydantic

_MAX_DEPTH = 64
_REPR_CHARACTERS = 500
_MAX_INTEGER_BITS = 4096  # Python refuses to write more than 4300 digits
# Names that say what a recorder did with a value. An agent's own names like these have one more `$`.
_OUR_NAME = re.compile(r"\$+(?:blob|bytes|reduced|sealed|withheld)")


def to_json_text(value: Any) -> str:
    """Compact JSON text of `value`, encodable as UTF-8.

    Decimals and times become strings, bytes base64 in {"$bytes": ...}, NaN and infinities their names,
    deeper nesting than 64 or a foreign object {"$reduced": ...}. A lone surrogate stays, escaped. Names of the value's
    own that look like these have one more `$`; `as_given` takes it away.
    """
    if type(value) in (dict, list, str):
        try:
            text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
            if '"$' not in text:
                return _encodable(text)
        except (TypeError, ValueError, RecursionError):
            pass  # not plain JSON: the slow way below says what is odd
    try:
        plain = _plain(value, ())
    except Exception:  # noqa: BLE001  # a foreign mapping, key or model may raise anything
        plain = {"$reduced": _shown(value)}
    return _encodable(json.dumps(plain, ensure_ascii=False, separators=(",", ":")))


def as_given(value: Any) -> Any:
    """A value read from `to_json_text`, with the names that it had."""
    if isinstance(value, dict):
        return {name[1:] if _OUR_NAME.fullmatch(name, 1) else name: as_given(item) for name, item in value.items()}
    return [as_given(item) for item in value] if isinstance(value, list) else value


def to_text(value: str) -> str:
    """`value` with lone surrogates escaped, so that UTF-8 can hold it."""
    return _encodable(value)


def error_text(error: BaseException | str) -> str:
    """What an error says; never raises, whatever its `__str__` does."""
    try:
        return _encodable(str(error))
    except Exception as second:  # noqa: BLE001  # a foreign __str__ may raise anything
        return f"{type(error).__name__} whose text raised {type(second).__name__}"


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        # Inside a JSON string the escape \\udXXX is JSON again.
        return text.encode("utf-8", "backslashreplace").decode()
    return text


def _plain(value: Any, outer: tuple[int, ...]) -> Any:
    """`outer` holds the ids of the containers around `value`."""
    if len(outer) > _MAX_DEPTH:
        return {"$reduced": f"nested deeper than {_MAX_DEPTH}"}
    if id(value) in outer:
        return {"$reduced": "contains itself"}
    inner = (*outer, id(value))
    match value:
        case enum.Enum():
            return _plain(value.value, inner)
        case None | bool() | str():
            return value
        case int():
            bits = value.bit_length()
            return value if bits <= _MAX_INTEGER_BITS else {"$reduced": f"an integer of {bits} bits"}
        case float():
            return value if math.isfinite(value) else str(value)
        case Decimal() | uuid.UUID():
            return str(value)
        case dt.datetime() | dt.date() | dt.time():
            return value.isoformat()
        case bytes() | bytearray() | memoryview():
            return {"$bytes": base64.b64encode(bytes(value)).decode()}
    return _opened(value, inner)


def _opened(value: Any, inner: tuple[int, ...]) -> Any:
    match value:
        case pydantic.BaseModel():
            return _plain(value.model_dump(), inner)
        case Mapping():
            return {_own_name(str(name)): _plain(item, inner) for name, item in value.items()}
        case list() | tuple():
            return [_plain(item, inner) for item in value]
        case Set():
            return sorted((_plain(item, inner) for item in value), key=repr)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name), inner) for f in dataclasses.fields(value)}
    return {"$reduced": _shown(value)}


def _own_name(name: str) -> str:
    return f"${name}" if _OUR_NAME.fullmatch(name) else name


def _shown(value: Any) -> str:
    try:
        return repr(value)[:_REPR_CHARACTERS]
    except Exception as error:  # noqa: BLE001  # a foreign __repr__ may raise anything
        return f"{type(value).__name__} whose repr raised {type(error).__name__}"
