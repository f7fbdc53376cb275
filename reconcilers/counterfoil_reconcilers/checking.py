"""One pass over one tenant's effects at one target: look, judge, and say what has settled.

Everything that a pass decides is written in one transaction, which first makes sure that the lease is still ours.
"""

import datetime as dt
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from counterfoil.blobs import BlobReader, Claim, claim_in
from counterfoil.errors import BlobMissing, BlobsAway, CounterfoilError
from counterfoil.failpoints import pass_by
from counterfoil.redaction import Redaction
from counterfoil_consumers.store import Connection, queries
from counterfoil_reconcilers.baseline import (
    Baseline,
    clear_candidate,
    is_sweep_due,
    read_baseline,
    set_baseline,
    set_candidate,
    set_first_baseline,
)
from counterfoil_reconcilers.contracts import Contracts
from counterfoil_reconcilers.deciding import Decision, Member, decide, digest_of_rows, fence_of
from counterfoil_reconcilers.disclosure import Disclosure
from counterfoil_reconcilers.emission import About, Emitter, Ruling, about_target
from counterfoil_reconcilers.forgetting import unless_forgotten
from counterfoil_reconcilers.judge import Judgement, Unattributed, judge, sweep
from counterfoil_reconcilers.log_progress import LogProgress
from counterfoil_reconcilers.looking import look, look_at_all, touch
from counterfoil_reconcilers.rows import Effect, Row, RowKey, Rows, with_reduced_hidden
from counterfoil_reconcilers.settling import Progress, Sighting, is_change_settled, sighted
from counterfoil_reconcilers.targets.port import Target, TargetUnavailable
from counterfoil_reconcilers.touched import Touched, connected
from counterfoil_reconcilers.veil import key_veiled

logger = logging.getLogger("counterfoil.reconcile")

_LEASE_SECONDS = 60.0
_TEXT_ON_ITS_WAY = dt.timedelta(hours=1)  # from an agent's disk to the blob store


class LeaseLost(CounterfoilError):
    """Another reconciler took over; nothing of this pass was written."""


@dataclass(frozen=True)
class Policy:
    """When to look again, and when to give up."""

    sweep_every: dt.timedelta = dt.timedelta(seconds=30)
    give_up_after: dt.timedelta = dt.timedelta(seconds=60)


@dataclass
class Checked:
    """What a pass did."""

    effects: int = 0
    said: int = 0
    changes: int = 0
    given_up: int = 0
    open: int = 0


@dataclass(frozen=True)
class _Lease:
    epoch: int
    check_seq: int
    swept_at: dt.datetime | None
    first_fence: tuple[int, ...] | None
    now: dt.datetime


@dataclass(frozen=True)
class _Seen:
    """What a pass has before it when it decides."""

    tenant: str
    lease: _Lease
    baseline: Baseline
    observed: Rows
    effects: Sequence[Effect]
    touched: Sequence[Touched]
    disclosure: Disclosure
    fence: tuple[int, ...]
    progress: Progress
    swept: bool


@dataclass(frozen=True)
class _Judged:
    """What a pass makes of it: the judgement on the effects, changes elsewhere, and rows of other writers."""

    judgement: Judgement
    elsewhere: Sequence[Unattributed] = ()
    adopted: Mapping[RowKey, Row | None] = field(default_factory=dict)


