"""Compensations: compiled with their contract, computed from what is known, and never from what is not."""

from pathlib import Path
from typing import Any

import pytest

from counterfoil_reconcilers.contracts import ContractError, Contracts, load
from counterfoil_reconcilers.rows import Effect
from counterfoil_reconcilers.undoing import is_call_of, propose, undone_effect

GOOD = """\
version = "1"

[targets.shop]
kind = "postgresql"

[targets.shop.resources.orders]
table = "shop.orders"
key = ["id"]

[tools.pay]
target = "shop"
undo = { tool = "cancel_payment", args = { payment = "result.id", order = "args.order", undoes = "effect" } }
[[tools.pay.writes]]
resource = "orders"
key = { id = "args.order" }
set.status = "'paid'"

[tools.set_status]
target = "shop"
[tools.set_status.undo]
tool = "set_status"
args.order = "args.order"
args.status = "before.orders.status"
[[tools.set_status.writes]]
resource = "orders"
key = { id = "args.order" }
set.status = "args.status"

[tools.cancel_payment]
target = "shop"
irreversible = true
[[tools.cancel_payment.writes]]
resource = "orders"
key = { id = "args.order" }
set.status = "'new'"
"""
EFFECT_ID = bytes([7]) * 16


@pytest.fixture
def contracts(tmp_path: Path) -> Contracts:
    return load_text(tmp_path, GOOD)


def load_text(folder: Path, text: str) -> Contracts:
    path = folder / "contracts.toml"
    path.write_text(text, encoding="utf-8")
    return load(path)


def effect(tool: str, reply: Any = None, **args: Any) -> Effect:
    return Effect(EFFECT_ID, tool, args, "ok", (), reply=reply, tenant="acme")


def part(field: str, before: Any, *, key: str = "A-1", resource: str = "orders") -> dict[str, Any]:
    return {"resource": resource, "key": [key], "field": field, "landed": "yes", "before": before}


def evidence(*parts: Any) -> dict[str, Any]:
    return {"parts": list(parts)}


def test_a_call_is_made_of_arguments_reply_and_effect(contracts: Contracts) -> None:
    proposal = propose(contracts, effect("pay", '{"id": 17}', order="A-1"), {})
    assert (proposal.tool, proposal.problem) == ("cancel_payment", None)
    assert proposal.args == {"payment": 17, "order": "A-1", "undoes": EFFECT_ID.hex()}


def test_what_was_there_before_comes_from_the_evidence(contracts: Contracts) -> None:
    proposal = propose(contracts, effect("set_status", order="A-1", status="paid"), evidence(part("status", "new")))
    assert proposal.args == {"order": "A-1", "status": "new"}


def test_a_row_before_is_put_together_of_its_parts(tmp_path: Path) -> None:
    text = GOOD.replace('"before.orders.status"', '"before.orders.address.city + before.orders.note"')
    found = evidence(part("address.city", "Ulm"), part("note", "!"), part("lines[0].price", 3))
    proposal = propose(load_text(tmp_path, text), effect("set_status", order="A-1", status="x"), found)
    assert proposal.args == {"order": "A-1", "status": "Ulm!"}


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ({}, "what the target held before is not known"),
        (None, "what the target held before is not known"),
        ({"parts": "oops"}, "what the target held before is not known"),
        (evidence("oops", {"before": 1}, {"landed": "yes"}), "what the target held before is not known"),
        (evidence(part("status", {"$cut": "long…", "characters": 900})), "what the target held before is not known"),
        (evidence(part("status", "new"), part("status", "old", key="A-2")), "what the target held before is not known"),
        (evidence(part(".".join("a" * 5_000), 1)), "what the target held before is not known"),
    ],
)
def test_what_is_not_known_is_said_and_never_guessed(contracts: Contracts, found: Any, reason: str) -> None:
    proposal = propose(contracts, effect("set_status", order="A-1", status="paid"), found)
    assert (proposal.tool, proposal.args) == ("set_status", None)
    assert proposal.problem is not None
    assert reason in proposal.problem


