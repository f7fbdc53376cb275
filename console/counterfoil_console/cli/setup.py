"""`counterfoil migrate | topics | config`: what is set up before anything runs."""

import time
from collections.abc import Mapping
from typing import Annotated

import psycopg
import typer
from confluent_kafka.admin import AdminClient
from psycopg.conninfo import conninfo_to_dict
from pydantic import SecretStr
from rich.table import Table
from rich.text import Text

from counterfoil.detection import rules_version
from counterfoil.registry import shown_address
from counterfoil.settings import describe
from counterfoil.urls import without_password
from counterfoil_console.cli.output import AsJson, console, print_json
from counterfoil_console.hostile import shown
from counterfoil_console.settings import Settings, load
from counterfoil_consumers.migrations import migrate as apply_migrations
from counterfoil_consumers.topics import TopicState, admin_client, create_missing, differences
from counterfoil_consumers.topics import describe as describe_topics
from counterfoil_schemas import topics as declared_topics

_SECRETS = ("password", "passphrase", "secret", "key.pem", "token", "oauthbearer.config", "user.info")
_SHOWN_OF_A_DSN = ("host", "hostaddr", "port", "dbname", "user")
_VISIBLE_SECONDS = 10.0


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(migrate)
    app.command()(topics)
    app.command()(config)


def migrate(
    pre: Annotated[
        bool, typer.Option("--pre", help="Only what leaves processes of the version before working.")
    ] = False,
) -> None:
    """Bring the store to the schema of this version, while ingest and reconcile go on.

    Without downtime: `migrate --pre`, then upgrade every process, then `migrate`. COUNTERFOIL_STORE__DSN must log in as
    a role with CREATEROLE and CREATE on the database; no superuser is needed.

    Example: counterfoil migrate && counterfoil doctor
    """
    done = 0
    for migration in apply_migrations(load().dsn, pre_only=pre):
        typer.echo(f"applied {migration}")
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
    have = _described_topics(admin, [topic.name for topic in declared], created)
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


def _described_topics(admin: AdminClient, names: list[str], created: list[str]) -> dict[str, TopicState]:
    """The topics that exist; those just created may take the brokers a moment."""
    deadline = time.monotonic() + _VISIBLE_SECONDS
    while True:
        have = describe_topics(admin, names)
        if have.keys() >= set(created) or time.monotonic() > deadline:
            return have
        time.sleep(0.1)


def config(as_json: AsJson = False) -> None:
    """Show every setting: its variable, the value in force (secrets hidden), and what it means.

    Example: counterfoil config --json
    """
    settings = load()
    rows = [(name, _shown(settings, field), text) for field, (name, text) in _described().items()]
    if as_json:
        print_json({name: value for name, value, _ in rows})
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("variable", no_wrap=True)
    table.add_column("value", overflow="fold")
    table.add_column("meaning")
    for row in rows:
        table.add_row(*(Text(shown(cell)) for cell in row))
    console().print(table)


def _described() -> dict[str, tuple[str, str]]:
    return {name.removeprefix("COUNTERFOIL_").lower(): (name, text) for name, _, text in describe(Settings)}


def _shown(settings: Settings, field: str) -> str:
    value = getattr(settings, field)
    if isinstance(value, SecretStr):
        return "(set)"
    if field in ("kafka", "schema_registry"):
        return ", ".join(f"{key}={_shown_item(key, item)}" for key, item in sorted(value.items()))
    if field == "redaction":
        own = value.model_dump_json(exclude_defaults=True)
        return f"{value.label(rules_version()) or 'off'}" + ("" if own == "{}" else f" {own}")
    if field in ("tools", "workflows"):
        return ", ".join(f"{name}: {one.model_dump_json(exclude_none=True)}" for name, one in sorted(value.items()))
    if field == "blob_store_options":
        return ", ".join(f"{key}=(set)" for key in sorted(value))
    if field == "blob_store":
        return "" if value is None else without_password(value)
    if field == "console":
        return (
            "" if value.url is None else f"{without_password(value.url)}, token {'(set)' if value.token else 'missing'}"
        )
    if field == "store":
        return "" if value.dsn is None else _shown_dsn(value.dsn)
    if field == "targets":
        return "; ".join(f"{name}: {_shown_target(settings)}" for name, settings in sorted(value.items()))
    return "" if value is None else str(value)


def _shown_item(key: str, item: str) -> str:
    if any(word in key for word in _SECRETS):
        return "(set)"
    return shown_address({key: item}) if key == "url" else item


def _shown_target(settings: Mapping[str, SecretStr]) -> str:
    """A connection string as far as it may be shown, and of all else that it is set: any of it may be a secret."""
    shown = [_shown_dsn(value) if name == "dsn" else f"{name}=(set)" for name, value in sorted(settings.items())]
    return ", ".join(shown)


def _shown_dsn(dsn: SecretStr) -> str:
    """Where a connection string leads, without anything secret."""
    try:
        parts = conninfo_to_dict(dsn.get_secret_value())
    except psycopg.ProgrammingError:
        return "(set, but libpq can't read it)"
    return " ".join(f"{name}={parts[name]}" for name in _SHOWN_OF_A_DSN if parts.get(name)) or "(set)"
