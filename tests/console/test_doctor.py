"""`counterfoil doctor`: each thing broken in turn is named, with what to do about it."""

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo

from counterfoil import Recorder

from .conftest import CONTRACTS, Call, work


def _graded(found: list[dict[str, Any]], grade: str) -> list[tuple[str, str, str]]:
    return [(one["check"], one["what"], one["todo"]) for one in found if one["grade"] == grade]


def test_all_is_good(call: Call, bank: Path, recorder: Recorder, database: str, ingest_all: Callable[[], None]) -> None:
    work(recorder, database)
    ingest_all()
    said = call("doctor")
    assert (said.code, said.err) == (0, "")
    lines = said.out.splitlines()
    assert all(line.startswith("ok ") for line in lines), said.out
    checks = [line.split()[1] for line in lines]
    assert sorted(set(checks)) == sorted(
        [
            "keys",
            "redaction",
            "brokers",
            "topics",
            "registry",
            "database",
            "roles",
            "signing",
            "clocks",
            "ingest",
            "targets",
            "contracts",
        ]
    )
    assert not [line for line in lines if line != line.rstrip()]
    found = call("doctor", "--json")
    assert found.code == 0
    assert {one["grade"] for one in found.json} == {"good"}


def test_records_that_wait_are_a_warning(call: Call, bank: Path, recorder: Recorder, database: str) -> None:
    work(recorder, database)
    said = call("doctor", "--json")
    assert said.code == 0
    [(check, what, todo)] = _graded(said.json, "warning")
    assert (check, todo) == ("ingest", "is `counterfoil ingest` running?")
    assert what.endswith(" records are not ingested yet")


@pytest.mark.parametrize(
    ("changes", "check", "what", "todo"),
    [
        ({"IDENTITY_KEY": None}, "keys", "the identity key has 0 bytes", "set COUNTERFOIL_IDENTITY_KEY"),
        ({"IDENTITY_KEY": "short"}, "keys", "the identity key has 5 bytes", "set COUNTERFOIL_IDENTITY_KEY"),
        ({"KAFKA__BOOTSTRAP_SERVERS": None}, "brokers", "no Kafka broker is named", "COUNTERFOIL_KAFKA__BOOTSTRAP"),
        ({"KAFKA__NO_SUCH": "1"}, "brokers", 'No such configuration property: "no.such"', "mend that variable"),
        ({"TOPIC_PREFIX": "elsewhere."}, "topics", "does not exist", "run `counterfoil topics --create`"),
        ({"STORE__DSN": None}, "database", "no store is named", ""),
        ({"STORE__DSN": "bogus//x"}, "database", "COUNTERFOIL_STORE__DSN is no connection string", "postgresql://"),
        ({"TARGETS__BANK__DSN": None}, "targets", "nothing says how to reach bank", "set COUNTERFOIL_TARGETS__BANK"),
    ],
)
def test_what_is_broken_is_bad(
    call: Call, bank: Path, changes: dict[str, str | None], check: str, what: str, todo: str
) -> None:
    said = call("doctor", "--json", **changes)
    assert said.code == 1
    assert said.err == ""
    bad = _graded(said.json, "bad")
    assert {one[0] for one in bad} == {check}
    assert what in bad[0][1]
    assert todo in f"{bad[0][1]} {bad[0][2]}"
    plain = call("doctor", **changes)
    assert plain.code == 1
    assert ["BAD", check] in [line.split()[:2] for line in plain.out.splitlines()]
    assert "→" in plain.out or not bad[0][2]


def test_servers_that_are_away(call: Call, bank: Path, database: str, impatient: None) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        away = make_conninfo(database, host="127.0.0.1", hostaddr="127.0.0.1", port=port)
        started = time.monotonic()
        said = call(
            "doctor", "--json", KAFKA__BOOTSTRAP_SERVERS=f"127.0.0.1:{port}", STORE__DSN=away, TARGETS__BANK__DSN=away
        )
        assert time.monotonic() - started < 15
    assert [(check, bool(todo)) for check, _, todo in _graded(said.json, "bad")] == [
        ("brokers", True), ("database", True), ("targets", True)
    ]  # fmt: skip
    assert [(check, what) for check, what, _ in _graded(said.json, "warning")] == [
        ("topics", "not looked at, for want of the brokers"),
        ("roles", "not looked at, for want of the database"),
        ("signing", "not looked at, for want of the database"),
        ("clocks", "not looked at, for want of the database"),
        ("ingest", "not looked at, for want of the brokers and the database"),
    ]


def test_contracts_that_are_missing_or_wrong(call: Call, bank: Path) -> None:
    bank.write_text(CONTRACTS.replace("set.amount", "set.amuont"), encoding="utf-8")
    [(check, what, todo)] = _graded(call("doctor", "--json").json, "bad")
    assert (check, todo) == ("targets", "mend the contract, or the target (did you mean amount?)")
    assert what == "contracts.toml line 18: table bank.accounts of target bank has no column amuont"
    bank.write_text("version = 3", encoding="utf-8")
    [(check, what, _)] = _graded(call("doctor", "--json").json, "bad")
    assert check == "contracts"
    bank.unlink()
    said = call("doctor", "--json")
    assert said.code == 0
    [(check, what, todo)] = _graded(said.json, "warning")
    assert check == "contracts"
    assert "docs/contracts.md" in todo


def test_a_superuser_and_a_lone_broker_are_warnings(
    call: Call, bank: Path, database: str, admin_dsn: str, topic_prefix: str
) -> None:
    dbname = next(part for part in database.split() if part.startswith("dbname="))
    said = call(
        "doctor", "--json", STORE__DSN=make_conninfo(admin_dsn, dbname=dbname.removeprefix("dbname=")),
        PROFILE="production",
    )  # fmt: skip
    checks = [check for check, _, _ in _graded(said.json, "warning")]
    assert "roles" in checks
    assert "brokers" in checks
