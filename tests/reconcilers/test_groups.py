"""Effects are judged together only where they may mean the same row; where they are too many, nothing is claimed."""

from pathlib import Path

import pytest

from counterfoil_reconcilers import explain
from counterfoil_reconcilers.contracts import load
from counterfoil_reconcilers.judge import Effect, Judgement, Row, RowKey, Rows, judge
from counterfoil_reconcilers.rows import row_of

CONTRACTS = Path(__file__).resolve().parents[2] / "examples" / "shop" / "contracts.toml"
WHOLE = frozenset({"orders", "refunds"})


def order(name: str, refunds: int = 0) -> Row:
    status = "refunded" if refunds else "paid"
    return row_of(
        {"id": name, "merchant": "m", "status": status, "address": "x", "total": 99, "refunded": float(refunds)}
    )


def judged(orders: list[str], landed: set[int]) -> Judgement:
    """One refund of 1.00 for each name in `orders`; those at the places `landed` are at the target."""
    effects = [
        Effect(bytes([place]) * 16, "refund", {"order": name, "amount": "1.00"}, "ok", (place,))
        for place, name in enumerate(orders)
    ]
    before: dict[RowKey, Row | None] = {RowKey("orders", (name,)): order(name) for name in orders}
    after = {RowKey("orders", (name,)): order(name, sum(orders[place] == name for place in landed)) for name in orders}
    for place in landed:
        content = {"id": place, "merchant": "m", "order_id": orders[place], "amount": 1.0}
        reference = effects[place].effect_id.hex()
        after[RowKey("refunds", (str(place),))] = row_of({**content, "reference": reference})
    return judge(load(CONTRACTS), "shop", effects, Rows(before, WHOLE), Rows({**after}, WHOLE))


def test_rows_found_by_different_values_keep_effects_apart() -> None:
    landed = set(range(0, 40, 2))
    verdicts = [verdict.verdict for verdict in judged([f"A-{place}" for place in range(40)], landed).verdicts]
    assert verdicts == ["applied" if place in landed else "not_applied" for place in range(40)]


def test_many_absent_ones_are_absent() -> None:
    verdicts = judged([f"A-{place}" for place in range(12)], set()).verdicts
    assert {verdict.verdict for verdict in verdicts} == {"not_applied"}


def test_one_absent_among_those_that_share_a_row() -> None:
    verdicts = [verdict.verdict for verdict in judged(["A"] * 6, {0, 1, 2, 3, 4}).verdicts]
    assert verdicts == ["applied"] * 5 + ["not_applied"]


@pytest.mark.parametrize("lost", [1, 2, 4, 7, 8])
def test_a_target_that_lost_the_last_writes_to_a_row_shows(lost: int) -> None:
    """A replica took over before it had them. To say that the last one left another value would hide all others."""
    verdicts = [one.verdict for one in judged(["A"] * 8, set(range(8 - lost))).verdicts]
    assert verdicts == ["applied"] * (8 - lost) + ["not_applied"] * lost


def test_too_many_to_tell_apart_are_unknowable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain, "_MOST_STEPS", 20_000)
    result = judged(["A"] * 8, {0, 3})
    assert {verdict.verdict for verdict in result.verdicts} == {"unknowable"}
    assert all("too many to tell" in (verdict.reason or "") for verdict in result.verdicts)
    assert {change.verdict for change in result.unattributed} <= {"unknowable"}


def test_each_group_explains_its_own_rows() -> None:
    result = judged(["A", "B"], {0, 1})
    assert result.group_rows == (
        frozenset({RowKey("orders", ("A",)), RowKey("refunds", ("0",))}),
        frozenset({RowKey("orders", ("B",)), RowKey("refunds", ("1",))}),
    )
