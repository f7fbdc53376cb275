"""Puts the commands together, and turns every error that a person can mend into one sentence."""

import os
import sys
from importlib.metadata import version
from typing import Annotated

import confluent_kafka
import psycopg
import typer

from counterfoil.errors import CounterfoilError
from counterfoil_console.cli import doctor, people, services, setup, stack

app = typer.Typer(
    name="counterfoil",
    help="Agents say what they tried. Counterfoil proves what landed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for part in (stack, setup, services, people, doctor):
    part.add_to(app)


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
    try:
        app(arguments)
    except SystemExit as ended:  # typer prints usage errors and help itself
        return ended.code if isinstance(ended.code, int) else 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `counterfoil drift | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except CounterfoilError as error:
        return _say(str(error))
    except psycopg.OperationalError as error:
        return _say(f"the store went away: {str(error).splitlines()[0]}; check COUNTERFOIL_STORE__DSN and try again")
    except psycopg.errors.UndefinedTable as error:
        return _say(f"the store has no such table ({str(error).splitlines()[0]}); run `counterfoil migrate`")
    except confluent_kafka.KafkaException as error:
        return _say(f"Kafka refuses or is away: {error.args[0].str()}; run `counterfoil doctor`")
    return 0


def _say(sentence: str) -> int:
    typer.echo(f"counterfoil: {sentence}", err=True)
    return 1
