"""Starting, recognising and ending the servers' processes.

A process is ours if its command line carries our mark; a recorded id alone proves nothing, since systems use ids
again. psutil refuses to signal a process whose id has passed to another since we looked at it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from counterfoil_console.stack.errors import ServerFailed
from counterfoil_console.stack.state import ProcessRecord

Recognise = Callable[[Sequence[str]], bool]
"""Whether a command line is one of a server's."""

_POLL_SECONDS = 0.02
_KILL_SECONDS = 10.0
_CLOCK_STEP_SECONDS = 2.0
_LOG_TAIL_BYTES = 4000

# Handles of what this process started, kept so that an ended one is reaped and not a zombie.
_children: dict[int, subprocess.Popen[bytes]] = {}


class Interrupted(Exception):
    """The start of a server was given up because something else failed."""


@dataclass(frozen=True)
class Account:
    """The system user a server runs as."""

    name: str
    uid: int
    gid: int


def spawn(
    command: Sequence[str], log: Path, environment: Mapping[str, str], account: Account | None = None
) -> ProcessRecord:
    """Start a process that outlives us, in a session of its own; its output is appended to `log`."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd="/",
            env=dict(environment),
            user=None if account is None else account.uid,
            group=None if account is None else account.gid,
            extra_groups=None if account is None else [],
        )
    finally:
        os.close(descriptor)
    _children[child.pid] = child
    return record_of(child.pid)


def run(command: Sequence[str], log: Path, environment: Mapping[str, str], account: Account | None = None) -> int:
    """Run a short command to its end and return its exit status; its output is appended to `log`.

    It has a session of its own, so that a person's Ctrl-C ends us in order and not it in the middle.
    """
    record = spawn(command, log, environment, account)
    return _children.pop(record.pid).wait()


def record_of(pid: int) -> ProcessRecord:
    """The record of a running process; a start of 0 if it is gone already."""
    try:
        return ProcessRecord(pid, psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return ProcessRecord(pid, 0.0)


def is_same(record: ProcessRecord) -> bool:
    """Whether the recorded process still runs; for processes that carry no mark."""
    try:
        process = psutil.Process(record.pid)
        same = abs(process.create_time() - record.started) <= _CLOCK_STEP_SECONDS
        return bool(same and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def is_running(record: ProcessRecord, recognise: Recognise) -> bool:
    """Whether the recorded process still runs and is the server it was."""
    _reap(record.pid)
    if record.pid in _children:  # whose command line may be empty for a moment, as while a JVM's first thread ends
        return True
    try:
        # The start time is not compared: it shifts when the system's clock is set, and the mark says more.
        return recognise(psutil.Process(record.pid).cmdline())
    except psutil.Error:
        return False


def find(recognise: Recognise) -> list[psutil.Process]:
    """All running processes with a command line of the server, whether recorded or not."""
    for pid in list(_children):
        _reap(pid)
    found = []
    for pid in psutil.pids():  # not process_iter, whose cache is shared by threads
        try:
            process = psutil.Process(pid)
            if recognise(process.cmdline()):
                found.append(process)
        except psutil.Error:  # gone meanwhile, or somebody else's
            continue
    return found


def stop(processes: Sequence[psutil.Process], first: signal.Signals, grace_seconds: float) -> bool:
    """End every process of a server: `first` to the topmost, SIGKILL to whatever is left after the grace.

    Returns whether all of them ended by themselves.
    """
    pids = {process.pid for process in processes}
    for process in processes:
        try:
            if process.ppid() not in pids:
                process.send_signal(first)
        except psutil.Error:
            continue
    left = _wait(processes, grace_seconds)
    for process in left:
        try:
            process.kill()
        except psutil.Error:
            continue
    _wait(left, _KILL_SECONDS)
    for pid in pids:
        _reap(pid)
    return not left


def wait_until_answering(
    name: str,
    record: ProcessRecord,
    recognise: Recognise,
    answers: Callable[[], bool],
    log: Path,
    timeout_seconds: float,
    stopped: threading.Event,
) -> None:
    """Ask a server until it answers. Raises ServerFailed if it ends or the time is over, and Interrupted."""
    deadline = time.monotonic() + timeout_seconds
    while not answers():
        if stopped.is_set():
            raise Interrupted
        if not is_running(record, recognise):
            raise ServerFailed(name, "ended while starting", log, tail(log))
        if time.monotonic() > deadline:
            raise ServerFailed(name, f"did not answer within {timeout_seconds:.0f} seconds", log, tail(log))
        time.sleep(_POLL_SECONDS)


def tail(log: Path) -> str:
    """The last lines of a log file; empty if there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LOG_TAIL_BYTES))
            return file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""


def _reap(pid: int) -> None:
    child = _children.get(pid)
    if child is not None and child.poll() is not None:
        _children.pop(pid, None)


def _wait(processes: Iterable[psutil.Process], timeout_seconds: float) -> list[psutil.Process]:
    """The processes that are left when the time is over; a zombie counts as ended."""
    deadline = time.monotonic() + timeout_seconds
    left = list(processes)
    while left:
        left = [process for process in left if _is_live(process)]
        if not left or time.monotonic() > deadline:
            break
        time.sleep(_POLL_SECONDS)
    return left


def _is_live(process: psutil.Process) -> bool:
    _reap(process.pid)
    if process.pid in _children:  # a JVM's main thread may look like a zombie while others still run
        return True
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
