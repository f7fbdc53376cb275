"""What reconciling costs: `python -m bench.reconcile [--effects N] [--closed N] [--quick] [--json FILE]`.

Effects of one tenant at a PostgreSQL target on the same server, each a write of its own row, 1 % of them in drift. They
are put into the store as ingest would have left them; then one process looks at all of them until they are closed.
`effects_per_second` counts looks: read at the target, judged, and what is decided of them written, verdicts into the
outbox. `due_milliseconds` is how long the query of what is due takes beside so many effects that are closed,
`sweep_milliseconds` how long a sweep over so many rows takes of which three changed, by each way to be told of them.
"""

import argparse
import datetime as dt
import gc
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import LiteralString

import psycopg
from psycopg import sql

from bench.rows import Row, row_of, show, write_json
from bench.servers import Servers, servers
from bench.sinks import new_store
from counterfoil.redaction import Redaction
from counterfoil.settings import RecorderSettings
from counterfoil_console.cli.services import ALLOCATIONS_A_COLLECTION
from counterfoil_consumers.store import Connection, connect, queries
from counterfoil_reconcilers.concluding import Policy
from counterfoil_reconcilers.contracts import load
from counterfoil_reconcilers.reconciler import Reconciler, ReconcilerSettings
from counterfoil_reconcilers.settling import Pace

TENANT = "acme"
_CONTRACT = """\
version = "1"
[targets.shop]
kind = "postgresql"
%s
tolerance = 0.005
[targets.shop.resources.orders]
table = "shop.orders"
key = ["id"]
tenant = "merchant"
fields.updated_at = { ignore = true }
[tools.refund]
target = "shop"
[[tools.refund.writes]]
resource = "orders"
key = { id = "args.order" }
set.status = "'refunded'"
set.refunded = "number(args.amount)"
"""
_CREATES = """\
[targets.shop.resources.refunds]
table = "shop.refunds"
key = ["id"]
tenant = "merchant"
fields.id.ignore = true
[[tools.refund.writes]]
resource = "refunds"
create = true
find = { reference = "effect" }
set.reference = "effect"
set.amount = "number(args.amount)"
"""
_ORDERS: LiteralString = """
    CREATE SCHEMA shop;
    CREATE TABLE shop.orders (id text PRIMARY KEY, merchant text NOT NULL, status text NOT NULL,
                              refunded numeric NOT NULL, note text NOT NULL,
                              updated_at timestamptz NOT NULL DEFAULT now());
    INSERT INTO shop.orders
    SELECT 'W-' || n, 'acme', 'paid', 0, repeat('x', 200) FROM generate_series(1, {effects}) AS n;
    CREATE TABLE shop.refunds (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, merchant text NOT NULL,
                               reference text NOT NULL, amount numeric NOT NULL);
    CREATE INDEX ON shop.refunds (reference);
    ANALYZE shop.orders
"""
_TELLING: LiteralString = """
    CREATE INDEX ON shop.orders (merchant, updated_at);
    CREATE TABLE shop.order_changes (seq bigint GENERATED ALWAYS AS IDENTITY, merchant text NOT NULL, id text NOT NULL);
    CREATE INDEX ON shop.order_changes (merchant, seq);
    ANALYZE shop.orders, shop.order_changes
"""
# What three triggers would do; only a field that is ignored changes, so that nothing but the sweep is to be done.
_CHANGE: LiteralString = """
    WITH changed AS (
        UPDATE shop.orders SET updated_at = now() WHERE id IN ('W-1', 'W-500', 'W-999') RETURNING merchant, id)
    INSERT INTO shop.order_changes (merchant, id) SELECT merchant, id FROM changed
"""
_ACT: LiteralString = """
    UPDATE shop.orders SET status = 'refunded', refunded = 12.5, updated_at = now()
    WHERE substr(id, 3)::int % 100 <> 0
"""
_CREATE: LiteralString = """
    INSERT INTO shop.refunds (merchant, reference, amount)
    SELECT 'acme', replace(md5('e' || n)::uuid::text, '-', ''), 12.5 FROM generate_series(1, {effects}) AS n
    WHERE n % 100 <> 0
"""
_EFFECTS: LiteralString = """
    INSERT INTO counterfoil.effect (
        tenant, effect_id, task_id, workflow, agent, mode, first_event_id, intent_event_id, tool, target, args,
        intent_partition, intent_offset, intent_at, intents, ok, reply, last_appended_at)
    SELECT 'acme', md5('e' || n)::uuid, md5('t' || n / 10)::uuid, 'refunds', 'agent', 'live', md5('i' || n)::uuid,
           md5('i' || n)::uuid, 'refund', 'shop',
           json_build_object('order', 'W-' || n, 'amount', '12.50', 'reason', repeat('r', 100)),
           n % 24, n, now(), 1, 1, '{{"ok": true}}'::json, now() - interval '1 minute'
    FROM generate_series(1, {effects}) AS n
"""
_OPEN: LiteralString = """
    INSERT INTO counterfoil.check_state (tenant, effect_id, target, is_urgent)
    SELECT 'acme', md5('e' || n)::uuid, 'shop', false FROM generate_series(1, {effects}) AS n
"""
_CLOSED: LiteralString = """
    INSERT INTO counterfoil.check_state (tenant, effect_id, target, is_urgent, verdict, emitted, sightings, closed_at)
    SELECT 'acme', md5('c' || n)::uuid, 'shop', n % 2 = 0, 'applied', 'applied', 2, now()
    FROM generate_series({first}, {last}) AS n
"""
_TOLD: LiteralString = """
    SELECT emitted, count(*) FROM counterfoil.check_state WHERE closed_at IS NOT NULL GROUP BY emitted
"""


