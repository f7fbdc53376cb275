"""A small shop that agents write to, and a reconciler that a test drives pass by pass."""

import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest

from counterfoil import Effect, Event, Recorder, RecorderSettings
from counterfoil.codec import decode
from counterfoil.redaction import Redaction
from counterfoil_consumers.outbox import relay_now
from counterfoil_consumers.store import Connection
from counterfoil_reconcilers.concluding import Policy
from counterfoil_reconcilers.contracts import Contracts, load
from counterfoil_reconcilers.reconciler import PassResult, Reconciler, ReconcilerSettings

TENANT = "acme"
EXCLUSIVE = 'writers = "exclusive"'
OURS = """writers = { ours = "by = 'agent'" }"""
NOBODY = ""

CONTRACTS = """
version = "7"

[targets.shop]
kind = "postgresql"
%(writers)s
settle_seconds = %(settle)s

[targets.shop.resources.orders]
table = "shop.orders"
key = ["id"]
tenant = "merchant"
fields.by = { ignore = true }

[targets.shop.resources.refunds]
table = "shop.refunds"
key = ["id"]
tenant = "merchant"
fields.id = { ignore = true }

[tools.set_status]
target = "shop"
[[tools.set_status.writes]]
resource = "orders"
key = { id = "args.order" }
set.status = "args.status"

[tools.deposit]
target = "shop"
[[tools.deposit.writes]]
resource = "orders"
key = { id = "args.order" }
set.paid = "before.paid + number(args.amount)"

[tools.refund]
target = "shop"
[[tools.refund.writes]]
resource = "orders"
key = { id = "args.order" }
set.status = "'refunded'"
[[tools.refund.writes]]
resource = "refunds"
create = true
find = { reference = "effect" }
set.reference = "effect"
set.amount = "number(args.amount)"
"""

TABLES = """
CREATE SCHEMA shop;
CREATE TABLE shop.orders (
    id text PRIMARY KEY, merchant text NOT NULL DEFAULT 'acme', status text NOT NULL DEFAULT 'new',
    paid numeric NOT NULL DEFAULT 0, by text NOT NULL DEFAULT 'agent');
CREATE TABLE shop.refunds (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, merchant text NOT NULL DEFAULT 'acme', reference text,
    amount numeric, by text NOT NULL DEFAULT 'agent');
INSERT INTO shop.orders (id) VALUES ('A-1'), ('A-2'), ('A-3');
"""


