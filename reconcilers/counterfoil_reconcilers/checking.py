"""One turn at one tenant's effects at one target: look, judge, and say what has settled.

Effects are taken some at a time, each time with all that share rows with them. What is decided of them is written in
one transaction, which first makes sure that the lease is still ours, and that ingest learnt no more of them meanwhile.
"""

import datetime as dt
import logging
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from counterfoil.blobs import BlobReader
from counterfoil.failpoints import pass_by
from counterfoil.redaction import Redaction
from counterfoil_consumers.store import Connection, queries
from counterfoil_reconcilers.baseline import (
    clear_candidate,
    marks_of_declarations,
    read_candidates,
    set_baseline,
    set_candidates,
)
from counterfoil_reconcilers.concluding import Checked, Conclusion, Outcome, Policy, Swept, Turn, about_effect
from counterfoil_reconcilers.contracts import Contracts
from counterfoil_reconcilers.deciding import Decision
from counterfoil_reconcilers.emission import Emitter
from counterfoil_reconcilers.forgetting import unless_forgotten
from counterfoil_reconcilers.judge import sweep as changes_beside
from counterfoil_reconcilers.log_progress import LogProgress
from counterfoil_reconcilers.observing import ChangedRows, Observer, mark_all
from counterfoil_reconcilers.positions import newest, set_positions
from counterfoil_reconcilers.repairs import Repairs, read_repairs
from counterfoil_reconcilers.rows import RowKey
from counterfoil_reconcilers.settling import Progress
from counterfoil_reconcilers.sweeping import Sweep, chunks, sweep
from counterfoil_reconcilers.targets.port import Target, TargetUnavailable
from counterfoil_reconcilers.worklist import Found, Lease, Worklist, renew, take_looks, writing

logger = logging.getLogger("counterfoil.reconcile")

_HOLD_SECONDS = 5.0  # a part of a lease's length, so that it is not written at each request
_LONGEST_TURN = dt.timedelta(seconds=20)  # then others have theirs
_NO_CHANGES: ChangedRows = {}
_NO_ANSWER = "unknowable: no answer"  # not what a look says: once there is an answer, that is said whatever it is


class _ToldMore(Exception):
    """Ingest was told more of these effects while they were judged."""

    def __init__(self, effect_ids: frozenset[uuid.UUID]) -> None:
        super().__init__()
        self.effect_ids = effect_ids


