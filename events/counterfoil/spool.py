"""Events on disk while the brokers are away: an SQLite file, written before anybody is told that it holds them.

Broker acknowledgement is the only way out of it. A full disk, or a full spool, is an error and never evicts.
SQLite's pages carry no checksums (https://www.sqlite.org/cksumvfs.html), so each row carries its own.
"""

import contextlib
import json
import os
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from counterfoil.errors import CounterfoilError
from counterfoil.failpoints import pass_by

Headers = tuple[tuple[str, str], ...]

_PAGE_BYTES = 4096
_FORMAT = 1
_OPEN = f"""
PRAGMA page_size = {_PAGE_BYTES};
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
PRAGMA locking_mode = EXCLUSIVE;
PRAGMA trusted_schema = OFF;
PRAGMA cell_size_check = ON;
"""
# `n` is the place in this producer's order, over all tasks.
_SCHEMA = f"""
BEGIN;
CREATE TABLE event (
    n INTEGER PRIMARY KEY, key BLOB NOT NULL, seq INTEGER NOT NULL, headers TEXT NOT NULL, value BLOB NOT NULL,
    crc32 INTEGER NOT NULL
);
PRAGMA user_version = {_FORMAT};
COMMIT;
"""
_INSERT = "INSERT OR REPLACE INTO event (n, key, seq, headers, value, crc32) VALUES (?, ?, ?, ?, ?, ?)"
_SELECT = "SELECT n, key, seq, headers, value, crc32 FROM event"
_RUNS = """
SELECT key, min(seq), max(seq) + 1
FROM (SELECT key, seq, seq - row_number() OVER (PARTITION BY key ORDER BY seq) AS island FROM event)
GROUP BY key, island ORDER BY key, 2
"""
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class SpoolFailed(CounterfoilError):
    """The spool can't take more for now: full, or its disk is."""


class SpoolDamaged(CounterfoilError):
    """The spool's file is not what was written."""


@dataclass(frozen=True, slots=True)
class Spooled:
    """One event as it goes to Kafka, and its place `n` in its producer's order."""

    n: int
    key: bytes
    seq: int
    headers: Headers
    value: bytes

    def row(self) -> tuple[int, bytes, int, str, bytes, int]:
        """As stored."""
        headers = json.dumps(self.headers)
        return self.n, self.key, self.seq, headers, self.value, _crc32(self.n, self.key, self.seq, headers, self.value)


class Spool:
    """One producer's spool. Of one thread at a time; whoever opens it holds its folder's lock.

    Every method raises SpoolDamaged when the file is not what was written, and SpoolFailed for now.
    """

    def __init__(self, path: Path, limit_bytes: int) -> None:
        self.path = path
        with _told(path):
            # SQLite gives its WAL the mode of the file.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            with _told(path):
                self._prepare(limit_bytes)
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self, limit_bytes: int) -> None:
        self._connection.executescript(_OPEN)
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            self._connection.executescript(_SCHEMA)
        elif version != _FORMAT:
            raise SpoolDamaged(f"the spool {self.path} has the format {version}, and {_FORMAT} is the one known here")
        self._connection.execute(f"PRAGMA max_page_count = {max(16, limit_bytes // _PAGE_BYTES)}")

    def append(self, events: Sequence[Spooled]) -> None:
        """Write all of them, or none; they are on disk when this returns."""
        with _told(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                self._connection.executemany(_INSERT, [event.row() for event in events])
                pass_by("spool.before_commit")
                self._connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("ROLLBACK")
                raise
        pass_by("spool.after_commit")

    def read(self, after: int, limit: int) -> list[Spooled]:
        """At most `limit` events behind the place `after`, in order."""
        with _told(self.path):
            rows = self._connection.execute(f"{_SELECT} WHERE n > ? ORDER BY n LIMIT ?", (after, limit)).fetchall()
            return [_checked(self.path, row) for row in rows]

    def remove(self, places: Iterable[int]) -> None:
        """The brokers have these."""
        pass_by("spool.before_remove")
        with _told(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany("DELETE FROM event WHERE n = ?", ((n,) for n in places))
            self._connection.execute("COMMIT")

    def runs(self) -> list[tuple[bytes, int, int]]:
        """What is in it, as runs of numbers: key, first seq, and the seq after the last."""
        with _told(self.path):
            return self._connection.execute(_RUNS).fetchall()

    def last_place(self) -> int:
        """The highest place given in it; 0 when it is empty."""
        with _told(self.path):
            return int(self._connection.execute("SELECT coalesce(max(n), 0) FROM event").fetchone()[0])

    def count(self) -> int:
        """How many events are in it."""
        with _told(self.path):
            return int(self._connection.execute("SELECT count(*) FROM event").fetchone()[0])

    def check(self) -> None:
        """Read everything once.

        Raises SpoolDamaged.
        """
        after = -(2**63)
        while events := self.read(after, 500):
            after = events[-1].n
        with _told(self.path):
            found = self._connection.execute("PRAGMA quick_check(1)").fetchone()
        if found is None or found[0] != "ok":
            raise SpoolDamaged(f"the spool {self.path} is damaged: {found and found[0]}")

    def close(self) -> None:
        """Leave the file as it is."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()

    def delete(self) -> None:
        """Close it and delete its files: nothing is in it any more."""
        self.close()
        for path in files_of(self.path):
            path.unlink(missing_ok=True)


def files_of(path: Path) -> list[Path]:
    """The files that SQLite keeps for the spool at `path`."""
    return [path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")]


def salvaged(path: Path) -> Iterator[Spooled]:
    """The events of a damaged spool that are as they were written, from both ends of the damage."""
    last = None
    for order in ("", " DESC"):
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            connection.executescript("PRAGMA trusted_schema = OFF; PRAGMA cell_size_check = ON;")
            for row in connection.execute(f"{_SELECT} ORDER BY n{order}"):
                if not _is_whole(row):
                    continue
                if not order:
                    last = row[0]
                elif last is not None and row[0] <= last:
                    return
                yield _spooled(row)
        except (sqlite3.Error, ValueError, OverflowError):
            continue
        finally:
            connection.close()


def _checked(path: Path, row: Any) -> Spooled:
    if not _is_whole(row):
        raise SpoolDamaged(f"the spool {path} is damaged: the event at {row[0]!r} is not as it was written")
    return _spooled(row)


def _spooled(row: Any) -> Spooled:
    n, key, seq, headers, value, _ = row
    return Spooled(n, key, seq, tuple((name, text) for name, text in json.loads(headers)), value)


def _is_whole(row: Any) -> bool:
    n, key, seq, headers, value, crc32 = row
    typed = zip((n, key, seq, headers, value), (int, bytes, int, str, bytes), strict=True)
    return all(type(item) is kind for item, kind in typed) and _crc32(n, key, seq, headers, value) == crc32


def _crc32(n: int, key: bytes, seq: int, headers: str, value: bytes) -> int:
    return zlib.crc32(value, zlib.crc32(key, zlib.crc32(f"{n}/{seq}/{len(key)}/{headers}".encode())))


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """SQLite's errors, and the disk's, as ours."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
        if code in _DAMAGED or (isinstance(error, sqlite3.OperationalError) and code == sqlite3.SQLITE_ERROR):
            raise SpoolDamaged(f"the spool {path} is damaged: {error}") from error
        raise SpoolFailed(f"the spool {path} can't be written: {error}") from error
    except OSError as error:
        raise SpoolFailed(f"the spool {path} can't be written: {error.strerror}") from error
    except (UnicodeDecodeError, ValueError) as error:
        raise SpoolDamaged(f"the spool {path} is damaged: {error}") from error
