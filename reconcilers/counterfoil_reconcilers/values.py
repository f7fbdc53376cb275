"""JSON as the reconciler compares it: one form for every number, text that every store can hold, bounded depth.

Rows, arguments and replies come from outside. They pass through `plain` once; what cannot be brought into
this form is refused there with a reason, so nothing further in meets a NaN, a cycle or a bomb.
"""

import datetime as dt
import json
import math
import struct
import uuid
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Final

# JSON with every number a float, but for integers beyond 2^53.
Json = None | bool | int | float | str | list[Any] | dict[str, Any]
Path = tuple[str | int, ...]

EXACT_INTEGERS: Final = 2**53
_DEEPEST: Final = 64
_MOST_NODES: Final = 500_000
_quoted = json.encoder.encode_basestring_ascii
_canonical = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode


class Unreadable(ValueError):
    """A value from outside that cannot be compared; the message says why."""


class TooDeep(Unreadable):
    """JSON that is nested more deeply than it can be read, whether it is whole or not."""


class Hidden(str):
    """A text that was redacted, in whole or in part. What it shows is not what it was."""

    __slots__ = ()

    def equals(self, _text: str) -> bool | None:
        """Whether it was this text; None where nobody knows."""
        return None


def holds_hidden(value: Any) -> bool:
    """Whether a Hidden text is anywhere in it, be it as a name."""
    if isinstance(value, dict):
        return any(isinstance(name, Hidden) or holds_hidden(item) for name, item in value.items())
    if isinstance(value, list):
        return any(map(holds_hidden, value))
    return isinstance(value, Hidden)


class _Missing:
    def __repr__(self) -> str:
        return "missing"


MISSING: Final = _Missing()


def plain(value: Any) -> Json:
    """`value` in the form in which values are compared; `Unreadable` where that cannot be."""
    budget = [_MOST_NODES]
    return _plain(value, 0, budget)


def _plain(value: Any, depth: int, budget: list[int]) -> Json:
    budget[0] -= 1
    if budget[0] < 0:
        raise Unreadable(f"it holds more than {_MOST_NODES} values")
    if depth > _DEEPEST:
        raise Unreadable(f"it is nested deeper than {_DEEPEST}")
    kind = type(value)  # what JSON text is made of first, by exact type: rows come by the thousand
    if kind is str:
        return _text(value)
    if kind is dict:
        depth += 1
        return {_name(name): _plain(item, depth, budget) for name, item in value.items()}
    match value:
        case float() | Decimal():
            return _finite(value)
        case None | bool():
            return value
        case str():
            return _text(value)
        case int():
            return float(value) if abs(value) <= EXACT_INTEGERS else _bounded(value)
        case dt.datetime() | dt.date() | dt.time():
            return value.isoformat()
        case uuid.UUID():
            return str(value)
        case Mapping():
            return {_name(name): _plain(item, depth + 1, budget) for name, item in value.items()}
        case list() | tuple():
            return [_plain(item, depth + 1, budget) for item in value]
    raise Unreadable(f"it holds a {type(value).__name__}, which JSON cannot hold")


def _name(name: Any) -> str:
    return _text(name if isinstance(name, str) else str(name))


def _text(value: str) -> str:
    """The machine ends a text at NUL and breaks on a lone surrogate, so neither gets in."""
    if "\0" in value:
        raise Unreadable("it holds a NUL character")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Unreadable("it holds half of a surrogate pair") from None
    return value


def _bounded(value: int) -> int:
    if not -(2**63) <= value < 2**63:
        raise Unreadable("it holds an integer of more than 64 bits")
    return value


def _finite(value: float | Decimal) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise Unreadable("it holds a number that is not finite")
    return number


def nearest_single(number: float) -> float:
    """The nearest number that four bytes hold. Raises OverflowError."""
    single: float = struct.unpack("<f", struct.pack("<f", number))[0]
    return single


