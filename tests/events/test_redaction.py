"""No secret leaves the process: not to the brokers, not to the spool, not to the folder of large texts."""

import base64
import json
import os
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from counterfoil import Event, Halted, Recorder, RecorderSettings, SettingsError
from counterfoil.control import read_standing_orders
from counterfoil.errors import SealedAway
from counterfoil.issuing import OrderDesk
from counterfoil.jsontext import to_json_text
from counterfoil.redaction import Redaction, Redactor
from counterfoil.redaction_policy import RedactionPolicy, WorkflowPolicy
from counterfoil.scope import Scope
from counterfoil.sealing import KeyRing, SealedIn, sealed_in, write_new_key
from counterfoil.tokens import stamped, tokens_in
from counterfoil_schemas import topics
from tests.fix_log import Logged, RecordsOf, StartPython
from tests.fix_stack import Outage

GHP = "gh" + "p_" + "a1B2" * 9
PASSWORD = "correct-horse-7"
CARD = "4111 1111 1111 1111"
MAIL = "bob@example.com"
RAW = f"key {GHP}".encode()
PLANTED = (GHP, PASSWORD, CARD, MAIL, CARD.replace(" ", ""), base64.b64encode(RAW).decode())
POLICY = {"name": "acme", "version": "3", "personal": ["email", "phone"]}


class Odd(Exception):
    def __str__(self) -> str:
        return f"401 for https://api.example.com/?access_token={GHP}"


def with_policy(settings: RecorderSettings, **changed: Any) -> RecorderSettings:
    policy = RedactionPolicy(**(POLICY | changed))
    return settings.model_copy(update={"redaction": policy})


def redactor_of(settings: RecorderSettings, tenant: str = "acme", workflow: str = "default") -> Redactor:
    return Redaction(settings).of_task(tenant, workflow)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    write_new_key(tmp_path / "keys", "acme", "2026-01")
    return tmp_path / "keys"


def do_everything(recorder: Recorder) -> None:
    """Every verb of an agent's, each with a secret in it."""
    task = recorder.task(
        f"refund for {MAIL}", task_ref=f"ref-{MAIL}", subject_ref=f"card {CARD}", on_behalf_of=MAIL, principal=GHP,
        conversation_id=MAIL, given={"password": PASSWORD},
    )  # fmt: skip
    with task:
        task.prompt(
            [{"role": "user", "content": f"my card is {CARD}"}, {"role": "user", "content": [{"text": MAIL}]}],
            model="m", parameters={"api_key": GHP},
        )  # fmt: skip
        task.completion(f"the password is {PASSWORD}", rationale=f"because {MAIL} said {GHP}", decision=GHP)
        with task.completion_stream(model="m") as stream:
            for piece in (GHP[:20], GHP[20:]):
                stream.add(piece)
        task.retrieval(f"who is {MAIL}", [{"id": MAIL, "uri": f"https://kb.example/?token={GHP}", "version": GHP}])
        task.approval(by=MAIL, about=CARD, reason=f"password={PASSWORD}", details={"token": GHP})
        with task.tool("look_up", {"q": [{"deep": {"Authorization": f"Bearer {GHP}"}}]}) as call:
            call.ok({"cards": [int(CARD.replace(" ", ""))], MAIL: "a name that is one", "raw": f"key {GHP}".encode()})
        args = {"order": "A-17", "dbPassword": PASSWORD, "env": [{"name": "DB_PASSWORD", "value": PASSWORD}]}
        with task.effect("refund", target="pay", args=args, step=f"for {MAIL}") as effect:
            effect.failed(Odd())
        with task.effect(
            "note", target="pay", args={"argv": ["--password", PASSWORD], "text": "é" * 70_000 + GHP}
        ) as effect:
            effect.ok(json.dumps({"password": PASSWORD}))
        task.child(f"sub {MAIL}", task_ref=MAIL).__enter__().end("failed", Odd())
        task.suspend(f"wait for {MAIL}")


