"""The body of an event as JSON that Postgres takes, whatever a model put into it.

NUL, lone surrogates, NaN, numbers out of range and very deep nesting each end a whole COPY; here they
are replaced or kept as text. The exact bytes stand beside the JSON, so nothing is lost.
"""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from counterfoil_schemas import json_fields

_MAX_DEPTH = 200
_REFUSED = re.compile("[\x00\ud800-\udfff]")
_json = json.JSONEncoder(ensure_ascii=False).encode


def readable_body(kind: str, body: Mapping[str, Any]) -> str:
    """JSON text of a decoded body: ids and bytes as hex, fields that hold JSON text as that JSON."""
    fields = json_fields(kind)
    return _json({name: _mend(item, name in fields, fields) for name, item in body.items()})


def mended_text(text: str | None) -> str | None:
    """`text` without what a Postgres text can't hold: NUL and lone surrogates become U+FFFD."""
    return text if text is None or not _REFUSED.search(text) else _REFUSED.sub("\ufffd", text)


def _mend(value: Any, is_json: bool, fields: frozenset[str]) -> Any:
    if value is None:
        return None
    if isinstance(value, str):
        return _parsed(value) if is_json else mended_text(value)
    if isinstance(value, int):
        return value
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {name: _mend(item, name in fields, fields) for name, item in value.items()}
    if isinstance(value, list):
        return [_mend(item, False, fields) for item in value]
    return value


def _parsed(text: str) -> Any:
    try:
        value = json.loads(text, parse_constant=str, parse_float=_finite, parse_int=_integer)
        return _mended_json(value, 0)
    except (ValueError, RecursionError):
        return mended_text(text)  # no JSON, or nested beyond what Postgres parses: kept as text


def _finite(digits: str) -> float | str:
    number = float(digits)
    return number if math.isfinite(number) else digits


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= 100 else digits


def _mended_json(value: Any, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deep")
    if isinstance(value, str):
        return mended_text(value)
    if isinstance(value, dict):
        return {mended_text(name): _mended_json(item, depth + 1) for name, item in value.items()}
    if isinstance(value, list):
        return [_mended_json(item, depth + 1) for item in value]
    return value
