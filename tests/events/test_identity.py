"""Two writes are the same effect exactly when their identities have the same canonical bytes."""

import datetime as dt
import hashlib
import hmac
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterfoil import UsageError
from counterfoil.identity import canonical_bytes, effect_id_of
from counterfoil.ids import is_tenant, partition_key, task_id_of
from tests.events.identity_values import VALUES

GOLDEN = json.loads(Path(__file__).with_name("golden_identity.json").read_text(encoding="utf-8"))
EVERY_VECTOR = pytest.mark.parametrize("vector", GOLDEN["vectors"], ids=lambda vector: vector["name"])
KEY = GOLDEN["key"].encode()
TASK = bytes.fromhex(GOLDEN["task"])
ONE: dict[str, Any] = {"tenant": "acme", "task_id": TASK, "tool": "refund", "target": "payments", "args": {"a": 1}}


def test_every_value_has_a_vector() -> None:
    assert set(VALUES) <= {vector["name"] for vector in GOLDEN["vectors"]}


@EVERY_VECTOR
def test_golden_vectors(vector: dict[str, Any]) -> None:
    args = VALUES.get(vector["name"], ("", {}))[1]
    content = canonical_bytes(GOLDEN["tenant"], TASK, GOLDEN["tool"], vector["target"], args, vector["step"])
    assert content.decode() == vector["canonical"]
    found = effect_id_of(
        KEY,
        tenant=GOLDEN["tenant"],
        task_id=TASK,
        tool=GOLDEN["tool"],
        target=vector["target"],
        args=args,
        step=vector["step"],
    )
    assert found.hex() == vector["effect_id"]


@EVERY_VECTOR
def test_the_vectors_hold_by_the_definition_alone(vector: dict[str, Any]) -> None:
    digest = hmac.new(KEY, vector["canonical"].encode(), hashlib.sha256).hexdigest()
    assert digest[:32] == vector["effect_id"]


def test_the_vectors_differ_but_for_the_same_instant() -> None:
    ids = {vector["name"]: vector["effect_id"] for vector in GOLDEN["vectors"]}
    assert ids["aware_datetime"] == ids.pop("same_instant")
    assert len(set(ids.values())) == len(ids)


@given(
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), st.integers(), max_size=6), st.data()
)
def test_the_order_of_keys_does_not_matter(args: dict[str, int], data: st.DataObject) -> None:
    shuffled = dict(data.draw(st.permutations(list(args.items()))))
    assert effect_id_of(KEY, **{**ONE, "args": args}) == effect_id_of(KEY, **{**ONE, "args": shuffled})


@pytest.mark.parametrize(
    "change",
    [
        {"tenant": "acme2"},
        {"task_id": bytes(16)},
        {"tool": "refund2"},
        {"target": "ledger"},
        {"target": None},
        {"step": "1"},
        {"step": ""},
        {"args": {"a": 2}},
        {"args": {"a": "1"}},
        {"args": {"a": Decimal(1)}},
        {"args": {"a": True}},
        {"args": {"a": 1, "b": None}},
        {"args": {"A": 1}},
        {"args": {"a": [1]}},
        {"args": {"a": {1}}},
    ],
    ids=str,
)
def test_every_part_of_the_identity_counts(change: dict[str, Any]) -> None:
    assert effect_id_of(KEY, **(ONE | change)) != effect_id_of(KEY, **ONE)


def test_another_key_gives_another_id() -> None:
    assert effect_id_of(b"another key of tests", **ONE) != effect_id_of(KEY, **ONE)


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


LOOP: list[Any] = []
LOOP += [LOOP, LOOP]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (float("nan"), "nan"),
        (float("inf"), "inf"),
        (Decimal("NaN"), "NaN"),
        (Decimal("-Infinity"), "Infinity"),
        (nested(101), "100 levels"),
        (LOOP, "100 levels"),
        (object(), "object"),
        (dt.timedelta(1), "timedelta"),
        (lambda: 1, "function"),
        ({1: "a"}, "keys are strings"),
        ("\ud800", "canonical JSON"),
        ({"\ud800": 1}, "canonical JSON"),
        ({"\ud800"}, "canonical JSON"),
        (10**5000, "canonical JSON"),
    ],
    ids=lambda one: one if isinstance(one, str) and one.isprintable() else type(one).__name__,
)
def test_what_has_no_canonical_form_is_refused(value: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        effect_id_of(KEY, **{**ONE, "args": {"a": value}})


def test_a_hundred_levels_are_allowed() -> None:
    assert effect_id_of(KEY, **{**ONE, "args": {"a": nested(95)}})


def test_a_task_id_is_the_uuid5_of_tenant_and_ref() -> None:
    assert task_id_of("acme", "ticket T-9").hex() == "2c368d9204a15238804a317518f640df"
    assert task_id_of("acme", "T") != task_id_of("acme2", "T")
    assert task_id_of("acme", "\ud800")


def test_the_partition_key() -> None:
    assert partition_key("acme", bytes(range(16))) == b"acme/000102030405060708090a0b0c0d0e0f"


@pytest.mark.parametrize("name", ["acme", "a", "a-b_9", "x" * 40])
def test_tenants_names(name: str) -> None:
    assert is_tenant(name)


@pytest.mark.parametrize("name", ["", "Acme", "acme\n", "a/b", "x" * 41, "ä", "a b", "a.b"])
def test_other_names_are_no_tenant_s(name: str) -> None:
    assert not is_tenant(name)
