"""Bad input: one sentence that says what, where and what to do, a non-zero exit, and nothing lost."""

import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from confluent_kafka.admin import NewTopic  # type: ignore[attr-defined]  # exported, but not by __all__
from psycopg import sql
from psycopg.conninfo import make_conninfo

from counterfoil import Recorder
from counterfoil_consumers.store import Connection
from counterfoil_consumers.topics import admin_client, describe
from counterfoil_schemas import topics
from tests.fix_store import MIGRATOR

from .conftest import CONTRACTS, Call, stored_events, work

STORE_COMMANDS = ["migrate", "tenant add acme", "tenant list", "timeline T-1", "drift", "ingest", "reconcile --once"]

NOT_MIGRATING = STORE_COMMANDS[1:]


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port on which nobody listens, and nobody will while the test runs."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.mark.parametrize("command", ["topics", "ingest", "ingest --once", "reconcile --once"])
def test_no_broker_is_named(call: Call, bank: Path, command: str) -> None:
    said = call(*command.split(), KAFKA__BOOTSTRAP_SERVERS=None)
    assert said.sentence.startswith("no Kafka broker is named: set COUNTERFOIL_KAFKA__BOOTSTRAP_SERVERS=host:port")


@pytest.mark.parametrize("command", STORE_COMMANDS)
def test_no_store_is_named(call: Call, bank: Path, command: str) -> None:
    sentence = call(*command.split(), STORE__DSN=None).sentence
    assert sentence.startswith("no store is named: set COUNTERFOIL_STORE__DSN=postgresql://")


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("PROFILE", "moon", "COUNTERFOIL_PROFILE: Input should be 'local' or 'production' (got 'moon')"),
        ("METRICS_PORT", "70000", "COUNTERFOIL_METRICS_PORT: Input should be less than or equal to 65535"),
        ("ACK_TIMEOUT_SECONDS", "soon", "COUNTERFOIL_ACK_TIMEOUT_SECONDS: Input should be a valid number"),
        ("IDENTITY_KEY_FILE", "nowhere", "identity_key_file names nowhere, which can't be read: No such file"),
    ],
)
def test_a_wrong_setting(call: Call, name: str, value: str, sentence: str) -> None:
    assert sentence in call("config", **{name: value}).sentence


def test_a_settings_file_that_is_no_toml(call: Call, tmp_path: Path) -> None:
    (tmp_path / "counterfoil.toml").write_text("profile = \n", encoding="utf-8")
    assert call("config").sentence.startswith("the settings can't be read: ")


@pytest.mark.parametrize("command", ["topics", "ingest"])
def test_a_setting_that_librdkafka_does_not_know(call: Call, command: str) -> None:
    sentence = call(command, KAFKA__NO_SUCH="1").sentence
    assert "COUNTERFOIL_KAFKA__" in sentence
    assert 'No such configuration property: "no.such"' in sentence


@pytest.mark.parametrize("command", ["topics", "ingest --once", "reconcile --once"])
def test_a_broker_that_is_away(call: Call, bank: Path, closed_port: int, command: str, impatient: None) -> None:
    started = time.monotonic()
    sentence = call(*command.split(), KAFKA__BOOTSTRAP_SERVERS=f"127.0.0.1:{closed_port}").sentence
    assert sentence.startswith("Kafka does not answer within 2 s: ")
    assert f"127.0.0.1:{closed_port}/bootstrap: Connect to ipv4#127.0.0.1:{closed_port} failed: " in sentence
    assert sentence.endswith("check COUNTERFOIL_KAFKA__BOOTSTRAP_SERVERS and that the brokers run")
    assert time.monotonic() - started < 15


@pytest.mark.parametrize("command", STORE_COMMANDS)
def test_a_store_that_is_away(call: Call, bank: Path, database: str, closed_port: int, command: str) -> None:
    away = make_conninfo(database, host="127.0.0.1", hostaddr="127.0.0.1", port=closed_port)
    sentence = call(*command.split(), STORE__DSN=away).sentence
    assert sentence.startswith("the store does not answer: connection failed: ")
    assert sentence.endswith("; check COUNTERFOIL_STORE__DSN")


