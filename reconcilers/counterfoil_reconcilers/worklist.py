"""What is to be looked at, and who may: leases on one tenant's effects at one target, and the effects that are due.

Any number of reconcilers share the work. A lease is taken with `FOR UPDATE SKIP LOCKED`, bears a higher epoch each
time, and is held again in every transaction that writes under it; whoever lost it writes nothing.
"""

import datetime as dt
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from counterfoil.errors import CounterfoilError
from counterfoil_consumers.binary_copy import Items, booleans, byteas, texts, timestamptzs, uuids
from counterfoil_consumers.store import Connection, array_text, arrays_text, fetch_one, queries
from counterfoil_reconcilers.marks import Marks
from counterfoil_reconcilers.settling import Sighting

LEASE_SECONDS = 60.0
_NEVER = dt.datetime.max.replace(tzinfo=dt.UTC)
Found = Mapping[str, Any]  # an effect and how far its checking has come, as a row of the store


class LeaseLost(CounterfoilError):
    """Another reconciler took over; nothing of this pass was written."""


@dataclass(frozen=True)
class Pair:
    """One tenant's effects at one target. `sweep_every`: how often it is swept; None where it is not."""

    tenant: str
    target: str
    sweep_every: dt.timedelta | None


@dataclass(frozen=True)
class Selection:
    """Which effects to look at: of these targets, this tenant, or a single one; None where all are meant."""

    targets: Sequence[str] | None = None
    tenant: str | None = None
    effect_id: uuid.UUID | None = None

    def takes(self, pair: Pair) -> bool:
        """Whether effects of this pair are among them."""
        is_target = self.targets is None or pair.target in self.targets
        return is_target and self.tenant in (None, pair.tenant)


@dataclass(frozen=True)
class Lease:
    """The right to judge one pair until it ends. `now` is the store's clock when it was taken.

    Of sweeps: when the last was, when the last that listed every row, and when the last two that nothing can have
    escaped.
    """

    tenant: str
    target: str
    owner: str
    epoch: int
    check_seq: int
    swept_at: dt.datetime | None
    fully_swept_at: dt.datetime | None
    full_sweep_seconds: float
    saw_all_at: dt.datetime | None
    saw_all_before: dt.datetime | None
    first_fence: tuple[int, ...] | None
    failures: int
    troubled_since: dt.datetime | None
    now: dt.datetime

    @property
    def where(self) -> dict[str, Any]:
        """Parameters of queries about this pair, and of those that hold the lease."""
        return {"tenant": self.tenant, "target": self.target, "owner": self.owner, "epoch": self.epoch}


class CheckState(NamedTuple):
    """How far the checking of one effect has come now."""

    effect_id: uuid.UUID
    sighting: Sighting
    emitted: str | None
    settled_at: dt.datetime | None
    due_at: dt.datetime
    marks: Marks
    is_closed: bool
    absent_fence: Sequence[int] | None  # closed as absent: no attempt before these offsets landed


def take_lease(store: Connection, owner: str, pairs: Sequence[Pair], *, everything: bool) -> Lease | None:
    """The lease of that pair which waited longest, of those that have something due; None if there is none.

    `everything`: whether anything is due there or not.
    """
    params = {
        "tenants": [pair.tenant for pair in pairs],
        "wanted": [pair.target for pair in pairs],
        "sweeps": [None if pair.sweep_every is None else pair.sweep_every.total_seconds() for pair in pairs],
        "everything": everything,
        "owner": owner,
        "seconds": LEASE_SECONDS,
    }
    row = store.execute(queries("reconcile")["take_lease"], params).fetchone()
    if row is None:
        return None
    fence = None if row["baseline_fence"] is None else tuple(row["baseline_fence"])
    return Lease(
        row["tenant"],
        row["target"],
        owner,
        row["epoch"],
        row["check_seq"],
        row["swept_at"],
        row["fully_swept_at"],
        row["full_sweep_seconds"],
        row["saw_all_at"],
        row["saw_all_before"],
        fence,
        row["failures"],
        row["troubled_since"],
        row["now"],
    )


def add_leases(store: Connection, pairs: Sequence[Pair]) -> None:
    """Make what is to be leased."""
    params = {"tenants": [pair.tenant for pair in pairs], "wanted": [pair.target for pair in pairs]}
    store.execute(queries("reconcile")["add_leases"], params)


def renew(store: Connection, lease: Lease) -> dt.datetime:
    """Hold the lease for longer; returns the store's clock.

    Raises LeaseLost.
    """
    row = store.execute(queries("reconcile")["renew_lease"], {**lease.where, "seconds": LEASE_SECONDS}).fetchone()
    if row is None:
        raise _lost(lease)
    now: dt.datetime = row["now"]
    return now


@contextmanager
def writing(store: Connection, lease: Lease) -> Iterator[None]:
    """A transaction under the lease.

    Raises LeaseLost, and then nothing is written.
    """
    with store.transaction():
        if store.execute(queries("reconcile")["hold_lease"], lease.where).fetchone() is None:
            raise _lost(lease)
        yield


def release(store: Connection, lease: Lease) -> None:
    """Let others have it; the target answered."""
    store.execute(queries("reconcile")["release_lease"], lease.where)


def release_in_trouble(store: Connection, lease: Lease, trouble: str, retry_after: dt.timedelta) -> None:
    """Let others have it, but not before the target was left alone for a while."""
    params = {**lease.where, "trouble": trouble, "seconds": retry_after.total_seconds()}
    store.execute(queries("reconcile")["release_in_trouble"], params)