@dataclass(frozen=True, slots=True)
class Case:
    """One way to write, and to be looked at. `creates`: each write also creates a row whose key nobody knows.

    `changes`: how the contract says that changes are told.
    """

    name: str
    writers: str = ""
    creates: bool = False
    changes: str = ""
    sweep_every: dt.timedelta = dt.timedelta(hours=1)

    @property
    def contract(self) -> str:
        """Its contracts."""
        text = (_CONTRACT % self.writers).replace('table = "shop.orders"\n', f'table = "shop.orders"\n{self.changes}\n')
        return text + (_CREATES if self.creates else "")


CASES = (
    Case("counterfoil", 'writers = "exclusive"'),
    Case("counterfoil-no-baseline"),
    Case("counterfoil-created-rows", 'writers = "exclusive"', creates=True),
)

SWEEPS = tuple(
    Case(f"counterfoil-{name}", 'writers = "exclusive"', changes=changes, sweep_every=dt.timedelta(0))
    for name, changes in (
        ("listing", ""),
        ("column", 'changes = { column = "updated_at", late_seconds = 0 }'),
        ("change-table", 'changes = { table = "shop.order_changes", column = "seq", late_seconds = 0 }'),
    )
)


@dataclass(frozen=True, slots=True)
class Plan:
    """How many effects a round, beside how many closed ones the due query is timed, over how many rows a sweep is."""

    effects: int
    closed: tuple[int, ...]
    rounds: int
    swept: tuple[int, ...]


QUICK = Plan(5_000, (0, 100_000), 3, (100_000,))
FULL = Plan(1_000_000, (0, 1_000_000, 10_000_000), 3, (100_000, 1_000_000))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m bench.reconcile", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="5,000 effects and 100,000 closed ones: under five minutes"
    )
    parser.add_argument("--effects", type=int, metavar="N", help="how many effects a round")
    parser.add_argument("--closed", type=int, metavar="N", help="beside how many closed ones the due query is timed")
    parser.add_argument("--swept", type=int, metavar="N", help="over how many rows a sweep is timed")
    parser.add_argument(
        "--only", choices=("sweeps", *(case.name for case in CASES)), help="time nothing but the sweeps, or these looks"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="how many rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, one a line")
    given = parser.parse_args(arguments)
    plan = QUICK if given.quick else FULL
    gc.set_threshold(ALLOCATIONS_A_COLLECTION)
    closed = plan.closed if given.closed is None else (0, given.closed)
    swept = plan.swept if given.swept is None else (given.swept,)
    plan = Plan(given.effects or plan.effects, closed, given.rounds or plan.rounds, swept)
    with servers() as running:
        rows = [] if given.only == "sweeps" else run(running, plan, given.only)
        rows += run_sweeps(running, plan) if given.only in (None, "sweeps") else []
    show("reconcile", rows)
    if given.json is not None:
        write_json(rows, given.json)
    return 0


def run(given: Servers, plan: Plan, only: str | None = None) -> list[Row]:
    """The rows of all rounds, each with a store and a target of its own; with `only`, of looks of one way to write."""
    found: dict[str, list[float]] = {}
    for number in range(plan.rounds):
        for case in (case for case in CASES if only in (None, case.name)):
            found.setdefault(case.name, []).append(_round(given, plan.effects, case))
            print(f"round {number + 1}: {case.name} {found[case.name][-1]:,.0f} effects/s", flush=True)
    due: dict[int, list[float]] = {}
    if only is None:
        with new_store(given) as dsn:
            due = dict(_due_queries(dsn, plan.closed))
    rows = [row_of(name, "effects_per_second", "1/s", values) for name, values in found.items()]
    return rows + [row_of(f"counterfoil-{n}-closed", "due_milliseconds", "ms", values) for n, values in due.items()]


