"""What a turn concludes from what it saw: which verdicts to say, what has settled, what becomes the baseline.

Nothing is written here: events wait with the emitter, and the rest in an `Outcome`.
"""

import datetime as dt
import random
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from counterfoil_reconcilers.baseline import digest_of_row
from counterfoil_reconcilers.contracts import Contracts
from counterfoil_reconcilers.contracts import Target as Declared
from counterfoil_reconcilers.deciding import Decision, Member, decide, digest_of_rows, fence_of
from counterfoil_reconcilers.emission import About, Emitter, Ruling, about_target
from counterfoil_reconcilers.judge import Judgement, Unattributed
from counterfoil_reconcilers.observing import Seen, accepted_until, settle_window
from counterfoil_reconcilers.repairs import Repairs
from counterfoil_reconcilers.rows import Row, RowKey, Rows
from counterfoil_reconcilers.settling import LOST_AFTER, Pace, Progress, Sighting, is_change_settled, sighted
from counterfoil_reconcilers.sweeping import Sweep
from counterfoil_reconcilers.touched import connected
from counterfoil_reconcilers.veil import key_veiled
from counterfoil_reconcilers.worklist import CheckState, Found, Lease

_NO_STATE = b""  # no state's digest: where it stood, an unexplained state is a first sighting


@dataclass(frozen=True)
class Policy:
    """When to look again, how much at a time, and when to give up.

    `full_sweep_every`: how often a sweep lists every row also of resources that tell what changed there.
    `full_sweep_share`: in how much of the time it does so for effects that wait for it, sooner than that.
    `unknowable_after`: how long a target may give no answer until that is said of the effects that wait for it.
    `lost_after`: how long an open producer may be silent until what it may hold in its spool is not waited for.
    """

    sweep_every: dt.timedelta = dt.timedelta(seconds=30)
    full_sweep_every: dt.timedelta = dt.timedelta(days=1)
    full_sweep_share: float = 0.05
    give_up_after: dt.timedelta = dt.timedelta(seconds=60)
    unknowable_after: dt.timedelta = dt.timedelta(hours=1)
    lost_after: dt.timedelta = LOST_AFTER
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
class Swept:
    """What a sweep found, while its turn lasts."""

    found: Sweep
    candidates: Mapping[RowKey, Sighting]
    elsewhere: Sequence[Unattributed] = ()


@dataclass
class Outcome:
    """What was decided, to be written in one transaction; events wait with the emitter.

    `candidates` are rows that differ from the baseline, and wait; `cleared` those that do so no more.
    """

    done: Checked = field(default_factory=Checked)
    states: list[CheckState] = field(default_factory=list)
    baseline: list[tuple[RowKey, Row | None, Sequence[int]]] = field(default_factory=list)
    given_up: list[Decision] = field(default_factory=list)
    candidates: dict[RowKey, Sighting] = field(default_factory=dict)
    cleared: set[RowKey] = field(default_factory=set)


@dataclass(frozen=True)
class Turn:
    """What a part of a turn has before it when it decides."""

    lease: Lease
    now: dt.datetime
    progress: Progress
    fence: tuple[int, ...]
    seen: Seen
    judgement: Judgement
    swept: Swept | None
    repairs: Repairs


