"""What a thousand tenants cost: `python -m bench.tenants [--quick] [--json FILE]`.

1,000 login roles of 1,000 tenants read one task's timeline each time, a random tenant after the other: over a
connection of each tenant's own that stays open, over a new one each time, and through PgBouncer in transaction mode,
where they all keep their connection to it open: with one to Postgres for each tenant, and with 50 for all. Beside them
four tenants alone, whose connections are warm, and the operator's role, whose policy asks nobody who it is.
"""

import hashlib
import random
import statistics
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial

import psutil
import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from bench.pgbouncer import PASSWORD, pgbouncer
from bench.rows import Failed, Measure, Row, command, interleaved
from bench.servers import Servers, servers
from counterfoil_console.stack import PostgresOptions
from counterfoil_consumers.migrations import migrate
from counterfoil_consumers.store import queries

UNITS = {
    "reads_per_second": "1/s",
    "read_p50_milliseconds": "ms",
    "read_p99_milliseconds": "ms",
    "backends": "1",
    "backend_megabytes": "MB",
}
_CLIENTS = 4  # reading at once; the others keep their connection and are silent
_DATABASE = "bench_tenants"
_TASKS = 10  # of a tenant
_FEW = 50
Reader = psycopg.Connection[tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is done: tenants, events of each of their tasks, reads, and rounds."""

    tenants: int
    events: int
    reads: int
    rounds: int


QUICK = Plan(tenants=1_000, events=10, reads=1_000, rounds=3)
FULL = Plan(tenants=1_000, events=50, reads=10_000, rounds=3)

_FILL = """
WITH of AS (
    SELECT 't' || t AS tenant, md5(format('%%s/%%s', t, k))::uuid AS task_id, n,
           (substr(md5(format('%%s/%%s/%%s', t, k, n)), 1, 20)) AS tail
    FROM generate_series(0, %(tenants)s - 1) AS t, generate_series(0, %(tasks)s - 1) AS k,
         generate_series(1, %(events)s) AS n
)
INSERT INTO counterfoil.event (
    tenant, event_id, retention_class, kind, workflow, environment, mode, task_id, agent, producer_id, seq, occurred_at,
    body_schema, unread, body, source_id, partition, "offset", appended_at, value, value_sha256)
SELECT tenant, (substr(counterfoil.first_id(now())::text, 1, 13) || tail)::uuid, 'standard', 'review', 'support',
       'test', 'live', task_id, 'a', task_id, n, now(), '\\x01', false, json_build_object('note', repeat(tail, 20)),
       1, 0, n, now(), convert_to(repeat(tail, 20), 'UTF8'), '\\x01'
FROM of
"""
_TASKS_OF = """
INSERT INTO counterfoil.task (tenant, task_id, workflow, agent, first_event_id, first_at, last_at, events)
SELECT tenant, task_id, 'support', 'a', min(event_id::text)::uuid, min(occurred_at), max(occurred_at), count(*)
FROM counterfoil.event GROUP BY tenant, task_id
"""
_POLICY = """
INSERT INTO counterfoil.tenant (tenant, login_role)
SELECT 't' || t, 'reader_' || t FROM generate_series(0, %(tenants)s - 1) AS t
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; returns 0."""
    title = "tenants: one task's timeline, of a random tenant each time"
    return command("tenants", __doc__, title, lambda quick: run(QUICK if quick else FULL), ratios, arguments)


def run(plan: Plan) -> list[Row | Failed]:
    """All contenders, interleaved."""
    options = PostgresOptions({"max_connections": str(plan.tenants + 100), "shared_buffers": "256MB"})
    with servers(options) as given:
        where = _store(given, plan)
        bounced = partial(_bounced, given.dsn, plan.tenants)
        contenders: dict[str, tuple[Contender, int]] = {
            "direct": (partial(_kept, where, plan.tenants), plan.tenants),
            "direct-new-connections": (partial(_fresh, where), plan.tenants),
            "pgbouncer": (partial(bounced, plan.tenants), plan.tenants),
            f"pgbouncer-{_FEW}-backends": (partial(bounced, _FEW), plan.tenants),
            f"direct-{_CLIENTS}-tenants": (partial(_kept, where, _CLIENTS), _CLIENTS),
            "operator": (partial(_operator, where), plan.tenants),
        }
        measures: dict[str, Measure] = {
            name: partial(_measure, given, plan, contender, tenants)
            for name, (contender, tenants) in contenders.items()
        }
        return interleaved(measures, plan.rounds, UNITS)


def ratios(rows: Sequence[Row | Failed]) -> Iterator[str]:
    """What the policy and PgBouncer cost, by the medians."""
    medians = {(row.contender, row.metric): row.median for row in rows if isinstance(row, Row)}
    p50 = {contender: value for (contender, metric), value in medians.items() if metric == "read_p50_milliseconds"}
    warm = f"direct-{_CLIENTS}-tenants"
    if {warm, "operator"} <= p50.keys():
        yield f"row-level security and current_tenant(): {(p50[warm] - p50['operator']) * 1000:.0f} us a read"
    for other in ("pgbouncer", f"pgbouncer-{_FEW}-backends", "direct-new-connections"):
        if {"direct", other} <= p50.keys():
            yield f"{other}: {p50[other] / p50['direct']:.1f} times the time of a read over an open connection"


def _store(given: Servers, plan: Plan) -> str:
    """Make the database with its tenants, as a role with CREATEROLE; returns its DSN without a user."""
    with psycopg.connect(given.dsn, autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE ROLE bench_migrator LOGIN CREATEROLE PASSWORD {}").format(sql.Literal(PASSWORD)))
        admin.execute(sql.SQL("CREATE DATABASE {} OWNER bench_migrator").format(sql.Identifier(_DATABASE)))
    where = make_conninfo(given.dsn, dbname=_DATABASE, password=PASSWORD)
    migrator = make_conninfo(where, user="bench_migrator")
    assert list(migrate(migrator))
    with psycopg.connect(migrator, autocommit=True) as connection:
        for number in range(plan.tenants):
            connection.execute(
                sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} IN ROLE counterfoil_auditor").format(
                    sql.Identifier(f"reader_{number}"), sql.Literal(PASSWORD)
                )
            )
    with psycopg.connect(
        make_conninfo(given.dsn, dbname=_DATABASE), autocommit=True
    ) as admin:  # fills past all policies
        admin.execute("SELECT counterfoil.open_partitions('standard', 1, 1)")
        amounts = {"tenants": plan.tenants, "tasks": _TASKS, "events": plan.events}
        admin.execute(_POLICY, amounts)
        admin.execute(_FILL, amounts)
        admin.execute(_TASKS_OF)
        admin.execute("VACUUM ANALYZE")
    return where


Use = Callable[[int, int], AbstractContextManager[Reader]]  # the client's number, and the tenant's
Contender = Callable[[], AbstractContextManager[Use]]


@contextmanager
def _kept(dsn: str, tenants: int) -> Iterator[Use]:
    """A connection of each tenant's, all of them open."""
    with ExitStack() as opened, ThreadPoolExecutor(_CLIENTS) as pool:
        connections = list(pool.map(partial(_connect, dsn), range(tenants)))
        for connection in connections:
            opened.enter_context(closing(connection))
        yield lambda _, number: nullcontext(connections[number])


@contextmanager
def _bounced(server_dsn: str, tenants: int, backends: int) -> Iterator[Use]:
    """The same, to a PgBouncer that has so many connections to Postgres."""
    users = {f"reader_{number}": PASSWORD for number in range(tenants)}
    settings = {"max_client_conn": tenants + 100, "default_pool_size": 1, "max_db_connections": backends}
    with (
        pgbouncer(server_dsn, users, pool_mode="transaction", **settings) as dsn,
        _kept(dsn, tenants) as use,
    ):
        yield use


@contextmanager
def _fresh(dsn: str) -> Iterator[Use]:
    """A connection for each read."""
    yield lambda _, number: closing(_connect(dsn, number))


@contextmanager
def _operator(dsn: str) -> Iterator[Use]:
    """One connection for each client, as the operator, whatever tenant is read."""
    to = make_conninfo(dsn, user="bench_migrator")
    with ExitStack() as opened:
        connections = []
        for _ in range(_CLIENTS):
            connection = psycopg.connect(to, autocommit=True, prepare_threshold=None)
            connections.append(opened.enter_context(closing(connection)))
            connection.execute("SET ROLE counterfoil_operator")
        yield lambda client, _: nullcontext(connections[client])


def _connect(dsn: str, number: int) -> Reader:
    to = make_conninfo(dsn, dbname=_DATABASE, user=f"reader_{number}")
    return psycopg.connect(to, autocommit=True, prepare_threshold=None)


def _measure(given: Servers, plan: Plan, contender: Contender, tenants: int) -> dict[str, float]:
    """All reads, by clients that each have tenants of their own."""
    with contender() as use, ThreadPoolExecutor(_CLIENTS) as pool:
        began = time.perf_counter()
        taken = [one for part in pool.map(partial(_read, use, plan, tenants), range(_CLIENTS)) for one in part]
        seconds = time.perf_counter() - began
        sizes = _backend_sizes(given)
    cuts = statistics.quantiles(taken, n=100)
    return {
        "reads_per_second": len(taken) / seconds,
        "read_p50_milliseconds": cuts[49],
        "read_p99_milliseconds": cuts[98],
        "backends": len(sizes),
        "backend_megabytes": sum(sizes) / 1e6,
    }


def _read(use: Use, plan: Plan, tenants: int, client: int) -> list[float]:
    """One client's reads; how many milliseconds each took."""
    dice, query, taken = random.Random(client), queries("forensic")["timeline"], []
    for _ in range(plan.reads // _CLIENTS):
        number = dice.randrange(client, tenants, _CLIENTS)
        name = f"{number}/{dice.randrange(_TASKS)}"
        task = {"tenant": f"t{number}", "task_id": uuid.UUID(hashlib.md5(name.encode()).hexdigest())}
        began = time.perf_counter()
        with use(client, number) as connection:
            rows = connection.execute(query, task).fetchall()
        taken.append((time.perf_counter() - began) * 1000)
        assert len(rows) == plan.events, (task, len(rows))
    return taken


def _backend_sizes(given: Servers) -> list[int]:
    """The bytes that each connection to the database has for itself."""
    sizes = []
    for process in psutil.Process(given.postgres_pid).children():
        with suppress(psutil.NoSuchProcess):
            if any(_DATABASE in part for part in process.cmdline()):
                sizes.append(process.memory_full_info().uss)
    return sizes


if __name__ == "__main__":
    raise SystemExit(main())