def everything_written(folder: Path) -> Iterator[bytes]:
    for path in folder.rglob("*"):
        if path.is_file() and "keys" not in path.parts:
            yield path.read_bytes()


def test_of_all_that_is_recorded_nothing_holds_a_secret(
    recorder_settings: RecorderSettings, records_of: RecordsOf, logged: Logged, tmp_path: Path
) -> None:
    settings = with_policy(recorder_settings)
    with Recorder(settings) as recorder:
        do_everything(recorder)
    written = [record.value or b"" for record in records_of("events")] + list(everything_written(tmp_path))
    written += [str(record.headers).encode() + (record.key or b"") for record in records_of("events")]
    for secret in PLANTED:
        assert not [value[:300] for value in written if secret.encode() in value], secret
    events = logged()
    stamp = Redaction(settings).stamp
    assert stamp is not None
    assert re.fullmatch(r"acme@3\+[0-9a-f]{8}/[0-9a-f]{8}", stamp)
    assert {event.redaction for event in events} == {stamp}
    assert {event.kind for event in events} >= {"producer_opened", "producer_closed", "message", "tool_result"}
    by = redactor_of(settings)
    known = {by.tokens.of(secret.encode()) for secret in PLANTED}
    found = {one.token for event in events for one in tokens_in(json.dumps(dict(event.body or {}), default=str))}
    assert {by.tokens.of(s.encode()) for s in (GHP, PASSWORD, CARD, MAIL)} <= found  # the same secret, the same token
    assert known & found
    [started] = [event for event in events if event.kind == "task_started" and event.parent_task_id is None]
    assert started.on_behalf_of == started.conversation_id == by.tokens.shown("email", MAIL.encode())
    assert (started.agent, started.workflow, started.tenant) == ("agent", "default", "acme")


def test_nor_does_what_waits_on_this_disk(
    recorder_settings: RecorderSettings, outage: Outage, tmp_path: Path, logged: Logged
) -> None:
    settings = with_policy(recorder_settings).model_copy(
        update={"ack_timeout_seconds": 0.3, "close_timeout_seconds": 1}
    )
    recorder = Recorder(settings)
    with recorder.task("first") as task:
        task.wait_for_orders()
    recorder.flush()
    with outage():
        do_everything(recorder)
        recorder.close()
        spools = [sqlite3.connect(path) for path in tmp_path.rglob("*.sqlite*") if path.name.endswith("sqlite")]
        assert sum(spool.execute("SELECT count(*) FROM event").fetchone()[0] for spool in spools) > 15
        for spool in spools:
            spool.close()
        for secret in PLANTED:
            assert not [value for value in everything_written(tmp_path) if secret.encode() in value], secret
    with Recorder(settings) as heir, heir.task("second"):
        pass


def test_an_effect_is_the_same_with_and_without(recorder_settings: RecorderSettings) -> None:
    args = {"order": "A-17", "password": PASSWORD}
    off = recorder_settings.model_copy(update={"redaction": RedactionPolicy(enabled=False)})
    ids = []
    for settings in (recorder_settings, off):
        with Recorder(settings) as recorder, recorder.task("t", task_ref="T-1") as task:
            ids.append(task.effect("refund", target="pay", args=args).effect_id)
    assert ids[0] == ids[1]


def test_switched_off_it_says_so(recorder_settings: RecorderSettings, logged: Logged) -> None:
    off = recorder_settings.model_copy(update={"redaction": RedactionPolicy(enabled=False)})
    with Recorder(off) as recorder, recorder.task(f"with {GHP}"):
        pass
    events = logged()
    assert {event.redaction for event in events} == {None}
    assert GHP in [dict(event.body or {}).get("title", "") for event in events][-1] or any(
        GHP in str(event.body) for event in events
    )


