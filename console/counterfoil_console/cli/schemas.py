"""`counterfoil schemas register | check`: our schemas in a Schema Registry."""

import typer

from counterfoil.errors import SettingsError
from counterfoil.registry import Registry, register_missing
from counterfoil.wire_format import entries_of
from counterfoil_console.cli.output import AsJson, print_json
from counterfoil_console.hostile import shown
from counterfoil_console.schemas import SchemaState, examine
from counterfoil_console.settings import Settings, load


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    schemas = typer.Typer(help="Schemas: what the Schema Registry knows of ours.", no_args_is_help=True)
    schemas.command("register")(register)
    schemas.command("check")(check)
    app.add_typer(schemas, name="schemas")


def register(as_json: AsJson = False) -> None:
    """Register every schema that the registry lacks, and hold its subject to BACKWARD_TRANSITIVE.

    A recorder does so itself at its first start. Where agents may not write to the registry, run this before a new
    version is rolled out. A schema that could not read what was written before is refused by the registry.

    Example: counterfoil schemas register
    """
    settings = load()
    with _open(settings) as registry:
        new = register_missing(registry, entries_of(settings))
        states = list(examine(registry, entries_of(settings)))
    _say(states, [entry.name for entry in new], as_json=as_json)


def check(as_json: AsJson = False) -> None:
    """Check that the registry has every schema and holds it to BACKWARD_TRANSITIVE; exit code 1 where not.

    What is not registered is held against every version that is: it must be able to read what they wrote.

    Example: counterfoil schemas check --json
    """
    settings = load()
    with _open(settings) as registry:
        states = list(examine(registry, entries_of(settings)))
    _say(states, [], as_json=as_json)


def _open(settings: Settings) -> Registry:
    if not settings.schema_registry:
        raise SettingsError(
            "no Schema Registry is named: set COUNTERFOIL_SCHEMA_REGISTRY__URL=http://host:port (Apicurio's ends in "
            "/apis/ccompat/v7)"
        )
    return Registry(settings.schema_registry)


def _say(states: list[SchemaState], new: list[str], *, as_json: bool) -> None:
    if as_json:
        print_json({"registered": new, "schemas": [vars(state) for state in states]})
    else:
        for state in states:
            typer.echo(shown(f"{state.subject}: {_word(state, new)}"))
            for problem in state.problems:
                typer.echo(f"  {shown(problem)}")
    if any(state.problems for state in states):
        raise typer.Exit(1)


def _word(state: SchemaState, new: list[str]) -> str:
    if state.schema_id is None:
        return f"{state.name} is missing"
    return f"{state.name} {'registered' if state.name in new else 'is there'}, id {state.schema_id}"
