"""`counterfoil timeline` and `drift`, on what a recorder recorded, ingest stored and the reconciler found."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from counterfoil import Recorder
from counterfoil.codec import encode
from counterfoil.event import Event
from counterfoil.ids import new_id, partition_key
from counterfoil_schemas import avro_schemas
from tests.consumers.made import PRODUCER, event, intent, key_of, result
from tests.fix_log import Produce

from .conftest import Call, credit, work

Ingest = Callable[[], None]


@pytest.fixture
def reconciled(call: Call, recorder: Recorder, bank: Path, database: str, ingest_all: Ingest) -> None:
    """The credits of `work` and a change nobody declared, judged; all of it by the command."""
    assert call("tenant", "add", "acme").code == 0
    assert call("reconcile", "--once").code == 0  # reads the baseline
    work(recorder, database)
    credit(database, "c", "1000")
    for _ in range(4):
        assert call("ingest", "--once").code == 0
        said = call("reconcile", "--once", GIVE_UP_AFTER_SECONDS="0", SWEEP_INTERVAL_SECONDS="0.001")
        assert (said.code, said.err) == (0, "")
    assert call("ingest", "--once").code == 0


def test_reconcile_once_says_what_it_did(call: Call, recorder: Recorder, bank: Path, database: str) -> None:
    call("tenant", "add", "acme")
    assert call("reconcile", "--once").out == (
        "0 writes looked at: 0 verdicts said, 0 changes nobody explains, 0 given up, 0 still open\n"
    )
    work(recorder, database)
    assert call("ingest", "--once").code == 0
    told = call("reconcile", "--once", "--json").json
    assert (told["effects"], told["skipped"]) == (3, {})
    assert told["open"] > 0  # absence takes a second sighting
    said = told["said"]
    for _ in range(3):
        call("ingest", "--once")
        said += call("reconcile", "--once", "--json").json["said"]
    assert said == 3
    assert " 0 verdicts said, 0 changes nobody explains, " in call("reconcile", "--once").out


@pytest.mark.usefixtures("reconciled")
def test_a_timeline_for_a_responder(call: Call) -> None:
    said = call("timeline", "T-1")
    assert (said.code, said.err) == (0, "")
    lines = said.out.splitlines()
    assert lines[0] == "credit-run  T-1"
    assert "tenant acme · workflow billing · agent clerk · completed · about run 7" in lines[1]
    kinds = (
        "task_started", "message", "prompt", "retrieval", "completion", "tool_intent", "result ok", "result failed",
        "approval", "task_ended", "observation", "verdict applied", "verdict not_applied", "dead_lettered",
    )  # fmt: skip
    assert all(any(line[13:].startswith(kind + " ") for line in lines if line[2:3] == ":") for kind in kinds)
    assert "I credit. — because it is due [100→20 tokens] [0.5 USD]" in said.out
    assert "by dana" in said.out
    assert "over the\\nlimit" in said.out
    assert "the agent said ok, the target says applied (agrees)" in said.out
    assert "the agent said ok, the target says not_applied: DRIFT, it never landed" in said.out
    assert "accounts b amount did not land: expected 7, the target has 0" in said.out
    assert lines[-1].endswith("events, 100 tokens in, 20 out, cost 0.5 USD")
    assert not [line for line in lines if line != line.rstrip()]
    assert max(map(len, lines)) <= 120


@pytest.mark.usefixtures("reconciled")
def test_nothing_is_wider_than_the_terminal(call: Call, environment: dict[str, str]) -> None:
    for columns in (80, 120, 160):
        environment["COLUMNS"] = str(columns)
        for command in (["timeline", "T-1"], ["drift"], ["doctor"]):
            assert max(map(len, call(*command).out.splitlines())) <= columns


@pytest.mark.usefixtures("reconciled")
def test_a_task_goes_by_its_ref_its_id_and_its_first_digits(call: Call) -> None:
    told = call("timeline", "T-1", "--json").json
    task_id = told["task"]["task_id"]
    for name in (task_id, task_id[:8], task_id[:12].upper(), f"{task_id[:8]}-{task_id[8:12]}"):
        assert call("timeline", name, "--tenant", "acme", "--json").json["task"]["task_id"] == task_id
    assert sorted(one["outcome"] for one in told["effects"]) == ["failed", "ok", "ok"]
    assert all(len(one["effect_id"]) == 32 for one in told["effects"])
    assert told["gaps"] == []
    assert told["costs"] == {"USD": "0.5"}
    assert told["events"][0]["kind"] == "task_started"


@pytest.mark.usefixtures("reconciled")
def test_drift_says_both_sides_and_where_to_look(call: Call) -> None:
    said = call("drift")
    assert (said.code, said.err) == (0, "")
    told = call("drift", "--json").json
    [missing] = [one for one in told["drift"] if one["verdict"] == "not_applied"]
    assert (missing["outcome"], missing["tool"], missing["target"]) == ("ok", "credit", "bank")
    assert f"counterfoil timeline {missing['task_id'][:12]}  # tenant acme" in said.out
    assert call("timeline", missing["task_id"][:12]).code == 0
    assert "accounts b amount did not land: expected 7, the target has 0" in said.out
    assert told["coverage"]["judged"] == 3
    assert f"{len(told['drift'])} in drift; 3 writes judged, 0 still open, 0 name no target, 0 unknowable" in said.out
    assert not [line for line in said.out.splitlines() if line != line.rstrip()]


@pytest.mark.usefixtures("reconciled")
def test_drift_by_tenant_target_verdict_and_number(call: Call) -> None:
    def drift(*options: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = call("drift", "--json", *options).json["drift"]
        return found

    every = drift()
    assert len(every) == 2
    assert drift("--tenant", "acme") == drift("--target", "bank") == every
    assert drift("--tenant", "blue") == drift("--target", "moon") == drift("--verdict", "partial") == []
    assert [one["verdict"] for one in drift("--verdict", "not_applied")] == ["not_applied"]
    assert drift("--limit", "1") == every[:1]
    assert call("drift", "--tenant", "blue").out.strip() == (
        "0 in drift; 0 writes judged, 0 still open, 0 name no target, 0 unknowable"
    )


def _sample(kind: str) -> Event:
    [schema] = [schema for schema in avro_schemas() if schema.subject == kind]
    return event(kind, _body_of(schema.definition))


def _body_of(definition: dict[str, Any]) -> dict[str, Any]:
    return {field["name"]: _value_of(field) for field in definition["fields"]}


def _value_of(field: dict[str, Any]) -> Any:
    kind = field["type"][1] if isinstance(field["type"], list) else field["type"]
    if field.get("json"):
        return '{"some": ["json"]}'
    if isinstance(kind, dict):
        return [] if kind["type"] == "array" else b"\xab" * kind.get("size", 16)
    plain = {"string": "some text", "long": 12, "int": 3, "boolean": True, "double": 0.5, "Id": b"\xab" * 16}
    return plain.get(kind, b"\xab" * 32)


KINDS = sorted({schema.subject for schema in avro_schemas()} - {"event"})


def test_every_kind_of_event_has_a_line(call: Call, produce: Produce, ingest_all: Ingest) -> None:
    for seq, kind in enumerate(KINDS):
        one = dataclasses.replace(_sample(kind), seq=seq)
        produce(encode(one), key_of(one))
    ingest_all()
    said = call("timeline", _task_id())
    assert said.code == 0
    for kind in KINDS:
        word = {"tool_result": "result", "verdict": "verdict"}.get(kind, kind)
        [line] = [line for line in said.out.splitlines() if line[13:].startswith(f"{word} ")]
        assert "some" in line or kind.startswith("producer_") or kind == "control_ack", line
    assert len(call("timeline", _task_id(), "--json").json["events"]) == len(KINDS)


def _task_id() -> str:
    return event().task_id.hex()


def test_gaps_unread_kinds_and_missing_results_are_shown(call: Call, produce: Produce, ingest_all: Ingest) -> None:
    asked = intent(seq=3)
    newer = dataclasses.replace(event(seq=9), kind="telepathy", body_schema=b"\x01" * 8, raw_body=b"\x02", body=None)
    for one in (event(seq=0), asked, intent(seq=4, attempt=2), newer):
        produce(encode(one), key_of(one))
    ingest_all()
    out = call("timeline", _task_id()).out
    assert out.count("no result yet") == 2
    assert "attempt 2 — no result yet" in out
    assert "telepathy" in out
    assert "unread: this version does not know the kind or its body" in out
    assert f"2 events are missing: seq 1 to 2 of producer {PRODUCER.hex()}" in out
    assert f"4 events are missing: seq 5 to 8 of producer {PRODUCER.hex()}" in out
    assert "2 attempts" in out
    assert "the agent said unknown, the target says nothing yet" in out
    told = call("timeline", _task_id(), "--json").json
    assert [(gap["first_seq"], gap["last_seq"]) for gap in told["gaps"]] == [(1, 2), (5, 8)]
    answer = result("ok", seq=5, causation_id=asked.event_id)
    produce(encode(answer), key_of(answer))
    ingest_all()
    assert call("timeline", _task_id()).out.count("no result yet") == 1


ATTACKS = (
    "\x1b[2J\x1b[31mred",
    "\x1b]8;;https://evil.example\x07click\x1b]8;;\x07",
    "\x9b31mC1",
    "\u202egnp.exe\u2066",
    "line\nfeed\r\x08\x07",
    "[red]markup[/red] [link=https://evil.example]x[/link]",
    "\u200bzero\ufeff\U000e0041tag\u2028",
    "x" * 100_000,
)
ACTING = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) != "\n"] + list(
    "\u061c\u200b\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff\U000e0041"
)


def _hostile(seq: int, attack: str) -> list[Event]:
    """A write and its result in which a tenant says `attack` wherever it can say anything."""
    own: dict[str, Any] = {
        "task_id": new_id(), "task_ref": attack[:500] or None, "workflow": attack[:300], "agent": attack[:300],
        "subject_ref": attack[:300], "effect_id": bytes([seq]) * 16,
    }  # fmt: skip
    said = {"tool": attack, "target": attack, "args": "{}", "step": attack}
    answered = {"tool": attack, "error_type": attack, "error_message": attack, "result": '"x"'}
    return [
        event("task_started", {"title": attack, "input": None}, seq=0, **own),
        intent(seq=1, body=said, **own),
        result("unknown", seq=2, body=answered, **own),
        event("verdict", _verdict(attack), seq=3, **own),
        event("task_ended", {"status": attack, "error_type": attack, "error_message": attack}, seq=4, **own),
    ]


def _verdict(attack: str) -> dict[str, Any]:
    return {
        **(_sample("verdict").body or {}),
        "target": attack, "tool": attack, "verdict": "not_applied", "reason": attack, "resources": [],
        "evidence": '{"parts": []}',
    }  # fmt: skip


def test_what_is_audited_never_acts_in_a_terminal(
    call: Call, produce: Produce, ingest_all: Ingest, environment: dict[str, str]
) -> None:
    tasks = []
    for number, attack in enumerate(ATTACKS, 1):
        events = _hostile(number, attack)
        tasks.append(events[0].task_id.hex())
        for one in events:
            produce(encode(one), partition_key(one.tenant, one.task_id))
    ingest_all()
    outputs = [call("timeline", task) for task in tasks] + [call("drift"), call("doctor"), call("timeline", "nobody")]
    for said in outputs:
        assert not [character for character in ACTING if character in said.out + said.err]
    assert "[red]markup[/red]" in outputs[5].out
    assert "[red]markup[/red]" in outputs[-3].out
    assert len(outputs[7].out) < 20_000
    for task in tasks:
        assert call("timeline", task, "--json").json["events"]
    assert len(call("drift", "--json").json["drift"]) == len(ATTACKS)
    environment["FORCE_COLOR"] = "1"
    coloured = call("timeline", tasks[0])
    assert "\x1b[2J" not in coloured.out
