"""The explanation of what was observed that needs the fewest faults.

Each effect of a group is taken to have landed once, not at all, twice, or in parts, which costs something where it is
not what the agent said (see `charges`). So does what an explanation leaves to chance: a value that some write is said
to have left instead of its own, or that nobody is said to have left, would explain anything. Ways are tried cheapest
first, and only changed for effects that touch rows which do not fit.
"""

import heapq
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from itertools import product, takewhile
from typing import Any, Final, Literal, NamedTuple

from counterfoil_reconcilers.charges import FAULT, Charges, Way, Ways, ways_of
from counterfoil_reconcilers.compare import differences
from counterfoil_reconcilers.contracts import Resource
from counterfoil_reconcilers.expecting import tool_of
from counterfoil_reconcilers.fold import Folder
from counterfoil_reconcilers.rows import NOT_READ, Effect, Row, RowKey, Rows
from counterfoil_reconcilers.values import MISSING, Path, at, overlap
from counterfoil_reconcilers.world import (
    Cell,
    Part,
    Surroundings,
    Times,
    TimesOf,
    Touch,
    World,
    candidates,
    holds,
    likeness,
)

_UNEXPLAINED: Final = 25.0
_UNEXPLAINED_OWNED: Final = 40.0
_EARLIER: Final = 0.25  # of several that may have written a wrong value, the last is asked first
_CONTRADICTED: Final = (0, 60.0, 90.0)  # by how many replies show another row: what was seen then outranks a guess
_MADE: Final = 2.8 * FAULT  # a change that made its row, although its contract does not say that it creates one
_REVIVED: Final = 8 * FAULT
_DOUBTFUL: Final = 0.3  # a reply that shows the row as the write left it, which is not as it should have
_CHANCE: Final = 1.7  # faults that it takes to make up for any value at all, and one more where two places hold one
_COINCIDENCE: Final = 5.0  # a row without a known past already holds what an absent write would have set
_MOST_STEPS: Final = 200_000
_STEPS_BEYOND: Final = 15_000  # once nothing has fewer faults
_MOST_TRIALS: Final = 16
_MOST_JOINT: Final = 4  # parts that are tried in every combination


class Misfit(NamedTuple):
    """A place where the observed row is not what an explanation says it must be."""

    row: RowKey
    path: Path
    expected: Any
    observed: Any


class Explanation(NamedTuple):
    """How each effect landed, the world that follows, and what it leaves unexplained."""

    cost: float
    chance: float  # as much of the cost is for values that nothing explains
    ways: Ways
    times: tuple[TimesOf, ...]
    world: World
    misfits: tuple[Misfit, ...]
    wrong: tuple[tuple[int, Part], ...]  # parts that landed with another value
    intended: tuple[list[Touch], ...] = ()  # per effect, what it changed or would have changed
    searched: Literal["all", "cut short"] = "all"


