"""`counterfoil contracts check | coverage | test | draft`: what people who write contracts need to know of them."""

import datetime as dt
import json
from pathlib import Path
from typing import Annotated, Any

import psycopg
import typer
from rich.table import Table
from rich.text import Text

from counterfoil.blobs import BlobReader
from counterfoil.errors import CounterfoilError, UsageError
from counterfoil.redaction import Redaction
from counterfoil_console import contract_coverage, contract_trial
from counterfoil_console.cli.output import AsJson, Tenant, console, duration, open_store, print_json
from counterfoil_console.contract_check import Finding, compare_with_store, examine_files, examine_targets
from counterfoil_console.contract_coverage import Coverage, Covered, read_coverage
from counterfoil_console.drafts.leaves import many
from counterfoil_console.drafts.mcp import draft_of as draft_of_mcp
from counterfoil_console.drafts.model import Draft
from counterfoil_console.drafts.openapi import draft_of as draft_of_openapi
from counterfoil_console.drafts.sampling import Sources
from counterfoil_console.drafts.sources import read_json, read_yaml
from counterfoil_console.drafts.writing import text_of
from counterfoil_console.hostile import shown
from counterfoil_console.settings import Settings, load
from counterfoil_consumers.store import Connection, queries
from counterfoil_reconcilers.contracts import Contracts
from counterfoil_reconcilers.contracts import load as load_contracts

_READ_ONLY = {"default_transaction_read_only": "on", "statement_timeout": "120s"}  # of large stores all is counted
_MARKS = {"bad": ("BAD", "bold red"), "warning": ("warn", "yellow")}
_MOST_REASONS = 3
_LONGEST_REASON = 160

ContractsPath = Annotated[
    Path | None, typer.Argument(help="A file, or a folder of *.toml; COUNTERFOIL_CONTRACTS if not given.")
]
OUTCOMES = ("ok", "accepted", "failed", "unknown", "partial", "denied")


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    contracts = typer.Typer(
        help="Contracts: are they right, what do they cover, what would they say.", no_args_is_help=True
    )
    contracts.command("check")(check)
    contracts.command("coverage")(coverage)
    contracts.command("test")(try_effect)
    contracts.command("draft")(draft)
    app.add_typer(contracts, name="contracts")


