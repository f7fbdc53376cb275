"""`counterfoil redact`: what the policy makes of a text, before any agent runs under it."""

import json
import sys
from typing import Annotated, Any

import typer

from counterfoil.errors import UsageError
from counterfoil.redaction import Redaction
from counterfoil.tokens import tokens_in
from counterfoil_console.cli.output import AsJson, print_json
from counterfoil_console.hostile import shown
from counterfoil_console.settings import load


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(redact)


def redact(
    text: Annotated[str | None, typer.Argument(help="The text; standard input if not given.")] = None,
    tenant: Annotated[
        str | None, typer.Option("--tenant", help="Whose tokens; COUNTERFOIL_TENANT if not given.")
    ] = None,
    tool: Annotated[
        str | None, typer.Option("--tool", help="Take the text for the arguments, as JSON, of a call of this tool.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Print a text as it would be recorded under the redaction policy, and the tokens in it.

    Tokens are the same wherever a tenant's secret stands, so this also tells what to look for in the store.

    Example: echo "password=hunter2" | counterfoil redact --tenant acme
    """
    settings = load()
    owner = tenant or settings.tenant
    if owner is None:
        raise UsageError("whose tokens? pass --tenant or set COUNTERFOIL_TENANT")
    given = sys.stdin.read().removesuffix("\n") if text is None else text
    redactor = Redaction(settings).of_task(owner, settings.workflow)
    if tool is None:
        redacted = redactor.text(given)
    else:
        redacted = redactor.body("tool_intent", {"tool": tool, "args": _arguments(given)})["args"]
    found = [{"kind": one.kind, "token": one.token} for one in tokens_in(redacted)]
    if as_json:
        print_json({"policy": redactor.stamp, "redacted": redacted, "found": found})
        return
    typer.echo(shown(redacted) if sys.stdout.isatty() else redacted)
    if redactor.stamp is None:
        typer.echo("redaction is switched off", err=True)


def _arguments(text: str) -> str:
    try:
        value: Any = json.loads(text)
    except ValueError as error:
        raise UsageError(f"the arguments of a tool are JSON, and this is none: {error}") from error
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
