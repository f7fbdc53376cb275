"""`counterfoil ingest | reconcile`: what runs all the time."""

import datetime as dt
import gc
import logging
import signal
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from counterfoil.blobs import BlobReader
from counterfoil.errors import CounterfoilError, UsageError
from counterfoil.redaction import Redaction
from counterfoil.signing import signing_keys_of
from counterfoil.wire_format import framing_of
from counterfoil_console.cli.output import AsJson, Tenant, open_store, print_json
from counterfoil_console.logs import set_up_logs
from counterfoil_console.monitoring import Heart, Monitoring
from counterfoil_console.settings import Settings, load
from counterfoil_consumers.ingest import Ingest
from counterfoil_consumers.outbox import Relay, relay_now
from counterfoil_consumers.texts import TextIndexer, index_texts_now
from counterfoil_consumers.topics import admin_client
from counterfoil_consumers.topics import check as check_topic
from counterfoil_reconcilers.concluding import Policy
from counterfoil_reconcilers.contract_files import did_you_mean
from counterfoil_reconcilers.contracts import ContractError, Contracts
from counterfoil_reconcilers.contracts import load as load_contracts
from counterfoil_reconcilers.reconciler import PassResult, Reconciler, ReconcilerSettings
from counterfoil_reconcilers.targets.opening import open_target
from counterfoil_reconcilers.targets.port import TargetUnavailable
from counterfoil_reconcilers.worklist import Selection
from counterfoil_schemas import topics as declared_topics

_PATIENCE_SECONDS = 60.0
_TIMES = ["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S"]
# A batch makes thousands of rows and no cycles; at 700, the default, they were looked through all the time, which was
# a quarter of what reconciling cost.
ALLOCATIONS_A_COLLECTION = 50_000
# The thread that writes takes the interpreter back after each wait; at 5 ms, the default, decoding kept it waiting.
_SWITCH_SECONDS = 0.0005
_LARGEST_TEXT_BYTES = 32 * 1024**2  # of arguments that are compared


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(ingest)
    app.command()(reconcile)


def ingest(
    once: Annotated[bool, typer.Option("--once", help="End when all that is in the log now is stored.")] = False,
) -> None:
    """Turn the events topic into the forensic store; several processes share the work.

    /metrics, /livez and /readyz listen on COUNTERFOIL_METRICS_PORT.

    Example: counterfoil ingest --once
    """
    settings = load()
    set_up_logs(settings.log_format, logging.WARNING if once else logging.INFO)
    refuse_unready(settings, "ingester")
    worker = new_ingest(settings)
    gc.set_threshold(ALLOCATIONS_A_COLLECTION)
    sys.setswitchinterval(_SWITCH_SECONDS)
    with stopping_on_signals() as stopping:
        if once:
            ends = worker.end_offsets()
            worker.run(stopping, until=ends)
            relay_now(settings.dsn, "ingester", settings.kafka)
            index_texts_now(settings.dsn)
            if not stopping.is_set():
                typer.echo(f"the log is ingested up to its end, {sum(ends)} records in all")
            return
        heart = Heart(_PATIENCE_SECONDS)
        relay, texts = Relay(settings.dsn, "ingester", settings.kafka), TextIndexer(settings.dsn)
        with monitored(settings, heart):
            relay.start()
            texts.start()
            try:
                worker.run(stopping, beat=heart.beat)
            finally:
                relay.stop()
                texts.stop()


