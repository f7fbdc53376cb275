"""`counterfoil completeness`: is everything there that was emitted, and if not, what is not?"""

from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from counterfoil.errors import CounterfoilError
from counterfoil_console.cli.output import AsJson, Tenant, console, open_store, print_json
from counterfoil_console.completeness import Completeness, read_completeness
from counterfoil_console.hostile import shown
from counterfoil_console.lag import ingest_lag
from counterfoil_console.settings import Settings, load
from counterfoil_console.timeline import plain


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(completeness)


def completeness(
    tenant: Tenant = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1_000_000, help="At most this many of each list.")] = 200,
    as_json: AsJson = False,
) -> None:
    """Hold what producers emitted against what is stored: emitted = stored + gaps + missing.

    Lists tasks with numbers missing or given up, and producers that fell silent. Exit code 0: nothing is missing; 1:
    something is. What ingest has not read yet counts as on its way.

    Example: counterfoil completeness --tenant acme --json
    """
    settings = load()
    lag = _lag(settings)
    with open_store(settings) as store:
        found = read_completeness(store, tenant, limit, lag)
    if as_json:
        print_json(
            {
                "complete": found.is_complete,
                "lag": found.lag,
                "totals": found.totals,
                "tasks": [plain(row) for row in found.tasks],
                "gaps": [plain(row) for row in found.gaps],
                "silent": [plain(row) for row in found.silent],
            }
        )
    else:
        _print(found)
    if not found.is_complete:
        raise typer.Exit(1)


def _lag(settings: Settings) -> int | None:
    try:
        return ingest_lag(settings)
    except CounterfoilError:
        return None  # the store can still say what it has


def _print(found: Completeness) -> None:
    out = console()
    totals = found.totals
    out.print(
        Text(
            f"{totals['emitted']} emitted = {totals['stored']} stored + {totals['gaps']} given up (gaps) + "
            f"{totals['missing']} missing + {totals['in_flight']} on their way"
        )
    )
    out.print(
        Text(
            f"producers: {totals['open']} open, {totals['closed']} closed, {totals['adopted']} died and were finished "
            f"by another, {totals['silent']} silent",
            style="dim",
        )
    )
    if found.lag is None:
        out.print(Text("no broker answers, so what is missing may yet be ingested", style="yellow"))
    elif found.lag:
        out.print(Text(f"{found.lag} records are not ingested yet; is `counterfoil ingest` running?", style="yellow"))
    if found.tasks:
        out.print(_tasks(found))
    for row in found.silent:
        out.print(
            Text(f"silent since {row['heard_at']:%m-%d %H:%M:%S}: producer {row['producer_id'].hex} of {row['tenant']}")
        )


def _tasks(found: Completeness) -> Table:
    reasons = {(row["tenant"], row["producer_id"], row["gap_task_id"]): row["reason"] for row in found.gaps}
    table = Table(box=None, pad_edge=False)
    for name in ("tenant", "task", "producer", "stored", "missing", "given up", "why"):
        table.add_column(name, overflow="fold")
    for row in found.tasks:
        table.add_row(*(Text(cell) for cell in _cells(row, reasons)))
    return table


def _cells(row: Any, reasons: Any) -> list[str]:
    missing = f"{row['missing']} {row['missing_ranges']}" if row["missing"] else "0"
    where = "on their way" if row["in_flight"] else "the tail" if row["is_tail_missing"] else "a hole"
    return [
        row["tenant"],
        shown(str(row["task"]), 60),
        row["producer_id"].hex[-8:],
        f"{row['stored']} of {row['emitted']}",
        f"{missing} ({where})" if row["missing"] else missing,
        f"{row['gaps']} {row['gap_ranges']}" if row["gaps"] else "0",
        shown(reasons.get((row["tenant"], row["producer_id"], row["task_id"].hex), "") or "", 80),
    ]