def test_no_two_tenants_tokens_can_be_compared(recorder_settings: RecorderSettings) -> None:
    one, other = redactor_of(recorder_settings, "acme"), redactor_of(recorder_settings, "globex")
    assert one.text(GHP) != other.text(GHP)
    assert one.text(GHP) == redactor_of(recorder_settings, "acme").text(GHP)
    changed = recorder_settings.model_copy(update={"redaction": RedactionPolicy(name="other", version="9")})
    assert redactor_of(changed).text(GHP) == one.text(GHP)  # whatever the policy


def test_two_policies_under_one_name_can_be_told_apart() -> None:
    one = RedactionPolicy(**POLICY)
    other = RedactionPolicy(**(POLICY | {"personal": ["email"]}))
    labels = {one.label(1), one.label(2), other.label(1)}
    assert len(labels) == 3
    assert one.label(1) == RedactionPolicy(**POLICY).label(1)
    assert RedactionPolicy(enabled=False).label(1) is None
    assert stamped(one.label(1), b"k" * 16) != stamped(one.label(1), b"l" * 16)  # whose tokens can't be compared
    assert stamped(None, b"k" * 16) is None


@pytest.mark.parametrize("level", ["none", "digest", "redacted", "full"])
def test_how_much_of_prompts_is_kept(recorder_settings: RecorderSettings, logged: Logged, level: Any) -> None:
    settings = with_policy(recorder_settings).model_copy(
        update={"store_prompts": "redacted", "workflows": {"support": WorkflowPolicy(store_prompts=level)}}
    )
    text = f"my card is {CARD}"
    with Recorder(settings) as recorder:
        for workflow in ("support", "other"):
            with recorder.task("t", workflow=workflow, given=text) as task:
                task.prompt([{"role": "user", "content": text}, {"role": "user", "content": text}], model="m")
                task.prompt([{"role": "user", "content": text}], model="m")
                task.completion(text, rationale=text, decision="pay")
                task.retrieval(text, [])
                with task.tool("look_up", {"card": CARD}) as call:
                    call.ok()
    events = [
        event for event in logged() if event.workflow == "support" and not (event.task_ref or "").startswith("prod")
    ]
    bodies = {event.kind: dict(event.body or {}) for event in events}
    clean = redactor_of(settings, workflow="other").text(text)
    kept = {
        "message": bodies.get("message", {}).get("content"),
        "started": bodies["task_started"]["input"],
        "text": bodies["completion"]["text"],
        "rationale": bodies["completion"]["rationale"],
        "query": bodies["retrieval"]["query"],
    }
    assert CARD not in bodies["tool_intent"]["args"]  # what tools are called with is no prompt
    assert bodies["completion"]["decision"] == "pay"
    messages = [event for event in events if event.kind == "message"]
    digests = {digest for event in events if event.kind == "prompt" for digest in dict(event.body or {})["messages"]}
    if level == "none":
        assert (messages, digests) == ([], set())
        assert all(json.loads(one)["$withheld"] == "store_prompts = none" for one in kept.values() if one)
        return
    assert len(messages) == 1
    assert digests == {bodies["message"]["digest"]}
    if level == "digest":
        assert {json.loads(one)["bytes"] for one in (kept["text"], kept["rationale"], kept["query"])} == {len(clean)}
        assert "card" not in json.dumps(kept)
    else:
        shown = text if level == "full" else clean
        as_json = json.dumps(shown)
        assert kept == {"message": as_json, "started": as_json, "text": shown, "rationale": shown, "query": shown}


