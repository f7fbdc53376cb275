"""Tasks: numbered without holes, reopened, suspended, handed on, and found by context."""

import asyncio
import hashlib
import json
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import pytest
from opentelemetry.sdk.trace import TracerProvider

from counterfoil import Event, Recorder, RecorderSettings, UsageError, current_task
from counterfoil.delivery import Delivery
from counterfoil.ids import partition_key, task_id_of
from tests.fix_log import Logged, RecordsOf


def kinds_of(events: list[Event], task_id: bytes) -> list[str]:
    return [event.kind for event in events if event.task_id == task_id]


def test_numbers_have_no_holes_under_eight_threads(recorder: Recorder, logged: Logged) -> None:
    with recorder.task("one") as one, recorder.task("two") as two:

        def record(number: int) -> None:
            task = (one, two)[number % 2]
            task.approval(by="policy", about=str(number))
            if number % 50 == 0:
                with pytest.raises(UsageError, match="can't be recorded"):
                    task.completion("x", usage={"input_tokens": "many"})  # type: ignore[dict-item]  # the mistake meant

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(record, range(800)))
    recorder.close()
    numbers: defaultdict[tuple[bytes, bytes], list[int]] = defaultdict(list)
    for event in logged():
        numbers[event.producer_id, event.task_id].append(event.seq)
    assert len(numbers) == 3  # both tasks and the producer's own
    for seqs in numbers.values():
        assert seqs == list(range(len(seqs)))
    assert len(numbers[recorder_id(logged()), one.task_id]) == 402


def recorder_id(events: list[Event]) -> bytes:
    [producer_id] = {event.producer_id for event in events}
    return producer_id


def test_a_producer_s_life(recorder_settings: RecorderSettings, logged: Logged) -> None:
    recorder = Recorder(recorder_settings)
    with recorder.task("t") as task:
        threading.Event().wait(0.5)
        with recorder.task("elsewhere", tenant="other"):
            pass
    recorder.close()
    events = [event for event in logged() if event.kind.startswith("producer_")]
    assert {event.task_id for event in events} == {
        task_id_of(tenant, f"producer:{events[0].producer_id.hex()}") for tenant in ("acme", "other")
    }
    ours = [event for event in events if event.tenant == "acme"]
    assert [event.kind for event in ours][:2] == ["producer_opened", "producer_beat"]
    assert ours[-1].kind == "producer_closed"
    assert (ours[0].body or {})["beat_interval"] == 200_000
    assert (ours[1].body or {})["open_tasks"] == [{"task_id": task.task_id, "last_seq": 0}]
    claims = [claim for event in ours[1:] for claim in (event.body or {})["open_tasks"]]
    assert claims[-1] == {"task_id": task.task_id, "last_seq": 1}  # also of a task that ended since the beat before
    assert {claim["task_id"] for claim in claims} == {task.task_id}
    assert ((ours[-1].body or {})["undelivered"], (ours[-1].body or {})["adopted_by"]) == (0, None)


def test_key_and_headers_of_a_record(recorder: Recorder, records_of: RecordsOf) -> None:
    with recorder.task("t") as task:
        pass
    recorder.flush()
    keys = {record.key for record in records_of("events")}
    assert partition_key("acme", task.task_id) in keys
    assert (("counterfoil-kind", b"task_started"),) in {record.headers for record in records_of("events")}


def test_leaving_says_how_it_ended(recorder: Recorder, logged: Logged) -> None:
    with recorder.task("good") as good:
        pass
    with pytest.raises(ValueError, match="boom"), recorder.task("bad") as bad:
        raise ValueError("boom")
    with recorder.task("waits") as waits:
        waits.suspend("approval")
    with recorder.task("told") as told:
        told.end("failed")
    recorder.flush()
    events = logged()
    last = {event.task_id: event for event in events}
    assert last[good.task_id].body == {"status": "completed", "error_type": None, "error_message": None}
    assert last[bad.task_id].body == {"status": "failed", "error_type": "ValueError", "error_message": "boom"}
    assert last[waits.task_id].body == {"reason": "approval"}
    assert (last[told.task_id].body or {})["status"] == "failed"
    for task in (good, bad, waits, told):
        assert len(kinds_of(events, task.task_id)) == 2


