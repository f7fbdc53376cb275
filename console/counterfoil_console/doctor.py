"""Looks at everything that Counterfoil needs and says of each part whether it is good, and if not, what to do."""

import datetime as dt
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import psycopg
from confluent_kafka import KafkaError, KafkaException

from counterfoil.errors import CounterfoilError, SettingsError
from counterfoil.redaction import Redaction
from counterfoil.registry import LEVEL, Registry
from counterfoil.settings import identity_key_of
from counterfoil.signing import signing_keys_of
from counterfoil.wire_format import entries_of
from counterfoil_console.away import explained
from counterfoil_console.lag import ingest_lag
from counterfoil_console.schemas import examine as examine_schemas
from counterfoil_console.settings import Settings
from counterfoil_console.signing import examine_keys
from counterfoil_consumers import migrations, topics
from counterfoil_consumers.errors import BrokersAway, StoreAway
from counterfoil_consumers.store import connect, fetch_one, queries
from counterfoil_reconcilers.contracts import Contracts, load
from counterfoil_reconcilers.targets.opening import open_target, variable_of
from counterfoil_reconcilers.targets.port import TargetUnavailable
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
    """Every check in turn. One that fails keeps none from running but those that need what it looked for."""
    missing: set[str] = set()
    for name, needs, check in _CHECKS:
        lacking = [need for need in needs if need in missing]
        if lacking:
            yield Finding(name, "warning", f"not looked at, for want of the {' and the '.join(lacking)}")
            continue
        try:
            for finding in check(settings):
                if finding.grade == "bad":
                    missing.add(name)
                yield finding
        except (CounterfoilError, psycopg.Error, KafkaException) as error:
            sentence = str(error)
            if isinstance(error, KafkaException):
                sentence = kafka_sentence(error)
            elif isinstance(error, BrokersAway):
                sentence = explained(error, settings.kafka)
            what, _, todo = sentence.strip().split("\n")[0].partition("; ")
            missing.add(name)
            yield Finding(name, "bad", what, todo)


def kafka_sentence(error: KafkaException) -> str:
    """What librdkafka says, and what to do about it."""
    reason: KafkaError = error.args[0]
    if reason.code() == KafkaError._INVALID_ARG:  # the only name librdkafka gives it
        return f"Kafka's client refuses a setting of COUNTERFOIL_KAFKA__…: {reason.str()}; mend that variable"
    return f"Kafka refuses or is away: {reason.str()}; check COUNTERFOIL_KAFKA__… and run `counterfoil doctor`"


def _keys(settings: Settings) -> Iterator[Finding]:
    try:
        identity_key_of(settings)
    except SettingsError as error:
        what, _, todo = str(error).partition(": set ")
        yield Finding("keys", "bad", f"{what}, so no recorder can start", f"set {todo}")
    else:
        yield Finding("keys", "good", "an identity key is set")


def _redaction(settings: Settings) -> Iterator[Finding]:
    redaction = Redaction(settings)
    if redaction.detector is None:
        yield Finding(
            "redaction",
            "warning",
            "redaction is off: secrets go into the log",
            "set COUNTERFOIL_REDACTION__ENABLED=true",
        )
        return
    personal = ", ".join(settings.redaction.personal) or "no personal kinds"
    yield Finding("redaction", "good", f"policy {redaction.stamp} takes out secrets, and {personal}")
    ids = redaction.keys.key_ids()
    if redaction.fields.seals and not ids:
        yield Finding(
            "redaction",
            "bad",
            "the policy seals values, and there is no key",
            "run `counterfoil key new --tenant TENANT`",
        )
    for key_id in ids:
        assert settings.key_directory is not None  # noqa: S101  # it holds this key
        mode = (settings.key_directory / key_id).stat().st_mode
        if mode & stat.S_IROTH:
            yield Finding("redaction", "warning", f"everybody may read the key {key_id}", f"chmod o-r {key_id}")


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
            yield Finding("topics", "good", f"{topic.name} is as declared")