def test_fields_by_path(recorder_settings: RecorderSettings, keys: Path) -> None:
    settings = with_policy(
        recorder_settings,
        fields=[
            {"path": "$.args..note", "kind": "note"},
            {"path": "$.args.card", "tool": "pay", "do": "seal"},
            {"path": "$.args.example", "do": "keep"},
            {"path": "$.result.customer", "tool": "pay", "kind": "customer"},
            {"path": "$.text", "kind": "answer"},
        ],
        tools={"strict": {"only": ["$.args.order", "$.args.lines[*].sku"]}},
    ).model_copy(update={"key_directory": keys})
    by = redactor_of(settings)

    def args(tool: str, **given: Any) -> Any:
        return json.loads(by.body("tool_intent", {"tool": tool, "args": to_json_text(given)})["args"])

    given = {"note": "n", "lines": [{"note": 12.5}], "card": {"number": CARD, "cvc": 123}, "example": GHP}
    paid = args("pay", **given)
    assert paid["note"] == by.tokens.shown("note", b"n")
    assert paid["lines"] == [{"note": by.tokens.shown("note", b"12.5")}]
    assert paid["example"] == GHP
    sealed = sealed_in(paid["card"])
    assert sealed is not None
    assert KeyRing(keys).open(sealed, SealedIn("acme", "tool_intent", "pay", "args")) == given["card"]
    assert args("other", **given)["card"] == {
        "number": by.tokens.shown("card", CARD.encode()), "cvc": by.tokens.shown("card_code", b"123")
    }  # fmt: skip
    strict = args(
        "strict", order="A-1", lines=[{"sku": "S-1", "count": 2, "gift": None}], free=True, to={"name": "Ann"}
    )
    assert strict == {
        "order": "A-1",
        "lines": [{"sku": "S-1", "count": by.tokens.shown("field", b"2"), "gift": None}],
        "free": by.tokens.shown("field", b"true"),
        "to": by.tokens.shown("field", b'{"name":"Ann"}'),  # names say something, too
    }
    result = by.body("tool_result", {"tool": "pay", "result": json.dumps({"customer": {"a": 1}, "ok": True})})["result"]
    assert json.loads(result) == {"customer": by.tokens.shown("customer", b'{"a":1}'), "ok": True}
    assert by.body("completion", {"text": "yes", "rationale": None})["text"] == by.tokens.shown("answer", b"yes")


def test_the_last_and_the_deepest_word_on_a_field_counts(recorder_settings: RecorderSettings) -> None:
    by = redactor_of(
        with_policy(
            recorder_settings,
            fields=[
                {"path": "$.args.customer", "do": "keep"},
                {"path": "$.args.customer.ssn", "kind": "ssn"},
                {"path": "$.sources[*].uri", "kind": "uri"},
                {"path": "$.args.drop", "kind": "drop"},
                {"path": "$.args.drop", "do": "keep"},
            ],
        )
    )
    given = {"customer": {"ssn": "123-45-6789", "mail": MAIL, MAIL: 1}, "mail": MAIL, "drop": MAIL}
    assert json.loads(by.body("tool_intent", {"tool": "t", "args": to_json_text(given)})["args"]) == {
        "customer": {"ssn": by.tokens.shown("ssn", b"123-45-6789"), "mail": MAIL, MAIL: 1},
        "mail": by.text(MAIL),
        "drop": MAIL,
    }
    sources = [{"id": "1", "uri": "https://intranet/ann"}, {"id": MAIL, "uri": None}]
    assert by.body("retrieval", {"query": "q", "sources": sources, "omitted": None})["sources"] == [
        {"id": "1", "uri": by.tokens.shown("uri", b"https://intranet/ann")},
        {"id": by.text(MAIL), "uri": None},
    ]


def test_what_alone_stays(recorder_settings: RecorderSettings) -> None:
    by = redactor_of(with_policy(recorder_settings, tools={"pay": {"only": ["$.args.order", "$.args.to.city"]}}))

    given = {"order": [1, {"a": MAIL}], "scan": b"passport", "to": {"city": "Ulm", "Ann": 1}}
    out = json.loads(by.body("tool_intent", {"tool": "pay", "args": to_json_text(given)})["args"])
    assert out["order"] == [1, {"a": by.text(MAIL)}]
    assert out["to"] == {"city": "Ulm", "Ann": by.tokens.shown("field", b"1")}
    assert out["scan"] == by.tokens.shown("field", b'{"$bytes":"cGFzc3BvcnQ="}')
    result = by.body("tool_result", {"tool": "pay", "result": to_json_text({"Ann": [True]})})["result"]
    assert json.loads(result) == by.tokens.shown("field", b'{"Ann":[true]}')


