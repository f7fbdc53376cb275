"""Rows as they must be if some effects landed in some way, and the record of how they came to be so.

Rows are never changed in place, so a world costs its index. A row whose state before is not known is `partial`: it
holds only what effects have set, and only that is ever compared.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from counterfoil_reconcilers.compare import agree
from counterfoil_reconcilers.contracts import Contracts, Resource, Target
from counterfoil_reconcilers.rows import Row, RowKey, Rows
from counterfoil_reconcilers.values import Json, Path, at, overlap
from counterfoil_reconcilers.veil import NO_VEIL, Veil

Times = Literal[0, 1, 2]


class Cell(NamedTuple):
    """A row's state in a world. `doc` None: the row does not exist. `partial`: only what `doc` holds is known.

    `there`: a row known in part must exist, even if nothing of it is known.
    """

    doc: Json
    partial: bool = False
    open: frozenset[Path] = frozenset()
    there: bool = False

    @property
    def fields(self) -> Mapping[str, Json]:
        """Its fields; none where there is no row, or it is no map."""
        return self.doc if isinstance(self.doc, dict) else {}


class Part(NamedTuple):
    """One thing that an effect changes: a field of a row, or with an empty path the row itself."""

    row: RowKey
    path: Path


class Touch(NamedTuple):
    """One application of a part in a fold: what was there, and what had to be there afterwards."""

    effect: int
    part: Part
    row: RowKey  # the part's row, or the one that a created row was found to be
    path: Path  # the part's path, or the element that was appended
    before: Any
    after: Any
    open: str | None = None
    relative: bool = False  # the value rests on the one before: a wrong one before it shows through

    def changes(self, resource: Resource) -> bool:
        """Whether anything had to become different."""
        return self.open is None and not agree(resource, self.before, self.after, self.path)


@dataclass
class World:
    """Rows as they must be, and how they came to be so."""

    cells: dict[RowKey, Cell] = field(default_factory=dict)
    touches: list[Touch] = field(default_factory=list)
    blind: dict[str, str] = field(default_factory=dict)  # resource ("*": any) -> why a write's row is not known
    problems: dict[int, list[str]] = field(default_factory=dict)
    searches: list[tuple[str, dict[str, Json]]] = field(default_factory=list)  # created rows without a known key
    contradicted: set[int] = field(default_factory=set)  # effects whose reply shows another row than this world
    doubtful: set[int] = field(default_factory=set)  # effects whose reply shows what is here, which is not their work
    made: set[RowKey] = field(default_factory=set)  # rows that were not there, and that effects changed all the same
    revived: set[RowKey] = field(default_factory=set)  # those of them that an effect had deleted
    secret: dict[RowKey, set[Path]] = field(default_factory=dict)  # places that hold what was made of redacted values

    def is_secret(self, row: RowKey, path: Path) -> bool:
        """Whether what stands there tells of redacted values."""
        return any(overlap(path, place) for place in self.secret.get(row, ()))


class Surroundings(NamedTuple):
    """What does not change between folds: contracts, rows, and which rows the effects write at all."""

    contracts: Contracts
    target: Target
    baseline: Rows
    observed: Rows
    written: frozenset[RowKey] = frozenset()
    everywhere: frozenset[RowKey] = frozenset()  # what all effects of the tenant write, these among them
    hides: bool = False  # an effect holds what was redacted and not found again
    veil: Veil = NO_VEIL  # over what evidence says

    def is_claimed(self, key: RowKey) -> bool:
        """Whether effects outside the group write this row, so that it cannot be a row created here."""
        return key in self.everywhere and key not in self.written


class TimesOf:
    """How often each part landed: the same for all, but for the parts named; and how often the whole call ran."""

    def __init__(self, usual: Times, others: Mapping[Part, Times] | None = None, runs: int = 1) -> None:
        self.usual: Times = usual
        self.runs = runs
        self.others = dict(others or {})

    @property
    def is_once(self) -> bool:
        """Whether all of it landed once."""
        return self.usual == 1 and self.runs == 1 and not self.others

    def __call__(self, part: Part) -> Times:
        return self.others.get(part, self.usual)

    def with_part(self, part: Part, times: Times) -> "TimesOf":
        """The same with one part changed."""
        return TimesOf(self.usual, {**self.others, part: times}, self.runs)


def candidates(
    resource: Resource, rows: Rows, fields: Mapping[str, Json], names: Iterable[str]
) -> Sequence[tuple[RowKey, Row]]:
    """The rows that may agree with a created one in the named fields: all, or those with a text that only itself is."""
    best: Sequence[tuple[RowKey, Row]] | None = None
    for name in names:
        value, rule = fields.get(name), resource.rule((name,))
        if type(value) is str and not (rule.ignore or rule.ignore_case or rule.time):  # a Hidden one is of another type
            found = rows.that_may_hold(resource.name, name, value)
            best = found if best is None or len(found) < len(best) else best
    return rows.of(resource.name) if best is None else best


def holds(resource: Resource, touch: Touch, doc: Json) -> bool:
    """Whether a row holds what a touch left there; of a created row, what the write names."""
    if touch.path == () and isinstance(touch.after, dict):
        return all(agree(resource, value, at(doc, (name,)), (name,)) for name, value in touch.after.items())
    return agree(resource, touch.after, at(doc, touch.path), touch.path)


def likeness(resource: Resource, cell: Cell, doc: Json, sure: tuple[str, ...] = ()) -> float:
    """The share of a created row's known fields that an observed row holds; 0 if a sure one differs."""
    known = [(name, value) for name, value in cell.fields.items() if (name,) not in cell.open]
    held = {name for name, value in known if agree(resource, value, at(doc, (name,)), (name,))}
    if not known or any(name not in held for name in sure):
        return 0.0
    return len(held) / len(known)
