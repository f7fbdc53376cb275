"""What people are told of retention, and the service that runs it: APScheduler is the clock, Postgres lets one act."""

import datetime as dt
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from counterfoil_consumers.errors import StoreAway
from counterfoil_consumers.retention import connect_eraser
from counterfoil_consumers.retention import run as run_once
from counterfoil_consumers.store import WENT_AWAY, Connection, queries

logger = logging.getLogger("counterfoil.retention")

_MISFIRE_SECONDS = 60
_LATEST_DROPS = 20


@dataclass(frozen=True, slots=True)
class Overview:
    """The rules in force, the leaves of each class, what is astray or held, and what was dropped lately."""

    rules: Sequence[Mapping[str, Any]]
    leaves: Sequence[Mapping[str, Any]]
    set_apart: Sequence[Mapping[str, Any]]
    drops: Sequence[Mapping[str, Any]]

    def leaves_of(self, retention_class: str) -> Sequence[Mapping[str, Any]]:
        """Of one class, the oldest first."""
        return [leaf for leaf in self.leaves if leaf["retention_class"] == retention_class]


def read_overview(store: Connection) -> Overview:
    """Ask the store, as an operator."""
    named = queries("retention")
    return Overview(
        rules=store.execute(named["list_rules"]).fetchall(),
        leaves=store.execute(named["find_leaves"]).fetchall(),
        set_apart=store.execute(named["count_set_apart"]).fetchall(),
        drops=store.execute(named["list_drops"], {"limit": _LATEST_DROPS}).fetchall(),
    )


def run_every(
    interval: dt.timedelta, dsn: str, by: str, stopping: threading.Event, beat: Callable[[], None] = lambda: None
) -> None:
    """A run now and after each `interval`, until `stopping` is set; a store that is away is asked again next time."""
    scheduler = BackgroundScheduler(
        executors={"default": ThreadPoolExecutor(1)},
        job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": _MISFIRE_SECONDS},
        timezone=dt.UTC,
    )

    def tick() -> None:
        try:
            with closing(connect_eraser(dsn)) as eraser:
                run_once(eraser, by)
        except (StoreAway, *WENT_AWAY) as error:
            logger.warning("the store is away, and asked again later: %s", str(error).splitlines()[0])
        beat()

    scheduler.add_job(tick, "interval", seconds=interval.total_seconds(), next_run_time=dt.datetime.now(dt.UTC))
    scheduler.start()
    try:
        stopping.wait()
    finally:
        scheduler.shutdown(wait=True)
