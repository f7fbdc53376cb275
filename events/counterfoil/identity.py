"""What makes two writes the same effect: canonical bytes under a keyed hash.

The bytes are RFC 8785 (JSON Canonicalization Scheme) of the identity, taken before redaction. JSON has
no decimals, times, bytes or integers beyond 2^53, so these map by the table in `canonical_value`;
`tests/events/golden_identity.json` holds the vectors that other clients must meet.
"""

import base64
import dataclasses
import datetime as dt
import encodings.utf_16_be  # noqa: F401  # rfc8785 needs it, and a thread must import nothing
import enum
import hashlib
import hmac
import math
import uuid
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import pydantic
import rfc8785

from counterfoil.errors import UsageError
from counterfoil.ids import Id

VERSION = 1
_MAX_SAFE_INTEGER = 2**53 - 1
_MAX_DEPTH = 100


def effect_id_of(
    key: bytes,
    *,
    tenant: str,
    task_id: Id,
    tool: str,
    target: str | None,
    args: Mapping[str, Any],
    step: str | None = None,
) -> Id:
    """The first 16 bytes of HMAC-SHA-256(`key`, canonical bytes of the identity).

    `args` are the identity arguments alone. Raises UsageError when one of them has no canonical form.
    """
    return hmac.digest(key, canonical_bytes(tenant, task_id, tool, target, args, step), hashlib.sha256)[:16]


def canonical_bytes(
    tenant: str, task_id: Id, tool: str, target: str | None, args: Mapping[str, Any], step: str | None
) -> bytes:
    """RFC 8785 bytes of one effect's identity.

    Raises UsageError when an argument has no canonical form.
    """
    try:
        return rfc8785.dumps(
            {
                "v": VERSION,
                "tenant": tenant,
                "task": task_id.hex(),
                "tool": tool,
                "target": target,
                "step": step,
                "args": canonical_value(dict(args)),
            }
        )
    except ValueError as error:  # rfc8785's own, lone surrogates, integers too long to write
        raise UsageError(
            f"the identity of {tool} can't be written as canonical JSON ({error}); "
            "name fewer arguments with identity=(...)"
        ) from error


def canonical_value(value: Any, depth: int = 0) -> Any:
    """Map a Python value to JSON by the table of identity version 1.

    | Python | JSON |
    |---|---|
    | None, bool, str, finite float, int up to 2^53 - 1 | itself |
    | int beyond | {"$int": decimal digits} |
    | Decimal | {"$decimal": shortest plain digits, so 12.50 is 12.5} |
    | aware datetime | {"$datetime": UTC, microseconds, Z} |
    | naive datetime, date, time | {"$localdatetime" / "$date" / "$time": ISO 8601} |
    | bytes | {"$bytes": base64} |
    | UUID | its text |
    | Enum | its value |
    | dataclass, pydantic model | an object of its fields |
    | set | {"$set": its members sorted by their canonical bytes} |
    | a key that starts with $ | with one more $ |

    Raises UsageError for anything else, NaN and infinities, and nesting beyond 100.
    """
    if depth > _MAX_DEPTH:
        raise UsageError("an identity argument nests deeper than 100 levels; name others with identity=(...)")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, enum.Enum):
        return canonical_value(value.value, depth + 1)
    scalar = _scalar(value)
    if scalar is not None:
        return scalar
    return _compound(value, depth + 1)


def _scalar(value: Any) -> Any:
    match value:
        case str():
            return str(value)
        case int():
            return int(value) if abs(value) <= _MAX_SAFE_INTEGER else {"$int": str(int(value))}
        case float():
            if not math.isfinite(value):
                raise UsageError(f"an identity argument is {value}, which no JSON can hold")
            return float(value)
        case Decimal():
            return {"$decimal": _plain(value)}
        case dt.datetime():
            return _datetime(value)
        case dt.date():
            return {"$date": value.isoformat()}
        case dt.time():
            return {"$time": value.isoformat()}
        case bytes() | bytearray() | memoryview():
            return {"$bytes": base64.b64encode(bytes(value)).decode()}
        case uuid.UUID():
            return str(value)
    return None


def _plain(value: Decimal) -> str:
    if not value.is_finite():
        raise UsageError(f"an identity argument is Decimal({value}), which no JSON can hold")
    if value == 0:
        return "0"
    text = format(value, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def _datetime(value: dt.datetime) -> dict[str, str]:
    if value.tzinfo is None:
        return {"$localdatetime": value.isoformat(timespec="microseconds")}
    utc = value.astimezone(dt.UTC)
    return {"$datetime": utc.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"}


def _compound(value: Any, depth: int) -> Any:
    if isinstance(value, pydantic.BaseModel):
        return canonical_value(value.model_dump(), depth)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return canonical_value(fields, depth)
    if isinstance(value, Mapping):
        return {_key(name): canonical_value(item, depth) for name, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return {"$set": sorted((canonical_value(item, depth) for item in value), key=rfc8785.dumps)}
    if isinstance(value, Sequence):
        return [canonical_value(item, depth) for item in value]
    raise UsageError(
        f"an identity argument is a {type(value).__name__}, which has no canonical form; "
        "pass plain values, or name others with identity=(...)"
    )


def _key(name: Any) -> str:
    if not isinstance(name, str):
        raise UsageError(f"an identity argument has the key {name!r}; keys are strings")
    return f"${name}" if name.startswith("$") else name
