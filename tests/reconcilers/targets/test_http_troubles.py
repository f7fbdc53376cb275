"""An HTTP API that misbehaves: whatever is no answer is never taken for one, and no reason shows a secret."""

import datetime as dt
import gzip
import json
import logging
import time
import tracemalloc
from collections.abc import Iterator
from email.utils import format_datetime
from functools import cache
from pathlib import Path

import pytest

from counterfoil_reconcilers.rows import Row
from counterfoil_reconcilers.targets.port import TargetUnavailable, Trouble
from tests.reconcilers.targets.conformance import item
from tests.reconcilers.targets.http_api import (
    CONTRACT,
    TOKEN,
    Api,
    Handler,
    Reply,
    opened,
    row_of,
    says,
    sends,
    serving,
)

PLENTY = 100_000_000
ROW = {"id": "1", "status": "paid"}


@pytest.fixture
def api() -> Iterator[Api]:
    with serving() as server:
        server.on("/items", says([ROW]))
        server.on("/items/1", says(ROW))
        yield server


def trouble_of(folder: Path, api: Api, contract: str = CONTRACT, **settings: str) -> TargetUnavailable:
    """What reading a row ends with."""
    with pytest.raises(TargetUnavailable) as caught:
        row_of(opened(folder, api, contract, **settings))
    assert TOKEN not in str(caught.value)
    assert "?" not in str(caught.value)
    return caught.value


def test_a_good_answer_is_one(api: Api, tmp_path: Path) -> None:
    assert row_of(opened(tmp_path, api)) == Row({"id": "1", "status": "paid"})
    assert api.requests[0].headers["authorization"] == f"Bearer {TOKEN}"


@pytest.mark.parametrize(
    ("status", "trouble"),
    [(400, "unreadable"), (401, "refused"), (403, "refused"), (405, "unreadable"), (408, "away"), (429, "throttled"),
     (500, "away"), (502, "away"), (503, "away"), (204, "unreadable"), (201, "unreadable"), (302, "unreadable")],
)  # fmt: skip
def test_a_status_is_no_answer(api: Api, tmp_path: Path, status: int, trouble: Trouble) -> None:
    api.on("/items/1", says(ROW, status) if status != 204 else bodiless)
    caught = trouble_of(tmp_path, api)
    assert caught.trouble == trouble
    assert f"GET /items/{{id}} answered {status}" in caught.reason


def bodiless(handler: Handler) -> None:
    handler.send_response(204)
    handler.end_headers()


NOON = dt.datetime(2026, 1, 1, 12, tzinfo=dt.UTC)


