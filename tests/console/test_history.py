"""`counterfoil history`: everything that happened to one row of a target, by agents, reconcilers and people."""

import pytest

from tests.fix_shop import Shop

from .conftest import Call


@pytest.fixture
def lived(call: Call, shop: Shop) -> Shop:
    """An order that an agent paid, that somebody changed, that an agent failed to ship, and that a person mended."""
    reconciler = shop.reconciler()
    reconciler.once()
    shop.act("set_status", "ok", "UPDATE shop.orders SET status = 'paid' WHERE id = 'A-1'", order="A-1", status="paid")
    shop.act("set_status", "ok", "UPDATE shop.orders SET status = 'paid' WHERE id = 'A-2'", order="A-2", status="paid")
    shop.settle(reconciler)
    shop.sql("UPDATE shop.orders SET status = 'stray' WHERE id = 'A-1'")
    shop.settle(reconciler)
    shop.act("set_status", "ok", order="A-1", status="shipped")
    shop.settle(reconciler)
    [missing] = [one for one in call("drift", "--json").json["drift"] if one["verdict"] == "not_applied"]
    shop.sql("UPDATE shop.orders SET status = 'shipped' WHERE id = 'A-1'")
    call(
        *("drift", "resolve", missing["drift_id"], "--reason", "shipped by hand", "--by", "dana"),
        *("--repaired", "orders", "A-1"),
    )
    shop.settle(reconciler)
    return shop


def test_a_row_s_life_is_told_in_order_with_who(call: Call, lived: Shop) -> None:
    said = call("history", "shop", "orders", "A-1")
    assert (said.code, said.err) == (0, "")
    lines = said.out.splitlines()
    assert lines[0] == 'orders ["A-1"] at shop  tenant acme'
    words = [line[13:].split(" ")[0] for line in lines if line[2:3] == ":"]
    assert words == [
        "tool_intent", "result", "verdict", "verdict", "tool_intent", "result", "verdict", "operation",
    ]  # fmt: skip
    assert "shop says unattributed" in said.out
    assert "resolve by dana: shipped by hand · repaired orders A-1 at shop" in said.out
    assert "agent counterfoil-reconciler · task target:shop" in said.out
    told = call("history", "shop", "orders", '["A-1"]', "--json").json
    assert [one["kind"] for one in told["events"]][-1] == "operation"
    assert told["earlier"] is None
    assert (told["tenant"], told["key"]) == ("acme", '["A-1"]')


def test_a_history_comes_in_pages(call: Call, lived: Shop) -> None:
    whole = [one["event_id"] for one in call("history", "shop", "orders", "A-1", "--json").json["events"]]
    pages: list[str] = []
    before: list[str] = []
    while True:
        told = call("history", "shop", "orders", "A-1", "--limit", "3", *before, "--json").json
        pages = [one["event_id"] for one in told["events"]] + pages
        if told["earlier"] is None:
            break
        before = ["--before", told["earlier"]]
    assert pages == whole
    assert f"… earlier: --before {whole[-3]}" in call("history", "shop", "orders", "A-1", "--limit", "3").out
    assert call("history", "shop", "orders", "A-1", "--before", whole[0], "--json").json["events"] == []


def test_another_s_row_has_its_own(call: Call, lived: Shop) -> None:
    kinds = [one["kind"] for one in call("history", "shop", "orders", "A-2", "--json").json["events"]]
    assert kinds == ["tool_intent", "tool_result", "verdict"]


def test_what_has_no_history_is_one_sentence(call: Call, lived: Shop) -> None:
    assert call("history", "shop", "orders", "A-9").sentence == (
        'the store knows no write to orders ["A-9"] at shop, and no change there; it knows rows of shop orders'
    )
    assert call("history", "shop", "orders", "A-1", "--tenant", "blue").code == 1
    assert call("history", "shop", "orders", "A-1", "--before", "x").sentence == (
        "'x' is no event's id; give all of its 32 hex digits"
    )
    assert call("history", "shop", "orders", "A-1", "--before", "0" * 32).sentence == (
        f'no event {"0" * 32} stands in the history of orders ["A-1"] at shop; take one that it shows'
    )
    assert call("history", "shop", "orders", "[]").code == 1
    assert call("history", "shop", "orders", "A-1", "--limit", "0").code == 2


ODD_KEYS = (
    "Ä-7", 'a"b', "\\", "\u202e", "x" * 3_000, "'; DROP TABLE event; --", "%s",
    "\udc80".encode("utf-8", "surrogatepass").decode("latin-1"),
)  # fmt: skip


def test_any_text_is_a_key(call: Call, lived: Shop) -> None:
    for key in ODD_KEYS:
        said = call("history", "shop", "orders", key)
        assert said.code == 1
        assert said.sentence.startswith("the store knows no write to orders ")
