"""Ingest, relay and reconciler in one process, for examples that must end by themselves.

In production each is a process of its own (`counterfoil ingest`, `counterfoil reconcile`).
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from counterfoil import CounterfoilError, RecorderSettings
from counterfoil.redaction import Redaction
from counterfoil_consumers.ingest import Ingest
from counterfoil_consumers.outbox import Relay
from counterfoil_consumers.topics import admin_client, end_offsets
from counterfoil_reconcilers.concluding import Policy
from counterfoil_reconcilers.contracts import Contracts
from counterfoil_reconcilers.reconciler import PassResult, Reconciler, ReconcilerSettings
from counterfoil_schemas import topics


class Unsettled(CounterfoilError):
    """The work can't be brought to its end; the message says what stands against it."""


@dataclass
class Workbench:
    """Running services; `pass_once` drives the reconciler."""

    reconciler: Reconciler
    failures: list[BaseException]
    caught_up: Callable[[], bool]

    def pass_once(self) -> PassResult:
        """One pass over all targets.

        Raises what ended a service, or why a target could not be looked at.
        """
        if self.failures:
            raise self.failures[0]
        result = self.reconciler.once()
        if result.skipped:
            raise Unsettled("; ".join(result.skipped.values()))
        return result

    def pass_until_settled(self, timeout_seconds: float, *, passes_at_least: int = 3) -> int:
        """Pass after pass until nothing is open and all that was said is ingested; returns how many passes it took.

        Raises Unsettled.
        """
        deadline = time.monotonic() + timeout_seconds
        passes, quiet = 0, 0
        while quiet < 2:
            if time.monotonic() > deadline:
                raise Unsettled(f"effects are still open after {timeout_seconds:g} s and {passes} passes")
            result = self.pass_once()
            passes += 1
            busy = result.open or result.said or result.changes or passes < passes_at_least or not self.caught_up()
            quiet = 0 if busy else quiet + 1
            time.sleep(0.05)
        return passes


@contextmanager
def workbench(
    settings: Mapping[str, Any], contracts: Contracts, target_settings: Mapping[str, Mapping[str, str]], policy: Policy
) -> Iterator[Workbench]:
    """The services on one stack; `settings` as `counterfoil_console.local.up` gives them."""
    kafka, dsn = settings["kafka"], settings["store"]["dsn"]
    failures: list[BaseException] = []
    stopping = threading.Event()
    ingest = Ingest(kafka=kafka, dsn=dsn, profile="local", admit_tenants=True)
    relay = Relay(dsn, "ingester", kafka)
    admin = admin_client(kafka)
    topic = topics("local")["events"]

    def run() -> None:
        try:
            ingest.run(stopping)
        except Exception as error:  # noqa: BLE001  # handed to whoever drives the reconciler
            failures.append(error)

    def caught_up() -> bool:
        ends = end_offsets(admin, topic.name, topic.partitions)
        return ingest.has_reached(ends)

    thread = threading.Thread(target=run, name="ingest")
    reconciler = Reconciler(
        ReconcilerSettings(
            kafka=kafka,
            dsn=dsn,
            contracts=contracts,
            target_settings=target_settings,
            redaction=Redaction(RecorderSettings(kafka=kafka, identity_key=settings["identity_key"])),
            profile="local",
            policy=policy,
        )
    )
    thread.start()
    relay.start()
    try:
        yield Workbench(reconciler, failures, caught_up)
    finally:
        relay.stop()
        stopping.set()
        thread.join()
        reconciler.close()
