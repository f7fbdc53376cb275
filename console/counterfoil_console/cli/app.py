"""Puts the commands together, and turns every error that a person can mend into one sentence."""

import sys
from importlib.metadata import version
from typing import Annotated, Any

import confluent_kafka
import psycopg
import typer

from counterfoil.errors import CounterfoilError
from counterfoil_console.away import explained
from counterfoil_console.cli import (
    blob,
    completeness,
    contracts,
    doctor,
    drift,
    halts,
    holds,
    keys,
    offsets,
    people,
    rebuild,
    redaction,
    retention,
    schemas,
    serve,
    services,
    setup,
    stack,
    tenants,
    tokens,
)
from counterfoil_console.doctor import kafka_sentence
from counterfoil_console.hostile import shown
from counterfoil_console.settings import load
from counterfoil_consumers.errors import BrokersAway

app = typer.Typer(
    name="counterfoil",
    help="Agents say what they tried. Counterfoil proves what landed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
_PARTS = (
    *(stack, setup, tenants, tokens, keys, schemas, services, serve, offsets, rebuild, people, drift, completeness),
    *(blob, redaction, contracts, retention, holds, halts, doctor),
)
for part in _PARTS:
    part.add_to(app)

# The public name's base: typer brings a click of its own from some version on, and does not export this.
_UsageError: Any = typer.BadParameter.__base__
_NO_SUCH_OBJECT = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.InvalidSchemaName,
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"counterfoil {version('counterfoil')}")
        raise typer.Exit


@app.callback()
def _root(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Agents say what they tried. Counterfoil proves what landed."""


def run(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 good, 1 a mistake to mend, 2 wrong usage, 130 interrupted."""
    given = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):  # a locale that lacks a character must not end in a traceback
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        for argument in given:
            argument.encode()
        code = app(given, prog_name="counterfoil", standalone_mode=False)
    except UnicodeEncodeError as error:
        return _say(f"the argument {error.object!r} is not UTF-8; write it anew", 2)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 0
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except _UsageError as error:
        return _refuse(error)
    except BrokersAway as error:
        return _say(explained(error, load().kafka))
    except CounterfoilError as error:
        return _say(str(error))
    except psycopg.Error as error:
        return _say(_store_sentence(error))
    except confluent_kafka.KafkaException as error:
        return _say(kafka_sentence(error))
    return code if isinstance(code, int) else 0


def _refuse(error: Any) -> int:
    """Wrong usage: the help where nothing was said, else one sentence."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return 2
    path = error.ctx.command_path if error.ctx else "counterfoil"
    sentence = error.format_message().strip().rstrip(".")
    return _say(f"{sentence}{'' if sentence.endswith('?') else ';'} see `{path} --help`", 2)


def _store_sentence(error: psycopg.Error) -> str:
    first = str(error).strip().split("\n")[0]
    if isinstance(error, _NO_SUCH_OBJECT):
        return f"the store is not of this version ({first}); run `counterfoil migrate`"
    if isinstance(error, psycopg.OperationalError):
        return f"the store went away: {first}; check COUNTERFOIL_STORE__DSN and try again"
    return f"the store refuses: {first}; run `counterfoil doctor`"


def _say(sentence: str, code: int = 1) -> int:
    typer.echo(f"counterfoil: {shown(sentence)}", err=True)
    return code