def take_looks(store: Connection, target: str, rate: float, most: int) -> int:
    """How many looks at a target are allowed now, of `most`; `rate` a second, over all reconcilers."""
    params = {"target": target, "rate": rate, "most": most}
    with store.transaction():
        store.execute(queries("reconcile")["add_budget"], params)
        granted: int = fetch_one(store, queries("reconcile")["take_looks"], params)["granted"]
    return granted


def reopen(store: Connection, selection: Selection, targets: Sequence[str], since: dt.datetime | None = None) -> int:
    """Have effects judged anew, closed or not, of these targets; returns how many.

    `since`: those that something was recorded of since then, by the brokers' clock.
    """
    params = {
        "targets": list(targets if selection.targets is None else selection.targets),
        "tenant": selection.tenant,
        "effect_id": selection.effect_id,
        "since": since,
    }
    return store.execute(queries("reconcile")["reopen"], params).rowcount


class Worklist:
    """The open effects of one tenant at one target; `check_seq` is of the lease under which they are looked at."""

    def __init__(self, store: Connection, tenant: str, target: str, check_seq: int) -> None:
        self._store = store
        self._where = {"tenant": tenant, "target": target}
        self._check_seq = check_seq

    def due(self, most: int, *, until: dt.datetime | None) -> list[Found]:
        """At most so many that were not looked at under this lease: what somebody waits for first, then by age.

        `until` None: whether they are due or not.
        """
        params = {"until": until or _NEVER, "check_seq": self._check_seq, "most": most}
        return self._find("find_due", params)

    def named(self, effect_id: uuid.UUID) -> list[Found]:
        """One effect, due or not, closed or not."""
        return self._find("find_named", {"effect_id": effect_id})

    def beside(self, effect_id: uuid.UUID, most: int) -> list[Found]:
        """One effect, and others that verdicts found at the same rows, closed ones too."""
        return self._find("find_effects_beside", {"effect_id": effect_id, "limit": most})

    def unmarked(self, besides: Collection[uuid.UUID], most: int) -> list[Found]:
        """Effects of which nobody knows yet what they touch."""
        return self._find("find_unmarked", {"besides": _ids(besides), "most": most})

    def waits_for_full_sweep(self) -> bool:
        """Whether an effect waits to be closed that may have taken away rows which nobody can name."""
        return bool(fetch_one(self._store, queries("reconcile")["waits_for_full_sweep"], self._where)["waits"])

    def connected(self, seeks: Collection[int], besides: Collection[uuid.UUID], most: int) -> list[Found]:
        """Effects that have one of these marks."""
        params = {"marks": array_text(seeks), "besides": _ids(besides), "most": most}
        return self._find("find_connected", params)

    def set_marks(self, found: Sequence[Found], marks: Sequence[Marks]) -> list[uuid.UUID]:
        """Keep what effects touch; one that was told more of meanwhile stays unmarked, and is returned."""
        params = {
            **self._where,
            "effect_ids": _ids(row["effect_id"] for row in found),
            "tolds": [row["told"] for row in found],
            "marks": texts(array_text(one.own) for one in marks),
        }
        marked = {row["effect_id"] for row in self._store.execute(queries("reconcile")["set_marks"], params)}
        return [row["effect_id"] for row in found if row["effect_id"] not in marked]

    def lock(self, found: Sequence[Found]) -> frozenset[uuid.UUID]:
        """Keep ingest from telling more of these until the transaction ends; returns those it did tell more of."""
        params = {**self._where, "effect_ids": _ids(row["effect_id"] for row in found)}
        told = {
            row["effect_id"]: row["told"] for row in self._store.execute(queries("reconcile")["lock_checks"], params)
        }
        return frozenset(row["effect_id"] for row in found if told.get(row["effect_id"]) != row["told"])

    def set_states(self, states: Sequence[CheckState]) -> None:
        """Write down how far these have come."""
        params = {
            **self._where,
            "check_seq": self._check_seq,
            "effect_ids": _ids(state.effect_id for state in states),
            "sightings": array_text(state.sighting.count for state in states),
            "verdicts": texts(state.sighting.verdict for state in states),
            "digests": byteas(state.sighting.digest for state in states),
            "fences": texts(arrays_text(state.sighting.fence for state in states)),
            "first_sighted_ats": timestamptzs(state.sighting.first_at for state in states),
            "emitted": texts(state.emitted for state in states),
            "settled_ats": timestamptzs(state.settled_at for state in states),
            "due_ats": timestamptzs(state.due_at for state in states),
            "marks": texts(array_text(state.marks.own) for state in states),
            "are_closed": booleans(state.is_closed for state in states),
            "absent_fences": texts(arrays_text(state.absent_fence for state in states)),
        }
        self._store.execute(queries("reconcile")["set_check_states"], params)

    def put_off(self, found: Sequence[Found], due_ats: Sequence[dt.datetime], emitted: Sequence[str | None]) -> None:
        """Look at these later; `emitted` is what was said of each all the same."""
        params = {
            **self._where,
            "check_seq": self._check_seq,
            "effect_ids": _ids(row["effect_id"] for row in found),
            "due_ats": timestamptzs(due_ats),
            "emitted": texts(emitted),
        }
        self._store.execute(queries("reconcile")["put_off"], params)

    def _find(self, name: str, params: Mapping[str, Any]) -> list[Found]:
        named = queries("reconcile")
        query = named[name].format(columns=named["effect_columns"], sources=named["effect_sources"])
        return list(self._store.execute(query, {**self._where, **params}))


def _ids(ids: Iterable[uuid.UUID]) -> Items:
    return uuids(one.bytes for one in ids)


def _lost(lease: Lease) -> LeaseLost:
    return LeaseLost(f"another reconciler took over {lease.target} of {lease.tenant}")
