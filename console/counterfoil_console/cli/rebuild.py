"""`counterfoil rebuild | fold-unread | digest`: the projections made anew, caught up on, and told apart."""

import time
from collections.abc import Callable
from typing import Annotated, Literal

import typer
from rich.table import Table

from counterfoil.wire_format import framing_of
from counterfoil_console.cli.output import AsJson, console, open_store, print_json
from counterfoil_console.settings import Settings, load
from counterfoil_consumers.digest import Digest, digest
from counterfoil_consumers.rebuild import Rebuild, Rebuilt
from counterfoil_consumers.store import queries, snapshot
from counterfoil_consumers.unread import fold_unread
from counterfoil_schemas import topics

_TELL_EVERY_SECONDS = 2.0


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(rebuild)
    app.command("fold-unread")(fold)
    app.command("digest")(show_digest)


def rebuild(
    origin: Annotated[
        Literal["both", "log", "store"],
        typer.Option("--from", help="both: from the log, and from the stored bytes where the log has them no more."),
    ] = "both",
    compare: Annotated[
        bool, typer.Option("--compare", help="Swap nothing: say whether the live projections are what the log says.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make event, task, effect and all that is folded anew, beside the live ones, and put them in their place.

    Ingest goes on meanwhile; it waits for about a second while both are swapped. Dead letters, offsets and everything
    else that is not in the log stay as they are. Cut short, it goes on where it was. COUNTERFOIL_STORE__DSN must log in
    as the role that migrates. With --compare, exit code 1 says that they differ.

    Example: counterfoil rebuild --compare
    """
    settings = load()
    with open_store(settings):
        pass
    say = _now_and_then()
    work = new_rebuild(settings, origin, lambda done, total: say(f"rebuilt {done:,} of at most {total:,} events", done))
    done = work.compare() if compare else work.run()
    if as_json:
        print_json(_as_json(done))
    else:
        _print(done)
    if done.live != done.rebuilt:
        raise typer.Exit(1)


def fold(as_json: AsJson = False) -> None:
    """Read the events that an older version kept unread, and fold them: run it when all of ingest is upgraded.

    COUNTERFOIL_STORE__DSN must log in as the role that migrates. What this version does not know either stays unread.

    Example: counterfoil fold-unread
    """
    settings = load()
    with open_store(settings):
        pass
    say = _now_and_then()
    done = fold_unread(
        settings.dsn, framing_of(settings), lambda seen: say(f"looked at {seen:,} events that were kept unread", seen)
    )
    if as_json:
        print_json({"read": done.read, "unread": done.unread})
    else:
        left = f"; {done.unread:,} are of kinds or bodies that this version does not know" if done.unread else ""
        typer.echo(f"{done.read:,} events that were kept unread are read and folded{left}")


def show_digest(as_json: AsJson = False) -> None:
    """Print one digest of the projections, and of each of them, as of the offsets that are printed, too.

    Stores that ingested the same log up to the same offsets have the same digest.

    Example: counterfoil digest --json
    """
    with open_store(load()) as store, snapshot(store):
        offsets = store.execute(queries("digest")["read_stored_offsets"]).fetchall()
        found = digest(store, "counterfoil")
    if as_json:
        print_json({**_digest_as_json(found), "offsets": offsets})
        return
    table = Table(box=None, pad_edge=False)
    for name in ("projection", "rows", "SHA-256"):
        table.add_column(name, justify="right" if name == "rows" else "left", no_wrap=True)
    for name, one in found.tables.items():
        table.add_row(name, f"{one.rows:,}", one.sha256)
    table.add_row("all", "", found.sha256)
    console().print(table)
    typer.echo(f"as of {sum(row['next_offset'] for row in offsets):,} ingested offsets")


def new_rebuild(
    settings: Settings, origin: Literal["both", "log", "store"], tell: Callable[[int, int], None]
) -> Rebuild:
    """A rebuild of the store, as set up."""
    return Rebuild(
        kafka=settings.kafka,
        dsn=settings.dsn,
        topic=topics(settings.profile, settings.topic_prefix)["events"],
        framing=framing_of(settings),
        origin=origin,
        tell=tell,
    )


def _now_and_then() -> Callable[[str, int], None]:
    """Says on stderr how far it has come, where the last time is a while ago: a sentence, and of how many it tells."""
    begun = said = time.monotonic()

    def tell(sentence: str, done: int) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said >= _TELL_EVERY_SECONDS:
            said = now
            typer.echo(f"{sentence}, {done / (now - begun):,.0f} a second", err=True)

    return tell


def _digest_as_json(found: Digest) -> dict[str, object]:
    tables = {name: {"rows": one.rows, "sha256": one.sha256} for name, one in found.tables.items()}
    return {"sha256": found.sha256, "projections": tables}


def _as_json(done: Rebuilt) -> dict[str, object]:
    told: dict[str, object] = {"from_store": done.from_store, "from_log": done.from_log}
    if done.live is None or done.rebuilt is None:
        return {**told, "swapped": True}
    digests = {"live": _digest_as_json(done.live), "rebuilt": _digest_as_json(done.rebuilt)}
    return {**told, "swapped": False, "differing": done.live.differing(done.rebuilt), **digests}


def _print(done: Rebuilt) -> None:
    where = f"{done.from_log:,} events from the log, {done.from_store:,} from the stored bytes"
    if done.live is None or done.rebuilt is None:
        typer.echo(f"the projections are rebuilt and swapped: {where}")
        return
    differing = done.live.differing(done.rebuilt)
    if not differing:
        typer.echo(f"the live projections are what the log says, {done.live.sha256}: {where}; nothing was swapped")
        return
    typer.echo(f"the live projections differ from what the log says: {where}; nothing was swapped")
    for name in differing:
        live, rebuilt = done.live.tables[name], done.rebuilt.tables[name]
        typer.echo(f"  {name}: {live.rows:,} rows are {live.sha256}, {rebuilt.rows:,} rebuilt ones {rebuilt.sha256}")
