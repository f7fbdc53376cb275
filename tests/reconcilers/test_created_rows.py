"""Created rows are found among thousands, and by the same rule as if each were held against each."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterfoil_reconcilers import fold, world
from counterfoil_reconcilers.compare import agree
from counterfoil_reconcilers.contract_files import Written
from counterfoil_reconcilers.contracts import FieldRule, Resource, load
from counterfoil_reconcilers.judge import judge
from counterfoil_reconcilers.rows import Effect, RowKey, Rows, row_of
from counterfoil_reconcilers.values import at, plain
from tests.fix_shop import CONTRACTS, EXCLUSIVE

values = st.none() | st.booleans() | st.sampled_from([0, 1, 5, 5.0, "5", "a", "A", "2026-01-31T12:00:00Z"])
documents = st.dictionaries(st.sampled_from("xyz"), values)
rules = st.builds(FieldRule, st.just(0.0), st.just(False), st.booleans(), st.booleans(), st.booleans())


@given(st.lists(documents, max_size=8), documents, st.lists(rules, min_size=3, max_size=3))
def test_no_row_that_agrees_is_left_out(
    docs: list[dict[str, Any]], wanted: dict[str, Any], given_rules: list[FieldRule]
) -> None:
    resource = Resource(
        "things",
        ("id",),
        None,
        0.0,
        Written(),
        tuple(((name,), rule) for name, rule in zip("xyz", given_rules, strict=True)),
    )
    rows = Rows({RowKey("things", (str(n),)): row_of(doc) for n, doc in enumerate(docs)})
    fields = {name: plain(value) for name, value in wanted.items()}
    found = world.candidates(resource, rows, fields, fields)
    alike = [
        (key, row)
        for key, row in rows.of("things")
        if all(agree(resource, value, at(row.doc, (name,)), (name,)) for name, value in fields.items())
    ]
    assert [one for one in found if one in alike] == alike


def test_each_is_held_against_few_of_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "contracts.toml"
    path.write_text(CONTRACTS % {"writers": EXCLUSIVE, "settle": 0})
    many = 300
    effects = [
        Effect(number.to_bytes(16), "refund", {"order": f"A-{number}", "amount": "5"}, "ok", (number,))
        for number in range(many)
    ]
    order = {"merchant": "acme", "status": "new", "paid": 0, "by": "agent"}
    before = {RowKey("orders", (f"A-{n}",)): row_of({"id": f"A-{n}", **order}) for n in range(many)}
    after = {
        RowKey("orders", (f"A-{n}",)): row_of({"id": f"A-{n}", **order, "status": "refunded"}) for n in range(many)
    }
    refund = {"merchant": "acme", "amount": 5, "by": "agent"}
    after |= {
        RowKey("refunds", (str(n),)): row_of({"id": n, "reference": effects[n].effect_id.hex(), **refund})
        for n in range(1, many)  # the first one's was never made
    }
    held: list[int] = []
    likeness = world.likeness

    def count(*given: Any) -> float:
        held.append(1)
        return likeness(*given)

    monkeypatch.setattr(fold, "likeness", count)
    whole = frozenset({"orders", "refunds"})
    found = judge(load(path), "shop", effects, Rows(before, whole), Rows(after, whole))
    assert [verdict.verdict for verdict in found.verdicts] == ["partial", *["applied"] * (many - 1)]
    assert len(held) < 10 * many