class Conclusion:
    """Decides for one part of a turn. `drifts`: whether an outcome and a verdict, side by side, are drift."""

    def __init__(
        self,
        contracts: Contracts,
        declared: Declared,
        policy: Policy,
        drifts: Mapping[tuple[str, str], bool],
        emitter: Emitter,
    ) -> None:
        self._contracts = contracts
        self._declared = declared
        self._policy = policy
        self._drifts = drifts
        self._emitter = emitter

    def decide(self, turn: Turn, left_out: frozenset[uuid.UUID], outcome: Outcome) -> None:
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
                writers=self._declared.writers,
            )
            fence = fence_of(decisions)
            for i, decision in zip(group, decisions, strict=True):
                if decision.says:
                    self._say(turn, decision, rows, outcome.done)
                outcome.states.append(self._state(turn, decision, i, fence))
            outcome.given_up += [decision for decision in decisions if decision.gives_up]
            if not decisions[0].closes:
                outcome.done.open += len(members)
            elif seen.baseline.first_fence is not None:
                outcome.baseline += [(key, row, fence) for key, row in rows.items()]
                for change in judgement.unattributed:
                    if change.row in rows:
                        self._say_change(turn, change, outcome.done)

    def _member(self, turn: Turn, index: int) -> Member:
        seen = turn.seen
        window = settle_window(self._contracts, self._declared, seen.found[index])
        verdict = turn.judgement.verdicts[index]
        until = accepted_until(self._contracts, seen.found[index])
        return Member(seen.found[index], seen.effects[index], verdict, seen.touched[index], window, until)

    def _say(self, turn: Turn, decision: Decision, rows: Mapping[RowKey, Row | None], done: Checked) -> None:
        member, verdict = decision.member, decision.member.verdict
        read = [(key, row.version if row else None) for key, row in sorted(rows.items()) if key in member.own_rows]
        ruling = self.ruling(
            turn.lease, turn.seen, member.effect.tool, verdict.verdict, verdict.reason, read, verdict.evidence
        )
        self._emitter.rule(about_effect(turn.seen.tenant, member.row), ruling, turn.now)
        done.said += 1

    def _state(self, turn: Turn, decision: Decision, index: int, fence: Sequence[int]) -> CheckState:
        row, verdict = decision.member.row, decision.sighting.verdict
        is_absent = decision.closes and verdict == "not_applied"
        return CheckState(
            effect_id=row["effect_id"],
            sighting=decision.sighting,
            emitted=verdict if decision.says else row["emitted"],
            settled_at=decision.settled_at,
            due_at=self.next_look(row, turn.now),
            marks=turn.seen.marks[index],
            is_closed=decision.closes,
            absent_fence=fence if is_absent else None,
        )

    def next_look(self, row: Found, now: dt.datetime) -> dt.datetime:
        jitter = random.random()  # noqa: S311  # so that what came at once does not come back at once
        until = accepted_until(self._contracts, row)
        return self._policy.pace.next_look(now, row["last_appended_at"], until, jitter)

    def decide_changes(self, turn: Turn, outcome: Outcome) -> None:
        """Changes that no intent explains settle like verdicts; said once, they become the baseline."""
        assert turn.swept is not None  # noqa: S101  # called where a sweep was made
        for change in turn.swept.elsewhere:
            row = turn.seen.observed.get(change.row)
            sighting = _sighting_of(turn, change)
            if self._has_settled(turn, sighting):
                # An unknowable one is not said: an effect that can't be judged may have made it.
                self._say_change(turn, change, outcome.done)
                fence = turn.repairs.past(change.row, sighting.fence)
                outcome.baseline.append((change.row, row if isinstance(row, Row) else None, fence))
            else:
                outcome.done.open += 1
                outcome.candidates[change.row] = sighting
        known, explained = turn.swept.candidates, self._explained_so_far(turn, turn.swept, outcome)
        new = Sighting("explained", _NO_STATE, turn.fence, turn.now)
        outcome.candidates |= {key: new for key in explained if key not in known or known[key].digest != _NO_STATE}
        outcome.cleared = known.keys() - outcome.candidates.keys() - explained
        self._use_up_repairs(turn, turn.swept, outcome)
        if self._declared.writers == "ours":
            outcome.baseline += [(key, row, turn.fence) for key, row in self._adopted(turn).items()]

    def _explained_so_far(self, turn: Turn, swept: Swept, outcome: Outcome) -> set[RowKey]:
        """Rows that differ because of effects that are open, and that no later sweep need be told of.

        They are looked at again until they are in the baseline, as where all rows are listed: whoever explains them now
        may not do so then.
        """
        closed = {key for key, _, _ in outcome.baseline}
        return {
            key
            for key in swept.found.changed.keys() & turn.judgement.explained - closed
            if self._declared.resources[key.resource].changes is not None
        }

    def _use_up_repairs(self, turn: Turn, swept: Swept, outcome: Outcome) -> None:
        """A row that is as it was known, seen after its repair was said, had been repaired by then."""
        baseline = turn.seen.baseline
        lag = dt.timedelta(seconds=self._declared.settle_seconds) + self._declared.capabilities.read_lag
        spoken_for = turn.judgement.explained | {change.row for change in swept.elsewhere}
        for key in turn.repairs.older_than(turn.progress.known_until, lag):
            changed = swept.found.changed.get(key)
            if key not in spoken_for and not (changed is not None and changed.problem):
                fence = turn.repairs.past(key, baseline.fences.get(key) or baseline.first_fence or turn.fence)
                outcome.baseline.append((key, baseline.rows.get(key), fence))

    def _adopted(self, turn: Turn) -> dict[RowKey, Row | None]:
        """Rows that other writers changed, as they may: from now on they are what our writes start from."""
        assert turn.swept is not None  # noqa: S101  # called where a sweep was made
        spoken_for = turn.judgement.explained | {change.row for change in turn.swept.elsewhere}
        known = turn.seen.baseline.rows
        return {
            key: row
            for key, row in turn.swept.found.changed.items()
            if key not in spoken_for and digest_of_row(row) != digest_of_row(known.get(key))
        }

    def _has_settled(self, turn: Turn, sighting: Sighting) -> bool:
        return is_change_settled(sighting, dt.timedelta(seconds=self._declared.settle_seconds), turn.progress)

    def _swept_before(self, turn: Turn) -> dt.datetime | None:
        """When the first was of the last two sweeps that nothing can have escaped; this turn's own may be one of them.

        Where nothing is swept, nothing need be waited for. None in a turn without a sweep, and while a change that was
        seen before, and that an effect which can't be judged may have made, is to settle.
        """
        if self._declared.writers is None:
            return turn.now
        if turn.swept is None:
            return None
        for change in turn.swept.elsewhere:
            sighting = _sighting_of(turn, change)
            if change.verdict == "unknowable" and sighting.count > 1 and not self._has_settled(turn, sighting):
                return None
        return turn.lease.saw_all_at if turn.swept.found.saw_all else turn.lease.saw_all_before

    def _say_change(self, turn: Turn, change: Unattributed, done: Checked) -> None:
        if change.verdict != "unattributed" or change.row in turn.repairs:
            return
        versions = [(change.row, change.evidence.get("version"))]
        ruling = self.ruling(turn.lease, turn.seen, None, change.verdict, change.reason, versions, change.evidence)
        self._emitter.rule(about_target(turn.seen.tenant, self._declared.name), ruling, turn.now)
        done.changes += 1

    def ruling(
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


def _sighting_of(turn: Turn, change: Unattributed) -> Sighting:
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


def about_effect(tenant: str, row: Found) -> About:
    return About(
        tenant,
        row["workflow"],
        row["task_id"].bytes,
        effect_id=row["effect_id"].bytes,
        causation_id=row["intent_event_id"].bytes,
    )
