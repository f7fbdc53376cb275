"""From what agents said and what the shop holds to verdicts, pass by pass, on a real Kafka and a real Postgres."""

import json
import time
import uuid
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, LiteralString

import pytest
from prometheus_client import REGISTRY

from tests.fix_shop import CONTRACTS, NOBODY, Shop, body

PAY: LiteralString = "UPDATE shop.orders SET status = 'paid' WHERE id = 'A-1'"
MISPAY: LiteralString = "UPDATE shop.orders SET status = 'lost' WHERE id = 'A-1'"
DEPOSIT: LiteralString = "UPDATE shop.orders SET paid = paid + 5 WHERE id = 'A-1'"
REFUNDED: LiteralString = "UPDATE shop.orders SET status = 'refunded' WHERE id = 'A-1'"

# DESIGN.md section 3: the agent said -> what the target says -> drift.
AGREES, DRIFT = False, True
RULES = {
    "ok": {"applied": AGREES, "not_applied": DRIFT, "partial": DRIFT, "duplicated": DRIFT, "mismatched": DRIFT},
    "accepted": {"applied": AGREES, "not_applied": DRIFT, "partial": DRIFT, "duplicated": DRIFT, "mismatched": DRIFT},
    "unknown": {"applied": AGREES, "not_applied": DRIFT, "partial": DRIFT, "duplicated": DRIFT, "mismatched": DRIFT},
    "failed": {"applied": DRIFT, "not_applied": AGREES, "partial": DRIFT, "duplicated": DRIFT, "mismatched": DRIFT},
    "denied": {"applied": DRIFT, "not_applied": AGREES, "partial": DRIFT, "duplicated": DRIFT, "mismatched": DRIFT},
    "partial": {"applied": DRIFT, "not_applied": DRIFT, "partial": DRIFT, "duplicated": DRIFT, "mismatched": DRIFT},
}


def test_the_drift_table_is_the_one_of_the_design(shop: Shop) -> None:
    rows = shop.operator.execute("SELECT outcome, verdict, drift FROM counterfoil.drift_rule").fetchall()
    expected = {(said, verdict): drift for said, verdicts in RULES.items() for verdict, drift in verdicts.items()}
    expected |= {(said, "unknowable"): AGREES for said in RULES}
    assert {(row["outcome"], row["verdict"]): row["drift"] for row in rows} == expected


def test_a_reply_lost_after_the_commit_is_resolved_at_first_sight(shop: Shop) -> None:
    reconciler = shop.reconciler()
    reconciler.once()
    effect = shop.act("set_status", "unknown", PAY, order="A-1", status="paid")
    assert shop.step(reconciler).said == 1
    assert shop.verdicts(effect) == ["applied"]
    shop.settle(reconciler)
    assert shop.verdicts(effect) == ["applied"], "once is enough"
    assert (shop.state(effect)["drift"], shop.state(effect)["means"]) == (False, "resolved: it landed")
    assert shop.drift() == []


def test_absence_is_said_only_when_it_has_settled(shop: Shop) -> None:
    shop.recorder.close()  # so that the test alone says when its successor beats
    reconciler = shop.reconciler()
    reconciler.once()
    with_slow_beats = shop.recorder.settings.model_copy(update={"beat_interval_seconds": 3600.0})
    shop.recorder = type(shop.recorder)(with_slow_beats)
    effect = shop.act("set_status", "ok", order="A-1", status="paid")
    for _ in range(3):
        assert shop.step(reconciler).open == 1, "its producer was not heard of since: it may hold an intent"
    assert shop.verdicts(effect) == []
    shop.recorder.close()
    assert reconciler.once().said == 0, "that it closed is in the log, but not ingested"
    passes = shop.settle(reconciler)
    assert sum(one.said for one in passes) == 1
    assert shop.verdicts(effect) == ["not_applied"]
    assert shop.drift() == [("ok", "not_applied", "it never landed")]


