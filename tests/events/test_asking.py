"""The recorder asks before a write is sent again, and takes nothing for a yes but a whole, timely and fitting one."""

import asyncio
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from counterfoil import AlreadyApplied, Effect, Recorder, RecorderSettings, SettingsError, Task
from counterfoil.settings import ConsoleSettings, load_settings
from tests.waiting import ENDS_WITHIN_SECONDS

TOKEN = f"cft_{'0' * 16}_{'a' * 64}"
Answer = Callable[[BaseHTTPRequestHandler, str], None]


class Asked(ThreadingHTTPServer):
    """A server that answers as a test says, and remembers what it was asked."""

    daemon_threads = True

    def __init__(self, answer: Answer) -> None:
        self.requests: list[tuple[str, str, str, dict[str, Any]]] = []
        self.answer = answer
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/audit/"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: Asked

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        told = json.loads(body) if body else {}
        self.server.requests.append((self.command, self.path, self.headers["Authorization"], told))
        self.server.answer(self, self.path.split("/")[4])

    do_POST = do_GET  # noqa: N815  # the name is the standard library's

    def log_message(self, format: str, *args: object) -> None:  # the name is the standard library's
        """Nothing."""


def send(handler: BaseHTTPRequestHandler, body: bytes, status: int = 200, **headers: str) -> None:
    handler.send_response(status)
    for name, value in ({"Content-Length": str(len(body))} | headers).items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


def saying(**changed: Any) -> Answer:
    """A good yes, but for what is changed."""

    def answer(handler: BaseHTTPRequestHandler, effect_id: str) -> None:
        whole = {
            "effect_id": effect_id, "answer": "yes", "code": "confirmed_absent", "may_retry": True, "applied": False,
            "reason": "it is absent", "result": None, "until": "2999-01-01T00:00:00+00:00", "seconds_left": 60.0,
            "ask_again_seconds": None, "of_a_newer_console": {},
        }  # fmt: skip
        send(handler, json.dumps(whole | changed).encode())

    return answer


APPLIED = saying(answer="no", code="applied", may_retry=False, applied=True, result={"id": "re_1"}, until=None)
WAIT = saying(answer="wait", code="settling", may_retry=False, until=None, seconds_left=None)


@pytest.fixture
def serve() -> Iterator[Callable[[Answer], Asked]]:
    servers: list[Asked] = []

    def start(answer: Answer) -> Asked:
        servers.append(Asked(answer))
        threading.Thread(target=servers[-1].serve_forever, args=(ENDS_WITHIN_SECONDS,), daemon=True).start()
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@contextmanager
def asking(settings: RecorderSettings, url: str, **more: Any) -> Iterator[Task]:
    """A task whose recorder asks at a URL."""
    given = {"url": url, "token": TOKEN, "timeout_seconds": 5.0} | more
    with (
        Recorder(settings.model_copy(update={"console": ConsoleSettings(**given)})) as recorder,
        recorder.task("t") as task,
    ):
        yield task


def doubtful(task: Task) -> Effect:
    effect = task.begin_effect("refund", target="payments", args={"order": "A-17"})
    effect.unknown(TimeoutError("no reply"))
    return effect


def test_a_yes_is_one_and_says_which_attempt_it_is_about(
    recorder_settings: RecorderSettings, serve: Callable[[Answer], Asked]
) -> None:
    server = serve(saying())
    with asking(recorder_settings, server.url) as task:
        effect = doubtful(task)
        assert effect.may_retry()
        answer = effect.confirm(timeout=7)
        assert answer.may_retry
        assert answer.is_open
        assert (answer.applied, answer.reason, answer.result) == (False, "it is absent", None)
        assert answer.until is not None
        assert answer.until.year == 2999
        assert asyncio.run(effect.confirm_async(timeout=99)).may_retry
        assert task.effect("refund", target="payments", args={"order": "A-17"}).confirm().may_retry  # not begun
    intent = effect.intent_id.hex()
    base, bearer = f"/audit/v1/effects/{effect.key}", f"Bearer {TOKEN}"
    assert server.requests == [
        ("GET", f"{base}/may-retry?after={intent}", bearer, {}),
        ("POST", f"{base}/confirm", bearer, {"timeout_seconds": 7, "after": intent}),
        ("POST", f"{base}/confirm", bearer, {"timeout_seconds": 30, "after": intent}),
        ("POST", f"{base}/confirm", bearer, {"timeout_seconds": 30}),
    ]


