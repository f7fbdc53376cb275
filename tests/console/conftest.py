"""Fixtures of the console's tests: the command as a user would call it, and a small bank to write to."""

import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from counterfoil import Recorder
from counterfoil_console.cli import run
from counterfoil_consumers import topics
from counterfoil_consumers.store import Connection
from tests.fix_recorder import IDENTITY_KEY

CONTRACTS = """
version = "3"

[targets.bank]
kind = "postgresql"
writers = "exclusive"

[targets.bank.resources.accounts]
table = "bank.accounts"
key = ["id"]
tenant = "merchant"

[tools.credit]
target = "bank"
[[tools.credit.writes]]
resource = "accounts"
key = { id = "args.account" }
set.amount = "number(args.amount)"
"""
TABLES = """
CREATE SCHEMA bank;
CREATE TABLE bank.accounts (id text PRIMARY KEY, merchant text NOT NULL, amount numeric NOT NULL);
INSERT INTO bank.accounts VALUES ('a', 'acme', 0), ('b', 'acme', 0), ('c', 'acme', 0);
"""


@dataclass(frozen=True)
class Said:
    """What a command answered."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output, which must be JSON in pure ASCII."""
        assert self.out.isascii()
        return json.loads(self.out)

    @property
    def sentence(self) -> str:
        """The one sentence with which it failed."""
        assert self.code not in (0, None), self.out
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("counterfoil: ")
        assert "Traceback" not in self.err + self.out
        return lines[0].removeprefix("counterfoil: ")


Call = Callable[..., Said]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """The variables of a shell in which nothing of ours is set, and no local stack runs."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("COUNTERFOIL_")}
    return plain | {"COUNTERFOIL_DATA_DIRECTORY": str(tmp_path / "no-stack"), "COLUMNS": "120"}


@pytest.fixture
def variables(kafka: dict[str, str], topic_prefix: str, database: str, tmp_path: Path) -> dict[str, str]:
    """What a user sets to reach the test's own topics and store."""
    return {
        "COUNTERFOIL_KAFKA__BOOTSTRAP_SERVERS": kafka["bootstrap.servers"],
        "COUNTERFOIL_PROFILE": "local",
        "COUNTERFOIL_TOPIC_PREFIX": topic_prefix,
        "COUNTERFOIL_STORE__DSN": database,
        "COUNTERFOIL_IDENTITY_KEY": IDENTITY_KEY,
        "COUNTERFOIL_ADMIT_TENANTS": "true",
        "COUNTERFOIL_METRICS_PORT": "0",
        "COUNTERFOIL_CONTRACTS": str(tmp_path / "contracts.toml"),
        "COUNTERFOIL_TARGETS__BANK__DSN": database,
    }


@pytest.fixture
def bare(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Call]:
    """Calls the command in an empty folder; keywords are variables (without COUNTERFOIL_), None takes one away."""
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def call(*arguments: str, **changes: str | None) -> Said:
        with monkeypatch.context() as patched:
            for name in set(os.environ) - set(environment):
                patched.delenv(name)
            for name, value in environment.items():
                patched.setenv(name, value)
            for name, change in changes.items():
                if change is None:
                    patched.delenv(f"COUNTERFOIL_{name}", raising=False)
                else:
                    patched.setenv(f"COUNTERFOIL_{name}", change)
            capsys.readouterr()
            code = run(list(arguments))
        root.handlers[:] = handlers
        root.setLevel(level)
        return Said(code, *capsys.readouterr())

    yield call
    for name in ("counterfoil.kafka", "apscheduler"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.fixture
def call(bare: Call, variables: dict[str, str]) -> Call:
    """As `bare`, with topics, a migrated store and an identity key."""
    given = {name.removeprefix("COUNTERFOIL_"): value for name, value in variables.items()}
    return lambda *arguments, **changes: bare(*arguments, **(given | changes))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Brokers that are away are waited for no longer than a test needs."""
    monkeypatch.setattr(topics, "_TIMEOUT_SECONDS", 2.0)


@pytest.fixture
def bank(database: str, tmp_path: Path) -> Path:
    """A bank in the test's database; returns the path of its contracts."""
    with psycopg.connect(database) as connection:
        connection.execute(TABLES)
    path = tmp_path / "contracts.toml"
    path.write_text(CONTRACTS, encoding="utf-8")
    return path


def credit(database: str, account: str, amount: str) -> None:
    """Write to the bank."""
    with psycopg.connect(database) as connection:
        connection.execute("UPDATE bank.accounts SET amount = %s WHERE id = %s", (amount, account))


def work(recorder: Recorder, database: str) -> None:
    """Three credits: one lands, one never does, one is refused."""
    with recorder.task("credit-run", task_ref="T-1", subject_ref="run 7", agent="clerk", workflow="billing") as task:
        task.prompt([{"role": "user", "content": "credit them"}], model="m-1")
        task.retrieval("limits", [{"id": "kb/limits"}])
        usage = {"input_tokens": 100, "output_tokens": 20}
        task.completion("I credit.", rationale="it is due", usage=usage, cost="0.5", currency="USD")
        with task.tool("balance", {"account": "a"}) as read:
            read.ok({"amount": 0})
        with task.effect("credit", target="bank", args={"account": "a", "amount": "5"}) as effect:
            credit(database, "a", "5")
            effect.ok({"done": True})
        with task.effect("credit", target="bank", args={"account": "b", "amount": "7"}) as effect:
            effect.ok()
        with task.effect("credit", target="bank", args={"account": "c", "amount": "9"}) as effect:
            effect.failed("over the\nlimit")
        task.approval(by="dana", about="credit", reason="within the limit")
    recorder.close()


def stored_events(operator: Connection) -> int:
    """How many events the store has."""
    row = operator.execute("SELECT count(*) AS events FROM counterfoil.event").fetchone()
    assert row is not None
    return int(row["events"])
