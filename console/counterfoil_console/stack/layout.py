"""Where everything of one local stack lies on disk, in one place.

The state file may be lost or stale, so a stack is also recognisable without it: every server carries, on its
command line, a mark that is computed from its data directory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Directories:
    """Where a stack keeps its data and where jars are cached."""

    data: Path
    cache: Path


def default_directories(environ: Mapping[str, str]) -> Directories:
    """The directories of the XDG base directory specification, read from `environ`.

    Relative values are ignored, as the specification says.
    """
    home = Path(environ["HOME"]) if environ.get("HOME") else Path.home()

    def base(variable: str, fallback: Path) -> Path:
        value = Path(environ.get(variable, ""))
        return (value if value.is_absolute() else fallback) / "counterfoil"

    return Directories(
        data=base("XDG_DATA_HOME", home / ".local" / "share"),
        cache=base("XDG_CACHE_HOME", home / ".cache"),
    )


@dataclass(frozen=True)
class Layout:
    """The paths below one data directory, which must be absolute."""

    data: Path

    @property
    def state(self) -> Path:
        return self.data / "stack.json"

    @property
    def lock(self) -> Path:
        return self.data / "stack.lock"

    @property
    def kafka(self) -> Path:
        return self.data / "kafka"

    @property
    def kafka_properties(self) -> Path:
        return self.data / "kafka.properties"

    @property
    def kafka_log(self) -> Path:
        return self.data / "kafka.log"

    @property
    def postgres(self) -> Path:
        return self.data / "postgres"

    @property
    def postgres_password(self) -> Path:
        return self.data / "postgres.password"

    @property
    def postgres_log(self) -> Path:
        return self.data / "postgres.log"

    @property
    def mark(self) -> str:
        """32 hex digits that no other data directory has."""
        return hashlib.sha256(str(self.data).encode()).hexdigest()[:32]