def test_the_same_object_goes_on_after_suspending(recorder: Recorder, logged: Logged) -> None:
    task = recorder.task("t", task_ref="T-9")
    with task:
        task.suspend("approval")
    with task:
        pass
    recorder.flush()
    assert kinds_of(logged(), task.task_id) == ["task_started", "task_suspended", "task_started", "task_ended"]


def test_what_a_task_says_of_itself_stands_in_each_event(recorder: Recorder, logged: Logged) -> None:
    with recorder.task(
        "refund-request",
        tenant="globex",
        workflow="support",
        agent="support-7",
        task_ref="T-9",
        conversation_id="chat-1",
        subject_ref="order A-17",
        release="r1",
        principal="svc",
        on_behalf_of="dana",
        mode="shadow",
        given={"order": "A-17"},
    ) as task:
        task.retrieval("policy", [{"id": "kb/7", "score": 0.5}, {"id": 8}])
        task.denial(by="dana", about="refund", reason="no", details={"limit": 5})
        task.review(by="dana")
    recorder.flush()
    events = [event for event in logged() if event.task_id == task.task_id]
    assert [event.kind for event in events] == ["task_started", "retrieval", "denial", "review", "task_ended"]
    for event in events:
        assert (event.tenant, event.workflow, event.agent, event.task_ref) == ("globex", "support", "support-7", "T-9")
        assert (event.conversation_id, event.subject_ref, event.release) == ("chat-1", "order A-17", "r1")
        assert (event.principal, event.on_behalf_of, event.mode) == ("svc", "dana", "shadow")
        assert event.trace_id == events[0].trace_id != bytes(16)
    assert events[0].body == {"title": "refund-request", "input": '{"order":"A-17"}'}
    assert [source["id"] for source in (events[1].body or {})["sources"]] == ["kb/7", "8"]


@pytest.mark.parametrize("tenant", ["Acme", "a/b", "x" * 41, "\ud800"])
def test_a_wrong_tenant_is_refused(recorder: Recorder, tenant: str) -> None:
    with pytest.raises(UsageError, match="COUNTERFOIL_TENANT"):
        recorder.task("t", tenant=tenant)


def test_a_message_travels_once_per_task(recorder: Recorder, logged: Logged) -> None:
    messages: list[dict[str, object]] = [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": ["hi", 1]},
    ]
    with recorder.task("t") as task:
        task.prompt(messages, model="m", tools=[{"name": "refund"}], parameters={"temperature": 0})
        messages.append({"role": "assistant", "content": "hi"})
        task.prompt(messages, model="m")
        task.completion("hello", usage={"input_tokens": 7, "output_tokens": 1}, cost="0.01")
    assert recorder.flush() == 0
    events = [event for event in logged() if event.task_id == task.task_id]
    sent = [event.body or {} for event in events if event.kind == "message"]
    assert [(one["role"], json.loads(one["content"])) for one in sent] == [
        ("system", "be kind"),
        ("user", ["hi", 1]),
        ("assistant", "hi"),
    ]
    assert sent[0]["digest"] == hashlib.sha256(b'system\n"be kind"').digest()
    prompts = [event.body or {} for event in events if event.kind == "prompt"]
    assert [one["messages"] for one in prompts] == [[m["digest"] for m in sent[:2]], [m["digest"] for m in sent]]
    assert prompts[1]["tools"] is None
    assert prompts[0]["tools"] == hashlib.sha256(b'[{"name":"refund"}]').digest()


