"""Whether two values are the same for a contract's purposes, and where they differ if not."""

import datetime as dt
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from counterfoil_reconcilers.contracts import FieldRule, Resource
from counterfoil_reconcilers.values import MISSING, Hidden, Path, canonical, holds_hidden

# Adding up doubles in another order moves the last bits; this is far below any tolerance worth declaring.
_NOISE = 1e-9
_LONGEST_UNORDERED = 2_000
_ALIKE_IF_EQUAL = frozenset({str, float, bool})


@dataclass(frozen=True)
class Difference:
    """One place where two rows differ; MISSING stands for a value that is not there."""

    path: Path
    expected: Any
    observed: Any


def same(expected: Any, observed: Any, rule: FieldRule) -> bool:
    """Whether two scalars agree under a field's rule; where that can't be told of a Hidden one, they are taken to."""
    if expected is MISSING or observed is MISSING:
        return expected is observed
    if isinstance(expected, Hidden) or isinstance(observed, Hidden):
        return _same_hidden(expected, observed, rule) is not False
    if _is_number(expected) or _is_number(observed):
        return _same_number(expected, observed, rule.tolerance)
    if isinstance(expected, str) and isinstance(observed, str):
        if expected == observed or (rule.ignore_case and expected.casefold() == observed.casefold()):
            return True
        return rule.time and _same_instant(expected, observed)
    return type(expected) is type(observed) and bool(expected == observed)


def differences(resource: Resource, expected: Any, observed: Any, path: Path = ()) -> Iterator[Difference]:
    """Every place below `path` where `observed` is not what was expected."""
    kind = type(expected)
    if expected is observed or (kind in _ALIKE_IF_EQUAL and kind is type(observed) and expected == observed):
        return
    # Most rows are as they were: equal texts say so at once, and tell true from 1 as well.
    if not path and repr(expected) == repr(observed):
        return
    rule = resource.rule(path)
    if rule.ignore:
        return
    if isinstance(expected, dict) and isinstance(observed, dict):
        hidden = [name for name in expected if isinstance(name, Hidden)]
        if hidden:
            yield from _differences_beside_hidden_names(resource, expected, observed, path, len(hidden))
            return
        for name in dict.fromkeys((*expected, *observed)):
            yield from differences(resource, expected.get(name, MISSING), observed.get(name, MISSING), (*path, name))
    elif isinstance(expected, list) and isinstance(observed, list):
        yield from _list_differences(resource, rule, expected, observed, path)
    elif not same(expected, observed, rule):
        yield Difference(path, expected, observed)


def undecided(resource: Resource, expected: Any, observed: Any, path: Path = ()) -> bool:
    """Whether a Hidden text in what was expected leaves it open if the two are the same."""
    rule = resource.rule(path)
    if rule.ignore or not holds_hidden(expected):
        return False
    if isinstance(expected, Hidden):
        return _same_hidden(expected, observed, rule) is None
    if isinstance(expected, dict) and isinstance(observed, dict):
        return any(
            isinstance(name, Hidden) or undecided(resource, value, observed.get(name, MISSING), (*path, name))
            for name, value in expected.items()
        )
    if isinstance(expected, list) and isinstance(observed, list) and len(expected) == len(observed):
        pairs = enumerate(zip(expected, observed, strict=True))
        return rule.unordered or any(undecided(resource, left, right, (*path, i)) for i, (left, right) in pairs)
    return False


def agree(resource: Resource, expected: Any, observed: Any, path: Path = ()) -> bool:
    """Whether there is no difference at all."""
    return next(differences(resource, expected, observed, path), None) is None


def _differences_beside_hidden_names(
    resource: Resource, expected: dict[str, Any], observed: dict[str, Any], path: Path, hidden: int
) -> Iterator[Difference]:
    """Of two maps, one with names that were redacted: where they differ for sure."""
    plain = [name for name in expected if not isinstance(name, Hidden)]
    if len(observed.keys() - set(plain)) != hidden:
        yield Difference(path, expected, observed)
        return
    for name in plain:
        yield from differences(resource, expected[name], observed.get(name, MISSING), (*path, name))


def _list_differences(
    resource: Resource, rule: FieldRule, expected: list[Any], observed: list[Any], path: Path
) -> Iterator[Difference]:
    if rule.unordered and len(expected) == len(observed) <= _LONGEST_UNORDERED:
        if not _same_in_any_order(resource, expected, observed, path):
            yield Difference(path, expected, observed)
    elif len(expected) != len(observed):
        yield Difference(path, expected, observed)
    else:
        for index, (left, right) in enumerate(zip(expected, observed, strict=True)):
            yield from differences(resource, left, right, (*path, index))


def _same_in_any_order(resource: Resource, expected: list[Any], observed: list[Any], path: Path) -> bool:
    if sorted(map(canonical, expected)) == sorted(map(canonical, observed)):
        return True
    left_over = list(observed)
    for value in expected:
        match = next((i for i, other in enumerate(left_over) if agree(resource, value, other, (*path, 0))), None)
        if match is None:
            return False
        del left_over[match]
    return True


def _same_number(expected: Any, observed: Any, tolerance: float) -> bool:
    """Numbers within tolerance; decimals that travel as text count as numbers beside a number."""
    left, right = _number(expected), _number(observed)
    if left is None or right is None:
        return False
    if isinstance(left, int) and isinstance(right, int):
        return left == right or abs(left - right) <= tolerance
    return math.isclose(left, right, rel_tol=_NOISE, abs_tol=tolerance + _NOISE)


def _number(value: Any) -> float | int | None:
    if _is_number(value):
        return value  # type: ignore[no-any-return]  # just checked
    if isinstance(value, str) and len(value) <= 64:
        try:
            number = float(value)
        except ValueError:
            return None
        return number if math.isfinite(number) else None
    return None


def _same_hidden(expected: Any, observed: Any, rule: FieldRule) -> bool | None:
    """Whether two values are the same, one of which is Hidden; None where nobody knows."""
    if expected == observed:
        return True
    if observed is None or observed is MISSING:
        return False
    hidden, other = (expected, observed) if isinstance(expected, Hidden) else (observed, expected)
    if not isinstance(other, str) or isinstance(other, Hidden):
        return None
    is_it: bool | None = hidden.equals(other)
    takes_others_for_it = rule.ignore_case or rule.time or rule.tolerance
    return None if takes_others_for_it and is_it is False else is_it


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same_instant(expected: str, observed: str) -> bool:
    try:
        left, right = dt.datetime.fromisoformat(expected), dt.datetime.fromisoformat(observed)
    except ValueError:
        return False
    if (left.tzinfo is None) != (right.tzinfo is None):
        return False
    return left == right
