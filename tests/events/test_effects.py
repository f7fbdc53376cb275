"""A write is declared before it runs, and what is said of it afterwards is what was seen."""

import asyncio
import datetime as dt
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from counterfoil import AuditUnavailable, Effect, Event, EventsUndelivered, Recorder, RecorderSettings, Task, UsageError
from tests.fix_log import Logged

ARGS = {"order": "A-17", "amount": "12.50"}


class Declined(Exception):
    """The target's definite no."""


def refund(task: Task, **named: Any) -> Effect:
    return task.effect("refund", target="payments", args=ARGS, definite=(Declined,), **named)


def results(events: list[Event]) -> list[dict[str, Any]]:
    return [dict(event.body or {}) for event in events if event.kind == "tool_result"]


def test_the_intent_is_in_the_log_before_the_body_runs(recorder: Recorder, logged: Logged) -> None:
    with recorder.task("refund-request") as task, refund(task) as effect:
        [intent] = [event for event in logged() if event.kind == "tool_intent"]
        effect.ok()
    assert intent.event_id == effect.intent_id
    assert intent.effect_id == effect.effect_id
    assert intent.body is not None
    assert (intent.body["tool"], intent.body["target"], intent.body["write"]) == ("refund", "payments", True)
    assert intent.body["args"] == '{"order":"A-17","amount":"12.50"}'


def test_async_too(recorder: Recorder, logged: Logged) -> None:
    async def act() -> None:
        async with recorder.task("refund-request") as task, refund(task) as effect:
            assert [event.event_id for event in logged() if event.kind == "tool_intent"] == [effect.intent_id]
            effect.ok({"id": "re_1"})

    asyncio.run(act())
    recorder.flush()
    assert [(one["outcome"], one["result"]) for one in results(logged())] == [("ok", '{"id":"re_1"}')]


