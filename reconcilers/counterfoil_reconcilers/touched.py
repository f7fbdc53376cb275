"""Which rows an effect writes and reads, before anything is judged, and which effects therefore belong together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from counterfoil_reconcilers.contracts import Change, Contracts, Target
from counterfoil_reconcilers.expecting import NoExpectation, tool_of
from counterfoil_reconcilers.fold import Folder
from counterfoil_reconcilers.rows import NOT_READ, Effect, RowKey, Rows
from counterfoil_reconcilers.scope import Reader
from counterfoil_reconcilers.values import Json
from counterfoil_reconcilers.world import Surroundings, TimesOf, World


@dataclass(frozen=True)
class Search:
    """A created row whose key is not known beforehand: it is looked for by these fields."""

    resource: str
    fields: tuple[tuple[str, Json], ...]


class Touched(NamedTuple):
    """What one effect needs read. `missing` rows were asked for and not given: read them and ask again."""

    writes: frozenset[RowKey]
    reads: frozenset[RowKey]
    searches: tuple[Search, ...]
    missing: frozenset[RowKey]
    blind: Mapping[str, str]
    problems: tuple[str, ...]
    reason: str | None = None

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
    )


def _unknown(reason: str) -> Touched:
    return Touched(frozenset(), frozenset(), (), frozenset(), {}, (), reason)


def connected(touched: Sequence[Touched]) -> list[list[int]]:
    """Indices of effects in groups: two that write a row, or of which one reads what another writes, are together."""
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
        for key in one.reads:
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

    def follows(self, change: Change) -> bool:
        """Those that may look up a row."""
        return change.asks_rows

    def noted(self, reader: Reader) -> None:
        self.asked |= reader.asked
        self.missing |= reader.missing