def reconcile(
    once: Annotated[bool, typer.Option("--once", help="Make one pass over all, due or not, and end.")] = False,
    target: Annotated[list[str] | None, typer.Option("--target", help="Only this target; may be given again.")] = None,
    tenant: Tenant = None,
    effect: Annotated[
        str | None,
        typer.Option("--effect", help="Look at this one now, and at those that share rows with it, and end."),
    ] = None,
    rejudge: Annotated[
        bool, typer.Option("--rejudge", help="First have what is selected judged anew, closed or not.")
    ] = False,
    since: Annotated[
        dt.datetime | None,
        typer.Option("--since", help="With --rejudge: what was recorded since then (UTC).", formats=_TIMES),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Hold every intended write against its target, and say what drifts.

    Reads the contracts from COUNTERFOIL_CONTRACTS and each target's COUNTERFOIL_TARGETS__NAME__DSN
    (or what its kind asks for, docs/targets.md). Any number of these processes share the work. One pass says what
    may be said at first sight; absence takes a second sighting, so run it again, or without --once.

    Example: counterfoil reconcile --rejudge --target shop --since 2026-01-31 --once
    """
    settings = load()
    set_up_logs(settings.log_format, logging.ERROR if once or effect else logging.INFO)
    contracts = load_contracts(settings.contracts)
    selection = _selection(contracts, target, tenant, effect)
    if rejudge and selection == Selection() and since is None:
        raise UsageError("--rejudge needs a selection: add --target, --tenant, --effect or --since")
    worker = new_reconciler(settings, contracts, selection)
    refuse_unready(settings, "reconciler")
    _refuse_wrong_contracts(settings, contracts)
    gc.set_threshold(ALLOCATIONS_A_COLLECTION)
    anew = worker.rejudge(since and since.replace(tzinfo=dt.UTC)) if rejudge else None
    if once or effect is not None:
        result = worker.once()
        worker.close()
        relay_now(settings.dsn, "reconciler", settings.kafka)
        _tell(result, anew, as_json=as_json)
        return
    with stopping_on_signals() as stopping:
        heart = Heart(_PATIENCE_SECONDS)
        relay = Relay(settings.dsn, "reconciler", settings.kafka)
        with monitored(settings, heart):
            relay.start()
            try:
                worker.run(stopping, heart.beat)
            finally:
                relay.stop()


def _tell(result: PassResult, anew: int | None, *, as_json: bool) -> None:
    """What one pass did; `anew`: how many writes are judged anew, where that was asked for.

    Raises CounterfoilError where something was not looked at.
    """
    if as_json:
        print_json(vars(result) | ({} if anew is None else {"judged_anew": anew}))
    else:
        typer.echo(
            ("" if anew is None else f"{anew} writes are judged anew. ")
            + f"{result.effects} writes looked at: {result.said} verdicts said, "
            f"{result.changes} changes nobody explains, {result.given_up} given up, {result.open} still open"
        )
    if result.skipped:
        why = "; ".join(result.skipped.values())
        raise CounterfoilError(f"not all could be looked at: {why}; run `counterfoil doctor`, then try again")


def _selection(contracts: Contracts, targets: list[str] | None, tenant: str | None, effect: str | None) -> Selection:
    for name in targets or ():
        if name not in contracts.targets:
            raise UsageError(f"the contracts have no target {name}{did_you_mean(name, contracts.targets)}")
    try:
        effect_id = None if effect is None else uuid.UUID(effect)
    except ValueError as error:
        what = f"{effect!r} is no effect's id, which has 32 hex digits"
        raise UsageError(f"{what}; `counterfoil drift` and `counterfoil timeline` show them") from error
    return Selection(targets or None, tenant, effect_id)


def new_ingest(settings: Settings) -> Ingest:
    """A member of the consumer group, as set up."""
    return Ingest(
        kafka=settings.kafka,
        dsn=settings.dsn,
        profile=settings.profile,
        topic_prefix=settings.topic_prefix,
        consumer=settings.consumer,
        admit_tenants=settings.admit_tenants,
        framing=framing_of(settings),
        group_protocol=settings.group_protocol,
    )


def new_reconciler(settings: Settings, contracts: Contracts, selection: Selection) -> Reconciler:
    """A reconciler of the selected effects, as set up."""
    return Reconciler(
        ReconcilerSettings(
            kafka=settings.kafka,
            dsn=settings.dsn,
            contracts=contracts,
            target_settings=settings.target_settings(contracts.targets),
            profile=settings.profile,
            topic_prefix=settings.topic_prefix,
            consumer=settings.consumer,
            environment=settings.environment,
            tenant=settings.tenant,
            framing=framing_of(settings),
            signing=signing_keys_of(settings),
            blobs=BlobReader.from_settings(settings, limit_bytes=_LARGEST_TEXT_BYTES),
            redaction=Redaction(settings),
            interval=dt.timedelta(seconds=settings.reconcile_interval_seconds),
            policy=Policy(
                sweep_every=dt.timedelta(seconds=settings.sweep_interval_seconds),
                full_sweep_every=dt.timedelta(seconds=settings.full_sweep_interval_seconds),
                give_up_after=dt.timedelta(seconds=settings.give_up_after_seconds),
                unknowable_after=dt.timedelta(seconds=settings.unknowable_after_seconds),
                lost_after=dt.timedelta(seconds=settings.producer_lost_after_seconds),
            ),
            selection=selection,
        )
    )


def refuse_unready(settings: Settings, role: str) -> None:
    """Say in one sentence, before anything starts, that the topic or the store is not as it must be."""
    check_topic(admin_client(settings.kafka), declared_topics(settings.profile, settings.topic_prefix)["events"])
    with open_store(settings, role):
        pass


def _refuse_wrong_contracts(settings: Settings, contracts: Contracts) -> None:
    """Raises ContractError when a target lacks what the contracts name; a target that is away is tried again later."""
    reached = settings.target_settings(contracts.targets)
    for name in contracts.targets:
        try:
            with open_target(contracts, name, reached) as target:
                mistakes = target.check()
        except TargetUnavailable:
            continue
        if mistakes:
            more = f" (and {len(mistakes) - 1} more: run `counterfoil doctor`)" if len(mistakes) > 1 else ""
            raise ContractError(f"{mistakes[0]}{more}")


@contextmanager
def stopping_on_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and Ctrl-C set, so that a service ends after the batch in hand."""
    stopping = threading.Event()
    before = {number: signal.signal(number, lambda *_: stopping.set()) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopping
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def monitored(settings: Settings, heart: Heart) -> Iterator[None]:
    """/metrics, /livez and /readyz for the length of a block."""
    with Monitoring(settings.metrics_host, settings.metrics_port, heart) as monitoring:
        typer.echo(f"metrics on http://{settings.metrics_host}:{monitoring.port}/metrics", err=True)
        yield
