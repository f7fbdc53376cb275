"""The reconciler's service: APScheduler is the clock, a lease in Postgres decides who acts.

One connection, one thread: passes over the targets follow each other, and a target that is away costs only its own.
"""

import datetime as dt
import logging
import os
import platform
import random
import threading
import time
import traceback
import uuid
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
from counterfoil_reconcilers.checking import Checker
from counterfoil_reconcilers.concluding import Checked, Policy
from counterfoil_reconcilers.contracts import Contracts
from counterfoil_reconcilers.emission import Emitter
from counterfoil_reconcilers.log_progress import LogProgress
from counterfoil_reconcilers.observing import TooManyConnected
from counterfoil_reconcilers.settling import pause_after
from counterfoil_reconcilers.targets.opening import open_target
from counterfoil_reconcilers.targets.port import TargetUnavailable
from counterfoil_reconcilers.worklist import (
    Lease,
    LeaseLost,
    Pair,
    Selection,
    add_leases,
    release,
    release_in_trouble,
    reopen,
    take_lease,
)
from counterfoil_schemas import topics

logger = logging.getLogger("counterfoil.reconcile")

_MISFIRE_SECONDS = 60
_MEASURE_SECONDS = 10.0  # at the least, from one count to the next


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
    selection: Selection = field(default_factory=Selection)


