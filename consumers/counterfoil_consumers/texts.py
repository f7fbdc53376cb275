"""Puts down the words of prompts and outputs, so that they can be searched: beside ingest, and never in its way.

Ingest only notes which texts wait; making their words costs more than all else that is done for an event
(docs/decisions/0016-full-text-search.md).
"""

import threading
import time

import psycopg

from counterfoil_consumers.background import Background
from counterfoil_consumers.errors import StoreAway, StoreError
from counterfoil_consumers.store import Connection, connect, fetch_one, queries

_BATCH = 100  # so that no batch of events waits long for a core
_PAUSE_SECONDS = 1.0
_BEHIND_SECONDS = 5.0
_MANY_EVENTS = 5_000  # that wait to be stored: a large batch


class TextIndexer(Background):
    """Puts down the words of waiting texts, from a thread of its own. Several, in several processes, share the work.

    While events wait to be stored, by any member of the group, they do little: words cost more than all else.
    """

    name = "texts"
    waits = "texts wait for their words"
    retried = (StoreAway, StoreError, psycopg.Error)
    backoff_seconds = 5.0

    def __init__(self, dsn: str) -> None:
        super().__init__()
        self._dsn = dsn

    def _work(self, stopping: threading.Event) -> None:
        with connect(self._dsn, "ingester", application="texts") as connection:
            while not stopping.is_set():
                begun = time.monotonic()
                if index_batch(connection) == 0:
                    stopping.wait(_PAUSE_SECONDS)
                elif is_behind(connection):
                    stopping.wait(_BEHIND_SECONDS)
                else:
                    stopping.wait(time.monotonic() - begun)  # half of a core is for others


def index_texts_now(dsn: str) -> int:
    """Put down the words of all texts that wait; returns how many those were.

    Raises StoreAway, StoreError.
    """
    with connect(dsn, "ingester", application="texts") as connection:
        total = 0
        while indexed := index_batch(connection):
            total += indexed
        return total


def is_behind(connection: Connection) -> bool:
    """Whether a member of the group lately had more events to read than a large batch holds."""
    return bool(fetch_one(connection, queries("ingest")["is_behind"], {"many": _MANY_EVENTS})["found"])


def index_batch(connection: Connection) -> int:
    """Put down the words of up to 100 waiting texts; returns their number, 0 where none waits for us."""
    return int(fetch_one(connection, queries("ingest")["index_texts"], {"most": _BATCH})["indexed"])
