"""Puts down the words of prompts and outputs, so that they can be searched: beside ingest, and never in its way.

Ingest only notes which texts wait; making their words costs more than all else that is done for an event
(docs/decisions/0016-full-text-search.md).
"""

import logging
import threading
from collections.abc import Callable

import psycopg

from counterfoil_consumers.errors import StoreAway, StoreError
from counterfoil_consumers.store import Connection, connect, fetch_one, queries

logger = logging.getLogger(__name__)

_BATCH = 100  # so that no batch of events waits long for a core
_PAUSE_SECONDS = 1.0
_BEHIND_SECONDS = 5.0
_BACKOFF_SECONDS = 5.0


class TextIndexer:
    """Puts down the words of waiting texts, from a thread of its own. Several, in several processes, share the work.

    While `is_behind` says that events wait to be stored, it does little: words cost more than all else of an event.
    """

    def __init__(self, dsn: str, is_behind: Callable[[], bool] = lambda: False) -> None:
        self._dsn = dsn
        self._is_behind = is_behind
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="counterfoil-texts", daemon=True)

    def start(self) -> None:
        """Work in a thread of its own until `stop`."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the batch in hand; what waits stays for the next one."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with connect(self._dsn, "ingester", application="texts") as connection:
                    while not self._stopping.is_set():
                        if index_batch(connection) == 0:
                            self._stopping.wait(_PAUSE_SECONDS)
                        elif self._is_behind():
                            self._stopping.wait(_BEHIND_SECONDS)
            except (StoreAway, StoreError, psycopg.Error) as error:
                logger.warning("texts wait for their words, next try in %g s: %s", _BACKOFF_SECONDS, error)
                self._stopping.wait(_BACKOFF_SECONDS)


def index_texts_now(dsn: str) -> int:
    """Put down the words of all texts that wait; returns how many those were.

    Raises StoreAway, StoreError.
    """
    with connect(dsn, "ingester", application="texts") as connection:
        total = 0
        while indexed := index_batch(connection):
            total += indexed
        return total


def index_batch(connection: Connection) -> int:
    """Put down the words of up to 100 waiting texts; returns their number, 0 where none waits for us."""
    return int(fetch_one(connection, queries("ingest")["index_texts"], {"most": _BATCH})["indexed"])