def test_what_a_field_of_text_or_json_holds_stays_one(recorder_settings: RecorderSettings, keys: Path) -> None:
    """Whatever becomes of it, JSON is JSON, and text is text."""
    for do in ("redact", "seal"):
        fields = [{"path": path, "do": do, "kind": "all"} for path in ("$.text", "$.args", "$.result", "$.step")]
        by = redactor_of(with_policy(recorder_settings, fields=fields).model_copy(update={"key_directory": keys}))
        text = by.body("completion", {"text": "hello", "rationale": None})["text"]
        intent = by.body("tool_intent", {"tool": "t", "args": '{"a":1}', "step": "s"})
        result = by.body("tool_result", {"tool": "t", "result": '"a text"'})["result"]
        if do == "redact":
            assert text == by.tokens.shown("all", b"hello")
            assert json.loads(intent["args"]) == by.tokens.shown("all", b'{"a":1}')
            assert json.loads(result) == by.tokens.shown("all", b"a text")
            assert intent["step"] == by.tokens.shown("all", b"s")
        else:
            for sealed in (text, intent["args"], result, intent["step"]):
                assert sealed_in(json.loads(sealed)) is not None
    card = redactor_of(recorder_settings).body("tool_result", {"tool": "t", "result": CARD.replace(" ", "")})["result"]
    assert json.loads(card).startswith("[card:")


def test_whoever_only_speaks_of_a_tenants_secret_needs_no_key(recorder_settings: RecorderSettings) -> None:
    """Reconcilers and whoever halts may have none: then it is dropped instead of sealed."""
    settings = with_policy(recorder_settings, fields=[{"path": "$.args.card", "do": "seal"}])
    by = redactor_of(settings)
    out = json.loads(by.body("tool_intent", {"tool": "t", "args": '{"card":"D-77"}'})["args"])
    assert out == {"card": by.tokens.shown("sealed", b"D-77")}
    OrderDesk(settings)


def test_what_is_nested_too_deeply_is_redacted_as_text(recorder_settings: RecorderSettings) -> None:
    deep: Any = {"password": PASSWORD, "note": GHP, "m": f"-----BEGIN RSA PRIVATE KEY-----{PASSWORD}"}
    for _ in range(700):
        deep = {"a": deep}
    args = json.dumps(deep)
    out = redactor_of(with_policy(recorder_settings)).body("tool_intent", {"tool": "t", "args": args})["args"]
    assert isinstance(json.loads(out), str)
    assert PASSWORD not in out
    assert GHP not in out
    for fields in ([{"path": "$..x"}], [{"path": "$.args.x"}]):
        by = redactor_of(with_policy(recorder_settings, fields=fields))
        out = by.body("tool_intent", {"tool": "t", "args": args, "step": MAIL})
        assert json.loads(out["args"]) == by.tokens.shown("field", args.encode())
        assert out["step"] == by.text(MAIL)


def test_a_name_that_grows_is_cut(recorder_settings: RecorderSettings, logged: Logged) -> None:
    many = ",".join(f"a{number}@b.co" for number in range(40))
    with Recorder(with_policy(recorder_settings)) as recorder, recorder.task("t", on_behalf_of=many):
        pass
    names = {event.on_behalf_of for event in logged() if event.kind == "task_started"}
    assert {len(name or "") for name in names} == {500}


