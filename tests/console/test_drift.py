"""`counterfoil drift ack | resolve`: what people decide on drift goes the whole way, through the log and back."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from counterfoil import Recorder
from counterfoil.codec import encode
from counterfoil.ids import new_id
from counterfoil.signing import SigningKey
from counterfoil_console.operations import Decision, OperationDesk, find_drift
from counterfoil_consumers.store import Connection
from tests.consumers.made import event, intent, key_of, put_key, result
from tests.fix_log import Produce

from .conftest import Call, credit, stored_events, work
from .test_people import ACTING, ATTACKS

Ingest = Callable[[], None]
Listed = dict[str, Any]


@pytest.fixture
def drifted(call: Call, recorder: Recorder, bank: Path, database: str, ingest_all: Ingest) -> dict[str, Listed]:
    """What `work` left in drift and a change nobody declared, by verdict."""
    call("tenant", "add", "acme")
    call("reconcile", "--once")
    work(recorder, database)
    with psycopg.connect(database) as connection:
        connection.execute("INSERT INTO bank.accounts VALUES ('d', 'acme', 1)")
    for _ in range(4):
        reconcile(call)
    return {one["verdict"]: one for one in listed(call)}


def reconcile(call: Call) -> None:
    """One pass, and what it said is in the store."""
    call("ingest", "--once")
    said = call("reconcile", "--once", GIVE_UP_AFTER_SECONDS="0", SWEEP_INTERVAL_SECONDS="0.001")
    assert (said.code, said.err) == (0, "")
    call("ingest", "--once")


def listed(call: Call) -> list[Listed]:
    found: list[Listed] = call("drift", "--json").json["drift"]
    return found


def test_what_is_acknowledged_stays_in_the_list(call: Call, drifted: dict[str, Listed], operator: Connection) -> None:
    drift_id = drifted["not_applied"]["drift_id"]
    said = call("drift", "ack", drift_id[:8], "--reason", "ticket 118", "--by", "dana")
    assert (said.code, said.err) == (0, "")
    assert said.out == (f"{drift_id} acknowledged: bank says not_applied (tenant acme), by dana: ticket 118\n")
    call("ingest", "--once")
    one, other = sorted(listed(call), key=lambda row: row["verdict"])
    assert (one["drift_id"], one["acked_by"], one["ack_reason"]) == (drift_id, "dana", "ticket 118")
    assert one["acked_at"] is not None
    assert other["acked_by"] is None
    out = call("drift").out
    assert "by dana: ticket 118" in out
    assert "2 in drift (1 acknowledged); 3 writes judged" in out
    timeline = call("timeline", "T-1")
    assert "acknowledge by dana: ticket 118" in timeline.out
    assert "never landed; acknowledged " in timeline.out.replace("\n", " ")
    [row] = operator.execute("SELECT body, causation_id, effect_id FROM event WHERE kind = 'operation'").fetchall()
    assert row["body"]["before"] == {
        "outcome": "ok",
        "verdict": "not_applied",
        "check_seq": row["body"]["before"]["check_seq"],
    }
    assert row["body"]["after"] == {"drift": "acknowledged"}
    assert row["causation_id"].hex == row["body"]["verdict_event_id"]
    assert row["effect_id"].hex == drift_id


def test_what_is_resolved_is_drift_no_more(call: Call, drifted: dict[str, Listed]) -> None:
    ids = [drifted["not_applied"]["drift_id"][:10], drifted["unattributed"]["drift_id"]]
    told = call("drift", "resolve", *ids, ids[1], "--reason", "refunded", "--by", "dana", "--json").json
    assert [one["operation"] for one in told] == ["resolve", "resolve"]
    assert all(len(one["event_id"]) == 32 for one in told)
    call("ingest", "--once")
    assert listed(call) == []
    assert "resolved " in call("timeline", "T-1").out
    assert "resolve by dana: refunded" in call("timeline", "target:bank").out
    sentence = call("drift", "resolve", ids[0], "--reason", "again").sentence
    assert "was resolved already, " in sentence
    assert sentence.endswith(" UTC by dana: refunded")
    for _ in range(2):
        reconcile(call)
    assert listed(call) == []


def test_a_repaired_row_is_no_unexplained_change(call: Call, drifted: dict[str, Listed], database: str) -> None:
    call("drift", "resolve", drifted["unattributed"]["drift_id"], "--reason", "a test")
    credit(database, "b", "7")
    said = call(
        "drift", "resolve", drifted["not_applied"]["drift_id"], "--reason", "by hand", "--repaired", "accounts", "b"
    )
    assert 'what checks found in accounts ["b"] until now is explained' in said.out
    for _ in range(4):
        reconcile(call)
    assert listed(call) == []
    assert "repaired accounts b at bank" in call("timeline", "T-1").out
    credit(database, "b", "8")
    for _ in range(4):
        reconcile(call)
    assert [one["verdict"] for one in listed(call)] == ["unattributed"]


def test_a_dry_run_says_nothing_to_the_log(call: Call, drifted: dict[str, Listed], operator: Connection) -> None:
    stored = stored_events(operator)
    drift_id = drifted["not_applied"]["drift_id"]
    said = call("drift", "resolve", drift_id, "--reason", "r", "--by", "dana", "--dry-run")
    assert said.out.startswith(f"{drift_id} would be resolved: bank says not_applied")
    [told] = call("drift", "ack", drift_id, "--reason", "r", "--dry-run", "--json").json
    assert told["event_id"] is None
    call("ingest", "--once")
    assert stored_events(operator) == stored


def test_who_decides_is_the_user_of_the_shell_if_nobody_is_named(call: Call, drifted: dict[str, Listed]) -> None:
    [told] = call("drift", "ack", drifted["not_applied"]["drift_id"], "--reason", "r", "--json", "--dry-run").json
    assert told["by"]


def test_two_people_at_once_fold_to_one_state(call: Call, drifted: dict[str, Listed], operator: Connection) -> None:
    """Each looks before the other's word is stored; both are in the log, and one of them counts everywhere."""
    drift_id = drifted["not_applied"]["drift_id"]
    for name in ("ann", "bea"):
        assert call("drift", "resolve", drift_id, "--reason", f"by {name}", "--by", name).code == 0
    call("ingest", "--once")
    [state] = operator.execute("SELECT resolved_by, resolve_reason FROM effect_state WHERE effect_id = %s", [drift_id])
    assert (state["resolved_by"], state["resolve_reason"]) == ("bea", "by bea")
    assert len(operator.execute("SELECT FROM event WHERE kind = 'operation'").fetchall()) == 2
    assert "by bea" in call("drift", "ack", drift_id, "--reason", "r").sentence
    assert call("rebuild", "--compare").code == 0


