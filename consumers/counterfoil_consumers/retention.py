"""Drops what is past its time, by policy and never under a hold; the store itself decides, in one transaction a leaf.

A run may be started anywhere, at any time and twice: Postgres lets one of them work, and whoever dies has done nothing
of what it was at.
"""

import datetime as dt
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from psycopg.errors import CheckViolation, LockNotAvailable

from counterfoil.errors import UsageError
from counterfoil.failpoints import pass_by
from counterfoil.ids import OPERATORS
from counterfoil_consumers import metrics
from counterfoil_consumers.store import Connection, connect, fetch_one, queries
from counterfoil_consumers.window import make_partitions

logger = logging.getLogger("counterfoil.retention")

LEAST_MONTHS = 6  # EU AI Act, articles 19(1) and 26(6)
LONGEST_PASS = dt.timedelta(hours=6)  # that a leaf's hashes may take to be copied
LIMITS = {"statement_timeout": f"{LONGEST_PASS.total_seconds():.0f}s"}
# Of who sets a rule or places a hold: a run that drops a large partition lets them wait, and they come after it.
PATIENCE = {"lock_timeout": "10min", "statement_timeout": "10min"}
_IN_USE = "kept: in use, left to the next run"


@dataclass(frozen=True, slots=True)
class Dropped:
    """What became of a leaf, or of a class's rows in `event_astray` or `event_held`; `held` events were copied."""

    relation: str
    retention_class: str
    outcome: str
    events: int
    held: int


@dataclass(frozen=True, slots=True)
class Scope:
    """What a hold covers: events of the tenant that have all that is given here, in the time [from_at, until_at)."""

    tenant: str
    workflow: str | None = None
    agent: str | None = None
    task_id: str | None = None
    subject_ref: str | None = None
    from_at: dt.datetime | None = None
    until_at: dt.datetime | None = None


def connect_eraser(dsn: str) -> Connection:
    """A connection for `run`.

    Raises StoreAway, StoreError.
    """
    return connect(dsn, "eraser", application="retention", **LIMITS)


def run(eraser: Connection, by: str, *, is_rehearsal: bool = False) -> list[Dropped]:
    """Make the partitions of the months to come, and drop what is past its time; what is in use is left for later.

    Returns what became of each leaf that is due, and of what is astray or no longer held where there was some. A
    rehearsal changes nothing.
    """
    this = _Run(eraser, by, is_rehearsal)
    if is_rehearsal:
        return [*this.leaves(), *this.rows()]
    make_partitions(eraser)
    done = [*this.leaves(), *this.rows()]
    _measure(eraser)
    return done


@dataclass(frozen=True, slots=True)
class _Run:
    """One pass over all that may be past its time."""

    eraser: Connection
    by: str
    is_rehearsal: bool

    def leaves(self) -> Iterator[Dropped]:
        """Of a class whose readers do not let go, the others wait as well."""
        in_use: set[str] = set()
        for leaf in self.eraser.execute(queries("retention")["find_leaves"]).fetchall():
            retention_class = leaf["retention_class"]
            if leaf["is_due"] and retention_class not in in_use:
                dropped = self._drop("drop_leaf", leaf["leaf"], leaf["leaf"], retention_class)
                if dropped.outcome == _IN_USE:
                    in_use.add(retention_class)
                yield dropped

    def rows(self) -> Iterator[Dropped]:
        """What is astray goes in parts."""
        for rule in self.eraser.execute(queries("retention")["list_rules"]).fetchall():
            name = rule["retention_class"]
            for query, relation in (("drop_astray", "event_astray"), ("drop_released", "event_held")):
                is_over = False
                while not is_over:
                    dropped = self._drop(query, name, relation, name)
                    if dropped.outcome != "kept":
                        yield dropped
                    is_over = dropped.outcome != "dropped"

    def _drop(self, query: str, name: str, relation: str, retention_class: str) -> Dropped:
        params = {"name": name, "by": self.by, "is_rehearsal": self.is_rehearsal}
        try:
            row = fetch_one(self.eraser, queries("retention")[query], params)
        except LockNotAvailable as error:
            logger.info("%s of %s is left to the next run: %s", relation, retention_class, str(error).splitlines()[0])
            return Dropped(relation, retention_class, _IN_USE, 0, 0)
        pass_by("retention.after_drop")
        dropped = Dropped(relation, retention_class, row["outcome"], row["events"], row["held"])
        if dropped.outcome == "dropped":
            metrics.EVENTS_DROPPED.labels(retention_class).inc(dropped.events)
            logger.info("dropped %s: %d events, %d of them held", relation, dropped.events, dropped.held)
        return dropped


