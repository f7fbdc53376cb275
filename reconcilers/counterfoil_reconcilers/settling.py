"""When a verdict may be said. Pure: values and `now` in, values out (DESIGN.md section 7).

`applied` may be said at first sight. Everything else settles: the target's window has passed, two sightings agree,
every partition is ingested up to the end offsets read after the first of them, and every open producer of the tenant
has beaten past these, or is lost. Moments are compared by offsets of the log, not by clocks.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass, replace

# A producer that missed this many beats, and was silent for at least this long, is lost.
_BEATS_MISSED = 3
_SILENCE = dt.timedelta(seconds=30)
# How long a write may be under way without a result before its absence counts.
_IN_FLIGHT = dt.timedelta(seconds=300)


@dataclass(frozen=True)
class Producer:
    """An open producer of the tenant: where it beats, and when it was last heard (the broker's clock)."""

    partition: int
    beat_offset: int
    beat_interval: dt.timedelta
    last_at: dt.datetime

    def is_lost(self, now: dt.datetime) -> bool:
        """Whether it has been silent for so long that its spool is not waited for."""
        return now - self.last_at > max(self.beat_interval * _BEATS_MISSED, _SILENCE)


@dataclass(frozen=True)
class Progress:
    """How far the log is known: the next offset to ingest by partition, and the tenant's open producers."""

    ingested: Sequence[int]
    producers: Sequence[Producer]
    now: dt.datetime

    def is_past(self, fence: Sequence[int]) -> bool:
        """Whether every intent that was durable when `fence` (end offsets by partition) was read is in the store."""
        if any(here < end for here, end in zip(self.ingested, fence, strict=True)):
            return False
        return all(
            producer.beat_offset >= fence[producer.partition] or producer.is_lost(self.now)
            for producer in self.producers
        )

    @property
    def nobody_acts(self) -> bool:
        """Whether no producer of the tenant can still have a write under way."""
        return all(producer.is_lost(self.now) for producer in self.producers)


@dataclass(frozen=True)
class Sighting:
    """The same verdict on the same rows, `count` times in a row since `first_at`; `fence` was read after the first."""

    verdict: str
    digest: bytes
    fence: tuple[int, ...]
    first_at: dt.datetime
    count: int = 1


@dataclass(frozen=True)
class Facts:
    """What the store knows of one effect that bears on settling. Times by the broker's clock."""

    outcome: str
    last_at: dt.datetime
    in_flight: int
    accept_deadline: dt.datetime | None


def sighted(previous: Sighting | None, verdict: str, digest: bytes, fence: Sequence[int], now: dt.datetime) -> Sighting:
    """The sighting after looking once more."""
    if previous is not None and (previous.verdict, previous.digest) == (verdict, digest):
        return replace(previous, count=previous.count + 1)
    return Sighting(verdict, digest, tuple(fence), now)


def may_be_said_at_once(verdict: str, outcome: str) -> bool:
    """`applied` needs no second look, unless it contradicts a definite refusal."""
    return verdict == "applied" and outcome not in ("failed", "denied")


def is_settled(sighting: Sighting, facts: Facts, settle: dt.timedelta, progress: Progress) -> bool:
    """Whether this verdict stands."""
    now = progress.now
    if sighting.count < 2 or now - facts.last_at < settle or not progress.is_past(sighting.fence):
        return False
    if sighting.verdict == "applied":
        return True
    if facts.accept_deadline is not None and now < facts.accept_deadline:
        return False
    return not facts.in_flight or progress.nobody_acts or now - facts.last_at > _IN_FLIGHT


def is_change_settled(sighting: Sighting, settle: dt.timedelta, progress: Progress) -> bool:
    """Whether a change at the target that no intent explains stands."""
    return sighting.count >= 2 and progress.now - sighting.first_at >= settle and progress.is_past(sighting.fence)
