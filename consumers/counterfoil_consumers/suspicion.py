"""A record may end the process that decodes it: a fault in a library, memory. Who comes next finds out which one.

Claims in a row that neither moved a partition nor gave it back raise the suspicion. From then on records are decoded a
hundred at a time, each hundred put down, and committed, before; where a process ended over a hundred, the next one puts
down each record of it alone. One that ends process after process that way is set aside undecoded.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from counterfoil_consumers.errors import Fenced
from counterfoil_consumers.store import Connection, queries

_CLAIMS = 3
MOST_TRIES = 3
_TOGETHER = 100
# As many as two batches hold: what ended a process was in its first one, or in the second, before the first was stored.
_RECORDS = 10_000


@dataclass(slots=True)
class Suspicion:
    """Of one claim: over which offsets, [first, end), a process ended; how far they are put down; how many are left."""

    first: int
    end: int
    put_down: int = -1
    left: int = _RECORDS

    def is_guilty(self, store: Connection, where: Mapping[str, object], epoch: int, offset: int) -> bool:
        """Put the record down unless it is; returns whether it has ended too many processes to be decoded again.

        Raises Fenced, and psycopg's errors.
        """
        self.left -= 1
        if offset < max(self.put_down, self.first):  # what stands before was decoded by whom it ended later
            return False
        is_alone = offset < self.end
        end = offset + 1 if is_alone else offset + _TOGETHER
        params = {**where, "offset": offset, "end": end, "epoch": epoch}
        row = store.execute(queries("ingest")["try_suspect"], params).fetchone()
        if row is None:
            raise Fenced(f"partition {where['partition']} is no longer ours at epoch {epoch}")
        self.put_down = end
        return is_alone and row["suspect_tries"] > MOST_TRIES


def suspicion_of(row: Mapping[str, int | None]) -> Suspicion | None:
    """What a claim's row says: None where nothing is to be feared."""
    if row["suspect_tries"]:
        return Suspicion(row["suspect_offset"] or 0, row["suspect_end"] or 0)
    return Suspicion(0, 0) if (row["idle_claims"] or 0) >= _CLAIMS else None
