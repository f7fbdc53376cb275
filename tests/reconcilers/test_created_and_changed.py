"""A row that a write creates and a later one changes or deletes, before anybody looked or in between."""

import uuid
from typing import Any, LiteralString

import pytest

from tests.fix_shop import CONTRACTS, EXCLUSIVE, NOBODY, Shop

LATER = """
[tools.adjust]
target = "shop"
[[tools.adjust.writes]]
resource = "refunds"
key = { id = "args.id" }
set.amount = "number(args.amount)"

[tools.withdraw]
target = "shop"
[[tools.withdraw.writes]]
resource = "refunds"
key = { id = "args.id" }
delete = true
"""
REFUND: LiteralString = "UPDATE shop.orders SET status = 'refunded' WHERE id = 'A-1'"
INSERT: LiteralString = "INSERT INTO shop.refunds (reference, amount) VALUES (%s, 5) RETURNING id"


def refund(shop: Shop, times: int) -> tuple[uuid.UUID, list[int]]:
    """A refund that made its row so many times, and whose reply names the first; with the rows' numbers."""
    effect = shop.begin("refund", order="A-1", amount="5")
    shop.sql(REFUND)
    made = [shop.target.execute(INSERT, (effect.effect_id.hex(),)).fetchone() for _ in range(times)]
    numbers = [row[0] for row in made if row is not None]
    effect.ok({"id": numbers[0]})
    return uuid.UUID(bytes=effect.effect_id), numbers


def settled(shop: Shop, *effects: uuid.UUID) -> list[str]:
    """What was said of each in the end."""
    shop.recorder.close()
    shop.settle(shop.reconcilers[-1])
    return [shop.verdicts(effect)[-1] for effect in effects]


@pytest.fixture(params=["at the end", "in between"])
def look(request: pytest.FixtureRequest, shop: Shop) -> Any:
    """Looks at the shop after the first write, or does not."""
    return (lambda: shop.step(shop.reconcilers[-1])) if request.param == "in between" else (lambda: None)


@pytest.fixture(params=[EXCLUSIVE, NOBODY], ids=["exclusive", "nobody declared"])
def watched(request: pytest.FixtureRequest, shop: Shop) -> Shop:
    """The shop, its baseline taken."""
    shop.reconciler(shop.contracts(request.param, text=CONTRACTS + LATER))
    shop.step(shop.reconcilers[-1])
    return shop


@pytest.mark.parametrize("which", [0, 1])
def test_a_doubled_row_shows_although_a_later_write_changed_one_of_them(watched: Shop, look: Any, which: int) -> None:
    doubled, numbers = refund(watched, 2)
    look()
    row = f"WHERE id = {numbers[which]}"
    adjusted = watched.begin("adjust", id=numbers[which], amount="4")
    watched.target.execute(f"UPDATE shop.refunds SET amount = 4 {row}".encode())
    adjusted.ok()
    assert settled(watched, doubled, uuid.UUID(bytes=adjusted.effect_id)) == ["duplicated", "applied"]
    assert watched.changes() == []


def test_a_row_that_was_made_and_deleted_was_made(watched: Shop, look: Any) -> None:
    made, [number] = refund(watched, 1)
    look()
    withdrawn = watched.begin("withdraw", id=number)
    watched.target.execute("DELETE FROM shop.refunds")
    withdrawn.ok()
    assert settled(watched, made, uuid.UUID(bytes=withdrawn.effect_id)) == ["applied", "applied"]
    assert watched.changes() == []
    assert watched.drift() == []
