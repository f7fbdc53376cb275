"""Timelines and tables for a terminal. Every foreign text passes through `hostile.shown` first."""

import datetime as dt
import json
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from counterfoil_console.hostile import shown
from counterfoil_console.timeline import Timeline, gaps

_WIDTH = 160
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


def print_timeline(console: Console, timeline: Timeline) -> None:
    """Head, events in order, what the target says, and what the task cost."""
    task = timeline.task
    name = f"{shown(task['task_ref'])}  " if task["task_ref"] else ""
    console.print(Text(f"{shown(task['title'] or 'task')}  {name}{task['task_id'].hex}", style="bold"))
    facts = [
        f"tenant {task['tenant']}",
        f"workflow {task['workflow']}",
        f"agent {task['agent']}",
        task["status"] or "open",
    ]
    if task["subject_ref"]:
        facts.append(f"about {task['subject_ref']}")
    console.print(Text("  " + " · ".join(shown(fact) for fact in facts), style="dim"))
    console.print()
    start = task["first_at"]
    lines = Table.grid(padding=(0, 1))
    for column in ("time", "what", "detail"):
        lines.add_column(column, no_wrap=column != "detail", overflow="fold")
    for event in timeline.events:
        offset = (event["occurred_at"] - start).total_seconds()
        what, detail = _line(event, timeline.effects)
        lines.add_row(Text(f"+{offset:9.3f}", style="dim"), what, Text(shown(detail, 600)))
    console.print(lines)
    _print_effects(console, timeline.effects)
    _print_holes(console, timeline)
    tokens = f"{task['input_tokens']} tokens in, {task['output_tokens']} out"
    console.print(Text(f"\n{task['events']} events, {tokens}, cost {task['cost']}", style="dim"))


def _line(event: Mapping[str, Any], effects: Mapping[uuid.UUID, Mapping[str, Any]]) -> tuple[Text, str]:
    body = event["body"]
    if event["unread"] or body is None:
        return Text(shown(event["kind"]), style="magenta"), "unread: this version does not know the kind or its body"
    if event["kind"] == "tool_result":
        return _word(body["outcome"]), _result(body)
    if event["kind"] == "verdict":
        return _word(body["verdict"]), _verdict(event, effects)
    say = _DETAILS.get(event["kind"])
    return Text(shown(event["kind"])), compact(body) if say is None else say(body)


def _result(body: Mapping[str, Any]) -> str:
    seconds = f"{body['duration'] / 1e6:.3f} s"
    error = " ".join(part for part in (body["error_type"], body["error_message"]) if part)
    reply = "" if body["result"] is None else compact(body["result"])
    return " · ".join(part for part in (body["tool"], seconds, error, reply) if part)


def _verdict(event: Mapping[str, Any], effects: Mapping[uuid.UUID, Mapping[str, Any]]) -> str:
    body = event["body"]
    effect = effects.get(event["effect_id"])
    said = f"the agent said {effect['outcome']}, " if effect else ""
    means = f" ({effect['means']})" if effect and effect["means"] and effect["verdict"] == body["verdict"] else ""
    reason = f": {body['reason']}" if body["reason"] else ""
    return f"{body['tool'] or ''} {said}{body['target']} says {body['verdict']}{means}{reason}".strip()


def _intent(body: Mapping[str, Any]) -> str:
    where = f" → {body['target']}" if body["target"] else "" if not body["write"] else " → no target (uncovered)"
    step = f" step {body['step']}" if body["step"] else ""
    return f"{body['tool']}{where}{step} {compact(body['args'])}"


def _completion(body: Mapping[str, Any]) -> str:
    tokens = "" if body["output_tokens"] is None else f" [{body['input_tokens']}→{body['output_tokens']} tokens]"
    cost = "" if body["cost"] is None else f" [{body['cost']} {body['currency'] or ''}]"
    why = f" — because {body['rationale']}" if body["rationale"] else ""
    return f"{body['text']}{why}{tokens}{cost}"


