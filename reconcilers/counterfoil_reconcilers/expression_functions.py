"""The functions that contracts may call beside CEL's own: each is total on its declared kinds, or raises.

They are plain Python on plain JSON, so they are tested without the machine that calls them.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

from counterfoil_reconcilers.values import Json, canonical

AnyOf = Literal["list", "map", "text", "number", "whole", "null", "bool"]

_LONGEST_RANGE = 10_000


def total(values: list[Any]) -> float:
    """The sum of numbers, without the error that adding doubles one by one builds up."""
    return math.fsum(number(value) for value in values)


def rounded(value: float, digits: float) -> float:
    """`value` to `digits` places, as Python's own round() does it."""
    return float(round(value, int(digits)))


def merged(first: dict[str, Json], second: dict[str, Json]) -> dict[str, Json]:
    """`first` with the fields of `second` on top."""
    return {**first, **second}


def without(container: Any, key: Any) -> Any:
    """A map without a key, or a list without the elements that equal a value."""
    if isinstance(container, dict):
        return {name: value for name, value in container.items() if name != key}
    return [value for value in container if canonical(value) != canonical(key)]


def updated(rows: list[Any], match: dict[str, Json], changes: dict[str, Json]) -> list[Any]:
    """The list with `changes` merged into its first element whose fields equal `match`; as it was, if there is none."""
    for index, row in enumerate(rows):
        if isinstance(row, dict) and all(name in row and row[name] == value for name, value in match.items()):
            return [*rows[:index], {**row, **changes}, *rows[index + 1 :]]
    return rows


def first(rows: list[Any], match: dict[str, Json]) -> Json:
    """The first element whose fields equal `match`."""
    for row in rows:
        if isinstance(row, dict) and all(name in row and row[name] == value for name, value in match.items()):
            return row
    raise ValueError(f"no element with {match}")


def distinct(values: list[Any]) -> list[Any]:
    """Each value once, in the order of its first appearance."""
    return list({canonical(value): value for value in values}.values())


def ordered(values: list[Any]) -> list[Any]:
    """Numbers by value, everything else by its canonical text."""
    if all(isinstance(value, str) for value in values) or all(_is_number(value) for value in values):
        return sorted(values)
    return sorted(values, key=canonical)


def pairs(left: list[Any], right: list[Any]) -> list[Any]:
    """Elements of two lists side by side; lists of different lengths are a mistake, not a shorter list."""
    if len(left) != len(right):
        raise ValueError(f"lists of {len(left)} and {len(right)} elements cannot be paired")
    return [[a, b] for a, b in zip(left, right, strict=True)]


def count(values: Any) -> float:
    """How many elements, fields or characters."""
    return float(len(values))


def count_of(values: list[Any], value: Any) -> float:
    """How many elements equal `value`."""
    return float(sum(1 for item in values if canonical(item) == canonical(value)))


def numbers(size: float) -> list[float]:
    """0, 1, ... below `size`."""
    if not 0 <= size <= _LONGEST_RANGE:
        raise ValueError(f"a range has 0 to {_LONGEST_RANGE} elements")
    return [float(index) for index in range(int(size))]


def number(value: Any) -> float:
    """A number, also one that travels as text, as decimals do."""
    result = float(value)
    if not math.isfinite(result):
        raise ValueError("not a finite number")
    return result


def entries(fields: dict[str, Json]) -> list[Any]:
    """A map as a list of [name, value], by name."""
    return [[name, fields[name]] for name in sorted(fields)]


def from_entries(pairs_: list[Any]) -> dict[str, Json]:
    """A map from a list of [name, value]."""
    return {str(name): value for name, value in pairs_}


def flat(lists: list[Any]) -> list[Any]:
    """One list from a list of lists."""
    return [value for inner in lists for value in inner]


def _least(*values: Any) -> Any:
    return min(values[0]) if isinstance(values[0], list) else min(values)


def _greatest(*values: Any) -> Any:
    return max(values[0]) if isinstance(values[0], list) else max(values)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_ANY: tuple[AnyOf, ...] = ("list", "map", "text", "number", "whole", "null", "bool")
_TWO_NUMBERS: list[tuple[AnyOf, ...]] = [(a, b) for a in ("number", "whole") for b in ("number", "whole")]

FUNCTIONS: dict[str, tuple[list[tuple[AnyOf, ...]], Callable[..., Any]]] = {
    "sum": ([("list",)], total),
    "round": (_TWO_NUMBERS, rounded),
    "merge": ([("map", "map")], merged),
    "without": ([("map", "text"), *(("list", kind) for kind in _ANY)], without),
    "update": ([("list", "map", "map")], updated),
    "first": ([("list", "map")], first),
    "distinct": ([("list",)], distinct),
    "sorted": ([("list",)], ordered),
    "pairs": ([("list", "list")], pairs),
    "count": ([("list",), ("map",), ("text",)], count),
    "count_of": ([("list", kind) for kind in _ANY], count_of),
    "range": ([("number",), ("whole",)], numbers),
    "number": ([("text",), ("number",), ("whole",)], number),
    "entries": ([("map",)], entries),
    "from_entries": ([("list",)], from_entries),
    "flat": ([("list",)], flat),
    "abs": ([("number",), ("whole",)], lambda value: abs(float(value))),
    "floor": ([("number",), ("whole",)], lambda value: float(math.floor(value))),
    "ceil": ([("number",), ("whole",)], lambda value: float(math.ceil(value))),
    "min": ([("list",), *_TWO_NUMBERS], _least),
    "max": ([("list",), *_TWO_NUMBERS], _greatest),
}