def test_odd_json_hides_nothing(recorder_settings: RecorderSettings) -> None:
    by = redactor_of(with_policy(recorder_settings))
    odd = [
        '{"password":"' + PASSWORD + '","password":"other-' + PASSWORD + '"}',  # one of which a reader would lose
        '{"password":"' + PASSWORD + '","x":"\\ud800"}',
        '{"a":"' + PASSWORD + ' is the password: ' + PASSWORD + ", and this is no JSON",
        json.dumps({"a": {"b": [{"c": f"\ud800 password={PASSWORD}"}]}}),
        json.dumps(json.dumps(json.dumps({"password": PASSWORD}))),
        json.dumps({f"password={PASSWORD}": 1}),
        json.dumps(f"password={PASSWORD}"),
        '{"1":"a","1":"b","k":"-----BEGIN RSA PRIVATE KEY-----password: ' + PASSWORD + '","z":1}',
    ]  # fmt: skip
    for text in odd:
        out = by.body("tool_intent", {"tool": "t", "args": text})["args"]
        assert text.endswith("no JSON") or json.loads(out) is not None
        assert f'"{PASSWORD}"' not in out, text
        assert f"={PASSWORD}" not in out, text
        assert f": {PASSWORD}" not in out, text
        out.encode()


def test_a_forked_child_redacts_too(start_python: StartPython, records_of: RecordsOf) -> None:
    code = """
import os, sys
from counterfoil import Recorder
recorder = Recorder.from_env()
with recorder.task("parent " + sys.argv[1]):
    recorder.flush()
    if os.fork() == 0:
        with recorder.task("child " + sys.argv[1]):
            pass
        recorder.close()
        os._exit(0)
    os.wait()
recorder.close()
"""
    done = start_python(code, GHP)
    assert done.communicate(timeout=60)[1] == ""
    values = [record.value or b"" for record in records_of("events")]
    assert len([value for value in values if b"child [github_token:" in value]) == 1
    assert not [value for value in values if GHP.encode() in value]


def test_orders_are_redacted(
    recorder_settings: RecorderSettings, kafka: dict[str, str], topic_prefix: str, logged: Logged
) -> None:
    desk = OrderDesk(recorder_settings)
    desk.halt(Scope.parse("everything"), by="dana", reason=f"leaked {GHP}")
    [order] = read_standing_orders(kafka, topics("local", topic_prefix)["control"].name, 10).in_force()
    assert (order.reason or "").startswith("leaked [github_token:")
    recorder = Recorder(recorder_settings)
    with recorder.task("t") as task:
        task.wait_for_orders()
        with pytest.raises(Halted):
            task.effect("refund", target="pay", args={}).begin()
    recorder.close()
    [denial] = [dict(event.body or {}) for event in logged() if event.kind == "denial"]
    assert order.reason in denial["reason"]  # what was redacted once is quoted as it is


@pytest.mark.parametrize(
    ("policy", "sentence"),
    [
        ({"fields": [{"path": "args.x"}]}, "'args.x' of the redaction policy is no JSONPath: "),
        ({"fields": [{"path": "$[?match(@.a, '(a+)+$')]"}]}, "is no JSONPath: function 'match' is not defined"),
        ({"rules": [{"kind": "x", "pattern": "("}]}, "is none of RE2's"),
    ],
)
def test_a_policy_that_can_not_be_is_told_at_once(
    recorder_settings: RecorderSettings, policy: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SettingsError) as told:
        Recorder(with_policy(recorder_settings, **policy))
    assert sentence in str(told.value)


@pytest.mark.parametrize(
    ("variable", "text", "sentence"),
    [
        ("COUNTERFOIL_REDACTION__PERSONALS", '["email"]', "COUNTERFOIL_REDACTION__PERSONALS: Extra inputs"),
        ("COUNTERFOIL_REDACTION__NAME", "a b", "COUNTERFOIL_REDACTION__NAME: String should match"),
        ("COUNTERFOIL_STORE_PROMPTS", "some", "COUNTERFOIL_STORE_PROMPTS: Input should be 'none', 'digest'"),
    ],
)
def test_settings_that_are_wrong_are_one_sentence(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str, sentence: str
) -> None:
    monkeypatch.setenv(variable, text)
    with pytest.raises(SettingsError, match=sentence):
        Recorder.from_env()


