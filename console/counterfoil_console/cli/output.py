"""What all commands share in what they print."""

import json
import sys
from contextlib import closing
from typing import Annotated, Any

import typer
from rich.console import Console

from counterfoil_console.settings import Settings
from counterfoil_consumers.store import Connection, connect

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Tenant = Annotated[str | None, typer.Option("--tenant", help="Only this tenant.")]


def console() -> Console:
    """A console on stdout; wide enough when it is no terminal."""
    return Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else 180)


def print_json(value: Any) -> None:
    """JSON on stdout, for a program to read."""
    typer.echo(json.dumps(value, ensure_ascii=True, indent=2, default=str))


def open_store(settings: Settings) -> "closing[Connection]":
    """A connection that reads as operator, closed with the block."""
    return closing(connect(settings.dsn, "operator", application="console"))
