"""The folder that a producer keeps on disk while it lives: its lock, its tally, its spool.

A lock that nobody holds says that the producer is dead; whoever takes the lock finishes what it left. The lock is
flock(2): it ends with the process, however that ends.
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from counterfoil.failpoints import pass_by
from counterfoil.ids import Id
from counterfoil.spool import Spool, files_of
from counterfoil.tally import Tally

_LOCK, _TALLY, _SPOOL, _TENANTS, _CLUSTER = "lock", "tally", "spool.sqlite", "tenants.jsonl", "cluster.json"


@dataclass(frozen=True, slots=True)
class Cluster:
    """Which Kafka the events are for; the id is known once a broker has said it."""

    bootstrap_servers: str
    cluster_id: str | None = None

    def is_same(self, other: "Cluster") -> bool:
        """Whether both name one cluster, as far as is known."""
        if self.cluster_id is not None and other.cluster_id is not None:
            return self.cluster_id == other.cluster_id
        return self.bootstrap_servers == other.bootstrap_servers


class ProducerFolder:
    """One producer's folder, locked by this process. Not thread-safe.

    `path` is named by the producer's id in hex.
    """

    def __init__(self, path: Path, lock: int, limit_bytes: int) -> None:
        self.path = path
        self.producer_id: Id = bytes.fromhex(path.name)
        self.tally = Tally.open(path / _TALLY)
        self._lock: int | None = lock
        self._limit_bytes = limit_bytes
        self._spool: Spool | None = None

    @classmethod
    def create(cls, base: Path, producer_id: Id, cluster: Cluster, limit_bytes: int) -> Self:
        """A new producer's folder in `base`.

        Raises OSError.
        """
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = base / f".{producer_id.hex()}"
        unfinished.mkdir(mode=0o700)
        try:
            lock = _take_lock(unfinished)
            assert lock is not None  # noqa: S101  # nobody else knows the name
            _write_cluster(unfinished, cluster)
            path = base / producer_id.hex()
            unfinished.rename(path)  # seen by others only now that it is locked
            return cls(path, lock, limit_bytes)
        except OSError:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise

    @classmethod
    def adopt(cls, path: Path, limit_bytes: int) -> Self | None:
        """The folder of a dead producer; None if it lives, or if another process has adopted it.

        Raises OSError.
        """
        lock = _take_lock(path)
        if lock is None:
            return None
        pass_by("adopt.locked")
        try:
            return cls(path, lock, limit_bytes)
        except OSError:
            os.close(lock)
            raise

    def cluster(self) -> Cluster | None:
        """Which Kafka its events are for; None where that can't be read."""
        return read_cluster(self.path)

    def set_cluster(self, cluster: Cluster) -> None:
        """Say it anew.

        Raises OSError.
        """
        _write_cluster(self.path, cluster)

    @property
    def spool(self) -> Spool:
        """Its spool, made at first use.

        Raises SpoolFailed and SpoolDamaged.
        """
        if self._spool is None:
            self._spool = Spool(self.path / _SPOOL, self._limit_bytes)
        return self._spool

    @property
    def has_spool(self) -> bool:
        """Whether there is a spool on disk."""
        return self._spool is not None or (self.path / _SPOOL).exists()

    def drop_spool(self) -> None:
        """Nothing is in the spool any more: give its disk space back."""
        if self._spool is not None:
            self._spool.delete()
            self._spool = None

    def set_aside(self) -> Path:
        """Put a damaged spool under another name; returns that.

        Raises OSError.
        """
        if self._spool is not None:
            self._spool.close()
            self._spool = None
        aside = self.path.parent / f"{self.path.name}.damaged"
        aside.mkdir(mode=0o700, exist_ok=True)
        kept = aside / f"{len(list(aside.glob('*.sqlite')))}.sqlite"
        for old, new in zip(files_of(self.path / _SPOOL), files_of(kept), strict=True):
            with contextlib.suppress(FileNotFoundError):
                old.rename(new)
        return kept

    def add_tenant(self, tenant: "TenantOrigin") -> None:
        """From now on whoever adopts this can speak in its name to the tenant.

        Raises OSError.
        """
        descriptor = os.open(self.path / _TENANTS, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with open(descriptor, "a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(tenant)) + "\n")

    def tenants(self) -> Iterator["TenantOrigin"]:
        """Those it has spoken to; a line that can't be read is left out."""
        try:
            lines = (self.path / _TENANTS).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return
        for line in lines:
            with contextlib.suppress(ValueError, TypeError):
                yield TenantOrigin(**json.loads(line))

    def forget_in_child(self) -> None:
        """In a forked child: the folder stays the parent's. Closing does not unlock it there, as unlocking would."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def release(self) -> None:
        """Leave everything as it is, for another process to adopt."""
        if self._spool is not None:
            self._spool.close()
            self._spool = None
        self.tally.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def remove(self) -> None:
        """Nothing of it is needed any more."""
        pass_by("folder.before_remove")
        if self._spool is not None:
            self._spool.close()
            self._spool = None
        gone = self.path.with_name(f".{self.path.name}")
        with contextlib.suppress(OSError):
            self.path.rename(gone)  # all at once, for whoever looks while it goes
        shutil.rmtree(gone, ignore_errors=True)
        self.release()


@dataclass(frozen=True, slots=True)
class TenantOrigin:
    """What a producer's own events say of themselves towards one tenant, and whether they were signed."""

    tenant: str
    workflow: str
    agent: str
    environment: str
    mode: str
    is_signed: bool = False


def producers_in(base: Path) -> list[Path]:
    """The folders of producers, dead or alive, in `base`."""
    try:
        return sorted(path for path in base.iterdir() if len(path.name) == 32 and _is_hex(path.name))
    except OSError:
        return []


def read_cluster(path: Path) -> Cluster | None:
    """Which Kafka the folder's events are for; None where that can't be read."""
    try:
        return Cluster(**json.loads((path / _CLUSTER).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _write_cluster(path: Path, cluster: Cluster) -> None:
    unfinished = path / f".{_CLUSTER}"
    unfinished.write_text(json.dumps(asdict(cluster)), encoding="utf-8")
    unfinished.rename(path / _CLUSTER)


def _is_hex(name: str) -> bool:
    try:
        bytes.fromhex(name)
    except ValueError:
        return False
    return True


def _take_lock(path: Path) -> int | None:
    try:
        descriptor = os.open(path / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever held it may have removed the folder meanwhile.
        if os.fstat(descriptor).st_ino == os.stat(path / _LOCK).st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None
