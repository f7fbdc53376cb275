"""Locks between processes: two `up`s of one stack, two downloads into one cache.

An advisory lock on an open file: the kernel lets go of it however its holder ends, so none is ever stale.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from counterfoil_console.stack.errors import StackBusy, StateUnreadable

_POLL_SECONDS = 0.05


@contextmanager
def exclusive(path: Path, timeout_seconds: float, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the lock file `path` (its folder must exist); `waiting` is called once if somebody else has it.

    Raises StackBusy when it is not free within `timeout_seconds`, StateUnreadable if it is another user's.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except PermissionError as error:
        raise StateUnreadable(path) from error
    try:
        if not _try_lock(descriptor):
            waiting()
            deadline = time.monotonic() + timeout_seconds
            while not _try_lock(descriptor):
                if time.monotonic() > deadline:
                    raise StackBusy(path, timeout_seconds)
                time.sleep(_POLL_SECONDS)
        yield
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether somebody holds the lock file now."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _try_lock(descriptor)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
