"""What happened to one row of a target: what agents did and said, what was found there, and what people did.

A write is known to be of a row once a verdict says so; one that is still open is not here.
"""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from counterfoil.errors import CounterfoilError, UsageError
from counterfoil_console.rows import RowName
from counterfoil_console.timeline import plain
from counterfoil_consumers.store import Connection, fetch_one, queries


class HistoryNotFound(CounterfoilError):
    """No row, or one of several tenants, has this name."""


@dataclass(frozen=True)
class History:
    """A page of it, the earliest first; `earlier` if there is more before it."""

    tenant: str
    row: RowName
    events: tuple[Mapping[str, Any], ...]
    earlier: bool


def read_history(
    store: Connection, row: RowName, tenant: str | None = None, *, before: uuid.UUID | None = None, limit: int = 200
) -> History:
    """The latest events of a row, or the latest before one of them, in the order in which they can have happened.

    Raises HistoryNotFound.
    """
    where = {"target": row.target, "resource": row.resource, "key": row.key}
    owner = _owner(store, row, tenant)
    page = {**where, "tenant": owner, "before": before, "limit": limit + 1}
    if before is not None and not _has_event(store, {**where, "tenant": owner, "event_id": before}):
        raise HistoryNotFound(f"no event {before.hex} stands in the history of {row}; take one that it shows")
    found = store.execute(queries("forensic")["history"], page).fetchall()
    return History(owner, row, tuple(reversed(found[:limit])), len(found) > limit)


def event_id_of(given: str) -> uuid.UUID:
    """An event's id as it is shown.

    Raises UsageError.
    """
    try:
        return uuid.UUID(given)
    except ValueError:
        raise UsageError(f"{given[:60]!r} is no event's id; give all of its 32 hex digits") from None


def as_json(history: History) -> dict[str, Any]:
    """Plain values; `earlier` is the event to give as `--before`, or null."""
    return {
        "tenant": history.tenant,
        "target": history.row.target,
        "resource": history.row.resource,
        "key": history.row.key,
        "events": [plain(event) for event in history.events],
        "earlier": history.events[0]["event_id"].hex if history.earlier and history.events else None,
    }


def _owner(store: Connection, row: RowName, tenant: str | None) -> str:
    where = {"tenant": tenant, "target": row.target, "resource": row.resource, "key": row.key}
    owners = [found["tenant"] for found in store.execute(queries("console")["find_row_tenants"], where)]
    if len(owners) == 1:
        return str(owners[0])
    if owners:
        raise HistoryNotFound(f"{row} is a row of {', '.join(owners)}; give --tenant")
    known = store.execute(queries("console")["known_rows"], {"tenant": tenant}).fetchall()
    told = ", ".join(f"{one['target']} {one['resource']}" for one in known)
    raise HistoryNotFound(
        f"the store knows no write to {row}, and no change there; "
        + (f"it knows rows of {told}" if told else "no verdict has named a row yet")
    )


def _has_event(store: Connection, where: Mapping[str, Any]) -> bool:
    return bool(fetch_one(store, queries("console")["has_event_of_row"], dict(where))["found"])
