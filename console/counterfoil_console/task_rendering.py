"""A task's writes for a terminal: intended beside landed, part by part, and what would take back a half-done task."""

import json
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from counterfoil_console.evidence import compact, row_name
from counterfoil_console.hostile import shown
from counterfoil_console.rendering import both_sides, undoing
from counterfoil_console.tasks import Compensation, Matrix, Part, Write, total

_LONGEST_NAME = 80
_LONGEST_VALUE = 200
_LONGEST_CALL = 2_000
_LANDED = {"yes": "green", "no": "red", "half": "red", "wrong": "red", "twice": "red", "open": "magenta"}


def print_matrix(console: Console, task: Mapping[str, Any], matrix: Matrix, *, effects: bool) -> None:
    """The total of a task; with `effects` each write and its parts; and the proposals where it is half done."""
    name = task["task_ref"] or task["task_id"].hex
    console.print(Text(f"{shown(name, _LONGEST_NAME)}: {total(matrix.writes)}", style="bold"))
    if effects:
        for number, write in enumerate(matrix.writes, 1):
            _print_write(console, number, write, task)
    if not matrix.is_half_done:
        return
    console.print(
        Text("\nHalf done. These are proposals to take back what landed, the last first; nothing is called, and each ")
        + Text("needs an approval:", style="bold")
    )
    for number, one in enumerate(matrix.compensations, 1):
        console.print(_compensation(number, one))


def _print_write(console: Console, number: int, write: Write, task: Mapping[str, Any]) -> None:
    effect = write.effect
    step = f" step {effect['step']}" if effect["step"] else ""
    head = Text(f"\n{number}. ", style="dim")
    head.append(
        shown(f"{effect['tool']} → {effect['target'] or 'no target'}{step}", _LONGEST_NAME), style="bold not dim"
    )
    child = f"  in {effect['task_ref'] or effect['task_id'].hex}" if effect["task_id"] != task["task_id"] else ""
    head.append(f"  {effect['effect_id'].hex}{shown(child, _LONGEST_NAME)}")
    console.print(head)
    console.print(Padding(both_sides(effect), (0, 0, 0, 3)))
    for line in undoing(
        None if write.undoes is None else write.undoes.bytes,
        None if write.undone_by is None else write.undone_by.bytes,
    ):
        console.print(Padding(Text(line), (0, 0, 0, 3)))
    if write.parts:
        console.print(Padding(_parts(write), (0, 0, 0, 3)))
    if write.parts_left_out:
        console.print(Padding(Text(f"… and {write.parts_left_out} more parts"), (0, 0, 0, 3)))


def _parts(write: Write) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("part", "intended", "the target has"):
        table.add_column(column, overflow="fold")
    table.add_column("landed", no_wrap=True)
    for part in write.parts:
        place = shown(f"{row_name(vars(part))} {part.field}".rstrip(), _LONGEST_VALUE)
        landed = Text(shown(part.landed, _LONGEST_NAME), style=_LANDED.get(part.landed, ""))
        table.add_row(Text(place), _intended(part), _value(part.observed), landed)
    return table


def _intended(part: Part) -> Text:
    """A part that is open has no value that anybody could tell."""
    return Text("not known") if part.landed == "open" and part.intended is None else _value(part.intended)


def _value(value: Any) -> Text:
    return Text(shown("nothing" if value is None else compact(value), _LONGEST_VALUE))


def _compensation(number: int, one: Compensation) -> Text:
    proposal = one.proposal
    text = Text(f"{number}. ", style="dim")
    if proposal.args is not None:
        call = f"{proposal.tool} {json.dumps(proposal.args, ensure_ascii=False)}"
        text.append(shown(call, _LONGEST_CALL), style="bold not dim")
    else:
        text.append(shown(proposal.tool or "nothing", _LONGEST_NAME), style="bold not dim")
    if proposal.problem is not None:
        text.append(
            f"  {shown(proposal.problem, _LONGEST_CALL)}", style="bold red" if proposal.irreversible else "yellow"
        )
    text.append(f"\n   undoes {one.effect_id.hex} {shown(one.what, _LONGEST_NAME)}")
    return text