def test_one_sighting_is_not_enough(shop: Shop) -> None:
    reconciler = shop.reconciler()
    reconciler.once()
    effect = shop.act("set_status", "ok", order="A-1", status="paid")
    shop.recorder.close()
    assert shop.step(reconciler).said == 0
    shop.sql(PAY)  # late, between two sightings
    shop.settle(reconciler)
    assert shop.verdicts(effect) == ["applied"]
    assert shop.drift() == []


def test_the_window_of_the_target_is_waited_for(shop: Shop) -> None:
    reconciler = shop.reconciler(shop.contracts(settle=3600))
    reconciler.once()
    effect = shop.act("set_status", "ok", order="A-1", status="paid")
    shop.recorder.close()
    assert [shop.step(reconciler).open for _ in range(3)] == [1, 1, 1]
    assert shop.verdicts(effect) == []


@pytest.mark.parametrize(
    ("outcome", "landing", "verdict", "drift"),
    [
        ("ok", PAY, "applied", None),
        ("ok", "", "not_applied", "it never landed"),
        ("ok", MISPAY, "mismatched", "it landed with other values"),
        ("unknown", "", "not_applied", "a decision is due"),
        ("failed", "", "not_applied", None),
        ("denied", "", "not_applied", None),
        ("failed", PAY, "applied", "it happened after all"),
        ("denied", PAY, "applied", "it happened after all"),
        ("partial", PAY, "applied", "both sides differ"),
        ("accepted", PAY, "applied", None),
        ("none", PAY, "applied", None),
        ("none", "", "not_applied", "a decision is due"),
    ],
)
def test_what_was_said_against_what_landed(
    shop: Shop, outcome: str, landing: LiteralString, verdict: str, drift: str | None
) -> None:
    reconciler = shop.reconciler()
    reconciler.once()
    effect = shop.act("set_status", outcome, *([landing] if landing else []), order="A-1", status="paid")
    shop.recorder.close()
    shop.settle(reconciler)
    assert shop.verdicts(effect) == [verdict]
    said = "unknown" if outcome == "none" else outcome
    assert shop.drift() == ([(said, verdict, drift)] if drift else [])


def test_a_refusal_that_landed_is_not_said_at_first_sight(shop: Shop) -> None:
    reconciler = shop.reconciler()
    reconciler.once()
    effect = shop.act("set_status", "failed", PAY, order="A-1", status="paid")
    shop.recorder.close()
    assert shop.step(reconciler).said == 0
    shop.settle(reconciler)
    assert shop.verdicts(effect) == ["applied"]


def test_what_was_accepted_has_until_its_deadline(shop: Shop) -> None:
    reconciler = shop.reconciler()
    reconciler.once()
    effect = shop.act("set_status", "accepted", order="A-1", status="paid")
    shop.recorder.close()
    assert [shop.step(reconciler).open for _ in range(3)] == [1, 1, 1]
    assert shop.verdicts(effect) == []
    shop.sql(PAY)
    shop.settle(reconciler)
    assert shop.verdicts(effect) == ["applied"]


@pytest.mark.parametrize(("within", "hours", "verdicts"), [(1, 1, ["not_applied"]), (3600, -1, [])])
def test_the_contract_s_deadline_outranks_the_agent_s(
    shop: Shop, within: int, hours: int, verdicts: Sequence[str]
) -> None:
    text = CONTRACTS.replace("[tools.set_status]", f"[tools.set_status]\naccepted_within_seconds = {within}")
    reconciler = shop.reconciler(shop.contracts(text=text))
    reconciler.once()
    effect = shop.begin("set_status", order="A-1", status="paid")
    effect.accepted(deadline=timedelta(hours=hours))  # by its own clock, which may be wrong
    shop.recorder.close()
    time.sleep(1.2)
    for _ in range(4):
        shop.step(reconciler)
    assert shop.verdicts(uuid.UUID(bytes=effect.effect_id)) == verdicts