class Checker:
    """Checks the effects at one target, one tenant at a time."""

    def __init__(
        self,
        *,
        store: Connection,
        contracts: Contracts,
        target: str,
        adapter: Target,
        emitter: Emitter,
        owner: str,
        policy: Policy,
        log: LogProgress,
        blobs: BlobReader,
        redaction: Redaction,
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._redaction = redaction
        self._contracts = contracts
        self._declared = contracts.targets[target]
        self._adapter = adapter
        self._emitter = emitter
        self._owner = owner
        self._policy = policy
        self._log = log
        self._named = queries("reconcile")
        self._drifts = {
            (r["outcome"], r["verdict"]): bool(r["drift"]) for r in store.execute(self._named["read_drift_rules"])
        }

    def check(self, tenant: str) -> Checked | None:
        """One pass; None when another reconciler has the lease.

        Raises TargetUnavailable, BrokersAway, LeaseLost; nothing was written then.
        """
        lease = self._take_lease(tenant)
        if lease is None:
            return None
        where = {"tenant": tenant, "target": self._declared.name}
        # First how far ingest is, then what it brought: an effect that comes in between must not seem to be missing.
        progress = self._log.read(self._store, tenant, lease.now)
        found = self._store.execute(self._named["find_open_effects"], where).fetchall()
        is_swept = self._declared.writers is not None
        sweeps = is_swept and is_sweep_due(lease.swept_at, self._policy.sweep_every, lease.now)
        if not found and not sweeps:
            return Checked()
        baseline = read_baseline(self._store, tenant, self._declared, lease.first_fence if is_swept else None)
        found = [self._opened(row, tenant) for row in found]
        seen = self._see(tenant, lease, baseline, progress, found, sweeps)
        if is_swept and lease.first_fence is None:
            with self._writing(where, lease):
                set_first_baseline(self._store, tenant, self._declared, baseline, seen.observed, seen.fence)
                self._store.execute(self._named["mark_swept"], {**where, "fence": list(seen.fence)})
                return Checked(open=len(found))
        # Judging may take its time, and a transaction may not.
        judged = self._judge(seen, found)
        with self._writing(where, lease):
            return self._decide(seen, found, judged)

    def _see(
        self,
        tenant: str,
        lease: _Lease,
        baseline: Baseline,
        progress: Progress,
        found: Sequence[Mapping[str, Any]],
        sweeps: bool,
    ) -> _Seen:
        """Look at the target, and only then read how far the log goes."""
        known = Rows(baseline.rows)
        disclosure = Disclosure(self._redaction.of_task(tenant, self._declared.name))
        noted = [_effect(row, tenant, disclosure) for row in found]
        disclosure.learn(baseline.rows.values())
        if sweeps:
            observed = look_at_all(self._adapter, self._declared, tenant)
            disclosure.learn(observed.rows.values())
            effects = [disclosure.opened(effect) for effect in noted]
            touched = touch(self._contracts, effects, known, observed)
        else:
            observed, touched, effects = look(self._adapter, self._contracts, self._declared, disclosure, noted, known)
        ends = self._log.read_ends()
        return _Seen(tenant, lease, baseline, observed, effects, touched, disclosure, ends, progress, sweeps)

    def _judge(self, seen: _Seen, found: Sequence[Mapping[str, Any]]) -> _Judged:
        needed = [
            (key, row["intent_partition"], row["intent_offset"])
            for row, one in zip(found, seen.touched, strict=True)
            for key in (*one.writes, *one.reads)
        ]
        created = [
            (search, row["intent_partition"], row["intent_offset"])
            for row, one in zip(found, seen.touched, strict=True)
            for search in one.searches
        ]
        before = seen.baseline.usable_for(self._declared.resources, needed, created)
        name, effects, veil = self._declared.name, seen.effects, seen.disclosure
        judged = judge(self._contracts, name, effects, before, seen.observed, veil)
        judgement = unless_forgotten(judged, self._adapter, found, seen.touched)
        if not seen.swept:
            return _Judged(judgement)
        elsewhere = sweep(self._contracts, name, before, seen.observed, judgement, veil)
        spoken_for = judgement.explained | {change.row for change in elsewhere}
        adopted = _changed_rows(seen, spoken_for) if self._declared.writers == "ours" else {}
        return _Judged(judgement, elsewhere, adopted)

    def _decide(self, seen: _Seen, found: Sequence[Mapping[str, Any]], judged: _Judged) -> Checked:
        judgement, effects = judged.judgement, seen.effects
        done = Checked(effects=len(effects))
        swept_before = self._swept_before(seen, judged.elsewhere)
        for group in connected(seen.touched):
            members = [
                Member(found[i], effects[i], judgement.verdicts[i], seen.touched[i], self._settle_window(found[i]))
                for i in group
            ]
            keys = frozenset[RowKey]().union(*(seen.touched[i].writes | judgement.group_rows[i] for i in group))
            rows = _present(seen.observed, keys)
            changes = [change for change in judgement.unattributed if change.row in rows]
            self._decide_group(seen, members, rows, changes, swept_before, done)
        if seen.swept:
            self._decide_changes(seen, judged.elsewhere, done)
            set_baseline(self._store, seen.tenant, self._declared.name, judged.adopted, seen.fence)
            if seen.baseline.unread:
                set_first_baseline(self._store, seen.tenant, self._declared, seen.baseline, seen.observed, seen.fence)
            where = {"tenant": seen.tenant, "target": self._declared.name, "fence": list(seen.fence)}
            self._store.execute(self._named["mark_swept"], where)
        return done

    def _decide_group(
        self,
        seen: _Seen,
        members: Sequence[Member],
        rows: Mapping[RowKey, Row | None],
        changes: Sequence[Unattributed],
        swept_before: dt.datetime | None,
        done: Checked,
    ) -> None:
        """Effects that share rows are closed together; then the rows as they are become the baseline."""
        decisions = decide(
            members,
            rows,
            fence=seen.fence,
            progress=seen.progress,
            now=seen.lease.now,
            drifts=self._drifts,
            give_up_after=self._policy.give_up_after,
            swept_before=swept_before,
        )
        for decision in decisions:
            self._carry_out(seen, decision, rows, done)
        if not decisions[0].closes:
            done.open += len(members)
        elif seen.baseline.first_fence is not None:
            set_baseline(self._store, seen.tenant, self._declared.name, rows, fence_of(decisions))
            for change in changes:
                self._say_change(seen, change, done)

    def _carry_out(self, seen: _Seen, decision: Decision, rows: Mapping[RowKey, Row | None], done: Checked) -> None:
        member, sighting, verdict = decision.member, decision.sighting, decision.member.verdict
        about = _about(seen.tenant, member.row)
        if decision.says:
            read = [(key, row.version if row else None) for key, row in sorted(rows.items()) if key in member.own_rows]
            ruling = self._ruling(seen, member.effect.tool, verdict.verdict, verdict.reason, read, verdict.evidence)
            self._emitter.rule(self._store, about, ruling, seen.lease.now)
            done.said += 1
        if decision.gives_up:
            reason = f"the agent said {member.row['outcome']}, {self._declared.name} says {verdict.verdict}, "
            done.given_up += self._emitter.give_up(
                self._store,
                about,
                letter_class=verdict.verdict,
                reason=reason + "and that persisted",
                attempts=sighting.count,
                now=seen.lease.now,
            )
        params = {
            "tenant": seen.tenant,
            "effect_id": member.row["effect_id"],
            "target": self._declared.name,
            "sightings": sighting.count,
            "verdict": sighting.verdict,
            "digest": sighting.digest,
            "fence": list(sighting.fence),
            "first_sighted_at": sighting.first_at,
            "emitted": verdict.verdict if decision.says else member.row["emitted"],
            "settled_at": decision.settled_at,
            "closed_at": seen.lease.now if decision.closes else None,
            "facts": member.row["facts"],
        }
        self._store.execute(self._named["set_check_state"], params)

    def _decide_changes(self, seen: _Seen, changes: Sequence[Unattributed], done: Checked) -> None:
        """Changes that no intent explains settle like verdicts; said once, they become the baseline."""
        for change in changes:
            row = seen.observed.get(change.row)
            present = row if isinstance(row, Row) else None
            sighting = _sighting_of(seen, change)
            if self._has_settled(seen, sighting):
                # An unknowable one is not said: an effect that can't be judged may have made it.
                self._say_change(seen, change, done)
                set_baseline(self._store, seen.tenant, self._declared.name, {change.row: present}, sighting.fence)
            elif seen.baseline.first_fence is not None:
                done.open += 1
                set_candidate(
                    self._store, seen.tenant, self._declared.name, change.row, sighting, seen.baseline.first_fence
                )
        for key in set(seen.baseline.candidates) - {change.row for change in changes}:
            clear_candidate(self._store, seen.tenant, self._declared.name, key)

    def _has_settled(self, seen: _Seen, sighting: Sighting) -> bool:
        return is_change_settled(sighting, dt.timedelta(seconds=self._declared.settle_seconds), seen.progress)

    def _swept_before(self, seen: _Seen, changes: Sequence[Unattributed]) -> dt.datetime | None:
        """When the sweep before this pass's own was; where nothing is swept, nothing need be waited for.

        None while a change that both sweeps saw, and that an effect which can't be judged may have made, is to settle.
        """
        if self._declared.writers is None:
            return seen.lease.now
        for change in changes:
            sighting = _sighting_of(seen, change)
            if change.verdict == "unknowable" and sighting.count > 1 and not self._has_settled(seen, sighting):
                return None
        return seen.lease.swept_at if seen.swept else None

    def _say_change(self, seen: _Seen, change: Unattributed, done: Checked) -> None:
        if change.verdict != "unattributed":
            return
        versions = [(change.row, change.evidence.get("version"))]
        ruling = self._ruling(seen, None, change.verdict, change.reason, versions, change.evidence)
        self._emitter.rule(self._store, about_target(seen.tenant, self._declared.name), ruling, seen.lease.now)
        done.changes += 1

    def _ruling(
        self,
        seen: _Seen,
        tool: str | None,
        verdict: str,
        reason: str | None,
        rows: Sequence[tuple[RowKey, str | None]],
        evidence: Mapping[str, Any],
    ) -> Ruling:
        veil, resources = seen.disclosure, self._declared.resources
        return Ruling(
            self._declared.name,
            tool,
            verdict,
            None if reason is None else veil.over(reason),
            seen.lease.check_seq,
            self._contracts.version,
            self._contracts.digest,
            [
                (RowKey(row.resource, tuple(key_veiled(veil, resources[row.resource], row))), version)
                for row, version in rows
            ],
            evidence,
        )

    def _settle_window(self, row: Mapping[str, Any]) -> dt.timedelta:
        known = self._contracts.tools.get(row["tool"])
        own = None if known is None else known.settle_seconds
        window = dt.timedelta(seconds=self._declared.settle_seconds if own is None else own)
        window += self._declared.capabilities.read_lag
        return window if _claim(row["args"]) is None else max(window, _TEXT_ON_ITS_WAY)

    def _opened(self, row: dict[str, Any], tenant: str) -> dict[str, Any]:
        """With the texts that were too large for their event; where one is nowhere, its claim check stays.

        Raises TargetUnavailable when that can't be known now.
        """
        texts = {name: claim for name in ("args", "reply") if (claim := _claim(row[name])) is not None}
        opened = dict(row)
        for name, claim in texts.items():
            try:
                opened[name] = json.loads(self._blobs.open(tenant, claim))
            except BlobsAway as error:
                raise TargetUnavailable(self._declared.name, str(error)) from error
            except (BlobMissing, ValueError, RecursionError) as error:
                logger.warning("the %s of effect %s can't be compared: %s", name, row["effect_id"].hex, error)
                opened["reply"] = None if name == "reply" else opened["reply"]
        return opened

    def _take_lease(self, tenant: str) -> _Lease | None:
        params = {"tenant": tenant, "target": self._declared.name, "owner": self._owner, "seconds": _LEASE_SECONDS}
        row = self._store.execute(self._named["take_lease"], params).fetchone()
        if row is None:
            return None
        fence = None if row["baseline_fence"] is None else tuple(row["baseline_fence"])
        return _Lease(row["epoch"], row["check_seq"], row["swept_at"], fence, row["now"])

    @contextmanager
    def _writing(self, where: Mapping[str, str], lease: _Lease) -> Iterator[None]:
        """A transaction under the lease; the emitter's numbers are kept only if it commits."""
        held = {**where, "owner": self._owner, "epoch": lease.epoch, "check_seq": lease.check_seq}
        try:
            with self._store.transaction():
                self._hold(held)
                yield
                pass_by("reconcile.before_commit")
        except BaseException:
            self._emitter.forget()
            raise
        self._emitter.keep()

    def _hold(self, held: Mapping[str, Any]) -> None:
        if self._store.execute(self._named["hold_lease"], held).fetchone() is None:
            raise LeaseLost(f"another reconciler took over {held['target']} of {held['tenant']}")


def _claim(value: Any) -> Claim | None:
    """The claim check that a recorder put in a field's place; a text that looks like one is an agent's."""
    return claim_in(value) if isinstance(value, Mapping) else None


def _sighting_of(seen: _Seen, change: Unattributed) -> Sighting:
    """The sighting of a change in this pass's sweep, after those before it."""
    row = seen.observed.get(change.row)
    state = digest_of_rows({change.row: row if isinstance(row, Row) else None})
    return sighted(seen.baseline.candidates.get(change.row), "unattributed", state, seen.fence, seen.lease.now)


def _changed_rows(seen: _Seen, spoken_for: frozenset[RowKey]) -> dict[RowKey, Row | None]:
    """Rows that other writers changed, as they may: from now on they are what our writes start from."""
    changed: dict[RowKey, Row | None] = {}
    for key in {*seen.observed.rows, *seen.baseline.rows} - spoken_for:
        row = seen.observed.get(key)
        present = row if isinstance(row, Row) else None
        if digest_of_rows({key: present}) != digest_of_rows({key: seen.baseline.rows.get(key)}):
            changed[key] = present
    return changed


def _present(observed: Rows, keys: Iterable[RowKey]) -> dict[RowKey, Row | None]:
    """Those of the rows that were looked at."""
    rows: dict[RowKey, Row | None] = {}
    for key in keys:
        row = observed.get(key)
        if row is None or isinstance(row, Row):
            rows[key] = row
    return rows


def _effect(row: Mapping[str, Any], tenant: str, disclosure: Disclosure) -> Effect:
    effect = Effect(
        effect_id=row["effect_id"].bytes,
        tool=row["tool"],
        args=with_reduced_hidden(row["args"]),
        outcome=row["outcome"],
        order=(row["intent_at"].isoformat(), row["intent_partition"], row["intent_offset"]),
        reply=with_reduced_hidden(row["reply"]),
        attempts=row["intents"],
        step=row["step"],
        tenant=tenant,
    )
    return disclosure.noted(effect, row["redaction"])


def _about(tenant: str, row: Mapping[str, Any]) -> About:
    return About(
        tenant,
        row["workflow"],
        row["task_id"].bytes,
        effect_id=row["effect_id"].bytes,
        causation_id=row["intent_event_id"].bytes,
    )
