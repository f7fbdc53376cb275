"""What a kind of target says of itself, so that a contract can be checked before anything is connected to.

Kinds are found by the entry points of `counterfoil.targets`, ours like anybody else's (docs/targets.md).
"""

import datetime as dt
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Literal

from counterfoil.errors import CounterfoilError
from counterfoil_reconcilers.contract_files import Written, did_you_mean

GROUP = "counterfoil.targets"


class KindMissing(CounterfoilError):
    """There is no such kind, or what it needs is not installed; the sentence says what to do."""


@dataclass(frozen=True)
class Capabilities:
    """What targets of a kind can do; a contract may say how long the windows of one of them are.

    `finds`: rows by what they hold, without their key. `lists`: every row of a resource. `consistent`: one read sees
    all its rows at one moment. `idempotent_for`: how long the target itself takes two writes with one idempotency
    key for one; None where it does not. `read_lag`: how much older than now a read may be.
    """

    finds: bool = False
    lists: bool = False
    consistent: bool = False
    idempotent_for: dt.timedelta | None = None
    read_lag: dt.timedelta = dt.timedelta(0)


class NoOptions(Written):
    """A table of a contract that knows no keys besides those of every kind."""


@dataclass(frozen=True)
class KindDescription:
    """One kind of target. `ours`: the language of the predicate in `writers = { ours = "..." }`.

    `target_options` and `resource_options` are the keys that its tables in a contract have besides those of every kind.
    """

    name: str
    capabilities: Capabilities
    resource_options: type[Written]
    target_options: type[Written] = NoOptions
    ours: Literal["cel", "sql"] = "cel"


@cache
def entry_points_of_kinds() -> dict[str, EntryPoint]:
    """All that are installed, by name."""
    return {found.name: found for found in entry_points(group=GROUP)}


@cache
def find_kind(name: str) -> KindDescription:
    """The kind of that name.

    Raises KindMissing.
    """
    known = entry_points_of_kinds()
    if name not in known:
        raise KindMissing(f"there is no kind {name}{did_you_mean(name, known)}")
    try:
        kind = known[name].load()
    except ImportError as error:
        needed = f"targets of kind {name} need {error.name}, which is not installed"
        raise KindMissing(f"{needed}; run pip install 'counterfoil[targets]'") from error
    if not isinstance(kind, KindDescription):
        raise KindMissing(f"the entry point {known[name].value} of kind {name} is no Kind; see docs/targets.md")
    return kind
