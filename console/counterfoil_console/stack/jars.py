"""The jars that Kafka runs from: exactly those of the lock file, by SHA-256, at every start.

A jar is downloaded only if it is missing. It is hashed before it appears under its name, so a name in the cache
is a whole file; what was altered later is refused, not repaired in silence.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import threading
import tomllib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from counterfoil_console.stack.errors import JarAltered, JarsMissing
from counterfoil_console.stack.locks import exclusive
from counterfoil_console.stack.progress import Progress, Report

LOCK_FILE = Path(__file__).with_name("kafka.lock.toml")
_DOWNLOADS_AT_ONCE = 4
_LOCK_TIMEOUT_SECONDS = 600.0
_DRAFT_PREFIX = ".download-"


@dataclass(frozen=True)
class LockedJar:
    """One jar by its Maven coordinates, with its exact content."""

    group: str
    artifact: str
    version: str
    sha256: str
    size_bytes: int

    @property
    def file_name(self) -> str:
        return f"{self.artifact}-{self.version}.jar"


class FetchFailed(Exception):
    """A jar could not be downloaded; the message is a few words that say why."""


class FetchJar(Protocol):
    """Downloads one jar into `folder` and returns its path there. It is called from several threads.

    `received` is to be called with the count of bytes after every piece; what it raises must pass through.
    Raises FetchFailed.
    """

    def __call__(self, jar: LockedJar, folder: Path, received: Callable[[int], None], /) -> Path: ...


def read_lock(path: Path = LOCK_FILE) -> tuple[LockedJar, ...]:
    """The jars of a lock file, in the order of the class path."""
    document = tomllib.loads(path.read_text("utf-8"))
    jars = []
    for entry in document["jar"]:
        group, artifact, version = entry["coordinates"].split(":")
        jars.append(LockedJar(group, artifact, version, entry["sha256"], entry["bytes"]))
    return tuple(jars)


def provide_jars(
    locked: Sequence[LockedJar], folder: Path, fetch: FetchJar, report: Report, stopped: threading.Event
) -> tuple[Path, ...]:
    """The verified class path; what is missing in `folder` is downloaded first.

    Setting `stopped` ends a download within one piece of it, as JarsMissing. Raises JarsMissing, JarAltered.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if any(not (folder / jar.file_name).exists() for jar in locked):
        with exclusive(folder / ".lock", _LOCK_TIMEOUT_SECONDS):
            _download([jar for jar in locked if not (folder / jar.file_name).exists()], folder, fetch,
                      _Meter(locked, folder, report, stopped))  # fmt: skip
    with ThreadPoolExecutor(_DOWNLOADS_AT_ONCE, thread_name_prefix="jar-hash") as pool:
        list(pool.map(lambda jar: _verify(jar, folder / jar.file_name), locked))
    return tuple(folder / jar.file_name for jar in locked)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verify(jar: LockedJar, path: Path) -> None:
    found = sha256_of(path)
    if found != jar.sha256:
        raise JarAltered(path, jar.sha256, found)


def _download(missing: Sequence[LockedJar], folder: Path, fetch: FetchJar, meter: _Meter) -> None:
    """Fetch each jar into a draft folder, verify it there, and move it to its name."""
    for leftover in folder.glob(f"{_DRAFT_PREFIX}*"):  # of a process that died; we hold the lock
        shutil.rmtree(leftover, ignore_errors=True)

    def one(jar: LockedJar) -> None:
        path = fetch(jar, drafts, meter.received)
        _verify(jar, path)
        path.replace(folder / jar.file_name)
        meter.finished(jar)

    with tempfile.TemporaryDirectory(prefix=_DRAFT_PREFIX, dir=folder) as name:
        drafts = Path(name)
        try:
            with ThreadPoolExecutor(_DOWNLOADS_AT_ONCE, thread_name_prefix="jar-fetch") as pool:
                try:
                    list(pool.map(one, missing))
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
        except FetchFailed as error:
            left = tuple(jar.file_name for jar in missing if not (folder / jar.file_name).exists())
            raise JarsMissing(left, meter.total, str(error)) from error


class _Meter:
    """Counts what has been downloaded and reports it, at most a few times a second."""

    _STEP_BYTES = 1_000_000

    def __init__(self, locked: Sequence[LockedJar], folder: Path, report: Report, stopped: threading.Event) -> None:
        here = [jar for jar in locked if (folder / jar.file_name).exists()]
        self.total = len(locked)
        self._total_bytes = sum(jar.size_bytes for jar in locked)
        self._done = len(here)
        self._done_bytes = sum(jar.size_bytes for jar in here)
        self._reported_bytes = self._done_bytes
        self._report = report
        self._stopped = stopped
        self._lock = threading.Lock()

    def received(self, count: int) -> None:
        if self._stopped.is_set():
            raise FetchFailed("interrupted")
        with self._lock:
            self._done_bytes += count
            if self._done_bytes - self._reported_bytes >= self._STEP_BYTES:
                self._tell("downloading Kafka")

    def finished(self, jar: LockedJar) -> None:
        with self._lock:
            self._done += 1
            self._tell(f"downloaded {jar.file_name}")

    def _tell(self, message: str) -> None:
        self._reported_bytes = self._done_bytes
        self._report(Progress("jars", message, self._done, self.total, self._done_bytes, self._total_bytes))