class BrokenText(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def act(effect: Effect, how: str) -> None:  # noqa: PLR0912  # a table of ways to leave the block
    match how:
        case "no word":
            pass
        case "ok":
            effect.ok({"id": "re_1"})
        case "accepted":
            effect.accepted(deadline=dt.timedelta(minutes=1))
        case "partial":
            effect.partial({"done": 1}, "one of two")
        case "unknown":
            effect.unknown("no reply")
        case "failed":
            effect.failed("refused")
        case "denied":
            effect.denied("over the limit")
        case "ok, then raises":
            effect.ok()
            raise ValueError("later")
        case "timeout":
            raise TimeoutError("no reply within 5 s")
        case "connection lost":
            raise ConnectionResetError("reset")
        case "any error":
            raise ValueError("bad")
        case "definite":
            raise Declined("insufficient funds")
        case "interrupted":
            raise KeyboardInterrupt
        case "unspeakable":
            raise BrokenText


OUTCOMES = [
    ("no word", "unknown", None, None),
    ("ok", "ok", None, None),
    ("accepted", "accepted", None, None),
    ("partial", "partial", None, "one of two"),
    ("unknown", "unknown", None, "no reply"),
    ("failed", "failed", None, "refused"),
    ("denied", "denied", None, "over the limit"),
    ("ok, then raises", "ok", None, None),
    ("timeout", "unknown", "TimeoutError", "no reply within 5 s"),
    ("connection lost", "unknown", "ConnectionResetError", "reset"),
    ("any error", "unknown", "ValueError", "bad"),
    ("definite", "failed", "Declined", "insufficient funds"),
    ("interrupted", "unknown", "KeyboardInterrupt", ""),
    ("unspeakable", "unknown", "BrokenText", "BrokenText whose text raised RuntimeError"),
]


def test_every_way_to_leave_the_block(recorder: Recorder, logged: Logged) -> None:
    raised: dict[str, str] = {}
    with recorder.task("refund-request") as task:
        for how, outcome, _, _ in OUTCOMES:
            effect = refund(task, step=how)
            try:
                with effect:
                    act(effect, how)
            except BaseException as error:  # noqa: BLE001  # each is looked at below
                raised[how] = type(error).__name__
            assert effect.outcome == outcome
    recorder.flush()
    found = [(one["outcome"], one["error_type"], one["error_message"]) for one in results(logged())]
    assert found == [row[1:] for row in OUTCOMES]
    assert raised == {
        "ok, then raises": "ValueError",
        "timeout": "TimeoutError",
        "connection lost": "ConnectionResetError",
        "any error": "ValueError",
        "definite": "Declined",
        "interrupted": "KeyboardInterrupt",
        "unspeakable": "BrokenText",
    }


def test_accepted_needs_a_moment_in_time(recorder: Recorder, logged: Logged) -> None:
    at = dt.datetime(2031, 1, 1, tzinfo=dt.UTC)
    with recorder.task("t") as task, refund(task) as effect:
        with pytest.raises(UsageError, match="time zone"):
            effect.accepted(deadline=at.replace(tzinfo=None))
        assert effect.outcome is None
        effect.accepted({"id": 1}, deadline=at)
    recorder.flush()
    assert [one["deadline"] for one in results(logged())] == [int(at.timestamp()) * 1_000_000]


def test_one_outcome_and_one_beginning(recorder: Recorder, logged: Logged) -> None:
    with recorder.task("t") as task:
        effect = refund(task)
        with pytest.raises(UsageError, match="has not begun"):
            effect.ok()
        with effect:
            effect.ok()
            for again in (effect.ok, effect.failed, effect.unknown, effect.partial, effect.denied):
                with pytest.raises(UsageError, match="is ok already"):
                    again()
        with pytest.raises(UsageError, match="begun already"), effect:
            pass
    recorder.flush()
    assert [one["outcome"] for one in results(logged())] == ["ok"]


def test_a_read_is_told_of_and_has_no_effect(recorder: Recorder, logged: Logged) -> None:
    with recorder.task("t") as task:
        with task.tool("lookup", {"order": "A-17"}, call_id="call_1") as call:
            call.ok({"found": True})
        with task.tool("lookup"):
            pass
        with pytest.raises(TimeoutError), task.tool("lookup"):
            raise TimeoutError
    recorder.flush()
    events = [event for event in logged() if event.kind in ("tool_intent", "tool_result")]
    assert {(event.effect_id, event.attempt) for event in events} == {(None, None)}
    intents = [event.body or {} for event in events if event.kind == "tool_intent"]
    assert [(one["write"], one["target"], one["call_id"]) for one in intents] == [
        (False, None, "call_1"),
        (False, None, None),
        (False, None, None),
    ]
    assert [one["outcome"] for one in results(events)] == ["ok", "ok", "failed"]


def test_attempts_steps_and_identity(recorder: Recorder) -> None:
    with recorder.task("t", task_ref="T-9") as task:
        first, second = refund(task), refund(task)
        assert (first.key, first.attempt, second.key, second.attempt) == (first.key, 1, first.key, 2)
        assert len(first.key) == 32
        assert refund(task, step="again").key != first.key
        assert refund(task, call_id="call_7").key == first.key
        other = {"order": "A-17", "amount": "99"}
        by_order = [
            task.effect("refund", target="payments", args=args, identity=["order"]).key for args in (ARGS, other)
        ]
        assert by_order[0] == by_order[1] != first.key
        with pytest.raises(UsageError, match="'orders' of refund"):
            task.effect("refund", target="payments", args=ARGS, identity=["orders"])
        for step in ("", "x" * 201):
            with pytest.raises(UsageError, match="step has"):
                refund(task, step=step)
        with pytest.raises(UsageError, match="no canonical form"):
            task.effect("refund", target="payments", args={"o": object()})


def test_a_handle_is_finished_by_another_thread(recorder: Recorder, logged: Logged) -> None:
    with recorder.task("t") as task:
        effect = task.begin_effect("refund", target="payments", args=ARGS)
        thread = threading.Thread(target=effect.ok, args=("done",))
        thread.start()
        thread.join()
        assert effect.outcome == "ok"
    recorder.flush()
    kinds = [event.kind for event in logged() if event.task_id == task.task_id]
    assert kinds == ["task_started", "tool_intent", "tool_result", "task_ended"]


def assert_paired(events: list[Event], count: int) -> None:
    """Every intent has one result, found by causation_id, with the same effect and reply."""
    intents = {event.event_id: event for event in events if event.kind == "tool_intent"}
    found = [event for event in events if event.kind == "tool_result"]
    assert {event.causation_id for event in found} == set(intents)
    assert len(found) == len(intents) == count
    for result in found:
        intent = intents[result.causation_id or b""]
        assert result.effect_id == intent.effect_id
        assert (result.body or {})["result"] == (intent.body or {})["args"]


def test_parallel_threads_pair_intents_with_results(recorder: Recorder, logged: Logged) -> None:
    with recorder.task("t") as task:

        def call(number: int) -> None:
            args = {"n": number}
            with task.effect("refund", target="payments", args=args) as effect:
                effect.ok(args)

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(call, range(40)))
    recorder.flush()
    assert_paired(logged(), 40)


