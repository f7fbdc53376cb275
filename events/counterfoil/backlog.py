"""What waits in memory behind the window: for a disk, for room, or to be sent again."""

from collections import deque
from collections.abc import Iterator
from itertools import islice

from counterfoil.window import Outgoing, Window


class Backlog:
    """In order of place, at most `limit_bytes` of new ones. Not thread-safe: its owner holds a lock.

    Of a batch that the brokers refused, every event is a suspect: it is sent again alone, to tell which one they mean.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._waiting: deque[Outgoing] = deque()
        self._returned: list[Outgoing] = []
        self._suspects: set[tuple[int, int]] = set()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._returned)

    def __iter__(self) -> Iterator[Outgoing]:
        yield from self._returned
        yield from self._waiting

    @property
    def is_half_full(self) -> bool:
        """Whether it is time to wait for a disk."""
        return self._bytes >= self._limit_bytes // 2

    def add(self, out: Outgoing) -> bool:
        """Put one behind all others; False if there is no room."""
        if self._bytes + out.size > self._limit_bytes:
            return False
        self._waiting.append(out)
        self._bytes += out.size
        return True

    def first(self) -> Outgoing | None:
        """What is to be sent next."""
        return self._waiting[0] if self._waiting else None

    def head(self, count: int) -> list[Outgoing]:
        """The first ones."""
        return list(islice(self._waiting, count))

    def pop(self) -> Outgoing:
        """Take the first one out."""
        out = self._waiting.popleft()
        self._bytes -= out.size
        return out

    def give_back(self, out: Outgoing) -> None:
        """librdkafka gave this one back; it goes to its place once all are back."""
        self._returned.append(out)

    def merge_returned(self) -> None:
        """Put what was given back to its place, before all that came later."""
        if self._returned:
            self._bytes += sum(out.size for out in self._returned)
            self._waiting = deque(sorted((*self._returned, *self._waiting), key=lambda out: out.n))
            self._returned.clear()

    def suspect(self, out: Outgoing) -> None:
        """Its batch was refused."""
        self._suspects.add(out.place)

    def clear_suspect(self, out: Outgoing) -> None:
        """It was answered for by itself."""
        self._suspects.discard(out.place)

    def is_suspect(self, out: Outgoing) -> bool:
        """Whether its batch was refused before."""
        return out.place in self._suspects

    @property
    def has_suspects(self) -> bool:
        """Whether some are yet to be sent alone."""
        return bool(self._suspects)

    def may_follow(self, out: Outgoing, window: Window) -> bool:
        """Whether it may be handed over behind what the window holds."""
        if self._suspects and len(window):
            is_alone = any(one.place in self._suspects for one in window)
            return not is_alone and out.place not in self._suspects and window.room > 0
        return window.room > 0
