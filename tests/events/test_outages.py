"""The brokers go away and come back: nothing is lost, nothing is out of order, and no write runs without a trace."""

import asyncio
import itertools
import threading
import time

import pytest

from counterfoil import AuditUnavailable, Event, Recorder, RecorderSettings, Task
from tests.accounts import assert_accounted
from tests.fix_log import Logged
from tests.fix_recorder import folders
from tests.fix_stack import Outage
from tests.waiting import wait_until

ARGS = {"order": "A-17"}


@pytest.fixture
def settings(recorder_settings: RecorderSettings) -> RecorderSettings:
    return recorder_settings.model_copy(update={"ack_timeout_seconds": 0.5, "close_timeout_seconds": 20})


def refund(task: Task, number: int) -> None:
    with task.effect("refund", target="payments", args={"n": number}) as effect:
        effect.ok()


def test_writes_go_on_through_an_outage(settings: RecorderSettings, outage: Outage, logged: Logged) -> None:
    recorder = Recorder(settings.model_copy(update={"beat_interval_seconds": 3600.0}))  # a beat would learn of it first
    with recorder.task("t") as task:
        refund(task, 0)
        recorder.flush()
        with outage():
            started = time.monotonic()
            refund(task, 1)
            assert 0.4 < time.monotonic() - started < 3
            started = time.monotonic()
            for number in range(2, 22):
                refund(task, number)
            assert time.monotonic() - started < 3  # the outage is known by now: the spool is asked at once
            assert recorder.session.delivery.spooled_count >= 20
            [folder] = folders(settings)
            assert {path.name for path in folder.iterdir()} >= {"spool.sqlite", "tally", "lock"}
        refund(task, 22)
    recorder.close()
    accounts = assert_accounted(logged())
    assert [event.kind for event in logged() if event.task_id == task.task_id].count("tool_intent") == 23
    assert not any(account.gaps for account in accounts.values())
    assert folders(settings) == []  # no manual step, nothing left


def test_async_writes_do_not_block_the_loop(settings: RecorderSettings, outage: Outage, logged: Logged) -> None:
    recorder = Recorder(settings)
    ticks: list[float] = []

    async def tick() -> None:
        while True:
            ticks.append(time.monotonic())
            await asyncio.sleep(0.01)

    async def write(task: Task, number: int) -> None:
        async with task.effect("refund", target="payments", args={"n": number}) as effect:
            effect.ok()

    async def act() -> None:
        ticking = asyncio.create_task(tick())
        async with recorder.task("t") as task:
            await write(task, 0)
            with outage():
                await asyncio.gather(*(write(task, number) for number in range(1, 50)))
        ticking.cancel()

    asyncio.run(act())
    recorder.close()
    assert max(later - sooner for sooner, later in itertools.pairwise(ticks)) < 0.3
    assert_accounted(logged())
    assert [event.kind for event in logged()].count("tool_intent") == 50


def test_a_tool_that_wants_the_broker_does_not_run_on_the_spool(
    settings: RecorderSettings, outage: Outage, logged: Logged
) -> None:
    tools = {"tools": {"refund": {"durable": "broker"}}}
    recorder = Recorder(RecorderSettings(**settings.model_dump() | tools))
    with recorder.task("t") as task:
        recorder.flush()
        refund(task, 0)
        with outage():
            with pytest.raises(AuditUnavailable, match=r"within 0\.5 s \(durable = broker\)"):
                refund(task, 1)
            with task.effect("refund", target="payments", args=ARGS, durable="spool"):
                pass
    recorder.close()
    events = logged()
    assert_accounted(events)
    outcomes = [(event.body or {})["outcome"] for event in events if event.kind == "tool_result"]
    assert outcomes == ["ok", "failed", "unknown"]


