"""Writes of many rows and of many list elements that broke off on the way: what did land is never called absent."""

from typing import Any

import pytest

from counterfoil_reconcilers.contracts import Contracts, load
from counterfoil_reconcilers.judge import Effect, RowKey, Rows, judge, sweep
from counterfoil_reconcilers.rows import Outcome, row_of

TEXT = """\
version = "1"
[targets.shop]
kind = "postgresql"
writers = "exclusive"
[targets.shop.resources.items]
table = "items"
key = ["id"]
fields.tags.unordered = true

[tools.raise_all]
target = "shop"
[[tools.raise_all.writes]]
resource = "items"
each = "args.ids"
key = { id = "item" }
set.price = "old + 10"

[tools.note]
target = "shop"
[[tools.note.writes]]
resource = "items"
key = { id = "args.id" }
append.notes = "args.notes"

[tools.tag]
target = "shop"
[[tools.tag.writes]]
resource = "items"
key = { id = "args.id" }
append.tags = "args.tags"
"""
MANY = 40


@pytest.fixture(scope="module")
def contracts(tmp_path_factory: pytest.TempPathFactory) -> Contracts:
    path = tmp_path_factory.mktemp("contracts") / "contracts.toml"
    path.write_text(TEXT)
    return load(path)


def said(
    contracts: Contracts, tool: str, args: dict[str, Any], before: list[Any], after: list[Any], outcome: Outcome = "ok"
) -> tuple[str, dict[str, int], int]:
    """The verdict, how many parts landed how, and how many changes were called unattributed."""

    def rows(docs: list[Any]) -> Rows:
        return Rows({RowKey("items", (str(n),)): row_of(doc) for n, doc in enumerate(docs)}, frozenset({"items"}))

    found = judge(contracts, "shop", [Effect((7).to_bytes(16), tool, args, outcome, (1,))], rows(before), rows(after))
    strays = (*found.unattributed, *sweep(contracts, "shop", rows(before), rows(after), found))
    return found.verdicts[0].verdict, found.verdicts[0].evidence["counts"], len(strays)


@pytest.mark.parametrize("outcome", ["ok", "unknown"])
@pytest.mark.parametrize("landed", [1, 5, 20, 35, 39])
def test_some_of_many_rows(contracts: Contracts, landed: int, outcome: Outcome) -> None:
    before = [{"price": number} for number in range(MANY)]
    after = [{"price": number + 10 * (number < landed)} for number in range(MANY)]
    args = {"ids": [str(number) for number in range(MANY)]}
    found = said(contracts, "raise_all", args, before, after, outcome)
    assert found == ("partial", {"yes": landed, "no": MANY - landed}, 0)


def test_some_of_many_rows_twice(contracts: Contracts) -> None:
    before = [{"price": number} for number in range(MANY)]
    after = [{"price": number + (20 if number < 30 else 10)} for number in range(MANY)]
    args = {"ids": [str(number) for number in range(MANY)]}
    assert said(contracts, "raise_all", args, before, after) == ("duplicated", {"twice": 30, "yes": 10}, 0)


@pytest.mark.parametrize("landed", [1, 20])
def test_some_of_many_rows_and_others_with_another_value(contracts: Contracts, landed: int) -> None:
    before = [{"price": number} for number in range(MANY)]
    after = [{"price": number + 10 * (number < landed) + 3 * (number >= 35)} for number in range(MANY)]
    args = {"ids": [str(number) for number in range(MANY)]}
    word, counts, strays = said(contracts, "raise_all", args, before, after)
    assert (word, counts["wrong"], strays) == ("mismatched", 5, 0)


@pytest.mark.parametrize(
    ("after", "word", "part"),
    [
        (["n", "a", "b", "c"], "applied", "yes"),
        (["n", "a", "b"], "partial", "half"),
        (["n", "b", "a", "c"], "mismatched", "wrong"),
        (["n", "c"], "mismatched", "wrong"),
        (["n"], "not_applied", "no"),
    ],
)
def test_a_list(contracts: Contracts, after: list[str], word: str, part: str) -> None:
    args = {"id": "0", "notes": ["a", "b", "c"]}
    assert said(contracts, "note", args, [{"notes": ["n"]}], [{"notes": after}]) == (word, {part: 1}, 0)


@pytest.mark.parametrize(
    ("after", "word"),
    [
        (["z", "x", "y"], "applied"),
        (["z", "x"], "partial"),
        (["x", "y"], "partial"),
        (["z", "y"], "mismatched"),
        (["x", "q"], "mismatched"),
        (["x"], "not_applied"),
    ],
)
def test_a_list_without_an_order(contracts: Contracts, after: list[str], word: str) -> None:
    assert said(contracts, "tag", {"id": "0", "tags": ["y", "z"]}, [{"tags": ["x"]}], [{"tags": after}])[0] == word
