"""Looks at everything that Counterfoil needs and says of each part whether it is good, and if not, what to do."""

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import psycopg
from confluent_kafka import KafkaException

from counterfoil.errors import CounterfoilError, SettingsError
from counterfoil.recorder import Recorder
from counterfoil_console.settings import Settings
from counterfoil_consumers import migrations, topics
from counterfoil_consumers.errors import StoreAway
from counterfoil_consumers.store import connect, fetch_one, queries
from counterfoil_reconcilers.contracts import Contracts, load
from counterfoil_reconcilers.targets.port import TargetUnavailable
from counterfoil_reconcilers.targets.postgresql import PostgresTarget
from counterfoil_schemas import topics as declared_topics

Grade = Literal["good", "warning", "bad"]

_MOST_SKEW = dt.timedelta(seconds=5)
_OLDEST_POSTGRES = 150_000


@dataclass(frozen=True)
class Finding:
    """What one check found; `todo` says what to do when it is not good."""

    check: str
    grade: Grade
    what: str
    todo: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """Every check in turn. A check that fails never keeps the others from running."""
    checks: tuple[tuple[str, Callable[[Settings], Iterator[Finding]]], ...] = (
        ("keys", _keys),
        ("brokers", _brokers),
        ("topics", _topics),
        ("database", _database),
        ("roles", _roles),
        ("clocks", _clocks),
        ("ingest", _ingest),
        ("contracts", _contracts),
    )
    for name, check in checks:
        try:
            yield from check(settings)
        except (CounterfoilError, psycopg.Error, KafkaException) as error:
            sentence, _, todo = str(error).strip().split("\n")[0].partition("; ")
            yield Finding(name, "bad", sentence, todo)


def _keys(settings: Settings) -> Iterator[Finding]:
    if settings.identity_key is None:
        yield Finding(
            "keys",
            "bad",
            "no identity key is set, so no recorder can start",
            "set COUNTERFOIL_IDENTITY_KEY_FILE to a file with 32 random bytes or more, the same for all recorders",
        )
        return
    try:
        Recorder(settings)
    except SettingsError as error:
        yield Finding("keys", "bad", str(error).partition(": set ")[0], "set a longer COUNTERFOIL_IDENTITY_KEY")
    else:
        yield Finding("keys", "good", "an identity key is set")


def _brokers(settings: Settings) -> Iterator[Finding]:
    admin = topics.admin_client(settings.kafka)
    cluster = topics.cluster_id(admin)
    brokers = len(admin.list_topics(timeout=5).brokers)
    grade: Grade = "warning" if settings.profile == "production" and brokers < 3 else "good"
    todo = "" if grade == "good" else "production wants three brokers; set COUNTERFOIL_PROFILE=local for one"
    yield Finding(
        "brokers", grade, f"cluster {cluster} with {brokers} broker{'s' if brokers != 1 else ''} answers", todo
    )


def _topics(settings: Settings) -> Iterator[Finding]:
    declared = list(declared_topics(settings.profile, settings.topic_prefix).values())
    have = topics.describe(topics.admin_client(settings.kafka), [topic.name for topic in declared])
    for topic in declared:
        sentences = topics.differences(topic, have.get(topic.name))
        for sentence in sentences:
            what, _, todo = sentence.partition("; ")
            yield Finding("topics", "bad", what, todo)
        if not sentences:
            yield Finding("topics", "good", f"{topic.name} is as declared ({topic.partitions} partitions)")


def _database(settings: Settings) -> Iterator[Finding]:
    try:
        connection = psycopg.connect(settings.dsn, connect_timeout=5, autocommit=True)
    except psycopg.OperationalError as error:
        raise StoreAway(
            f"the store does not answer: {str(error).strip().splitlines()[0]}; check COUNTERFOIL_STORE__DSN"
        ) from error
    with connection:
        version = connection.info.server_version
        if version < _OLDEST_POSTGRES:
            yield Finding("database", "bad", f"Postgres {version // 10_000} is too old", "use Postgres 15 or newer")
        waiting = migrations.pending(migrations.applied(connection))
        if waiting:
            yield Finding(
                "database", "bad", f"{len(waiting)} migrations are to be applied", "run `counterfoil migrate`"
            )
        else:
            yield Finding("database", "good", f"Postgres {version // 10_000}.{version % 10_000}, schema up to date")


