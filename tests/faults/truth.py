"""What really became of each write, as whoever caused its fault knows it."""

import threading
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Truth:
    """One effect: the fault it met, the verdicts that would be right in the end, and whether it is drift."""

    fault: str
    shop: str
    effect_id: uuid.UUID
    order: str
    right: frozenset[str]
    is_drift: bool


@dataclass
class Ledger:
    """What happened, written down by all agents' threads."""

    truths: list[Truth] = field(default_factory=list)
    strays: set[tuple[str, str]] = field(default_factory=set)  # shop and order of writes that nobody declared
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, fault: str, shop: str, key: bytes, order: str, right: Iterable[str], *, is_drift: bool) -> None:
        """One effect."""
        with self._lock:
            self.truths.append(Truth(fault, shop, uuid.UUID(bytes=key), order, frozenset(right), is_drift))

    def note_stray(self, shop: str, order: str) -> None:
        """A write without an intent."""
        with self._lock:
            self.strays.add((shop, order))
