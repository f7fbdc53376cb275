"""`counterfoil timeline | drift`: what responders and auditors ask."""

from typing import Annotated

import typer
from rich.text import Text

from counterfoil_console.cli.output import AsJson, Tenant, console, open_store, print_json
from counterfoil_console.rendering import drift_table, print_timeline
from counterfoil_console.settings import load
from counterfoil_console.timeline import as_json as timeline_as_json
from counterfoil_console.timeline import plain, read_timeline
from counterfoil_consumers.store import fetch_one, queries


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(timeline)
    app.command()(drift)


def timeline(
    task: Annotated[str, typer.Argument(help="Its task_ref, its id, or the first 8 digits of that.")],
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Replay a task: every event in order, what the agent said, what the target says.

    Example: counterfoil timeline refund-A-17
    """
    with open_store(load()) as store:
        found = read_timeline(store, task, tenant)
    if as_json:
        print_json(timeline_as_json(found))
    else:
        print_timeline(console(), found)


def drift(
    tenant: Tenant = None,
    target: Annotated[str | None, typer.Option("--target", help="Only this target.")] = None,
    verdict: Annotated[str | None, typer.Option("--verdict", help="Only this verdict, such as not_applied.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1_000_000, help="At most this many.")] = 200,
    as_json: AsJson = False,
) -> None:
    """List what does not match: the agent said one thing, the target another.

    Example: counterfoil drift --target shop --json
    """
    with open_store(load()) as store:
        filters = {"tenant": tenant, "target": target, "verdict": verdict, "limit": limit}
        rows = store.execute(queries("console")["drift"], filters).fetchall()
        coverage = fetch_one(store, queries("console")["coverage"], {"tenant": tenant})
    if as_json:
        print_json({"drift": [plain(row) for row in rows], "coverage": coverage})
        return
    out = console()
    if rows:
        out.print(drift_table(rows))
    out.print(
        Text(
            f"\n{len(rows)} in drift; {coverage['judged']} writes judged, {coverage['open']} still open, "
            f"{coverage['uncovered']} name no target, {coverage['unknowable']} unknowable",
            style="dim",
        )
    )