def run_sweeps(given: Servers, plan: Plan) -> list[Row]:
    """The rows of sweeps, each way with a store and a target of its own."""
    rows = []
    for number in plan.swept:
        for case in SWEEPS:
            with new_store(given) as dsn, _reconciler(given, dsn, number, case) as reconciler:
                rows.append(
                    row_of(f"{case.name}-{number}-rows", "sweep_milliseconds", "ms", [*_sweeps(dsn, reconciler)])
                )
            print(f"{rows[-1].contender}: {rows[-1].median:,.0f} ms", flush=True)
    return rows


def _sweeps(dsn: str, reconciler: Reconciler) -> Iterator[float]:
    """The milliseconds of five sweeps, each after three rows changed."""
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(_TELLING)
        admin.execute(_CHANGE)  # or all rows would stand at the newest place, where they were made
        reconciler.tick()
        for _ in range(5):
            admin.execute(_CHANGE)
            started = time.perf_counter()
            done = reconciler.tick()
            yield (time.perf_counter() - started) * 1_000
            assert not done.skipped, done.skipped


def _round(given: Servers, effects: int, case: Case) -> float:
    """Looks a second, until all effects are closed."""
    with new_store(given) as dsn, _reconciler(given, dsn, effects, case) as reconciler:
        reconciler.tick()
        if case.writers:
            reconciler.tick()  # the baseline is taken
        with psycopg.connect(dsn, autocommit=True) as admin:
            admin.execute(_ACT)
            for query in (*([_CREATE] if case.creates else ()), _EFFECTS, _OPEN):
                admin.execute(sql.SQL(query).format(effects=sql.Literal(effects)))
            admin.execute("ANALYZE")
            looks, started = 0, time.perf_counter()
            while looks < 2 * effects:
                done = reconciler.tick()
                assert not done.skipped, done.skipped
                looks += done.effects
            seconds = time.perf_counter() - started
            _assert_told(admin, effects, is_drift_settled=bool(case.writers))
    return looks / seconds


def _assert_told(admin: psycopg.Connection[tuple[object, ...]], effects: int, *, is_drift_settled: bool) -> None:
    """One verdict on each effect, and drift on each hundredth; without a baseline the drift may stay unsaid."""
    found = admin.execute(_TOLD).fetchall()
    told = {str(verdict): int(str(many)) for verdict, many in found}
    drift = effects // 100
    assert told.get("applied") == effects - drift, told
    assert not is_drift_settled or told.get("not_applied") == drift, told


@contextmanager
def _reconciler(given: Servers, dsn: str, effects: int, case: Case) -> Iterator[Reconciler]:
    with psycopg.connect(dsn, autocommit=True) as admin, tempfile.TemporaryDirectory() as folder:
        admin.execute(sql.SQL(_ORDERS).format(effects=sql.Literal(effects)))
        admin.execute("INSERT INTO counterfoil.tenant VALUES (%s)", (TENANT,))
        path = Path(folder) / "contracts.toml"
        path.write_text(case.contract, encoding="utf-8")
        recorder = RecorderSettings(kafka=given.kafka, identity_key="0" * 32)
        settings = ReconcilerSettings(
            kafka=given.kafka,
            dsn=dsn,
            contracts=load(path),
            target_settings={"shop": {"dsn": dsn}},
            profile="local",
            topic_prefix=given.prefix,
            redaction=Redaction(recorder),
            policy=Policy(
                sweep_every=case.sweep_every,
                give_up_after=dt.timedelta(0),
                pace=Pace(share=0, least=dt.timedelta(0)),
            ),
        )
        reconciler = Reconciler(settings)
        try:
            yield reconciler
        finally:
            reconciler.close()


def _due_queries(dsn: str, closed: Sequence[int]) -> Iterator[tuple[int, list[float]]]:
    """The milliseconds of the due query, with 1,000 open effects, as closed ones come to stand beside them."""
    with (
        psycopg.connect(dsn, autocommit=True) as admin,
        closing(connect(dsn, "reconciler", application="bench")) as store,
    ):
        for query in (_EFFECTS, _OPEN):
            admin.execute(sql.SQL(query).format(effects=sql.Literal(1_000)))
        there = 0
        for number in closed:
            if number > there:
                admin.execute(sql.SQL(_CLOSED).format(first=sql.Literal(there + 1), last=sql.Literal(number)))
            there = number
            admin.execute("VACUUM ANALYZE counterfoil.check_state")
            yield number, [_due(store) for _ in range(20)]


def _due(store: Connection) -> float:
    named = queries("reconcile")
    query = named["find_due"].format(columns=named["effect_columns"], sources=named["effect_sources"])
    until = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
    params = {"tenant": TENANT, "target": "shop", "until": until, "check_seq": 9, "most": 1_000}
    started = time.perf_counter()
    found = store.execute(query, params).fetchall()
    milliseconds = (time.perf_counter() - started) * 1_000
    assert len(found) == 1_000
    return milliseconds


if __name__ == "__main__":
    raise SystemExit(main())