def test_what_is_no_drift_is_told_in_one_sentence(call: Call, drifted: dict[str, Listed], operator: Connection) -> None:
    [applied] = operator.execute("SELECT effect_id FROM effect WHERE verdict = 'applied'").fetchall()
    first = applied["effect_id"].hex
    for given, sentence in (
        ("0" * 32, f"the store has neither an effect nor a change {'0' * 32!r}; see `counterfoil drift`"),
        ("xyz", "'xyz' is no id; give 4 to 32 hex digits, as `counterfoil drift` does"),
        ("abc", "'abc' is no id; give 4 to 32 hex digits, as `counterfoil drift` does"),
        ("a" * 33, f"{'a' * 33!r} is no id; give 4 to 32 hex digits, as `counterfoil drift` does"),
        (first, f"{first} is not in drift: the agent said ok, bank says applied"),
    ):
        said = call("drift", "resolve", drifted["not_applied"]["drift_id"], given, "--reason", "r")
        assert (said.code, said.sentence) == (1, sentence)
    assert call("drift", "ack", first, "--reason", "  ").sentence == "a decision has a reason; give it with --reason"
    assert (
        call("drift", "ack", first, "--reason", "r", "--by", "").sentence == "a decision has a name; give it with --by"
    )
    assert "at most 2000 characters" in call("drift", "ack", first, "--reason", "r" * 2_001).sentence
    assert call("drift", "ack", first).sentence == "Missing option '--reason'; see `counterfoil drift ack --help`"
    assert call("drift", "ack", "--reason", "r").code == 2
    assert call("drift", "ack", first, "--reason", "r", "--tenant", "blue").code == 1
    key = 'a key is a text, or a JSON list of texts where it has several columns, such as ["A-17", "2"], not \'[1]\''
    said = call("drift", "resolve", first, "--reason", "r", "--repaired", "accounts", "[1]")
    assert said.sentence == key
    assert call("drift", "--tenant", "acme", "ack", first, "--reason", "r").code == 2
    assert len(listed(call)) == 2, "nothing was said of the good one either"


