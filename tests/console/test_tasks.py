"""`counterfoil task`: intended beside landed, part by part, and what would take back a task that is half done."""

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from counterfoil.codec import encode
from counterfoil.ids import new_id, task_id_of
from tests.consumers.made import event, intent, key_of, result
from tests.fix_log import Produce
from tests.fix_shop import CONTRACTS, EXCLUSIVE, Shop

from .conftest import Call
from .test_people import ACTING, ATTACKS

UNDO = {
    "[tools.set_status]\n": "[tools.set_status]\nundo = { tool = 'set_status', args = { order = 'args.order', "
    "status = 'before.orders.status' } }\n",
    "[tools.deposit]\n": "[tools.deposit]\nirreversible = true\n",
    "[tools.refund]\n": "[tools.refund]\nundo = { tool = 'deposit', args = { order = 'args.order', amount = "
    "'args.amount', undoes = 'effect' } }\n",
}


@pytest.fixture
def contracts() -> str:
    """The shop's, with what undoes what."""
    text = CONTRACTS
    for old, new in UNDO.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    return text


@pytest.fixture
def half_done(shop: Shop, contracts: str) -> Shop:
    """A task of five writes: two landed, one by half, one not, and nobody knows of one whose tool has no contract."""
    reconciler = shop.reconciler(shop.contracts(EXCLUSIVE, text=contracts))
    reconciler.once()
    shop.act("set_status", "ok", "UPDATE shop.orders SET status = 'paid' WHERE id = 'A-1'", order="A-1", status="paid")
    shop.act("deposit", "ok", "UPDATE shop.orders SET paid = 5 WHERE id = 'A-2'", order="A-2", amount="5")
    shop.act("refund", "ok", "UPDATE shop.orders SET status = 'refunded' WHERE id = 'A-3'", order="A-3", amount="2")
    shop.act("deposit", "ok", order="A-1", amount="7")
    shop.act("ship", "ok", order="A-1")
    shop.settle(reconciler)
    return shop


def test_every_write_stands_beside_what_landed(call: Call, half_done: Shop) -> None:
    said = call("task", "t-1", "--effects")
    assert (said.code, said.err) == (0, "")
    lines = said.out.splitlines()
    assert lines[0] == "t-1: 2 of 5 writes landed, 1 partly, 1 did not, 1 is not known"
    heads = [line.split("  ")[0] for line in lines if line[:1].isdigit() and "→" in line]
    assert heads == [
        "1. set_status → shop", "2. deposit → shop", "3. refund → shop", "4. deposit → shop", "5. ship → shop",
    ]  # fmt: skip
    cells = [line.split() for line in lines]
    assert ["orders", "A-1", "status", "paid", "paid", "yes"] in cells
    assert ["orders", "A-1", "paid", "7", "0", "no"] in cells
    assert ["orders", "A-3", "status", "refunded", "refunded", "yes"] in cells
    assert any(line[:1] == ["refunds"] and line[-1] == "no" for line in cells)
    assert "the agent said ok, the target says partial: DRIFT, a part of it landed" in said.out
    assert max(map(len, lines)) <= 120


def test_a_half_done_task_is_told_how_to_be_taken_back(call: Call, half_done: Shop) -> None:
    told = call("task", "t-1", "--effects", "--json").json
    assert (told["total"], told["is_half_done"]) == (
        "2 of 5 writes landed, 1 partly, 1 did not, 1 is not known", True,
    )  # fmt: skip
    by_tool = {(one["tool"], one["landing"]): one["effect_id"] for one in told["writes"]}
    refund = by_tool["refund", "partly"]
    assert [(one["effect_id"], one["tool"], one["args"]) for one in told["compensations"]] == [
        (refund, "deposit", {"order": "A-3", "amount": "2", "undoes": refund}),
        (by_tool["deposit", "landed"], None, None),
        (by_tool["set_status", "landed"], "set_status", {"order": "A-1", "status": "new"}),
    ]
    assert [one["irreversible"] for one in told["compensations"]] == [False, True, False]
    out = call("task", "t-1").out
    assert "proposals to take back what landed, the last first; nothing is called, and each needs an approval" in (
        " ".join(out.split())
    )
    assert '1. deposit {"order": "A-3", "amount": "2", "undoes": "' in out
    assert "deposit is irreversible, says its contract" in out
    assert '3. set_status {"order": "A-1", "status": "new"}' in out
    assert "the agent said" not in out, "writes are for --effects"
    assert "writes" not in call("task", "t-1", "--json").json


