"""What was seen to have landed has landed, whatever others did to the row before all had settled."""

import uuid
from typing import LiteralString

import pytest

from tests.fix_shop import EXCLUSIVE, NOBODY, OURS, Shop

PAY: LiteralString = "UPDATE shop.orders SET status = 'paid', by = 'agent' WHERE id = 'A-1'"
HOLD: LiteralString = "UPDATE shop.orders SET status = 'held', by = 'person' WHERE id = 'A-1'"
UNDO: LiteralString = "UPDATE shop.orders SET status = 'new', by = 'person' WHERE id = 'A-1'"
LOSE: LiteralString = "UPDATE shop.orders SET status = 'new', by = 'agent' WHERE id = 'A-1'"
REMOVE: LiteralString = "DELETE FROM shop.refunds"
REFUND: LiteralString = "UPDATE shop.orders SET status = 'refunded', by = 'agent' WHERE id = 'A-1'"


def looked_at(shop: Shop, writers: str, *landing: LiteralString) -> uuid.UUID:
    """A write that landed and was seen, while other writes may still be on their way to the log."""
    reconciler = shop.reconciler(shop.contracts(writers))
    shop.step(reconciler)
    shop.step(reconciler)
    effect = shop.act("set_status", "ok", *landing, order="A-1", status="paid")
    shop.step(reconciler)
    assert shop.verdicts(effect) == ["applied"], "it has been said, and has not settled"
    return effect


@pytest.mark.parametrize("edit", [HOLD, UNDO], ids=["other value", "as before"])
@pytest.mark.parametrize("writers", [OURS, NOBODY], ids=["ours", "nobody declared"])
def test_a_person_s_edit_after_the_first_look_takes_nothing_back(shop: Shop, writers: str, edit: LiteralString) -> None:
    effect = looked_at(shop, writers, PAY)
    shop.sql(edit)
    shop.recorder.close()
    shop.settle(shop.reconcilers[-1])
    assert shop.verdicts(effect) == ["applied"]
    assert shop.changes() == []


@pytest.mark.parametrize(("writers", "edit"), [(EXCLUSIVE, UNDO), (OURS, LOSE)], ids=["exclusive", "a row of ours"])
def test_a_target_that_loses_it_again_is_said_to_have(shop: Shop, writers: str, edit: LiteralString) -> None:
    """As one does whose replica took over before it had the write."""
    effect = looked_at(shop, writers, PAY)
    shop.sql(edit)
    shop.recorder.close()
    shop.settle(shop.reconcilers[-1])
    assert shop.verdicts(effect) == ["applied", "not_applied"]


def test_a_second_landing_after_the_first_look_is_said(shop: Shop) -> None:
    reconciler = shop.reconciler(shop.contracts(NOBODY))
    shop.step(reconciler)
    effect = shop.begin("refund", order="A-1", amount="5")
    row = f"INSERT INTO shop.refunds (reference, amount) VALUES ('{effect.effect_id.hex()}', 5)"
    shop.sql(REFUND, row)
    effect.ok()
    shop.step(reconciler)
    shop.sql(row)
    shop.recorder.close()
    shop.settle(reconciler)
    assert shop.verdicts(uuid.UUID(bytes=effect.effect_id)) == ["applied", "duplicated"]


def test_what_is_judged_anew_is_judged_by_what_stands_there(shop: Shop) -> None:
    effect = looked_at(shop, NOBODY, PAY)
    shop.sql(HOLD)
    reconciler = shop.reconcilers[-1]
    assert reconciler.rejudge() == 1
    shop.recorder.close()
    shop.settle(reconciler)
    assert shop.verdicts(effect)[0] == "applied"
    assert len(shop.verdicts(effect)) == 2
