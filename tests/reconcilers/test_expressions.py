"""Expressions: what they can say, what they refuse, and that hostile data leaves a field open and does nothing else."""

import contextlib
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterfoil_reconcilers.expressions import ExpressionError, NoSuchRow, Unevaluable, compile_expression
from counterfoil_reconcilers.values import Unreadable, canonical, parse_json, plain, shown

NAMES = ("args", "before", "old", "item", "result")
DATA: dict[str, Any] = {
    "args": {
        "amount": 12.5,
        "count": 3,
        "ids": ["b", "a", "b"],
        "text": "12.50",
        "nothing": None,
        "new": ["x", "y", "z"],
        "big": 2**60,
    },
    "before": {
        "balance": 100,
        "lines": [{"id": "a", "price": 1.5}, {"id": "b", "price": 2}],
        "cards": {"card one": {"balance": 86}},
    },
    "old": 7,
}


def value_of(text: str, lookup: Any = None) -> Any:
    return shown(compile_expression(text, NAMES).evaluate({name: plain(v) for name, v in DATA.items()}, lookup))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("before.balance + args.amount", 112.5),
        ("args.count * 2 + old", 13),
        ("args.big", 2**60),
        ("before.cards['card one'].balance", 86),
        ("before.lines[args.count - 2].id", "b"),
        ("before.lines.map(l, {'id': l.id, 'twice': l.price * 2})", [{"id": "a", "twice": 3}, {"id": "b", "twice": 4}]),
        (
            "before.lines.filter(l, l.id in args.ids).map(l, before.lines.map(m, l.price * m.price))",
            [[2.25, 3], [3, 4]],
        ),
        ("args.amount > 10 ? 'payment' : 'refund'", "payment"),
        ("sum(before.lines.map(l, l.price))", 3.5),
        ("sum(pairs(args.ids, args.new).map(p, size(p[0] + p[1])))", 6),
        ("round(2.675 * 3, 2)", 8.02),
        ("abs(-2) + min(3, 1) + max([1, 5])", 8),
        ("merge(before.cards, {'n': {'balance': 1}})", {"card one": {"balance": 86}, "n": {"balance": 1}}),
        ("without(before.cards, 'card one')", {}),
        ("without(args.ids, 'b')", ["a"]),
        ("update(before.lines, {'id': 'b'}, {'price': 9})", [{"id": "a", "price": 1.5}, {"id": "b", "price": 9}]),
        ("update(before.lines, {'id': 'z'}, {'price': 9})", [{"id": "a", "price": 1.5}, {"id": "b", "price": 2}]),
        ("first(before.lines, {'id': 'b'}).price", 2),
        ("distinct(args.ids)", ["b", "a"]),
        ("sorted(args.ids)", ["a", "b", "b"]),
        ("count_of(args.ids, 'b')", 2),
        ("range(3)", [0, 1, 2]),
        ("number(args.text) + 1", 13.5),
        ("from_entries(entries(before.cards))", {"card one": {"balance": 86}}),
        ("flat([args.ids, ['c']])", ["b", "a", "b", "c"]),
        ("has(args.missing) ? 1 : 2", 2),
        ("args.nothing == null", True),
        ("args.text.split('.')[0]", "12"),
        ("'2 sizes: size(3)'", "2 sizes: size(3)"),
    ],
)
def test_contracts_can_say(text: str, expected: Any) -> None:
    assert value_of(text) == expected


@pytest.mark.parametrize(
    "text", ["arg.reason", "1 +", "'a' + 1", "nosuch(1)", "x" * 5_000, "args.a.b.c()", "", "(" * 200 + "1" + ")" * 200]
)
def test_a_wrong_expression_is_refused_when_it_is_compiled(text: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        compile_expression(text, NAMES)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("args.missing", "there is no args.missing"),
        ("args.missing + 1", "missing"),
        ("args.nothing.deeper", "there is no args.nothing.deeper"),
        ("args.ids + 1", "overload"),
        ("args.ids[9]", "index"),
        ("result", "not known"),
        ("pairs(args.ids, ['x'])", "cannot be paired"),
        ("first(before.lines, {'id': 'zz'})", "no element"),
        ("timestamp('2024-01-01T00:00:00Z')", "JSON cannot hold"),
        ("lookup('orders', {'id': 'x'})", "cannot be looked up"),
        ("args.big + 1", "overload"),
    ],
)
def test_what_has_no_value_says_why(text: str, reason: str) -> None:
    with pytest.raises(Unevaluable, match=reason) as caught:
        value_of(text)
    assert caught.value.text == text


def test_rows_are_looked_up_and_a_missing_one_is_told_apart() -> None:
    def lookup(resource: str, key: Any) -> Any:
        if key["id"] != "a":
            raise NoSuchRow("orders x does not exist")
        return {"resource": resource, "owner": "u"}

    assert value_of("lookup('orders', {'id': 'a'}).owner", lookup) == "u"
    assert value_of("exists_row('orders', {'id': 'b'})", lookup) is False
    with pytest.raises(Unevaluable, match="orders x does not exist"):
        value_of("lookup('orders', {'id': 'b'}).owner", lookup)
    assert compile_expression("lookup('orders', {'id': args.ids[0]})", NAMES).looked_up == {"orders"}


def test_an_expression_that_runs_on_is_ended() -> None:
    data = {"args": {"l": [1.0] * 1_900}}
    started = time.monotonic()
    with pytest.raises(Unevaluable, match="budget"):
        compile_expression("args.l.map(a, args.l.map(b, a * b))", NAMES).evaluate(data)
    with pytest.raises(Unevaluable, match="more than 2000"):
        compile_expression("args.l.map(a, a)", NAMES).evaluate({"args": {"l": [1.0] * 2_001}})
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    "value", ["a\0b", "\ud800", float("nan"), float("inf"), 2**70, object(), b"x", {"deep": None}, {1, 2}]
)
def test_what_cannot_be_compared_is_refused_at_the_door(value: Any) -> None:
    if value == {"deep": None}:
        for _ in range(100):
            value = [value]
    with pytest.raises(Unreadable):
        plain(value)


def test_json_text_is_read_strictly() -> None:
    for text in ('{"a": 1, "a": 2}', "NaN", "[" * 100_000, "{", '"\\u0000"', "1e999"):
        with pytest.raises(Unreadable):
            parse_json(text)
    assert parse_json('{"a": [1, 2.5, null]}') == {"a": [1.0, 2.5, None]}


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_a_value_goes_through_the_machine_unchanged(value: Any) -> None:
    try:
        normal = plain(value)
    except Unreadable:
        return
    evaluated = compile_expression("[args][0]", NAMES).evaluate({"args": normal})
    assert canonical(evaluated) == canonical(normal)


@given(st.text(max_size=40))
def test_no_text_does_more_than_be_refused_or_left_open(text: str) -> None:
    with contextlib.suppress(ExpressionError, Unevaluable):
        compile_expression(text, NAMES).evaluate({name: plain(v) for name, v in DATA.items()})