def test_what_is_undone_is_not_proposed_again(call: Call, half_done: Shop) -> None:
    """One says so in its arguments; of the other the contract tells."""
    told = call("task", "t-1", "--effects", "--json").json
    [refund] = [one["effect_id"] for one in told["writes"] if one["tool"] == "refund"]
    half_done.act(
        "deposit", "ok", "UPDATE shop.orders SET paid = 2 WHERE id = 'A-3'", order="A-3", amount="2", undoes=refund
    )
    half_done.act(
        "set_status", "ok", "UPDATE shop.orders SET status = 'new' WHERE id = 'A-1'", order="A-1", status="new"
    )
    half_done.settle(half_done.reconcilers[0])
    told = call("task", "t-1", "--effects", "--json").json
    undone = {one["effect_id"]: one["undone_by"] for one in told["writes"] if one["undone_by"]}
    assert {one["effect_id"]: one["undoes"] for one in told["writes"] if one["undoes"]} == {
        by: effect_id for effect_id, by in undone.items()
    }
    assert len(undone) == 2
    assert [one["irreversible"] for one in told["compensations"]] == [True]
    out = call("timeline", "t-1").out
    assert f"undoes {refund}" in out
    assert f"undone by {undone[refund]}, if that landed" in out


def test_an_undo_that_did_not_land_took_nothing_back(call: Call, half_done: Shop) -> None:
    half_done.act("set_status", "ok", order="A-1", status="new")
    half_done.settle(half_done.reconcilers[0])
    told = call("task", "t-1", "--effects", "--json").json
    assert ["set_status", "new"] in [[one["tool"], (one["args"] or {}).get("status")] for one in told["compensations"]]


def test_what_a_person_resolved_is_not_half_done(call: Call, half_done: Shop) -> None:
    ids = [one["drift_id"] for one in call("drift", "--json").json["drift"]]
    call("drift", "resolve", *ids, "--reason", "done by hand")
    half_done.ingest()
    told = call("task", "t-1", "--json").json
    assert (told["is_half_done"], told["compensations"]) == (False, [])


def test_without_contracts_the_matrix_is_there_and_nothing_is_proposed(call: Call, half_done: Shop) -> None:
    told = call("task", "t-1", "--effects", "--json", CONTRACTS="nowhere.toml").json
    assert len(told["writes"]) == 5
    assert {one["problem"] for one in told["compensations"]} == {"no contracts are at hand"}


def test_a_task_goes_by_its_id_and_its_ref(call: Call, half_done: Shop) -> None:
    task_id = task_id_of("acme", "t-1").hex()
    for given in ([task_id], [task_id[:8]], ["t-1"], ["--ref", "t-1"], ["--ref", "t-1", "--tenant", "acme"]):
        assert call("task", *given, "--json").json["task"]["task_id"] == task_id
    assert call("task", "--ref", task_id[:8]).code == 1, "digits of an id are no ref"
    for given in ([], ["t-1", "--ref", "t-1"]):
        said = call("task", *given)
        assert (said.code, said.sentence) == (
            2, "Invalid value: name the task, or give its --ref; see `counterfoil task --help`",
        )  # fmt: skip


