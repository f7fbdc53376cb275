"""Where large texts go: a folder, S3, or whatever else fsspec has a file system for."""

import contextlib
import hashlib
from pathlib import Path
from typing import Any

from counterfoil.blob_folder import write_whole
from counterfoil.errors import BlobMissing, BlobsAway, SettingsError
from counterfoil.settings import RecorderSettings
from counterfoil.urls import without_password


class BlobStore:
    """A folder of texts at `settings.blob_store`, by tenant and SHA-256. Of one thread at a time.

    The folder, or the bucket, is there beforehand: a mistyped name must not make another one.

    Raises SettingsError when fsspec has no such file system, or it refuses an option.
    """

    def __init__(self, settings: RecorderSettings) -> None:
        import fsspec  # noqa: PLC0415  # only where there is a store

        self._made: set[str] = set()  # the tenants that have a folder
        url = settings.blob_store or ""
        self.shown = without_password(url)
        # What fsspec shares between users is of no use in a forked child.
        options: dict[str, Any] = {**settings.blob_store_options, "skip_instance_cache": True}
        try:
            self._files, self._root = fsspec.core.url_to_fs(url, **options)
        except (ImportError, ValueError, TypeError) as error:
            raise SettingsError(f"COUNTERFOIL_BLOB_STORE={self.shown} can't be opened: {error}") from error
        self._is_local = "file" in self._files.protocol

    def put(self, tenant: str, sha256: str, content: bytes) -> None:
        """Write one text, whole or not at all; it may be there already. Raises what the file system raises."""
        path = self._path(tenant, sha256)
        if self._files.exists(path) and self._files.size(path) == len(content):
            return
        self._make_folder(tenant)
        if self._is_local:  # fsspec does not sync, and copies from one disk to another
            write_whole(Path(path), content)
            return
        with self._files.transaction, self._files.open(path, "wb") as file:
            file.write(content)

    def holds(self, tenant: str, sha256: str) -> bool:
        """Whether the text is there. Raises what the file system raises."""
        return bool(self._files.exists(self._path(tenant, sha256)))

    def get(self, tenant: str, sha256: str, limit_bytes: int | None = None) -> bytes:
        """One text.

        Raises BlobMissing when it is not there, larger than the limit, or not what its digest says, and BlobsAway when
        that can't be known now.
        """
        path = self._path(tenant, sha256)
        try:
            content: bytes = self._files.cat_file(path, end=None if limit_bytes is None else limit_bytes + 1)
        except FileNotFoundError as error:
            raise BlobMissing(f"the text {sha256} is not in {self.shown}") from error
        except Exception as error:  # of many kinds: each file system has its own
            raise BlobsAway(f"the blob store {self.shown} does not give out {sha256}: {error}") from error
        if limit_bytes is not None and len(content) > limit_bytes:
            raise BlobMissing(f"the text {sha256} in {self.shown} is larger than {limit_bytes} bytes")
        if hashlib.sha256(content).hexdigest() != sha256:
            raise BlobMissing(f"the text {sha256} in {self.shown} is not what was kept there: its digest differs")
        return content

    def _make_folder(self, tenant: str) -> None:
        if tenant not in self._made:
            with contextlib.suppress(FileExistsError):
                self._files.mkdir(self._path(tenant, "").rstrip("/"), create_parents=False)
            self._made.add(tenant)

    def _path(self, tenant: str, sha256: str) -> str:
        return f"{self._root.rstrip('/')}/{tenant}/{sha256}"
