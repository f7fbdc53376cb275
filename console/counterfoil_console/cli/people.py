"""`counterfoil timeline | task | history`: what responders and auditors ask."""

from typing import Annotated

import typer

from counterfoil_console.cli.output import AsJson, Tenant, console, open_store, print_json
from counterfoil_console.history import as_json as history_as_json
from counterfoil_console.history import event_id_of, read_history
from counterfoil_console.rendering import print_history, print_timeline
from counterfoil_console.rows import RowName, key_of
from counterfoil_console.settings import Settings, load
from counterfoil_console.task_rendering import print_matrix
from counterfoil_console.tasks import as_json as matrix_as_json
from counterfoil_console.tasks import read_matrix
from counterfoil_console.timeline import as_json as timeline_as_json
from counterfoil_console.timeline import find_task, plain, read_timeline
from counterfoil_reconcilers.contracts import Contracts
from counterfoil_reconcilers.contracts import load as load_contracts


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(timeline)
    app.command()(task)
    app.command()(history)


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


def task(
    name: Annotated[
        str | None, typer.Argument(metavar="TASK", help="Its task_ref, its id, or the first 8 digits of that.")
    ] = None,
    ref: Annotated[str | None, typer.Option("--ref", help="Its task_ref, whatever that looks like.")] = None,
    effects: Annotated[bool, typer.Option("--effects", help="Every write, part by part.")] = False,
    children: Annotated[bool, typer.Option("--children", help="The writes of its child tasks, too.")] = False,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Say how much of a task landed, and what would take back one that is half done. Nothing is called.

    Example: counterfoil task refund-A-17 --effects --children
    """
    if (name is None) == (ref is None):
        raise typer.BadParameter("name the task, or give its --ref")
    settings = load()
    contracts = _contracts_at_hand(settings)
    with open_store(settings) as store:
        found = find_task(store, name or ref or "", tenant, is_ref=name is None)
        matrix = read_matrix(store, found, contracts, children=children)
    if as_json:
        told = matrix_as_json(matrix)
        if not effects:
            del told["writes"]
        print_json({"task": plain(found), **told})
    else:
        print_matrix(console(), found, matrix, effects=effects)


def history(
    target: Annotated[str, typer.Argument(help="The target.")],
    resource: Annotated[str, typer.Argument(help="The resource, as its contract names it.")],
    key: Annotated[str, typer.Argument(help="The row's key; a JSON list of texts, if it has several columns.")],
    limit: Annotated[int, typer.Option("--limit", min=1, max=1_000, help="At most this many, the latest.")] = 200,
    before: Annotated[str | None, typer.Option("--before", help="Only what stands before this event.")] = None,
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Tell what happened to one row of a target: intents, results, verdicts, unexplained changes, and operations.

    Example: counterfoil history shop orders A-17 --limit 50
    """
    row = RowName(target, resource, key_of(key))
    cursor = None if before is None else event_id_of(before)
    with open_store(load()) as store:
        found = read_history(store, row, tenant, before=cursor, limit=limit)
    if as_json:
        print_json(history_as_json(found))
    else:
        print_history(console(), found)


def _contracts_at_hand(settings: Settings) -> Contracts | None:
    """Those that the settings name; None where there are none, as on an auditor's machine.

    Raises ContractError.
    """
    return load_contracts(settings.contracts) if settings.contracts.exists() else None