def test_definite_outcomes_are_not_asked_about(
    recorder_settings: RecorderSettings, serve: Callable[[Answer], Asked]
) -> None:
    server = serve(saying())
    with asking(recorder_settings, server.url) as task:
        for outcome, allowed in (("ok", False), ("denied", False), ("failed", True)):
            effect = task.begin_effect("refund", target="payments", args={"for": outcome})
            assert not effect.may_retry()
            getattr(effect, outcome)()
            assert effect.may_retry() is allowed
    assert server.requests == []


def hang(handler: BaseHTTPRequestHandler, _effect_id: str) -> None:
    time.sleep(1.5)


def drip(handler: BaseHTTPRequestHandler, _effect_id: str) -> None:
    """Never silent for long, and never done."""
    handler.send_response(200)
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b" ")
        time.sleep(0.05)


def redirect(handler: BaseHTTPRequestHandler, effect_id: str) -> None:
    send(handler, b"", 307, Location=f"/audit/v1/effects/{effect_id}/yes") if "yes" not in handler.path else saying()(
        handler, effect_id
    )


def twice(handler: BaseHTTPRequestHandler, effect_id: str) -> None:
    send(handler, b'{"effect_id": "%s", "answer": "no", "answer": "yes"}' % effect_id.encode())


def short(handler: BaseHTTPRequestHandler, effect_id: str) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"effect_id": "')


def problem(handler: BaseHTTPRequestHandler, _effect_id: str) -> None:
    body = {"type": "about:blank", "title": "Not Found", "status": 404, "detail": "it may wait in a spool"}
    send(handler, json.dumps(body).encode(), 404, Content_Type="application/problem+json")


NO_ANSWER: dict[str, tuple[Answer, str]] = {
    "hangs": (hang, "gave none within 1 s"),
    "drips": (drip, "gave none within 1 s"),
    "redirects": (redirect, "says 307"),
    "a page": (lambda handler, _: send(handler, b"<html>yes</html>"), "no answer of a console"),
    "a list": (lambda handler, _: send(handler, b"[]"), "no answer of a console"),
    "nothing": (lambda handler, _: send(handler, b""), "no answer of a console"),
    "deep": (lambda handler, _: send(handler, b"[" * 100_000), "no answer of a console"),
    "a name twice": (twice, "no answer of a console"),
    "broken off": (short, "no answer of a console"),
    "an error": (lambda handler, _: send(handler, b'{"may_retry": true}', 500), "says 500"),
    "a problem": (problem, "says 404: it may wait in a spool"),
    "of another effect": (saying(effect_id="0" * 32), "about another effect"),
    "no boolean": (saying(may_retry=1), "no answer of a console"),
    "no and may": (saying(answer="no"), "contradicts itself"),
    "wait and may": (saying(answer="wait"), "contradicts itself"),
    "applied and may": (saying(applied=True), "contradicts itself"),
    "without an end": (saying(until=None), "not until when"),
    "without a length": (saying(seconds_left=None), "not until when"),
    "with no number": (saying(seconds_left=float("nan")), "not until when"),
    "without end": (saying(seconds_left=float("inf")), "not until when"),
    "a naive time": (saying(until="2999-01-01T00:00:00"), "no answer of a console"),
    "for another reason": (saying(code="settling"), "not until when or why"),
}


@pytest.mark.parametrize("how", NO_ANSWER)
def test_what_is_no_answer_is_a_no(
    recorder_settings: RecorderSettings,
    serve: Callable[[Answer], Asked],
    caplog: pytest.LogCaptureFixture,
    how: str,
) -> None:
    answer, why = NO_ANSWER[how]
    with asking(recorder_settings, serve(answer).url, timeout_seconds=1) as task, caplog.at_level(logging.WARNING):
        effect = doubtful(task)
        started = time.monotonic()
        assert not effect.may_retry()
        assert time.monotonic() - started < 10
        assert effect.answer is not None
        assert (effect.answer.code, effect.answer.applied, effect.answer.result) == ("no_answer", False, None)
        assert why in effect.answer.reason
    assert why in caplog.text
    assert effect.key in caplog.text
    assert TOKEN not in caplog.text


def test_a_yes_whose_window_has_passed_meanwhile_is_a_no(
    recorder_settings: RecorderSettings, serve: Callable[[Answer], Asked]
) -> None:
    with asking(recorder_settings, serve(saying(seconds_left=0.0)).url) as task:
        assert not doubtful(task).may_retry()