@dataclass
class PassResult(Checked):
    """What one pass over all targets did; `skipped` says which targets were not looked at, and why."""

    skipped: dict[str, str] = field(default_factory=dict)


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
            progress_key,
            lambda: end_offsets(self._admin, self._topic.name, self._topic.partitions),
            settings.policy.lost_after,
        )
        self._dead_letters = declared["dead_letters"].name
        self._emitter = self._new_emitter()
        self._store: Connection | None = None
        self._measure_at = 0.0

    def run(self, stopping: threading.Event, beat: Callable[[], None] = lambda: None) -> None:
        """Pass after pass until `stopping` is set; `beat` is called after each."""
        scheduler = BackgroundScheduler(
            executors={"default": ThreadPoolExecutor(1)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": _MISFIRE_SECONDS},
            timezone=dt.UTC,
        )

        def tick() -> None:
            self.tick(beat)
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
        """One turn at everything, due or not. What is away is skipped, said, and tried again the next time."""
        return self._turns(self._settings.selection, everything=True, beat=lambda: None)

    def look(self, tenant: str, effect_id: uuid.UUID) -> PassResult:
        """Look at one effect now, and at those that share rows with it, where nobody else does and its budget allows.

        For whoever waits for the answer: a target in trouble is asked all the same, unless it wants to be left alone.
        """
        return self._turns(Selection(None, tenant, effect_id), everything=True, beat=lambda: None)

    def rejudge(self, since: dt.datetime | None = None) -> int:
        """Have the selected effects judged anew, closed ones too, by the contracts as they are now; returns how many.

        What was said of them stands until another verdict is said, and stays in the log. Raises StoreAway.
        """
        return reopen(self._connected(), self._settings.selection, list(self._settings.contracts.targets), since)

    def _connected(self) -> Connection:
        if self._store is None or self._store.closed:
            self._store = connect(self._settings.dsn, "reconciler", application="reconcile")
        return self._store

    def tick(self, beat: Callable[[], object] = lambda: None) -> PassResult:
        """Turns at what is due, until nothing is, or others have it. `beat` is called in between."""
        return self._turns(self._settings.selection, everything=False, beat=beat)

    def _turns(self, selection: Selection, *, everything: bool, beat: Callable[[], object]) -> PassResult:
        result = PassResult()
        try:
            store = self._connected()
            pairs = self._pairs(store, selection)
            add_leases(store, pairs)
            while pairs and (lease := take_lease(store, self._owner, pairs, everything=everything)) is not None:
                started = time.monotonic()
                outcome = self._turn(store, lease, selection, result, everything=everything, beat=beat)
                metrics.PASS_SECONDS.observe(time.monotonic() - started)
                metrics.PASSES.labels(lease.target, outcome).inc()
                if outcome == "ok":
                    metrics.LAST_PASS.labels(lease.target).set_to_current_time()
                # Each has one turn; a target that does not answer would not do so for another tenant.
                had = None if outcome == "away" else lease.tenant
                pairs = [pair for pair in pairs if pair.target != lease.target or had not in (None, pair.tenant)]
                beat()
            if selection.effect_id is None and (everything or time.monotonic() >= self._measure_at):
                self._measure(store)
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

    def _turn(
        self,
        store: Connection,
        lease: Lease,
        selection: Selection,
        result: PassResult,
        *,
        everything: bool,
        beat: Callable[[], object],
    ) -> str:
        """One turn under a lease, which is let go; returns what came of it, for the metrics."""
        checker = Checker(
            store=store,
            contracts=self._settings.contracts,
            target=lease.target,
            adapter=self._adapters[lease.target],
            emitter=self._emitter,
            policy=self._settings.policy,
            log=self._log,
            blobs=self._settings.blobs,
            redaction=self._settings.redaction,
        )
        try:
            if selection.effect_id is not None:
                checked = checker.check_one(lease, selection.effect_id)
            else:
                checked = checker.check(lease, everything=everything, beat=beat)
        except TargetUnavailable as error:
            self._skip(lease, result, error)
            metrics.UNAVAILABLE.labels(lease.target).inc()
            with suppress(LeaseLost):
                result.said += checker.no_answer(lease, error, everything=everything)
            self._leave_alone(store, lease, error.trouble, error.retry_after)
            return error.trouble
        except (BrokersAway, LeaseLost) as error:
            self._skip(lease, result, error)
            self._leave_alone(store, lease, "interrupted", None)
            return "skipped"
        except TooManyConnected as error:
            self._skip(lease, result, error)
            self._leave_alone(store, lease, "crowded", None)
            return "skipped"
        except (StoreAway, *WENT_AWAY):
            raise
        except Exception as error:  # noqa: BLE001  # what one tenant's effects do must not stop the others'
            logger.error(  # noqa: TRY400  # where it happened, and not the values that it happened with
                "%s of %s can't be checked, which is a defect: %s in\n%s",
                lease.target, lease.tenant, type(error).__name__, "".join(traceback.format_tb(error.__traceback__)),
            )  # fmt: skip
            result.skipped[lease.target] = f"{lease.tenant} can't be checked: {type(error).__name__}, see the log"
            self._leave_alone(store, lease, "defect", None)
            return "failed"
        result.add(checked)
        metrics.GIVEN_UP.labels(lease.target).inc(checked.given_up)
        release(store, lease)
        return "ok"

    def _skip(self, lease: Lease, result: PassResult, error: Exception) -> None:
        logger.warning("%s of %s is looked at again later: %s", lease.target, lease.tenant, error)
        result.skipped[lease.target] = str(error)

    def _leave_alone(self, store: Connection, lease: Lease, trouble: str, retry_after: dt.timedelta | None) -> None:
        jitter = random.random()  # noqa: S311  # so that many tenants of a target do not come back at once
        release_in_trouble(store, lease, trouble, pause_after(lease.failures, retry_after, jitter))

    def _pairs(self, store: Connection, selection: Selection) -> list[Pair]:
        targets = self._settings.contracts.targets
        if selection.effect_id is not None:
            found = store.execute(queries("reconcile")["find_targets_of"], {"effect_id": selection.effect_id})
            ways = [Pair(row["tenant"], row["target"], None) for row in found if row["target"] in targets]
            return [pair for pair in ways if selection.takes(pair)]
        acting: dict[str, set[str]] = {name: set() for name in targets}
        for row in store.execute(queries("reconcile")["find_pairs"], {"targets": list(targets)}):
            acting[row["target"]].add(row["tenant"])
        pairs = []
        for name, declared in targets.items():
            every = None if declared.writers is None else self._settings.policy.sweep_every
            pairs += [Pair(tenant, name, every) for tenant in self._tenants(store, name, acting[name])]
        return [pair for pair in pairs if selection.takes(pair)]

    def _tenants(self, store: Connection, target: str, acting: set[str]) -> Sequence[str]:
        """Tenants with open effects at the target, and, where all of it is swept, those whose rows it holds."""
        named = queries("reconcile")
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
        """Count what the gauges show: all that was ever written, so that is done in a twentieth of the time."""
        started, named = time.monotonic(), queries("reconcile")
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
        ended = time.monotonic()
        self._measure_at = ended + max(_MEASURE_SECONDS, 19 * (ended - started))


def _measure_drift(row: Mapping[str, Any]) -> None:
    for acknowledged, count in (("no", row["drift"]), ("yes", row["acked"])):
        if count:
            metrics.DRIFT.labels(row["tenant"], row["target"], row["verdict"], acknowledged).set(count)
