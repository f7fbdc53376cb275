"""Functions as tools, attempts, and completions in pieces."""

import asyncio
import contextlib
import datetime as dt
import time
from typing import Any

import pytest
import stamina

from counterfoil import Event, Recorder, UsageError, current_effect
from tests.fix_log import Logged


def bodies(events: list[Event], kind: str) -> list[dict[str, Any]]:
    return [dict(event.body or {}) for event in events if event.kind == kind]


def test_a_function_as_a_write(recorder: Recorder, logged: Logged) -> None:
    @recorder.tool(target="payments", write=True, identity=["order"])
    def refund(order: str, amount: str = "1.00", *, note: str | None = None) -> dict[str, str]:
        """Give money back."""
        return {"id": current_effect().key, "of": order + amount + str(note)}

    with recorder.task("t") as task:
        reply = refund("A-17", note="late")
        assert reply["id"] == task.effect("refund", target="payments", args={"order": "A-17"}, identity=["order"]).key
    assert (refund.__name__, refund.__doc__) == ("refund", "Give money back.")
    recorder.flush()
    [intent], [result] = bodies(logged(), "tool_intent"), bodies(logged(), "tool_result")
    assert (intent["tool"], intent["target"], intent["write"]) == ("refund", "payments", True)
    assert intent["args"] == '{"order":"A-17","amount":"1.00","note":"late"}'
    assert result["outcome"] == "ok"
    assert reply["id"] in result["result"]


def test_an_async_method_as_a_write(recorder: Recorder, logged: Logged) -> None:
    class Shop:
        @recorder.tool("ship", target="orders", write=True)
        async def ship_it(self, order: str) -> None:
            await asyncio.sleep(0)
            if order == "lost":
                raise TimeoutError
            current_effect().accepted({"job": 1}, deadline=dt.timedelta(hours=1))

    async def act() -> None:
        async with recorder.task("t"):
            await Shop().ship_it("A-17")
            with pytest.raises(TimeoutError):
                await Shop().ship_it("lost")

    asyncio.run(act())
    recorder.flush()
    assert [one["args"] for one in bodies(logged(), "tool_intent")] == ['{"order":"A-17"}', '{"order":"lost"}']
    assert [one["outcome"] for one in bodies(logged(), "tool_result")] == ["accepted", "unknown"]


def test_a_function_as_a_read(recorder: Recorder, logged: Logged) -> None:
    @recorder.tool()
    def lookup(order: str) -> str:
        with pytest.raises(UsageError, match="no effect runs here"):
            current_effect()
        return order.upper()

    with pytest.raises(UsageError, match="no task is open"):
        lookup("a-17")
    with recorder.task("t"):
        assert lookup("a-17") == "A-17"
        with pytest.raises(TypeError):
            lookup()  # type: ignore[call-arg]  # the mistake meant
    with pytest.raises(UsageError, match="identity is for writes"):
        recorder.tool(identity=["order"])
    recorder.flush()
    [intent] = bodies(logged(), "tool_intent")
    assert (intent["tool"], intent["write"], intent["target"]) == ("lookup", False, None)


class Declined(Exception):
    """A definite no."""


@pytest.fixture(autouse=True)
def _hurry() -> Any:
    with stamina.set_testing(True, attempts=3, cap=True):
        yield


def tried(recorder: Recorder, errors: list[Exception | None], **named: Any) -> int:
    """How many attempts are made of a write that meets these."""
    left = iter(errors)
    count = 0
    with recorder.task("t") as task:
        try:
            for attempt in task.attempts("refund", target="payments", args={"n": 1}, definite=(Declined,), **named):
                with attempt as effect:
                    count += 1
                    error = next(left)
                    if error is not None:
                        raise error
                    effect.ok()
        except (Declined, TimeoutError):
            pass
    return count


def test_only_what_can_not_happen_twice_is_tried_again(recorder: Recorder, logged: Logged) -> None:
    day = dt.timedelta(days=1)
    assert tried(recorder, [Declined(), None]) == 2
    assert tried(recorder, [Declined(), Declined(), Declined(), None], tries=3) == 3
    assert tried(recorder, [TimeoutError(), None]) == 1  # it may have happened: nobody sends it again
    assert tried(recorder, [Declined(), TimeoutError(), None]) == 2
    assert tried(recorder, [TimeoutError(), TimeoutError(), None], idempotent=day) == 3
    assert tried(recorder, [TimeoutError(), None], idempotent=dt.timedelta(0)) == 1
    recorder.flush()
    intents = [event for event in logged() if event.kind == "tool_intent"]
    by_task: dict[bytes, list[int]] = {}
    for event in intents:
        by_task.setdefault(event.task_id, []).append(event.attempt or 0)
        assert len({one.effect_id for one in intents if one.task_id == event.task_id}) == 1
    assert sorted(by_task.values()) == [[1], [1], [1, 2], [1, 2], [1, 2, 3], [1, 2, 3]]


def test_async_attempts(recorder: Recorder, logged: Logged) -> None:
    async def act() -> None:
        left = iter([Declined(), Declined(), None])
        async with recorder.task("t") as task:
            async for attempt in task.attempts("refund", target="payments", args={"n": 1}, definite=(Declined,)):
                async with attempt as effect:
                    error = next(left)
                    if error is not None:
                        raise error
                    effect.ok()

    asyncio.run(act())
    recorder.flush()
    assert [one["outcome"] for one in bodies(logged(), "tool_result")] == ["failed", "failed", "ok"]


def test_may_retry_says_what_each_outcome_allows(recorder: Recorder) -> None:
    expected = {"ok": False, "failed": True, "unknown": False, "partial": False, "denied": False}
    with recorder.task("t") as task:
        for outcome, allowed in expected.items():
            with task.effect("refund", target="payments", args={"n": outcome}) as effect:
                assert not effect.may_retry()
                getattr(effect, outcome)()
            assert effect.may_retry() is allowed
        brief = task.effect("x", target="payments", args={}, idempotent=dt.timedelta(seconds=0.2))
        with brief:
            brief.unknown()
        assert brief.may_retry()
        time.sleep(0.25)
        assert not brief.may_retry()


def test_a_completion_in_pieces(recorder: Recorder, logged: Logged) -> None:
    with recorder.task("t") as task:
        with task.completion_stream(model="m") as stream:
            for piece in ("All ", "done."):
                stream.add(piece)
            stream.tell(usage={"output_tokens": 2}, finish_reason="stop")
        with contextlib.suppress(ConnectionResetError), task.completion_stream() as stream:
            stream.add("Half of")
            raise ConnectionResetError
    recorder.flush()
    whole, broken = bodies(logged(), "completion")
    assert (whole["text"], whole["partial"], whole["output_tokens"], whole["model"]) == ("All done.", False, 2, "m")
    assert (broken["text"], broken["partial"]) == ("Half of", True)
