"""Orders on the control topic: read or refused, and which are in force after all of them."""

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterfoil.codec import encode
from counterfoil.event import Event
from counterfoil.ids import new_id
from counterfoil.orders import ACTION_HEADER, NotAnOrder, Order, StandingOrders, key_of, read_order
from counterfoil.scope import Acting

ACTING = Acting("acme", "support", "support-7", "refund")
PEOPLE = ["dana", "kim", "breaker:rate", "breaker:cost"]
SCOPES = ["everything", "tenant:acme", "tool:acme/refund", "tool:acme/a/b"]
HALTS = st.builds(
    lambda order_id, scope, by: Order(order_id=order_id, scope=scope, action="halt", by=by, reason="r"),
    st.binary(min_size=16, max_size=16),
    st.sampled_from(SCOPES),
    st.sampled_from(PEOPLE),
)


@st.composite
def histories(draw: st.DrawFn) -> list[Order]:
    """Halts, and resumes that lift some of them, entitled or not."""
    halts = draw(st.lists(HALTS, max_size=6, unique_by=lambda halt: halt.order_id))
    resumes = []
    for _ in range(draw(st.integers(0, 4)) if halts else 0):
        lifted = draw(st.lists(st.sampled_from(halts), min_size=1, max_size=3))
        resumes.append(
            Order(
                order_id=draw(st.binary(min_size=16, max_size=16)),
                scope=draw(st.sampled_from([lifted[0].scope, *SCOPES])),
                action="resume",
                by=draw(st.sampled_from(PEOPLE)),
                lifts=frozenset(halt.order_id for halt in lifted),
            )
        )
    return [*halts, *resumes]


@given(histories(), st.randoms())
def test_neither_order_nor_repetition_matters(history: list[Order], dice: random.Random) -> None:
    shuffled = [*history, *(dice.choice(history) for _ in history)]
    dice.shuffle(shuffled)
    assert StandingOrders(shuffled).in_force() == StandingOrders(history).in_force()


@given(histories())
def test_a_halt_stands_until_an_entitled_resume_names_it(history: list[Order]) -> None:
    in_force = StandingOrders(history).in_force()
    for halt in (order for order in history if order.action == "halt"):
        lifters = [
            resume
            for resume in history
            if halt.order_id in resume.lifts
            and resume.scope == halt.scope
            and (not resume.by.startswith("breaker:") or resume.by == halt.by)
        ]
        assert (halt in in_force) == (not lifters)


@given(histories())
def test_what_compaction_leaves_means_the_same(history: list[Order]) -> None:
    """Only resumes that the desk would give: it gives none that is not entitled."""
    halts = {order.order_id: order for order in history if order.action == "halt"}
    given_ = [order for order in history if all(order.may_lift(halts[one]) for one in order.lifts)]
    topic = {key: order for order in given_ for key in order.standing_keys()}
    assert StandingOrders(topic.values()).in_force() == StandingOrders(given_).in_force()


def written(order: Order, **changes: Any) -> bytes:
    event = Event(
        event_id=new_id(),
        kind="control_order",
        body=order.body(),
        tenant="acme",
        workflow="control",
        task_id=new_id(),
        agent="a",
        producer_id=new_id(),
        seq=0,
        occurred_at=7,
    )
    return encode(replace(event, **changes))


HALT = Order(order_id=b"h" * 16, scope="tool:acme/a/b", action="halt", by="dana", reason="r", issued_at=7)
RESUME = Order(
    order_id=b"r" * 16, scope=HALT.scope, action="resume", by="kim", lifts=frozenset([HALT.order_id]), issued_at=7
)
KEY = b"tool:acme/a/b/" + b"68" * 16


def test_an_order_is_read_as_it_was_written() -> None:
    assert HALT.standing_keys() == RESUME.standing_keys() == [KEY]
    for order in (HALT, RESUME):
        assert read_order(KEY, written(order)) == order


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        (None, written(HALT), "its key is not"),
        (b"", written(HALT), "its key is not"),
        (b"\xff/" + b"68" * 16, written(HALT), "its key is not"),
        (b"tool:acme/a/b/" + b"68" * 15, written(HALT), "its key is not"),
        (KEY, None, "it has no value"),
        (KEY, b"{}", "not with c3 01"),
        (KEY, written(HALT)[:-1], "is not Avro"),
        (KEY, written(HALT, kind="control_limit", body=None, raw_body=b"", body_schema=b"newer!!!"), "'control_limit'"),
        (KEY, written(HALT, kind="review", body={"about": None, "by": "x", "reason": None, "details": None}), "kind"),
        (KEY, written(replace(HALT, action="explode")), "its action 'explode' is none of"),  # type: ignore[arg-type]
        (KEY, written(replace(HALT, lifts=frozenset([b"x" * 16]))), "a halt that names 1 halts"),
        (KEY, written(replace(RESUME, lifts=frozenset())), "a resume that names 0 halts"),
        (key_of("tool:acme/other", b"h" * 16), written(HALT), "disagree"),
        (key_of(HALT.scope, b"x" * 16), written(HALT), "disagree"),
        (key_of(HALT.scope, b"r" * 16), written(RESUME), "disagree"),
    ],
)
def test_what_is_no_order_is_refused_with_a_reason(key: bytes | None, value: bytes | None, reason: str) -> None:
    with pytest.raises(NotAnOrder, match=reason):
        read_order(key, value)


@given(st.binary(max_size=60) | st.just(KEY), st.none() | st.binary(max_size=300))
def test_no_bytes_raise_anything_else(key: bytes, value: bytes | None) -> None:
    with pytest.raises(NotAnOrder):
        read_order(key, value)


@given(st.integers(0, len(written(HALT)) * 8 - 1))
def test_a_flipped_bit_is_another_order_or_none(bit: int) -> None:
    value = bytearray(written(HALT))
    value[bit // 8] ^= 1 << bit % 8
    try:
        order = read_order(KEY, bytes(value))
    except NotAnOrder:
        return
    assert (order.scope, order.action) == (HALT.scope, "halt")


NEWER = {"body": None, "raw_body": b"?", "body_schema": b"newer!!!"}


def test_an_order_of_a_newer_version_is_obeyed_unread() -> None:
    halt = read_order(KEY, written(HALT, **NEWER), [(ACTION_HEADER, b"halt")])
    assert (halt.order_id, halt.scope, halt.action, halt.is_unread) == (HALT.order_id, HALT.scope, "halt", True)
    assert read_order(KEY, written(HALT, **NEWER)).action == "halt"
    resume = read_order(KEY, written(RESUME, **NEWER), [(ACTION_HEADER, b"resume")])
    assert StandingOrders([halt]).in_force() == (halt,)
    assert StandingOrders([halt, resume]).in_force() == StandingOrders([HALT, resume]).in_force() == ()


@pytest.mark.parametrize("scope", ["region:eu", "tool:acme", "tool:ACME/x", "", "\x00"])
def test_a_scope_that_cannot_be_read_stops_everything(scope: str) -> None:
    order = replace(HALT, scope=scope)
    assert order.covers(ACTING)
    assert order.concerns("acme")
    assert order.tenant is None


def test_an_id_given_twice_keeps_its_first_order() -> None:
    orders = StandingOrders([HALT, replace(HALT, by="mallory")])
    assert orders.in_force() == (HALT,)