@pytest.mark.parametrize(
    ("tool", "landing", "verdict"),
    [
        ("refund", [REFUNDED], "partial"),
        ("refund", [REFUNDED, "ROW"], "applied"),
        ("refund", [REFUNDED, "ROW", "ROW"], "duplicated"),
        ("deposit", [DEPOSIT], "applied"),
        ("deposit", [DEPOSIT, DEPOSIT], "duplicated"),
        ("deposit", ["UPDATE shop.orders SET paid = 3 WHERE id = 'A-1'"], "mismatched"),
        ("deposit", [], "not_applied"),
    ],
)
def test_writes_of_several_rows_and_increments(
    shop: Shop, tool: str, landing: list[LiteralString], verdict: str
) -> None:
    reconciler = shop.reconciler()
    reconciler.once()
    effect = shop.begin(tool, order="A-1", amount="5")
    for statement in landing:
        if statement == "ROW":
            shop.target.execute("INSERT INTO shop.refunds (reference, amount) VALUES (%s, 5)", (effect.key,))
        else:
            shop.sql(statement)
    effect.ok()
    shop.recorder.close()
    shop.settle(reconciler)
    [said] = [event for event in shop.said() if event.effect_id == effect.effect_id]
    assert body(said)["verdict"] == verdict
    assert shop.changes() == []


def test_the_second_write_on_a_row_supersedes_the_first(shop: Shop) -> None:
    reconciler = shop.reconciler()
    reconciler.once()
    first = shop.act("set_status", "ok", MISPAY, order="A-1", status="lost")
    second = shop.act("set_status", "ok", PAY, order="A-1", status="paid")
    shop.settle(reconciler)
    assert (shop.verdicts(first), shop.verdicts(second)) == (["applied"], ["applied"])
    assert (shop.drift(), shop.changes()) == ([], [])


def test_increments_add_up_and_a_later_one_starts_from_there(shop: Shop) -> None:
    reconciler = shop.reconciler()
    reconciler.once()
    both = [shop.act("deposit", "ok", DEPOSIT, order="A-1", amount="5", step=step) for step in ("one", "two")]
    shop.settle(reconciler)
    assert [shop.verdicts(effect) for effect in both] == [["applied"], ["applied"]]
    third = shop.act("deposit", "ok", DEPOSIT, DEPOSIT, order="A-1", amount="5", step="three")
    shop.recorder.close()
    shop.settle(reconciler)
    assert shop.verdicts(third) == ["duplicated"], "from ten to twenty, and not from nought"
    assert [shop.verdicts(effect) for effect in both] == [["applied"], ["applied"]]


def test_what_landed_before_anybody_looked_is_judged_without_a_baseline(shop: Shop) -> None:
    status = shop.act("set_status", "ok", PAY, order="A-1", status="paid")
    absent = shop.act("set_status", "ok", order="A-2", status="paid")
    added = shop.act("deposit", "ok", DEPOSIT, order="A-3", amount="5")
    shop.recorder.close()
    shop.settle(shop.reconciler())
    assert shop.verdicts(status) == ["applied"]
    assert shop.verdicts(absent) == ["not_applied"]
    assert shop.verdicts(added) == ["unknowable"], "nobody knows what was there before"
    assert shop.changes() == []
    assert shop.drift() == [("ok", "not_applied", "it never landed")]


def test_without_declared_writers_nothing_is_swept(shop: Shop) -> None:
    reconciler = shop.reconciler(shop.contracts(NOBODY))
    reconciler.once()
    effect = shop.act("set_status", "ok", PAY, order="A-1", status="paid")
    shop.sql("UPDATE shop.orders SET status = 'stray' WHERE id = 'A-2'", "DELETE FROM shop.orders WHERE id = 'A-3'")
    shop.settle(reconciler)
    assert (shop.verdicts(effect), shop.changes()) == (["applied"], [])
    count = shop.operator.execute("SELECT count(*) AS n FROM counterfoil.target_baseline").fetchall()
    assert count[0]["n"] == 0


