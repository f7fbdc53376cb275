"""`counterfoil drift`, and `drift ack | resolve`: what does not match, and what people decide on it."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.text import Text

from counterfoil.event import Event
from counterfoil.signing import signing_keys_of
from counterfoil_console.cli.output import (
    AsJson,
    By,
    Tenant,
    console,
    open_store,
    print_json,
    user_of_this_shell,
)
from counterfoil_console.hostile import shown
from counterfoil_console.operations import Decision, Operation, OperationDesk, Repaired, decisions_on, refuse_unsigned
from counterfoil_console.rendering import drift_table
from counterfoil_console.rows import key_of
from counterfoil_console.settings import Settings, load
from counterfoil_console.timeline import plain
from counterfoil_consumers.store import fetch_one, queries

_LONGEST_TEXT = 200

Ids = Annotated[
    list[str], typer.Argument(metavar="ID", help="Ids that `counterfoil drift` shows, or their first digits.")
]
Reason = Annotated[str, typer.Option("--reason", help="Why; it stands beside the drift for good.", show_default=False)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what it would be about, and change nothing.")]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    group = typer.Typer(invoke_without_command=True, no_args_is_help=False)
    group.callback()(drift)
    group.command("ack")(ack)
    group.command("resolve")(resolve)
    app.add_typer(group, name="drift")


def drift(
    context: typer.Context,
    tenant: Tenant = None,
    target: Annotated[str | None, typer.Option("--target", help="Only this target.")] = None,
    verdict: Annotated[str | None, typer.Option("--verdict", help="Only this verdict, such as not_applied.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1_000_000, help="At most this many.")] = 200,
    as_json: AsJson = False,
) -> None:
    """List what does not match: the agent said one thing, the target another.

    `ack` and `resolve` say what somebody decided on it.

    Example: counterfoil drift --target shop --json
    """
    if context.invoked_subcommand is not None:
        if tenant or target or verdict or as_json:
            raise typer.BadParameter(f"options of {context.invoked_subcommand} stand behind it")
        return
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
    seen = sum(row["acked_at"] is not None for row in rows)
    acknowledged = f" ({seen} acknowledged)" if seen else ""
    out.print(
        Text(
            f"\n{len(rows)} in drift{acknowledged}; {coverage['judged']} writes judged, {coverage['open']} still open, "
            f"{coverage['uncovered']} name no target, {coverage['unknowable']} unknowable",
            style="dim",
        )
    )


def ack(
    ids: Ids, reason: Reason, by: By = None, tenant: Tenant = None, dry_run: DryRun = False, as_json: AsJson = False
) -> None:
    """Say that somebody has seen it. It stays drift, is listed as acknowledged, and raises no alert any more.

    Example: counterfoil drift ack 0f3a9c21 --reason "we look into it, ticket 118"
    """
    _decide(load(), "acknowledge", ids, tenant, by, reason, None, dry_run=dry_run, as_json=as_json)


def resolve(
    ids: Ids,
    reason: Reason,
    repaired: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--repaired",
            metavar="RESOURCE KEY",
            help="The row that was repaired by hand before: what checks found there until now is explained.",
        ),
    ] = None,
    by: By = None,
    tenant: Tenant = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Say that it is settled: repaired by hand, accepted, refunded. It is drift no more, until a later verdict.

    Example: counterfoil drift resolve 0f3a9c21 --reason "refunded by hand" --repaired refunds 17
    """
    row = None if repaired is None else Repaired(repaired[0], key_of(repaired[1]))
    _decide(load(), "resolve", ids, tenant, by, reason, row, dry_run=dry_run, as_json=as_json)


def _decide(
    settings: Settings,
    operation: Operation,
    ids: Sequence[str],
    tenant: str | None,
    by: str | None,
    reason: str,
    repaired: Repaired | None,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """All of the ids are found before anything is said of one."""
    person = user_of_this_shell() if by is None else by
    with open_store(settings) as store:
        decisions = decisions_on(store, operation, ids, tenant, person, reason, repaired)
        refuse_unsigned(store, signing_keys_of(settings), (one.about["tenant"] for one in decisions))
    desk = None if dry_run else OperationDesk(settings)
    told = []
    for decision in decisions:
        event = None if desk is None else desk.say(decision)
        told.append(_as_json(decision, event))
        if not as_json:
            console().print(_sentence(decision, is_said=event is not None))
    if as_json:
        print_json(told)


def _sentence(decision: Decision, *, is_said: bool) -> Text:
    about, row = decision.about, decision.repaired
    verb = {"acknowledge": "acknowledged", "resolve": "resolved"}[decision.operation]
    text = Text(about["drift_id"].hex, style="dim")
    text.append(f" {'' if is_said else 'would be '}{verb}", style="bold not dim")
    what = (
        f": {about['target']} says {about['verdict']} (tenant {about['tenant']}), by {decision.by}: {decision.reason}"
    )
    text.append(shown(what, 3 * _LONGEST_TEXT), style="not dim")
    if row is not None:
        repaired = f"what checks found in {row.resource} {row.key} until now is explained"
        text.append(f"\n  {shown(repaired, 2 * _LONGEST_TEXT)}", style="not dim")
    return text


def _as_json(decision: Decision, event: Event | None) -> Mapping[str, Any]:
    row = decision.repaired
    return {
        **plain({name: decision.about[name] for name in ("drift_id", "tenant", "target", "outcome", "verdict")}),
        "operation": decision.operation,
        "by": decision.by,
        "reason": decision.reason,
        "repaired": None if row is None else {"resource": row.resource, "key": row.key},
        "event_id": None if event is None else event.event_id.hex(),
    }
