"""One turn at one tenant's effects at one target: look, judge, and say what has settled.

Effects are taken some at a time, each time with all that share rows with them. What is decided of them is written in
one transaction, which first makes sure that the lease is still ours, and that ingest learnt no more of them meanwhile.
"""

import datetime as dt
import logging
import random
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from counterfoil.blobs import BlobReader
from counterfoil.failpoints import pass_by
from counterfoil.redaction import Redaction
from counterfoil_consumers.store import Connection, queries
from counterfoil_reconcilers.baseline import (
    clear_candidate,
    digest_of_row,
    marks_of_declarations,
    read_candidates,
    set_baseline,
    set_candidate,
)
from counterfoil_reconcilers.contracts import Contracts
from counterfoil_reconcilers.deciding import Decision, Member, decide, digest_of_rows, fence_of
from counterfoil_reconcilers.emission import About, Emitter, Ruling, about_target
from counterfoil_reconcilers.judge import Judgement, Unattributed, sweep
from counterfoil_reconcilers.log_progress import LogProgress
from counterfoil_reconcilers.observing import Chunk, Observer, Seen, mark_all, settle_window
from counterfoil_reconcilers.rows import Row, RowKey, Rows
from counterfoil_reconcilers.settling import Pace, Progress, Sighting, is_change_settled, sighted
from counterfoil_reconcilers.sweeping import changed_rows, chunks
from counterfoil_reconcilers.targets.port import Target, TargetUnavailable
from counterfoil_reconcilers.touched import connected
from counterfoil_reconcilers.veil import key_veiled
from counterfoil_reconcilers.worklist import CheckState, Found, Lease, Worklist, renew, take_looks, writing

logger = logging.getLogger("counterfoil.reconcile")

_LONGEST_TURN = dt.timedelta(seconds=20)  # then others have theirs
_NO_CHANGES: Chunk = {}
_NO_ANSWER = "unknowable: no answer"  # not what a look says: once there is an answer, that is said whatever it is


@dataclass(frozen=True)
class Policy:
    """When to look again, how much at a time, and when to give up.

    `unknowable_after`: how long a target may give no answer until that is said of the effects that wait for it.
    """

    sweep_every: dt.timedelta = dt.timedelta(seconds=30)
    give_up_after: dt.timedelta = dt.timedelta(seconds=60)
    unknowable_after: dt.timedelta = dt.timedelta(hours=1)
    pace: Pace = field(default_factory=Pace)
    effects_at_a_time: int = 2_000


@dataclass
class Checked:
    """What a turn did."""

    effects: int = 0
    said: int = 0
    changes: int = 0
    given_up: int = 0
    open: int = 0

    def add(self, other: "Checked") -> None:
        """Count what was done besides."""
        self.effects += other.effects
        self.said += other.said
        self.changes += other.changes
        self.given_up += other.given_up
        self.open += other.open


@dataclass
class _Swept:
    """What a sweep found, while its turn lasts."""

    changed: Chunk
    candidates: Mapping[RowKey, Sighting]
    elsewhere: Sequence[Unattributed] = ()


class _ToldMore(Exception):
    """Ingest was told more of these effects while they were judged."""

    def __init__(self, effect_ids: frozenset[uuid.UUID]) -> None:
        super().__init__()
        self.effect_ids = effect_ids


@dataclass
class _Outcome:
    """What was decided, to be written in one transaction; events wait with the emitter."""

    done: Checked = field(default_factory=Checked)
    states: list[CheckState] = field(default_factory=list)
    baseline: list[tuple[RowKey, Row | None, Sequence[int]]] = field(default_factory=list)
    given_up: list[Decision] = field(default_factory=list)
    candidates: dict[RowKey, Sighting] = field(default_factory=dict)
    cleared: set[RowKey] = field(default_factory=set)


@dataclass(frozen=True)
class _Turn:
    """What a part of a turn has before it when it decides."""

    lease: Lease
    now: dt.datetime
    progress: Progress
    fence: tuple[int, ...]
    seen: Seen
    judgement: Judgement
    swept: _Swept | None