def test_brokers_that_are_away_leave_it_unsaid(call: Call, drifted: dict[str, Listed], monkeypatch: Any) -> None:
    monkeypatch.setattr("counterfoil_console.operations._TIMEOUT_SECONDS", 1.0)
    given = drifted["not_applied"]["drift_id"]
    said = call("drift", "ack", given, "--reason", "r", KAFKA__BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert f"the brokers did not confirm it for {given}" in said.sentence
    assert said.sentence.endswith("look with `counterfoil drift`, and say it again")


def judged(seq: int, verdict: str, **changes: Any) -> Any:
    body = {
        "target": "payments", "verdict": verdict, "check_seq": seq, "contract_version": "1", "contract_digest": b"\x01",
        "evidence": "{}", "resources": [{"resource": "refunds", "key": '["A-17"]'}],
    }  # fmt: skip
    return event("verdict", body, seq=10 + seq, **({"effect_id": b"\x01" * 16} | changes))


def test_first_digits_that_mean_several_are_refused(call: Call, produce: Produce, ingest_all: Ingest) -> None:
    for number in (1, 2):
        effect_id = b"\xab" * 15 + bytes([number])
        for one in (
            intent(effect_id=effect_id, seq=number), result("ok", effect_id=effect_id, seq=2 + number),
            judged(number, "not_applied", effect_id=effect_id),
        ):  # fmt: skip
            produce(encode(one), key_of(one))
    ingest_all()
    sentence = call("drift", "ack", "abab", "--reason", "r").sentence
    assert sentence.startswith("'abab' means several: " + "ab" * 15 + "01 of acme, ")
    assert call("drift", "ack", "ab" * 15 + "02", "--reason", "r").code == 0


def test_a_row_is_repaired_at_one_target(call: Call, produce: Produce, ingest_all: Ingest) -> None:
    for one in (intent(seq=0), result("ok", seq=1), judged(1, "not_applied")):
        produce(encode(one), key_of(one))
    other = judged(2, "unattributed", effect_id=None)
    other.body["target"] = "bank"
    produce(encode(other), key_of(other))
    ingest_all()
    ids = [one["drift_id"] for one in listed(call)]
    sentence = call("drift", "resolve", *ids, "--reason", "r", "--repaired", "refunds", "A-17").sentence
    assert sentence == (
        "a row is repaired at one target, and these are of bank of acme and payments of acme; resolve them one by one"
    )


@pytest.mark.parametrize("verdict", ["partial", "not_applied"])
def test_a_later_verdict_is_nobody_s_acknowledgement(
    call: Call, produce: Produce, ingest_all: Ingest, verdict: str
) -> None:
    """Even one of the same word: there was another in between, or it would not have been said again."""
    for one in (intent(seq=0), result("ok", seq=1), judged(1, "not_applied")):
        produce(encode(one), key_of(one))
    ingest_all()
    [before] = listed(call)
    call("drift", "resolve", before["drift_id"], "--reason", "r")
    for one in (judged(2, "applied"), judged(3, verdict)):
        produce(encode(one), key_of(one))
    ingest_all()
    [after] = listed(call)
    assert (after["drift_id"], after["verdict"], after["acked_by"]) == (before["drift_id"], verdict, None)


def test_what_people_say_never_acts_in_a_terminal(call: Call, produce: Produce, ingest_all: Ingest) -> None:
    for one in (intent(seq=0), result("ok", seq=1), judged(1, "not_applied")):
        produce(encode(one), key_of(one))
    ingest_all()
    [row] = listed(call)
    for attack in (attack[:1_900] for attack in ATTACKS):
        for said in (
            call("drift", "ack", row["drift_id"], "--reason", attack, "--by", attack),
            call("drift", "resolve", row["drift_id"], "--reason", "r", "--repaired", attack, attack, "--dry-run"),
        ):
            assert said.code == 0, said.err
            assert not [character for character in ACTING if character in said.out + said.err]
    ingest_all()
    for command in (("drift",), ("timeline", event().task_id.hex()), ("history", "payments", "refunds", "A-17")):
        said = call(*command)
        assert said.code == 0, said.err
        assert not [character for character in ACTING if character in said.out]


def test_an_operation_of_a_stranger_changes_nothing_of_a_verdict_that_it_does_not_name(
    call: Call, produce: Produce, ingest_all: Ingest
) -> None:
    stray = event("operation", {"operation": "resolve", "by": "x", "verdict_event_id": new_id()}, seq=5)
    bare = event("operation", {"operation": "repair", "by": "x"}, seq=6)
    for one in (intent(seq=0), result("ok", seq=1), judged(1, "not_applied"), stray, bare):
        produce(encode(one), key_of(one))
    ingest_all()
    assert len(listed(call)) == 1


def test_decisions_of_many_threads_are_all_in_the_log(
    call: Call, drifted: dict[str, Listed], recorder: Recorder, operator: Connection
) -> None:
    about = find_drift(operator, drifted["not_applied"]["drift_id"])

    def decide(name: str) -> None:
        OperationDesk(recorder.settings).say(Decision("acknowledge", about, name, "r"))

    threads = [threading.Thread(target=decide, args=(f"p{number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    call("ingest", "--once")
    said = operator.execute("SELECT event_id, body FROM event WHERE kind = 'operation' ORDER BY event_id").fetchall()
    assert len(said) == 4
    [state] = operator.execute("SELECT acked_by, acked_event_id FROM verdict_operation").fetchall()
    assert (state["acked_by"], state["acked_event_id"]) == (said[-1]["body"]["by"], said[-1]["event_id"])


def test_what_ingest_would_not_believe_is_refused(call: Call, drifted: dict[str, Listed], database: str) -> None:
    """A tenant whose records are signed: without its key here, the operation would be a foreign letter."""
    key = SigningKey("acme", "desk1", b"\x07" * 32)
    put_key(database, key)
    given = drifted["not_applied"]["drift_id"]
    sentence = call("drift", "ack", given, "--reason", "r").sentence
    assert sentence == ("records of acme must be signed, and there is no key for it here; set COUNTERFOIL_SIGNING_KEYS")
    assert call("drift", "ack", given, "--reason", "r", SIGNING_KEYS=key.text()).code == 0
    call("ingest", "--once")
    [row] = [one for one in listed(call) if one["drift_id"] == given]
    assert row["ack_reason"] == "r"