class Searcher:
    """Looks for the cheapest explanation of one group."""

    def __init__(self, around: Surroundings, effects: Sequence[Effect]) -> None:
        self.around = around
        self._effects = effects
        self._folder = Folder(around)
        self.rows: set[RowKey] = set(around.written)
        self._reach: list[set[RowKey]] = [set() for _ in effects]
        self._idle: set[int] = set()
        self._lookalikes: set[RowKey] = set()
        self._own: set[RowKey] = set()  # lookalikes that bear an effect's id, so that nobody else can have made them
        self._open: list[int] = []
        self._survey()
        if any(around.baseline.get(key) is NOT_READ for key in self._own):
            # They were not there before the effects whose ids they bear, whoever changed them since.
            before = Rows({**around.baseline.rows, **dict.fromkeys(self._own)}, around.baseline.whole)
            self.around = around._replace(baseline=before)
            self._folder = Folder(self.around)
            self._survey()

    def _survey(self) -> None:
        """One fold in which everything landed shows which rows each effect reaches, and which had nothing to change."""
        world = self._fold([TimesOf(1)] * len(self._effects))
        self._all_landed = world
        self.rows |= {key for key in world.cells if key.key[:1] != ("?",)}
        changing: set[int] = set()
        for touch in world.touches:
            self._reach[touch.effect].add(touch.row)
            if touch.open or touch.changes(self._resource(touch.row)):
                changing.add(touch.effect)
            if touch.part.row.key[:1] == ("?",):
                self._add_lookalikes(touch, world)
        self._idle = set(range(len(self._effects))) - changing
        claims = [TimesOf(0 if effect.outcome in ("failed", "denied") else 1) for effect in self._effects]
        claimed = world if all(times.usual == 1 for times in claims) else self._fold(claims)
        self._open = [_open_count(claimed, index) for index in range(len(self._effects))]
        self._charges = Charges(self._effects, self._reach, self._idle)

    def _add_lookalikes(self, touch: Touch, world: World) -> None:
        """Further new rows with the content of a created one: the second of a doubled write is among them."""
        resource = self._resource(touch.row)
        # As it was made: later effects may have changed it, or deleted it.
        cell, observed = world.cells[touch.row]._replace(doc=touch.after), self.around.observed
        names = self._names_of_id(touch.effect, cell)
        known = names or [name for name in cell.fields if (name,) not in cell.open]
        alike = dict(candidates(resource, observed, cell.fields, known))
        own = observed.get(touch.row)
        for key, row in ({touch.row: own, **alike} if isinstance(own, Row) else alike).items():
            before = self.around.baseline.get(key)
            new = not isinstance(before, Row) and not self.around.is_claimed(key)
            bears_id = bool(names) and likeness(resource, cell, row.doc, names) > 0
            if before is NOT_READ and self.around.target.writers is not None and key != touch.row:
                new = new and bears_id  # else it may have been there all along
            if new and (key == touch.row or bears_id or likeness(resource, cell, row.doc) == 1.0):
                self._lookalikes.add(key)
                if bears_id:
                    self._own.add(key)
                self.rows.add(key)
                self._reach[touch.effect].add(key)

    def _names_of_id(self, index: int, cell: Cell) -> tuple[str, ...]:
        """The fields in which what an effect creates bears the effect's own id, which tells it from all else."""
        effect_id = self._effects[index].effect_id.hex()
        return tuple(name for name, value in cell.fields.items() if value == effect_id and (name,) not in cell.open)

    def best(self) -> Explanation:
        """The cheapest explanation; `cut short` says that not everything was tried."""
        start = self._charges.usual
        frontier: list[tuple[float, int, Ways]] = [(self._charges.of(start), 0, start)]
        seen = {start}
        best: Explanation | None = None
        enough = _MOST_STEPS
        while frontier:
            cost, _, ways = heapq.heappop(frontier)
            if best is not None and cost >= best.cost:
                break
            if best is not None and cost >= best.cost - best.chance:
                # Nothing has fewer faults; whether some more of them leave less to chance is looked for a while.
                enough = min(enough, self._folder.steps + _STEPS_BEYOND)
            if best is not None and self._folder.steps > enough:
                if enough < _MOST_STEPS:
                    break
                return best._replace(searched="cut short", intended=self._intended(best))
            found = self.explain(ways)
            if best is None or found.cost < best.cost:
                best = found
            at_one_stroke = self._charges.of_one_cause() if ways == start and found.cost >= FAULT else ()
            for other in (*self._neighbours(found), *at_one_stroke):
                if other not in seen:
                    seen.add(other)
                    heapq.heappush(frontier, (self._charges.of(other), len(seen), other))
        assert best is not None  # noqa: S101  # the frontier begins with one
        return best._replace(intended=self._intended(best))

    def _intended(self, best: Explanation) -> tuple[list[Touch], ...]:
        """Per effect its touches with every part landed once, all others as explained; for evidence only."""
        intended: list[list[Touch]] = []
        for index in range(len(self._effects)):
            world = best.world
            if best.ways[index] in ("never", "parts"):
                world = self._fold([TimesOf(1) if i == index else times for i, times in enumerate(best.times)])
            intended.append([touch for touch in world.touches if touch.effect == index])
        return tuple(intended)

    def explain(self, ways: Ways) -> Explanation:
        """The explanation in which each effect landed in the given way, its parts chosen to fit best."""
        usual: dict[Way, Times] = {"never": 0, "twice": 2}
        times = [TimesOf(usual.get(way, 1), runs=2 if way == "again" else 1) for way in ways]
        world, misfits = self._compare(times)
        wrong: list[tuple[int, Part]] = []
        world, misfits = self._fit_parts([i for i, way in enumerate(ways) if way == "parts"], times, world, misfits)
        cost = self._charges.of(ways)
        for index, way in enumerate(ways):
            if way == "parts":
                parts = {part for m in misfits if (part := _wrong_part(world, m, index)) is not None}
                wrong += [(index, part) for part in sorted(parts, key=repr)]
                cost += min(len(times[index].others) + 2 * len(parts), 9)
                cost += _EARLIER * any((t := _owner(world, m)) and t.effect != index for m in misfits)
        excused, left = _parted(world, misfits, wrong)
        price, unexplained = self._price(world, left)
        chance = self._chance((*excused, *unexplained))
        cost += price + chance + _CONTRADICTED[min(len(world.contradicted), 2)] + _DOUBTFUL * len(world.doubtful)
        cost += _MADE * len(self._made(world))
        if self.around.target.writers == "exclusive":  # else somebody else may have made it
            cost += _REVIVED * len(world.revived)
        cost += FAULT * sum(_open_count(world, index) > count for index, count in enumerate(self._open))
        cost += sum(self._coincidences(index) for index, way in enumerate(ways) if way == "never")
        return Explanation(cost, chance, ways, tuple(times), world, tuple(left), tuple(wrong))

    def _neighbours(self, found: Explanation) -> Iterator[Ways]:
        """The same ways with one effect changed, for effects that reach a row that does not fit."""
        rows = {misfit.row for misfit in found.misfits} | {part.row for _, part in found.wrong} | found.world.made
        unfit = bool(rows) or bool(found.world.contradicted)
        for index, effect in enumerate(self._effects):
            if not unfit or (rows and not rows & self._reach[index] and effect.outcome not in ("unknown", "partial")):
                continue
            for way in ways_of(effect.outcome):
                if way != found.ways[index]:
                    yield (*found.ways[:index], way, *found.ways[index + 1 :])

    def _fold(self, times: Sequence[TimesOf]) -> World:
        world = World()
        for index, effect in enumerate(self._effects):
            tool = tool_of(self.around.contracts, effect, self.around.target.name)
            assert tool is not None  # noqa: S101  # without one it is not explained
            told = None
            if effect.reply is not None and not times[index].is_once:
                # However it landed, its reply told what it had found there, and what was to follow.
                told = World(cells=dict(world.cells))
                self._folder.apply(told, index, effect, tool, TimesOf(1))
            for _ in range(times[index].runs):
                self._folder.apply(world, index, effect, tool, times[index])
            if told is not None and index not in told.contradicted:
                world.contradicted.discard(index)
            elif told is not None and index not in world.contradicted:
                world.doubtful.add(index)
        return world

    def _compare(self, times: Sequence[TimesOf]) -> tuple[World, list[Misfit]]:
        world = self._all_landed if all(one.is_once for one in times) else self._fold(times)
        for key in self._lookalikes:
            if self._counts(key):
                world.cells.setdefault(key, Cell(None))
        for key in self.rows:
            self._folder.cell(world, key)
        misfits: list[Misfit] = []
        for key, cell in list(world.cells.items()):
            misfits += self._misfits(world, key, cell)
        return world, misfits

    def _misfits(self, world: World, key: RowKey, cell: Cell) -> Iterator[Misfit]:
        resource = self._resource(key)
        observed = self.around.observed.get(key)
        if key.key[:1] == ("?",):
            observed = None
        if observed is NOT_READ or (isinstance(observed, Row) and observed.problem):
            return
        doc = observed.doc if isinstance(observed, Row) else None
        if () in cell.open:
            return
        if cell.doc is None or doc is None:
            known = not cell.partial or bool(cell.doc) or cell.there
            if known and (cell.doc is None) != (doc is None):
                yield Misfit(key, (), MISSING if cell.doc is None else cell.doc, MISSING if doc is None else doc)
            return
        for path, value in _known(world, key, cell):
            for difference in differences(resource, value, at(doc, path), path):
                if not any(overlap(difference.path, other) for other in cell.open):
                    yield Misfit(key, difference.path, difference.expected, difference.observed)
        if key in self._made(world) and isinstance(doc, dict):
            # A change is said to have made this row: what it does not name came from elsewhere.
            named = {*resource.key, *(str(touch.path[0]) for touch in world.touches if touch.row == key and touch.path)}
            for name, value in doc.items():
                if name not in named and value is not None and not resource.rule((name,)).ignore:
                    yield Misfit(key, (name,), MISSING, value)

    def _fit_parts(
        self, halves: Sequence[int], times: list[TimesOf], world: World, misfits: list[Misfit]
    ) -> tuple[World, list[Misfit]]:
        """Choose, part by part, whether it landed once, not at all or twice: whatever leaves fewer misfits.

        A few parts are tried in every combination; of more, one is chosen after the other.
        """
        parts = [
            (index, part)
            for index in halves
            for part in dict.fromkeys(touch.part for touch in world.touches if touch.effect == index)
            if (part.row not in world.made or not part.path)  # with the row goes what is in it
            and (part.row in world.made or any(self._concerns(world, part, misfit) for misfit in misfits))
        ]
        unfit = self._unfit(world, misfits)
        for trial in _trials(parts):
            if unfit == (0, 0):
                break
            if any(choice == 0 and self._holds_another_value(part) for (_, part), choice in trial):
                continue
            other = list(times) if len(parts) > _MOST_JOINT else [TimesOf(one.usual, None, one.runs) for one in times]
            for (index, part), choice in trial:
                other[index] = other[index].with_part(part, choice)
            tried_world, tried = self._compare(other)
            tried_unfit = self._unfit(tried_world, tried)
            if tried_unfit < unfit:
                times[:], world, misfits, unfit = other, tried_world, tried, tried_unfit
        if len(parts) > _MOST_JOINT and misfits:
            # What fits no better without a part is its other value.
            places = {(misfit.row, misfit.path[:1]) for misfit in misfits}
            other = list(times)
            for index, part in parts:
                if (part.row, part.path[:1]) in places:
                    other[index] = other[index].with_part(part, 1)
            tried_world, tried = self._compare(other)
            if self._unfit(tried_world, tried) <= unfit:
                times[:], world, misfits = other, tried_world, tried
        return world, misfits

    def _unfit(self, world: World, misfits: Sequence[Misfit]) -> tuple[int, int]:
        """How much does not fit, and how many replies."""
        places = {(misfit.row, _outside_lists(misfit.path)) for misfit in misfits}
        return len(places) + len(self._made(world)), len(world.contradicted)

    def _made(self, world: World) -> AbstractSet[RowKey]:
        """The rows that nobody else can have made than the changes that found none there."""
        return world.made if self.around.target.writers == "exclusive" else world.made & self._own

    def _concerns(self, world: World, part: Part, misfit: Misfit) -> bool:
        """Whether a misfit may come from this part: it is at the part's place, or a row like the one it creates."""
        if part.row.key[:1] == ("?",):
            rows = {touch.row for touch in world.touches if touch.part == part} | self._lookalikes
            return misfit.row in rows and misfit.row.resource == part.row.resource
        return misfit.row == part.row and overlap(misfit.path, part.path)

    def _holds_another_value(self, part: Part) -> bool:
        """In a row without a known past, a value that is not the intended one is not an absent one either."""
        observed = self.around.observed.get(part.row)
        if self.around.baseline.get(part.row) is not NOT_READ or not isinstance(observed, Row):
            return False
        return at(observed.doc, part.path) not in (MISSING, None)

    def _price(self, world: World, misfits: Sequence[Misfit]) -> tuple[float, list[Misfit]]:
        """A row that nothing explains costs a fault, and more if an effect wrote there: then the effect is asked.

        Returns what they cost, and those that count.
        """
        rows: dict[RowKey, float] = {}
        counted: list[Misfit] = []
        for misfit in misfits:
            owner = _owner(world, misfit)
            if misfit.path and misfit.row in self._own and not self.is_swept(misfit.row):
                continue  # that it was made is certain, and what it holds now may be another's
            owned = owner is not None and owner.effect not in self._idle
            if not owned and not self._counts(misfit.row):
                continue
            price = FAULT + (_UNEXPLAINED_OWNED if owned else _UNEXPLAINED)
            rows[misfit.row] = max(rows.get(misfit.row, 0.0), price)
            counted.append(misfit)
        return sum(rows.values()), counted

    def _chance(self, misfits: Sequence[Misfit]) -> float:
        """What it costs to leave values to chance: rather than that, some writes were lost, doubled or done by half.

        Not in rows without a known past, of which the values before are anybody's guess anyway.
        """
        places: dict[RowKey, int] = {}
        for misfit in misfits:
            if self.around.baseline.get(misfit.row) is not NOT_READ:
                places[misfit.row] = places.get(misfit.row, 0) + 1
        return FAULT * sum(_CHANCE + min(count - 1, 1) for count in places.values())

    def _counts(self, key: RowKey) -> bool:
        """Whether a row that nothing explains is a fault: where it is swept, or bears the id of an effect."""
        return key in self._own or self.is_swept(key)

    def is_swept(self, key: RowKey) -> bool:
        """Whether a change of this row that nothing explains counts at all."""
        if self.around.target.writers is None:
            return False
        observed = self.around.observed.get(key)
        return self.around.target.writers == "exclusive" or (isinstance(observed, Row) and observed.ours is not False)

    def _coincidences(self, index: int) -> float:
        """What an absent write would have set is there already, in a row whose past is not known."""
        found = 0
        for key in self._reach[index]:
            observed = self.around.observed.get(key)
            if self.around.baseline.get(key) is not NOT_READ or not isinstance(observed, Row):
                continue
            alone = [TimesOf(1 if other == index else 0) for other in range(len(self._effects))]
            left = (touch for touch in self._fold(alone).touches if touch.row == key and not touch.open)
            found += sum(holds(self._resource(key), touch, observed.doc) for touch in left)
        return _COINCIDENCE * found

    def _resource(self, key: RowKey) -> Resource:
        return self.around.target.resources[key.resource]