@pytest.mark.parametrize("command", STORE_COMMANDS)
def test_a_connection_string_that_is_none_is_not_repeated(call: Call, bank: Path, command: str) -> None:
    sentence = call(*command.split(), STORE__DSN="postgres//me:hunter2@db/x").sentence
    assert sentence.startswith("COUNTERFOIL_STORE__DSN is no connection string that libpq reads; write postgresql://")
    assert "hunter2" not in sentence


@pytest.mark.parametrize("name", ["STORE", "STORE__DNS", "TARGETS__BANK", "TARGETS"])
def test_a_misplaced_secret_is_not_repeated(call: Call, name: str) -> None:
    assert "hunter2" not in call("config", **{name: "postgresql://me:hunter2@db/x"}).sentence


@pytest.mark.parametrize("command", NOT_MIGRATING)
def test_a_database_without_a_store(call: Call, bank: Path, admin_dsn: str, database: str, command: str) -> None:
    name = f"empty_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(admin_dsn, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(MIGRATOR)))
    sentence = call(*command.split(), STORE__DSN=make_conninfo(database, dbname=name)).sentence
    assert sentence == f"the database {name} holds no store; run `counterfoil migrate`"


@pytest.mark.parametrize("command", NOT_MIGRATING)
def test_a_store_that_is_older(call: Call, bank: Path, database: str, command: str) -> None:
    with psycopg.connect(database) as owner:
        owner.execute("SET ROLE counterfoil_owner")
        owner.execute(
            "DELETE FROM counterfoil.schema_migration "
            "WHERE number = (SELECT max(number) FROM counterfoil.schema_migration)"
        )
    assert call(*command.split()).sentence == (
        "the store is not of this version, 1 migration is to be applied; run `counterfoil migrate`"
    )


@pytest.mark.parametrize("command", ["ingest", "ingest --once", "reconcile --once"])
def test_a_topic_that_is_missing(call: Call, bank: Path, command: str) -> None:
    sentence = call(*command.split(), TOPIC_PREFIX="elsewhere.").sentence
    assert sentence == "topic elsewhere.counterfoil.events does not exist; run `counterfoil topics --create`"


@pytest.mark.parametrize("command", ["ingest", "ingest --once", "reconcile --once"])
def test_a_topic_with_other_partitions(
    call: Call, bank: Path, kafka: dict[str, str], topic_prefix: str, command: str
) -> None:
    prefix = topic_prefix + "few."
    admin = admin_client(kafka)
    name = topics("local", prefix)["events"].name
    for future in admin.create_topics([NewTopic(name, 3, 1)]).values():
        future.result()
    while not describe(admin, [name]):  # the brokers take a moment
        time.sleep(0.05)
    sentence = call(*command.split(), TOPIC_PREFIX=prefix).sentence
    assert sentence.startswith(f"topic {name} has 3 partitions and 24 are declared; ")
    assert sentence.endswith("make the topic anew under another topic_prefix")
    for future in admin.delete_topics([name]).values():
        future.result()


@pytest.mark.parametrize("form", ["", "--once"])
@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ("set.amount", "set.amuont", "line 18: table bank.accounts of target bank has no column amuont; did you mean"),
        ("bank.accounts", "bank.acounts", "table bank.acounts does not exist in target bank; did you mean"),
        ('target = "bank"', 'target = "bonk"', "bonk"),
        ("[tools.credit]", "[tools.credit", "not valid TOML"),
        ("version =", "vresion =", "the top level has no key vresion; did you mean version?"),
    ],
)
def test_a_contract_that_is_wrong(call: Call, bank: Path, before: str, after: str, sentence: str, form: str) -> None:
    bank.write_text(CONTRACTS.replace(before, after), encoding="utf-8")
    said = call(*f"reconcile {form}".split()).sentence
    assert said.startswith("contracts.toml line ")
    assert sentence in said