def test_a_message_that_was_interrupted_travels_with_the_next_prompt(
    recorder: Recorder, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages = [{"role": "user", "content": "hi"}]
    with recorder.task("t") as task:
        with monkeypatch.context() as stopped:
            stopped.setattr(Delivery, "wait_for_room", interrupted)
            with pytest.raises(KeyboardInterrupt):
                task.prompt(messages, model="m")
        task.prompt(messages, model="m")
    recorder.flush()
    assert [event.kind for event in logged() if event.kind in ("message", "prompt")] == ["message", "prompt"]


def interrupted(_delivery: Delivery) -> None:
    raise KeyboardInterrupt


def test_a_child_names_its_parent(recorder: Recorder, logged: Logged) -> None:
    with recorder.task("t", conversation_id="chat-1") as task:
        with task.child("sub", agent="helper") as child, child.child("subsub", task_ref="S-1") as grandchild:
            pass
        assert grandchild.task_id == task_id_of("acme", "S-1")
    recorder.flush()
    events = {event.task_id: event for event in logged()}
    assert events[child.task_id].parent_task_id == task.task_id
    assert events[grandchild.task_id].parent_task_id == child.task_id
    assert (events[grandchild.task_id].agent, events[child.task_id].agent) == ("helper", "helper")
    assert events[grandchild.task_id].conversation_id == "chat-1"
    assert events[grandchild.task_id].trace_id == events[task.task_id].trace_id


def test_headers_carry_a_task_to_another_service(recorder_settings: RecorderSettings, logged: Logged) -> None:
    ref = "T-9 ünï\r\nx: y"
    with Recorder(recorder_settings) as here, here.task("refund", task_ref=ref, on_behalf_of="dana") as task:
        headers = task.headers()
        assert all(value.isascii() and value.isprintable() for value in headers.values())
        with Recorder(recorder_settings) as there:
            upper = {name.title(): value for name, value in headers.items()}
            with there.continue_task(upper, agent="payer") as continued:
                assert continued.task_id == task.task_id
                args = {"a": 1}
                keys = {one.effect("refund", target="payments", args=args).key for one in (task, continued)}
                assert len(keys) == 1
    # Two producers: the log may hold their events in any order, their ids tell it.
    events = sorted((event for event in logged() if event.task_id == task.task_id), key=lambda event: event.event_id)
    assert [event.kind for event in events] == ["task_started", "task_started", "task_suspended", "task_ended"]
    assert {event.trace_id for event in events} == {task.origin.trace_id}
    assert [event.agent for event in events] == ["agent", "payer", "payer", "agent"]
    assert {(event.task_ref, event.on_behalf_of) for event in events} == {(ref, "dana")}


def test_a_retention_class_is_the_task_s_its_children_s_and_goes_with_it(
    recorder_settings: RecorderSettings, logged: Logged
) -> None:
    """By default the setting's; a service that goes on with the task keeps the task's."""
    settings = recorder_settings.model_copy(update={"retention_class": "chats"})
    with Recorder(settings) as here, Recorder(recorder_settings) as there:
        with (
            here.task("t") as plain,
            here.task("refund", retention_class="payments-7y") as paid,
            paid.child("sub") as child,
            there.continue_task(paid.headers()) as continued,
        ):
            continued.approval(by="policy", about="it")
        for name in ("7 years", "held"):
            with pytest.raises(UsageError, match=f"the retention class '{name}' is not"):
                here.task("t", retention_class=name)
        older = here.continue_task({"counterfoil-task": json.dumps(GOOD)})
        assert older.origin.retention_class == "chats", "its sender named none"
    found = {(event.task_id, event.retention_class) for event in logged() if not event.kind.startswith("producer")}
    assert found == {
        (plain.task_id, "chats"),
        (paid.task_id, "payments-7y"),
        (child.task_id, "payments-7y"),
    }


GOOD = {"tenant": "acme", "workflow": "w", "task_id": "00" * 16}


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "[]",
        "{}",
        "7",
        "null",
        json.dumps(GOOD | {"task_id": "zz"}),
        json.dumps(GOOD | {"task_id": 7}),
        json.dumps(GOOD | {"tenant": "A/B"}),
        json.dumps(GOOD | {"tenant": 7}),
        json.dumps(GOOD | {"task_id": "00"}),
        json.dumps(GOOD | {"parent_task_id": "00"}),
        json.dumps(GOOD | {"workflow": 7}),
        json.dumps(GOOD | {"task_ref": {}}),
        json.dumps(GOOD | {"mode": "wild"}),
        json.dumps(GOOD | {"retention_class": "Two Words"}),
    ],
)
def test_headers_that_hold_no_task_are_refused(recorder: Recorder, header: str | None) -> None:
    with pytest.raises(UsageError):
        recorder.continue_task({} if header is None else {"counterfoil-task": header})


