"""The state of one stack as a file, written before every server is started and after each has answered.

It is what `down` and a later `up` know about servers they did not start. It is replaced atomically and readable
by its owner only, because the administrator's DSN holds a password.
"""

from __future__ import annotations

import os
import secrets
import threading
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from counterfoil_console.stack.errors import StateUnreadable

ServerName = Literal["kafka", "postgres"]
Phase = Literal["starting", "up", "down"]


@dataclass(frozen=True)
class ProcessRecord:
    """A process: its id, and when it started in seconds since the epoch, since ids are used again."""

    pid: int
    started: float


@dataclass(frozen=True)
class StackState:
    """How to reach a stack and what it consists of. `owner` is the process it must not outlive, if any."""

    phase: Phase
    started_at: datetime
    bootstrap_servers: str
    sasl_ssl_bootstrap_servers: str | None
    postgres_dsn: str = field(repr=False)
    kafka_port: int
    kafka_controller_port: int
    kafka_sasl_ssl_port: int | None
    postgres_port: int
    options_digest: str
    kafka: ProcessRecord | None = None
    postgres: ProcessRecord | None = None
    owner: ProcessRecord | None = None

    def process(self, name: ServerName) -> ProcessRecord | None:
        """The recorded process of one server; None if it was not started."""
        return self.kafka if name == "kafka" else self.postgres

    def ports(self, name: ServerName) -> tuple[int, ...]:
        """The TCP ports on 127.0.0.1 that one server listens on."""
        if name == "postgres":
            return (self.postgres_port,)
        extra = () if self.kafka_sasl_ssl_port is None else (self.kafka_sasl_ssl_port,)
        return (self.kafka_port, self.kafka_controller_port, *extra)


_JSON = TypeAdapter(StackState)


def write_private(path: Path, content: bytes) -> None:
    """Replace `path` atomically by a file that only its owner can read."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def read_state(path: Path) -> StackState | None:
    """The stored state; None if there is none or it was written by another version.

    Raises StateUnreadable if it is another user's.
    """
    try:
        return _JSON.validate_json(path.read_bytes())
    except PermissionError as error:
        raise StateUnreadable(path) from error
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None


class Ledger:
    """The state file of a stack while it is being changed; safe to use from several threads."""

    def __init__(self, path: Path, state: StackState) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._state = state
        self.change()

    @property
    def state(self) -> StackState:
        return self._state

    def change(self, **changes: Any) -> StackState:
        """Replace fields of the state and store it before returning."""
        with self._lock:
            self._state = replace(self._state, **changes)
            write_private(self._path, _JSON.dump_json(self._state, indent=2))
            return self._state
