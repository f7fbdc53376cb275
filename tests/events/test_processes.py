"""Tasks over several processes: reopened, forked, and ended without a word."""

import gc
import multiprocessing
import os
from collections.abc import Callable

import pytest

from counterfoil import Event, Recorder
from counterfoil.ids import task_id_of
from tests.fix_log import Logged

# Forking beside threads is what these tests are about; 3.12 warns of it.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

_REFUND = """
from counterfoil import Recorder
recorder = Recorder.from_env()
with recorder.task("refund-request", task_ref="T-9") as task:
    with task.effect("refund", target="payments", args={"amount": 2, "order": "A-17"}) as effect:
        print(task.task_id.hex(), effect.key)
    task.suspend("approval")
recorder.close()
"""


def test_a_second_process_reopens_task_and_effect(
    recorder: Recorder, run_python: Callable[..., str], logged: Logged
) -> None:
    with recorder.task("refund-request", task_ref="T-9") as task:
        effect = task.effect("refund", target="payments", args={"order": "A-17", "amount": 2})
        with effect:
            pass
        task.suspend("approval")
    assert run_python(_REFUND).split() == [task.task_id.hex(), effect.key]
    recorder.flush()
    events = [event for event in logged() if event.task_id == task.task_id]
    assert len({event.producer_id for event in events}) == 2
    assert [event.kind for event in events].count("task_suspended") == 2
    assert "task_ended" not in {event.kind for event in events}
    assert {event.effect_id for event in events if event.effect_id} == {effect.effect_id}


_JUST_ENDS = """
from counterfoil import Recorder
recorder = Recorder.from_env()
with recorder.task("t", task_ref="T-9") as task:
    for number in range(2000):
        task.review(by=str(number))
"""


@pytest.mark.parametrize("ending", ["", "raise SystemExit(0)", "import sys; sys.exit()"])
def test_ending_without_close_loses_nothing(run_python: Callable[..., str], logged: Logged, ending: str) -> None:
    run_python(_JUST_ENDS + ending)
    events = logged()
    ours = [event for event in events if event.task_id == task_id_of("acme", "T-9")]
    assert [event.seq for event in ours] == list(range(2002))
    assert events_of(events, "producer_closed")


def events_of(events: list[Event], kind: str) -> list[Event]:
    return [event for event in events if event.kind == kind]


def in_child(act: Callable[[], None]) -> None:
    """Run `act` in a forked child, which ends as multiprocessing's children do."""
    child = multiprocessing.get_context("fork").Process(target=act)
    child.start()
    child.join(30)
    assert child.exitcode == 0


def assert_two_producers(events: list[Event]) -> None:
    """The child's review has a producer and numbers of its own; nobody's numbers have holes."""
    review = events_of(events, "review")
    assert [(event.body or {})["by"] for event in review] == ["child"]
    ended = events_of(events, "task_ended")
    assert review[0].producer_id != ended[0].producer_id
    assert review[0].seq == 0
    assert [event.seq for event in events if event.producer_id == ended[0].producer_id and event.task_ref == "T-9"] == [
        0,
        1,
    ]
    assert len(events_of(events, "producer_opened")) == 2


def test_a_child_of_multiprocessing_is_another_producer(recorder: Recorder, logged: Logged) -> None:
    with recorder.task("t", task_ref="T-9") as task:
        recorder.flush()

        def act() -> None:
            gc.collect()  # the parent's producer must not be torn down here
            task.review(by="child")

        in_child(act)
    recorder.close()
    assert_two_producers(logged())


def test_a_child_of_os_fork_is_another_producer(recorder: Recorder, logged: Logged) -> None:
    with recorder.task("t", task_ref="T-9") as task:
        recorder.flush()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                gc.collect()
                task.review(by="child")
                recorder.close()
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    recorder.close()
    assert_two_producers(logged())


def test_a_fork_before_the_first_event(recorder: Recorder, logged: Logged) -> None:
    in_child(lambda: record_one(recorder, "child"))
    record_one(recorder, "parent")
    recorder.close()
    assert {(event.body or {})["by"] for event in events_of(logged(), "review")} == {"child", "parent"}


def record_one(recorder: Recorder, by: str) -> None:
    with recorder.task("t") as task:
        task.review(by=by)


def test_a_fork_among_threads_that_record(recorder: Recorder, logged: Logged) -> None:
    import threading

    stopping = threading.Event()
    with recorder.task("t") as task:

        def record() -> None:
            while not stopping.is_set():
                task.review(by="parent")

        threads = [threading.Thread(target=record) for _ in range(4)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(3):
                in_child(lambda: record_one(recorder, "child"))
        finally:
            stopping.set()
            for thread in threads:
                thread.join()
    recorder.close()
    by = [(event.body or {})["by"] for event in events_of(logged(), "review")]
    assert by.count("child") == 3


_FORKS_AND_ENDS = """
import os
from counterfoil import Recorder
recorder = Recorder.from_env()
with recorder.task("t", task_ref="T-9") as task:
    task.review(by="parent")
    pid = os.fork()
    if pid == 0:
        task.review(by="child")
        raise SystemExit(0)
    assert os.waitpid(pid, 0)[1] == 0
"""


def test_a_forked_child_that_just_ends(run_python: Callable[..., str], logged: Logged) -> None:
    run_python(_FORKS_AND_ENDS)
    reviews = events_of(logged(), "review")
    assert sorted((event.body or {})["by"] for event in reviews) == ["child", "parent"]