def test_fail_open_runs_and_what_is_lost_is_said(settings: RecorderSettings, outage: Outage, logged: Logged) -> None:
    """Neither brokers nor a disk, and little memory: what does not fit becomes gaps, to the number."""
    little = {"spool_directory": None, "window_events": 20, "window_bytes": 8_192}
    recorder = Recorder(
        settings.model_copy(update=little | {"when_unavailable": "fail_open", "ack_timeout_seconds": 0.2})
    )
    ran = []
    with recorder.task("t") as task:
        recorder.flush()
        refund(task, 0)
        with outage():
            for number in range(1, 11):
                with task.effect("refund", target="payments", args={"n": number}) as effect:
                    ran.append(number)
                    effect.ok()
            for number in range(200):
                task.review(by=str(number))
            with pytest.raises(AuditUnavailable, match="nor is it in the spool"):
                task.effect("refund", target="payments", args=ARGS, when_unavailable="fail_closed").begin()
        assert recorder.flush(20) == 0
        time.sleep(0.5)  # a beat says what was given up
    recorder.close()
    assert ran == list(range(1, 11))
    accounts = assert_accounted(logged())
    gaps = sum(len(account.gaps) for account in accounts.values())
    assert gaps > 100
    [closed] = [event.body or {} for event in logged() if event.kind == "producer_closed"]
    assert closed["undelivered"] == gaps
    own = next(account for (_, task_id), account in accounts.items() if task_id == task.task_id)
    assert own.emitted == 1 + 2 + 20 + 200 + 2 + 1


def test_ending_in_an_outage_leaves_all_to_the_next_process(
    settings: RecorderSettings, outage: Outage, logged: Logged
) -> None:
    recorder = Recorder(settings.model_copy(update={"close_timeout_seconds": 5}))
    recorder.connect()
    recorder.session.control.wait()  # whoever begins without brokers can't know whether a halt is in force
    with outage():
        with recorder.task("t", task_ref="T-9") as task:
            for number in range(30):
                refund(task, number)
        started = time.monotonic()
        recorder.close()
        assert time.monotonic() - started < 6
    [left] = folders(settings)
    before = {event.event_id for event in logged()}
    heir = Recorder(settings)
    with heir.task("other") as other:
        refund(other, 0)
        wait_until(lambda: not left.exists())
    heir.close()
    events = logged()
    assert_accounted(events)
    assert {event.event_id for event in events} > before
    closed = [event for event in events if event.kind == "producer_closed"]
    # It said goodbye itself, into its spool; whoever adopts it can't know, and says it again.
    assert {event.producer_id for event in closed} == {bytes.fromhex(left.name), heir_of(events, other.task_id)}
    assert folders(settings) == []


def heir_of(events: list[Event], task_id: bytes) -> bytes:
    return next(event.producer_id for event in events if event.task_id == task_id)


def test_under_load_and_outage_after_outage_each_task_keeps_its_order(
    settings: RecorderSettings, outage: Outage, logged: Logged
) -> None:
    recorder = Recorder(settings.model_copy(update={"window_events": 200}))
    stopping = threading.Event()
    said = [0] * 4

    def work(place: int) -> None:
        with recorder.task("t", task_ref=f"T-{place}") as task:
            while not stopping.is_set():
                task.review(by=str(said[place]))
                said[place] += 1
                if said[place] % 50 == 0:
                    refund(task, said[place])
                time.sleep(0.0005)

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(said))]
    for thread in threads:
        thread.start()
    for _ in range(3):
        time.sleep(0.4)
        with outage():
            time.sleep(1.5)
    stopping.set()
    for thread in threads:
        thread.join()
    recorder.close()
    events = logged()
    accounts = assert_accounted(events)
    assert not any(account.gaps for account in accounts.values())
    for place, count in enumerate(said):
        reviews = [
            (event.body or {})["by"] for event in events if event.task_ref == f"T-{place}" and event.kind == "review"
        ]
        assert reviews == [str(number) for number in range(count)]
    assert sum(said) > 2000


def test_a_damaged_spool_is_set_aside_and_said(settings: RecorderSettings, outage: Outage, logged: Logged) -> None:
    recorder = Recorder(settings.model_copy(update={"close_timeout_seconds": 2}))
    with outage():
        with recorder.task("t", task_ref="T-9") as task:
            for number in range(200):
                task.review(by=f"{number} {'x' * 300}")
        recorder.close()
    [left] = folders(settings)
    spool = left / "spool.sqlite"
    content = bytearray(spool.read_bytes())
    for page in range(8, 12):
        content[4096 * page : 4096 * page + 2048] = b"\xff" * 2048
    spool.write_bytes(content)
    heir = Recorder(settings)
    with heir.task("other") as other:
        refund(other, 0)
        wait_until(lambda: not left.exists())
        time.sleep(0.5)  # a beat says what was found
    heir.close()
    events = logged()
    accounts = assert_accounted(events)
    gaps = sum(len(account.gaps - set(account.stored)) for account in accounts.values())
    assert 0 < gaps < 100
    [finding] = [event.body or {} for event in events if event.kind == "finding"]
    assert finding["name"] == "spool_damaged"
    assert [path.name for path in folders(settings)] == [f"{left.name}.damaged"]
