"""Texts too large for an event: kept whole under their digest, taken to the blob store, and never a surprise."""

import hashlib
import json
import os
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given
from hypothesis import settings as on_properties
from hypothesis import strategies as st
from moto.server import ThreadedMotoServer

from counterfoil import AuditUnavailable, Event, Recorder, RecorderSettings
from counterfoil.blob_store import BlobStore
from counterfoil.blobs import BlobReader, Blobs, Carrier, Claim, all_done, claim_in, folder_of
from counterfoil.delivery import NotDurable
from counterfoil.errors import BlobMissing, BlobsAway, SettingsError
from counterfoil.redaction import Redacted
from tests.fix_log import Logged, StartPython
from tests.waiting import wait_until

LARGE = {"order": "A-17", "note": "é" * 200_000}
_RECORDS_LARGE = """
import sys
from counterfoil import Recorder
recorder = Recorder.from_env(close_timeout_seconds=5)
with recorder.task("t", task_ref="T-9") as task:
    for number in range(3):
        with task.effect("refund", target="payments", args={"n": number, "note": "x" * 100_000}) as effect:
            effect.ok()
recorder.close()
"""


def intents(events: list[Event]) -> list[dict[str, Any]]:
    return [dict(event.body or {}) for event in events if event.kind == "tool_intent"]


@pytest.fixture
def stored(recorder_settings: RecorderSettings, tmp_path: Path) -> RecorderSettings:
    """With a blob store that is another folder."""
    (tmp_path / "store").mkdir()
    return recorder_settings.model_copy(update={"blob_store": (tmp_path / "store").as_uri()})


def texts_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]


def test_a_large_argument_is_kept_whole_beside_the_event(
    recorder: Recorder, recorder_settings: RecorderSettings, logged: Logged
) -> None:
    with recorder.task("t") as task:
        with task.effect("refund", target="payments", args=LARGE) as effect:
            effect.ok({"pages": ["y" * 70_000]})
        task.completion("z" * 65_000 + "\ud800" * 1000)
        task.completion("small")
    recorder.flush()
    events = logged()
    [intent] = intents(events)
    claim = claim_in(intent["args"])
    assert claim is not None
    size = len(json.dumps(LARGE, ensure_ascii=False, separators=(",", ":")).encode())
    assert (claim.media_type, claim.size_bytes) == ("application/json", size)
    assert (intent["tool"], intent["target"]) == ("refund", "payments")
    reader = BlobReader.from_settings(recorder_settings)
    content = reader.open("acme", claim)
    assert json.loads(content) == LARGE
    assert hashlib.sha256(content).hexdigest() == claim.sha256
    assert json.loads(intent["args"])["head"].startswith('{"order":"A-17","note":"éé')
    texts = [dict(event.body or {})["text"] for event in events if event.kind == "completion"]
    plain = claim_in(texts[0])
    assert plain is not None
    assert plain.media_type == "text/plain; charset=utf-8"
    assert reader.open("acme", plain).decode() == "z" * 65_000 + "\\ud800" * 1000
    assert texts[1] == "small"
    kept = texts_in(recorder_settings.blob_directory)
    assert len(kept) == 3
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept} == {0o600}
    assert {path.parent.name for path in kept} == {"acme"}
    assert {stat.S_IMODE(path.parent.stat().st_mode) for path in kept} == {0o700}


def test_a_list_too_long_for_an_event_begins_in_it_and_is_kept_whole(
    recorder: Recorder, recorder_settings: RecorderSettings, logged: Logged
) -> None:
    sources = [{"id": f"kb/{number}", "uri": "https://kb.example/" + "x" * 60} for number in range(20_000)]
    with recorder.task("t") as task:
        task.retrieval("refunds", sources)
        task.prompt([{"role": "user", "content": number} for number in range(4_000)], model="m")
    recorder.flush()
    bodies = {event.kind: dict(event.body or {}) for event in logged()}
    for kind, field, count in (("retrieval", "sources", 20_000), ("prompt", "messages", 4_000)):
        body = bodies[kind]
        omitted = json.loads(body["omitted"])
        assert (omitted["field"], omitted["count"], omitted["kept"]) == (field, count, len(body[field]))
        assert 100 < len(body[field]) < count
        claim = claim_in(body["omitted"])
        assert claim is not None
        whole = json.loads(BlobReader.from_settings(recorder_settings).open("acme", claim))
        assert len(whole) == count
        assert whole[0] == (body[field][0].hex() if kind == "prompt" else body[field][0])


