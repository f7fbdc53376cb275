"""Where events on their way come from: this producer's folder, or a dead one's that was adopted."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from counterfoil.folder import ProducerFolder
from counterfoil.spool import SpoolDamaged, Spooled, salvaged
from counterfoil.tally import Numbers, Tally

Run = tuple[bytes, int, int]  # of the task with this key, the numbers from the first to before the second
Gap = tuple[Numbers, int, int]

_MOST_AT_ONCE = 500
_BEFORE_ALL = -(2**62)  # a place before every other


@dataclass(frozen=True, slots=True)
class Damage:
    """A spool that was set aside: what was wrong, where it is now, how many events were saved, and what is lost."""

    problem: str
    kept: Path
    saved: int
    lost: Sequence[Gap]

    def __str__(self) -> str:
        return f"{self.problem}; set aside as {self.kept}, {self.saved} events saved"


class Home:
    """One producer's events on disk, as far as the delivery has come with them.

    Its owner's lock guards `landed`; all else is of the thread that tends the spool.
    """

    def __init__(self, folder: ProducerFolder | None) -> None:
        self.folder = folder
        self.tally = Tally() if folder is None else folder.tally
        self.rows = 0  # in the spool
        self.waiting = 0  # of these, not handed to librdkafka
        self.handed = 0  # the last place that was
        self.landed: list[int] = []  # places to take out of the spool
        self.is_unfinished = False  # sent by this process, and finished by another one that has the keys

    def take_up(self) -> None:
        """All that is in the spool waits.

        Raises SpoolFailed and SpoolDamaged.
        """
        if self.folder is not None and self.folder.has_spool:
            self.rows = self.waiting = self.folder.spool.count()
            self.handed = _BEFORE_ALL

    def append(self, events: Sequence[Spooled]) -> None:
        """Put events on disk, all or none.

        Raises SpoolFailed and SpoolDamaged.
        """
        assert self.folder is not None  # noqa: S101  # asked for by whoever knows that there is one
        self.folder.spool.append(events)

    def next_rows(self, limit: int) -> list[Spooled]:
        """What waits next.

        Raises SpoolFailed and SpoolDamaged.
        """
        if self.folder is None or not self.waiting:
            return []
        rows = self.folder.spool.read(self.handed, limit)
        if not rows:
            raise SpoolDamaged(f"the spool in {self.folder.path} lacks {self.waiting} events that it was given")
        return rows

    def take_out(self, landed: Sequence[int]) -> None:
        """The brokers have these; an empty spool gives its disk space back.

        Raises SpoolFailed and SpoolDamaged.
        """
        if self.folder is None:
            return
        if landed:
            self.folder.spool.remove(landed)
            self.rows -= len(landed)
        if self.rows <= 0:
            self.rows = 0
            self.folder.drop_spool()

    def leave(self) -> None:
        """All of it is sent: its folder goes, or waits for a process that has the keys to finish it."""
        assert self.folder is not None  # noqa: S101  # only what has one is adopted
        if self.is_unfinished:
            self.folder.release()
        else:
            self.folder.remove()

    def set_aside(self, error: SpoolDamaged, known: Iterable[Run], handed: Collection[int]) -> Damage:
        """Begin a new spool with what is whole in the damaged one.

        `known` are numbers that are elsewhere, `handed` the places that librdkafka has and that it goes on without.
        Raises OSError and SpoolFailed.
        """
        assert self.folder is not None  # noqa: S101  # it is its spool that is damaged
        kept = self.folder.set_aside()
        self.landed.clear()
        self.rows = self.waiting = 0
        batch: list[Spooled] = []
        for event in salvaged(kept):
            if event.n not in handed and event.seq >= self.tally.numbers(event.key).acknowledged:
                batch.append(event)
            if len(batch) >= _MOST_AT_ONCE:
                self._save(batch)
        self._save(batch)
        self.handed = _BEFORE_ALL
        saved = self.folder.spool.runs() if self.rows else []
        return Damage(str(error), kept, self.rows, list(unaccounted(self.tally, (*saved, *known))))

    def give_up(self, error: SpoolDamaged, known: Iterable[Run]) -> Damage:
        """Go on without the damaged spool, which can't even be set aside."""
        assert self.folder is not None  # noqa: S101  # as above
        self.landed.clear()
        self.rows = self.waiting = 0
        return Damage(str(error), self.folder.path, 0, list(unaccounted(self.tally, known)))

    def _save(self, batch: list[Spooled]) -> None:
        if batch:
            self.append(batch)
        self.rows += len(batch)
        self.waiting += len(batch)
        batch.clear()


def unaccounted(tally: Tally, safe: Iterable[Run]) -> Iterator[Gap]:
    """Runs of numbers that were given out, that no broker is known to have, and that are not `safe` elsewhere."""
    by_key: dict[bytes, list[tuple[int, int]]] = {}
    for key, first, end in safe:
        by_key.setdefault(key, []).append((first, end))
    for numbers in tally:
        at = numbers.acknowledged
        for first, end in sorted(by_key.get(numbers.key, ())):
            if at < first:
                yield numbers, at, min(first, numbers.next_seq)
            at = max(at, end)
        if at < numbers.next_seq:
            yield numbers, at, numbers.next_seq


def count_of(gaps: Iterable[Gap]) -> int:
    """How many numbers they span."""
    return sum(end - first for _, first, end in gaps)
