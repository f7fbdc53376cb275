"""Things of which each is used by one thread at a time, such as connections: made when needed, kept for the next."""

import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

Thing = TypeVar("Thing")


class Lender(Generic[Thing]):
    """Lends things; who lends at most so many threads at once has at most so many things. Thread-safe."""

    def __init__(
        self, make: Callable[[], Thing], is_fit: Callable[[Thing], bool], end: Callable[[Thing], None]
    ) -> None:
        self._make = make
        self._is_fit = is_fit
        self._end = end
        self._idle: queue.LifoQueue[Thing] = queue.LifoQueue()

    @contextmanager
    def lent(self) -> Iterator[Thing]:
        """One for the length of a block; what is not fit afterwards is ended."""
        try:
            thing = self._idle.get_nowait()
        except queue.Empty:
            thing = self._make()
        try:
            yield thing
        except BaseException:
            self._end(thing)
            raise
        if self._is_fit(thing):
            self._idle.put(thing)
        else:
            self._end(thing)

    def close(self) -> None:
        """End those that nobody uses."""
        while True:
            try:
                self._end(self._idle.get_nowait())
            except queue.Empty:
                return
