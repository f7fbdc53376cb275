"""`counterfoil key new | list`: the keys that seal values."""

import datetime as dt
from pathlib import Path
from typing import Annotated

import typer

from counterfoil.errors import SettingsError, UsageError
from counterfoil.ids import is_tenant
from counterfoil.sealing import KeyRing, is_key_id, write_new_key
from counterfoil_console.cli.output import AsJson, print_json
from counterfoil_console.hostile import shown
from counterfoil_console.settings import Settings, load

_DIRECTORY = "no key directory is named: set COUNTERFOIL_KEY_DIRECTORY to where recorders and reconcilers read keys"


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    key = typer.Typer(help="Keys: what seals values that the redaction policy says to seal.", no_args_is_help=True)
    key.command("new")(new)
    key.command("list")(list_keys)
    app.add_typer(key, name="key")


def new(
    tenant: Annotated[str | None, typer.Option("--tenant", help="Whose; COUNTERFOIL_TENANT if not given.")] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", help="Its name, in the order of texts the last one; today's date if not given."),
    ] = None,
) -> None:
    """Make a key for a tenant: 256 random bits, in a file TENANT.NAME that only its owner may read.

    From their next start on, recorders seal with the last key of a tenant; older ones go on opening what they sealed,
    so keep them. Whoever deletes a key has made everything unreadable that it sealed.

    Example: counterfoil key new --tenant acme
    """
    settings = load()
    owner = tenant or settings.tenant
    if owner is None or not is_tenant(owner):
        raise UsageError(f"{owner!r} is no tenant's name; pass --tenant or set COUNTERFOIL_TENANT")
    name = name or f"{dt.datetime.now(dt.UTC):%Y-%m-%d}"
    if not is_key_id(f"{owner}.{name}"):
        raise UsageError(f"{name[:80]!r} is no name of a key: at most 40 letters, digits, - and _ are")
    path = write_new_key(_directory(settings), owner, name)
    typer.echo(f"{path} seals for {owner} from the next start of its recorders on; back it up")


def list_keys(as_json: AsJson = False) -> None:
    """List the keys that there are, and which of them seals.

    Example: counterfoil key list --json
    """
    directory = _directory(load())
    found: dict[str, list[str]] = {}
    for key_id in KeyRing(directory).key_ids():
        found.setdefault(key_id.partition(".")[0], []).append(key_id)
    if as_json:
        print_json([{"tenant": owner, "keys": ids, "seals": ids[-1]} for owner, ids in found.items()])
        return
    if not found:
        typer.echo(f"{directory} holds no key")
    for owner, ids in found.items():
        typer.echo(shown(f"{owner}: {', '.join(ids)} ({ids[-1]} seals)"))


def _directory(settings: Settings) -> Path:
    if settings.key_directory is None:
        raise SettingsError(_DIRECTORY)
    return settings.key_directory
