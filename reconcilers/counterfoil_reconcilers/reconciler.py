"""The reconciler's service: APScheduler is the clock, a lease in Postgres decides who acts.

One connection, one thread: passes over the targets follow each other, and a target that is away costs only its own.
"""

import datetime as dt
import logging
import os
import platform
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler

from counterfoil.blobs import BlobReader
from counterfoil.framing import SINGLE_OBJECT, Framing
from counterfoil.redaction import Redaction
from counterfoil.signing import NO_KEYS, SigningKeys
from counterfoil_consumers.errors import BrokersAway, StoreAway
from counterfoil_consumers.store import WENT_AWAY, Connection, connect, queries
from counterfoil_consumers.topics import admin_client, check, end_offsets
from counterfoil_reconcilers import metrics
from counterfoil_reconcilers.checking import Checked, Checker, LeaseLost, Policy
from counterfoil_reconcilers.contracts import Contracts
from counterfoil_reconcilers.emission import Emitter
from counterfoil_reconcilers.log_progress import LogProgress
from counterfoil_reconcilers.targets.opening import open_target
from counterfoil_reconcilers.targets.port import TargetUnavailable
from counterfoil_schemas import topics

logger = logging.getLogger("counterfoil.reconcile")

_MISFIRE_SECONDS = 60


@dataclass(frozen=True)
class ReconcilerSettings:
    """What the reconciler is handed. `tenant` owns the rows of targets that have no column for it."""

    kafka: Mapping[str, str]
    dsn: str
    contracts: Contracts
    target_settings: Mapping[str, Mapping[str, str]] = field(repr=False)
    redaction: Redaction = field(repr=False)
    profile: str = "production"
    topic_prefix: str = ""
    consumer: str = "counterfoil-ingest"
    environment: str = "production"
    tenant: str | None = None
    framing: Framing = SINGLE_OBJECT
    signing: SigningKeys = NO_KEYS
    blobs: BlobReader = field(default_factory=BlobReader)
    interval: dt.timedelta = dt.timedelta(seconds=1)
    policy: Policy = field(default_factory=Policy)


@dataclass
class PassResult:
    """What one pass over all targets did; `skipped` says which targets were not looked at, and why."""

    effects: int = 0
    said: int = 0
    changes: int = 0
    given_up: int = 0
    open: int = 0
    skipped: dict[str, str] = field(default_factory=dict)

    def add(self, checked: Checked) -> None:
        """Add what one tenant's pass did."""
        self.effects += checked.effects
        self.said += checked.said
        self.changes += checked.changes
        self.given_up += checked.given_up
        self.open += checked.open


