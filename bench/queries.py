"""What asking costs: `python -m bench.queries [--events N[,N...]] [--quick] [--json FILE] [--plans FOLDER]`.

Fills a store with made-up histories of agents (bench/histories.py), vacuums and analyses it, and runs the named queries
of forensics warm: as an operator, and as a tenant's own login under row-level security. Both ask for the rows of that
tenant, which has half of the tasks. Several numbers of events, in growing order, are reached one after the other in the
same store. The time is the client's, from the call to the last row fetched.
"""

import argparse
import datetime as dt
import math
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row
from rich.console import Console
from rich.table import Table

from bench import histories
from bench.histories import A_TASK, TENANTS, Told, told
from bench.rows import write_json
from bench.servers import servers
from bench.sinks import new_store
from counterfoil_consumers.store import Connection, connect, queries

_READER = "bench_reader"
_TENANT = TENANTS[0]  # the login's; it has half of the tasks
_LIMIT = 100
Params = Callable[[Told, random.Random], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Plan:
    """To how many events the store grows, and how often each query is run: until then, but at least thrice."""

    events: tuple[int, ...]
    runs: int
    seconds: float


QUICK = Plan(events=(20_000,), runs=100, seconds=2)
FULL = Plan(events=(1_000_000,), runs=1_000, seconds=4)


@dataclass(frozen=True, slots=True)
class QueryRow:
    """The times of one query at a number of events; `rows` is the median number that it returned."""

    contender: str
    query: str
    events: int
    metric: str
    unit: str
    best: float
    median: float
    p99: float
    worst: float
    runs: int
    rows: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m bench.queries", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20,000 events: under a minute")
    parser.add_argument("--events", type=_numbers, metavar="N[,N...]", help="to how many events the store grows")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, one a line")
    parser.add_argument("--plans", type=Path, metavar="FOLDER", help="write the plans there")
    given = parser.parse_args(arguments)
    plan = QUICK if given.quick else FULL
    if given.events:
        plan = Plan(given.events, plan.runs, plan.seconds)
    rows: list[QueryRow] = []
    for found in run(plan, given.plans):
        show(found)
        rows += found
        if given.json is not None:
            write_json(rows, given.json)
    return 0


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(sorted(int(number) for number in text.split(",")))


