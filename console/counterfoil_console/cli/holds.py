"""`counterfoil hold add | list | release`: what must stay, whatever its policy says."""

import datetime as dt
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from counterfoil_console.cli.output import AsJson, By, Tenant, console, open_store, print_json, user_of_this_shell
from counterfoil_console.hostile import shown
from counterfoil_console.settings import load
from counterfoil_console.timeline import find_task, plain
from counterfoil_consumers.retention import PATIENCE, Scope, place_hold, release_hold
from counterfoil_consumers.store import queries

_LONGEST_TEXT = 200
_FORMATS = ["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S"]

Reason = Annotated[str, typer.Option("--reason", help="Why; it stands beside the hold for good.", show_default=False)]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    group = typer.Typer(help="Legal holds: what must stay, whatever its policy says.", no_args_is_help=True)
    group.command("add")(add)
    group.command("list")(list_holds)
    group.command("release")(release)
    app.add_typer(group, name="hold")


def add(
    tenant: Annotated[str, typer.Option("--tenant", help="Whose events; all of them, if nothing else is given.")],
    reason: Reason,
    workflow: Annotated[str | None, typer.Option("--workflow", help="Only those of this workflow.")] = None,
    agent: Annotated[str | None, typer.Option("--agent", help="Only those of this agent.")] = None,
    task: Annotated[
        str | None, typer.Option("--task", help="Only those of this task: task_ref, id or 8 digits.")
    ] = None,
    subject: Annotated[str | None, typer.Option("--subject", help="Only those about this ticket or order.")] = None,
    from_at: Annotated[
        dt.datetime | None, typer.Option("--from", formats=_FORMATS, help="Only those of this moment (UTC) or later.")
    ] = None,
    until_at: Annotated[
        dt.datetime | None, typer.Option("--until", formats=_FORMATS, help="Only those before this moment (UTC).")
    ] = None,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Keep the events of a scope until the hold is released; what several options say must all be so.

    Example: counterfoil hold add --tenant acme --subject order-17 --reason "claim 2026/118, counsel asked"
    """
    settings, person = load(), by or user_of_this_shell()
    with open_store(settings, **PATIENCE) as store:
        task_id = find_task(store, task, tenant)["task_id"] if task else None
        scope = Scope(tenant, workflow, agent, task_id, subject, _utc(from_at), _utc(until_at))
        hold_id = place_hold(store, scope, reason, person)
    if as_json:
        print_json({"hold_id": hold_id})
    else:
        typer.echo(f"hold {hold_id} stands; let it go with `counterfoil hold release {hold_id}`")


def list_holds(
    tenant: Tenant = None,
    everything: Annotated[bool, typer.Option("--all", help="Those that were released, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the holds: what each covers, who placed it and why, and how many events it alone or with others keeps.

    Example: counterfoil hold list --all --json
    """
    with open_store(load()) as store:
        params = {"tenant": tenant, "everything": everything}
        rows = store.execute(queries("retention")["list_holds"], params).fetchall()
    if as_json:
        print_json([plain(row) for row in rows])
        return
    table = Table(box=None, pad_edge=False)
    for name in ("hold", "covers", "past their time", "placed", "why"):
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(shown(cell, _LONGEST_TEXT)) for cell in _cells(row)))
    console().print(table if rows else Text("nothing is held", style="dim"))


def release(
    hold_id: Annotated[int, typer.Argument(metavar="HOLD", help="Its number, as `counterfoil hold list` shows it.")],
    reason: Reason,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Let go of what a hold covered; the next run of retention drops what is past its time and under no other hold.

    Example: counterfoil hold release 7 --reason "claim 2026/118 is settled"
    """
    settings, person = load(), by or user_of_this_shell()
    with open_store(settings, **PATIENCE) as store:
        release_hold(store, hold_id, reason, person)
    if as_json:
        print_json({"released": hold_id})
    else:
        typer.echo(f"hold {hold_id} is released")


def _utc(moment: dt.datetime | None) -> dt.datetime | None:
    return moment.replace(tzinfo=dt.UTC) if moment is not None else None


def _cells(row: Mapping[str, Any]) -> Iterator[str]:
    yield str(row["hold_id"])
    yield ", ".join(_scope(row))
    yield str(row["held"])
    yield f"{row['placed_at']:%Y-%m-%d} by {row['placed_by']}"
    released = ""
    if row["released_at"] is not None:
        released = f"; released {row['released_at']:%Y-%m-%d} by {row['released_by']}: {row['release_reason']}"
    yield f"{row['reason']}{released}"


def _scope(row: Mapping[str, Any]) -> Iterator[str]:
    for word, name in (("tenant", "tenant"), ("workflow", "workflow"), ("agent", "agent"), ("about", "subject_ref")):
        if row[name] is not None:
            yield f"{word} {row[name]}"
    if row["task_id"] is not None:
        yield f"task {row['task_id'].hex}"
    for word, name in (("from", "from_at"), ("until", "until_at")):
        if row[name] is not None:
            yield f"{word} {row[name]:%Y-%m-%d %H:%M}"
