"""Tasks over several processes: reopened, forked, and ended without a word."""

import gc
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from counterfoil import Event, Recorder, RecorderSettings, codec
from counterfoil.encoding import Encoder, encoder_of
from counterfoil.ids import task_id_of
from tests.accounts import assert_accounted
from tests.fix_log import Logged, StartPython
from tests.fix_recorder import folders
from tests.fix_stack import Outage
from tests.waiting import wait_until

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
    exitcode = child.exitcode
    if exitcode is None:
        child.kill()
    assert exitcode == 0


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


def test_a_fork_while_a_name_is_resolved(recorder_settings: RecorderSettings, logged: Logged) -> None:
    """glibc leaves its lock taken in such a child: no thread of librdkafka's there ever resolves a name again."""
    recorder = Recorder(recorder_settings.model_copy(update={"ack_timeout_seconds": 0.5, "close_timeout_seconds": 1}))
    enough = threading.Event()

    def resolve() -> None:
        while not enough.is_set():
            socket.getaddrinfo("127.0.0.1", 1, flags=socket.AI_ADDRCONFIG)  # as librdkafka does

    resolving = [threading.Thread(target=resolve) for _ in range(4)]
    for thread in resolving:
        thread.start()
    stuck = 0
    for number in range(3):
        started = time.monotonic()
        in_child(lambda by=str(number): record_one(recorder, by))  # type: ignore[misc]  # of this round
        took = time.monotonic() - started
        stuck += took > 1.5
        assert took < 5
    enough.set()
    for thread in resolving:
        thread.join()
    print(f"{stuck} of 3 children could not resolve a name")
    with recorder.task("heir"):
        wait_until(lambda: len(folders(recorder_settings)) == 1)
    recorder.close()
    assert_accounted(logged())
    assert len(events_of(logged(), "review")) == 3


def record_one(recorder: Recorder, by: str) -> None:
    with recorder.task("t") as task:
        task.review(by=by)


def test_a_fork_among_threads_that_record(recorder: Recorder, logged: Logged) -> None:
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


