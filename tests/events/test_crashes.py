"""The process is killed at each point between intent and outcome; another one says what became of everything."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from counterfoil import Event
from counterfoil.ids import task_id_of
from tests.accounts import assert_accounted
from tests.fix_born import RunBorn
from tests.fix_log import Logged

_WORKS = """
import sys, time
from counterfoil import AuditUnavailable, Recorder
recorder = Recorder.from_env(
    ack_timeout_seconds=0.5, beat_interval_seconds=0.2, when_stale="go_on", control_timeout_seconds=0.5
)
acted = open(sys.argv[1], "a", buffering=1)
with recorder.task("t", task_ref="T-9") as task:
    for number in range(40):
        task.review(by=str(number))
        try:
            with task.effect("refund", target="payments", args={"n": number}) as effect:
                acted.write(effect.key + "\\n")
                effect.ok()
        except AuditUnavailable:
            time.sleep(0.1)
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
def killed(run_born: RunBorn, tmp_path: Path) -> Callable[..., list[str]]:
    """Runs code until its failpoint kills it; returns the keys of what it did before."""

    def run(code: str, failpoints: str, *arguments: str) -> list[str]:
        acted = tmp_path / "acted"
        ended = run_born(code, str(acted), *arguments, COUNTERFOIL_FAILPOINTS=failpoints)
        assert ended.status == -signal.SIGKILL, ended.said
        return acted.read_text().split()

    return run


@pytest.fixture
def adopt(run_born: RunBorn) -> Callable[[], None]:
    """Another process comes, and goes when it has taken on what the killed ones left."""

    def run() -> None:
        ended = run_born(_ADOPTS)
        assert ended.status == 0, ended.said

    return run


@pytest.mark.parametrize("point", POINTS)
def test_killed_between_intent_and_outcome(
    killed: Callable[..., list[str]], adopt: Callable[[], None], logged: Logged, point: str
) -> None:
    acted = killed(_WORKS, point)
    adopt()
    events = logged()
    accounts = assert_accounted(events)
    assert set(acted) <= intended(events)
    closed = {
        event.producer_id: (event.body or {})["adopted_by"] for event in events if event.kind == "producer_closed"
    }
    assert {producer_id for producer_id, _ in accounts} == closed.keys()
    assert len(closed) == 2
    if point != "folder.before_remove=kill":
        assert [heir in closed for heir in closed.values() if heir is not None] == [True]
    if point.startswith("emit.numbered"):
        assert sum(len(account.gaps) for account in accounts.values()) >= 1
        assert "process died" in str([event.body for event in events if event.kind == "gap"])


# The broker stops answering, and the process dies over its spool.
_WORKS_ALONE = _WORKS.replace(
    "    for number", "    import os, signal; os.kill(int(sys.argv[2]), signal.SIGSTOP)\n    for number"
)
SPOOL_POINTS = [
    "spool.before_commit=kill@1",
    "spool.before_commit=kill@4",
    "spool.after_commit=kill@1",
    "spool.after_commit=kill@5",
    "call.before_body=kill@3",
    "call.before_result=kill@3",
    "spool.write=enospc@2,call.before_body=kill@3",
    "spool.write=eio@3,call.after_result=kill@3",
]


@pytest.fixture
def killed_alone(killed: Callable[..., list[str]], broker_pid: int) -> Callable[..., list[str]]:
    """As `killed`, while no broker answers."""

    def run(failpoints: str) -> list[str]:
        try:
            return killed(_WORKS_ALONE, failpoints, str(broker_pid))
        finally:
            os.kill(broker_pid, signal.SIGCONT)

    return run


@pytest.mark.parametrize("point", SPOOL_POINTS)
def test_killed_over_the_spool(
    killed_alone: Callable[[str], list[str]], adopt: Callable[[], None], logged: Logged, point: str
) -> None:
    acted = killed_alone(point)
    adopt()
    events = logged()
    assert_accounted(events)
    assert set(acted) <= intended(events)


HEIRS = ["adopt.locked=kill", "adopt.finished=kill", "spool.before_remove=kill", "folder.before_remove=kill"]


@pytest.mark.parametrize("point", HEIRS)
def test_the_heir_is_killed_too(
    killed_alone: Callable[[str], list[str]],
    run_born: RunBorn,
    adopt: Callable[[], None],
    logged: Logged,
    point: str,
) -> None:
    acted = killed_alone("call.before_result=kill@12")
    assert run_born(_ADOPTS, COUNTERFOIL_FAILPOINTS=point).status == -signal.SIGKILL
    adopt()
    events = logged()
    assert_accounted(events)
    assert len(acted) == 12
    assert set(acted) <= intended(events)
    assert len([event for event in events if event.task_id == task_id_of("acme", "T-9")]) >= 3 * 11


def intended(events: list[Event]) -> set[str]:
    """The effects whose intent is in the log."""
    return {event.effect_id.hex() for event in events if event.kind == "tool_intent" and event.effect_id}
