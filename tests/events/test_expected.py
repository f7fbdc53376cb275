"""What code expects of a write is in its intent, as JSON; what says nothing is refused where it is written."""

import json
from decimal import Decimal
from typing import Any

import pytest

from counterfoil import Expected, Recorder, UsageError
from tests.fix_log import Logged


def test_it_stands_in_the_intent(recorder: Recorder, logged: Logged) -> None:
    rows = [
        Expected(resource="orders", key={"id": "A-1"}, set={"paid": Decimal("12.50"), "tags": ["a"]}),
        Expected(resource="lines", key={"order": "A-1", "line": 2}, delete=True),
    ]
    with recorder.task("t") as task:
        with task.effect("close", target="shop", args={}, expect=rows) as effect:
            effect.ok()
        with task.effect(
            "pay",
            target="shop",
            args={},
            expect=lambda key: [
                Expected(resource="refunds", create=True, find={"reference": key}, set={"amount": Decimal(3)})
            ],
        ) as other:
            other.ok()
        with task.effect("plain", target="shop", args={}) as plain:
            plain.ok()
    recorder.close()
    said = {
        event.body["tool"]: event.body["expect"] for event in logged() if event.kind == "tool_intent" and event.body
    }
    assert json.loads(said["close"]) == [
        {"resource": "orders", "key": {"id": "A-1"}, "set": {"paid": 12.5, "tags": ["a"]}},
        {"resource": "lines", "key": {"order": "A-1", "line": 2}, "delete": True},
    ]
    assert json.loads(said["pay"]) == [
        {"resource": "refunds", "set": {"amount": 3}, "find": {"reference": other.key}, "create": True}
    ]
    assert said["plain"] is None


def test_it_is_no_part_of_the_identity(recorder: Recorder) -> None:
    with recorder.task("t") as task:
        one = task.effect("close", target="shop", args={"order": "A-1"})
        other = task.effect(
            "close", target="shop", args={"order": "A-1"},
            expect=[Expected(resource="orders", key={"id": "A-1"}, delete=True)],
        )  # fmt: skip
    assert (one.effect_id, other.attempt) == (other.effect_id, 2)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"set": {"status": "paid"}}, "names no row: give key"),
        ({"create": True, "set": {"status": "paid"}}, "names no row"),
        ({"key": {"id": 1}}, "nothing is expected of orders"),
        ({"key": {"id": 1}, "delete": True, "set": {"status": "paid"}}, "a deleted row holds nothing"),
    ],
)
def test_what_says_nothing_is_refused(given: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        Expected(resource="orders", **given)


def test_there_is_a_limit(recorder: Recorder) -> None:
    row = Expected(resource="orders", key={"id": 1}, delete=True)
    with recorder.task("t") as task, pytest.raises(UsageError, match="1001 rows"):
        task.effect("close", target="shop", args={}, expect=[row] * 1001)
