"""The places in a write's arguments and reply, and what stands there."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from counterfoil_console.drafts.naming import read
from counterfoil_reconcilers.values import MISSING, at

Variables = Mapping[str, Any]  # args and, unless it was lost, result: of one write, in the form that is compared

_DEEPEST = 4


@dataclass(frozen=True)
class Leaf:
    """A place in a write's arguments or reply, such as args.order.id."""

    variable: str
    names: tuple[str, ...]

    @property
    def expression(self) -> str:
        """As a contract reads it."""
        return read(self.variable, *self.names)

    def of(self, variables: Variables) -> Any:
        """What stands there; MISSING where nothing does."""
        return at(variables[self.variable], self.names) if self.variable in variables else MISSING


def leaves_of(writes: Sequence[Variables]) -> list[Leaf]:
    """Every place that holds something in one of the writes, lists as a whole, arguments first."""
    found: dict[Leaf, None] = {}
    for variable in ("args", "result"):
        for one in writes:
            if isinstance(one.get(variable), dict):
                found.update(dict.fromkeys(Leaf(variable, names) for names, _ in paths_in(one[variable])))
    return list(found)


def paths_in(value: Any, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Each place inside a value, as far down as maps go, with what stands there; `names` lead to the value."""
    if isinstance(value, dict) and value and len(names) < _DEEPEST:
        for name, item in value.items():
            yield from paths_in(item, (*names, name))
    elif names:
        yield names, value


def is_scalar(value: Any) -> bool:
    """Whether it is a text or a number, and so may be a key."""
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is a number; true and false are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def arguments_of(writes: Sequence[Variables]) -> str:
    """Each argument with its types, and in how many of the writes it stands."""
    told = []
    for leaf in leaves_of(writes):
        if leaf.variable != "args":
            continue
        values = [value for one in writes if (value := leaf.of(one)) is not MISSING]
        types = sorted({_type(value) for value in values})
        often = "" if len(values) == len(writes) else f", in {len(values)}"
        told.append(f"{'.'.join(leaf.names)} ({' or '.join(types)}{often})")
    return ", ".join(told) or "none"


def _type(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case str():
            return "text"
        case list():
            return "list"
        case dict():
            return "map"
    return "number"


def many(count: int, noun: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{count} {noun}{'s' if count != 1 else ''}"