def _registry(settings: Settings) -> Iterator[Finding]:
    if not settings.schema_registry:
        yield Finding("registry", "good", "no Schema Registry is set; events are framed without one")
        return
    with Registry(settings.schema_registry) as registry:
        wrong = [state for state in examine_schemas(registry, entries_of(settings)) if state.problems]
        for state in wrong:
            what, _, todo = state.problems[0].partition("; ")
            yield Finding("registry", "bad", f"{state.subject}: {what}", todo)
        if not wrong:
            yield Finding("registry", "good", f"{registry.address} has every schema, held to {LEVEL}")


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
            is_needed = any(migration.phase == "pre" for migration in waiting)
            sentence = f"{len(waiting)} migrations are to be applied"
            yield Finding("database", "bad" if is_needed else "warning", sentence, "run `counterfoil migrate`")
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


def _signing(settings: Settings) -> Iterator[Finding]:
    keys = signing_keys_of(settings)
    with connect(settings.dsn, "operator", application="doctor") as store:
        stored = store.execute(queries("console")["list_tenant_keys"]).fetchall()
    for found in examine_keys(keys, stored, settings.tenant):
        yield Finding("signing", *found)


def _clocks(settings: Settings) -> Iterator[Finding]:
    with connect(settings.dsn, "operator", application="doctor") as store:
        before = dt.datetime.now(dt.UTC)
        there = fetch_one(store, queries("console")["read_clock"])["now"]
        after = dt.datetime.now(dt.UTC)
    skew = max(before - there, there - after, dt.timedelta(0))
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
    lag = ingest_lag(settings)
    with connect(settings.dsn, "operator", application="doctor") as store:
        letters = store.execute(queries("console")["dead_letter_counts"]).fetchall()
    if lag:
        yield Finding("ingest", "warning", f"{lag} records are not ingested yet", "is `counterfoil ingest` running?")
    else:
        yield Finding("ingest", "good", "all records of the log are ingested")
    for row in letters:
        many = "1 dead letter is" if row["letters"] == 1 else f"{row['letters']} dead letters are"
        is_effect = row["letter_kind"] == "effect"
        what = f"{many} open: {'a given-up effect' if is_effect else 'a record'}, {row['letter_class']}"
        todo = "see `counterfoil drift`" if is_effect else "read the reason in the table counterfoil.dead_letter"
        yield Finding("ingest", "warning", what, todo)


def _contracts(settings: Settings) -> Iterator[Finding]:
    if not settings.contracts.exists():
        yield Finding(
            "contracts",
            "warning",
            f"{settings.contracts} does not exist, so nothing is reconciled",
            "write one (docs/contracts.md), or set COUNTERFOIL_CONTRACTS to where it is",
        )
        return
    contracts = load(settings.contracts)
    tools = f"{len(contracts.tools)} tool{'s' if len(contracts.tools) != 1 else ''}"
    yield Finding("contracts", "good", f"version {contracts.version} with {tools} can be read")
    for name in contracts.targets:
        yield from _target(settings, contracts, name)


def _target(settings: Settings, contracts: Contracts, name: str) -> Iterator[Finding]:
    try:
        with open_target(contracts, name, settings.target_settings([name])) as target:
            mistakes = target.check()
    except SettingsError as error:
        what, _, todo = str(error).rpartition(": ")
        yield Finding("targets", "bad", what or str(error), todo if what else f"see {variable_of(name)}")
        return
    except TargetUnavailable as error:
        yield Finding("targets", "bad", str(error), f"check {variable_of(name)} and that the target runs")
        return
    for mistake in mistakes:
        what, _, hint = str(mistake).partition("; ")
        yield Finding("targets", "bad", what, f"mend the contract, or the target{f' ({hint})' if hint else ''}")
    if not mistakes:
        yield Finding("targets", "good", f"{name} answers, and has all that the contracts name")


_CHECKS: tuple[tuple[str, tuple[str, ...], Callable[[Settings], Iterator[Finding]]], ...] = (
    ("keys", (), _keys),
    ("redaction", ("keys",), _redaction),
    ("brokers", (), _brokers),
    ("topics", ("brokers",), _topics),
    ("registry", (), _registry),
    ("database", (), _database),
    ("roles", ("database",), _roles),
    ("signing", ("database", "roles"), _signing),
    ("clocks", ("database", "roles"), _clocks),
    ("ingest", ("brokers", "topics", "database", "roles"), _ingest),
    ("contracts", (), _contracts),
)