TEXTS = st.dictionaries(st.sampled_from(["args", "tool", "expect"]), st.text() | st.integers() | st.none())


@on_properties(deadline=None)  # texts are synced to the disk
@given(TEXTS, st.data())
def test_what_was_taken_out_can_be_put_back(
    tmp_path_factory: pytest.TempPathFactory, body: dict[str, Any], data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp() / "property"
    settings = RecorderSettings(inline_limit_bytes=4096, blob_directory=folder)
    for name in list(body):
        if isinstance(body[name], str):
            body[name] *= data.draw(st.integers(0, 3000))
    lighter, carried = Blobs(settings).lightened("acme", "tool_intent", Redacted(body))
    reader = BlobReader.from_settings(settings)
    back = {
        name: value if (claim := claim_in(value)) is None else reader.open("acme", claim).decode()
        for name, value in lighter.items()
    }
    assert carried == []
    assert back == body
    left = [value for value in lighter.values() if isinstance(value, str)]
    assert sum(map(len, left)) <= 4096 or max(map(len, left)) < 2000


@pytest.mark.parametrize("sha256", ["../../etc/passwd", "a" * 63, "A" * 64, "", 7])
@pytest.mark.parametrize("size", [1, float("inf")])
def test_what_an_agent_makes_up_is_no_claim_check(sha256: Any, size: float) -> None:
    made_up = {"$blob": {"sha256": sha256, "bytes": size, "media_type": "text/plain"}}
    assert claim_in(made_up) is None
    assert claim_in(json.dumps(made_up, separators=(",", ":"))) is None
    assert claim_in('{"$blob":') is None
    assert claim_in('{"$blob":' + "[" * 100_000) is None
    assert claim_in({"$blob": "x" * 64}) is None


def test_without_room_it_is_recorded_in_its_place_or_reduced(
    recorder_settings: RecorderSettings, tmp_path: Path, logged: Logged
) -> None:
    (tmp_path / "file").write_text("no folder")
    nowhere = recorder_settings.model_copy(update={"blob_directory": tmp_path / "file" / "blobs"})
    with Recorder(nowhere) as recorder, recorder.task("t") as task:
        task.retrieval("refunds", [{"id": f"kb/{number}", "uri": "x" * 60} for number in range(20_000)])
        for size in (100_000, 2_000_000):
            with task.effect("refund", target="payments", args={"note": "x" * size}) as effect:
                effect.ok()
    inline, reduced = (json.loads(intent["args"]) for intent in intents(logged()))
    assert inline == {"note": "x" * 100_000}
    assert reduced["bytes"] == 2_000_011
    assert "$reduced" in reduced
    [retrieval] = [dict(event.body or {}) for event in logged() if event.kind == "retrieval"]
    said = json.loads(retrieval["omitted"])
    assert (said["count"], said["kept"], len(said["sha256"])) == (20_000, len(retrieval["sources"]), 64)


def test_the_blob_store_gets_every_text_and_the_folder_is_empty_then(
    stored: RecorderSettings, tmp_path: Path, logged: Logged
) -> None:
    recorder = Recorder(stored)
    with recorder.task("t") as task:
        for _ in range(2):  # the same text twice is one
            with task.effect("refund", target="payments", args=LARGE, durable="broker", step=str(_)) as effect:
                effect.ok()
            assert len(texts_in(tmp_path / "store")) == 1  # the body runs only now
    recorder.close()
    assert texts_in(stored.blob_directory) == []
    claim = claim_in(intents(logged())[0]["args"])
    assert claim is not None
    assert json.loads(BlobReader.from_settings(stored).open("acme", claim)) == LARGE


def test_with_the_store_away_the_policy_decides_and_nothing_is_lost(stored: RecorderSettings, tmp_path: Path) -> None:
    (tmp_path / "store").rmdir()
    (tmp_path / "store").write_text("in the way")
    recorder = Recorder(stored.model_copy(update={"ack_timeout_seconds": 1.0}))
    with recorder.task("t") as task:
        with task.effect("refund", target="payments", args=LARGE) as effect:  # on this disk is enough
            effect.ok()
        started = time.monotonic()
        with pytest.raises(AuditUnavailable, match="durable = broker"):
            task.effect("refund", target="payments", args=LARGE, durable="broker", step="2").begin()
        assert 0.9 < time.monotonic() - started < 3
        assert len(texts_in(stored.blob_directory)) == 1
        (tmp_path / "store").unlink()
        (tmp_path / "store").mkdir()
        wait_until(lambda: texts_in(stored.blob_directory) == [])
    recorder.close()
    assert len(texts_in(tmp_path / "store")) == 1


@pytest.mark.parametrize("failpoint", ["blob.kept=kill@2", "blob.stored=kill@2", "call.after_intent=kill@2"])
def test_what_a_killed_process_left_the_next_one_takes(
    start_python: StartPython,
    run_python: Callable[..., str],
    stored: RecorderSettings,
    tmp_path: Path,
    logged: Logged,
    failpoint: str,
) -> None:
    where = {"COUNTERFOIL_BLOB_STORE": str(stored.blob_store), "COUNTERFOIL_BLOB_DIRECTORY": str(stored.blob_directory)}
    dying = start_python(_RECORDS_LARGE, COUNTERFOIL_FAILPOINTS=failpoint, **where)
    dying.communicate(timeout=60)
    assert dying.returncode == -signal.SIGKILL
    run_python(_RECORDS_LARGE, **where)
    assert texts_in(stored.blob_directory) == []
    reader = BlobReader.from_settings(stored)
    claims = [claim_in(intent["args"]) for intent in intents(logged())]
    assert len(claims) >= 4  # of both processes
    for claim in claims:
        assert claim is not None
        assert len(reader.open("acme", claim)) == claim.size_bytes == 100_017


def test_a_text_that_is_not_there_or_not_the_same_is_told_apart_from_a_store_that_is_away(
    stored: RecorderSettings, tmp_path: Path
) -> None:
    recorder = Recorder(stored)
    with recorder.task("t") as task, task.effect("refund", target="payments", args=LARGE) as effect:
        effect.ok()
    recorder.close()
    [path] = texts_in(tmp_path / "store")
    claim = claim_in({"$blob": {"sha256": path.name, "bytes": 1, "media_type": "text/plain"}})
    assert claim is not None
    reader = BlobReader.from_settings(stored)
    with pytest.raises(BlobMissing, match="is not in file://"):
        reader.open("other", claim)  # nobody else's
    path.write_bytes(b"other")
    with pytest.raises(BlobMissing, match="its digest differs"):
        reader.open("acme", claim)
    path.unlink()
    path.mkdir()
    with pytest.raises(BlobsAway, match="does not give out"):
        reader.open("acme", claim)
    with pytest.raises(BlobMissing, match="COUNTERFOIL_BLOB_STORE"):
        BlobReader([folder_of(tmp_path, None)]).open("acme", claim)
    with pytest.raises(BlobMissing, match="no other place is known"):
        BlobReader().open("acme", claim)


def keep(settings: RecorderSettings, letter: str) -> Claim:
    """Keep one large text, as a recorder does."""
    body, _ = Blobs(settings).lightened("acme", "tool_intent", Redacted({"args": f'"{letter * 90_000}"'}))
    claim = claim_in(body["args"])
    assert claim is not None
    return claim


def test_processes_with_other_stores_on_this_machine_do_not_take_it(stored: RecorderSettings, tmp_path: Path) -> None:
    (tmp_path / "another").mkdir()
    another = stored.model_copy(update={"blob_store": (tmp_path / "another").as_uri()})
    without = stored.model_copy(update={"blob_store": None})
    kept = keep(without, "a")
    mine, theirs = Blobs(stored), Blobs(another)
    _, carried = mine.lightened("acme", "tool_intent", Redacted({"args": f'"{"b" * 90_000}"'}))
    theirs.start()
    theirs.close(1)
    carried[0].result(10)
    mine.close(1)
    assert [len(texts_in(tmp_path / name)) for name in ("store", "another")] == [1, 0]
    for settings in (without, stored):  # and who has a store now reads what was kept before
        assert BlobReader.from_settings(settings).open("acme", kept).startswith(b'"aaa')


def test_one_text_that_can_not_be_taken_does_not_keep_the_others(
    stored: RecorderSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = folder_of(stored.blob_directory, stored.blob_store)
    folder.path_of("acme", "lost+found").mkdir(parents=True)
    damaged = folder.path_of("acme", "0" * 64)
    damaged.write_bytes(b"damaged")
    left = folder.path_of("acme", ".left")
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    blobs = Blobs(stored)
    blobs.start()
    carried: list[Any] = []
    for letter in "abcdef":
        carried += blobs.lightened("acme", "tool_intent", Redacted({"args": f'"{letter * 90_000}"'}))[1]
    for one in carried:
        one.result(10)
    blobs.close(1)
    assert len(texts_in(tmp_path / "store")) == 6
    assert not left.exists()
    assert "is gone, or damaged" in caplog.text


def test_what_somebody_deleted_was_not_stored(stored: RecorderSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Carrier, "_run", lambda _self: None)  # nothing is taken yet
    blobs = Blobs(stored)
    _, carried = blobs.lightened("acme", "tool_intent", Redacted({"args": f'"{"a" * 90_000}"'}))
    [path] = texts_in(stored.blob_directory)
    path.unlink()
    assert blobs._carrier is not None
    blobs._carrier._take_all()
    first: Future[None] = Future()
    with pytest.raises(NotDurable, match="is gone"):
        all_done(first, carried).result(0)


def test_a_damaged_text_is_written_again(stored: RecorderSettings) -> None:
    settings = stored.model_copy(update={"blob_store": None})
    claim = keep(settings, "a")
    [path] = texts_in(settings.blob_directory)
    path.write_bytes(bytes(claim.size_bytes))
    assert keep(settings, "a") == claim
    assert len(BlobReader.from_settings(settings).open("acme", claim)) == claim.size_bytes


def test_without_a_thread_it_stays_in_its_event(stored: RecorderSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(_self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    body = Redacted({"args": f'"{"a" * 90_000}"'})
    assert Blobs(stored).lightened("acme", "tool_intent", body) == (body, [])


def test_what_goes_to_a_store_on_this_machine_is_whole_synced_and_its_owners(
    stored: RecorderSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    really = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        really(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    content = b"x" * 1000
    BlobStore(stored).put("acme", hashlib.sha256(content).hexdigest(), content)
    [path] = texts_in(tmp_path / "store")
    assert path.read_bytes() == content
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert str(path.parent) in synced


def test_a_reader_with_a_limit_reads_no_more(stored: RecorderSettings) -> None:
    claim = keep(stored.model_copy(update={"blob_store": None}), "a")
    with pytest.raises(BlobMissing):
        BlobReader.from_settings(stored, limit_bytes=50_000).open("acme", claim)
    reader = BlobReader.from_settings(stored, limit_bytes=100_000)
    assert reader.open("acme", claim) is reader.open("acme", claim)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """An S3 server on this machine (moto's), and the options that reach it."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    try:
        yield {"client_kwargs": {"endpoint_url": endpoint, "region_name": "eu-west-1"}}
    finally:
        server.stop()


def test_s3_by_its_plug_in(
    recorder_settings: RecorderSettings, bucket: dict[str, Any], logged: Logged, run_python: Callable[..., str]
) -> None:
    files = fsspec.filesystem("s3", **bucket, skip_instance_cache=True)
    settings = recorder_settings.model_copy(
        update={"blob_store": "s3://audit/large", "blob_store_options": bucket, "ack_timeout_seconds": 2.0}
    )
    recorder = Recorder(settings)
    with recorder.task("t") as task:
        with task.effect("refund", target="payments", args=LARGE) as effect:  # the bucket is not there yet
            effect.ok()
        with pytest.raises(AuditUnavailable):
            task.effect("refund", target="payments", args=LARGE, durable="broker", step="2").begin()
        files.mkdir("audit")
        wait_until(lambda: texts_in(settings.blob_directory) == [])
        with task.effect("refund", target="payments", args=LARGE, durable="broker", step="3") as effect:
            effect.ok()
    recorder.close()
    where = {"COUNTERFOIL_BLOB_STORE": "s3://audit/large", "COUNTERFOIL_BLOB_STORE_OPTIONS": json.dumps(bucket)}
    run_python(_RECORDS_LARGE, COUNTERFOIL_BLOB_DIRECTORY=str(settings.blob_directory), **where)
    claims = [claim_in(intent["args"]) for intent in intents(logged())]
    assert len(claims) == 6
    reader = BlobReader.from_settings(settings)
    for claim in claims:
        assert claim is not None
        assert len(reader.open("acme", claim)) == claim.size_bytes
    with pytest.raises(BlobMissing, match="is not in s3://audit/large"):
        reader.open("other", claims[0] or Claim("", 0, ""))


@pytest.mark.parametrize("url", ["nosuch://bucket", "gs://me:geheim@bucket"])
def test_a_store_that_fsspec_has_no_file_system_for(stored: RecorderSettings, url: str) -> None:
    with pytest.raises(SettingsError, match="COUNTERFOIL_BLOB_STORE=") as refused:
        Recorder(stored.model_copy(update={"blob_store": url})).connect()
    assert "geheim" not in str(refused.value)