def _trials(parts: Sequence[tuple[int, Part]]) -> Iterator[Sequence[tuple[tuple[int, Part], Times]]]:
    """What to try: of few parts all combinations, those first in which most landed once; else all alike, then each."""
    ways: tuple[Times, ...] = (1, 0, 2)
    if len(parts) > _MOST_JOINT:
        yield from ([(part, choice) for part in parts] for choice in (ways[1], ways[2]))
        yield from ([(part, choice)] for part in parts[:_MOST_TRIALS] for choice in ways)
        return
    for chosen in sorted(product(ways, repeat=len(parts)), key=lambda times: sum(one != 1 for one in times)):
        trial = [(part, choice) for part, choice in zip(parts, chosen, strict=True) if choice != 1]
        if trial:
            yield trial


def _outside_lists(path: Path) -> Path:
    """The path up to the first list: of lists as long as each other, more than one element may differ."""
    return tuple(takewhile(lambda step: isinstance(step, str), path))


def _open_count(world: World, index: int) -> int:
    """How much of an effect has no value: more of it than by the agent's account means that it cannot have run so."""
    problems = len(world.problems.get(index, ()))
    return problems + sum(1 for touch in world.touches if touch.effect == index and touch.open)


def _known(world: World, key: RowKey, cell: Cell) -> Iterator[tuple[Path, Any]]:
    """What of a cell can be compared: all of it, or the fields that were set in a row known in part."""
    if not cell.partial:
        yield (), cell.doc
        return
    created = False
    paths: dict[Path, None] = {}
    for touch in world.touches:
        if touch.row == key and not touch.open:
            created = created or touch.path == ()
            paths[touch.part.path] = None
    if created or not paths:
        paths = {(name,): None for name in cell.fields}
    for path in paths:
        yield path, at(cell.doc, path)


