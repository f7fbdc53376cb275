"""Timelines and tables for a terminal. Every foreign text passes through `hostile.shown` first."""

import datetime as dt
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from counterfoil_console.evidence import compact, differences, row_name
from counterfoil_console.history import History
from counterfoil_console.hostile import shown
from counterfoil_console.timeline import Timeline, costs, gaps, unanswered
from counterfoil_reconcilers.undoing import undone_effect

_ID_DIGITS = 8
_TASK_DIGITS = 12
_LONGEST_LINE = 200
_LONGEST_NAME = 80
_LONGEST_WORD = 40
_LONGEST_DETAIL = 600
_MOST_GAPS = 20
_DIFFERENCES_OF_A_ROW = 3
_COLOURS = {
    "ok": "green",
    "accepted": "green",
    "applied": "green",
    "unknown": "yellow",
    "failed": "cyan",
    "denied": "cyan",
    "partial": "red",
    "not_applied": "red",
    "duplicated": "red",
    "mismatched": "red",
    "unattributed": "red",
    "unknowable": "magenta",
}
_Line = tuple[str, Text, str]  # when, what happened, the rest


def print_timeline(console: Console, timeline: Timeline) -> None:
    """Head, events in order, what the target says, and what the task cost."""
    _print_head(console, timeline.task)
    open_intents = unanswered(timeline.events)
    lines = [_line(event, timeline.effects, event["event_id"] in open_intents) for event in timeline.events]
    width = max((cell_len(what.plain) for _, what, _ in lines), default=0)
    day = None
    for event, (time, what, detail) in zip(timeline.events, lines, strict=True):
        if event["occurred_at"].date() != day:
            day = event["occurred_at"].date()
            console.print(Text(f"\n{day} UTC", style="dim"))
        grid = Table.grid(padding=(0, 1))
        grid.add_column(no_wrap=True)
        grid.add_column(no_wrap=True, width=width)
        grid.add_column(overflow="fold")
        grid.add_row(Text(time, style="dim"), what, Text(shown(detail, _LONGEST_DETAIL)))
        console.print(grid)
    _print_effects(console, timeline.effects.values())
    _print_gaps(console, timeline)
    spent = " + ".join(
        f"{cost} {shown(currency, _LONGEST_WORD)}".strip() for currency, cost in costs(timeline.events).items()
    )
    tokens = f"{timeline.task['input_tokens']} tokens in, {timeline.task['output_tokens']} out"
    dropped = f" ({timeline.dropped_events} of them dropped past their time)" if timeline.dropped_events else ""
    told = f"{timeline.task['events']} events{dropped}, {tokens}, cost {spent or 'not told'}"
    console.print(Text(f"\n{told}", style="dim"))


def _print_head(console: Console, task: Mapping[str, Any]) -> None:
    title = shown(task["title"] or "a task without a title", _LONGEST_LINE)
    console.print(Text(f"{title}  {shown(task['task_ref'] or '', _LONGEST_LINE)}".rstrip(), style="bold"))
    facts = [
        task["task_id"].hex,
        f"tenant {task['tenant']}",
        f"workflow {task['workflow']}",
        f"agent {task['agent']}",
        task["status"] or "open",
    ]
    if task["subject_ref"]:
        facts.append(f"about {task['subject_ref']}")
    if task["parent_task_id"]:
        facts.append(f"child of {task['parent_task_id'].hex}")
    console.print(Text(" · ".join(shown(fact, _LONGEST_NAME) for fact in facts), style="dim"))


def _line(event: Mapping[str, Any], effects: Mapping[uuid.UUID, Mapping[str, Any]], is_open: bool) -> _Line:
    time, body = f"{event['occurred_at']:%H:%M:%S.%f}"[:-3], event["body"]
    if event["unread"] or body is None:
        what = Text(shown(event["kind"], _LONGEST_WORD), style="magenta")
        return time, what, "unread: this version does not know the kind or its body"
    effect = "" if event["effect_id"] is None else f" [{event['effect_id'].hex[:_ID_DIGITS]}]"
    if event["kind"] == "tool_intent":
        again = f" attempt {event['attempt']}" if (event["attempt"] or 1) > 1 else ""
        waits = " — no result yet" if is_open else ""
        return time, Text("tool_intent", style="yellow" if is_open else ""), _intent(body, effect + again, waits)
    if event["kind"] == "tool_result":
        return time, word(body["outcome"], "result "), _result(body, effect)
    if event["kind"] == "verdict":
        return time, word(body["verdict"], "verdict "), _verdict(event, effects, effect)
    say = _DETAILS.get(event["kind"], _plainly)
    return time, Text(shown(event["kind"])), say(body)


def _intent(body: Mapping[str, Any], effect: str, waits: str) -> str:
    where = f" → {body['target']}" if body["target"] else "" if not body["write"] else " → no target (uncovered)"
    step = f" step {body['step']}" if body["step"] else ""
    return f"{body['tool']}{where}{effect}{step}{waits} {compact(body['args'])}"


