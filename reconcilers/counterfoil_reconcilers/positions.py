"""From where on the changes of a resource are read, so that none is passed over that came to be seen late.

A change takes its place when it is made (a trigger's clock, a sequence), and may be seen later, when its transaction
ends. So the newest place of now is no beginning for the next sweep: only one that was the newest some time before the
last sweep looked. What stands before that was to be seen by then, or was late by more than the contract allows.
"""

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from counterfoil_consumers.store import Connection, queries
from counterfoil_reconcilers.contracts import Resource
from counterfoil_reconcilers.contracts import Target as Declared
from counterfoil_reconcilers.looking import tenant_at
from counterfoil_reconcilers.targets.port import Target, Watched


@dataclass(frozen=True)
class Position:
    """Where the newest change stood, in words of the target's own; None: there was none.

    `read_at`: the store's clock, read after this was, and before the rows were.
    """

    place: str | None
    read_at: dt.datetime


def beginning(known: Sequence[Position], late: dt.timedelta) -> Position | None:
    """Where the next sweep begins, given those that are known, the last sweep's own last; None if all is to be read.

    What the last sweep could not see yet was made at most `late` before it looked, so it stands no earlier than what
    was the newest before that.
    """
    old_enough = [position for position in known if known[-1].read_at - position.read_at >= late]
    return old_enough[-1] if old_enough else None


def kept(known: Sequence[Position], late: dt.timedelta) -> Sequence[Position]:
    """Those of them that a later sweep may begin at."""
    first = beginning(known, late)
    return known if first is None else known[known.index(first) :]


def newest(
    adapter: Target,
    declared: Declared,
    resource: Resource,
    tenant: str,
    known: Sequence[Position],
    now: Callable[[], dt.datetime],
) -> Position | None:
    """Where the newest change of the tenant's rows stands; None where the resource does not tell its changes.

    `now` is the store's clock. Raises TargetUnavailable.
    """
    if resource.changes is None or not isinstance(adapter, Watched):
        return None
    since = known[-1].place if known else None
    place = adapter.position(resource.name, tenant_at(declared, resource.name, tenant), since)
    return Position(place, now())


def lateness(declared: Declared, resource: Resource) -> dt.timedelta:
    """How late a change of the resource may come to be seen where it is read."""
    seconds = 0.0 if resource.changes is None else resource.changes.late_seconds
    return dt.timedelta(seconds=seconds) + declared.capabilities.read_lag


def read_positions(store: Connection, tenant: str, declared: Declared) -> dict[str, list[Position]]:
    """By resource, the oldest first; what was read under another declaration than the contract's now is left out."""
    found: dict[str, list[Position]] = {}
    where = {"tenant": tenant, "target": declared.name}
    for row in store.execute(queries("reconcile")["read_positions"], where):
        resource = declared.resources.get(row["resource"])
        if resource is not None and resource.changes is not None and resource.changes.way == row["way"]:
            pairs = zip(row["places"], row["read_ats"], strict=True)
            found[resource.name] = [Position(place, read_at) for place, read_at in pairs]
    return found


def set_positions(
    store: Connection, tenant: str, declared: Declared, positions: Mapping[str, Sequence[Position]]
) -> None:
    """From now on these are what is known of the resources; to be called where a sweep is marked."""
    for name, known in positions.items():
        changes = declared.resources[name].changes
        assert changes is not None  # noqa: S101  # nobody else has positions
        params = {
            "tenant": tenant,
            "target": declared.name,
            "resource": name,
            "way": changes.way,
            "places": [position.place for position in known],
            "read_ats": [position.read_at for position in known],
        }
        store.execute(queries("reconcile")["set_positions"], params)
