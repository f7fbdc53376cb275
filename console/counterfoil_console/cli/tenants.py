"""`counterfoil tenant add | list | rotate | login`: whose events are stored, how they are signed, who may read them."""

import datetime as dt
from typing import Annotated, Any

import psycopg
import typer
from psycopg import sql

from counterfoil.errors import UsageError
from counterfoil.ids import OPERATORS, is_tenant
from counterfoil.signing import VARIABLE, SigningKey
from counterfoil_console.cli.output import AsJson, duration_of, open_store, print_json
from counterfoil_console.hostile import shown
from counterfoil_console.settings import load
from counterfoil_consumers.store import Connection, queries

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

Name = Annotated[str, typer.Argument(help="1 to 40 of a-z, 0-9, _ and -")]


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    tenant = typer.Typer(help="Tenants: whose events are stored, signed and read.", no_args_is_help=True)
    tenant.command("add")(add)
    tenant.command("list")(list_tenants)
    tenant.command("rotate")(rotate)
    tenant.command("login")(login)
    app.add_typer(tenant, name="tenant")


def add(
    name: Name,
    signed: Annotated[
        bool, typer.Option("--signed", help="Make its first key, too: all of its records must be signed.")
    ] = False,
    login_role: Annotated[
        str | None, typer.Option("--login-role", help="Who reads its rows with SQL, see `counterfoil tenant login`.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Register a tenant: from now on its events are stored as its own.

    With --signed its key is printed, this once; then records in its name that are not signed with it are foreign.

    Example: counterfoil tenant add acme --signed
    """
    if not is_tenant(name):
        raise UsageError(f"{name!r} is no tenant's name; write 1 to 40 of a-z, 0-9, _ and - (but not {OPERATORS})")
    with open_store(load()) as store, store.transaction():
        key = None
        if signed:
            key = store.execute(queries("console")["add_signed_tenant"], {"tenant": name}).fetchone()
            if key is None:
                raise UsageError(f"tenant {name} is registered already; make it a key with `counterfoil tenant rotate`")
            added = 1
        else:
            added = store.execute(queries("console")["add_tenant"], {"tenant": name}).rowcount
        if login_role is not None:
            _set_login(store, name, login_role)
    said = f"tenant {name} " + ("added" if added else "is registered already")
    if key is not None:
        _print_key(key, f"{said}; every record of it must be signed", as_json)
    elif as_json:
        print_json({"tenant": name, "added": bool(added), "login_role": login_role})
    else:
        typer.echo(said)


def list_tenants(as_json: AsJson = False) -> None:
    """List the tenants: who reads them with SQL, since when their records are signed, and with which keys.

    Example: counterfoil tenant list --json
    """
    with open_store(load()) as store:
        tenants = store.execute(queries("console")["list_tenants"]).fetchall()
        keys = store.execute(queries("console")["list_tenant_keys"]).fetchall()
    if any(key["tenant"] == OPERATORS for key in keys):
        tenants.append({"tenant": OPERATORS, "login_role": None, "created_at": None})
    for tenant in tenants:
        tenant["keys"] = [_listed(key) for key in keys if key["tenant"] == tenant["tenant"]]
        tenant["signed_from"] = min((key["valid_from"] for key in tenant["keys"]), default=None)
    if as_json:
        print_json(tenants)
        return
    for tenant in tenants:
        typer.echo(shown(_line(tenant)))
        for key in tenant["keys"]:
            until = f", until {key['retired_at']:%Y-%m-%d %H:%M} UTC" if key["retired_at"] else ""
            typer.echo(f"  key {key['key_id']}  made {key['made_at']:%Y-%m-%d %H:%M}, {key['state']}{until}")


def rotate(
    name: Annotated[str, typer.Argument(help=f"A registered tenant, or {OPERATORS}.")],
    grace: Annotated[
        str, typer.Option("--grace", help="How long what was valid goes on being so: 30m, 24h, 7d; a minute at least.")
    ] = "24h",
    as_json: AsJson = False,
) -> None:
    """Make a tenant a new key, and print it this once; older ones are taken for the grace and no longer.

    A tenant's first key says that its records must be signed once the grace is over. The key of _operators signs what
    operators and reconcilers say, for every tenant. The moments are the brokers': what waits in a spool for longer
    than the grace, signed with an older key, is foreign when it comes.

    Example: counterfoil tenant rotate acme --grace 24h > acme.key
    """
    params = {"tenant": name, "grace": duration_of(grace)}
    with open_store(load()) as store:
        key = store.execute(queries("console")["rotate_tenant_key"], params).fetchone()
        after = store.execute(queries("console")["list_tenant_keys"]).fetchall()
    if key is None:
        raise UsageError(f"there is no tenant {name!r}; see `counterfoil tenant list`")
    if key["valid_from"] > key["made_at"]:
        _print_key(key, f"records of {name} must be signed from {key['valid_from']:%Y-%m-%d %H:%M:%S} UTC on", as_json)
        return
    until = max(old["retired_at"] for old in after if old["tenant"] == name and old["retired_at"])
    _print_key(key, f"older keys of {name} are taken until {until:%Y-%m-%d %H:%M:%S} UTC", as_json)


def login(
    name: Name,
    role: Annotated[str | None, typer.Argument(help="A login role of the database; nobody if not given.")] = None,
) -> None:
    """Say which login role reads this tenant's rows, and no others, with SQL of its own.

    The role is made by whoever administers the database: CREATE ROLE reader_acme LOGIN PASSWORD '...' IN ROLE
    counterfoil_auditor.

    Example: counterfoil tenant login acme reader_acme
    """
    with open_store(load()) as store:
        _set_login(store, name, role)
    typer.echo(shown(f"{role} reads the rows of {name}" if role else f"no login role reads the rows of {name}"))


def _set_login(store: Connection, name: str, role: str | None) -> None:
    if role is not None:
        _refuse_login(store, role)
    try:
        found = store.execute(queries("console")["set_login_role"], {"tenant": name, "role": role}).rowcount
    except psycopg.errors.UniqueViolation:
        raise UsageError(f"{role} reads the rows of another tenant, and a role reads those of one") from None
    if not found:
        raise UsageError(f"there is no tenant {name!r}; see `counterfoil tenant list`")


def _refuse_login(store: Connection, role: str) -> None:
    """Raises UsageError for a role that can't read as a tenant does, or that would see all of them."""
    found = store.execute(queries("console")["find_login_role"], {"role": role}).fetchone()
    quoted = sql.Identifier(role).as_string(store)
    if found is None:
        raise UsageError(
            f"there is no role {role}; make it: CREATE ROLE {quoted} LOGIN PASSWORD '...' IN ROLE counterfoil_auditor"
        )
    if found["sees_all"]:
        raise UsageError(f"the role {role} sees every tenant's rows; name one that is in counterfoil_auditor alone")
    if not found["can_read"]:
        raise UsageError(
            f"the role {role} can't log in and read: ALTER ROLE {quoted} LOGIN; GRANT counterfoil_auditor TO {quoted}"
        )


def _print_key(row: dict[str, Any], said: str, as_json: bool) -> None:
    """The key alone on stdout, what to do with it on stderr."""
    text = SigningKey(row["tenant"], row["key_id"], bytes(row["key"])).text()
    if as_json:
        print_json({"tenant": row["tenant"], "key_id": row["key_id"], "key": text, "said": said})
        return
    typer.echo(text)
    who = "reconcilers and operators" if row["tenant"] == OPERATORS else "every process that records for it"
    typer.echo(
        f"{said}. The key is shown this once: give it to {who}, in {VARIABLE} or a file that {VARIABLE}_FILE names",
        err=True,
    )


def _listed(key: dict[str, Any]) -> dict[str, Any]:
    state = "retired" if key["retired_at"] and key["retired_at"] <= key["read_at"] else "taken"
    known = ("key_id", "made_at", "valid_from", "retired_at")
    return {name: key[name] for name in known} | {"fingerprint": key["fingerprint"].hex(), "state": state}


def _line(tenant: dict[str, Any]) -> str:
    since = f"  since {tenant['created_at']:%Y-%m-%d}" if tenant["created_at"] else "  reserved"
    reader = f", read by {tenant['login_role']}" if tenant["login_role"] else ""
    signed_from = tenant["signed_from"]
    if signed_from is None:
        return f"{tenant['tenant']}{since}{reader}, not signed"
    start = "its first record" if signed_from == _EPOCH else f"{signed_from:%Y-%m-%d %H:%M:%S} UTC"
    return f"{tenant['tenant']}{since}{reader}, signed from {start} on"