def _result(body: Mapping[str, Any], effect: str) -> str:
    seconds = f"{body['duration'] / 1e6:.3f} s"
    error = ": ".join(part.strip() for part in (body["error_type"], body["error_message"]) if part)
    reply = "" if body["result"] is None else compact(body["result"])
    due = "" if body["deadline"] is None else f"applied by {_moment(body['deadline'])}"
    return " · ".join(part for part in (body["tool"] + effect, seconds, due, error, reply) if part)


def _verdict(event: Mapping[str, Any], effects: Mapping[uuid.UUID, Mapping[str, Any]], shown_id: str) -> str:
    body, effect = event["body"], effects.get(event["effect_id"])
    means = f" ({effect['means']})" if effect and effect["means"] and effect["verdict"] == body["verdict"] else ""
    said = f"the agent said {effect['outcome']}, " if effect else ""
    reason = f": {body['reason']}" if body["reason"] else ""
    return f"{body['tool'] or ''}{shown_id} {said}{body['target']} says {body['verdict']}{means}{reason}".strip()


def _completion(body: Mapping[str, Any]) -> str:
    tokens = "" if body["output_tokens"] is None else f" [{body['input_tokens']}→{body['output_tokens']} tokens]"
    cost = "" if body["cost"] is None else f" [{body['cost']} {body['currency'] or ''}".rstrip() + "]"
    why = f" — because {body['rationale']}" if body["rationale"] else ""
    return f"{body['text']}{why}{tokens}{cost}"


def _observation(body: Mapping[str, Any]) -> str:
    evidence = body["evidence"]
    read = evidence.get("read") if isinstance(evidence, dict) else None
    if not isinstance(read, list) or not all(isinstance(row, dict) for row in read):
        return f"{body['target']}: {compact(evidence)}"
    rows = [row_name(row) + ("" if row.get("version") else " (absent)") for row in read]
    return f"{body['target']}: read {', '.join(rows) or 'nothing'}"


def _operation(body: Mapping[str, Any]) -> str:
    rows = ", ".join(row_name(row) for row in body["resources"])
    repaired = f" · repaired {rows} at {body['target']}" if rows else ""
    return f"{body['operation']} by {body['by']}: {body['reason'] or 'no reason given'}{repaired}"


def _plainly(body: Mapping[str, Any]) -> str:
    return " · ".join(f"{name} {compact(value)}" for name, value in body.items() if value is not None)


def _moment(micros: int) -> str:
    try:
        return f"{dt.datetime.fromtimestamp(micros / 1e6, dt.UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):  # an agent may write any number
        return f"{micros} microseconds"


_DETAILS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "task_started": lambda body: body["title"] + ("" if body["input"] is None else f" {compact(body['input'])}"),
    "task_suspended": lambda body: body["reason"],
    "task_ended": lambda body: " ".join(
        part for part in (body["status"], body["error_type"], body["error_message"]) if part
    ),
    "message": lambda body: f"{body['role']}: {compact(body['content'])}",
    "prompt": lambda body: f"{body['model']}, {len(body['messages'])} messages",
    "completion": _completion,
    "retrieval": lambda body: f"{body['query']} → " + ", ".join(source["id"] for source in body["sources"]),
    "observation": _observation,
    "operation": _operation,
    "dead_lettered": lambda body: f"given up after {body['attempts']} checks: {body['reason']}",
}


def _undone(effects: Iterable[Mapping[str, Any]]) -> dict[bytes, bytes]:
    """The effects that another says it undoes, each with that other one."""
    return {
        said: effect["effect_id"].bytes for effect in effects if (said := undone_effect(effect["args"])) is not None
    }


def undoing(undoes: bytes | None, undone_by: bytes | None) -> list[str]:
    """What a write takes back, and what took it back."""
    told = [] if undoes is None else [f"undoes {undoes.hex()}"]
    return told if undone_by is None else [*told, f"undone by {undone_by.hex()}, if that landed"]


def print_history(console: Console, history: History) -> None:
    """What happened to a row, the earliest first, and who did it."""
    row = history.row
    console.print(Text(shown(f"{row}  tenant {history.tenant}", _LONGEST_LINE), style="bold"))
    if history.earlier and history.events:
        console.print(Text(f"… earlier: --before {history.events[0]['event_id'].hex}", style="dim"))
    day = None
    for event in history.events:
        if event["occurred_at"].date() != day:
            day = event["occurred_at"].date()
            console.print(Text(f"\n{day} UTC", style="dim"))
        time, what, detail = _line(event, {}, is_open=False)
        line = Text(f"{time} ", style="dim")
        line.append(what)
        line.append(f" {shown(detail, _LONGEST_DETAIL)}", style="not dim")
        console.print(line)
        console.print(Padding(Text(shown(_who(event), _LONGEST_DETAIL), style="dim"), (0, 0, 0, 13)))


def _who(event: Mapping[str, Any]) -> str:
    """Who did it, with which credential and for whom; and where to look."""
    told = [f"agent {event['agent']}"]
    if event["principal"]:
        told.append(f"as {event['principal']}")
    if event["on_behalf_of"]:
        told.append(f"on behalf of {event['on_behalf_of']}")
    name = event["task_ref"] or event["task_id"].hex[:_TASK_DIGITS]
    return " · ".join([*told, f"task {name}", f"event {event['event_id'].hex}"])


