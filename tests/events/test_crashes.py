"""The process is killed at each point between intent and outcome; another one says what became of everything."""

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from counterfoil.ids import task_id_of
from tests.accounts import assert_accounted
from tests.fix_log import Logged, StartPython

_WORKS = """
import sys
from counterfoil import Recorder
recorder = Recorder.from_env(ack_timeout_seconds=0.5, beat_interval_seconds=0.2)
acted = open(sys.argv[1], "a", buffering=1)
with recorder.task("t", task_ref="T-9") as task:
    for number in range(20):
        task.review(by=str(number))
        with task.effect("refund", target="payments", args={"n": number}) as effect:
            acted.write(effect.key + "\\n")
            effect.ok()
recorder.close()
"""
_ADOPTS = """
import time
from pathlib import Path
from counterfoil import Recorder
recorder = Recorder.from_env(beat_interval_seconds=0.2)
base = Path(str(recorder.settings.spool_directory))
with recorder.task("heir"):
    deadline = time.monotonic() + 20
    while len(list(base.glob("*/*"))) > 1:
        assert time.monotonic() < deadline, list(base.glob("*/*"))
        time.sleep(0.05)
recorder.close()
assert list(base.glob("*/*")) == []
"""
POINTS = [
    "emit.numbered=kill@1",
    "emit.numbered=kill@2",
    "emit.numbered=kill@17",
    "call.after_intent=kill@3",
    "call.before_body=kill@3",
    "call.before_result=kill@3",
    "call.after_result=kill@3",
    "folder.before_remove=kill",
]


@pytest.fixture
def killed(start_python: StartPython, tmp_path: Path) -> Callable[..., list[str]]:
    """Runs code until its failpoint kills it; returns the keys of what it did before."""

    def run(code: str, failpoints: str, **variables: str) -> list[str]:
        acted = tmp_path / "acted"
        process = start_python(code, str(acted), COUNTERFOIL_FAILPOINTS=failpoints, **variables)
        _, said = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, said
        return acted.read_text().split()

    return run


@pytest.mark.parametrize("point", POINTS)
def test_killed_between_intent_and_outcome(
    killed: Callable[..., list[str]], run_python: Callable[..., str], logged: Logged, point: str
) -> None:
    acted = killed(_WORKS, point)
    run_python(_ADOPTS)
    events = logged()
    accounts = assert_accounted(events)
    intents = {event.effect_id.hex() for event in events if event.kind == "tool_intent" and event.effect_id}
    assert set(acted) <= intents
    dead, heir = {event.producer_id for event in events if event.kind == "producer_opened"}
    closed = {
        event.producer_id: (event.body or {})["adopted_by"] for event in events if event.kind == "producer_closed"
    }
    assert closed[dead] == heir if point != "folder.before_remove=kill" else closed.keys() == {dead, heir}
    if point.startswith("emit.numbered"):
        assert sum(len(account.gaps) for account in accounts.values()) >= 1
        assert "process died" in str([event.body for event in events if event.kind == "gap"])


# The broker is away: what is recorded goes to the spool, and the process dies over it.
_WORKS_ALONE = _WORKS.replace("Recorder.from_env(", 'Recorder.from_env(kafka={"bootstrap.servers": sys.argv[2]}, ')
SPOOL_POINTS = [
    "spool.before_commit=kill@1",
    "spool.before_commit=kill@4",
    "spool.after_commit=kill@1",
    "spool.after_commit=kill@5",
    "call.before_body=kill@3",
    "call.before_result=kill@3",
    "spool.write=enospc%0.5,call.before_body=kill@5",
    "spool.write=eio%0.5,call.after_result=kill@5",
]
_FREEZES = """
import os, signal, sys
os.kill(int(sys.argv[2]), signal.SIGSTOP)
"""


@pytest.mark.parametrize("point", SPOOL_POINTS)
def test_killed_over_the_spool(
    killed: Callable[..., list[str]],
    run_python: Callable[..., str],
    logged: Logged,
    broker_pid: int,
    point: str,
) -> None:
    code = _WORKS.replace(
        "    for number", f"    import os, signal; os.kill({broker_pid}, signal.SIGSTOP)\n    for number"
    )
    try:
        acted = killed(code, point)
    finally:
        import os

        os.kill(broker_pid, signal.SIGCONT)
    run_python(_ADOPTS)
    events = logged()
    assert_accounted(events)
    intents = {event.effect_id.hex() for event in events if event.kind == "tool_intent" and event.effect_id}
    assert set(acted) <= intents


@pytest.mark.parametrize(
    "point", ["adopt.locked=kill", "adopt.finished=kill", "spool.before_remove=kill", "folder.before_remove=kill"]
)
def test_the_heir_is_killed_too(
    killed: Callable[..., list[str]],
    start_python: StartPython,
    run_python: Callable[..., str],
    logged: Logged,
    broker_pid: int,
    point: str,
) -> None:
    import os

    code = _WORKS.replace(
        "    for number", f"    import os, signal; os.kill({broker_pid}, signal.SIGSTOP)\n    for number"
    )
    try:
        acted = killed(code, "call.before_result=kill@12")
    finally:
        os.kill(broker_pid, signal.SIGCONT)
    heir = start_python(_ADOPTS, COUNTERFOIL_FAILPOINTS=point)
    heir.communicate(timeout=60)
    assert heir.returncode == -signal.SIGKILL
    run_python(_ADOPTS)
    events = logged()
    assert_accounted(events)
    intents = {event.effect_id.hex() for event in events if event.kind == "tool_intent" and event.effect_id}
    assert len(acted) == 12
    assert set(acted) <= intents
    assert len([event for event in events if event.task_id == task_id_of("acme", "T-9")]) >= 3 * 11
