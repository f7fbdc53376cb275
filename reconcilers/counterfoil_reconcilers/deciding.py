"""What a pass concludes for effects that share rows: what to say, what has settled, what is over. Pure."""

import datetime as dt
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from counterfoil_reconcilers.judge import Verdict
from counterfoil_reconcilers.rows import Effect, Row, RowKey
from counterfoil_reconcilers.settling import (
    Facts,
    Progress,
    Sighting,
    is_at_rest,
    is_settled,
    may_be_said_at_once,
    sighted,
)
from counterfoil_reconcilers.touched import Touched
from counterfoil_reconcilers.values import json_list


class Member(NamedTuple):
    """One effect of a group: its row in the store, what it touches, and what was judged of it now."""

    row: Mapping[str, Any]
    effect: Effect
    verdict: Verdict
    touched: Touched
    settle: dt.timedelta
    accepted_until: dt.datetime | None

    @property
    def facts(self) -> Facts:
        """What bears on settling."""
        row = self.row
        return Facts(row["outcome"], row["last_appended_at"], row["in_flight"], self.accepted_until)

    @property
    def previous(self) -> Sighting | None:
        """The sighting before this one."""
        row = self.row
        if row["sighted_verdict"] is None:
            return None
        digest, fence = bytes(row["sighting_digest"]), tuple(row["fence"])
        return Sighting(row["sighted_verdict"], digest, fence, row["first_sighted_at"], row["sightings"])

    @property
    def own_rows(self) -> frozenset[RowKey]:
        """The rows that this effect writes, those that were found by their content included."""
        found = {RowKey(part["resource"], tuple(part["key"])) for part in self.verdict.evidence.get("parts", ())}
        return self.touched.writes | found


class Decision(NamedTuple):
    """What to write down about one member."""

    member: Member
    sighting: Sighting
    settled_at: dt.datetime | None
    says: bool
    closes: bool
    gives_up: bool


def decide(
    members: Sequence[Member],
    rows: Mapping[RowKey, Row | None],
    *,
    fence: Sequence[int],
    progress: Progress,
    now: dt.datetime,
    drifts: Mapping[tuple[str, str], bool],
    give_up_after: dt.timedelta,
    swept_before: dt.datetime | None,
    writers: str | None,
) -> list[Decision]:
    """One decision per member; they are closed all together, or none.

    `rows` are the group's rows as observed, `fence` the log's end offsets read after that, `drifts` the drift table.
    `swept_before` says when the first was of two sweeps that saw all; None, if this pass does not sweep, or if what it
    saw is yet to settle. What may have changed rows that nobody can name stays open until two sweeps saw them.
    `writers`: who else writes there, as the contract declares it.
    """
    state = digest_of_rows(rows)
    decisions = []
    for member in members:
        verdict = "applied" if _was_written_over(member, rows, writers) else member.verdict.verdict
        sighting = sighted(member.previous, verdict, state, fence, now)
        settled_at = _settled_at(member, sighting, progress, now)
        drift = drifts[member.row["outcome"], sighting.verdict]
        lasted = settled_at is not None and (not drift or now - settled_at >= give_up_after)
        over = lasted and is_at_rest(member.facts, progress)
        if over and _blinds(member, sighting):
            over = settled_at is not None and swept_before is not None and settled_at <= swept_before
        at_once = may_be_said_at_once(sighting.verdict, member.row["outcome"])
        says = member.row["emitted"] != sighting.verdict and (settled_at is not None or at_once)
        decisions.append(Decision(member, sighting, settled_at, says, over, gives_up=drift))
    closes = all(decision.closes for decision in decisions)
    return [
        Decision(d.member, d.sighting, d.settled_at, d.says, closes, gives_up=closes and d.gives_up) for d in decisions
    ]


def _was_written_over(member: Member, rows: Mapping[RowKey, Row | None], writers: str | None) -> bool:
    """Whether it was seen to have landed, and others may have changed since what it left: then it landed all the same.

    A row of ours that lost it lost it.
    """
    previous = member.previous
    if writers == "exclusive" or member.verdict.verdict in ("applied", "duplicated"):
        return False
    if previous is None or previous.verdict != "applied" or member.row["emitted"] != "applied":
        return False
    written = [rows[key] for key in rows if key in member.touched.writes] or list(rows.values())
    return not all(row is not None and row.ours is True for row in written)


def _blinds(member: Member, sighting: Sighting) -> bool:
    """Whether it may have changed rows that nobody can name."""
    if member.row["outcome"] in ("failed", "denied"):
        return False
    return sighting.verdict == "unknowable" or bool(member.touched.blind)


def _settled_at(member: Member, sighting: Sighting, progress: Progress, now: dt.datetime) -> dt.datetime | None:
    if not is_settled(sighting, member.facts, member.settle, progress):
        return None
    before: dt.datetime | None = member.row["settled_at"]
    return before if before is not None and sighting.count > 1 else now


def fence_of(decisions: Sequence[Decision]) -> tuple[int, ...]:
    """Intents at or past these offsets were durable after the group's rows were last seen to change."""
    return tuple(max(ends) for ends in zip(*(decision.sighting.fence for decision in decisions), strict=True))


def digest_of_rows(rows: Mapping[RowKey, Row | None]) -> bytes:
    """One digest for equal rows, whatever their versions."""
    digest = hashlib.sha256()
    for key in sorted(rows):
        row = rows[key]
        for text in (json_list((key.resource, *key.key)), "absent" if row is None else f"holds {row.text}"):
            content = text.encode("utf-8", "surrogatepass")
            digest.update(b"%d:" % len(content) + content)
    return digest.digest()