def test_a_lost_reply_is_said(contracts: Contracts) -> None:
    proposal = propose(contracts, effect("pay", order="A-1"), {})
    assert proposal.problem == "`result.id`: result is not known here"


def test_a_redacted_value_is_named(contracts: Contracts) -> None:
    proposal = propose(contracts, effect("pay", '{"id": 1}', order="[card:0123456789abcdef]"), {})
    assert proposal.problem == "order was redacted, so look it up before the call"


def test_arguments_that_are_kept_elsewhere_are_no_call(contracts: Contracts) -> None:
    proposal = propose(contracts, Effect(EFFECT_ID, "pay", {"$blob": {}}, "ok", ()), {})
    assert proposal.args is None
    assert "too large for the event" in (proposal.problem or "")


def test_what_can_not_be_undone_says_so(contracts: Contracts, tmp_path: Path) -> None:
    irreversible = propose(contracts, effect("cancel_payment", order="A-1"), {})
    assert (irreversible.irreversible, irreversible.problem) == (
        True,
        "cancel_payment is irreversible, says its contract",
    )
    assert propose(contracts, effect("ship"), {}).problem == "no contract of ship is at hand"
    without = load_text(tmp_path, GOOD.replace("irreversible = true\n", ""))
    assert propose(without, effect("cancel_payment"), {}).problem == "the contract of cancel_payment says no undo"


def test_a_call_with_the_proposed_arguments_is_the_proposed_one(contracts: Contracts) -> None:
    proposal = propose(contracts, effect("pay", '{"id": 17}', order="A-1"), {})
    args = {"payment": 17.0, "order": "A-1", "undoes": EFFECT_ID.hex()}
    assert is_call_of(proposal, "cancel_payment", args | {"note": "besides"})
    assert not is_call_of(proposal, "cancel_payment", args | {"payment": 18})
    assert not is_call_of(proposal, "cancel_payment", {"payment": 17})
    assert not is_call_of(proposal, "pay", args)
    assert not is_call_of(proposal, "cancel_payment", [args])


@pytest.mark.parametrize("args", [None, [], {"undoes": None}, {"undoes": "x"}, {"undoes": "07" * 15}, {"undoes": 7}])
def test_what_names_no_effect_undoes_none(args: Any) -> None:
    assert undone_effect(args) is None


def test_a_call_says_what_it_undoes() -> None:
    assert undone_effect({"undoes": EFFECT_ID.hex()}) == EFFECT_ID


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (
            'tool = "cancel_payment"',
            'tool = "cancel_paymnt"',
            "contracts.toml line 12: tools.pay: no contract says what cancel_paymnt, its undo, leaves behind; "
            "did you mean cancel_payment?",
        ),
        (
            '"before.orders.status"',
            '"befor.orders.status"',
            "contracts.toml line 23: `befor.orders.status`: undeclared reference to 'befor.orders.status'; it may use "
            "args, before, effect, result, step, tenant",
        ),
        (
            '"before.orders.status"',
            "\"lookup('orders', {'id': args.order}).status\"",
            "contracts.toml line 23: `lookup('orders', {'id': args.order}).status` looks up a row, which an undo "
            "can't; use before.RESOURCE.FIELD of a row that set_status writes",
        ),
        (
            'tool = "set_status"\n',
            'tol = "set_status"\n',
            "contracts.toml line 21: tools.set_status.undo has no key tol; did you mean tool?",
        ),
        (
            "irreversible = true\n",
            'irreversible = true\nundo = { tool = "pay" }\n',
            "contracts.toml line 32: tools.cancel_payment is irreversible and has an undo; take one of them out",
        ),
        (
            'args.order = "args.order"\n',
            "args.order = 5\n",
            "contracts.toml line 22: tools.set_status.undo.args: order is wrong: input should be a valid string; write "
            "order as the contract reference shows it",
        ),
    ],
)
def test_a_mistake_is_refused_with_its_line(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    assert GOOD.count(old) == 1
    with pytest.raises(ContractError) as refused:
        load_text(tmp_path, GOOD.replace(old, new))
    assert str(refused.value) == sentence
