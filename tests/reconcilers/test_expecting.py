"""An effect that carries its own expectation is judged by it, with a contract of its tool or without one."""

import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any, LiteralString

import pytest

from counterfoil import Effect, Expected, Recorder, RecorderSettings
from counterfoil.redaction_policy import FieldRule, RedactionPolicy
from tests.fix_shop import NOBODY, Shop, body

PAID: LiteralString = "UPDATE shop.orders SET status = 'paid', paid = 12.5 WHERE id = 'A-1'"
OTHER: LiteralString = "UPDATE shop.orders SET status = 'paid', paid = 13 WHERE id = 'A-1'"
HALF: LiteralString = "UPDATE shop.orders SET status = 'paid' WHERE id = 'A-1'"
ROW = [Expected(resource="orders", key={"id": "A-1"}, set={"status": "paid", "paid": Decimal("12.50")})]


def begin(shop: Shop, tool: str, expect: Any, recorder: Recorder | None = None, **args: Any) -> Effect:
    with (recorder or shop.recorder).task("work", task_ref="t-1") as task:
        task.suspend("the test goes on")
        return task.begin_effect(tool, target="shop", args=args, expect=expect)


def settled(shop: Shop, effect: Effect) -> Any:
    shop.recorder.close()
    shop.settle(shop.reconcilers[0])
    [said] = [event for event in shop.said() if event.effect_id == effect.effect_id]
    return body(said)


@pytest.mark.parametrize(
    ("landing", "verdict"), [([PAID], "applied"), ([], "not_applied"), ([OTHER], "mismatched"), ([HALF], "partial")]
)
def test_a_tool_without_a_contract_is_judged(shop: Shop, landing: list[LiteralString], verdict: str) -> None:
    shop.reconciler().once()
    effect = begin(shop, "close_case", ROW, order="A-1")
    shop.sql(*landing)
    effect.ok()
    assert settled(shop, effect)["verdict"] == verdict
    assert shop.changes() == []


def test_it_stands_in_place_of_the_tool_s_contract(shop: Shop) -> None:
    shop.reconciler().once()
    effect = begin(shop, "set_status", ROW, order="A-1", status="something else")
    shop.sql(PAID)
    effect.ok()
    assert settled(shop, effect)["verdict"] == "applied"


@pytest.mark.parametrize("rows", [1, 0, 2])
def test_a_created_row_is_found_by_the_effect_s_key(shop: Shop, rows: int) -> None:
    def expect(key: str) -> list[Expected]:
        return [Expected(resource="refunds", create=True, find={"reference": key}, set={"amount": 3})]

    shop.reconciler().once()
    effect = begin(shop, "pay_back", expect)
    for _ in range(rows):
        shop.target.execute("INSERT INTO shop.refunds (reference, amount) VALUES (%s, 3)", (effect.key,))
    effect.unknown()
    assert settled(shop, effect)["verdict"] == {0: "not_applied", 1: "applied", 2: "duplicated"}[rows]


def test_a_deleted_row_is_gone(shop: Shop) -> None:
    shop.reconciler().once()
    effect = begin(shop, "forget", [Expected(resource="orders", key={"id": "A-2"}, delete=True)])
    shop.sql("DELETE FROM shop.orders WHERE id = 'A-2'")
    effect.ok()
    assert settled(shop, effect)["verdict"] == "applied"


def test_it_is_folded_with_what_contracts_say_of_the_same_row(shop: Shop) -> None:
    """A later write, judged by its contract, overwrote it; and a deposit adds up on what it set."""
    reconciler = shop.reconciler()
    reconciler.once()
    first = begin(shop, "close_case", ROW, order="A-1")
    shop.sql(PAID)
    first.ok()
    second = shop.act(
        "set_status", "ok", "UPDATE shop.orders SET status = 'sent' WHERE id = 'A-1'", order="A-1", status="sent"
    )
    third = shop.act(
        "deposit", "ok", "UPDATE shop.orders SET paid = paid + 5 WHERE id = 'A-1'", order="A-1", amount="5"
    )
    shop.recorder.close()
    shop.settle(reconciler)
    said = {effect: shop.verdicts(effect) for effect in (uuid.UUID(bytes=first.effect_id), second, third)}
    assert list(said.values()) == [["applied"]] * 3
    assert shop.changes() == []


@pytest.mark.parametrize(
    ("expect", "reason"),
    [
        ([Expected(resource="oders", key={"id": "A-1"}, set={"status": "x"})], "did you mean orders?"),
        ([Expected(resource="orders", key={"ident": "A-1"}, set={"status": "x"})], "by ident, not by id"),
        ([], "no list of rows"),
    ],
)
def test_what_cannot_be_held_against_the_target_says_why(shop: Shop, expect: list[Expected], reason: str) -> None:
    shop.reconciler(shop.contracts(NOBODY)).once()
    effect = begin(shop, "close_case", expect)
    effect.ok()
    said = settled(shop, effect)
    assert said["verdict"] == "unknowable"
    assert reason in said["reason"]


def test_what_was_redacted_is_compared_by_its_token(shop: Shop, recorder_settings: RecorderSettings) -> None:
    policy = RedactionPolicy(fields=(FieldRule(path="$.expect[*].set.status"),))
    shop.reconciler().once()
    with Recorder(recorder_settings.model_copy(update={"redaction": policy})) as recorder:
        effect = begin(shop, "close_case", ROW, recorder)
        shop.sql(PAID)
        effect.ok()
    said = settled(shop, effect)
    assert said["verdict"] == "applied"
    [row] = shop.operator.execute(
        "SELECT expect::text AS expect FROM counterfoil.effect WHERE tool = 'close_case'"
    ).fetchall()
    assert '"paid"' not in row["expect"].replace('"paid":', "")


def test_another_writer_of_the_log_may_expect_anything(shop: Shop, ingest_all: Callable[[], None]) -> None:
    """Not our recorder: a list of texts, a map, a resource that is a number."""
    shop.reconciler(shop.contracts(NOBODY)).once()
    effects = []
    for number, said in enumerate(('["x"]', '{"resource": "orders"}', '[{"resource": 5, "key": 7}]', '"\\u0000"')):
        effect = shop.recorder.task("work", task_ref="t-2").effect("odd", target="shop", args={"n": number})
        effect._expected = said
        effects.append(effect.begin())
        effect.ok()
    shop.recorder.close()
    shop.settle(shop.reconcilers[0])
    assert [shop.verdicts(uuid.UUID(bytes=effect.effect_id)) for effect in effects] == [["unknowable"]] * 4
