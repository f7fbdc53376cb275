"""Texts too large for an event, kept under their digest: the event carries a claim check in their place.

A text is on this disk, synced, before its event is numbered. Where a blob store is set, a thread takes it there; what a
dead process left, the next one of this machine takes. (Claim check: Hohpe and Woolf, Enterprise Integration Patterns.)
"""

import contextlib
import hashlib
import json
import logging
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from pathlib import Path
from typing import Any, NamedTuple, Self

from counterfoil.blob_store import BlobStore
from counterfoil.errors import BlobMissing
from counterfoil.failpoints import pass_by
from counterfoil.ids import new_id
from counterfoil.lists import OMITTED, beginning, list_text, weight_of
from counterfoil.redaction import Redacted
from counterfoil.settings import RecorderSettings
from counterfoil_schemas import json_fields

logger = logging.getLogger("counterfoil")

_CLAIM = "$blob"
_JSON, _TEXT = "application/json", "text/plain; charset=utf-8"
_HEAD_CHARACTERS = 500
_LEAST_CHARACTERS = 4 * _HEAD_CHARACTERS  # below it, a claim check saves nothing worth the way
_RETRY_SECONDS = (1.0, 30.0)
_SHA256 = re.compile("[0-9a-f]{64}")
_NONE: "list[Future[None]]" = []


class Claim(NamedTuple):
    """What stands for a text: its SHA-256 in hex, its size in bytes as UTF-8, and its media type."""

    sha256: str
    size_bytes: int
    media_type: str