_DETAILS: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "task_started": lambda body: body["title"] + ("" if body["input"] is None else f" {compact(body['input'])}"),
    "task_suspended": lambda body: body["reason"],
    "task_ended": lambda body: " ".join(
        part for part in (body["status"], body["error_type"], body["error_message"]) if part
    ),
    "message": lambda body: (
        f"{body['role']}: {body['content'] if isinstance(body['content'], str) else compact(body['content'])}"
    ),
    "prompt": lambda body: f"{body['model']}, {len(body['messages'])} messages",
    "completion": _completion,
    "retrieval": lambda body: f"{body['query']} → " + ", ".join(source["id"] for source in body["sources"]),
    "tool_intent": _intent,
    "observation": lambda body: f"{body['target']}: {compact(body['evidence'])}",
    "dead_lettered": lambda body: f"given up after {body['attempts']} checks: {body['reason']}",
}


def _print_effects(console: Console, effects: Mapping[uuid.UUID, Mapping[str, Any]]) -> None:
    if not effects:
        return
    console.print()
    table = Table(title="Writes: the agent said, the target says", title_justify="left", title_style="bold", box=None)
    for column in ("effect", "tool", "target", "attempts", "the agent said", "the target says", "drift", "means"):
        table.add_column(column, overflow="fold")
    for effect in effects.values():
        verdict = effect["verdict"] or ("settling" if effect["target"] else "not covered")
        table.add_row(
            effect["effect_id"].hex[:8],
            Text(shown(effect["tool"])),
            Text(shown(effect["target"] or "—")),
            str(effect["intents"]),
            _word(effect["outcome"]),
            _word(verdict),
            Text("drift", style="bold red") if effect["drift"] else Text("no" if effect["verdict"] else "—"),
            Text(shown(effect["means"] or "")),
        )
    console.print(table)
    for effect in effects.values():
        if effect["drift"]:
            console.print(Text(f"\n{effect['effect_id'].hex[:8]} {shown(effect['verdict_reason'] or '')}", style="red"))
            for line in differences(effect["evidence"]):
                console.print(Text(f"    {line}"))


def _print_holes(console: Console, timeline: Timeline) -> None:
    for producer, numbers in gaps(timeline.events).items():
        first = ", ".join(map(str, numbers[:10])) + (", …" if len(numbers) > 10 else "")
        console.print(
            Text(f"{len(numbers)} events of producer {producer.hex[-8:]} are missing: seq {first}", style="red")
        )


def drift_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """What does not match, both sides beside each other."""
    table = Table(box=None, pad_edge=False)
    for column in ("found", "tenant", "task", "tool", "what", "the agent said", "the target says", "means"):
        table.add_column(column, overflow="fold")
    for row in rows:
        what = row["resources"] or (compact(row["args"]) if row["args"] is not None else "")
        table.add_row(
            f"{row['found_at']:%H:%M:%S}",
            Text(shown(row["tenant"])),
            "—" if row["task_id"] is None else row["task_id"].hex[:8],
            Text(shown(row["tool"] or "—")),
            Text(shown(what, 90)),
            _word(row["outcome"] or "nothing"),
            _word(row["verdict"]),
            Text(shown(row["means"] or "") + (" · given up" if row["given_up"] else "")),
        )
    return table


def differences(evidence: Any, limit: int = 12) -> Iterable[str]:
    """Lines of an evidence that say where expected and observed differ."""
    found: list[str] = []
    _collect(evidence, found)
    yield from found[:limit]
    if len(found) > limit:
        yield f"… and {len(found) - limit} more"


def _collect(node: Any, found: list[str]) -> None:
    if isinstance(node, dict):
        if "expected" in node and "observed" in node and node["expected"] != node["observed"]:
            where = shown(node.get("field") or node.get("path") or node.get("resource") or "")
            expected, observed = compact(node["expected"]), compact(node["observed"])
            found.append(f"{where}: expected {shown(expected, 200)}, the target has {shown(observed, 200)}")
            return
        for part in node.values():
            _collect(part, found)
    elif isinstance(node, list):
        for part in node:
            _collect(part, found)


def compact(value: Any) -> str:
    """JSON on one line, without quotes around plain text."""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def _word(word: str) -> Text:
    return Text(shown(word), style=_COLOURS.get(word, ""))


def age(moment: dt.datetime, now: dt.datetime) -> str:
    """How long ago, in the largest fitting unit."""
    seconds = (now - moment).total_seconds()
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
