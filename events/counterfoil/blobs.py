"""Texts too large for an event, kept under their digest: the event carries a claim check in their place.

A text is on this disk, synced, before its event is numbered. Where a blob store is set, a thread takes it there; what a
dead process left, the next one of this machine takes. (Claim check: Hohpe and Woolf, Enterprise Integration Patterns.)
"""

import contextlib
import hashlib
import json
import logging
import re
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from pathlib import Path
from typing import Any, NamedTuple, Self

from counterfoil.blob_folder import BlobFolder
from counterfoil.blob_store import BlobStore
from counterfoil.delivery import NotDurable
from counterfoil.errors import BlobMissing, BlobsAway
from counterfoil.failpoints import pass_by
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
_REMEMBERED_BYTES = 32 * 1024**2  # of texts that a reader opened
_KEPT = "kept"
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
        self._folder = folder_of(settings.blob_directory, settings.blob_store)
        self._store = None if settings.blob_store is None else BlobStore(settings)
        self._room = settings.spool_limit_bytes
        self._carrier: Carrier | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Take away what dead processes left."""
        self._folder.remove_unfinished()
        if self._store is not None and next(self._folder.texts(), None) is not None:
            with contextlib.suppress(OSError):  # the first large text says it
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
        """Raises OSError."""
        if self._store is not None and self._folder.size_bytes() + len(content) > self._room:
            raise OSError(f"{self._folder.path} holds {self._room} bytes that the blob store has not taken")
        carrier = None if self._store is None else self._started_carrier()
        path = self._folder.write(tenant, claim.sha256, content)
        pass_by("blob.kept")
        return [] if carrier is None else [carrier.carry(path)]

    def _started_carrier(self) -> "Carrier":
        """Raises OSError."""
        with self._lock:
            if self._carrier is None:
                assert self._store is not None  # noqa: S101  # asked for where there is one
                try:
                    self._carrier = Carrier(self._folder, self._store)
                except RuntimeError as error:  # no thread can be started, as when the interpreter ends
                    raise OSError(str(error)) from error
            return self._carrier


class BlobReader:
    """Opens claim checks: from this disk, else from the blob store. Of one thread at a time.

    What is larger than `limit_bytes` is as good as missing.
    """

    def __init__(
        self, folders: Sequence[BlobFolder] = (), store: BlobStore | None = None, limit_bytes: int | None = None
    ) -> None:
        self._folders = folders
        self._store = store
        self._limit_bytes = limit_bytes
        self._remembered: OrderedDict[tuple[str, str], bytes] = OrderedDict()

    @classmethod
    def from_settings(cls, settings: RecorderSettings, limit_bytes: int | None = None) -> Self:
        """As the settings say.

        Raises SettingsError.
        """
        folders = [folder_of(settings.blob_directory, store) for store in dict.fromkeys((settings.blob_store, None))]
        return cls(folders, None if settings.blob_store is None else BlobStore(settings), limit_bytes)

    def open(self, tenant: str, claim: Claim) -> bytes:
        """The text.

        Raises BlobMissing when it is nowhere, or not what its digest says, and BlobsAway when that can't be known now.
        """
        known = (tenant, claim.sha256)
        content = self._remembered.get(known)
        if content is None:
            content = self._remembered[known] = self._read(*known)
            while len(self._remembered) > 1 and sum(map(len, self._remembered.values())) > _REMEMBERED_BYTES:
                self._remembered.popitem(last=False)
        self._remembered.move_to_end(known)
        return content

    def _read(self, tenant: str, sha256: str) -> bytes:
        away: OSError | None = None
        for folder in self._folders:
            try:
                content = folder.read(tenant, sha256, self._limit_bytes)
            except OSError as error:
                away = error
                continue
            if content is not None:
                return content
        if self._store is not None:
            return self._store.get(tenant, sha256, self._limit_bytes)
        if away is not None:
            raise BlobsAway(f"the text {sha256} can't be read: {away}") from away
        where = ", ".join(str(folder.path) for folder in self._folders) or "any folder"
        raise BlobMissing(
            f"the text {sha256} is not in {where}, and no other place is known: set COUNTERFOIL_BLOB_STORE as the "
            "agent's recorder has it"
        )


class Carrier:
    """Takes every text in a folder to the blob store, and then out of the folder, in a thread of its own."""

    def __init__(self, folder: BlobFolder, store: BlobStore) -> None:
        self._folder = folder
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
        left = sum(1 for _ in self._folder.texts())
        if left:
            logger.warning("%d large texts wait in %s for the blob store; the next process takes them",
                           left, self._folder.path)  # fmt: skip

    def _run(self) -> None:
        pause = _RETRY_SECONDS[0]
        while not self._stopping.is_set():
            self._wake.clear()
            problem = self._take_all()
            if problem is not None:
                logger.warning(
                    "the blob store %s does not take all, and is tried again: %s", self._store.shown, problem
                )
                self._stopping.wait(pause)
                pause = min(2 * pause, _RETRY_SECONDS[1])
                continue
            pause = _RETRY_SECONDS[0]
            if self._closing.is_set():
                return
            self._wake.wait()

    def _take_all(self) -> Exception | None:
        """Take what is there; one text that can't be taken does not keep the others. Returns the last problem."""
        problem: Exception | None = None
        for path in {*self._folder.texts(), *self._awaited}:
            if self._stopping.is_set():
                break
            try:
                self._take(path)
            except Exception as error:  # noqa: BLE001  # of many kinds: each file system has its own
                problem = error
        return problem

    def _take(self, path: Path) -> None:
        tenant, sha256 = path.parent.name, path.name
        content = self._folder.read(tenant, sha256)
        if content is not None:
            self._store.put(tenant, sha256, content)
            pass_by("blob.stored")
            self._folder.forget(path)
        elif not self._store.holds(tenant, sha256):  # if it does, another process took it there
            self._folder.set_aside(path)
            problem = NotDurable(f"{path} is gone, or damaged, and the blob store has no such text")
            self._tell(path, problem)
            raise problem
        self._tell(path)

    def _tell(self, path: Path, problem: NotDurable | None = None) -> None:
        with self._lock:
            awaited = self._awaited.pop(path, [])
        for carried in awaited:
            with contextlib.suppress(InvalidStateError):  # nobody waits any more
                if problem is None:
                    carried.set_result(None)
                else:
                    carried.set_exception(problem)


def all_done(first: "Future[None]", others: "Sequence[Future[None]]") -> "Future[None]":
    """Ends with `first` and all the others; with the exception of one, as soon as it has one."""
    if not others:
        return first
    done: Future[None] = Future()

    def one_more(ended: "Future[None]") -> None:
        with contextlib.suppress(InvalidStateError):  # said by another thread at the same time
            if (error := ended.exception()) is not None:
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
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(value)
    found = value.get(_CLAIM) if isinstance(value, Mapping) else None
    try:
        claim = Claim(str(found["sha256"]), int(found["bytes"]), str(found["media_type"]))  # type: ignore[index]  # tried
    except (TypeError, KeyError, ValueError, OverflowError):
        return None
    return claim if _SHA256.fullmatch(claim.sha256) else None  # it becomes a file's name, and may come from an agent


def folder_of(directory: Path, store: str | None) -> BlobFolder:
    """Where texts wait for this blob store; without one, where they stay."""
    name = _KEPT if store is None else f"for-{hashlib.sha256(store.encode()).hexdigest()[:12]}"
    return BlobFolder(directory / name)


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