def shortest_single(number: float) -> float:
    """The shortest number that is this one in four bytes, as PostgreSQL shows a `real`."""
    shorter = (float(f"{number:.{digits}g}") for digits in range(6, 9))
    return next((short for short in shorter if nearest_single(short) == number), number)


def shown(value: Any) -> Any:
    """For people and evidence: whole numbers without `.0`, a missing value as None."""
    match value:
        case float() if value.is_integer() and abs(value) <= EXACT_INTEGERS:
            return int(value)
        case dict():
            return {name: shown(item) for name, item in value.items()}
        case list() | tuple():
            return [shown(item) for item in value]
        case _Missing():
            return None
    return value


def canonical(value: Json) -> str:
    """One text for equal values, whatever the order of their fields."""
    return _canonical(shown(value))


def json_list(texts: Iterable[str]) -> str:
    """A JSON list of texts, as `json.dumps` writes it, for what is needed by the thousand."""
    return f"[{', '.join(map(_quoted, texts))}]"


def key_text(value: Json) -> str:
    """A key's value as the text by which rows are told apart; `Unreadable` for what is no key."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return value
        case int() | float():
            return str(shown(value))
    raise Unreadable(f"a key cannot be {'null' if value is None else f'a {type(value).__name__}'}")


def parse_json(text: str) -> Json:
    """JSON text, strictly: a field named twice, NaN and infinities are `Unreadable`."""
    try:
        return plain(decode_json(text))
    except Unreadable as error:
        raise Unreadable(f"it is not JSON that can be compared ({error})") from error


def decode_json(text: str) -> Any:
    """What JSON text says, as strictly; parts of it may still be nothing that can be compared (see `plain`)."""
    try:
        return json.loads(text, object_pairs_hook=_no_repetition, parse_constant=_no_constant)
    except RecursionError:
        raise TooDeep("it is nested too deeply") from None
    except Unreadable:
        raise
    except ValueError as error:
        raise Unreadable(str(error)) from error


def _no_repetition(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(fields)
    if len(result) != len(fields):
        raise Unreadable("a field is named twice")
    return result


def _no_constant(name: str) -> Any:
    raise Unreadable(f"it holds {name}")


def at(document: Any, path: Path) -> Any:
    """The value at `path`, or MISSING."""
    for step in path:
        if isinstance(step, int):
            if not isinstance(document, list) or not -len(document) <= step < len(document):
                return MISSING
        elif not isinstance(document, dict) or step not in document:
            return MISSING
        document = document[step]
    return document


def put(document: Any, path: Path, value: Any) -> Any:
    """A copy of `document` with `value` at `path` (MISSING takes it away); what lies beside is shared."""
    if not path:
        return value
    step, rest = path[0], path[1:]
    if isinstance(step, int):
        if not isinstance(document, list) or not -len(document) <= step < len(document):
            raise Unreadable(f"there is no element {step}")
        copied = list(document)
        if value is MISSING and not rest:
            del copied[step]
        else:
            copied[step] = put(document[step], rest, value)
        return copied
    if document is MISSING or document is None:
        document = {}
    if not isinstance(document, dict):
        raise Unreadable(f"{step} cannot be set in a {type(document).__name__}")
    if value is MISSING and (not rest or step not in document):
        return {name: item for name, item in document.items() if name != step}
    return {**document, step: put(document.get(step, MISSING), rest, value)}


def leaves(document: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Every value that holds no others, with its path; an empty map or list is one too."""
    if isinstance(document, dict) and document:
        for name, value in document.items():
            yield from leaves(value, (*path, name))
    elif isinstance(document, list) and document:
        for index, value in enumerate(document):
            yield from leaves(value, (*path, index))
    else:
        yield path, document


def overlap(left: Path, right: Path) -> bool:
    """Whether one path leads into or through the other."""
    shorter = min(len(left), len(right))
    return left[:shorter] == right[:shorter]


def path_text(path: Path) -> str:
    """`items[1].price`."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else (f".{step}" if text else str(step))
    return text
