"""`counterfoil offsets list | skip | retire`: where ingest stands, and how it goes on where the log does not."""

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from counterfoil.errors import UsageError
from counterfoil_console.cli.output import AsJson, By, console, open_store, print_json, user_of_this_shell
from counterfoil_console.hostile import shown
from counterfoil_console.offsets import Offsets, Place, read_offsets
from counterfoil_console.offsets import retire as retire_topics
from counterfoil_console.offsets import skip as skip_offsets
from counterfoil_console.settings import load
from counterfoil_console.timeline import plain

_LONGEST_TEXT = 200

Reason = Annotated[str, typer.Option("--reason", help="Why; it stands beside the gap for good.", show_default=False)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    group = typer.Typer(
        help="Offsets: where ingest stands in the log, and how it goes on where the log does not.",
        no_args_is_help=True,
    )
    group.command("list")(list_offsets)
    group.command("skip")(skip)
    group.command("retire")(retire)
    app.add_typer(group, name="offsets")


def list_offsets(as_json: AsJson = False) -> None:
    """List each partition's stored offset beside where the log begins and ends, and the gaps on record.

    Exit code 0 says that ingest can go on, 1 that it stops: the log begins behind a stored offset or ends before it,
    or the topic was made anew.

    Example: counterfoil offsets list --json
    """
    settings = load()
    with open_store(settings) as store:
        found = read_offsets(settings, store)
    if as_json:
        print_json(
            {
                "can_go_on": _can_go_on(found),
                "partitions": [_as_json(place) for place in found.places],
                "former_topics": list(found.others),
                "gaps": [plain(gap) for gap in found.gaps],
            }
        )
    else:
        _print(found)
    if not _can_go_on(found):
        raise typer.Exit(1)


def skip(
    reason: Reason,
    partition: Annotated[
        list[int] | None, typer.Option("--partition", min=0, help="Only this one; may be given again.")
    ] = None,
    by: By = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Put on record that retention removed records before they were ingested, and go on where the log begins.

    Nothing else is skipped: partitions that lost nothing stay where they are.

    Example: counterfoil offsets skip --reason "ingest was down for nine days, retention is seven"
    """
    settings, person = load(), by or user_of_this_shell()
    with open_store(settings) as store:
        found = read_offsets(settings, store)
        _refuse_unknown(partition or (), found)
        chosen = [place for place in found.places if place.lost and (not partition or place.partition in partition)]
        lost = {place.partition: place.lost for place in chosen}
        if not dry_run:
            lost = skip_offsets(store, found, list(lost), reason, person)
    if as_json:
        print_json({"skipped": lost, "dry_run": dry_run})
    elif not lost:
        typer.echo("nothing was lost: no partition begins behind its stored offset")
    else:
        would = "would be" if dry_run else "are"
        each = ", ".join(f"{count} of partition {number}" for number, count in lost.items())
        typer.echo(f"{sum(lost.values())} records {would} on record as lost ({each}); start ingest again")


def retire(reason: Reason, by: By = None, dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Go on with a topic that was deleted and made anew; what the former one still held is on record as lost.

    Example: counterfoil offsets retire --reason "the test cluster was set up again"
    """
    settings, person = load(), by or user_of_this_shell()
    with open_store(settings) as store:
        found = read_offsets(settings, store)
        partitions = 0 if dry_run else retire_topics(store, found, reason, person)
    if as_json:
        print_json({"former_topics": list(found.others), "partitions": partitions, "dry_run": dry_run})
    elif not found.others:
        typer.echo(f"there is nothing to retire: {found.where['topic']} is the topic that was ingested all along")
    elif dry_run:
        typer.echo(f"would be retired: {', '.join(found.others)}, in favour of {found.where['topic_id']}")
    else:
        typer.echo(
            f"{', '.join(found.others)} is retired, {partitions} partitions in all; ingest goes on with "
            f"{found.where['topic_id']}"
        )


def _refuse_unknown(asked: list[int] | tuple[()], found: Offsets) -> None:
    unknown = [number for number in asked if number >= len(found.places)]
    if unknown:
        raise UsageError(f"there is no partition {unknown[0]}: {found.where['topic']} has {len(found.places)}")


def _can_go_on(found: Offsets) -> bool:
    return not found.others and not any(place.lost or place.beyond for place in found.places)


def _as_json(place: Place) -> dict[str, object]:
    return {
        "partition": place.partition,
        "start": place.start,
        "stored": place.stored,
        "end": place.end,
        "lag": place.lag,
        "lost": place.lost,
        "beyond_end": place.beyond,
        "epoch": place.epoch,
        "owner": place.owner,
    }


def _print(found: Offsets) -> None:
    out = console()
    table = Table(box=None, pad_edge=False)
    for name in ("partition", "log begins", "stored", "log ends", "lag", "owner", ""):
        table.add_column(name, justify="left" if name in ("owner", "") else "right", overflow="fold")
    for place in found.places:
        stored = "never" if place.stored is None else str(place.stored)
        cells = (str(place.partition), str(place.start), stored, str(place.end), str(place.lag))
        table.add_row(*cells, Text(shown(place.owner or "", 60)), Text(_problem(place), style="red"))
    out.print(table)
    for topic_id in found.others:
        out.print(
            Text(
                f"{found.where['topic']} was made anew: {topic_id} was ingested before. If what it still held may be "
                "lost, run `counterfoil offsets retire`",
                style="red",
            )
        )
    for gap in found.gaps:
        end = "its end" if gap["next_offset"] is None else gap["next_offset"]
        out.print(
            Text(
                f"gap: partition {gap['partition']} from {gap['first_offset']} to {end}, accepted "
                f"{gap['accepted_at']:%Y-%m-%d %H:%M} by {shown(gap['accepted_by'], 40)}: "
                f"{shown(gap['reason'], _LONGEST_TEXT)}",
                style="dim",
            )
        )


def _problem(place: Place) -> str:
    if place.lost:
        return f"{place.lost} were removed before they were ingested: `counterfoil offsets skip`"
    if place.beyond:
        return f"the log ends {place.beyond} before what was ingested: restore it, or use another topic_prefix"
    return ""
