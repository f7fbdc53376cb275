"""Halt, resume and halts at the prompt, and the agents that obey."""

import threading
from collections.abc import Callable

import pytest

from counterfoil import Halted, Recorder, RecorderSettings
from counterfoil import call as call_module
from counterfoil.issuing import Breaker, OrderDesk
from counterfoil.scope import Scope
from counterfoil_consumers.store import Connection
from tests.fix_log import Logged
from tests.waiting import wait_until

from .conftest import Call

REFUND = Scope.parse("tool:acme/refund")


def test_a_halt_stops_and_a_resume_lets_go(
    recorder: Recorder, call: Call, logged: Logged, ingest_all: Callable[[], None]
) -> None:
    with recorder.task("t") as task:
        with task.effect("refund", target="p", args={"n": 1}) as effect:
            effect.ok()
        said = call("halt", str(REFUND), "--reason", "twice\x1b[2J", "--by", "dana", "--json").json
        assert said["waiting"] is not None or said["store_problem"] is None
        assert len(said["acknowledged"]) <= 1
        wait_until(lambda: bool(recorder.session.control.known.in_force))
        with pytest.raises(Halted, match="dana halted tool:acme/refund") as halted:
            task.effect("refund", target="p", args={"n": 2}).begin()
        assert halted.value.order_id is not None
        assert halted.value.order_id.hex() == said["order_id"]
        with task.effect("other", target="p", args={"n": 2}) as effect:
            effect.ok()
        recorder.flush()
        ingest_all()
        [listed] = call("halts", "--json").json["halts"]
        assert (listed["order_id"], len(listed["reach"]["acknowledged"])) == (said["order_id"], 1)
        away = call("halts", STORE__DSN="postgresql://127.0.0.1:1/none")
        assert away.code == 0
        assert "who obeys is not known" in away.out
        assert "\x1b" not in away.out
        assert "nobody halted tool:acme/other" in call("resume", "tool:acme/other", "--reason", "x").sentence
        assert call("resume", str(REFUND), "--reason", "fixed", "--wait", "0").code == 0
        wait_until(lambda: not recorder.session.control.known.in_force)
        with task.effect("refund", target="p", args={"n": 2}) as effect:
            effect.ok()
    recorder.close()
    events = logged()
    assert len([event for event in events if event.kind == "denial"]) == 1
    assert len([event for event in events if event.kind == "control_ack"]) == 2


def test_a_halt_of_everything_is_the_operators_to_see(
    call: Call, recorder_settings: RecorderSettings, ingest_all: Callable[[], None], operator: Connection
) -> None:
    OrderDesk(recorder_settings).halt(Scope.parse("everything"), by="dana", reason="r")
    ingest_all()
    stored = operator.execute("SELECT tenant, kind FROM event").fetchall()
    assert [(row["tenant"], row["kind"]) for row in stored] == [("_operators", "control_order")]
    [listed] = call("halts", "--json").json["halts"]
    assert (listed["scope"], listed["by"]) == ("everything", "dana")


def test_a_halt_between_intent_and_body(
    recorder: Recorder, recorder_settings: RecorderSettings, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, go = threading.Event(), threading.Event()

    def pause(name: str) -> None:
        if name == "call.after_intent":
            reached.set()
            assert go.wait(10)

    recorder.connect()
    monkeypatch.setattr(call_module, "pass_by", pause)
    raised: list[Halted] = []

    def act() -> None:
        with recorder.task("t") as task:
            try:
                task.effect("refund", target="p", args={}).begin()
            except Halted as error:
                raised.append(error)

    thread = threading.Thread(target=act)
    thread.start()
    assert reached.wait(10)
    OrderDesk(recorder_settings).halt(REFUND, by="dana", reason="r")
    wait_until(lambda: bool(recorder.session.control.known.in_force))
    go.set()
    thread.join()
    recorder.close()
    assert len(raised) == 1
    events = {event.kind: event for event in logged() if event.effect_id is not None}
    assert events.keys() == {"tool_intent", "tool_result", "denial"}
    assert (events["tool_result"].body or {})["outcome"] == "denied"


def test_a_breaker_leaves_a_person_s_halt(recorder_settings: RecorderSettings) -> None:
    desk = OrderDesk(recorder_settings)
    mine = desk.halt(REFUND, by="dana", reason="r")
    breaker = Breaker("rate", desk)
    breaker.trip(REFUND, reason="too many")
    assert len(desk.standing().in_force()) == 2
    assert breaker.release(REFUND, reason="calm") is not None
    assert desk.standing().in_force() == (mine,)
    assert breaker.release(REFUND, reason="calm") is None