def _owner(world: World, misfit: Misfit) -> Touch | None:
    """The last application that wrote where the misfit is; one of an element goes before one of the whole list."""
    overlapping = [t for t in world.touches if t.row == misfit.row and not t.open and overlap(t.path, misfit.path)]
    return overlapping[-1] if overlapping else None


def _wrong_part(world: World, misfit: Misfit, index: int) -> Part | None:
    """The part of an effect that would explain a misfit by another value: what came later must have built on it.

    That a row is there, or is not, is no value that a change of its fields could have left.
    """
    is_existence = misfit.path == () and MISSING in (misfit.expected, misfit.observed)
    touch: Touch
    for touch in reversed(world.touches):
        if is_existence and touch.path != ():
            continue
        if touch.row == misfit.row and not touch.open and overlap(touch.path, misfit.path):
            if touch.effect == index:
                return touch.part
            if not touch.relative:
                return None
    return None


def _parted(
    world: World, misfits: Sequence[Misfit], wrong: Sequence[tuple[int, Part]]
) -> tuple[list[Misfit], list[Misfit]]:
    """Those that are a part's other value, and those that are not."""
    excused: list[Misfit] = []
    left: list[Misfit] = []
    for misfit in misfits:
        is_excused = any(_wrong_part(world, misfit, index) == part for index, part in wrong)
        (excused if is_excused else left).append(misfit)
    return excused, left
