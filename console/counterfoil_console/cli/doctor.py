"""`counterfoil doctor`: is everything there, and if not, what to do."""

import typer
from rich.table import Table
from rich.text import Text

from counterfoil_console.cli.output import AsJson, console, print_json
from counterfoil_console.doctor import examine
from counterfoil_console.hostile import shown
from counterfoil_console.settings import load

_MARKS = {"good": ("ok", "green"), "warning": ("warn", "yellow"), "bad": ("BAD", "bold red")}


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)


def doctor(as_json: AsJson = False) -> None:
    """Check brokers, topics, database, roles, clocks, contracts and keys; exit code 1 if something is bad.

    Example: counterfoil doctor --json
    """
    findings = list(examine(load()))
    if as_json:
        print_json([vars(finding) for finding in findings])
    else:
        table = Table(box=None, show_header=False, pad_edge=False)
        for finding in findings:
            mark, style = _MARKS[finding.grade]
            text = Text(shown(finding.what))
            if finding.todo:
                text.append(f"\n→ {shown(finding.todo)}", style=style)
            table.add_row(Text(mark, style=style), finding.check, text)
        console().print(table)
    if any(finding.grade == "bad" for finding in findings):
        raise typer.Exit(1)
