"""When a verdict may be said. Pure: values and `now` in, values out (DESIGN.md section 7).

`applied` may be said at first sight. Everything else settles: the target's window has passed, two sightings agree,
every partition is ingested up to the end offsets read after the first of them, and every open producer of the tenant
has beaten past these, or is lost. Moments are compared by offsets of the log; durations end not now but at the moment
up to which the log is ingested, so that a lagging ingest makes nobody look silent.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

_BEATS_MISSED = 3
# Its spool may hold intents for as long as it is cut off, so it is long until a producer is taken for lost.
LOST_AFTER = dt.timedelta(minutes=15)
# How long a write may be under way without a result before its absence counts.
IN_FLIGHT = dt.timedelta(seconds=300)
_NEVER = dt.datetime.min.replace(tzinfo=dt.UTC)
_MOST_ENDS = 256
_FIRST_PAUSE = dt.timedelta(seconds=1)
_LONGEST_PAUSE = dt.timedelta(minutes=5)


class Horizon:
    """Up to which moment the log is ingested. Give it the log's ends as they are read, then what is ingested."""

    def __init__(self) -> None:
        self._ahead: list[tuple[dt.datetime, tuple[int, ...]]] = []
        self._known_until = _NEVER

    def note(self, moment: dt.datetime, ends: Sequence[int]) -> None:
        """The end offsets by partition, read at `moment` or later."""
        if len(self._ahead) >= _MOST_ENDS:
            self._ahead = self._ahead[::2]
        self._ahead.append((moment, tuple(ends)))

    def reached(self, ingested: Sequence[int]) -> dt.datetime:
        """The latest moment whose ends are ingested; the beginning of time if there is none."""
        reached = [moment for moment, ends in self._ahead if _is_past(ingested, ends)]
        self._known_until = max([self._known_until, *reached])
        self._ahead = [(moment, ends) for moment, ends in self._ahead if moment > self._known_until]
        return self._known_until


def _is_past(ingested: Sequence[int], ends: Sequence[int]) -> bool:
    return all(here >= end for here, end in zip(ingested, ends, strict=True))


@dataclass(frozen=True)
class Producer:
    """An open producer of the tenant: where it beats, and when it was last heard (the broker's clock)."""

    partition: int
    beat_offset: int
    beat_interval: dt.timedelta
    last_at: dt.datetime

    def is_lost(self, known_until: dt.datetime, lost_after: dt.timedelta) -> bool:
        """Whether it has been silent for so long, and for three of its beats, that its spool is not waited for."""
        return known_until - self.last_at > max(self.beat_interval * _BEATS_MISSED, lost_after)


@dataclass(frozen=True)
class Progress:
    """How far the log is known: the next offset to ingest by partition, the tenant's open producers, and the moment.

    One that is silent for `lost_after` is lost.

    It must have been read before the effects that are judged by it, so that none of theirs is missing among them.
    """

    ingested: Sequence[int]
    producers: Sequence[Producer]
    known_until: dt.datetime
    lost_after: dt.timedelta = LOST_AFTER

    def is_past(self, fence: Sequence[int]) -> bool:
        """Whether every intent that was durable when `fence` (end offsets by partition) was read is in the store."""
        return _is_past(self.ingested, fence) and all(
            producer.beat_offset >= fence[producer.partition] or producer.is_lost(self.known_until, self.lost_after)
            for producer in self.producers
        )

    @property
    def nobody_acts(self) -> bool:
        """Whether no producer of the tenant can still have a write under way."""
        return all(producer.is_lost(self.known_until, self.lost_after) for producer in self.producers)


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


@dataclass(frozen=True)
class Pace:
    """How often an effect that does not settle is looked at: after a share of its age, within bounds."""

    share: float = 0.25
    least: dt.timedelta = dt.timedelta(seconds=1)
    most: dt.timedelta = dt.timedelta(seconds=60)

    def next_look(
        self, now: dt.datetime, last_at: dt.datetime, accept_deadline: dt.datetime | None, jitter: float
    ) -> dt.datetime:
        """When to look again at what was last heard of at `last_at`.

        `jitter`, from 0 to 1, spreads what came at once.
        """
        pause = min(max((now - last_at) * self.share, self.least), self.most) * (0.9 + 0.2 * jitter)
        if accept_deadline is not None and now < accept_deadline < now + pause:
            return accept_deadline
        return now + pause


def pause_after(failures: int, retry_after: dt.timedelta | None, jitter: float) -> dt.timedelta:
    """How long a target that gave no answer `failures` times in a row is left alone: twice as long each time.

    Never less than it asked for (`Retry-After`), and at most five minutes if it asked for nothing.
    """
    own: dt.timedelta = min(_FIRST_PAUSE * 2.0 ** min(failures, 20), _LONGEST_PAUSE) * (0.75 + 0.5 * jitter)
    return max(own, retry_after or dt.timedelta(0))


def sighted(previous: Sighting | None, verdict: str, digest: bytes, fence: Sequence[int], now: dt.datetime) -> Sighting:
    """The sighting after looking once more."""
    if previous is None or (previous.verdict, previous.digest) != (verdict, digest):
        return Sighting(verdict, digest, tuple(fence), now)
    return Sighting(verdict, digest, previous.fence, previous.first_at, previous.count + 1)


def may_be_said_at_once(verdict: str, outcome: str) -> bool:
    """`applied` needs no second look, unless it contradicts a definite refusal."""
    return verdict == "applied" and outcome not in ("failed", "denied")


def is_at_rest(facts: Facts, progress: Progress) -> bool:
    """Whether no attempt is still under way: what it would do has been done, or never will be."""
    return facts.in_flight <= 0 or progress.nobody_acts or progress.known_until - facts.last_at > IN_FLIGHT


def is_settled(sighting: Sighting, facts: Facts, settle: dt.timedelta, progress: Progress) -> bool:
    """Whether this verdict stands."""
    known_until = progress.known_until
    if sighting.count < 2 or known_until - facts.last_at < settle or not progress.is_past(sighting.fence):
        return False
    if sighting.verdict == "applied":
        return True
    if facts.accept_deadline is not None and known_until < facts.accept_deadline:
        return False
    return is_at_rest(facts, progress)


def is_change_settled(sighting: Sighting, settle: dt.timedelta, progress: Progress) -> bool:
    """Whether a change at the target that no intent explains stands."""
    has_lasted = progress.known_until - sighting.first_at >= settle
    return sighting.count >= 2 and has_lasted and progress.is_past(sighting.fence)