def _print_effects(console: Console, effects: Collection[Mapping[str, Any]]) -> None:
    undone = _undone(effects)
    for number, effect in enumerate(effects):
        if not number:
            console.print(Text("\nWrites: what the agent said, what the target says", style="bold"))
        head = Text(f"{effect['effect_id'].hex} ", style="dim")
        step = f" step {effect['step']}" if effect["step"] else ""
        what = f"{effect['tool']} → {effect['target'] or 'no target'}{step}"
        head.append(shown(what, _LONGEST_NAME), style="bold not dim")
        tries = "1 attempt" if effect["intents"] == 1 else f"{effect['intents']} attempts"
        head.append(f"  {tries}{', given up' if effect['given_up'] else ''}")
        console.print(head)
        console.print(Padding(both_sides(effect), (0, 0, 0, 2)))
        _print_indented(console, undoing(undone_effect(effect["args"]), undone.get(effect["effect_id"].bytes)))
        if effect["drift"]:
            _print_indented(console, differences(effect["evidence"]))


def both_sides(effect: Mapping[str, Any]) -> Text:
    """`the agent said ok, the target says partial: DRIFT, a part of it landed`."""
    line = Text("the agent said ")
    line.append(word(effect["outcome"]))
    line.append(", the target says ")
    line.append(word(effect["verdict"] or ("nothing yet" if effect["target"] else "nothing: none is named")))
    means = shown(effect["means"] or "")
    if effect["drift"]:
        line.append(": ")
        line.append("DRIFT", style="bold red")
        line.append(f", {means}")
    elif means:
        line.append(f" ({means})")
    if effect["verdict_reason"]:
        line.append(f" ({shown(effect['verdict_reason'], _LONGEST_LINE)})")
    for said in decided(effect):
        line.append(f"; {shown(said, _LONGEST_LINE)}")
    return line


def decided(row: Mapping[str, Any]) -> list[str]:
    """What people decided on the verdict in force; a resolution outranks an acknowledgement."""
    if row.get("resolved_at") is not None:
        return [f"resolved {row['resolved_at']:%m-%d %H:%M} UTC by {row['resolved_by']}: {row['resolve_reason']}"]
    if row["acked_at"] is not None:
        return [f"acknowledged {row['acked_at']:%m-%d %H:%M} UTC by {row['acked_by']}: {row['ack_reason']}"]
    return []


def _print_indented(console: Console, lines: Iterable[str]) -> None:
    for line in lines:
        console.print(Padding(Text(shown(line, _LONGEST_DETAIL)), (0, 0, 0, 4)))


def _print_gaps(console: Console, timeline: Timeline) -> None:
    found = gaps(timeline.events)
    for gap in found[:_MOST_GAPS]:
        count = gap.last_seq - gap.first_seq + 1
        which = f"seq {gap.first_seq}" if count == 1 else f"seq {gap.first_seq} to {gap.last_seq}"
        many = "1 event is" if count == 1 else f"{count} events are"
        console.print(Text(f"\n{many} missing: {which} of producer {gap.producer_id.hex}", style="bold red"))
    if len(found) > _MOST_GAPS:
        console.print(Text(f"… and {len(found) - _MOST_GAPS} more gaps (see --json)", style="bold red"))


def drift_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """What does not match, both sides beside each other, and where to look."""
    table = Table(box=None, pad_edge=False)
    for column in ("found (UTC)", "agent said", "target says"):
        table.add_column(column, no_wrap=True)
    table.add_column("what, and where to look", overflow="fold")
    for row in rows:
        table.add_row(
            f"{row['found_at']:%m-%d %H:%M:%S}", word(row["outcome"] or "nothing"), word(row["verdict"]), _where(row)
        )
    return table


def _where(row: Mapping[str, Any]) -> Text:
    """The write or change, what that means, the rows, how they differ, and what to type next."""
    text = Text(
        shown(f"{row['tool']} → {row['target']}" if row["tool"] else f"a change at {row['target']}"), style="bold"
    )
    lines = [f"{row['means'] or ''}{' (given up)' if row['given_up'] else ''}", row["reason"] or ""]
    found = differences(row["evidence"], _DIFFERENCES_OF_A_ROW)
    lines += found or [f"rows {row['resources']}" if row["resources"] else f"arguments {compact(row['args'])}"]
    lines += decided(row)
    for line in filter(None, lines):
        text.append(f"\n{shown(line, _LONGEST_LINE)}", style="not bold")
    task = row["task_id"]
    tenant = f"tenant {shown(row['tenant'])}"
    look = tenant if task is None else f"counterfoil timeline {task.hex[:_TASK_DIGITS]}  # {tenant}"
    text.append(f"\n{look}\nid {row['drift_id'].hex}", style="not bold dim")
    return text


def word(said: str, before: str = "") -> Text:
    """A word of an outcome or a verdict in its colour."""
    return Text(f"{before}{shown(said, _LONGEST_WORD)}", style=_COLOURS.get(said, ""))