class Checker:
    """Checks the effects at one target."""

    def __init__(
        self,
        *,
        store: Connection,
        contracts: Contracts,
        target: str,
        adapter: Target,
        emitter: Emitter,
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
        self._policy = policy
        self._log = log
        self._named = queries("reconcile")
        self._drifts = {
            (r["outcome"], r["verdict"]): bool(r["drift"]) for r in store.execute(self._named["read_drift_rules"])
        }

    def check_one(self, lease: Lease, effect_id: uuid.UUID) -> Checked:
        """Look at one effect now, and at those that share rows with it, if the budget allows; nothing is swept.

        Raises TargetUnavailable, BrokersAway, LeaseLost, TooManyConnected; nothing was written then.
        """
        worklist, done = Worklist(self._store, lease), Checked()
        rate = self._declared.looks_per_second
        if rate is not None and take_looks(self._store, self._declared.name, rate, 1) < 1:
            return done
        progress = self._log.read(self._store, lease.tenant, renew(self._store, lease))
        observer = self._observer(lease)
        observer.note(worklist.named(effect_id))
        self._check_some(lease, progress, worklist, observer, None, False, done, lambda: None)
        return done

    def check(self, lease: Lease, *, everything: bool, beat: Callable[[], object] = lambda: None) -> Checked:
        """A turn at one tenant's effects: those that are due, or everything that is open; `beat` is called in between.

        Raises TargetUnavailable, BrokersAway, LeaseLost, TooManyConnected; what was written before that stays.
        """
        worklist, done = Worklist(self._store, lease), Checked()
        if self._declared.writers is not None and lease.first_fence is None:
            self._take_baseline(lease, self._declared.resources, beat)
            done.open = len(worklist.due(self._policy.effects_at_a_time, until=None))
            return done
        swept: _Swept | None = None
        is_sweep_due = self._is_sweep_due(lease)
        while True:
            now = renew(self._store, lease)
            beat()
            # First how far ingest is, then what it brought: what comes in between must not seem to be missing.
            progress = self._log.read(self._store, lease.tenant, now)
            found = worklist.due(self._allowed(), until=None if everything else now)
            if not found and not is_sweep_due:
                return done
            observer = self._observer(lease)
            observer.note(found)
            if is_sweep_due:
                swept = self._sweep(lease, observer)
            self._check_some(lease, progress, worklist, observer, swept, is_sweep_due, done, beat)
            is_sweep_due = False
            if not everything and now - lease.now > _LONGEST_TURN:
                return done

    def no_answer(self, lease: Lease, error: TargetUnavailable, *, everything: bool) -> int:
        """Put off what is due; of what has waited for too long, say that nobody can know. Returns how much was said."""
        now = renew(self._store, lease)
        worklist = Worklist(self._store, lease)
        found = worklist.due(self._policy.effects_at_a_time, until=None if everything else now)
        since = lease.troubled_since or now
        patience = self._policy.unknowable_after
        reason = f"{self._declared.name} has given no answer since {since:%Y-%m-%d %H:%M} UTC: {error.reason}"
        said: list[str | None] = []
        try:
            for row in found:
                says = row["emitted"] is None and now - max(since, row["last_appended_at"]) >= patience
                if says:
                    evidence = {"trouble": error.trouble}
                    ruling = self._ruling(lease, None, row["tool"], "unknowable", reason, (), evidence)
                    self._emitter.rule(_about(lease.tenant, row), ruling, now)
                said.append(_NO_ANSWER if says else None)
            with self._writing(lease):
                worklist.lock(found)
                self._emitter.put_all(self._store)
                worklist.put_off(found, [self._next_look(row, now) for row in found], said)
        finally:
            self._emitter.forget()
        return sum(one is not None for one in said)

    # -- looking

    def _observer(self, lease: Lease) -> Observer:
        return Observer(
            store=self._store,
            contracts=self._contracts,
            declared=self._declared,
            adapter=self._adapter,
            tenant=lease.tenant,
            first_fence=lease.first_fence if self._declared.writers is not None else None,
            blobs=self._blobs,
            redaction=self._redaction,
        )

    def _allowed(self) -> int:
        """How many effects to look at now."""
        most, rate = self._policy.effects_at_a_time, self._declared.looks_per_second
        return most if rate is None else take_looks(self._store, self._declared.name, rate, most)

    def _is_sweep_due(self, lease: Lease) -> bool:
        if self._declared.writers is None:
            return False
        return lease.swept_at is None or lease.now - lease.swept_at >= self._policy.sweep_every

    def _take_baseline(self, lease: Lease, resources: Iterable[str], beat: Callable[[], object]) -> None:
        """The rows of these resources as they are now, and how the contract declares them; their effects come later."""
        name, tenant = self._declared.name, lease.tenant
        fence = self._log.read_ends()
        for resource in resources:
            with writing(self._store, lease):
                where = {"tenant": tenant, "target": name, "resource": resource, "fence": list(fence)}
                self._store.execute(self._named["forget_baseline"], where)
            for rows in chunks(self._adapter, self._declared, resource, tenant):
                renew(self._store, lease)
                beat()
                fence = self._log.read_ends()
                with writing(self._store, lease):
                    set_baseline(self._store, tenant, name, [(key, row, fence) for key, row in rows.items()])
        fence = self._log.read_ends()
        marks = [(RowKey(resource, ()), row, fence) for resource, row in marks_of_declarations(self._declared)]
        with writing(self._store, lease):
            set_baseline(self._store, tenant, name, [one for one in marks if one[0].resource in set(resources)])
            self._store.execute(self._named["mark_swept"], {**lease.where, "fence": list(fence)})

    def _sweep(self, lease: Lease, observer: Observer) -> _Swept:
        changed = changed_rows(
            self._store,
            self._adapter,
            self._declared,
            lease.tenant,
            besides=observer.unread,
            learn=observer.learn,
        )
        observer.add_changed(changed)
        return _Swept(changed, read_candidates(self._store, lease.tenant, self._declared.name))

    def _check_some(
        self,
        lease: Lease,
        progress: Progress,
        worklist: Worklist,
        observer: Observer,
        swept: _Swept | None,
        is_sweeping: bool,
        done: Checked,
        beat: Callable[[], object],
    ) -> None:
        """Look, judge and decide, for the effects that the observer was given and those connected to them."""
        mark_all(worklist, lambda: self._observer(lease), observer)
        observer.look_with_connected(worklist, swept.changed if swept and is_sweeping else _NO_CHANGES, beat)
        fence = self._log.read_ends()
        seen = observer.seen()
        now = renew(self._store, lease)
        # Judging may take its time, and a transaction may not.
        judgement = seen.judged(self._contracts, self._declared)
        if swept is not None and is_sweeping:
            before = seen.before(self._declared)
            name = self._declared.name
            swept.elsewhere = sweep(self._contracts, name, before, seen.observed, judgement, seen.disclosure)
        turn = _Turn(lease, now, progress, fence, seen, judgement, swept)
        done.add(self._conclude(turn, worklist, is_sweeping))
        if is_sweeping and observer.unread:
            self._take_baseline(lease, observer.unread, beat)

    def _conclude(self, turn: _Turn, worklist: Worklist, is_sweeping: bool) -> Checked:
        """Decide, and write it all down; what ingest was told more of meanwhile is left out, to be looked at again."""
        left_out: frozenset[uuid.UUID] = frozenset()
        while True:
            renew(self._store, turn.lease)
            outcome = _Outcome()
            try:
                # Encoding takes its time, too.
                self._decide(turn, left_out, outcome)
                if is_sweeping:
                    self._decide_changes(turn, outcome)
                with self._writing(turn.lease):
                    _lock(worklist, turn.seen.found, left_out)
                    self._write(turn, worklist, outcome, is_sweeping)
            except _ToldMore as error:
                left_out |= error.effect_ids
            else:
                return outcome.done
            finally:
                self._emitter.forget()  # what was not written

    def _write(self, turn: _Turn, worklist: Worklist, outcome: _Outcome, is_sweeping: bool) -> None:
        tenant, name = turn.seen.tenant, self._declared.name
        for decision in outcome.given_up:
            outcome.done.given_up += self._give_up(turn, decision)
        self._emitter.put_all(self._store)
        set_baseline(self._store, tenant, name, outcome.baseline)
        worklist.set_states(outcome.states)
        if is_sweeping:
            assert turn.seen.baseline.first_fence is not None  # noqa: S101  # no sweep comes before the first baseline
            for key, sighting in outcome.candidates.items():
                set_candidate(self._store, tenant, name, key, sighting, turn.seen.baseline.first_fence)
            for key in outcome.cleared:
                clear_candidate(self._store, tenant, name, key)
            self._store.execute(self._named["mark_swept"], {**turn.lease.where, "fence": list(turn.fence)})

    # -- deciding

    def _decide(self, turn: _Turn, left_out: frozenset[uuid.UUID], outcome: _Outcome) -> None:
        """Effects that share rows are closed together; then the rows as they are become the baseline."""
        seen, judgement = turn.seen, turn.judgement
        swept_before = self._swept_before(turn)
        for group in connected(seen.touched):
            if any(seen.found[i]["effect_id"] in left_out for i in group):
                outcome.done.open += len(group)
                continue
            outcome.done.effects += len(group)
            members = [self._member(turn, i) for i in group]
            keys = frozenset[RowKey]().union(*(seen.touched[i].writes | judgement.group_rows[i] for i in group))
            rows = _present(seen.observed, keys)
            decisions = decide(
                members,
                rows,
                fence=turn.fence,
                progress=turn.progress,
                now=turn.now,
                drifts=self._drifts,
                give_up_after=self._policy.give_up_after,
                swept_before=swept_before,
            )
            for i, decision in zip(group, decisions, strict=True):
                if decision.says:
                    self._say(turn, decision, rows, outcome.done)
                outcome.states.append(self._state(turn, decision, i))
            outcome.given_up += [decision for decision in decisions if decision.gives_up]
            if not decisions[0].closes:
                outcome.done.open += len(members)
            elif seen.baseline.first_fence is not None:
                outcome.baseline += [(key, row, fence_of(decisions)) for key, row in rows.items()]
                for change in judgement.unattributed:
                    if change.row in rows:
                        self._say_change(turn, change, outcome.done)

    def _member(self, turn: _Turn, index: int) -> Member:
        seen = turn.seen
        window = settle_window(self._contracts, self._declared, seen.found[index])
        verdict = turn.judgement.verdicts[index]
        return Member(seen.found[index], seen.effects[index], verdict, seen.touched[index], window)

    def _say(self, turn: _Turn, decision: Decision, rows: Mapping[RowKey, Row | None], done: Checked) -> None:
        member, verdict = decision.member, decision.member.verdict
        read = [(key, row.version if row else None) for key, row in sorted(rows.items()) if key in member.own_rows]
        ruling = self._ruling(
            turn.lease, turn.seen, member.effect.tool, verdict.verdict, verdict.reason, read, verdict.evidence
        )
        self._emitter.rule(_about(turn.seen.tenant, member.row), ruling, turn.now)
        done.said += 1

    def _give_up(self, turn: _Turn, decision: Decision) -> bool:
        row, verdict = decision.member.row, decision.member.verdict.verdict
        return self._emitter.give_up(
            self._store,
            _about(turn.seen.tenant, row),
            letter_class=verdict,
            reason=f"the agent said {row['outcome']}, {self._declared.name} says {verdict}, and that persisted",
            attempts=decision.sighting.count,
            now=turn.now,
        )

    def _state(self, turn: _Turn, decision: Decision, index: int) -> CheckState:
        row, verdict = decision.member.row, decision.member.verdict
        return CheckState(
            effect_id=row["effect_id"],
            sighting=decision.sighting,
            emitted=verdict.verdict if decision.says else row["emitted"],
            settled_at=decision.settled_at,
            due_at=self._next_look(row, turn.now),
            marks=turn.seen.marks[index],
            is_closed=decision.closes,
        )

    def _next_look(self, row: Found, now: dt.datetime) -> dt.datetime:
        jitter = random.random()  # noqa: S311  # so that what came at once does not come back at once
        return self._policy.pace.next_look(now, row["last_appended_at"], row["accept_deadline"], jitter)

    def _decide_changes(self, turn: _Turn, outcome: _Outcome) -> None:
        """Changes that no intent explains settle like verdicts; said once, they become the baseline."""
        assert turn.swept is not None  # noqa: S101  # called where a sweep was made
        for change in turn.swept.elsewhere:
            row = turn.seen.observed.get(change.row)
            sighting = _sighting_of(turn, change)
            if self._has_settled(turn, sighting):
                # An unknowable one is not said: an effect that can't be judged may have made it.
                self._say_change(turn, change, outcome.done)
                outcome.baseline.append((change.row, row if isinstance(row, Row) else None, sighting.fence))
            else:
                outcome.done.open += 1
                outcome.candidates[change.row] = sighting
        outcome.cleared = set(turn.swept.candidates) - {change.row for change in turn.swept.elsewhere}
        if self._declared.writers == "ours":
            outcome.baseline += [(key, row, turn.fence) for key, row in self._adopted(turn).items()]

    def _adopted(self, turn: _Turn) -> dict[RowKey, Row | None]:
        """Rows that other writers changed, as they may: from now on they are what our writes start from."""
        assert turn.swept is not None  # noqa: S101  # called where a sweep was made
        spoken_for = turn.judgement.explained | {change.row for change in turn.swept.elsewhere}
        known = turn.seen.baseline.rows
        return {
            key: row
            for key, row in turn.swept.changed.items()
            if key not in spoken_for and digest_of_row(row) != digest_of_row(known.get(key))
        }

    def _has_settled(self, turn: _Turn, sighting: Sighting) -> bool:
        return is_change_settled(sighting, dt.timedelta(seconds=self._declared.settle_seconds), turn.progress)

    def _swept_before(self, turn: _Turn) -> dt.datetime | None:
        """When the sweep before this turn's own was; where nothing is swept, nothing need be waited for.

        None while a change that both sweeps saw, and that an effect which can't be judged may have made, is to settle.
        """
        if self._declared.writers is None:
            return turn.now
        if turn.swept is None:
            return None
        for change in turn.swept.elsewhere:
            sighting = _sighting_of(turn, change)
            if change.verdict == "unknowable" and sighting.count > 1 and not self._has_settled(turn, sighting):
                return None
        return turn.lease.swept_at

    def _say_change(self, turn: _Turn, change: Unattributed, done: Checked) -> None:
        if change.verdict != "unattributed":
            return
        versions = [(change.row, change.evidence.get("version"))]
        ruling = self._ruling(turn.lease, turn.seen, None, change.verdict, change.reason, versions, change.evidence)
        self._emitter.rule(about_target(turn.seen.tenant, self._declared.name), ruling, turn.now)
        done.changes += 1

    def _ruling(
        self,
        lease: Lease,
        seen: Seen | None,
        tool: str | None,
        verdict: str,
        reason: str | None,
        rows: Sequence[tuple[RowKey, str | None]],
        evidence: Mapping[str, Any],
    ) -> Ruling:
        resources = self._declared.resources
        if seen is not None:
            veil = seen.disclosure
            reason = None if reason is None else veil.over(reason)
            rows = [
                (RowKey(row.resource, tuple(key_veiled(veil, resources[row.resource], row))), version)
                for row, version in rows
            ]
        contracts = self._contracts
        return Ruling(
            self._declared.name,
            tool,
            verdict,
            reason,
            lease.check_seq,
            contracts.version,
            contracts.digest,
            rows,
            evidence,
        )

    @contextmanager
    def _writing(self, lease: Lease) -> Iterator[None]:
        """A transaction under the lease; the emitter's numbers are kept only if it commits."""
        with writing(self._store, lease):
            yield
            pass_by("reconcile.before_commit")
        self._emitter.keep()


def _lock(worklist: Worklist, found: Sequence[Found], left_out: frozenset[uuid.UUID]) -> None:
    """Keep ingest from telling more of these.

    Raises _ToldMore where it did.
    """
    told_more = worklist.lock(found) - left_out
    if told_more:
        raise _ToldMore(told_more)


def _sighting_of(turn: _Turn, change: Unattributed) -> Sighting:
    """The sighting of a change in this turn's sweep, after those before it."""
    assert turn.swept is not None  # noqa: S101  # only a sweep finds changes
    row = turn.seen.observed.get(change.row)
    state = digest_of_rows({change.row: row if isinstance(row, Row) else None})
    return sighted(turn.swept.candidates.get(change.row), "unattributed", state, turn.fence, turn.now)


def _present(observed: Rows, keys: Iterable[RowKey]) -> dict[RowKey, Row | None]:
    """Those of the rows that were looked at."""
    rows: dict[RowKey, Row | None] = {}
    for key in keys:
        row = observed.get(key)
        if row is None or isinstance(row, Row):
            rows[key] = row
    return rows


def _about(tenant: str, row: Found) -> About:
    return About(
        tenant,
        row["workflow"],
        row["task_id"].bytes,
        effect_id=row["effect_id"].bytes,
        causation_id=row["intent_event_id"].bytes,
    )
