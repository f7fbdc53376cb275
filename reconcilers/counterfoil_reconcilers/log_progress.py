"""How far the log is known: its ends as the brokers tell them, held against what the store has ingested."""

import datetime as dt
from collections.abc import Callable, Mapping, Sequence

from counterfoil_consumers.store import Connection, queries
from counterfoil_reconcilers.settling import Horizon, Producer, Progress


class LogProgress:
    """Lives as long as the reconciler: it remembers ends that ingest has yet to reach.

    `progress_key` names the ingesting consumer and its topic; `end_offsets` reads the topic's ends by partition. A
    producer that is silent for `lost_after` is not waited for.
    """

    def __init__(
        self, progress_key: Mapping[str, str], end_offsets: Callable[[], Sequence[int]], lost_after: dt.timedelta
    ) -> None:
        self._lost_after = lost_after
        self._progress_key = progress_key
        self._end_offsets = end_offsets
        self._horizon = Horizon()

    def read_ends(self) -> tuple[int, ...]:
        """The end offsets by partition.

        Raises BrokersAway.
        """
        return tuple(self._end_offsets())

    def read(self, store: Connection, tenant: str, now: dt.datetime) -> Progress:
        """How far the log is ingested, for one tenant; `now` by the store's clock.

        Raises BrokersAway.
        """
        ends = self.read_ends()
        self._horizon.note(now, ends)
        ingested = [0] * len(ends)
        for row in store.execute(queries("reconcile")["read_progress"], self._progress_key):
            ingested[row["partition"]] = row["next_offset"]
        producers = [
            Producer(
                row["partition"],
                row["beat_offset"],
                dt.timedelta(microseconds=row["beat_interval"] or 0),
                row["last_at"],
            )
            for row in store.execute(queries("reconcile")["find_open_producers"], {"tenant": tenant})
        ]
        return Progress(ingested, producers, self._horizon.reached(ingested), self._lost_after)