@pytest.mark.parametrize("form", ["", "--once"])
def test_contracts_that_are_nowhere(call: Call, tmp_path: Path, form: str) -> None:
    sentence = call(*f"reconcile {form}".split(), CONTRACTS=str(tmp_path / "none.toml")).sentence
    assert sentence == f"{tmp_path / 'none.toml'}: cannot be read (No such file or directory); " + (
        "name an existing contract file"
    )


@pytest.mark.parametrize("form", ["", "--once"])
def test_a_target_without_a_connection_string(call: Call, bank: Path, form: str) -> None:
    sentence = call(*f"reconcile {form}".split(), TARGETS__BANK__DSN=None).sentence
    assert sentence.startswith("nothing says how to reach bank, which the contracts name as a target: set COUNTERFOIL_")


def test_a_target_that_is_away(call: Call, bank: Path, database: str, closed_port: int, operator: Connection) -> None:
    operator.execute("INSERT INTO counterfoil.tenant (tenant) VALUES ('acme')")
    away = make_conninfo(database, host="127.0.0.1", hostaddr="127.0.0.1", port=closed_port)
    sentence = call("reconcile", "--once", TARGETS__BANK__DSN=away).sentence
    assert sentence.startswith("not all could be looked at: target bank: OperationalError: connection failed: ")
    assert sentence.endswith("; run `counterfoil doctor`, then try again")


def test_a_task_that_does_not_exist(
    call: Call, recorder: Recorder, ingest_all: Callable[[], None], database: str, bank: Path
) -> None:
    assert call("timeline", "T-2").sentence == (
        "the store has no task 'T-2'; it has none at all: is `counterfoil ingest` running?"
    )
    work(recorder, database)
    ingest_all()
    assert call("timeline", "T-2").sentence == "the store has no task 'T-2'; the latest are T-1"
    assert call("timeline", "T-1", "--tenant", "other").sentence.startswith(
        "the store has no task 'T-1' of tenant other; "
    )


def test_an_ambiguous_task(call: Call, recorder: Recorder, ingest_all: Callable[[], None]) -> None:
    for tenant in ("acme", "blue"):
        with recorder.task("same", task_ref="T-1", tenant=tenant):
            pass
    recorder.close()
    ingest_all()
    sentence = call("timeline", "T-1").sentence
    assert sentence.startswith("'T-1' means several tasks: ")
    assert sentence.endswith(" of blue; give more digits of the id, or --tenant")
    assert call("timeline", "T-1", "--tenant", "blue").code == 0


@pytest.mark.parametrize("command", ["ingest", "reconcile"])
def test_a_metrics_port_that_is_taken(call: Call, bank: Path, command: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        sentence = call(command, METRICS_PORT=str(port)).sentence
    assert sentence.startswith(f"/metrics can't listen on 127.0.0.1:{port}: Address already in use; set COUNTERFOIL_")


def test_the_local_stack_that_is_not_up(bare: Call) -> None:
    assert bare("env").sentence == "the local stack is not up; run `counterfoil up`"
    said = bare("status")
    assert said.code == 1
    assert said.out.startswith("local stack: down\n")
    assert said.out.endswith("next: counterfoil up\n")


def test_a_tenant_that_is_no_name(call: Call) -> None:
    assert "not _operators" in call("tenant", "add", "_operators").sentence
    assert call("tenant", "add", "Acme Inc").sentence.startswith("'Acme Inc' is no tenant's name; write 1 to 40 of")


def test_nothing_is_lost_by_any_of_it(
    call: Call, recorder: Recorder, bank: Path, database: str, operator: Connection, closed_port: int
) -> None:
    work(recorder, database)
    away = make_conninfo(database, host="127.0.0.1", hostaddr="127.0.0.1", port=closed_port)
    for changes in ({"STORE__DSN": away}, {"TOPIC_PREFIX": "elsewhere."}, {"KAFKA__NO_SUCH": "1"}):
        assert call("ingest", "--once", **changes).code == 1
    said = call("ingest", "--once")
    assert (said.code, said.err) == (0, "")
    events = stored_events(operator)
    assert said.out == f"the log is ingested up to its end, {events} records in all\n"
    assert events > 15
    assert threading.active_count() < 10