@dataclass
class Shop:
    """The shop, its agents' recorder, and what checks them."""

    recorder: Recorder
    ingest: Callable[[], None]
    operator: Connection
    settings: ReconcilerSettings
    folder: Path
    target: psycopg.Connection[tuple[Any, ...]]
    reconcilers: list[Reconciler] = field(default_factory=list)

    def contracts(self, writers: str = EXCLUSIVE, *, settle: float = 0, text: str = CONTRACTS) -> Contracts:
        """The shop's contracts, as loaded from a file."""
        path = self.folder / "contracts.toml"
        path.write_text(text % {"writers": writers, "settle": settle})
        return load(path)

    def reconciler(self, contracts: Contracts | None = None, **changed: Any) -> Reconciler:
        """A reconciler of the shop; it sweeps at every pass, and gives up at once what has settled as drift."""
        given = {"contracts": contracts or self.contracts()} | changed
        settings = ReconcilerSettings(**(vars(self.settings) | given))
        self.reconcilers.append(Reconciler(settings))
        return self.reconcilers[-1]

    def sql(self, *statements: LiteralString) -> None:
        """Write to the shop, in one transaction."""
        with self.target.transaction():
            for statement in statements:
                self.target.execute(statement)

    def begin(
        self, tool: str, *, task: str = "t-1", mode: Any = "live", target: str | None = "shop", **args: Any
    ) -> Effect:
        """An attempt whose intent is in the log."""
        step = args.pop("step", None)
        with self.recorder.task("work", task_ref=task, mode=mode) as entered:
            entered.suspend("the test goes on")
            return entered.begin_effect(tool, target=target, args=args, step=step)

    def act(self, tool: str, outcome: str, *landing: LiteralString, **args: Any) -> uuid.UUID:
        """An attempt from intent to outcome, with what it did to the shop in between."""
        effect = self.begin(tool, **args)
        self.sql(*landing)
        finish(effect, outcome)
        return uuid.UUID(bytes=effect.effect_id)

    def step(self, reconciler: Reconciler) -> PassResult:
        """Everything recorded is ingested, and one pass is made."""
        self.recorder.flush()
        self.ingest()
        return reconciler.once()

    def settle(self, reconciler: Reconciler, *, at_most: int = 40) -> list[PassResult]:
        """Steps until nothing is open; what was said is in the log and in the store then."""
        passes = [self.step(reconciler)]
        while passes[-1].open or passes[-1].skipped or len(passes) < 2:
            assert len(passes) < at_most, f"still open after {at_most} passes: {passes[-1]}"
            passes.append(self.step(reconciler))
        self.relay()
        self.ingest()
        return passes

    def relay(self) -> None:
        """What waits in the outbox is in the log."""
        relay_now(self.settings.dsn, "reconciler", self.settings.kafka)

    def said(self, kind: str = "verdict") -> list[Event]:
        """The events of one kind that were said, in order, relayed or not."""
        rows = self.operator.execute(
            "SELECT value FROM counterfoil.outbox WHERE topic LIKE '%events' ORDER BY outbox_id"
        )
        return [event for row in rows if (event := decode(bytes(row["value"]))).kind == kind]

    def verdicts(self, effect_id: uuid.UUID) -> list[str]:
        """The verdicts said of one effect, in order."""
        return [body(event)["verdict"] for event in self.said() if event.effect_id == effect_id.bytes]

    def changes(self) -> list[tuple[str, str]]:
        """Rows and verdicts said about no effect, in order."""
        about = [body(event) for event in self.said() if event.effect_id is None]
        return [(one["resources"][0]["resource"] + one["resources"][0]["key"], one["verdict"]) for one in about]

    def state(self, effect_id: uuid.UUID) -> Mapping[str, Any]:
        """The effect as the store has it."""
        rows = self.operator.execute("SELECT * FROM counterfoil.effect_state WHERE effect_id = %s", (effect_id,))
        [state] = rows.fetchall()
        return state

    def drift(self) -> list[tuple[str | None, str, str | None]]:
        """Both sides of everything in drift: what the agent said, what the target says, what it means."""
        rows = self.operator.execute("SELECT outcome, verdict, means FROM counterfoil.drift ORDER BY 1, 2")
        return [(row["outcome"], row["verdict"], row["means"]) for row in rows]


def finish(effect: Effect, outcome: str) -> None:
    """End an attempt by the verb of its outcome; `none` leaves it under way."""
    if outcome == "accepted":
        effect.accepted(deadline=timedelta(hours=1))
    elif outcome != "none":
        getattr(effect, outcome)()


def body(event: Event) -> Mapping[str, Any]:
    """The body of an event that was read."""
    assert event.body is not None
    return event.body


@pytest.fixture
def shop(
    recorder: Recorder,
    recorder_settings: RecorderSettings,
    ingest_all: Callable[[], None],
    operator: Connection,
    database: str,
    tmp_path: Path,
) -> Iterator[Shop]:
    """The shop with three new orders; nothing was recorded yet, and nobody has looked at it."""
    with psycopg.connect(database, autocommit=True) as target:
        target.execute(TABLES)
        operator.execute("INSERT INTO counterfoil.tenant VALUES (%s)", (TENANT,))
        unset: Any = None
        settings = ReconcilerSettings(
            kafka=recorder_settings.kafka,
            dsn=database,
            contracts=unset,
            target_settings={"shop": {"dsn": database}},
            profile="local",
            topic_prefix=recorder_settings.topic_prefix,
            redaction=Redaction(recorder_settings),
            policy=Policy(sweep_every=timedelta(0), give_up_after=timedelta(0)),
        )
        shop = Shop(recorder, ingest_all, operator, settings, tmp_path, target)
        yield shop
        shop.recorder.close()
        for reconciler in shop.reconcilers:
            reconciler.close()
