"""What an explanation is charged for how it says that each effect landed.

A way of landing costs nothing where it is what the agent said, and about a hundred where it is a fault, so that an
explanation with one fault less wins; what is below a hundred breaks ties. Faults at one stroke are charged together:
a target that lost the last writes, as a replica has that takes over before they came, or that took all of them twice.
"""

from collections.abc import Collection, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, Literal

from counterfoil_reconcilers.rows import Effect, RowKey

# `twice`: the same values were written again; `again`: the call ran once more, on what the first had left.
Way = Literal["once", "never", "twice", "again", "parts"]
Ways = tuple[Way, ...]

FAULT: Final = 100.0
_TWICE: Final = 1.0
_PARTS: Final = 2.0
_REFUSED: Final = 20.0  # a definite refusal is believed before a success is
_IDLE: Final = 40.0  # a call that changed nothing is the less likely culprit
_ONE_CAUSE: Final = 1.5  # faults

# What each way costs, by what the agent saw.
_DOUBLED: Final[dict[Way, float]] = {"twice": FAULT + _TWICE, "again": FAULT + 1.5 * _TWICE}
_CLAIMED: Final[dict[Way, float]] = {"once": 0, "never": FAULT, **_DOUBLED, "parts": FAULT + _PARTS}
_REJECTED: Final[dict[Way, float]] = {
    "never": 0,
    "once": FAULT + _REFUSED,
    "parts": FAULT + _REFUSED + _PARTS,
    "twice": 2 * FAULT,
}
_COSTS: Final[dict[str, dict[Way, float]]] = {
    "ok": _CLAIMED,
    "accepted": _CLAIMED,
    "unknown": {**_CLAIMED, "never": 0.5},
    "partial": {"parts": 0, "once": 2, "never": 2, **_DOUBLED},
    "failed": _REJECTED,
    "denied": _REJECTED,
}


def is_fault(outcome: str, way: Way) -> bool:
    """Whether an effect that landed in this way is not what the agent saw."""
    return _COSTS[outcome][way] >= FAULT


def ways_of(outcome: str) -> Collection[Way]:
    """The ways in which an effect may have landed of which the agent saw this."""
    return _COSTS[outcome]


class Charges:
    """Charges for the effects of one group. `reach`: the rows that each may have touched; `idle`: changed nothing."""

    def __init__(self, effects: Sequence[Effect], reach: Sequence[AbstractSet[RowKey]], idle: AbstractSet[int]) -> None:
        self._effects = effects
        self._reach = reach
        self._idle = idle

    @property
    def usual(self) -> Ways:
        """The ways that cost least: what the agents saw."""
        return tuple(min(costs, key=costs.__getitem__) for costs in (_COSTS[one.outcome] for one in self._effects))

    def of(self, ways: Ways) -> float:
        """What it costs that each effect landed in its way."""
        total = 0.0
        faulty: dict[Way, list[int]] = {}
        for index, (effect, way) in enumerate(zip(self._effects, ways, strict=True)):
            cost = _COSTS[effect.outcome][way]
            if cost >= FAULT:
                faulty.setdefault(way, []).append(index)
                if index in self._idle:
                    cost += _IDLE
            if way in ("twice", "again") and effect.attempts > 1:
                cost -= 2 * _TWICE  # every further intent makes it likelier
            total += cost
        for indices in faulty.values():
            if len(indices) > _ONE_CAUSE and self._have_one_cause(ways, indices):
                total -= FAULT * (len(indices) - _ONE_CAUSE)
        return total

    def of_one_cause(self) -> Iterator[Ways]:
        """From some effect on, all were lost, or all that share rows with it; or all that landed did so twice."""
        usual = self.usual
        landed = [index for index, way in enumerate(usual) if way != "never"]
        for first in landed:
            later = [index for index in landed if index >= first]
            yield _with(usual, later, "never")
            yield _with(usual, [index for index in later if self._reach[first] & self._reach[index]], "never")
        yield _with(usual, landed, "twice")
        yield _with(usual, landed, "again")

    def _have_one_cause(self, ways: Ways, indices: Sequence[int]) -> bool:
        """Whether nothing else of what reached their rows landed any better: after the first, where these were lost."""
        way = ways[indices[0]]
        if way not in ("never", "twice", "again"):
            return False
        rows = frozenset[RowKey]().union(*(self._reach[index] for index in indices))
        others = range(indices[0] if way == "never" else 0, len(self._effects))
        return all(
            ways[index] == way or self._effects[index].outcome in ("failed", "denied") or not rows & self._reach[index]
            for index in others
        )


def _with(ways: Ways, indices: Collection[int], way: Way) -> Ways:
    return tuple(way if index in indices else one for index, one in enumerate(ways))
