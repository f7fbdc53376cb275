"""`contracts draft --observed`: what recorded writes and their target's rows tell, counted and never claimed."""

import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg
import pytest

from counterfoil import Recorder
from counterfoil_console.drafts.model import Draft, DraftTarget
from counterfoil_console.drafts.observed import propose
from counterfoil_console.drafts.writing import text_of
from counterfoil_reconcilers.contracts import Contracts, load
from counterfoil_reconcilers.rows import Row, RowKey, Rows, row_of
from counterfoil_reconcilers.values import plain
from tests.reconcilers import trajectories_offline as offline

from .conftest import TABLES, Call

SHOP = """
version = "1"
[targets.shop]
kind = "postgresql"
[targets.shop.resources.orders]
table = "orders"
key = ["id"]
tenant = "merchant"
fields.seen_at = { ignore = true }
fields.secret = { redact = true }
[targets.shop.resources.lines]
table = "lines"
key = ["order_id", "number"]
"""
Doc = Mapping[str, Any] | None


@pytest.fixture
def shop(tmp_path: Path) -> Contracts:
    path = tmp_path / "contracts.toml"
    path.write_text(SHOP)
    return load(path)


def rows(resource: str, docs: Mapping[str | tuple[str, ...], Doc]) -> Rows:
    keyed: dict[RowKey, Row | None] = {
        RowKey(resource, (key,) if isinstance(key, str) else key): None if doc is None else row_of(doc)
        for key, doc in docs.items()
    }
    return Rows(keyed)


def drafted(
    contracts: Contracts, writes: Sequence[Mapping[str, Any]], before: Rows, now: Rows, folder: Path
) -> list[dict[str, Any]]:
    """The writes of the tool as the file has them, once it has loaded."""
    variables = [{name: plain(value) for name, value in one.items()} for one in writes]
    tool = propose("act", "shop", list(contracts.targets["shop"].resources.values()), variables, before, now)
    draft = Draft({"shop": DraftTarget(given=tomllib.loads(SHOP)["targets"]["shop"])})
    if tool.writes:
        draft.tools["act"] = tool
    path = folder / "draft.toml"
    path.write_text(text_of(draft), encoding="utf-8")
    load(path)
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    found: list[dict[str, Any]] = tables.get("tools", {}).get("act", {}).get("writes", [])
    return found


def args(**given: Any) -> dict[str, Any]:
    return {"args": given}


def test_fields_that_equal_arguments_and_ones_that_always_become_the_same(shop: Contracts, tmp_path: Path) -> None:
    ids = ["A-1", "A-2", "A-3"]
    writes = [args(order=id, to={"city": f"city of {id}"}, why="cold") for id in ids]
    before = rows("orders", {id: {"id": id, "status": "new", "city": "x", "why": "cold", "seen_at": 1} for id in ids})
    now = rows("orders", {
        id: {"id": id, "status": "it's moved", "city": f"city of {id}", "why": "cold", "seen_at": 2} for id in ids
    })  # fmt: skip
    assert drafted(shop, writes, before, now, tmp_path) == [
        {
            "resource": "orders",
            "key": {"id": "args.order"},
            "set": {"status": r"'it\'s moved'", "city": "args.to.city", "why": "args.why"},
        }
    ]


def test_additions_and_appends_over_several_writes_of_a_row(shop: Contracts, tmp_path: Path) -> None:
    writes = [
        args(order="A-1", amount="1.5", note="a", tags=["x", "y"]),
        args(order="A-1", amount=2, note="b", tags=["z"]),
        args(order="A-2", amount=4, note="c", tags=["v"]),
    ]
    before = rows("orders", {
        "A-1": {"id": "A-1", "paid": 10, "left": 7, "notes": ["old"], "tags": []},
        "A-2": {"id": "A-2", "paid": 0, "left": 4, "notes": [], "tags": ["u"]},
    })  # fmt: skip
    now = rows("orders", {
        "A-1": {"id": "A-1", "paid": 13.5, "left": 3.5, "notes": ["old", "a", "b"], "tags": ["x", "y", "z"]},
        "A-2": {"id": "A-2", "paid": 4, "left": 0, "notes": ["c"], "tags": ["u", "v"]},
    })  # fmt: skip
    [write] = drafted(shop, writes, before, now, tmp_path)
    assert write["set"] == {"paid": "old + number(args.amount)", "left": "old - number(args.amount)"}
    assert write["append"] == {"notes": "args.note", "tags": "args.tags"}


def test_created_and_deleted_rows(shop: Contracts, tmp_path: Path) -> None:
    writes = [{**args(title=f"t{n}"), "result": {"id": f"N-{n}"}} for n in range(2)]
    made: dict[str | tuple[str, ...], Doc] = {f"N-{n}": {"id": f"N-{n}", "title": f"t{n}"} for n in range(2)}
    absent: dict[str | tuple[str, ...], Doc] = {"N-0": None, "N-1": None}
    [created] = drafted(shop, writes, rows("orders", absent), rows("orders", made), tmp_path)
    assert created == {"resource": "orders", "create": True, "key": {"id": "result.id"}, "set": {"title": "args.title"}}
    gone = drafted(shop, [args(id="N-0"), args(id="N-1")], rows("orders", made), rows("orders", absent), tmp_path)
    assert gone == [{"resource": "orders", "delete": True, "key": {"id": "args.id"}}]


