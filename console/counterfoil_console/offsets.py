"""Where ingest stands in the log, held against where the log begins and ends."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from counterfoil_console.lag import group_of
from counterfoil_console.settings import Settings
from counterfoil_consumers.store import Connection, fetch_one, queries
from counterfoil_consumers.topics import admin_client, end_offsets, start_offsets
from counterfoil_schemas import topics


@dataclass(frozen=True, slots=True)
class Place:
    """One partition: offsets of the log, [start, end), and the stored one, None before it was ever claimed."""

    partition: int
    start: int
    end: int
    stored: int | None
    epoch: int | None
    owner: str | None

    @property
    def lag(self) -> int:
        """Records that are not ingested yet, and still in the log."""
        return max(0, self.end - max(self.start, self.stored or 0))

    @property
    def lost(self) -> int:
        """Records that retention removed before they were ingested."""
        return 0 if self.stored is None else max(0, self.start - self.stored)

    @property
    def beyond(self) -> int:
        """By how much the stored offset is past the end of the log."""
        return 0 if self.stored is None else max(0, self.stored - self.end)


@dataclass(frozen=True, slots=True)
class Offsets:
    """All partitions; `others` are topics of this name that were ingested before it was made anew."""

    where: Mapping[str, str]
    places: Sequence[Place]
    others: Sequence[str]
    gaps: Sequence[Mapping[str, Any]]


def read_offsets(settings: Settings, store: Connection) -> Offsets:
    """Ask brokers and store.

    Raises BrokersAway, and TopicsError where there is no such topic.
    """
    topic = topics(settings.profile, settings.topic_prefix)["events"]
    admin = admin_client(settings.kafka)
    where = group_of(settings, admin, topic.name)
    rows = store.execute(queries("console")["list_offsets"], where).fetchall()
    own = {row["partition"]: row for row in rows if row["topic_id"] == where["topic_id"]}
    starts, ends = (of(admin, topic.name, topic.partitions) for of in (start_offsets, end_offsets))
    places = [
        Place(
            partition,
            starts[partition],
            ends[partition],
            own[partition]["next_offset"] if partition in own else None,
            own[partition]["epoch"] if partition in own else None,
            own[partition]["owner"] if partition in own else None,
        )
        for partition in range(topic.partitions)
    ]
    others = sorted({row["topic_id"] for row in rows if row["topic_id"] != where["topic_id"] and not row["retired_at"]})
    gaps = store.execute(queries("console")["list_log_gaps"], where).fetchall()
    return Offsets(where, places, others, gaps)


def skip(store: Connection, found: Offsets, partitions: Sequence[int], reason: str, by: str) -> dict[int, int]:
    """Move the stored offset of each of them to where the log begins; returns how many offsets each skipped."""
    skipped = {}
    with store.transaction():
        for partition in partitions:
            place = found.places[partition]
            params = {**found.where, "partition": partition, "to_offset": place.start, "reason": reason, "by": by}
            skipped[partition] = int(fetch_one(store, queries("console")["skip_offsets"], params)["skipped"])
    return skipped


def retire(store: Connection, found: Offsets, reason: str, by: str) -> int:
    """Let ingest go on with the topic as it is now; returns how many partitions of former ones were given up."""
    params = {**found.where, "reason": reason, "by": by}
    return int(fetch_one(store, queries("console")["retire_topics"], params)["partitions"])
