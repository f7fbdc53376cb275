"""`counterfoil token create | list | revoke`: by what a tenant's agents are let in over HTTP."""

import datetime as dt
from typing import Annotated

import typer

from counterfoil.errors import UsageError
from counterfoil_console import tokens
from counterfoil_console.cli.output import (
    AsJson,
    By,
    Tenant,
    duration,
    open_store,
    print_json,
    user_of_this_shell,
)
from counterfoil_console.hostile import shown
from counterfoil_console.settings import load
from counterfoil_consumers.store import queries

_LONGEST = dt.timedelta(days=3660)


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    token = typer.Typer(help="Tokens: by what a tenant's agents are let in over HTTP.", no_args_is_help=True)
    token.command("create")(create)
    token.command("list")(list_tokens)
    token.command("revoke")(revoke)
    app.add_typer(token, name="token")


def create(
    tenant: Annotated[str, typer.Option("--tenant", help="Whose agents it lets in.")],
    expires: Annotated[str, typer.Option("--expires", help="How long it is good for, such as 12h or 90d.")] = "90d",
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Make a token for a tenant's agents, and print it this once; the store keeps only its hash.

    Agents take it from COUNTERFOIL_CONSOLE__TOKEN, or a file that COUNTERFOIL_CONSOLE__TOKEN_FILE names.

    Example: counterfoil token create --tenant acme --expires 90d > acme.token
    """
    lasts = duration(expires)
    if not dt.timedelta(0) < lasts <= _LONGEST:
        raise UsageError(f"a token lasts from 1s to {_LONGEST.days}d, and not {expires}")
    with open_store(load()) as store:
        made = tokens.create(store, tenant, lasts, by or user_of_this_shell())
    if made is None:
        raise UsageError(f"there is no tenant {tenant!r}; see `counterfoil tenant list`")
    text, row = made
    if as_json:
        print_json(row | {"token": text})
        return
    typer.echo(text)
    typer.echo(
        f"token {row['token_id']} of {row['tenant']} is good until {row['expires_at']:%Y-%m-%d %H:%M} UTC. It is shown "
        "this once: give it to the agents, in COUNTERFOIL_CONSOLE__TOKEN or a file that "
        "COUNTERFOIL_CONSOLE__TOKEN_FILE names",
        err=True,
    )


def list_tokens(tenant: Tenant = None, as_json: AsJson = False) -> None:
    """List the tokens: whose they are, until when, and when they were last used (to the hour).

    Example: counterfoil token list --tenant acme
    """
    with open_store(load()) as store:
        rows = store.execute(queries("http")["list_tokens"], {"tenant": tenant}).fetchall()
    if as_json:
        print_json(rows)
        return
    for row in rows:
        used = f"last used {row['last_used_at']:%Y-%m-%d %H}h" if row["last_used_at"] else "never used"
        typer.echo(
            shown(
                f"{row['token_id']}  {row['tenant']}  {row['state']}, until {row['expires_at']:%Y-%m-%d %H:%M} UTC, "
                f"{used}, made by {row['created_by']} on {row['created_at']:%Y-%m-%d}"
            )
        )


def revoke(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="The token's id: 16 hex digits, see `token list`.")],
) -> None:
    """Revoke a token: from now on nobody is let in by it.

    Example: counterfoil token revoke 5f3c0a91d2b7e846
    """
    with open_store(load()) as store:
        row = store.execute(queries("http")["revoke_token"], {"token_id": token_id}).fetchone()
    if row is None:
        raise UsageError(f"there is no token {token_id[:40]!r}; see `counterfoil token list`")
    typer.echo(f"token {token_id} of {row['tenant']} is revoked since {row['revoked_at']:%Y-%m-%d %H:%M:%S} UTC")
