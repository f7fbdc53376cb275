"""A task's events in the order in which they can have happened, and what the target says of its writes.

The view `timeline` of the store gives them in that order: causation, then (producer, seq), then occurred_at
(DESIGN.md section 7).
"""

import uuid
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from itertools import pairwise
from typing import Any

from counterfoil.errors import CounterfoilError
from counterfoil.ids import task_id_of
from counterfoil_consumers.store import Connection, queries

_PREFIX_DIGITS = 8


class TaskNotFound(CounterfoilError):
    """No task, or more than one, has this name."""


@dataclass(frozen=True)
class Gap:
    """Events of a producer that the store does not have: from `first_seq` to `last_seq`, both of them, too."""

    producer_id: uuid.UUID
    first_seq: int
    last_seq: int


@dataclass(frozen=True)
class Timeline:
    """One task: its row, its events in order, and its effects by id."""

    task: dict[str, Any]
    events: tuple[dict[str, Any], ...]
    effects: dict[uuid.UUID, dict[str, Any]]

    @property
    def dropped_events(self) -> int:
        """How many of the task's events are past their time and gone; what was folded of them stays."""
        return max(0, int(self.task["events"]) - len(self.events))


def read_timeline(store: Connection, name: str, tenant: str | None = None) -> Timeline:
    """The timeline of the task called `name`: its task_ref, its id, or the first 8 or more digits of that.

    Raises TaskNotFound.
    """
    task = find_task(store, name, tenant)
    named = queries("console")
    where = {"tenant": task["tenant"], "task_id": task["task_id"]}
    events = store.execute(queries("forensic")["timeline"], where).fetchall()
    effects = store.execute(named["task_effects"], where).fetchall()
    return Timeline(task, tuple(events), {effect["effect_id"]: effect for effect in effects})


def find_task(store: Connection, name: str, tenant: str | None = None, *, is_ref: bool = False) -> dict[str, Any]:
    """The row of the task called so; with `is_ref`, what looks like the first digits of an id is none.

    Raises TaskNotFound.
    """
    digits = name.replace("-", "").lower()
    is_prefix = not is_ref and len(digits) >= _PREFIX_DIGITS and all(digit in "0123456789abcdef" for digit in digits)
    # A name that was redacted is not in the store; the id that was made of it is.
    tenants = [tenant] if tenant else [row["tenant"] for row in store.execute(queries("console")["list_tenants"])]
    ids = [uuid.UUID(bytes=task_id_of(one, name)) for one in tenants]
    params = {"name": name, "tenant": tenant, "prefix": f"{digits}%" if is_prefix else "", "ids": ids}
    tasks = store.execute(queries("console")["find_tasks"], params).fetchall()
    if not tasks:
        recent = store.execute(queries("console")["recent_tasks"]).fetchall()
        known = ", ".join(row["name"] for row in recent)
        raise TaskNotFound(
            f"the store has no task {name!r}{f' of tenant {tenant}' if tenant else ''}; "
            + (f"the latest are {known}" if known else "it has none at all: is `counterfoil ingest` running?")
        )
    named = [
        task
        for task in tasks
        if name in (task["task_ref"], task["task_id"].hex, str(task["task_id"])) or task["task_id"] in ids
    ]
    tasks = named or tasks  # a name in full outranks the first digits of another's id
    if len(tasks) > 1:
        found = ", ".join(f"{task['task_id'].hex} of {task['tenant']}" for task in tasks)
        raise TaskNotFound(f"{name!r} means several tasks: {found}; give more digits of the id, or --tenant")
    return tasks[0]


def as_json(timeline: Timeline) -> dict[str, Any]:
    """Plain values: ids as 32 hex digits, times as ISO 8601."""
    return {
        "task": plain(timeline.task),
        "events": [plain(event) for event in timeline.events],
        "dropped_events": timeline.dropped_events,
        "effects": [plain(effect) for effect in timeline.effects.values()],
        "gaps": [plain(vars(gap)) for gap in gaps(timeline.events)],
        "costs": {currency: str(cost) for currency, cost in costs(timeline.events).items()},
    }


def plain(row: Mapping[str, Any]) -> dict[str, Any]:
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


def gaps(events: Iterable[Mapping[str, Any]]) -> list[Gap]:
    """The numbers that are missing before the last one of each producer."""
    seen: defaultdict[uuid.UUID, set[int]] = defaultdict(set)
    for event in events:
        seen[event["producer_id"]].add(event["seq"])
    found = []
    for producer_id, numbers in seen.items():
        for before, after in pairwise([-1, *sorted(numbers)]):
            if after - before > 1:
                found.append(Gap(producer_id, before + 1, after - 1))
    return found


def unanswered(events: Iterable[Mapping[str, Any]]) -> set[uuid.UUID]:
    """Ids of the intents that have no result yet."""
    intents = {event["event_id"] for event in events if event["kind"] == "tool_intent"}
    return intents - {event["causation_id"] for event in events if event["kind"] == "tool_result"}


def costs(events: Iterable[Mapping[str, Any]]) -> dict[str, Decimal]:
    """What the completions cost, by currency; what is no number is left out."""
    found: defaultdict[str, Decimal] = defaultdict(Decimal)
    for event in events:
        if event["kind"] != "completion" or event["unread"] or event["body"]["cost"] is None:
            continue
        try:
            cost = Decimal(event["body"]["cost"])
        except InvalidOperation:
            continue
        if cost.is_finite():
            found[event["body"]["currency"] or ""] += cost
    return dict(found)