def _measure(eraser: Connection) -> None:
    named = queries("retention")
    for gauge in (metrics.EVENTS_ASTRAY, metrics.EVENTS_HELD):
        gauge.clear()
    for row in eraser.execute(named["count_set_apart"]):
        if row["relation"] == "event_held":
            metrics.EVENTS_HELD.labels(row["retention_class"]).set(row["events"])
        else:
            metrics.EVENTS_ASTRAY.labels(row["reason"]).inc(row["events"])  # of all classes, which strangers may name
    metrics.LEAVES_OVERDUE.set(sum(leaf["is_due"] for leaf in eraser.execute(named["find_leaves"])))
    metrics.LAST_RETENTION_RUN.set_to_current_time()


def set_rule(
    operator: Connection, retention_class: str, keep_months: int | None, reason: str, by: str, is_short: bool
) -> None:
    """Keep the events of a class that long, from now on; None is for ever.

    Raises UsageError for less than six months where `is_short` does not say that this is meant, and for a class that
    can't name a partition.
    """
    if keep_months is not None and keep_months < LEAST_MONTHS and not is_short:
        raise UsageError(
            f"{keep_months} months are less than the {LEAST_MONTHS} that logs of high-risk AI systems must be kept "
            "(EU AI Act, articles 19 and 26(6)); say --less-than-six-months if you mean it"
        )
    params = {"retention_class": retention_class, "keep_months": keep_months, "is_short": is_short}
    try:
        operator.execute(queries("retention")["set_rule"], {**params, "reason": reason, "by": by})
    except CheckViolation as error:
        raise UsageError(
            f"the rule for {retention_class!r} is refused: a class has up to 40 small letters, digits, - and _, "
            "begins with a letter and ends in no month, a time is 1 to 1200 months, and reason and person are not empty"
        ) from error


def place_hold(operator: Connection, scope: Scope, reason: str, by: str) -> int:
    """Keep what `scope` covers until the hold is released; returns its number.

    What a run is dropping at this moment is either held or was gone before. Raises UsageError for an unknown tenant.
    """
    params: dict[str, Any] = {**asdict(scope), "reason": reason, "by": by, "operators": OPERATORS}
    try:
        row = operator.execute(queries("retention")["place_hold"], params).fetchone()
    except CheckViolation as error:
        raise UsageError("a hold needs a reason, a person, and a time that ends after it begins") from error
    if row is None:
        raise UsageError(f"there is no tenant {scope.tenant!r}; see `counterfoil tenant list`")
    return int(row["hold_id"])


def release_hold(operator: Connection, hold_id: int, reason: str, by: str) -> None:
    """Let go of what a hold covered; the next run drops what is past its time and under no other hold.

    Raises UsageError where there is no such hold any more.
    """
    params = {"hold_id": hold_id, "reason": reason, "by": by}
    try:
        released = fetch_one(operator, queries("retention")["release_hold"], params)["released"]
    except CheckViolation as error:
        raise UsageError("a release needs a reason and a person") from error
    if not released:
        raise UsageError(f"there is no hold {hold_id} that could be released; see `counterfoil hold list --all`")
