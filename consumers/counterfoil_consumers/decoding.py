"""From the records of a batch to rows and refusals: who sent each, what it says, and whether decoding it may end us."""

from collections.abc import Callable, Sequence

from counterfoil.framing import Framing
from counterfoil.ids import OPERATORS
from counterfoil_consumers.assignment import Assignment
from counterfoil_consumers.errors import BadRecord
from counterfoil_consumers.letters import Refused
from counterfoil_consumers.projection import Claim
from counterfoil_consumers.records import Reader, Record, Row
from counterfoil_consumers.signatures import Signatures, TenantKeys
from counterfoil_consumers.store import Connection, queries
from counterfoil_consumers.suspicion import MOST_TRIES, Suspicion
from counterfoil_consumers.window import open_window


class Decoder:
    """Decodes the records of one log for as long as one connection to the store lives; a part of ingest's loop.

    `admit` registers tenants at first sight. `wait` is called before the store is used, which another thread may be
    using, and `beat` after each record that can't be stored.
    """

    def __init__(
        self,
        store: Connection,
        assignment: Assignment,
        source_id: int,
        framing: Framing,
        *,
        admit: bool,
        wait: Callable[[], None],
        beat: Callable[[], None],
    ) -> None:
        self._store = store
        self._assignment = assignment
        self._admit = admit
        self._wait = wait
        self._beat = beat
        self._tenants = self._known_tenants()
        self._signatures = Signatures(self._read_keys)
        self._reader = Reader(source_id, open_window(store), framing, self._signatures)

    def open_window(self) -> bool:
        """Make partitions ahead, and learn which there are; returns whether they are others than before."""
        before, self._reader.window = self._reader.window, open_window(self._store)
        return self._reader.window != before

    def decode(self, records: Sequence[Record]) -> tuple[list[Row], list[Refused]]:
        """Each record is in one of both.

        Raises RegistryError where nothing can be said of one now, Fenced, and psycopg's errors.
        """
        self._signatures.begin_batch()
        rows, refused = self._decode(records)
        strangers = {row.tenant for row in rows} - self._tenants
        if strangers:
            rows, foreign = self._meet(strangers, rows)
            refused += foreign
        for one in refused:
            if one.reason.tenant not in self._tenants:
                one.reason.tenant = None  # only claimed: for operators alone
        return rows, refused

    def _decode(self, records: Sequence[Record]) -> tuple[list[Row], list[Refused]]:
        rows: list[Row] = []
        refused: list[Refused] = []
        claims = self._assignment.claims
        suspected: int | None = None
        for record in records:
            claim = claims[record.partition]
            if suspected is not None and suspected != record.partition:  # else it would be blamed for this one
                self._clear(suspected)
                suspected = None
            try:
                if claim.suspicion is not None:
                    suspected = record.partition
                    self._put_down(record, claim, claim.suspicion)
                rows.append(self._reader.row(record))
            except BadRecord as reason:
                refused.append(Refused(record, reason))
                self._beat()  # a registry may have been asked about each of thousands
        if suspected is not None:
            self._clear(suspected)
        return rows, refused

    def _put_down(self, record: Record, claim: Claim, suspicion: Suspicion) -> None:
        """Before a record is decoded that may end this process; raises BadRecord where it has ended too many."""
        self._wait()
        where = self._assignment.place_of(record.partition)
        if suspicion.is_guilty(self._store, where, claim.epoch, record.offset):
            claim.suspicion = None
            raise BadRecord(f"ingest ended {MOST_TRIES} times while it decoded this record alone")
        if not suspicion.left:
            claim.suspicion = None

    def _clear(self, partition: int) -> None:
        """What was put down of it is decoded; what comes next is put down anew."""
        self._assignment.clear_suspects(self._store, partition)
        suspicion = self._assignment.claims[partition].suspicion
        if suspicion is not None:
            suspicion.put_down = -1

    def _meet(self, strangers: set[str], rows: Sequence[Row]) -> tuple[list[Row], list[Refused]]:
        """Look for tenants not met before; their rows that may be stored stay, the others are foreign."""
        self._wait()
        if self._admit:
            self._store.execute(queries("ingest")["admit_tenants"], {"names": sorted(strangers)})
        self._tenants = self._known_tenants()
        self._signatures.read_again()  # after the tenants: whoever is known as signed is known with the keys
        met: list[Row] = []
        foreign: list[Refused] = []
        for row in rows:
            if row.tenant not in self._tenants:
                foreign.append(Refused(row.record, _foreign(row), row))
                continue
            try:
                if row.tenant in strangers:
                    self._signatures.check(row.record)
            except BadRecord as reason:
                foreign.append(Refused(row.record, reason))
            else:
                met.append(row)
        return met, foreign

    def _known_tenants(self) -> set[str]:
        """Those that are registered, and the reserved one."""
        return {OPERATORS} | {row["tenant"] for row in self._store.execute(queries("ingest")["find_tenants"])}

    def _read_keys(self) -> TenantKeys:
        self._wait()
        return TenantKeys.of_rows(self._store.execute(queries("ingest")["find_tenant_keys"]))


def _foreign(row: Row) -> BadRecord:
    return BadRecord(
        f"the tenant {row.tenant!r} is not registered; run `counterfoil tenant add {row.tenant}`", "foreign"
    )