def run(plan: Plan, plans: Path | None = None) -> Iterator[list[QueryRow]]:
    """The rows at each number of events, as soon as they are measured."""
    with servers() as given, new_store(given) as dsn, _logins(dsn) as logins:
        tasks = 0
        for events in plan.events:
            started = time.perf_counter()
            histories.fill(dsn, tasks, events // A_TASK)
            tasks = events // A_TASK
            with psycopg.connect(dsn, autocommit=True) as admin:
                admin.execute("VACUUM ANALYZE")
            print(f"{tasks * A_TASK:,} events after {time.perf_counter() - started:.0f} s", flush=True)
            if plans is not None:
                _write_plans(plans, tasks, logins)
            yield [
                _measured(plan, tasks, login, connection, name)
                for name in ASKED
                for login, connection in logins.items()
            ]


def _write_plans(folder: Path, tasks: int, logins: Mapping[str, Connection]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ASKED:
        for login, connection in logins.items():
            file = f"{tasks * A_TASK}-{name.replace(' ', '-')}-{login}.txt"
            (folder / file).write_text(explained(connection, name, tasks) + "\n", encoding="utf-8")


@contextmanager
def _logins(dsn: str) -> Iterator[dict[str, Connection]]:
    """An operator's connection, and one logged in as a tenant's own role."""
    reader = sql.Identifier(_READER)
    with ExitStack() as stack:
        admin = stack.enter_context(psycopg.connect(dsn, autocommit=True))
        role = sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'bench' IN ROLE counterfoil_auditor").format(reader)
        admin.execute(role)
        stack.callback(admin.execute, sql.SQL("DROP ROLE {}").format(reader))
        query = "INSERT INTO counterfoil.tenant (tenant, login_role) VALUES (%s, %s)"
        for tenant in TENANTS:
            admin.execute(query, [tenant, _READER if tenant == _TENANT else None])
        operator = stack.enter_context(connect(dsn, "operator", application="bench", statement_timeout="0"))
        own = make_conninfo(dsn, user=_READER, password="bench")
        yield {
            "operator": operator,
            "tenant": stack.enter_context(psycopg.connect(own, autocommit=True, row_factory=dict_row)),
        }


def _some(tasks: int, chance: random.Random) -> Told:
    """A task of the tenant that logs in."""
    while True:
        task = told(chance.randrange(tasks))
        if task.tenant == _TENANT:
            return task


def _since(days: int) -> dt.datetime:
    return dt.datetime.now(dt.UTC) - dt.timedelta(days=days)


def _of_task(task: Told, _: random.Random) -> Mapping[str, Any]:
    return {"tenant": task.tenant, "task_id": task.task_id.hex()}


def _latest(task: Told, _: random.Random) -> Mapping[str, Any]:
    return {
        "tenant": task.tenant, "target": None, "tool": None, "outcome": None, "since": _since(30), "limit": _LIMIT,
    }  # fmt: skip


def _of_source(task: Told, chance: random.Random) -> Mapping[str, Any]:
    source = f"kb/{histories.some_source(chance)}"
    return {"tenant": task.tenant, "source": source, "version": None, "limit": _LIMIT}


def _words(task: Told, _: random.Random) -> Mapping[str, Any]:
    first, twin = task.number % histories.INGESTED, task.number // histories.INGESTED
    words = f'"order-{first}"' + (f" twin{twin}" if twin else "")
    return {"tenant": task.tenant, "words": words, "limit": _LIMIT}


def _frequent_word(task: Told, _: random.Random) -> Mapping[str, Any]:
    return {"tenant": task.tenant, "words": "bababa", "limit": _LIMIT}


ASKED: Mapping[str, Params] = {
    "timeline": _of_task,
    "task_tool_calls": _of_task,
    "effects_open": _latest,
    "tool_calls": _latest,
    "retrievals_by_source": _of_source,
    "source_reach": _of_source,
    "denials": _latest,
    "retry_storms": _latest,
    "cost_by_task": _latest,
    "search_texts": _words,
    "search_texts frequent": _frequent_word,
    "cross_tenant_suspects": _latest,
}


def _query(name: str) -> sql.SQL:
    return queries("forensic")[name.partition(" ")[0]]


def _measured(plan: Plan, tasks: int, login: str, connection: Connection, name: str) -> QueryRow:
    params = ASKED[name]
    chance = random.Random(tasks)  # the same tasks every time
    counts: list[int] = []
    times: list[float] = []
    for _ in range(3):  # warm: what is on disk is read, and the statement prepared
        connection.execute(_query(name), params(_some(tasks, chance), chance)).fetchall()
    until = time.perf_counter() + plan.seconds
    while len(times) < 3 or (len(times) < plan.runs and time.perf_counter() < until):
        given = params(_some(tasks, chance), chance)
        started = time.perf_counter()
        counts.append(len(connection.execute(_query(name), given).fetchall()))
        times.append((time.perf_counter() - started) * 1e3)
    times.sort()
    p99 = times[math.ceil(len(times) * 0.99) - 1]
    return QueryRow(
        contender=f"counterfoil-{login}", query=name, events=tasks * A_TASK, metric="query_milliseconds", unit="ms",
        best=times[0], median=statistics.median(times), p99=p99, worst=times[-1], runs=len(times),
        rows=round(statistics.median(counts)),
    )  # fmt: skip


def explained(connection: Connection, name: str, tasks: int) -> str:
    """The plan of one of `ASKED` in a store of so many tasks, with what each of its steps did."""
    chance = random.Random(1)
    query = sql.SQL("EXPLAIN (ANALYZE, BUFFERS, COSTS OFF) ") + _query(name)
    rows = connection.execute(query, ASKED[name](_some(tasks, chance), chance))
    return "\n".join(str(row["QUERY PLAN"]) for row in rows)


def show(rows: Sequence[QueryRow]) -> None:
    """Print the table."""
    table = Table(title=f"queries at {rows[0].events:,} events, milliseconds", title_justify="left")
    for name in ("query", "as"):
        table.add_column(name)
    for name in ("rows", "best", "median", "p99", "worst", "runs"):
        table.add_column(name, justify="right")
    for row in rows:
        times = (
            f"{value:,.3g}" if value < 100 else f"{value:,.0f}" for value in (row.best, row.median, row.p99, row.worst)
        )
        table.add_row(row.query, row.contender.removeprefix("counterfoil-"), str(row.rows), *times, str(row.runs))
    Console(width=110).print(table)


if __name__ == "__main__":
    raise SystemExit(main())