@pytest.mark.parametrize("status", [429, 503, 403])
@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("120", 120.0),
        ("0", 0.0),
        (format_datetime(NOON + dt.timedelta(seconds=90), usegmt=True), 90.0),
        ("Thursday, 01-Jan-26 12:01:30 GMT", 90.0),  # RFC 850's, which recipients must take (RFC 9110, 5.6.7)
        (format_datetime(NOON - dt.timedelta(days=1), usegmt=True), 0.0),
        ("999999999", 86_400.0),
        ("99999999999999999999", None),
        ("-5", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_is_read_in_both_its_forms(
    api: Api, tmp_path: Path, status: int, said: str, seconds: float | None
) -> None:
    api.on("/items/1", dated(status, said))
    wait = trouble_of(tmp_path, api).retry_after
    assert (wait.total_seconds() if wait is not None else None) == seconds


def dated(status: int, retry_after: str) -> Reply:
    """An answer by a clock that stands at noon, which is what its date is counted from."""

    def reply(handler: Handler) -> None:
        handler.send_response_only(status)
        for name, value in (("Date", format_datetime(NOON, usegmt=True)), ("Retry-After", retry_after)):
            handler.send_header(name, value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return reply


@pytest.mark.parametrize(
    ("body", "headers", "said"),
    [
        (b"<html>Sign in</html>", {"Content-Type": "text/html; charset=utf-8"}, "no JSON but text/html"),
        (b'{"id": "1"}', {"Content-Type": "text/plain"}, "no JSON but text/plain"),
        (b'{"id": "1"}', {"Content-Type": "x\x7f/<b>"}, "something without a name"),
        (b"<html>Sign in</html>", {}, "unreadable answer"),
        (b'{"id": "1", "status": "pa', {}, "unreadable answer"),
        (b"", {}, "unreadable answer"),
        (b'{"id": "1", "status": "a", "status": "b"}', {}, "named twice"),
        (b'{"id": "1", "status": NaN}', {}, "NaN"),
        (b'{"id": "1", "status": "\xff"}', {}, "not UTF-8"),
        (gzip.compress(json.dumps(ROW).encode(), mtime=0)[:-4], {"Content-Encoding": "gzip"}, "cut off"),
        (b"\x1f\x8b nonsense", {"Content-Encoding": "gzip"}, "unreadable answer"),
        (b"\x00", {"Content-Encoding": "br"}, "not asked for"),
        (b'{"id": "2", "status": "paid"}', {}, "another row"),
        (b'{"status": "paid"}', {}, "without id"),
        (b'{"id": null}', {}, "no text and no number"),
        (b'[{"id": "1"}]', {}, "no row at $"),
    ],
)
def test_a_body_is_no_answer(api: Api, tmp_path: Path, body: bytes, headers: dict[str, str], said: str) -> None:
    api.on("/items/1", sends(body, headers=headers))
    caught = trouble_of(tmp_path, api)
    assert caught.trouble == "unreadable"
    assert said in caught.reason


def test_a_packed_answer_is_unpacked(api: Api, tmp_path: Path) -> None:
    api.on("/items/1", sends(gzip.compress(json.dumps(ROW).encode(), mtime=0), headers={"Content-Encoding": "gzip"}))
    assert row_of(opened(tmp_path, api)) == Row({"id": "1", "status": "paid"})


def test_what_can_not_be_compared_is_the_problem_of_its_row_alone(api: Api, tmp_path: Path) -> None:
    """Agents write rows: one with a NUL in it must not keep all others from being read."""
    api.on("/items/2", sends(b'{"id": "2", "note": "\\u0000"}'))
    api.on("/items", sends(b'[{"id": "1"}, {"id": "2", "note": "\\ud800"}, {"id": "3\\u0000"}]'))
    with opened(tmp_path, api) as target:
        good, bad = target.read([item("1", None), item("2", None)])
        listed = list(target.scan("items"))
    assert good.row == Row({"id": "1", "status": "paid"})
    assert bad.row is not None
    assert "NUL" in str(bad.row.problem)
    assert [row.address.row.key for row in listed] == [("1",), ("2",)]
    assert listed[1].row is not None
    assert "surrogate" in str(listed[1].row.problem)


def test_a_row_that_is_nested_too_deeply_is_a_problem_of_its_own(api: Api, tmp_path: Path) -> None:
    api.on("/items/2", sends(b'{"id": "2", "note": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"))
    api.on("/items/3", sends(b'{"id": "3", "note": ' + b"[" * 300 + b"]" * 300 + b"}"))
    with opened(tmp_path, api, CONTRACT + 'doc = "$..note"\n') as target:
        deep = target.read([item("2", None)])[0].row
        with pytest.raises(TargetUnavailable, match=r"looked through|without"):
            target.read([item("3", None)])
    assert deep is not None
    assert deep.problem == "it is nested too deeply"


def endless(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(PLENTY))
    handler.end_headers()
    handler.wfile.write(b'{"id": "1", "note": "')
    for _ in range(PLENTY // 100_000):
        handler.wfile.write(b"x" * 100_000)


@cache
def packed() -> bytes:
    """A hundred megabytes in a hundred kilobytes."""
    body = gzip.compress(b'{"id": "1", "note": "' + b"x" * PLENTY + b'"}')
    assert len(body) < 200_000
    return body


def bomb(handler: Handler) -> None:
    handler.send(200, packed(), {"Content-Encoding": "gzip"})


@pytest.mark.parametrize("reply", [endless, bomb])
def test_a_body_without_end_is_cut_off_and_never_held(api: Api, tmp_path: Path, reply: Reply) -> None:
    api.on("/items/1", reply)
    api.on("/items", reply)
    packed()
    with opened(tmp_path, api) as target:
        tracemalloc.start()
        try:
            row = target.read([item("1", None)])[0].row
            held = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert row is not None
        assert "more than 8000000 bytes" in str(row.problem)
        assert held < PLENTY // 3
        with pytest.raises(TargetUnavailable, match="8000000 bytes") as caught:
            list(target.scan("items"))
    assert caught.value.trouble == "unreadable"


def test_a_redirect_is_not_followed_and_no_credentials_leave(api: Api, tmp_path: Path) -> None:
    with serving() as elsewhere:
        elsewhere.on("/items/1", says(ROW))
        for place in (f"{elsewhere.url}/items/1?token={TOKEN}", "/items/2"):
            api.on("/items/1", says({}, 302, headers={"Location": place}))
            assert "redirect" in trouble_of(tmp_path, api).reason
        assert elsewhere.requests == []
    assert {request.path for request in api.requests} == {"/items/1"}


@pytest.mark.parametrize("where", ["head", "body"])
def test_a_slow_drip_ends_at_its_time(api: Api, tmp_path: Path, where: str) -> None:
    """Each byte comes well within any time-out for a read."""

    def drip(handler: Handler) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n"
        handler.wfile.write(head if where == "head" else head + b"\r\n")
        for _ in range(600):
            handler.wfile.write(b"X-Drip: 1\r\n" if where == "head" else b" ")
            time.sleep(0.05)

    api.on("/items/1", drip)
    started = time.monotonic()
    caught = trouble_of(tmp_path, api, CONTRACT.replace("timeout_seconds = 20", "timeout_seconds = 0.5"))
    assert caught.trouble == "away"
    assert "not answered within 0.5 seconds" in caught.reason
    assert time.monotonic() - started < 15


def test_a_read_as_a_whole_has_a_deadline(api: Api, tmp_path: Path) -> None:
    """Each answer comes in time, all of them together do not."""
    for key in range(60):
        api.on(f"/items/{key}", late({"id": key}))
    contract = CONTRACT.replace("timeout_seconds = 20", "deadline_seconds = 1\nconcurrency = 1")
    started = time.monotonic()
    with opened(tmp_path, api, contract) as target, pytest.raises(TargetUnavailable) as caught:
        target.read([item(str(key), None) for key in range(60)])
    assert caught.value.trouble == "away"
    assert "within 1 seconds" in caught.value.reason
    assert time.monotonic() - started < 15


def late(document: object) -> Reply:
    def reply(handler: Handler) -> None:
        time.sleep(0.1)
        says(document)(handler)

    return reply


def test_the_first_trouble_ends_a_read(api: Api, tmp_path: Path) -> None:
    for key in range(2, 500):
        api.on(f"/items/{key}", late({"id": key}))
    api.on("/items/1", says({}, 503, headers={"Retry-After": "7"}))
    with opened(tmp_path, api) as target, pytest.raises(TargetUnavailable) as caught:
        target.read([item(str(key), None) for key in range(1, 500)])
    assert caught.value.retry_after == dt.timedelta(seconds=7)
    assert len(api.requests) < 50


def test_a_few_keys_are_asked_for_at_a_time(api: Api, tmp_path: Path) -> None:
    running, most = [0], [0]

    def counted(key: int) -> Reply:
        def reply(handler: Handler) -> None:
            running[0] += 1
            most[0] = max(most[0], running[0])
            time.sleep(0.02)
            running[0] -= 1
            says({"id": key})(handler)

        return reply

    for key in range(40):
        api.on(f"/items/{key}", counted(key))
    with opened(tmp_path, api, CONTRACT.replace("timeout_seconds", "concurrency = 4\ntimeout_seconds")) as target:
        found = target.read([item(str(key), None) for key in range(40)])
    assert all(one.row is not None for one in found)
    assert 1 < most[0] <= 4


def cut_off(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "500")
    handler.end_headers()
    handler.wfile.write(b'{"id": "1"')
    handler.close_connection = True


def no_http(handler: Handler) -> None:
    handler.wfile.write(b"220 mail.example ESMTP\r\n")
    handler.close_connection = True


@pytest.mark.parametrize("reply", [cut_off, no_http])
def test_a_connection_that_breaks_is_away(api: Api, tmp_path: Path, reply: Reply) -> None:
    api.on("/items/1", reply)
    caught = trouble_of(tmp_path, api)
    assert caught.trouble == "away"
    assert "got no answer" in caught.reason


def test_nobody_there_is_away(tmp_path: Path) -> None:
    with serving() as gone:
        pass
    assert trouble_of(tmp_path, gone).trouble == "away"


def test_no_address_is_logged(api: Api, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    logging.getLogger("httpcore2").setLevel(logging.INFO)  # it logs everything, if somebody asks for that
    try:
        assert row_of(opened(tmp_path, api)) is not None
    finally:
        logging.getLogger("httpcore2").setLevel(logging.NOTSET)
    assert "/items/1" not in caplog.text


def test_cookies_are_not_kept(api: Api, tmp_path: Path) -> None:
    api.on("/items/1", says(ROW, headers={"Set-Cookie": "session=1; Path=/"}))
    with opened(tmp_path, api) as target:
        for _ in range(2):
            target.read([item("1", None)])
    assert all("cookie" not in request.headers for request in api.requests)


def test_nothing_of_the_environment_is_used(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login a password b\n")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    assert row_of(opened(tmp_path, api, CONTRACT, url=api.url)) is not None
    assert "authorization" not in api.requests[0].headers