def check(
    path: ContractsPath = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Read the files alone; ask no target and no store.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say everything that is wrong with contracts, with file and line; exit code 1 if something is.

    Asks each target whether it has what the contracts name, and warns of arguments that no recorded write has, such as
    a misspelt args.oder. The store may be away; a target may not.

    Example: counterfoil contracts check contracts.toml --offline
    """
    settings = load()
    contracts, findings = examine_files(path or settings.contracts)
    notes = []
    if contracts is not None and not offline:
        findings += examine_targets(contracts, settings)
        try:
            with open_store(settings, **_READ_ONLY) as store:
                findings += compare_with_store(contracts, store)
        except (CounterfoilError, psycopg.Error) as error:
            first = str(error).strip().split("\n")[0]
            notes.append(f"not compared with what was recorded: {first}")
    is_bad = any(finding.grade == "bad" for finding in findings)
    if as_json:
        print_json({"good": not is_bad, "findings": [vars(finding) for finding in findings], "notes": notes})
    else:
        _print_findings(findings, contracts, notes)
    if is_bad:
        raise typer.Exit(1)


def coverage(
    tenant: Tenant = None,
    since: Annotated[
        str | None,
        typer.Option("--since", help="Only writes heard of in the last 30m, 24h, 7d, or from 2026-01-31 on."),
    ] = None,
    at_least: Annotated[
        float | None,
        typer.Option("--at-least", min=0, max=1, help="Exit code 1 if the share is below this, from 0 to 1."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show which share of the writes the contracts could judge: by tool and target, the least covered first.

    Covered is a write with a verdict other than unknowable. What is still settling, has no contract or names no target
    is not.

    Example: counterfoil contracts coverage --since 7d --at-least 0.95
    """
    settings = load()
    if at_least is not None and not 0 <= at_least <= 1:
        raise UsageError("the share that --at-least asks for is a number from 0 to 1")
    moment = None if since is None else _moment(since)
    contracts = load_contracts(settings.contracts) if settings.contracts.exists() else None
    with open_store(settings, **_READ_ONLY) as store:
        found = read_coverage(store, contracts, tenant, moment)
    if as_json:
        print_json(contract_coverage.as_json(found))
    else:
        _print_coverage(found, None if contracts else settings.contracts)
    if at_least is None:
        return
    if found.share is None:
        raise CounterfoilError("no live write was seen, so no share can be told; is `counterfoil ingest` running?")
    if found.share < at_least:
        raise CounterfoilError(
            f"{_percent(found.share)} of the writes are covered, and {_percent(at_least)} are asked for; "
            "write contracts for the first tools of the list"
        )


def try_effect(
    effect: Annotated[str | None, typer.Option("--effect", help="Its id, or the first 8 digits of that.")] = None,
    tool: Annotated[
        str | None, typer.Option("--tool", help="Instead of --effect: a call of this tool, made up.")
    ] = None,
    args: Annotated[Path | None, typer.Option("--args", help="With --tool: a JSON file with its arguments.")] = None,
    result: Annotated[Path | None, typer.Option("--result", help="With --tool: a JSON file with its reply.")] = None,
    outcome: Annotated[str, typer.Option("--outcome", help=f"With --tool: {', '.join(OUTCOMES)}.")] = "ok",
    tenant: Tenant = None,
    as_json: AsJson = False,
) -> None:
    """Judge one write now by the contracts on disk, beside all that share rows with it; nothing is written.

    Reads the store and the target, and shows the verdict, each part with both sides, what is left open and why, and the
    verdict in force. One look: a verdict in force has settled besides.

    Example: counterfoil contracts test --effect 5d41402a
    """
    if (effect is None) == (tool is None):
        raise UsageError("say which write: --effect ID, or --tool NAME with --args FILE")
    if effect is not None and (args or result):
        raise UsageError("a recorded write has its own arguments and reply: leave --args and --result out")
    settings = load()
    contracts = load_contracts(settings.contracts)
    with open_store(settings, **_READ_ONLY) as store:
        if effect is not None:
            row = contract_trial.find_effect(store, effect, tenant, contracts)
            with contract_trial.bench_of(settings, store, contracts, row["tenant"], row["target"]) as bench:
                trial = bench.try_effect(row["effect_id"])
        else:
            call = _made_up(str(tool), args, result, outcome, contracts)
            owner = tenant or settings.tenant or _only_tenant(store)
            with contract_trial.bench_of(settings, store, contracts, owner, contracts.tools[call[0]].target) as bench:
                trial = bench.try_call(*call)
    if as_json:
        print_json(contract_trial.as_json(trial, bench))
        return
    for line in contract_trial.lines(trial, bench):
        console().print(Text(shown(line)))


def draft(
    observed: Annotated[
        bool, typer.Option("--observed", help="From recorded writes, held against their target.")
    ] = False,
    openapi: Annotated[
        Path | None, typer.Option("--openapi", help="From an OpenAPI 3 description, JSON or YAML.")
    ] = None,
    mcp: Annotated[
        Path | None, typer.Option("--mcp", help="From the JSON that an MCP server answers to tools/list.")
    ] = None,
    target: Annotated[str | None, typer.Option("--target", help="The target's name, or the only one observed.")] = None,
    tenant: Tenant = None,
    output: Annotated[
        Path | None, typer.Option("--output", help="Write it to this file, which must not exist.")
    ] = None,
) -> None:
    """Propose contracts for tools that have none: a file that loads, in which every guess says what it rests on.

    --observed reads the targets and their resources from COUNTERFOIL_CONTRACTS: declare these first. Nothing is
    written but the draft.

    Example: counterfoil contracts draft --observed --output draft.toml
    """
    if not (observed or openapi or mcp):
        raise UsageError("from what? pass --observed, --openapi FILE or --mcp FILE")
    settings = load()
    known = load_contracts(settings.contracts) if settings.contracts.exists() else None
    made = Draft()
    if observed:
        with open_store(settings, **_READ_ONLY) as store:
            made.add(_observed(settings, store, known, tenant, target))
    if openapi is not None:
        made.add(draft_of_openapi(read_yaml(openapi), target))
    if mcp is not None:
        made.add(draft_of_mcp(read_json(mcp), target or "mcp"))
    made.leave_out(known.tools if known else ())
    text = text_of(made)
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"{output} can't be written: {error.strerror}") from error
    typer.echo(f"{many(len(made.tools), 'tool')} drafted, {len(made.left_out)} left out, in {output}")


