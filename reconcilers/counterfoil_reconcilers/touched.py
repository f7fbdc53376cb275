"""Which rows an effect writes and reads, before anything is judged, and which effects therefore belong together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from counterfoil_reconcilers.contracts import Change, Contracts, Resource, Target
from counterfoil_reconcilers.expecting import NoExpectation, tool_of
from counterfoil_reconcilers.fold import Folder
from counterfoil_reconcilers.rows import NOT_READ, Effect, Row, RowKey, Rows
from counterfoil_reconcilers.scope import Reader
from counterfoil_reconcilers.values import Json
from counterfoil_reconcilers.world import Cell, Surroundings, TimesOf, World, candidates, likeness


@dataclass(frozen=True)
class Search:
    """A created row whose key is not known beforehand: it is looked for by these fields."""

    resource: str
    fields: tuple[tuple[str, Json], ...]


class Touched(NamedTuple):
    """What one effect needs read. `missing` rows were asked for and not given: read them and ask again.

    `may_be`: rows of which each may be one that it creates.
    """

    writes: frozenset[RowKey]
    reads: frozenset[RowKey]
    searches: tuple[Search, ...]
    missing: frozenset[RowKey]
    blind: Mapping[str, str]
    problems: tuple[str, ...]
    reason: str | None = None
    may_be: frozenset[RowKey] = frozenset()

    @property
    def is_final(self) -> bool:
        """Whether no row could change what it touches: nothing of it was read from rows, or asked for in vain."""
        return not (self.reads or self.searches or self.blind or self.problems) and self.missing <= self.writes


def resources_of(contracts: Contracts, effect: Effect, target: str, baseline: Rows, observed: Rows) -> Touched:
    """The rows of an effect at a target, as far as the rows known so far tell."""
    try:
        tool = tool_of(contracts, effect, target)
    except NoExpectation as error:
        return _unknown(str(error))
    if tool is None:
        return _unknown(f"no contract for tool {effect.tool}")
    survey = _Survey(contracts, contracts.targets[tool.target], baseline, observed, effect.hides)
    world = World()
    survey.apply(world, 0, effect, tool, TimesOf(1))
    writes = frozenset(key for key in world.cells if key.key[:1] != ("?",))
    searches = tuple(Search(name, tuple(sorted(fields.items()))) for name, fields in world.searches)
    needed = {key for key in writes if baseline.get(key) is NOT_READ and observed.get(key) is NOT_READ}
    return Touched(
        writes=writes,
        reads=frozenset(survey.asked),
        searches=searches,
        missing=frozenset(survey.missing | needed),
        blind=dict(world.blind),
        problems=tuple(world.problems.get(0, ())),
        may_be=frozenset(survey.may_be),
    )


def _unknown(reason: str) -> Touched:
    return Touched(frozenset(), frozenset(), (), frozenset(), {}, (), reason)


def connected(touched: Sequence[Touched]) -> list[list[int]]:
    """Indices of effects in groups: two that write a row are together, and one with who writes what it reads.

    So is one that creates a row with those that write any row which may be that one.
    """
    parent = list(range(len(touched)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    marks_of_searches = _marks(touched)
    owner: dict[RowKey | Search, int] = {}
    for index, one in enumerate(touched):
        marks: list[RowKey | Search] = [*one.writes, *(marks_of_searches[search] for search in one.searches)]
        for mark in marks:
            parent[root(index)] = root(owner.setdefault(mark, index))
    for index, one in enumerate(touched):
        for key in (*one.reads, *one.may_be):
            if key in owner:
                parent[root(index)] = root(owner[key])
    groups: dict[int, list[int]] = {}
    for index in range(len(touched)):
        groups.setdefault(root(index), []).append(index)
    return list(groups.values())


def _marks(touched: Sequence[Touched]) -> Mapping[Search, Search]:
    """What searches that may mean the same row have in common: their values, where all look by the same fields."""
    fields: dict[str, set[tuple[str, ...]]] = {}
    searches = [search for one in touched for search in one.searches]
    for search in searches:
        fields.setdefault(search.resource, set()).add(tuple(name for name, _ in search.fields))
    return {
        search: search if len(fields[search.resource]) == 1 and search.fields else Search(search.resource, ())
        for search in searches
    }


class _Survey(Folder):
    """A folder that notes every row that an expression asked for. What a row is changed to tells nothing besides."""

    def __init__(self, contracts: Contracts, target: Target, baseline: Rows, observed: Rows, hides: bool) -> None:
        super().__init__(Surroundings(contracts, target, baseline, observed, hides=hides))
        self.asked: set[RowKey] = set()
        self.missing: set[RowKey] = set()
        self.may_be: set[RowKey] = set()

    def follows(self, change: Change) -> bool:
        """Those that may look up a row."""
        return change.asks_rows

    def looked_for(self, resource: Resource, cell: Cell, sure: tuple[str, ...], told: RowKey | None) -> None:
        """Every new row that is alike: of two that were made by one call, later effects may have changed either.

        And the one that the reply names, which they may have deleted.
        """
        around = self._around
        if told is not None and not isinstance(around.baseline.get(told), Row):
            self.may_be.add(told)
        for key, row in candidates(resource, around.observed, cell.fields, sure):
            is_new = not isinstance(around.baseline.get(key), Row)
            alike = likeness(resource, cell, row.doc, sure) if is_new and row.problem is None else 0.0
            if alike >= 0.5 or (sure and alike):
                self.may_be.add(key)

    def noted(self, reader: Reader) -> None:
        self.asked |= reader.asked
        self.missing |= reader.missing
