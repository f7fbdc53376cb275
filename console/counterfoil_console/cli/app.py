"""Puts the commands together, each loaded when it is asked for, and turns mistakes into one sentence."""

import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from counterfoil_console.cli.commands import COMMANDS
from counterfoil_console.extras import sentence_without
from counterfoil_console.hostile import shown

_MODULES = {command.name: command.module for command in COMMANDS}


class Loading(TyperGroup):
    """Holds of each command what the overview says of it, and loads the one that is asked for."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As any group does, once the command is loaded."""
        if args[0] in _MODULES:
            self.commands[args[0]] = loaded(args[0])
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="counterfoil",
    cls=Loading,
    help="Agents say what they tried. Counterfoil proves what landed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
for listed in COMMANDS:
    app.command(listed.name, help=listed.help)(lambda: None)

# The public name's base: typer brings a click of its own from some version on, and does not export this.
_UsageError: Any = typer.BadParameter.__base__


def loaded(name: str) -> Any:
    """The command of this name, with its options, from its module.

    Raises SystemExit where that needs an extra which is missing.
    """
    try:
        module = import_module(f"counterfoil_console.cli.{_MODULES[name]}")
    except ModuleNotFoundError as error:
        sys.exit(sentence_without(error))
    part = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)
    module.add_to(part)
    return typer.main.get_group(part).commands[name]


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version  # noqa: PLC0415 - seldom asked for

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
        return _ended(ended)
    except (KeyboardInterrupt, typer.Abort):
        return 130
    except _UsageError as error:
        return _refuse(error)
    except Exception as error:
        from counterfoil_console.cli.mistakes import sentence_of  # noqa: PLC0415 - its clients take long to load

        sentence = sentence_of(error)
        if sentence is None:
            raise
        return _say(sentence)
    return code if isinstance(code, int) else 0


def _ended(ended: SystemExit) -> int:
    if isinstance(ended.code, str):
        typer.echo(ended.code, err=True)
        return 1
    return ended.code or 0


def _refuse(error: Any) -> int:
    """Wrong usage: the help where nothing was said, else one sentence."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return 2
    path = error.ctx.command_path if error.ctx else "counterfoil"
    sentence = error.format_message().strip().rstrip(".")
    return _say(f"{sentence}{'' if sentence.endswith('?') else ';'} see `{path} --help`", 2)


def _say(sentence: str, code: int = 1) -> int:
    typer.echo(f"counterfoil: {shown(sentence)}", err=True)
    return code