class Reconciler:
    """Checks every target of the contracts. Use `once`, or `run`; not both at a time.

    Raises SettingsError when a target has no connection string, StoreAway, StoreError, BrokersAway, TopicsError, and
    RegistryError when a Schema Registry does not say under which id verdicts go.
    """

    def __init__(self, settings: ReconcilerSettings) -> None:
        self._settings = settings
        settings.framing.connect()
        self._owner = f"{platform.node()}:{os.getpid()}:{time.monotonic_ns()}"
        self._adapters = {
            name: open_target(settings.contracts, name, settings.target_settings) for name in settings.contracts.targets
        }
        declared = topics(settings.profile, settings.topic_prefix)
        self._topic = declared["events"]
        self._admin = admin_client(settings.kafka)
        progress_key = {
            "consumer": settings.topic_prefix + settings.consumer,
            "topic_id": check(self._admin, self._topic).topic_id,
        }
        self._log = LogProgress(
            progress_key, lambda: end_offsets(self._admin, self._topic.name, self._topic.partitions)
        )
        self._dead_letters = declared["dead_letters"].name
        self._emitter = self._new_emitter()
        self._store: Connection | None = None

    def run(self, stopping: threading.Event, beat: Callable[[], None] = lambda: None) -> None:
        """Pass after pass until `stopping` is set; `beat` is called after each."""
        scheduler = BackgroundScheduler(
            executors={"default": ThreadPoolExecutor(1)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": _MISFIRE_SECONDS},
            timezone=dt.UTC,
        )

        def tick() -> None:
            self.once()
            beat()

        seconds = self._settings.interval.total_seconds()
        scheduler.add_job(tick, "interval", seconds=seconds, next_run_time=dt.datetime.now(dt.UTC))
        scheduler.start()
        try:
            stopping.wait()
        finally:
            scheduler.shutdown(wait=True)
            self.close()

    def once(self) -> PassResult:
        """One pass over all targets and tenants. What is away is skipped, said, and tried again at the next pass."""
        result = PassResult()
        try:
            if self._store is None or self._store.closed:
                self._store = connect(self._settings.dsn, "reconciler", application="reconcile")
            for target in self._settings.contracts.targets:
                self._pass_over(self._store, target, result)
            self._measure(self._store)
        except (StoreAway, *WENT_AWAY) as error:
            logger.warning("the store is away: %s", str(error).splitlines()[0])
            result.skipped["store"] = str(error).splitlines()[0]
            if self._store is not None:
                self._store.close()
            # A commit without an answer may have happened, and with it the numbers that its events bear.
            self._emitter = self._new_emitter()
        return result

    def close(self) -> None:
        """Let go of all leases and connections, so that another reconciler can act at once."""
        for adapter in self._adapters.values():
            adapter.close()
        if self._store is not None and not self._store.closed:
            with suppress(*WENT_AWAY):
                self._store.execute(queries("reconcile")["release_leases"], {"owner": self._owner})
            self._store.close()

    def _new_emitter(self) -> Emitter:
        settings = self._settings
        return Emitter(
            self._topic.name,
            self._dead_letters,
            settings.environment,
            settings.framing,
            settings.redaction,
            settings.signing,
        )

    def _pass_over(self, store: Connection, target: str, result: PassResult) -> None:
        checker = Checker(
            store=store,
            contracts=self._settings.contracts,
            target=target,
            adapter=self._adapters[target],
            emitter=self._emitter,
            owner=self._owner,
            policy=self._settings.policy,
            log=self._log,
            blobs=self._settings.blobs,
            redaction=self._settings.redaction,
        )
        outcome = "ok"
        with metrics.PASS_SECONDS.time():
            for tenant in self._tenants(store, target):
                try:
                    checked = checker.check(tenant)
                except (TargetUnavailable, BrokersAway, LeaseLost) as error:
                    outcome = "skipped"
                    logger.warning("%s of %s is looked at again later: %s", target, tenant, error)
                    result.skipped[target] = str(error)
                    if isinstance(error, TargetUnavailable):
                        metrics.UNAVAILABLE.labels(target).inc()
                        break
                except (StoreAway, *WENT_AWAY):
                    raise
                except Exception as error:  # noqa: BLE001  # what one tenant's effects do must not stop the others'
                    outcome = "failed"
                    logger.error(  # noqa: TRY400  # where it happened, and not the values that it happened with
                        "%s of %s can't be checked, which is a defect: %s in\n%s",
                        target, tenant, type(error).__name__, "".join(traceback.format_tb(error.__traceback__)),
                    )  # fmt: skip
                    result.skipped[target] = f"{tenant} can't be checked: {type(error).__name__}, see the log"
                else:
                    result.add(checked or Checked())
                    metrics.GIVEN_UP.labels(target).inc(checked.given_up if checked else 0)
        metrics.PASSES.labels(target, outcome).inc()
        if outcome == "ok":
            metrics.LAST_PASS.labels(target).set_to_current_time()

    def _tenants(self, store: Connection, target: str) -> Sequence[str]:
        """Tenants with writes at the target, and, where all of it is swept, those whose rows it holds."""
        named = queries("reconcile")
        acting = {row["tenant"] for row in store.execute(named["find_pairs"], {"targets": [target]})}
        declared = self._settings.contracts.targets[target]
        if declared.writers is None:
            return sorted(acting)
        if all(resource.tenant is not None for resource in declared.resources.values()):
            return [row["tenant"] for row in store.execute(named["find_tenants"])]
        own = {self._settings.tenant} if self._settings.tenant else set()
        if len(acting | own) > 1:
            logger.warning(
                "%s has resources without a tenant column and %d tenants write there: it can't be told whose rows they "
                "are, so nothing is checked; name the column in the contract",
                target,
                len(acting | own),
            )
            return []
        return sorted(acting | own)

    def _measure(self, store: Connection) -> None:
        named = queries("reconcile")
        for gauge in (metrics.EFFECTS, metrics.DRIFT, metrics.OLDEST_UNRESOLVED):
            gauge.clear()
        for row in store.execute(named["measure_effects"]):
            labels = (row["tenant"], row["target"], row["verdict"])
            metrics.EFFECTS.labels(*labels).set(row["effects"])
            _measure_drift(row)
        for row in store.execute(named["measure_changes"]):
            _measure_drift(row)
        for row in store.execute(named["measure_oldest"]):
            metrics.OLDEST_UNRESOLVED.labels(row["target"]).set(row["seconds"])


def _measure_drift(row: Mapping[str, Any]) -> None:
    for acknowledged, count in (("no", row["drift"]), ("yes", row["acked"])):
        if count:
            metrics.DRIFT.labels(row["tenant"], row["target"], row["verdict"], acknowledged).set(count)
