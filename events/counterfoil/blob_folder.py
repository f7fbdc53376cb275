"""A folder of texts on this disk, by tenant and digest: whole ones only, and synced."""

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from counterfoil.ids import new_id

_UNFINISHED = "."  # what such a file's name begins with
_ABANDONED_SECONDS = 3600
_MEASURED_FOR_SECONDS = 5.0


class BlobFolder:
    """Texts of all tenants in one folder. Thread-safe, and shared by processes.

    By tenant, for a digest that is shared would tell one tenant of another.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._size_bytes = 0
        self._measured_at = float("-inf")

    def path_of(self, tenant: str, sha256: str) -> Path:
        """Where a text is."""
        return self.path / tenant / sha256

    def read(self, tenant: str, sha256: str, limit_bytes: int | None = None) -> bytes | None:
        """A text; None if it is not here, or not what its digest says.

        Raises OSError when that can't be known.
        """
        try:
            with self.path_of(tenant, sha256).open("rb") as file:
                content = file.read(-1 if limit_bytes is None else limit_bytes + 1)
        except FileNotFoundError:
            return None
        return content if hashlib.sha256(content).hexdigest() == sha256 else None

    def write(self, tenant: str, sha256: str, content: bytes) -> Path:
        """Keep a text. Raises OSError."""
        path = self.path_of(tenant, sha256)
        if self.read(tenant, sha256) is None:
            write_whole(path, content)
            with self._lock:
                self._size_bytes += len(content)
        else:
            _sync(path.parent)  # who wrote it may not have come so far
        return path

    def texts(self) -> Iterator[Path]:
        """Every text."""
        for path in self.path.glob("*/*"):
            if not path.name.startswith(_UNFINISHED) and path.is_file():
                yield path

    def size_bytes(self) -> int:
        """Bytes of all texts: what other processes did is known after a few seconds."""
        with self._lock:
            if time.monotonic() - self._measured_at > _MEASURED_FOR_SECONDS:
                self._size_bytes = sum(_size_of(path) for path in self.texts())
                self._measured_at = time.monotonic()
            return self._size_bytes

    def forget(self, path: Path) -> None:
        """Delete a text."""
        size = _size_of(path)
        path.unlink(missing_ok=True)
        with self._lock:
            self._size_bytes -= size

    def set_aside(self, path: Path) -> None:
        """Call a text that is damaged by another name."""
        with contextlib.suppress(FileNotFoundError):
            path.rename(path.with_name(f"{_UNFINISHED}{path.name}"))

    def remove_unfinished(self) -> None:
        """Delete what processes that died left half written."""
        for path in self.path.glob(f"*/{_UNFINISHED}*"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                    path.unlink()


def write_whole(path: Path, content: bytes) -> None:
    """All or nothing, and on disk: its event may be acknowledged next, and the machine fail then. Raises OSError."""
    new_folders = [folder for folder in (path.parent, path.parent.parent) if not folder.exists()]
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = path.with_name(f"{_UNFINISHED}{new_id().hex()}")
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
    _sync(path.parent)
    for folder in new_folders:
        _sync(folder.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