class Blobs:
    """Keeps the large texts of one process's events. Thread-safe; of no use in a forked child."""

    def __init__(self, settings: RecorderSettings) -> None:
        self._limit = settings.inline_limit_bytes
        self._directory = settings.blob_directory
        self._store = None if settings.blob_store is None else BlobStore(settings)
        self._room = settings.spool_limit_bytes
        self._carrier: Carrier | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Take away what dead processes left."""
        if self._store is not None and next(_waiting(self._directory), None) is not None:
            self._started_carrier()

    def lightened(self, tenant: str, kind: str, body: Redacted) -> "tuple[Redacted, list[Future[None]]]":
        """The body with its largest texts replaced until the rest is within the limit, and when each is in the store.

        Of a list, the beginning stays. Never raises: what can't be kept stays where it is.
        """
        if _weight(body) <= self._limit:
            return body, _NONE
        lighter, carried = dict(body), []
        for name in sorted(body, key=lambda name: weight_of(body[name]), reverse=True):
            value = lighter[name]
            if weight_of(value) < _LEAST_CHARACTERS or _weight(lighter) <= self._limit:
                break
            is_text = isinstance(value, str)
            if not is_text and OMITTED not in body:
                continue
            is_json = name in json_fields(kind) or not is_text
            text = value if is_text else list_text(value)
            content = text.encode("utf-8", "backslashreplace")
            claim = Claim(hashlib.sha256(content).hexdigest(), len(content), _JSON if is_json else _TEXT)
            try:
                carried += self._keep(tenant, claim, content)
            except OSError as error:
                logger.warning("a %s of %d bytes has no room outside of its event: %s", kind, len(content), error)
                continue
            if is_text:
                lighter[name] = _claim_text(claim, head=text[:_HEAD_CHARACTERS])
            else:
                lighter[name] = beginning(value, self._limit // 2)
                lighter[OMITTED] = _claim_text(claim, field=name, count=len(value), kept=len(lighter[name]))
        return Redacted(lighter), carried

    def close(self, timeout_seconds: float) -> None:
        """Wait for the blob store a while; what it has not taken stays on this disk for the next process."""
        if self._carrier is not None:
            self._carrier.stop(timeout_seconds)

    def _keep(self, tenant: str, claim: Claim, content: bytes) -> "list[Future[None]]":
        path = path_of(self._directory, tenant, claim.sha256)
        if self._store is not None and _size_of(self._directory) + len(content) > self._room:
            raise OSError(f"{self._directory} holds {self._room} bytes that the blob store has not taken")
        _write(path, content)
        pass_by("blob.kept")
        return [] if self._store is None else [self._started_carrier().carry(path)]

    def _started_carrier(self) -> "Carrier":
        with self._lock:
            if self._carrier is None:
                assert self._store is not None  # noqa: S101  # asked for where there is one
                self._carrier = Carrier(self._directory, self._store)
            return self._carrier


class BlobReader:
    """Opens claim checks: from this disk, else from the blob store. Of one thread at a time."""

    def __init__(self, directory: Path | None = None, store: BlobStore | None = None) -> None:
        self._directory = directory
        self._store = store

    @classmethod
    def from_settings(cls, settings: RecorderSettings) -> Self:
        """As the settings say.

        Raises SettingsError.
        """
        return cls(settings.blob_directory, None if settings.blob_store is None else BlobStore(settings))

    def open(self, tenant: str, claim: Claim) -> bytes:
        """The text.

        Raises BlobMissing when it is nowhere, or not what its digest says, and BlobsAway when that can't be known now.
        """
        if self._directory is not None:
            with contextlib.suppress(FileNotFoundError):
                content = path_of(self._directory, tenant, claim.sha256).read_bytes()
                if hashlib.sha256(content).hexdigest() == claim.sha256:
                    return content
        if self._store is not None:
            return self._store.get(tenant, claim.sha256)
        raise BlobMissing(
            f"the text {claim.sha256} is not in {self._directory}, and no other place is "
            "known: set COUNTERFOIL_BLOB_STORE as the agent's recorder has it"
        )


class Carrier:
    """Takes every text in a folder to the blob store, and then out of the folder, in a thread of its own."""

    def __init__(self, directory: Path, store: BlobStore) -> None:
        self._directory = directory
        self._store = store
        self._awaited: dict[Path, list[Future[None]]] = {}
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="counterfoil-blobs", daemon=True)
        self._thread.start()

    def carry(self, path: Path) -> "Future[None]":
        """Ends when the store has this text."""
        carried: Future[None] = Future()
        with self._lock:
            self._awaited.setdefault(path, []).append(carried)
        self._wake.set()
        return carried

    def stop(self, timeout_seconds: float) -> None:
        """Go on until the folder is empty or the time is over."""
        self._closing.set()
        self._wake.set()
        self._thread.join(timeout_seconds)
        self._stopping.set()
        left = sum(1 for _ in _waiting(self._directory))
        if left:
            logger.warning("%d large texts wait in %s for the blob store; the next process takes them",
                           left, self._directory)  # fmt: skip

    def _run(self) -> None:
        pause = _RETRY_SECONDS[0]
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                self._take_all()
            except Exception as error:  # noqa: BLE001  # of many kinds: each file system has its own
                logger.warning("the blob store %s takes nothing, and is tried again: %s", self._store.shown, error)
                self._stopping.wait(pause)
                pause = min(2 * pause, _RETRY_SECONDS[1])
                continue
            pause = _RETRY_SECONDS[0]
            if self._closing.is_set():
                return
            self._wake.wait()

    def _take_all(self) -> None:
        for path in _waiting(self._directory):
            if self._stopping.is_set():
                return
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                content = None  # another process took it
            if content is not None:
                self._store.put(path.parent.name, path.name, content)
                pass_by("blob.stored")
                path.unlink(missing_ok=True)
            self._tell(path)
        for path in [path for path in list(self._awaited) if not path.exists()]:
            self._tell(path)  # taken before it was awaited

    def _tell(self, path: Path) -> None:
        with self._lock:
            awaited = self._awaited.pop(path, [])
        for carried in awaited:
            with contextlib.suppress(InvalidStateError):  # nobody waits any more
                carried.set_result(None)


def all_done(first: "Future[None]", others: "Sequence[Future[None]]") -> "Future[None]":
    """Ends with `first` and all the others; with its exception, as soon as that has one."""
    if not others:
        return first
    done: Future[None] = Future()

    def one_more(_ended: "Future[None]") -> None:
        with contextlib.suppress(InvalidStateError):  # said by another thread at the same time
            if first.done() and (error := first.exception()) is not None:
                done.set_exception(error)
            elif all(future.done() for future in (first, *others)):
                done.set_result(None)

    for future in (first, *others):
        future.add_done_callback(one_more)
    return done


def claim_in(value: Any) -> Claim | None:
    """The claim check that stands in a field's place, in JSON as read or as text; None for any other value."""
    if isinstance(value, str):
        if not value.startswith(f'{{"{_CLAIM}":'):
            return None
        with contextlib.suppress(ValueError):
            value = json.loads(value)
    found = value.get(_CLAIM) if isinstance(value, Mapping) else None
    try:
        claim = Claim(str(found["sha256"]), int(found["bytes"]), str(found["media_type"]))  # type: ignore[index]  # tried
    except (TypeError, KeyError, ValueError):
        return None
    return claim if _SHA256.fullmatch(claim.sha256) else None  # it becomes a file's name, and may come from an agent


def path_of(directory: Path, tenant: str, sha256: str) -> Path:
    """Where a text is kept on this disk: by tenant, for a digest that is shared would tell one of another."""
    return directory / tenant / sha256


def _claim_text(claim: Claim, **beside: Any) -> str:
    named = {"sha256": claim.sha256, "bytes": claim.size_bytes, "media_type": claim.media_type}
    return json.dumps({_CLAIM: named, **beside}, ensure_ascii=False, separators=(",", ":"))


def _weight(body: Mapping[str, Any]) -> int:
    weight = 0
    for value in body.values():
        if value.__class__ is str:
            weight += len(value)
        elif value.__class__ is list:
            weight += weight_of(value)
    return weight


def _waiting(directory: Path) -> Iterator[Path]:
    """The texts in a folder, whole ones only."""
    for path in directory.glob("*/*"):
        if not path.name.startswith("."):
            yield path


def _size_of(directory: Path) -> int:
    size = 0
    for path in _waiting(directory):
        with contextlib.suppress(FileNotFoundError):
            size += path.stat().st_size
    return size


def _write(path: Path, content: bytes) -> None:
    """All or nothing, and on disk: its event may be acknowledged next, and the machine fail then."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size == len(content):
            return  # the same text was kept before
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = path.with_name(f".{new_id().hex()}")
    try:
        descriptor = os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        unfinished.rename(path)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