def test_a_fork_while_another_thread_makes_the_first_event_of_a_kind(
    recorder: Recorder, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is made once per process, at its first use, is not waited for in a child in which nobody makes it."""
    making, made = threading.Event(), threading.Event()
    parent = os.getpid()

    def slowly(definition: dict[str, Any]) -> Encoder:
        if os.getpid() == parent and definition["name"] == "Review":
            making.set()
            assert made.wait(60)
        return encoder_of(definition)

    codec._catalogue.cache_clear()
    codec._kind.cache_clear()
    monkeypatch.setattr(codec, "encoder_of", slowly)
    thread = threading.Thread(target=record_one, args=(recorder, "parent"))
    thread.start()
    try:
        assert making.wait(10)
        in_child(lambda: record_one(recorder, "child"))
    finally:
        made.set()
        thread.join()
    recorder.close()
    assert {(event.body or {})["by"] for event in events_of(logged(), "review")} == {"parent", "child"}


_IMPORTS_LATE = """
import os, sys
from counterfoil import Recorder
recorder = Recorder.from_env(blob_store="file://" + sys.argv[1], **eval(sys.argv[2]))
recorder.connect()
known = set(sys.modules)
with recorder.task("t", task_ref="T-9") as task:
    task.prompt([{"role": "user", "content": "call me at +49 170 1234567, or me@example.com"}], model="m")
    task.completion("AKIA" + "Q" * 16 + "-" * 200_000, usage={"input_tokens": 7})
    with task.effect("refund", target="payments", args={"order": "A-17", "amount": 2, "é": 1.5}) as effect:
        effect.ok()
recorder.flush(2)
recorder.close()
print(*sorted(set(sys.modules) - known))
"""


_AWAY = {
    "kafka": {"bootstrap.servers": "127.0.0.1:1"},
    "ack_timeout_seconds": 0.5,
    "close_timeout_seconds": 2,
    "control_timeout_seconds": 0.5,
    "when_stale": "go_on",
}


@pytest.mark.parametrize("settings", [{}, _AWAY])
def test_nothing_is_imported_once_there_are_threads(
    run_python: Callable[..., str], tmp_path: Path, settings: dict[str, Any]
) -> None:
    """A module that is half imported, by a thread that is not there, is waited for without end."""
    store = tmp_path / "store"
    store.mkdir()
    assert run_python(_IMPORTS_LATE, str(store), repr(settings)).split() == []


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


_IS_TERMINATED = """
import sys, time
from counterfoil import Recorder
recorder = Recorder.from_env()
with recorder.task("t", task_ref="T-9") as task:
    for number in range(500):
        task.review(by=str(number))
    with task.effect("refund", target="payments", args={"n": 1}) as effect:
        print("acting", flush=True)
        time.sleep(60)
"""


def test_sigterm_ends_in_order(start_python: StartPython, logged: Logged) -> None:
    process = start_python(_IS_TERMINATED)
    assert process.stdout is not None
    assert process.stdout.readline() == "acting\n"
    started = time.monotonic()
    process.terminate()
    assert process.wait(30) == 128 + signal.SIGTERM
    assert time.monotonic() - started < 5
    events = logged()
    assert_accounted(events)
    [result] = events_of(events, "tool_result")
    assert (result.body or {})["outcome"] == "unknown"
    [ended] = events_of(events, "task_ended")
    assert (ended.body or {})["status"] == "failed"
    assert events_of(events, "producer_closed")


def test_a_handler_of_the_program_s_own_is_left_alone(run_python: Callable[..., str]) -> None:
    code = "import signal; own = lambda *_: None; signal.signal(signal.SIGTERM, own)"
    asked = "print(signal.getsignal(signal.SIGTERM) is own)"
    assert run_python(f"{code}{_JUST_ENDS}{asked}") == "True\n"
    settings = "import signal; settings = {'exit_on_sigterm': False}"
    code = _JUST_ENDS.replace("from_env()", "from_env(**settings)")
    assert run_python(f"{settings}{code}print(signal.getsignal(signal.SIGTERM) is signal.SIG_DFL)") == "True\n"


_DIES_IN_A_CALLBACK = """
import threading
from counterfoil import Recorder
recorder = Recorder.from_env(kafka={"bootstrap.servers": __import__("os").environ["SERVERS"],
                                    "statistics.interval.ms": "50"})
def raises(*_):
    raise RuntimeError("a callback of the program's own")
with recorder.task("t", task_ref="T-9") as task:
    effect = task.effect("refund", target="payments", args={"n": 1})
    future = task.record("review", {"by": "dana"}, durable="broker")
    future.add_done_callback(raises)
    with effect:
        effect.ok()
    threading.excepthook = raises
    for number in range(100):
        task.review(by=str(number))
"""


def test_a_callback_that_raises_ends_no_delivery(
    start_python: StartPython, kafka: dict[str, str], logged: Logged
) -> None:
    process = start_python(_DIES_IN_A_CALLBACK, SERVERS=kafka["bootstrap.servers"])
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert len(events_of(logged(), "review")) == 101
    assert_accounted(logged())


_PRELOADS = """
import os, sys
from counterfoil import Recorder
recorder = Recorder.from_env()
if sys.argv[1] == "used":
    with recorder.task("master") as task:
        task.review(by="master")
children = []
for worker in range(3):
    pid = os.fork()
    if pid == 0:
        with recorder.task("t", task_ref=f"T-{worker}") as task:
            for number in range(100):
                task.review(by=f"{worker}/{number}")
            with task.effect("refund", target="payments", args={"n": worker}) as effect:
                effect.ok()
            pid = os.fork()  # a worker's own child
            if pid == 0:
                with recorder.task("g", task_ref=f"G-{worker}") as task:
                    task.review(by=f"grandchild {worker}")
                recorder.close()
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        if sys.argv[2] == "closes":
            recorder.close()
            os._exit(0)
        sys.exit(0)
    children.append(pid)
assert [os.waitpid(pid, 0)[1] for pid in children] == [0, 0, 0]
"""


@pytest.mark.parametrize("before", ["used", "unused"])
@pytest.mark.parametrize("ending", ["closes", "just ends"])
def test_workers_forked_from_one_that_loaded_it(
    run_python: Callable[..., str], logged: Logged, recorder_settings: RecorderSettings, before: str, ending: str
) -> None:
    """As gunicorn --preload and Celery do."""
    run_python(_PRELOADS, before, ending, COUNTERFOIL_CONTROL_TIMEOUT_SECONDS="40")  # a loaded machine is not it
    events = logged()
    accounts = assert_accounted(events)
    assert not any(account.gaps for account in accounts.values())
    assert len(events_of(events, "review")) == 3 * 101 + (before == "used")
    assert len(events_of(events, "producer_closed")) == 6 + (before == "used")
    assert folders(recorder_settings) == []


def test_a_fork_while_events_wait_in_the_spool(
    recorder_settings: RecorderSettings, broker_pid: int, outage: Outage, logged: Logged
) -> None:
    recorder = Recorder(recorder_settings.model_copy(update={"ack_timeout_seconds": 0.3}))
    with recorder.task("t", task_ref="T-9") as task:
        task.wait_for_orders()
        recorder.flush()
        with outage():
            with task.effect("refund", target="payments", args={"n": 1}) as effect:
                effect.ok()

            def act() -> None:
                with task.effect("refund", target="payments", args={"n": 2}) as effect:
                    effect.ok()
                os.kill(broker_pid, signal.SIGCONT)
                recorder.close()

            in_child(act)
        wait_until(lambda: len(folders(recorder_settings)) == 1)  # what the child left is the parent's to send
    recorder.close()
    accounts = assert_accounted(logged())
    assert not any(account.gaps for account in accounts.values())
    assert len(events_of(logged(), "tool_intent")) == 2
    assert len({event.producer_id for event in logged()}) == 2


_REMEMBERS_TOO_MUCH = """
from counterfoil import Recorder, session
session._MOST_TASKS = 100
recorder = Recorder.from_env()
for number in range(350):
    with recorder.task("t") as task:
        task.review(by=str(number))
recorder.close()
"""


def test_a_process_that_lives_long_becomes_another_producer(run_python: Callable[..., str], logged: Logged) -> None:
    """What it knows of its tasks does not grow for ever."""
    run_python(_REMEMBERS_TOO_MUCH)
    events = logged()
    accounts = assert_accounted(events)
    assert not any(account.gaps for account in accounts.values())
    assert len(events_of(events, "review")) == 350
    assert 3 <= len(events_of(events, "producer_closed")) == len(events_of(events, "producer_opened")) <= 5