@dataclass
class _Run:
    """A turn while it lasts: under which lease, what it swept, and what it did so far.

    `go_on` is called by whatever takes long: it holds on to the lease, and raises LeaseLost where another has it.
    """

    lease: Lease
    worklist: Worklist
    go_on: Callable[[], object]
    swept: Swept | None = None
    done: Checked = field(default_factory=Checked)


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
        drifts = {
            (r["outcome"], r["verdict"]): bool(r["drift"]) for r in store.execute(self._named["read_drift_rules"])
        }
        self._conclusion = Conclusion(contracts, self._declared, policy, drifts, emitter)

    def check_one(self, lease: Lease, effect_id: uuid.UUID) -> Checked:
        """Look at one effect now, and at those that share rows with it, if the budget allows; nothing is swept.

        Raises TargetUnavailable, BrokersAway, LeaseLost, TooManyConnected; nothing was written then.
        """
        run = self._run(lease, lambda: None)
        if self._allowed(1) < 1:
            return run.done
        progress = self._log.read(self._store, lease.tenant, renew(self._store, lease))
        observer = self._observer(run)
        observer.note(run.worklist.named(effect_id))
        self._check_some(run, progress, observer, is_sweeping=False)
        return run.done

    def check(self, lease: Lease, *, everything: bool, beat: Callable[[], object] = lambda: None) -> Checked:
        """A turn at one tenant's effects: those that are due, or everything that is open; `beat` is called in between.

        Raises TargetUnavailable, BrokersAway, LeaseLost, TooManyConnected; what was written before that stays.
        """
        run = self._run(lease, beat)
        if self._declared.writers is not None and lease.first_fence is None:
            self._take_baseline(run, self._declared.resources)
            run.done.open = len(run.worklist.due(self._policy.effects_at_a_time, until=None))
            return run.done
        is_sweep_due = self._is_sweep_due(lease)
        while True:
            now = renew(self._store, lease)
            beat()
            # First how far ingest is, then what it brought: what comes in between must not seem to be missing.
            progress = self._log.read(self._store, lease.tenant, now)
            found = run.worklist.due(self._allowed(self._policy.effects_at_a_time), until=None if everything else now)
            if not found and not is_sweep_due:
                return run.done
            observer = self._observer(run)
            observer.note(found)
            self._check_some(run, progress, observer, is_sweeping=is_sweep_due)
            is_sweep_due = False
            if not everything and now - lease.now > _LONGEST_TURN:
                return run.done

    def no_answer(self, lease: Lease, error: TargetUnavailable, *, everything: bool) -> int:
        """Put off what is due; of what has waited for too long, say that nobody can know. Returns how much was said."""
        now = renew(self._store, lease)
        worklist = self._worklist(lease)
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
                    ruling = self._conclusion.ruling(lease, None, row["tool"], "unknowable", reason, (), evidence)
                    self._emitter.rule(about_effect(lease.tenant, row), ruling, now)
                said.append(_NO_ANSWER if says else None)
            with self._writing(lease):
                worklist.lock(found)
                self._emitter.put_all(self._store)
                worklist.put_off(found, [self._conclusion.next_look(row, now) for row in found], said)
        finally:
            self._emitter.forget()
        return sum(one is not None for one in said)

    # -- looking

    def _worklist(self, lease: Lease) -> Worklist:
        return Worklist(self._store, lease.tenant, lease.target, lease.check_seq)

    def _run(self, lease: Lease, beat: Callable[[], object]) -> _Run:
        """A turn that holds on to its lease whenever it says that it goes on."""

        held = time.monotonic()

        def go_on() -> None:
            nonlocal held
            if time.monotonic() - held >= _HOLD_SECONDS:
                renew(self._store, lease)
                held = time.monotonic()
            beat()

        return _Run(lease, self._worklist(lease), go_on)

    def _observer(self, run: _Run) -> Observer:
        lease = run.lease
        return Observer(
            store=self._store,
            contracts=self._contracts,
            declared=self._declared,
            adapter=self._adapter,
            tenant=lease.tenant,
            first_fence=lease.first_fence if self._declared.writers is not None else None,
            blobs=self._blobs,
            redaction=self._redaction,
            go_on=run.go_on,
        )

    def _allowed(self, most: int) -> int:
        """How many effects to look at now, of so many."""
        rate = self._declared.looks_per_second
        return most if rate is None else take_looks(self._store, self._declared.name, rate, most)

    def _is_sweep_due(self, lease: Lease) -> bool:
        if self._declared.writers is None:
            return False
        return lease.swept_at is None or lease.now - lease.swept_at >= self._policy.sweep_every

    @property
    def _conceals_deletions(self) -> bool:
        """Whether a sweep that reads what changed is not told of all rows that are gone."""
        ways = (resource.changes for resource in self._declared.resources.values())
        return any(changes is not None and not changes.sees_deletions for changes in ways)

    def _is_full_sweep_due(self, run: _Run) -> bool:
        lease, share = run.lease, self._policy.full_sweep_share
        if lease.fully_swept_at is None or lease.now - lease.fully_swept_at >= self._policy.full_sweep_every:
            return True
        if (
            not share
            or not self._conceals_deletions
            or (lease.now - lease.fully_swept_at).total_seconds() < lease.full_sweep_seconds / share
        ):
            return False
        return run.worklist.waits_for_full_sweep()

    def _take_baseline(self, run: _Run, resources: Iterable[str]) -> None:
        """The rows of these resources as they are now, and how the contract declares them; their effects come later."""
        lease, name, tenant = run.lease, self._declared.name, run.lease.tenant
        fence = self._log.read_ends()
        # Of one that is taken anew, the sweep before it has said what it saw.
        is_first = lease.first_fence is None
        swept, started = Sweep(is_full=is_first, saw_all=is_first), time.monotonic()
        for resource in resources:
            with writing(self._store, lease):
                where = {"tenant": tenant, "target": name, "resource": resource, "fence": list(fence)}
                self._store.execute(self._named["forget_baseline"], where)
            declared = self._declared.resources[resource]
            first = newest(self._adapter, self._declared, declared, tenant, (), lambda: renew(self._store, lease))
            if first is not None:
                swept.positions[resource] = [first]
            for rows in chunks(self._adapter, self._declared, resource, tenant):
                run.go_on()
                fence = self._log.read_ends()
                with writing(self._store, lease):
                    set_baseline(self._store, tenant, name, [(key, row, fence) for key, row in rows.items()])
        swept.seconds = time.monotonic() - started
        fence = self._log.read_ends()
        marks = [(RowKey(resource, ()), row, fence) for resource, row in marks_of_declarations(self._declared)]
        with writing(self._store, lease):
            set_baseline(self._store, tenant, name, [one for one in marks if one[0].resource in set(resources)])
            self._mark_swept(lease, swept, fence)

    def _mark_swept(self, lease: Lease, swept: Sweep, fence: Sequence[int]) -> None:
        """To be called in the transaction that writes what the sweep led to."""
        set_positions(self._store, lease.tenant, self._declared, swept.positions)
        seen = {"fence": list(fence), "is_full": swept.is_full, "saw_all": swept.saw_all, "seconds": swept.seconds}
        self._store.execute(self._named["mark_swept"], {**lease.where, **seen})

    def _sweep(self, run: _Run, observer: Observer, repairs: Repairs) -> Swept:
        """What the target shows now, of all or of what changed and what waits for another look."""
        tenant, started = run.lease.tenant, time.monotonic()
        candidates = read_candidates(self._store, tenant, self._declared.name)
        found = sweep(
            self._store,
            self._adapter,
            self._declared,
            tenant,
            besides=observer.unread,
            waiting=candidates.keys() | repairs.rows,
            is_full=self._is_full_sweep_due(run),
            now=lambda: renew(self._store, run.lease),
            learn=observer.learn,
            go_on=run.go_on,
        )
        found.seconds = time.monotonic() - started
        observer.add_changed(found.changed)
        return Swept(found, candidates)

    def _check_some(self, run: _Run, progress: Progress, observer: Observer, *, is_sweeping: bool) -> None:
        """Look, judge and decide, for the effects that the observer was given and those connected to them.

        What is swept for here, later parts of the turn have in `run`.
        """
        lease = run.lease
        repairs = read_repairs(self._store, lease.tenant, lease.target, observer.past)
        swept = self._sweep(run, observer, repairs) if is_sweeping else None
        run.swept = swept or run.swept
        mark_all(run.worklist, lambda: self._observer(run), observer, run.go_on)
        observer.look_with_connected(run.worklist, swept.found.changed if swept else _NO_CHANGES)
        fence = self._log.read_ends()
        seen = observer.seen()
        now = renew(self._store, lease)
        # Judging may take its time, and a transaction may not.
        judged = seen.judged(self._contracts, self._declared)
        judgement = unless_forgotten(judged, self._adapter, seen.found, seen.touched)
        if swept is not None:
            before = seen.before(self._declared)
            name = self._declared.name
            swept.elsewhere = changes_beside(self._contracts, name, before, seen.observed, judgement, seen.disclosure)
        turn = Turn(lease, now, progress, fence, seen, judgement, run.swept, repairs)
        run.done.add(self._conclude(turn, run.worklist, swept))
        if swept is not None and observer.unread:
            self._take_baseline(run, observer.unread)

    def _conclude(self, turn: Turn, worklist: Worklist, swept: Swept | None) -> Checked:
        """Decide, and write it all down; what ingest was told more of meanwhile is left out, to be looked at again."""
        left_out: frozenset[uuid.UUID] = frozenset()
        while True:
            renew(self._store, turn.lease)
            outcome = Outcome()
            try:
                # Encoding takes its time, too.
                self._conclusion.decide(turn, left_out, outcome)
                if swept is not None:
                    self._conclusion.decide_changes(turn, outcome)
                with self._writing(turn.lease):
                    _lock(worklist, turn.seen.found, left_out)
                    self._write(turn, worklist, outcome, swept)
            except _ToldMore as error:
                left_out |= error.effect_ids
            else:
                return outcome.done
            finally:
                self._emitter.forget()  # what was not written

    def _write(self, turn: Turn, worklist: Worklist, outcome: Outcome, swept: Swept | None) -> None:
        tenant, name = turn.seen.tenant, self._declared.name
        for decision in outcome.given_up:
            outcome.done.given_up += self._give_up(turn, decision)
        self._emitter.put_all(self._store)
        set_baseline(self._store, tenant, name, outcome.baseline)
        worklist.set_states(outcome.states)
        if swept is not None:
            assert turn.seen.baseline.first_fence is not None  # noqa: S101  # no sweep comes before the first baseline
            set_candidates(self._store, tenant, name, outcome.candidates, turn.seen.baseline.first_fence)
            for key in outcome.cleared:
                clear_candidate(self._store, tenant, name, key)
            self._mark_swept(turn.lease, swept.found, turn.fence)

    def _give_up(self, turn: Turn, decision: Decision) -> bool:
        row, verdict = decision.member.row, decision.sighting.verdict
        return self._emitter.give_up(
            self._store,
            about_effect(turn.seen.tenant, row),
            letter_class=verdict,
            reason=f"the agent said {row['outcome']}, {self._declared.name} says {verdict}, and that persisted",
            attempts=decision.sighting.count,
            now=turn.now,
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