@pytest.mark.parametrize("mode", ["shadow", "replay"])
def test_only_live_effects_are_judged(shop: Shop, mode: str) -> None:
    reconciler = shop.reconciler()
    reconciler.once()
    effect = shop.act("set_status", "ok", order="A-1", status="paid", mode=mode)
    shop.recorder.close()
    passes = shop.settle(reconciler)
    assert (sum(one.effects for one in passes), shop.verdicts(effect), shop.drift()) == (0, [], [])


def value(name: str, **labels: str) -> float | None:
    return REGISTRY.get_sample_value(name, labels)


def test_what_names_no_target_is_counted_as_uncovered(shop: Shop) -> None:
    reconciler = shop.reconciler()
    shop.act("send_mail", "ok", target=None, to="bea")
    shop.settle(reconciler)
    assert value("counterfoil_effects", tenant="acme", target="", verdict="uncovered") == 1
    assert shop.drift() == []


def test_a_tool_without_a_contract_is_a_hole_in_coverage(shop: Shop) -> None:
    reconciler = shop.reconciler()
    reconciler.once()
    effect = shop.act("paint", "ok", order="A-1")
    shop.recorder.close()
    shop.settle(reconciler)
    assert shop.verdicts(effect) == ["unknowable"]
    assert shop.state(effect)["verdict_reason"] == "no contract for tool paint"
    assert shop.drift() == []


def test_verdicts_come_back_through_the_log(shop: Shop) -> None:
    contracts = shop.contracts()
    reconciler = shop.reconciler(contracts)
    reconciler.once()
    effect = shop.act("refund", "ok", REFUNDED, order="A-1", amount="5")
    shop.recorder.close()
    shop.settle(reconciler)
    state: Any = shop.state(effect)
    assert (state["verdict"], state["drift"], state["outcome"]) == ("partial", True, "ok")
    assert (state["contract_version"], state["contract_digest"]) == ("7", contracts.digest)
    landed = {part["resource"]: part["landed"] for part in state["evidence"]["parts"]}
    assert landed == {"orders": "yes", "refunds": "no"}
    rows = shop.operator.execute(
        "SELECT resource, key FROM counterfoil.effect_resource WHERE effect_id = %s ORDER BY 1", (effect,)
    ).fetchall()
    assert (rows[0]["resource"], json.loads(rows[0]["key"])) == ("orders", ["A-1"])
    [line] = shop.operator.execute("SELECT * FROM counterfoil.drift").fetchall()
    assert (line["outcome"], line["verdict"], line["tool"], line["effect_id"]) == ("ok", "partial", "refund", effect)
    assert (line["args"], line["evidence"]) == ({"order": "A-1", "amount": "5"}, state["evidence"])
    assert line["resources"].startswith('orders ["A-1"]')


def test_the_gauges_say_what_is_in_force(shop: Shop) -> None:
    reconciler = shop.reconciler()
    reconciler.once()
    shop.act("set_status", "ok", PAY, order="A-1", status="paid")
    shop.act("set_status", "ok", order="A-2", status="paid")
    shop.sql("UPDATE shop.orders SET status = 'stray' WHERE id = 'A-3'")
    shop.step(reconciler)
    assert value("counterfoil_effects", tenant="acme", target="shop", verdict="settling") == 2
    assert (value("counterfoil_oldest_unresolved_effect_seconds", target="shop") or 0) > 0
    shop.recorder.close()
    given_up = value("counterfoil_given_up_effects_total", target="shop") or 0
    shop.settle(reconciler)
    reconciler.once()
    for verdict, effects, drift in (("applied", 1, None), ("not_applied", 1, 1), ("unattributed", None, 1)):
        labels = {"tenant": "acme", "target": "shop", "verdict": verdict}
        assert value("counterfoil_effects", **labels) == effects
        assert value("counterfoil_drift", acknowledged="no", **labels) == drift
        assert value("counterfoil_drift", acknowledged="yes", **labels) is None
    assert value("counterfoil_oldest_unresolved_effect_seconds", target="shop") is None
    assert value("counterfoil_given_up_effects_total", target="shop") == given_up + 1
    assert (value("counterfoil_reconcile_last_pass_timestamp_seconds", target="shop") or 0) > 0
