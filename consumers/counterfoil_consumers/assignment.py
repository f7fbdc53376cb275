"""Which partitions the group gives this member, and its claim on each.

A partition is claimed with the next epoch when it is assigned, and read from its stored offset. Whoever was fenced, or
lost the store, gives its claims up and claims again after its next poll, if the group still gives it these partitions.
"""

import logging
import os
import platform
import time
from collections.abc import Mapping, Sequence

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from counterfoil.failpoints import pass_by
from counterfoil_consumers.errors import BrokersAway, IngestStopped
from counterfoil_consumers.projection import Claim
from counterfoil_consumers.store import Connection, fetch_one, queries
from counterfoil_consumers.suspicion import suspicion_of
from counterfoil_consumers.topics import end_offsets, start_offsets

logger = logging.getLogger("counterfoil.ingest")

_BACKOFF_SECONDS = (0.1, 0.5, 1.0, 2.0, 5.0)


class Assignment:
    """The partitions of one topic for one group member. `claims` holds exactly what this owner last wrote.

    `joined` says whether the group has told this member which partitions it gets, be it none.
    """

    def __init__(self, admin: AdminClient, topic: str, partitions: int, where: Mapping[str, str]) -> None:
        self.claims: dict[int, Claim] = {}
        self.joined = False
        self._admin = admin
        self._topic = topic
        self._partitions = partitions
        owner = f"{platform.node()}:{os.getpid()}:{time.monotonic_ns()}"
        self._where = {**where, "topic": topic, "owner": owner}
        self._given: set[int] = set()
        self._failures = 0
        self._claim_at = 0.0

    def give(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        """The group gives us these; they are claimed after this poll."""
        self.joined = True
        self._given |= {partition.partition for partition in partitions}
        consumer.incremental_assign([])  # else the client would assign them itself, at Kafka's own offsets
        self._claim_at = 0.0

    def take_away(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        """The group takes these, or we lost them."""
        gone = {partition.partition for partition in partitions}
        self._given -= gone
        self._release(consumer, gone & set(self.claims))

    def give_up_claims(self, consumer: Consumer) -> None:
        """What we believed is not to be trusted any more; claimed again, partitions are read from where the store ends.

        Each time in a row the next claim comes later, up to 5 s.
        """
        self._release(consumer, set(self.claims))
        self._back_off()

    def leave(self, store: Connection, partitions: Sequence[TopicPartition]) -> None:
        """Say that these are given back in good order, before they are."""
        gone = [partition.partition for partition in partitions]
        store.execute(queries("ingest")["leave_offsets"], {**self._where, "partitions": gone})

    def place_of(self, partition: int) -> Mapping[str, object]:
        """By which names the store knows a partition's offset."""
        return {**self._where, "partition": partition}

    def clear_suspects(self, store: Connection, partition: int) -> None:
        """Say that what was put down of it is decoded."""
        store.execute(queries("ingest")["clear_suspects"], self.place_of(partition))

    def claim_at_once(self) -> None:
        """There is nobody to make room for."""
        self._failures = 0
        self._claim_at = 0.0

    def may_claim(self) -> bool:
        """Whether something is given that is not claimed, and its time has come."""
        return not self._given <= self.claims.keys() and time.monotonic() >= self._claim_at

    def claim_given(self, consumer: Consumer, store: Connection) -> None:
        """Claim what is given and not claimed, and read it from where the store ends.

        Raises IngestStopped when going on would lose or repeat events. Brokers that are away are asked again later.
        """
        if not self.may_claim():
            return
        try:
            claimed = self._claim(sorted(self._given - self.claims.keys()), store)
        except BrokersAway as error:
            self._back_off()
            logger.warning("partitions are claimed again soon: %s", str(error).splitlines()[0])
            return
        pass_by("ingest.after_claim")
        self._failures = 0
        self.claims.update(claimed)
        consumer.incremental_assign(
            [TopicPartition(self._topic, p, claim.first_offset) for p, claim in claimed.items()]
        )
        logger.info("claimed %s", ", ".join(f"{p}@{claim.next_offset}" for p, claim in claimed.items()))

    def _claim(self, partitions: Sequence[int], store: Connection) -> dict[int, Claim]:
        starts = start_offsets(self._admin, self._topic, self._partitions)
        ends = end_offsets(self._admin, self._topic, self._partitions)
        claimed: dict[int, Claim] = {}
        with store.transaction():
            for partition in partitions:
                params = {**self._where, "partition": partition, "start": starts[partition]}
                row = fetch_one(store, queries("ingest")["claim_offset"], params)
                stored = row["next_offset"]
                _refuse_jump(self._topic, partition, stored, starts[partition], ends[partition])
                last = row["last_sha256"] if stored > starts[partition] else None
                claimed[partition] = Claim(stored, row["epoch"], stored, suspicion_of(row), last)
            pass_by("ingest.before_claim")
        return claimed

    def _release(self, consumer: Consumer, partitions: set[int]) -> None:
        # Of none too: in a callback the client would else unassign what it was never assigned, and raise.
        consumer.incremental_unassign([TopicPartition(self._topic, partition) for partition in sorted(partitions)])
        for partition in partitions:
            del self.claims[partition]

    def _back_off(self) -> None:
        self._claim_at = time.monotonic() + _BACKOFF_SECONDS[min(self._failures, len(_BACKOFF_SECONDS) - 1)]
        self._failures += 1


def _refuse_jump(topic: str, partition: int, stored: int, start: int, end: int) -> None:
    where = f"partition {partition} of {topic}"
    if stored < start:
        raise IngestStopped(
            f"{where} begins at offset {start} and {stored} is stored: retention removed {start - stored} records "
            "before they were ingested; restore them, or put their loss on record with `counterfoil offsets skip`"
        )
    if stored > end:
        raise IngestStopped(
            f"{where} ends at offset {end} and {stored} is stored: the log is shorter than what was ingested from it, "
            "so it was restored from an older state or truncated; restore it, or ingest it under another topic_prefix"
        )