def _observed(
    settings: Settings, store: Connection, known: Contracts | None, tenant: str | None, target: str | None
) -> Draft:
    owner = tenant or settings.tenant or _only_tenant(store)
    reached = settings.target_settings(known.targets if known else ())
    blobs = BlobReader.from_settings(settings)
    return Sources(store, known, reached, Redaction(settings), blobs).draft(owner, target)


def _made_up(
    tool: str, args: Path | None, result: Path | None, outcome: str, contracts: Contracts
) -> tuple[str, dict[str, Any], Any, str]:
    if tool not in contracts.tools:
        raise UsageError(f"there is no contract for tool {tool}; there is {', '.join(contracts.tools) or 'none'}")
    if outcome not in OUTCOMES:
        raise UsageError(f"{outcome[:40]!r} is no outcome; write one of {', '.join(OUTCOMES)}")
    given = {} if args is None else _json_in(args)
    if not isinstance(given, dict):
        raise UsageError(f"{args} holds no arguments: write a JSON object of their names and values")
    return tool, given, None if result is None else _json_in(result), outcome


def _json_in(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except OSError as error:
        raise UsageError(f"{file} can't be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file} is no JSON: {error}") from error


def _only_tenant(store: Connection) -> str:
    tenants = [row["tenant"] for row in store.execute(queries("console")["list_tenants"])]
    if len(tenants) != 1:
        raise UsageError("whose writes? pass --tenant or set COUNTERFOIL_TENANT")
    return str(tenants[0])


def _moment(text: str) -> dt.datetime:
    """`7d` ago, or a moment in ISO 8601; without a zone it is UTC."""
    try:
        found = dt.datetime.fromisoformat(text)
    except ValueError:
        length = duration(text)
        try:
            return dt.datetime.now(dt.UTC) - length
        except OverflowError as error:
            raise UsageError(f"{text} ago there was no calendar; leave --since out to count all") from error
    return found if found.tzinfo else found.replace(tzinfo=dt.UTC)


def _print_findings(findings: list[Finding], contracts: Contracts | None, notes: list[str]) -> None:
    out = console()
    table = Table(box=None, show_header=False, pad_edge=False)
    for finding in findings:
        mark, style = _MARKS[finding.grade]
        table.add_row(Text(mark, style=style), Text(shown(finding.what)))
    if findings:
        out.print(table)
    for note in notes:
        out.print(Text(shown(note), style="dim"))
    bad = sum(finding.grade == "bad" for finding in findings)
    if contracts is None or bad:
        out.print(Text(many(bad, "mistake"), style="bold red"))
        return
    warnings = f", {len(findings)} to look at" if findings else ""
    tools = many(len(contracts.tools), "tool")
    out.print(Text(shown(f"version {contracts.version} with {tools}: no mistake{warnings}")))


def _print_coverage(found: Coverage, missing: Path | None) -> None:
    out = console()
    table = Table(box=None, pad_edge=False)
    for column in ("covered", "writes", "tool → target"):
        table.add_column(column, no_wrap=True)
    table.add_column("contract, verdicts, and why unknowable", overflow="fold")
    for one in found.tools:
        where = f"{one.tool} → {one.target or 'no target'}"
        table.add_row(_percent(one.share), str(one.writes), Text(shown(where, 60)), _told(one))
    if found.tools:
        out.print(table)
    if found.never_seen:
        out.print(Text(shown(f"in the contracts, and never seen: {', '.join(found.never_seen)}")))
    if missing is not None:
        out.print(Text(shown(f"{missing} does not exist, so nothing has a contract"), style="yellow"))
    share = "no live write was seen" if found.share is None else f"{_percent(found.share)} covered"
    uncovered = f"; {found.uncovered} name no target" if found.uncovered else ""
    out.print(Text(f"{share}: {found.covered} of {found.writes} writes{uncovered}", style="bold"))


def _told(one: Covered) -> Text:
    told = [f"{count} {verdict}" for verdict, count in one.verdicts.most_common()]
    told += [f"{one.settling} settling"] if one.settling else []
    text = Text(f"{one.contract}{': ' if told else ''}{', '.join(told)}")
    for reason, count in one.reasons.most_common(_MOST_REASONS):
        text.append(f"\n{count}x {shown(reason, _LONGEST_REASON)}", style="dim")
    if len(one.reasons) > _MOST_REASONS:
        text.append(f"\n… and {len(one.reasons) - _MOST_REASONS} reasons more (see --json)", style="dim")
    return text


def _percent(share: float) -> str:
    """Rounded down, so that 100 % is all."""
    return f"{int(share * 1000) / 10:g} %"