def test_parallel_coroutines_pair_intents_with_results(recorder: Recorder, logged: Logged) -> None:
    async def call(task: Task, number: int) -> None:
        args = {"n": number}
        async with task.effect("refund", target="payments", args=args) as effect:
            await asyncio.sleep(0)
            effect.ok(args)

    async def act() -> None:
        async with recorder.task("t") as task:
            await asyncio.gather(*(call(task, number) for number in range(40)))

    asyncio.run(act())
    recorder.flush()
    assert_paired(logged(), 40)


@pytest.fixture
def cut_off(recorder_settings: RecorderSettings) -> RecorderSettings:
    """Settings whose broker is a closed port, and that have no spool."""
    changes = {
        "spool_directory": None,
        "kafka": {"bootstrap.servers": "127.0.0.1:1"},
        "ack_timeout_seconds": 0.3,
        "close_timeout_seconds": 0.5,
        "when_stale": "go_on",
        "control_timeout_seconds": 0.1,
    }
    return recorder_settings.model_copy(update=changes)


def test_without_a_broker_the_write_does_not_run(cut_off: RecorderSettings) -> None:
    recorder = Recorder(cut_off)
    ran = False
    with recorder.task("t") as task:
        effect = refund(task)
        with pytest.raises(AuditUnavailable, match=r"within 0\.3 s") as refused, effect:
            ran = True
        assert not ran
        assert refused.value.event_id == effect.intent_id
        assert effect.outcome == "failed"
    with pytest.raises(EventsUndelivered) as undelivered:
        recorder.close()
    # producer_opened and closed, task_started and ended, intent and result; and the beats
    assert undelivered.value.count >= 6
    with pytest.raises(UsageError, match="closed"), recorder.task("t"):
        pass
    recorder.close()


def test_without_a_broker_neither_does_an_async_one(cut_off: RecorderSettings) -> None:
    recorder = Recorder(cut_off)

    async def act() -> None:
        async with recorder.task("t") as task:
            with pytest.raises(AuditUnavailable):
                async with refund(task):
                    pytest.fail("the body ran")

    asyncio.run(act())
    with pytest.raises(EventsUndelivered):
        recorder.close()


def test_a_read_does_not_wait_for_the_broker(cut_off: RecorderSettings) -> None:
    recorder = Recorder(cut_off.model_copy(update={"ack_timeout_seconds": 30}))
    with recorder.task("t") as task, task.tool("lookup") as call:
        call.ok()
    with pytest.raises(EventsUndelivered):
        recorder.close()
