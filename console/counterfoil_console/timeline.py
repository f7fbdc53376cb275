"""A task's events in the order in which they can have happened, and what the target says of its writes.

Order: causation, then (producer, seq), then occurred_at; log order is only a hint (DESIGN.md section 7).
"""

import heapq
import uuid
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from counterfoil.errors import CounterfoilError
from counterfoil_consumers.store import Connection, queries

_PREFIX_DIGITS = 8


class TaskNotFound(CounterfoilError):
    """No task, or more than one, has this name."""


@dataclass(frozen=True)
class Timeline:
    """One task: its row, its events in order, and its effects by id."""

    task: dict[str, Any]
    events: tuple[dict[str, Any], ...]
    effects: dict[uuid.UUID, dict[str, Any]]


def read_timeline(store: Connection, name: str, tenant: str | None = None) -> Timeline:
    """The timeline of the task called `name`: its task_ref, its id, or the first 8 or more digits of that.

    Raises TaskNotFound.
    """
    task = _find(store, name, tenant)
    named = queries("console")
    where = {"tenant": task["tenant"], "task_id": task["task_id"]}
    events = store.execute(named["task_events"], where).fetchall()
    effects = store.execute(named["task_effects"], where).fetchall()
    return Timeline(task, tuple(in_order(events)), {effect["effect_id"]: effect for effect in effects})


def _find(store: Connection, name: str, tenant: str | None) -> dict[str, Any]:
    digits = name.replace("-", "").lower()
    is_prefix = len(digits) >= _PREFIX_DIGITS and all(digit in "0123456789abcdef" for digit in digits)
    params = {"name": name, "tenant": tenant, "prefix": f"{digits}%" if is_prefix else ""}
    tasks = store.execute(queries("console")["find_tasks"], params).fetchall()
    if not tasks:
        recent = store.execute(queries("console")["recent_tasks"]).fetchall()
        known = ", ".join(row["name"] for row in recent)
        raise TaskNotFound(
            f"the store has no task {name!r}{f' of tenant {tenant}' if tenant else ''}; "
            + (f"the latest are {known}" if known else "it has none at all: is `counterfoil ingest` running?")
        )
    if len(tasks) > 1:
        found = ", ".join(f"{task['task_id'].hex} of {task['tenant']}" for task in tasks)
        raise TaskNotFound(f"{name!r} means several tasks: {found}; give more digits of the id, or --tenant")
    return tasks[0]


def in_order(events: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge the producers' sequences by time, never showing an event before its cause."""
    lanes: defaultdict[uuid.UUID, list[dict[str, Any]]] = defaultdict(list)
    for event in events:
        lanes[event["producer_id"]].append(event)
    for lane in lanes.values():
        lane.sort(key=lambda event: (-event["seq"], event["event_id"]))  # the next one is at the end
    present = {event["event_id"] for lane in lanes.values() for event in lane}
    ordered: list[dict[str, Any]] = []
    shown: set[uuid.UUID] = set()
    waiting: defaultdict[uuid.UUID, list[uuid.UUID]] = defaultdict(list)  # cause: lanes that wait for it
    heads: list[tuple[Any, uuid.UUID, uuid.UUID]] = []

    def offer(lane_id: uuid.UUID) -> None:
        lane = lanes[lane_id]
        if not lane:
            return
        cause = lane[-1]["causation_id"]
        if cause in present and cause not in shown:
            waiting[cause].append(lane_id)
        else:
            heapq.heappush(heads, (lane[-1]["occurred_at"], lane[-1]["event_id"], lane_id))

    for lane_id in lanes:
        offer(lane_id)
    while heads or any(waiting.values()):
        # Causes that wait for each other can't be true; they are shown rather than hidden.
        lane_id = heapq.heappop(heads)[2] if heads else next(filter(None, waiting.values())).pop()
        event = lanes[lane_id].pop()
        ordered.append(event)
        shown.add(event["event_id"])
        for released in waiting.pop(event["event_id"], []):
            offer(released)
        offer(lane_id)
    return ordered


def as_json(timeline: Timeline) -> dict[str, Any]:
    """Plain values: ids as 32 hex digits, times as ISO 8601."""
    return {
        "task": plain(timeline.task),
        "events": [plain(event) for event in timeline.events],
        "effects": [plain(effect) for effect in timeline.effects.values()],
    }


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """One row of the store as JSON values."""
    return {name: _value(value) for name, value in row.items()}


def _value(value: Any) -> Any:
    if isinstance(value, uuid.UUID):
        return value.hex
    if isinstance(value, (bytes, memoryview)):
        return bytes(value).hex()
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if value is None or isinstance(value, (bool, int, float, str, dict, list)):
        return value
    return str(value)


def gaps(events: Sequence[dict[str, Any]]) -> dict[uuid.UUID, list[int]]:
    """Numbers missing between the first and the last of each producer in these events."""
    seen: defaultdict[uuid.UUID, set[int]] = defaultdict(set)
    for event in events:
        seen[event["producer_id"]].add(event["seq"])
    missing = {producer: sorted(set(range(max(numbers))) - numbers) for producer, numbers in seen.items()}
    return {producer: numbers for producer, numbers in missing.items() if numbers}
