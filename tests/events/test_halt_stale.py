"""What a client does that can't hear of a halt, and a child that its parent told."""

import asyncio
import multiprocessing
import time

import pytest

from counterfoil import ControlStale, Halted, Recorder, RecorderSettings
from counterfoil.issuing import OrderDesk
from counterfoil.scope import Scope
from tests.fix_stack import Outage
from tests.waiting import wait_until

ARGS = {"n": 1}


def test_without_brokers_writes_stop_once_the_orders_are_stale(
    recorder_settings: RecorderSettings, outage: Outage
) -> None:
    tools = {"tools": {"note": {"when_stale": "go_on"}}}
    quick = {"stale_after_seconds": 1.5, "ack_timeout_seconds": 0.2}
    recorder = Recorder(RecorderSettings(**recorder_settings.model_dump() | quick | tools))
    with recorder, recorder.task("t") as task:
        task.effect("refund", target="p", args=ARGS).begin().ok()
        with outage():
            task.effect("refund", target="p", args={"n": 2}).begin().ok()  # not stale yet
            time.sleep(2)
            with pytest.raises(ControlStale, match=r"1\.5 s are allowed"):
                task.effect("refund", target="p", args={"n": 3}).begin()
            task.effect("note", target="p", args=ARGS).begin().ok()
            with task.tool("lookup") as read:
                read.ok()
        wait_until(lambda: task.refusal("refund", "stop") is None)


@pytest.mark.parametrize("scope", ["everything", "tenant:acme", "workflow:acme/w", "agent:acme/a", "tool:acme/x/y"])
def test_every_kind_of_scope_stops_a_client_that_began_after_it(
    recorder: Recorder, recorder_settings: RecorderSettings, scope: str
) -> None:
    OrderDesk(recorder_settings).halt(Scope.parse(scope), by="dana", reason="r")

    async def act() -> None:
        async with recorder.task("t", workflow="w", agent="a") as task:
            with pytest.raises(Halted):
                async with task.effect("x/y", target="p", args=ARGS):
                    pytest.fail("the body ran")

    asyncio.run(act())


def test_of_two_halts_the_other_still_stops(recorder: Recorder, recorder_settings: RecorderSettings) -> None:
    desk = OrderDesk(recorder_settings)
    wide = desk.halt(Scope.parse("tenant:acme"), by="dana", reason="r")
    desk.halt(Scope.parse("tool:acme/refund"), by="dana", reason="r")
    desk.resume([wide], by="kim", reason="ok")
    with recorder.task("t") as task:
        task.effect("other", target="p", args=ARGS).begin().ok()
        with pytest.raises(Halted, match="tool:acme/refund"):
            task.effect("refund", target="p", args=ARGS).begin()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_obeys_what_its_parent_knew(
    recorder: Recorder, recorder_settings: RecorderSettings, outage: Outage
) -> None:
    with recorder.task("t") as task:
        OrderDesk(recorder_settings).halt(Scope.parse("tool:acme/refund"), by="dana", reason="r")
        wait_until(lambda: bool(recorder.session.control.known.in_force))

        def act() -> None:
            with pytest.raises(Halted, match="dana halted"):
                task.effect("refund", target="p", args=ARGS).begin()

        child = multiprocessing.get_context("fork").Process(target=act)
        with outage():  # it can't have read the orders itself
            child.start()
            time.sleep(1)
        child.join(30)
        assert child.exitcode == 0
