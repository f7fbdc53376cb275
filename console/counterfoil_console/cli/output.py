"""What all commands share in what they print and read."""

import datetime as dt
import getpass
import io
import json
import os
import re
import sys
from contextlib import closing
from typing import Annotated, Any, TextIO, cast

import typer
from rich.console import Console

from counterfoil.errors import UsageError
from counterfoil_console.settings import Settings
from counterfoil_consumers.migrations import refuse_unfit
from counterfoil_consumers.store import Connection, connect

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for a program to read.")]
By = Annotated[str | None, typer.Option("--by", help="Who decides it; the user of this shell if not given.")]
Tenant = Annotated[str | None, typer.Option("--tenant", help="Only this tenant.")]

_PIPED_WIDTH = 120
_DURATION = re.compile(r"(\d{1,6})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_TRAILING_SPACES = re.compile(r"[ ]+(?=\n|\Z)")


class _Trimmed(io.TextIOBase):
    """A text stream without the spaces with which a table fills up its lines."""

    def __init__(self, inner: TextIO) -> None:
        self._inner = inner

    @property
    def encoding(self) -> str:  # type: ignore[override]  # the base declares an attribute
        return self._inner.encoding

    def write(self, text: str) -> int:
        self._inner.write(_TRAILING_SPACES.sub("", text))
        return len(text)

    def flush(self) -> None:
        self._inner.flush()


def user_of_this_shell() -> str:
    """Who a command is run by, where its --by does not say.

    Raises UsageError.
    """
    try:
        return getpass.getuser()
    except (OSError, KeyError) as error:  # a user without a name, as in some containers
        raise UsageError(f"the user {os.getuid()} of this shell has no name; say who you are with --by") from error


def duration_of(text: str) -> dt.timedelta:
    """A length of time such as 30m, 24h or 7d.

    Raises UsageError.
    """
    found = _DURATION.fullmatch(text)
    if found is None:
        raise UsageError(f"{text[:40]!r} is no length of time; write a number and s, m, h or d, such as 24h")
    return dt.timedelta(**{_UNITS[found[2]]: int(found[1])})


def console() -> Console:
    """A console on stdout, as wide as the terminal; piped, as COLUMNS says or 120, without trailing spaces."""
    if sys.stdout.isatty():
        return Console(file=sys.stdout, highlight=False)
    columns = os.environ.get("COLUMNS", "")
    width = int(columns) if columns.isdecimal() and int(columns) else _PIPED_WIDTH
    return Console(file=cast("TextIO", _Trimmed(sys.stdout)), highlight=False, width=width)


def print_json(value: Any) -> None:
    """JSON on stdout, for a program to read; pure ASCII, so that no text in it acts on a terminal."""
    typer.echo(json.dumps(value, ensure_ascii=True, indent=2, default=str))


def open_store(settings: Settings, role: str = "operator", **limits: str) -> "closing[Connection]":
    """A connection in `role` to a store of this version, closed with the block; `limits` such as a `lock_timeout`.

    Raises SettingsError, StoreAway, and StoreError where this version can't work with it.
    """
    connection = connect(settings.dsn, role, application="console", **limits)
    try:
        refuse_unfit(connection)
    except BaseException:
        connection.close()
        raise
    return closing(connection)
