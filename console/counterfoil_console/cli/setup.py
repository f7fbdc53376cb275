"""`counterfoil migrate | topics | tenant | config`: what is set up before anything runs."""

from typing import Annotated

import typer
from pydantic import SecretStr
from rich.table import Table

from counterfoil.errors import UsageError
from counterfoil.ids import is_tenant
from counterfoil.settings import describe
from counterfoil_console.cli.output import AsJson, console, open_store, print_json
from counterfoil_console.settings import Settings, load
from counterfoil_consumers.migrations import migrate as apply_migrations
from counterfoil_consumers.store import queries
from counterfoil_consumers.topics import admin_client, create_missing, differences
from counterfoil_consumers.topics import describe as describe_topics
from counterfoil_schemas import topics as declared_topics

_SECRETS = ("password", "secret", "key.pem", "token")


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(migrate)
    app.command()(topics)
    app.command()(config)
    tenant = typer.Typer(help="Tenants: whose events are stored.", no_args_is_help=True)
    tenant.command("add")(add_tenant)
    tenant.command("list")(list_tenants)
    app.add_typer(tenant, name="tenant")


def migrate() -> None:
    """Bring the store to the schema of this version.

    COUNTERFOIL_STORE__DSN must log in as a role with CREATEROLE and CREATE on the database; no superuser is needed.
    """
    done = 0
    for migration in apply_migrations(load().dsn):
        typer.echo(f"applied {migration.number:04}_{migration.phase}_{migration.name}")
        done += 1
    if not done:
        typer.echo("the store is up to date")


def topics(
    create: Annotated[bool, typer.Option("--create", help="Create the topics that do not exist.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check the topics against their declaration; exit code 1 where they differ.

    Example: counterfoil topics --create
    """
    settings = load()
    declared = list(declared_topics(settings.profile, settings.topic_prefix).values())
    admin = admin_client(settings.kafka)
    created = create_missing(admin, declared) if create else []
    have = describe_topics(admin, [topic.name for topic in declared])
    wrong = {topic.name: differences(topic, have.get(topic.name)) for topic in declared}
    if as_json:
        print_json({"created": created, "differences": wrong})
    else:
        for name, sentences in wrong.items():
            typer.echo(
                f"{name}: {'created' if name in created else 'as declared'}" if not sentences else f"{name}: differs"
            )
            for sentence in sentences:
                typer.echo(f"  {sentence}")
    if any(wrong.values()):
        raise typer.Exit(1)


def config(as_json: AsJson = False) -> None:
    """Show every setting: its variable, the value in force (secrets hidden), and what it means."""
    settings = load()
    rows = [(name, _shown(settings, field), text) for field, (name, text) in _described().items()]
    if as_json:
        print_json({name: value for name, value, _ in rows})
        return
    table = Table("variable", "value", "meaning", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    console().print(table)


def _described() -> dict[str, tuple[str, str]]:
    return {name.removeprefix("COUNTERFOIL_").lower(): (name, text) for name, _, text in describe(Settings)}


def _shown(settings: Settings, field: str) -> str:
    value = getattr(settings, field)
    if isinstance(value, SecretStr):
        return "(set)"
    if field == "kafka":
        return ", ".join(
            f"{key}={'(set)' if any(word in key for word in _SECRETS) else item}" for key, item in sorted(value.items())
        )
    if field == "store":
        return "(set)" if value.dsn else ""
    if field == "targets":
        return ", ".join(sorted(value))
    return "" if value is None else str(value)


def add_tenant(name: Annotated[str, typer.Argument(help="[a-z0-9_-]{1,40}")]) -> None:
    """Register a tenant: from now on its events are stored as its own.

    Example: counterfoil tenant add acme
    """
    if not is_tenant(name):
        raise UsageError(f"{name!r} is no tenant's name; it is [a-z0-9_-]{{1,40}}")
    with open_store(load()) as store:
        added = store.execute(queries("console")["add_tenant"], {"tenant": name}).rowcount
    typer.echo(f"tenant {name} " + ("added" if added else "is registered already"))


def list_tenants(as_json: AsJson = False) -> None:
    """List the registered tenants."""
    with open_store(load()) as store:
        rows = store.execute(queries("console")["list_tenants"]).fetchall()
    if as_json:
        print_json(rows)
    for row in () if as_json else rows:
        typer.echo(f"{row['tenant']}  since {row['created_at']:%Y-%m-%d}")
