"""`counterfoil blob`: the text that a claim check in an event stands for."""

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from counterfoil.blobs import BlobReader, Claim
from counterfoil.errors import UsageError
from counterfoil_console.settings import load

_SHA256 = re.compile("[0-9a-f]{64}")


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(blob)


def blob(
    sha256: Annotated[str, typer.Argument(help="The digest in the event's claim check: 64 hex digits.")],
    tenant: Annotated[str | None, typer.Option("--tenant", help="Whose text; COUNTERFOIL_TENANT if not given.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Write it to this file, which must not exist.")] = None,
) -> None:
    """Print a text that was too large for its event, as its bytes are; its digest was checked.

    Example: counterfoil blob 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 --out args.json
    """
    settings = load()
    owner = tenant or settings.tenant
    if owner is None:
        raise UsageError("whose text? pass --tenant or set COUNTERFOIL_TENANT")
    if _SHA256.fullmatch(sha256) is None:
        raise UsageError(f"{sha256[:80]!r} is no digest: 64 hex digits are")
    content = BlobReader.from_settings(settings).open(owner, Claim(sha256, 0, ""))
    if out is None and sys.stdout.isatty():
        raise UsageError("the text may hold anything, and would act in a terminal: pass --out FILE, or pipe it on")
    if out is None:
        sys.stdout.buffer.write(content)
        return
    try:
        with out.open("xb") as file:
            file.write(content)
    except OSError as error:
        raise UsageError(f"{out} can't be written: {error.strerror}") from error
    typer.echo(f"{len(content)} bytes written to {out}")