def test_without_a_key_a_policy_that_seals_records_nothing(
    recorder_settings: RecorderSettings, keys: Path, tmp_path: Path
) -> None:
    seals = with_policy(recorder_settings, fields=[{"path": "$.args.card", "do": "seal"}])
    for directory, sentence in (
        (None, "COUNTERFOIL_KEY_DIRECTORY is not set"),
        (keys, "holds no key globex.NAME; make one with `counterfoil key new --tenant globex`"),
        (tmp_path / "nowhere", "nowhere can't be read: No such file"),
    ):
        recorder = Recorder(seals.model_copy(update={"key_directory": directory}))
        with pytest.raises(SettingsError) as told:
            recorder.task("t", tenant="globex").__enter__()
        assert sentence in str(told.value)
        recorder.close()


def test_a_seal_that_was_broken_or_moved_is_not_opened(keys: Path, recorder_settings: RecorderSettings) -> None:
    write_new_key(keys, "acme", "2026-02")
    write_new_key(keys, "globex", "2026-01")
    for name in ("README", "acme.2026-02.bak", "acme.2026-02~", "acme.", ".acme.1", "acme.a b"):
        (keys / name).write_text("no key")
    ring = KeyRing(keys)
    assert ring.key_ids("acme") == ["acme.2026-01", "acme.2026-02"]
    tokens = redactor_of(recorder_settings).tokens
    here = SealedIn("acme", "tool_intent", "pay", "args")
    sealed = sealed_in(ring.seal({"n": CARD}, tokens, here))
    assert sealed is not None
    assert sealed.key_id == "acme.2026-02"
    assert KeyRing(keys).open(sealed, here) == {"n": CARD}
    broken = sealed._replace(content=sealed.content[:-1] + bytes([sealed.content[-1] ^ 1]))
    moved = sealed._replace(key_id="globex.2026-01")
    older = sealed._replace(key_id="acme.2026-01")
    empty = sealed._replace(content=b"")
    other_token = sealed._replace(token="0" * 16)
    theirs = here._replace(tenant="globex")
    for where, one in (
        (here, broken), (theirs, sealed), (theirs, moved), (here, older), (here, empty), (here, other_token),
        (here._replace(kind="tool_result"), sealed), (here._replace(tool="note"), sealed),
        (here._replace(field="expect"), sealed),
    ):  # fmt: skip
        with pytest.raises(SealedAway):
            ring.open(one, where)
    (keys / "acme.2026-02").unlink()
    with pytest.raises(SealedAway, match=r"the key acme.2026-02 of tenant acme is not in"):
        KeyRing(keys).open(sealed, here)
    with pytest.raises(SealedAway, match="can't be read"):
        KeyRing(keys / "nowhere").open(sealed, here)
    assert os.stat(keys / "acme.2026-01").st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"short", base64.b64encode(b"x" * 31), b"\xff\xfe"])
def test_a_key_that_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "acme.1").write_bytes(content)
    with pytest.raises(SettingsError, match=r"the key .*acme.1 "):
        KeyRing(tmp_path).sealing_key("acme")


def test_a_key_is_not_written_over(tmp_path: Path) -> None:
    path = write_new_key(tmp_path / "new", "acme", "1")
    before = path.read_bytes()
    with pytest.raises(SettingsError, match="can't be written: File exists"):
        write_new_key(tmp_path / "new", "acme", "1")
    assert path.read_bytes() == before


def test_events_are_told_apart_by_what_was_applied(logged: Logged, recorder: Recorder) -> None:
    with recorder.task("t"):
        pass
    recorder.flush()
    events: list[Event] = logged()
    assert {event.redaction for event in events} == {Redaction(recorder.settings).stamp}


def test_the_stores_column_says_what_was_applied(
    recorder: Recorder, ingest_all: Callable[[], None], operator: Any
) -> None:
    with recorder.task("t") as task, task.effect("refund", target="pay", args={"a": 1}) as effect:
        effect.ok()
    recorder.close()
    ingest_all()
    rows = operator.execute(
        "SELECT DISTINCT redaction FROM counterfoil.event UNION SELECT redaction FROM counterfoil.effect"
    )
    assert [row["redaction"] for row in rows] == [Redaction(recorder.settings).stamp]
