"""Until something comes true."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx2
import psutil

ENDS_WITHIN_SECONDS = 0.02  # how often a server of the standard library asks whether it is to end; 0.5 of its own


def is_served(url: str, **given: Any) -> bool:
    """Whether a GET is answered with 200."""
    with suppress(httpx2.HTTPError):
        return httpx2.get(url, trust_env=False, **given).status_code == 200
    return False


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Ask every 20 ms; fail after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)


def freeze(pid: int) -> None:
    """SIGSTOP, and wait until all its threads stand: until then it may still answer."""
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