def test_keys_of_several_columns(shop: Contracts, tmp_path: Path) -> None:
    writes = [args(number=n, order="A-1", count=n + 5) for n in range(3)]
    before = rows("lines", {("A-1", str(n)): {"order_id": "A-1", "number": n, "count": 0} for n in range(3)})
    now = rows("lines", {("A-1", str(n)): {"order_id": "A-1", "number": n, "count": n + 5} for n in range(3)})
    [write] = drafted(shop, writes, before, now, tmp_path)
    assert write["key"] == {"order_id": "args.order", "number": "args.number"}
    assert write["set"] == {"count": "args.count"}


def test_without_a_before_only_names_and_repetition_count(shop: Contracts, tmp_path: Path) -> None:
    one = rows("orders", {"A-1": {"id": "A-1", "status": "new", "total": 5, "n": 5}})
    [write] = drafted(shop, [args(order="A-1", status="new", amount=5)], Rows(), one, tmp_path)
    assert write["set"] == {"status": "args.status"}  # that total equals amount may be chance
    ids = ["A-1", "A-2", "A-3"]
    many = rows("orders", {id: {"id": id, "total": n} for n, id in enumerate(ids)})
    [write] = drafted(shop, [args(order=id, amount=n) for n, id in enumerate(ids)], Rows(), many, tmp_path)
    assert write["set"] == {"total": "args.amount"}


def test_a_row_that_is_only_read_is_no_write(shop: Contracts, tmp_path: Path) -> None:
    same = rows("orders", {"A-1": {"id": "A-1", "status": "new"}})
    assert drafted(shop, [args(order="A-1", status="new")], same, same, tmp_path) == []
    assert (
        drafted(shop, [args(order="A-9")], rows("orders", {"A-9": None}), rows("orders", {"A-9": None}), tmp_path) == []
    )


def test_too_few_that_agree_are_left_to_people(shop: Contracts, tmp_path: Path) -> None:
    ids = ["A-1", "A-2", "A-3", "A-4"]
    before = rows("orders", {id: {"id": id, "status": "new", "sum": 0} for id in ids})
    now = rows("orders", {id: {"id": id, "status": f"of {id}", "sum": n} for n, id in enumerate(ids, 7)})
    writes = [args(order=id, status=f"of {id}" if id < "A-3" else "other", note="x") for id in ids]
    assert drafted(shop, writes, before, now, tmp_path) == []  # two of four


def test_what_a_rule_hides_is_no_constant_of_a_draft(shop: Contracts, tmp_path: Path) -> None:
    ids = ["A-1", "A-2", "A-3"]
    before = rows("orders", {id: {"id": id, "secret": "", "status": ""} for id in ids})
    now = rows("orders", {id: {"id": id, "secret": "hunter2", "status": "done"} for id in ids})
    [write] = drafted(shop, [args(order=id) for id in ids], before, now, tmp_path)
    assert write["set"] == {"status": "'done'"}
    assert "hunter2" not in (tmp_path / "draft.toml").read_text()


@pytest.mark.parametrize("name", ["a.b", "a[0]", "a b", "é", "\u202e", "'", '"', "\\", "\n", "#", "\x7f"])
def test_odd_names_make_a_file_that_loads(shop: Contracts, tmp_path: Path, name: str) -> None:
    ids = ["A-1", "A-2", "A-3"]
    before = rows("orders", {id: {"id": id, name: 0, "x": {name: 0}, "status": ""} for id in ids})
    now = rows("orders", {id: {"id": id, name: n, "x": {name: n}, "status": name} for n, id in enumerate(ids, 5)})
    [write] = drafted(shop, [{"args": {"order": id, name: n}} for n, id in enumerate(ids, 5)], before, now, tmp_path)
    assert len(write["set"]) >= 1
    assert not set((tmp_path / "draft.toml").read_text()) & set("\x7f\u202e")


@pytest.fixture(scope="module")
def hand_written() -> Contracts:
    if not offline.DATA.is_dir():
        if os.environ.get("CI"):
            pytest.fail(
                f"the recorded runs are missing: put them at {offline.DATA.name} beside the checkout, in shared/"
            )
        pytest.skip("the recorded runs are not on this machine")
    return load(offline.CONTRACTS)


def said(contracts: Contracts) -> dict[tuple[str, str, str, str], str | None]:
    """What each tool's writes do to which fields, and by which expression."""
    return {
        (tool.name, write.resource.name, change.kind, change.text): change.value.text if change.value else None
        for tool in contracts.tools.values()
        for write in tool.writes
        for change in write.changes
    }


