"""Setting up: migrate, topics, tenants, config, and the settings of a local stack that is up."""

import uuid
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from counterfoil_console import local
from counterfoil_console.settings import load
from counterfoil_consumers.topics import admin_client
from counterfoil_schemas import migrations, topics
from tests.fix_store import MIGRATOR

from .conftest import Call


def test_migrate_says_what_it_applied_and_then_that_nothing_waits(call: Call, admin_dsn: str, database: str) -> None:
    name = f"fresh_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(admin_dsn, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(name), sql.Identifier(MIGRATOR)))
    dsn = make_conninfo(database, dbname=name)
    first = call("migrate", STORE__DSN=dsn)
    assert (first.code, first.err) == (0, "")
    assert first.out.splitlines() == [f"applied {one}" for one in migrations()]
    assert call("migrate", STORE__DSN=dsn).out == "the store is up to date\n"
    assert call("tenant", "add", "acme", STORE__DSN=dsn).code == 0


def test_topics_are_checked_created_and_checked_again(call: Call, kafka: dict[str, str], topic_prefix: str) -> None:
    prefix = topic_prefix + "new."
    names = [topic.name for topic in topics("local", prefix).values()]
    lacking = call("topics", TOPIC_PREFIX=prefix)
    assert lacking.code == 1
    assert [line for line in lacking.out.splitlines() if not line.startswith(" ")] == [
        f"{name}: differs" for name in names
    ]
    assert lacking.out.count("does not exist; run `counterfoil topics --create`") == len(names)
    created = call("topics", "--create", "--json", TOPIC_PREFIX=prefix)
    assert created.code == 0
    assert created.json == {"created": names, "differences": {name: [] for name in names}}
    again = call("topics", "--create", TOPIC_PREFIX=prefix)
    assert again.out.splitlines() == [f"{name}: as declared" for name in names]
    admin = admin_client(kafka)
    for future in admin.delete_topics(names).values():
        future.result()


SECRETS = {
    "KAFKA__SASL_PASSWORD": "hunter-1",
    "KAFKA__SSL_KEY_PASSWORD": "hunter-2",
    "KAFKA__SASL_OAUTHBEARER_CLIENT_SECRET": "hunter-3",
    "KAFKA__SSL_KEY_PEM": "hunter-4",
    "KAFKA__SASL_OAUTHBEARER_ASSERTION_PRIVATE_KEY_PASSPHRASE": "hunter-5",
    "STORE__DSN": "postgresql://me:hunter-6@db.example:5433/audit?sslpassword=hunter-7",
    "TARGETS__SHOP__DSN": "host=shop.example password=hunter-8 dbname=shop",
    "TARGETS__OTHER__DSN": "postgres//me:hunter-9@nowhere",
    "IDENTITY_KEY": "hunter-10-hunter-10-hunter-10",
    "SIGNING_KEYS": "cfsk.acme.k1acme.hunter-11",
}


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_config_shows_everything_but_secrets(call: Call, form: list[str]) -> None:
    said = call("config", *form, **SECRETS)
    assert said.code == 0
    assert "hunter" not in said.out + said.err
    for part in ("sasl.password=(set)", "host=db.example", "port=5433", "dbname=audit", "user=me", "host=shop.example"):
        assert part in said.out
    assert "libpq can't" in said.out


def test_config_tells_every_variable(call: Call) -> None:
    told = call("config", "--json").json
    assert told["COUNTERFOIL_PROFILE"] == "local"
    assert told["COUNTERFOIL_CONSUMER"] == "counterfoil-ingest"
    plain = call("config", AGENT="[red]robot[/red]")
    assert all(name in plain.out for name in told)
    assert "[red]robot[/red]" in plain.out


def _pretend_a_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {
        "kafka": {"bootstrap.servers": "127.0.0.1:1"},
        "profile": "local",
        "store": {"dsn": "dbname=of_the_stack"},
        "identity_key": "k" * 32,
        "admit_tenants": True,
    }
    monkeypatch.setattr(local, "settings_of_running_stack", lambda _data: found)


def test_the_local_stack_fills_in_what_is_not_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    _pretend_a_stack(monkeypatch)
    settings = load()
    assert (settings.dsn, settings.profile, settings.admit_tenants) == ("dbname=of_the_stack", "local", True)
    assert settings.kafka == {"bootstrap.servers": "127.0.0.1:1"}


def test_what_the_user_set_is_stronger_than_the_local_stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    _pretend_a_stack(monkeypatch)
    (tmp_path / "dsn").write_text("dbname=mine", encoding="utf-8")
    (tmp_path / "counterfoil.toml").write_text("admit_tenants = false\n", encoding="utf-8")
    monkeypatch.setenv("COUNTERFOIL_STORE__DSN_FILE", str(tmp_path / "dsn"))
    monkeypatch.setenv("COUNTERFOIL_KAFKA__LINGER_MS", "5")
    settings = load()
    assert (settings.dsn, settings.profile, settings.admit_tenants) == ("dbname=mine", "local", False)
    assert settings.kafka == {"bootstrap.servers": "127.0.0.1:1", "linger.ms": "5"}


def test_a_named_broker_leaves_the_local_stack_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    _pretend_a_stack(monkeypatch)
    monkeypatch.setenv("COUNTERFOIL_KAFKA__BOOTSTRAP_SERVERS", "broker.example:9092")
    settings = load()
    assert settings.kafka == {"bootstrap.servers": "broker.example:9092"}
    assert settings.profile == "production"