@pytest.mark.parametrize("traceparent", ["", "00-zz-1-01", "00-" + "z" * 32 + "-" + "0" * 16 + "-01", "x"])
def test_a_bad_traceparent_costs_no_task(recorder: Recorder, traceparent: str) -> None:
    task = recorder.continue_task({"counterfoil-task": json.dumps(GOOD), "traceparent": traceparent})
    assert task.origin.trace_id is None


def test_the_current_task_is_the_innermost(recorder: Recorder) -> None:
    with pytest.raises(UsageError, match="no task is open"):
        current_task()
    with recorder.task("outer") as outer:
        with recorder.task("inner") as inner:
            assert current_task() is inner
        assert current_task() is outer
        seen: list[object] = []

        def look() -> None:
            with pytest.raises(UsageError):
                current_task()
            with recorder.task("of the thread") as own:
                seen.append(current_task() is own)

        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        assert seen == [True]
        assert current_task() is outer
    with pytest.raises(UsageError):
        current_task()


def test_the_current_task_of_each_coroutine(recorder: Recorder) -> None:
    async def one(name: str) -> bool:
        async with recorder.task(name) as task:
            await asyncio.sleep(0.01)
            return current_task() is task

    async def act() -> list[bool]:
        async with recorder.task("outer") as outer:
            found = await asyncio.gather(*(one(str(number)) for number in range(20)))
            return [*found, current_task() is outer]

    assert all(asyncio.run(act()))


def test_odd_input_stops_no_agent(recorder: Recorder, logged: Logged) -> None:
    loop: list[object] = []
    loop.append(loop)
    with recorder.task("t\ud800", task_ref="\ud800") as task:
        task.prompt([{"role": "user\ud800", "content": loop}], model="m\ud800", parameters={"t": float("nan")})
        task.completion("a\x00\ud800", decision="\ud800")
        task.retrieval("\ud800", [{"id": "\ud800", "uri": "\ud800"}])
        task.review(by="\ud800", details=object())
        with task.tool("look\ud800up", {1: {2}, "deep": loop}) as call:
            call.ok(float("inf"))
        with task.effect("refund", target="pay", args={"a": 1}, step="2", call_id="\ud800", identity=()) as effect:
            effect.failed(ValueError("\ud800"))
    recorder.flush()
    events = [event for event in logged() if event.task_id == task.task_id]
    assert len(events) == 11
    assert [event.seq for event in events] == list(range(11))


def test_the_trace_of_opentelemetry_goes_with_the_events(
    recorder: Recorder, logged: Logged, records_of: RecordsOf
) -> None:
    tracer = TracerProvider().get_tracer("test")
    with recorder.task("without") as plain:
        plain.review(by="nobody")
    with tracer.start_as_current_span("outer") as outer, recorder.task("with") as task:
        task.review(by="outer")
        with tracer.start_as_current_span("inner") as inner:
            task.review(by="inner")
    recorder.flush()
    reviews = {(event.body or {})["by"]: event for event in logged() if event.kind == "review"}
    assert reviews["nobody"].span_id is None
    trace_id = outer.get_span_context().trace_id.to_bytes(16, "big")
    for name, span in (("outer", outer), ("inner", inner)):
        span_id = span.get_span_context().span_id.to_bytes(8, "big")
        assert (reviews[name].trace_id, reviews[name].span_id) == (trace_id, span_id)
        expected = ("traceparent", f"00-{trace_id.hex()}-{span_id.hex()}-01".encode())
        assert [record for record in records_of("events") if expected in record.headers]
    assert task.origin.trace_id == trace_id
    untraced = [record for record in records_of("events") if b"nobody" in (record.value or b"")]
    assert [len(record.headers) for record in untraced] == [1]
