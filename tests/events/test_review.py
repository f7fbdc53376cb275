"""What a recorder does at its edges: closing under load, odd names, very many open tasks."""

import threading
import time
from typing import Any

import pytest

from counterfoil import Recorder, RecorderSettings, UsageError
from counterfoil.framing import SINGLE_OBJECT
from counterfoil.ids import new_id, task_id_of
from counterfoil.origin import Origin
from counterfoil.redaction import Redacted, Redaction
from counterfoil.session import Session
from counterfoil.signing import NO_KEYS
from tests.fix_log import Logged


def origin(task_id: bytes) -> Origin:
    return Origin(tenant="acme", workflow="w", task_id=task_id, agent="a", environment="e", mode="live")


def test_whoever_comes_after_the_goodbye_is_told(recorder_settings: RecorderSettings, logged: Logged) -> None:
    """A thread that had the session in hand when another closed it: refused, not taken and dropped."""
    recorder = Recorder(recorder_settings)
    session = recorder.session
    stopping = threading.Event()
    lane = session.lane(origin(task_id_of("acme", "T-9")))
    taken: list[bytes] = []
    refused: list[UsageError] = []

    def record() -> None:
        while not stopping.is_set():
            try:
                taken.append(lane.record("review", Redacted({"by": "dana"}))[0])
            except UsageError as error:
                refused.append(error)
                return

    threads = [threading.Thread(target=record) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.3)
    recorder.close()
    time.sleep(0.2)
    stopping.set()
    for thread in threads:
        thread.join()
    assert len(refused) == len(threads)
    assert {event.event_id for event in logged() if event.kind == "review"} == set(taken)


def test_a_greeting_that_can_not_be_written_is_made_later(recorder: Recorder, logged: Logged) -> None:
    odd: Any = 5
    with pytest.raises(UsageError, match=r"this task can't be recorded: .*agent is a int, not text"):
        recorder.task("t", agent=odd).__enter__()
    with recorder.task("t"):
        pass
    recorder.close()
    own = [event for event in logged() if (event.task_ref or "").startswith("producer:")]
    assert own[0].kind == "producer_opened"
    assert [event.seq for event in own] == list(range(len(own)))


def test_beats_go_on_with_very_many_open_tasks(recorder_settings: RecorderSettings, logged: Logged) -> None:
    """More than one event holds: then several beats list them all."""
    changed = recorder_settings.model_copy(update={"beat_interval_seconds": 2, "close_timeout_seconds": 30})
    session = Session(changed, SINGLE_OBJECT, Redaction(changed), NO_KEYS)
    ids = [new_id() for _ in range(21_000)]
    for task_id in ids:
        lane = session.lane(origin(task_id))
        lane.opened()
        lane.record("review", Redacted({"by": "dana"}))
    time.sleep(2.5)
    assert session.close(30) == 0
    told = [event for event in logged() if event.kind in ("producer_beat", "producer_closed")]
    assert told[-1].kind == "producer_closed"
    last = [claim for event in told[-2:] for claim in (event.body or {})["open_tasks"]]
    assert {(claim["task_id"], claim["last_seq"]) for claim in last} == {(task_id, 0) for task_id in ids}
    assert max(len((event.body or {})["open_tasks"]) for event in told) == 20_000