def test_children_count_if_asked_for(call: Call, shop: Shop) -> None:
    with shop.recorder.task("work", task_ref="t-1") as task:
        task.begin_effect("set_status", target="shop", args={"order": "A-1", "status": "x"}).ok()
        with task.child("more", agent="b", task_ref="t-1/b") as child:
            child.begin_effect("set_status", target="shop", args={"order": "A-2", "status": "x"}).ok()
    shop.recorder.flush()
    shop.ingest()
    assert call("task", "t-1").out == "t-1: 0 of 1 write landed, 1 is not known\n"
    said = call("task", "t-1", "--children", "--effects")
    assert said.out.startswith("t-1: 0 of 2 writes landed, 2 are not known\n")
    assert "in t-1/b" in said.out


def test_what_agents_and_targets_say_never_acts_in_a_terminal(
    call: Call, produce: Produce, ingest_all: Callable[[], None]
) -> None:
    task_id = new_id()
    for number, attack in enumerate((attack[:500] for attack in ATTACKS), 1):
        own: dict[str, Any] = {"effect_id": bytes([number]) * 16, "task_id": task_id}
        body = {
            "target": attack, "tool": attack, "verdict": "partial", "reason": attack, "check_seq": 1,
            "contract_version": "1", "contract_digest": b"\x01", "resources": [], "evidence": hostile_evidence(attack),
        }  # fmt: skip
        for one in (
            intent(seq=3 * number, body={"tool": attack, "target": attack, "args": "{}", "step": attack}, **own),
            result("ok", seq=3 * number + 1, body={"tool": attack}, **own),
            event("verdict", body, seq=3 * number + 2, **own),
        ):
            produce(encode(one), key_of(one))
    ingest_all()
    said = call("task", task_id.hex(), "--effects")
    assert said.code == 0, said.err
    assert not [character for character in ACTING if character in said.out]
    assert call("task", task_id.hex(), "--effects", "--json").json["is_half_done"] is True


def hostile_evidence(attack: str) -> str:
    part = {"resource": attack, "key": [attack], "field": attack, "landed": attack, "expected": attack, "observed": 1}
    return json.dumps({"parts": [part, 7, None], "parts_left_out": "many"})


def test_a_circle_of_tasks_ends(call: Call, shop: Shop, database: str) -> None:
    shop.begin("set_status", order="A-1", status="x").ok()
    shop.recorder.flush()
    shop.ingest()
    with psycopg.connect(database) as connection:
        connection.execute("SET ROLE counterfoil_ingester")
        connection.execute("UPDATE counterfoil.task SET parent_task_id = task_id")
    assert call("task", "t-1", "--children").out == "t-1: 0 of 1 write landed, 1 is not known\n"


def test_of_several_tries_to_undo_the_one_that_landed_counts(call: Call, half_done: Shop) -> None:
    back = "UPDATE shop.orders SET status = 'new' WHERE id = 'A-1'"
    half_done.act("set_status", "ok", order="A-1", status="new")
    half_done.settle(half_done.reconcilers[0])
    again = half_done.act("set_status", "ok", back, order="A-1", status="new", step="again")
    half_done.settle(half_done.reconcilers[0])
    told = call("task", "t-1", "--effects", "--json").json
    [paid] = [one for one in told["writes"] if one["undone_by"]]
    assert (paid["tool"], paid["undone_by"]) == ("set_status", again.hex)
    assert "set_status" not in [one["tool"] for one in told["compensations"]]


def test_a_write_by_another_tool_than_the_contract_s_undoes_nothing(call: Call, half_done: Shop) -> None:
    """Whoever wants a write to look undone may say so in any call's arguments."""
    [refund] = [
        one["effect_id"] for one in call("task", "t-1", "--effects", "--json").json["writes"] if one["tool"] == "refund"
    ]
    half_done.act(
        "set_status",
        "ok",
        "UPDATE shop.orders SET status = 'x' WHERE id = 'A-2'",
        order="A-2",
        status="x",
        undoes=refund,
    )
    half_done.settle(half_done.reconcilers[0])
    told = call("task", "t-1", "--effects", "--json").json
    assert not [one for one in told["writes"] if one["undone_by"]]
    assert refund in [one["effect_id"] for one in told["compensations"]]
