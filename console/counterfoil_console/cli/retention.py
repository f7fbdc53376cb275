"""`counterfoil retention list | set | run`: how long events stay, and what drops them."""

import datetime as dt
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from counterfoil.errors import UsageError
from counterfoil_console.cli.output import AsJson, By, console, open_store, print_json, user_of_this_shell
from counterfoil_console.cli.services import monitored, stopping_on_signals
from counterfoil_console.hostile import shown
from counterfoil_console.logs import set_up_logs
from counterfoil_console.monitoring import Heart
from counterfoil_console.retention import Overview, read_overview, run_every
from counterfoil_console.settings import load
from counterfoil_console.timeline import plain
from counterfoil_consumers.retention import LIMITS, LONGEST_PASS, PATIENCE, Dropped, set_rule
from counterfoil_consumers.retention import run as run_once

_LONGEST_TEXT = 200

Reason = Annotated[str, typer.Option("--reason", help="Why; it stands beside the rule for good.", show_default=False)]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    group = typer.Typer(help="Retention: how long events stay, and what drops them.", no_args_is_help=True)
    group.command("list")(list_retention)
    group.command("set")(set_retention)
    group.command("run")(run)
    app.add_typer(group, name="retention")


def list_retention(as_json: AsJson = False) -> None:
    """List how long each class stays, its partitions, what is astray or held, and what was dropped lately.

    Example: counterfoil retention list --json
    """
    with open_store(load()) as store:
        found = read_overview(store)
    if as_json:
        print_json(_as_json(found))
    else:
        _print(console(), found)


def set_retention(
    retention_class: Annotated[str, typer.Argument(metavar="CLASS", help="The class, as producers name it.")],
    reason: Reason,
    keep_months: Annotated[
        int | None, typer.Option("--keep-months", min=1, max=1200, help="Keep each event this long, whole months.")
    ] = None,
    for_ever: Annotated[bool, typer.Option("--for-ever", help="Keep them all.")] = False,
    is_short: Annotated[
        bool, typer.Option("--less-than-six-months", help="Say that fewer than six months are meant.")
    ] = False,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Say how long the events of a class stay, counted from when the brokers took them.

    A class without a rule has no partitions: its events go astray, are kept and counted. Within an hour of its first
    rule ingest makes them.

    Example: counterfoil retention set standard --keep-months 24 --reason "two years, agreed with counsel"
    """
    if (keep_months is None) is not for_ever:
        raise UsageError("say either --keep-months or --for-ever")
    settings, person = load(), by or user_of_this_shell()
    with open_store(settings, **PATIENCE) as store:
        set_rule(store, retention_class, keep_months, reason, person, is_short)
    if as_json:
        print_json({"retention_class": retention_class, "keep_months": keep_months})
    else:
        typer.echo(f"{retention_class} is kept {_kept(keep_months)}")


def run(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be dropped, and drop nothing.")] = False,
    every_hours: Annotated[
        float | None, typer.Option("--every-hours", min=0.001, max=168, help="Run now and then again each time.")
    ] = None,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Make the partitions of the months to come, and drop those that are past their time and under no hold.

    The store's user must be one that may act as counterfoil_eraser. With --every-hours it is a service, and /metrics,
    /livez and /readyz listen on COUNTERFOIL_METRICS_PORT.

    Example: counterfoil retention run --dry-run
    """
    if every_hours is not None and (dry_run or as_json):
        raise UsageError("--every-hours goes with neither --dry-run nor --json: a service prints log lines")
    person = by or user_of_this_shell()
    if every_hours is not None:
        _serve(dt.timedelta(hours=every_hours), person)
        return
    settings = load()
    set_up_logs(settings.log_format, logging.WARNING)
    with open_store(settings, "eraser", **LIMITS) as eraser:
        done = run_once(eraser, person, is_rehearsal=dry_run)
    if as_json:
        print_json({"dry_run": dry_run, "done": [asdict(dropped) for dropped in done]})
    else:
        _say(done)


def _serve(interval: dt.timedelta, by: str) -> None:
    settings = load()
    set_up_logs(settings.log_format, logging.INFO)
    with open_store(settings, "eraser"):
        pass
    heart = Heart((interval + LONGEST_PASS).total_seconds())
    with stopping_on_signals() as stopping, monitored(settings, heart):
        run_every(interval, settings.dsn, by, stopping, heart.beat)


def _say(done: Sequence[Dropped]) -> None:
    for one in done:
        held = f", {one.held} of them held" if one.held else ""
        typer.echo(f"{one.relation} ({shown(one.retention_class, 40)}): {one.outcome}, {one.events} events{held}")
    if not done:
        typer.echo("nothing is past its time")


def _kept(months: int | None) -> str:
    return "for ever" if months is None else f"for {months} months"


def _as_json(found: Overview) -> dict[str, object]:
    return {
        "classes": [
            {**plain(rule), "leaves": [plain(leaf) for leaf in found.leaves_of(rule["retention_class"])]}
            for rule in found.rules
        ],
        "astray": [plain(row) for row in found.set_apart if row["relation"] == "event_astray"],
        "held": [plain(row) for row in found.set_apart if row["relation"] == "event_held"],
        "dropped": [plain(row) for row in found.drops],
    }


def _print(out: Console, found: Overview) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("class", "kept", "partitions", "due", "since", "why"):
        table.add_column(name, overflow="fold")
    for rule in found.rules:
        leaves = found.leaves_of(rule["retention_class"])
        span = f"{leaves[0]['starts_at']:%Y-%m} to {leaves[-1]['starts_at']:%Y-%m}" if leaves else "none yet"
        due = str(sum(leaf["is_due"] for leaf in leaves))
        since = f"{rule['changed_at']:%Y-%m-%d} by {rule['changed_by']}"
        cells = (rule["retention_class"], _kept(rule["keep_months"]), span, due, since, rule["reason"])
        table.add_row(*(Text(shown(cell, _LONGEST_TEXT)) for cell in cells))
    out.print(table)
    _print_set_apart(out, found.set_apart)
    for drop in found.drops:
        held = f", {drop['held']} of them held" if drop["held"] else ""
        what = f"{drop['dropped_at']:%Y-%m-%d %H:%M} dropped {drop['relation']} ({drop['retention_class']})"
        told = f"{what}: {drop['events']} events{held}, kept {_kept(drop['keep_months'])}, by {drop['dropped_by']}"
        out.print(Text(shown(told, _LONGEST_TEXT), style="dim"))


def _print_set_apart(out: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    held = sum(row["events"] for row in rows if row["relation"] == "event_held")
    reasons: Counter[str] = Counter()
    for row in rows:
        if row["relation"] == "event_astray":
            reasons[row["reason"]] += row["events"]
            if row["reason"] == "no such class":
                name = shown(row["retention_class"], 60)
                out.print(Text(f"{row['events']} events name the class {name}, which had no rule", style="yellow"))
    astray = ", ".join(f"{events} {reason}" for reason, events in sorted(reasons.items())) or "none"
    out.print(Text(f"astray: {astray}; held past their time: {held}", style="dim"))
