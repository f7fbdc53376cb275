"""Where others write too, what they leave in a row proves nothing against a write of which something stands there."""

from typing import Any

import pytest

from counterfoil_reconcilers.contracts import Contracts, load
from counterfoil_reconcilers.judge import Effect, RowKey, Rows, judge, sweep
from counterfoil_reconcilers.rows import Outcome, row_of

TEXT = """\
version = "1"
[targets.crm]
kind = "postgresql"
%s
[targets.crm.resources.tickets]
table = "tickets"
key = ["id"]
fields.by.ignore = true
[targets.crm.resources.lines]
table = "lines"
key = ["id"]

[tools.raise]
target = "crm"
[[tools.raise.writes]]
resource = "tickets"
key = { id = "args.id" }
set.level = "args.level"
set.note = "args.note"

[tools.credit]
target = "crm"
[[tools.credit.writes]]
resource = "tickets"
key = { id = "args.id" }
set.credit = "old + args.amount"
append.log = "args.amount"

[tools.close_all]
target = "crm"
[[tools.close_all.writes]]
resource = "tickets"
each = "args.ids"
key = { id = "item" }
set.level = "'closed'"

[tools.file]
target = "crm"
[[tools.file.writes]]
resource = "tickets"
create = true
find = { reference = "effect" }
set.level = "args.level"
set.note = "args.note"

[tools.order]
target = "crm"
[[tools.order.writes]]
resource = "tickets"
create = true
key = { id = "args.id" }
set.level = "args.level"
[[tools.order.writes]]
resource = "lines"
each = "args.lines"
create = true
find = { ticket = "args.id", sku = "item" }
"""
OURS, NOBODY = "writers = { ours = \"by = 'agent'\" }", ""
TICKET: dict[str, Any] = {"level": "low", "note": "n", "credit": 100, "log": [], "by": "agent"}
T = RowKey("tickets", ("1",))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Contracts]:
    folder = tmp_path_factory.mktemp("contracts")
    loaded = {}
    for name, writers in (("ours", OURS), ("nobody", NOBODY)):
        path = folder / f"{name}.toml"
        path.write_text(TEXT % writers)
        loaded[name] = load(path)
    return loaded


def effect(tool: str, outcome: Outcome = "ok", **args: Any) -> Effect:
    return Effect((7).to_bytes(16), tool, args, outcome, (1,))


def said(contracts: Contracts, one: Effect, before: dict[RowKey, Any], after: dict[RowKey, Any]) -> str:
    """The verdict; that nothing is unattributed goes without saying."""
    whole = frozenset({"tickets", "lines"}) if contracts.targets["crm"].writers else frozenset[str]()
    known = before if whole else {}

    def rows(docs: dict[RowKey, Any]) -> Rows:
        found = {key: doc and row_of(doc, "1", doc.get("by") == "agent") for key, doc in docs.items()}
        return Rows(found, whole)

    found = judge(contracts, "crm", [one], rows(known), rows(after))
    strays = (*found.unattributed, *sweep(contracts, "crm", rows(known), rows(after), found))
    assert "unattributed" not in {change.verdict for change in strays}
    return found.verdicts[0].verdict


def edited(**changes: Any) -> dict[RowKey, Any]:
    return {T: {**TICKET, **changes, "by": "person"}}


@pytest.mark.parametrize(
    ("one", "after"),
    [
        (effect("raise", id="1", level="high", note="m"), edited(note="m")),
        (effect("raise", "unknown", id="1", level="high", note="m"), edited(level="high")),
        (effect("credit", id="1", amount=10), edited(credit=110)),
        (effect("credit", id="1", amount=10), edited(log=[10])),
        (effect("credit", "unknown", id="1", amount=10), edited(log=[10])),
    ],
    ids=["level set back", "note set back", "log cleared", "credit taken back", "credit taken back, unknown"],
)
def test_a_write_of_which_a_part_stands_in_a_row_that_others_wrote_is_not_absent(
    shared: dict[str, Contracts], one: Effect, after: dict[RowKey, Any]
) -> None:
    assert said(shared["ours"], one, {T: TICKET}, after) == "unknowable"
    still_ours = {T: {**after[T], "by": "agent"}}
    assert said(shared["ours"], one, {T: TICKET}, still_ours) == "partial"


def test_a_write_of_which_nothing_stands_there_is_absent(shared: dict[str, Contracts]) -> None:
    assert said(shared["ours"], effect("credit", id="1", amount=10), {T: TICKET}, edited()) == "not_applied"


@pytest.mark.parametrize("writers", ["ours", "nobody"])
def test_a_created_row_that_bears_the_effect_s_id_is_there_whatever_others_made_of_it(
    shared: dict[str, Contracts], writers: str
) -> None:
    file = effect("file", level="high", note="m")
    made = {"reference": file.effect_id.hex(), "level": "high", "note": "m", "by": "agent"}
    changed = {**made, "level": "low", "note": "done", "by": "person"}
    assert said(shared[writers], file, {}, {T: made}) == "applied"
    assert said(shared[writers], file, {}, {T: changed}) == "unknowable"
    assert said(shared[writers], file, {}, {}) == "not_applied"
    for second in (made, changed):
        twice = {T: changed, RowKey("tickets", ("2",)): second}
        assert said(shared[writers], file, {}, twice) == "duplicated"


@pytest.mark.parametrize("outcome", ["ok", "unknown"])
def test_created_rows_that_stand_there_speak_for_the_write(shared: dict[str, Contracts], outcome: Outcome) -> None:
    """Also where nobody said who else writes: to call all of it absent would have all of it sent again."""
    order = effect("order", outcome, id="1", level="low", lines=["a", "b"])
    ticket = {T: {"id": "1", "level": "low", "made": "today"}}
    lines = {RowKey("lines", (sku,)): {"id": sku, "ticket": "1", "sku": sku, "made": "today"} for sku in ("a", "b")}
    assert said(shared["nobody"], order, {}, {**ticket, **lines}) == "applied"
    half = "partial" if outcome == "ok" else "unknowable"
    assert said(shared["nobody"], order, {}, ticket) == half
    [_, second] = lines.items()
    assert said(shared["nobody"], order, {}, {**ticket, **dict([second])}) == half
    assert said(shared["nobody"], order, {}, {T: None}) == "not_applied"


@pytest.mark.parametrize("outcome", ["ok", "unknown"])
def test_of_several_rows_others_changed_one(shared: dict[str, Contracts], outcome: Outcome) -> None:
    """One that nobody touched since is as our write left it, though: without it."""
    close = effect("close_all", outcome, ids=["1", "2"])
    second = RowKey("tickets", ("2",))
    before = {T: TICKET, second: {**TICKET, "by": "person"}}
    closed = {T: {**TICKET, "level": "closed"}}
    for changed in ({**TICKET, "note": "mine", "by": "person"}, {**TICKET, "level": "odd", "by": "person"}, None):
        assert said(shared["ours"], close, before, {**closed, second: changed}) in ("unknowable", "applied")
    assert said(shared["ours"], close, before, {**closed, second: before[second]}) == "partial"
    assert said(shared["nobody"], close, before, {**closed, second: None}) == "unknowable"