def test_nobody_there_is_a_no(recorder_settings: RecorderSettings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with asking(recorder_settings, f"http://127.0.0.1:{port}") as task:
        effect = doubtful(task)
        assert not effect.may_retry()
        answer = effect.confirm(timeout=1)
        assert (answer.may_retry, answer.code) == (False, "no_answer")
        assert "can't be reached (ConnectionRefusedError)" in answer.reason


def test_without_a_console_confirm_says_so(recorder: Recorder) -> None:
    with recorder.task("t") as task:
        answer = doubtful(task).confirm()
        assert not answer.may_retry
        assert "COUNTERFOIL_CONSOLE__URL" in answer.reason


def try_to_pay(task: Task, calls: list[int], **named: Any) -> None:
    for attempt in task.attempts("refund", target="payments", args={"n": 1}, **named):
        with attempt as effect:
            calls.append(effect.attempt)
            raise TimeoutError("no reply")


async def try_to_pay_async(task: Task, calls: list[int]) -> None:
    async for attempt in task.attempts("refund", target="payments", args={"n": 1}):
        async with attempt as effect:
            calls.append(effect.attempt)
            raise TimeoutError("no reply")


def test_attempts_end_where_it_landed_and_bring_the_missed_result(
    recorder_settings: RecorderSettings, serve: Callable[[Answer], Asked]
) -> None:
    calls: list[int] = []
    with asking(recorder_settings, serve(APPLIED).url) as task:
        with pytest.raises(AlreadyApplied, match="payments has it: do not send it again") as told:
            try_to_pay(task, calls)
        with pytest.raises(AlreadyApplied):
            asyncio.run(try_to_pay_async(task, calls))
    assert calls == [1, 2]
    assert told.value.result == {"id": "re_1"}
    assert isinstance(told.value.__cause__, TimeoutError)


def test_attempts_go_on_after_a_yes_alone(
    recorder_settings: RecorderSettings, serve: Callable[[Answer], Asked]
) -> None:
    calls: list[int] = []
    with asking(recorder_settings, serve(saying()).url) as task, pytest.raises(TimeoutError):
        try_to_pay(task, calls, tries=2)
    assert calls == [1, 2]
    with asking(recorder_settings, serve(WAIT).url) as task, pytest.raises(TimeoutError):
        try_to_pay(task, calls, tries=5)
    assert calls == [1, 2, 1]


def test_attempts_do_not_begin_once_the_window_closed_in_between(
    recorder_settings: RecorderSettings, serve: Callable[[Answer], Asked]
) -> None:
    calls: list[int] = []
    with (
        asking(recorder_settings, serve(saying(seconds_left=0.02)).url) as task,
        pytest.raises(TimeoutError, match="no reply"),
    ):
        try_to_pay(task, calls, tries=5)
    assert calls == [1]


def test_an_event_loop_goes_on_while_the_answer_is_waited_for(
    recorder_settings: RecorderSettings, serve: Callable[[Answer], Asked]
) -> None:
    async def act(task: Task) -> int:
        effect = doubtful(task)
        question = asyncio.create_task(effect.confirm_async(timeout=0))
        turns = 0
        while not question.done():
            await asyncio.sleep(0.01)
            turns += 1
        assert not (await question).may_retry
        return turns

    with asking(recorder_settings, serve(hang).url) as task:
        assert asyncio.run(act(task)) > 20


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"url": "http://127.0.0.1"}, "holds no token"),
        ({"url": "http://127.0.0.1", "token": "two words"}, "holds no token"),
        ({"url": "ftp://x", "token": TOKEN}, "is no address"),
        ({"url": "http://user:secret@x", "token": TOKEN}, "is no address"),
        ({"url": "http://x:port", "token": TOKEN}, "is no address"),
    ],
)
def test_settings_that_are_wrong(recorder_settings: RecorderSettings, given: dict[str, str], sentence: str) -> None:
    settings = recorder_settings.model_copy(update={"console": ConsoleSettings(**given)})
    with pytest.raises(SettingsError, match=sentence) as said:
        Recorder(settings)
    assert "secret" not in str(said.value)
    assert "two words" not in str(said.value)


def test_the_token_is_read_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COUNTERFOIL_CONSOLE__URL", "https://audit.example")
    monkeypatch.setenv("COUNTERFOIL_CONSOLE__TOKEN_FILE", str(path))
    settings = load_settings(RecorderSettings)
    assert settings.console.token is not None
    assert settings.console.token.get_secret_value() == TOKEN
    assert TOKEN not in repr(settings)
    monkeypatch.setenv("COUNTERFOIL_CONSOLE", TOKEN)
    with pytest.raises(SettingsError) as said:
        load_settings(RecorderSettings)
    assert TOKEN not in str(said.value)