def _roles(settings: Settings) -> Iterator[Finding]:
    for role in ("ingester", "reconciler", "operator"):
        connect(settings.dsn, role, application="doctor").close()
    with psycopg.connect(settings.dsn, connect_timeout=5) as connection:
        row = connection.execute(
            "SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = session_user"
        ).fetchone()
    if row is not None and row[0]:
        yield Finding(
            "roles",
            "warning",
            "the store's user is a superuser or bypasses row-level security",
            "give COUNTERFOIL_STORE__DSN a user that is a member of the counterfoil_ roles and nothing more",
        )
    else:
        yield Finding("roles", "good", "the store's user may act as ingester, reconciler and operator")


def _clocks(settings: Settings) -> Iterator[Finding]:
    with connect(settings.dsn, "operator", application="doctor") as store:
        before = dt.datetime.now(dt.UTC)
        there = fetch_one(store, queries("reconcile")["read_clock"])["now"]
    skew = abs(there - before)
    if skew > _MOST_SKEW:
        yield Finding(
            "clocks",
            "warning",
            f"this host and the store differ by {skew.total_seconds():.0f} s",
            "synchronise both with NTP; times shown mislead until then",
        )
    else:
        yield Finding("clocks", "good", f"this host and the store agree within {skew.total_seconds():.1f} s")


def _ingest(settings: Settings) -> Iterator[Finding]:
    topic = declared_topics(settings.profile, settings.topic_prefix)["events"]
    ends = topics.end_offsets(topics.admin_client(settings.kafka), topic.name, topic.partitions)
    with connect(settings.dsn, "operator", application="doctor") as store:
        stored = {
            row["partition"]: row["next_offset"]
            for row in store.execute(queries("console")["stored_offsets"], {"topic": topic.name})
        }
        letters = store.execute(queries("console")["dead_letter_counts"]).fetchall()
    lag = sum(max(0, end - stored.get(partition, 0)) for partition, end in enumerate(ends))
    if lag:
        yield Finding("ingest", "warning", f"{lag} records are not ingested yet", "is `counterfoil ingest` running?")
    else:
        yield Finding("ingest", "good", f"all {sum(ends)} records of the log are ingested")
    for row in letters:
        yield Finding(
            "ingest",
            "warning",
            f"{row['letters']} dead letters ({row['letter_kind']}, {row['letter_class']}) are open",
            "read their reasons in counterfoil.dead_letter",
        )


def _contracts(settings: Settings) -> Iterator[Finding]:
    if not settings.contracts.exists():
        yield Finding(
            "contracts",
            "warning",
            f"{settings.contracts} does not exist, so nothing is reconciled",
            "write one (docs/contracts.md), or set COUNTERFOIL_CONTRACTS",
        )
        return
    contracts = load(settings.contracts)
    yield Finding("contracts", "good", f"{len(contracts.tools)} tools in version {contracts.version}")
    for name in contracts.targets:
        yield from _target(settings, contracts, name)


def _target(settings: Settings, contracts: Contracts, name: str) -> Iterator[Finding]:
    dsn = settings.target_dsns.get(name)
    if dsn is None:
        yield Finding(
            "targets", "bad", f"nothing says how to reach {name}", f"set COUNTERFOIL_TARGETS__{name.upper()}__DSN"
        )
        return
    try:
        with PostgresTarget(contracts, name, dsn) as target:
            mistakes = target.check()
    except TargetUnavailable as error:
        yield Finding("targets", "bad", str(error), f"check COUNTERFOIL_TARGETS__{name.upper()}__DSN")
        return
    for mistake in mistakes:
        yield Finding("targets", "bad", str(mistake), "mend the contract, or the target")
    if not mistakes:
        yield Finding("targets", "good", f"{name} answers, and has every table and column of the contracts")
