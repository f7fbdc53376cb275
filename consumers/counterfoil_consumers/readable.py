"""Texts of an event as JSON that Postgres takes, whatever a model put into them.

NUL, lone surrogates, NaN, numbers out of range and very deep nesting each end a whole COPY; here they are replaced or
kept as text. The exact bytes stand beside the JSON, so nothing is lost.
"""

import json
import math
import re
from typing import Any, NoReturn

_MAX_DEPTH = 200
_REFUSED = re.compile("[\x00\ud800-\udfff]")
_ODD_NUMBER = re.compile("[0-9]{17}|[eE][+-]?[0-9]{3}")  # perhaps beyond what Postgres computes with
_json = json.JSONEncoder(ensure_ascii=False).encode
_quote = json.encoder.encode_basestring


def quoted(text: str) -> str:
    """`text` as a JSON string."""
    return _quote(text) if "\x00" not in text else _quote(_REFUSED.sub("\ufffd", text))


def json_text(text: str) -> str:
    """`text` itself where it is JSON that Postgres takes; else what can be kept of it, or a JSON string of it."""
    if text.count("[") + text.count("{") <= _MAX_DEPTH and "\\u" not in text:
        try:
            _read_plain(text)
        except _Odd:
            pass
        except ValueError:
            return quoted(text)
        else:
            return text
    try:
        return _json(_mended(json.loads(text, parse_constant=str, parse_float=_finite, parse_int=_integer), 0))
    except (ValueError, RecursionError):
        return quoted(text)  # no JSON, or nested beyond what Postgres parses: kept as text


def mended_text(text: str) -> str:
    """`text` without what a Postgres text can't hold: NUL and lone surrogates become U+FFFD."""
    return text if not _REFUSED.search(text) else _REFUSED.sub("\ufffd", text)


class _Odd(Exception):
    """A number, or a name in place of one, that is to be looked at."""


def _plain(digits: str) -> None:
    if _ODD_NUMBER.search(digits):
        raise _Odd


def _no_number(name: str) -> NoReturn:
    raise _Odd


_read_plain = json.JSONDecoder(parse_int=_plain, parse_float=_plain, parse_constant=_no_number).decode


def _finite(digits: str) -> float | str:
    number = float(digits)
    return number if math.isfinite(number) else digits


def _integer(digits: str) -> int | str:
    return int(digits) if len(digits) <= 100 else digits


def _mended(value: Any, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deep")
    if isinstance(value, str):
        return mended_text(value)
    if isinstance(value, dict):
        return {mended_text(name): _mended(item, depth + 1) for name, item in value.items()}
    if isinstance(value, list):
        return [_mended(item, depth + 1) for item in value]
    return value
