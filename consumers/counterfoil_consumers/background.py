"""Work that a service does beside its loop, in a thread and with a connection of its own."""

import logging
import threading
from abc import ABC, abstractmethod
from typing import ClassVar

logger = logging.getLogger("counterfoil.background")


class Background(ABC):
    """Works in a thread until `stop`, and begins anew after a pause where one of `retried` ended its work."""

    name: ClassVar[str]
    waits: ClassVar[str]  # what a warning says
    retried: ClassVar[tuple[type[Exception], ...]]
    backoff_seconds: ClassVar[float]

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"counterfoil-{self.name}", daemon=True)

    def start(self) -> None:
        """Work in a thread of its own until `stop`."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the batch in hand; what waits stays for the next one."""
        self._stopping.set()
        self._thread.join()

    @abstractmethod
    def _work(self, stopping: threading.Event) -> None:
        """Connect, and work until `stopping` is set."""

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._work(self._stopping)
            except self.retried as error:
                logger.warning("%s, next try in %g s: %s", self.waits, self.backoff_seconds, error)
                self._stopping.wait(self.backoff_seconds)