def test_recorded_runs_beside_the_contract_that_people_wrote(hand_written: Contracts, tmp_path: Path) -> None:
    """Of one tenant's 42 writes: what the draft says is right, and what it can't know it does not say."""
    events = offline.DATA / "events.jsonl.gz"
    before, now = offline.rows_of(hand_written, offline.DATA, offline.DATA / "target_final_clean.jsonl.gz", "retail")
    effects = offline.effects_by_tenant(hand_written, offline.DATA, events)["ten-d02"].values()
    resources = list(hand_written.targets["retail"].resources.values())
    draft = Draft({"retail": DraftTarget(given=hand_written.source.files[0][2]["targets"]["retail"])})
    for tool in sorted({effect.tool for effect in effects}):
        writes = [dict(one.variables) for one in effects if one.tool == tool and one.outcome == "ok"]
        made = propose(tool, "retail", resources, writes, before, now["ten-d02"])
        if made.writes:
            draft.tools[tool] = made
    path = tmp_path / "draft.toml"
    path.write_text(text_of(draft), encoding="utf-8")
    found, known = said(load(path)), said(hand_written)
    assert {place: text for place, text in found.items() if known.get(place) != text} == {}
    assert (len(found), len(known), len(draft.tools)) == (22, 31, 6)
    final = offline.DATA / "target_final_clean.jsonl.gz"
    judged = offline.judge_all(load(path), offline.DATA, events, final, "retail")
    assert [place for place, one in judged.verdicts.items() if offline.drifts(judged.effects[place], one)] == []
    faults = offline.DATA / "faults"
    final = faults / "target_final.jsonl.gz"
    judged = offline.judge_all(load(path), offline.DATA, faults / "events.jsonl.gz", final, "retail")
    table = offline.figures(judged, offline.lines(faults / "labels.jsonl.gz"))
    sound = [row for fault, row in table.items() if fault in offline.AGREES]
    planted = [row for fault, row in table.items() if fault not in offline.AGREES]
    assert [sum(row[word] for row in planted) for word in ("found", "count")] == [34, 54]
    assert [sum(row[word] for row in sound) for word in ("found", "count")] == [2, 144]


DECLARED = """
version = "1"
[targets.bank]
kind = "postgresql"
writers = "exclusive"
[targets.bank.resources.accounts]
table = "bank.accounts"
key = ["id"]
tenant = "merchant"
"""


def test_a_draft_from_the_store_and_the_target(call: Call, recorder: Recorder, database: str, tmp_path: Path) -> None:
    with psycopg.connect(database) as connection:
        connection.execute(TABLES)
        connection.execute("UPDATE bank.accounts SET amount = 100")
        connection.execute("INSERT INTO bank.accounts SELECT 'old-' || n, 'acme', n FROM generate_series(1, 9) AS n")
    (tmp_path / "contracts.toml").write_text(DECLARED)
    call("tenant", "add", "acme")
    call("ingest", "--once")
    call("reconcile", "--once")  # takes the baseline
    with recorder.task("work", task_ref="T-1") as task:
        for account in "abc":
            with task.effect("credit", target="bank", args={"account": account, "amount": ord(account)}) as effect:
                with psycopg.connect(database) as connection:
                    query = "UPDATE bank.accounts SET amount = amount + %s WHERE id = %s"
                    connection.execute(query, (ord(account), account))
                effect.ok({"done": True})
        for number in range(1, 10):
            with task.effect("close", target="bank", args={"account": f"old-{number}"}) as effect:
                with psycopg.connect(database) as connection:
                    connection.execute("DELETE FROM bank.accounts WHERE id = %s", (f"old-{number}",))
                effect.ok()
        with task.effect("mail", target=None, args={"to": "ann"}) as effect:
            effect.ok()
        with task.effect("call", target="elsewhere", args={"n": 1}) as effect:
            effect.ok()
    call("ingest", "--once")
    told = call("contracts", "draft", "--observed", "--output", "draft.toml")
    assert (told.code, told.out) == (0, "2 tools drafted, 2 left out, in draft.toml\n")
    assert call("contracts", "check", "draft.toml").code == 0
    text = (tmp_path / "draft.toml").read_text()
    assert tomllib.loads(text)["tools"]["credit"]["writes"] == [
        {"resource": "accounts", "key": {"id": "args.account"}, "set": {"amount": "old + number(args.amount)"}}
    ]
    assert "# guess: explains 3 of 3 rows with that argument" in text
    assert tomllib.loads(text)["tools"]["close"]["writes"] == [
        {"resource": "accounts", "key": {"id": "args.account"}, "delete": True}
    ]
    assert "# guess: 9 of 9 rows are gone" in text
    assert "# not drafted: mail: the contracts do not declare its target (none is named) with its resources" in text
    assert "#   arguments: n (number)" in text
    for _ in range(2):
        call("reconcile", "--once", CONTRACTS="draft.toml")
        call("ingest", "--once")
    covered = call("contracts", "coverage", "--json", CONTRACTS="draft.toml").json
    assert {one["tool"]: one["verdicts"] for one in covered["tools"] if one["contract"] == "judges"} == {
        "credit": {"applied": 3},
        "close": {"applied": 9},
    }


def test_whose_writes(call: Call, tmp_path: Path) -> None:
    assert call("contracts", "draft", "--observed").sentence.startswith("whose writes? pass --tenant")
