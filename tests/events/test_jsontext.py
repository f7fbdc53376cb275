"""Whatever an agent hands over becomes JSON text; nothing of it stops the agent."""

import dataclasses
import datetime as dt
import enum
import json
import uuid
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterfoil.jsontext import as_given, error_text, to_json_text

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary(max_size=8)
    | st.decimals()
    | st.datetimes()
    | st.uuids()
    | st.builds(object)
)
KEYS = st.text(st.characters(), max_size=4) | st.integers() | st.none() | st.tuples(st.integers())
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.tuples(inner, inner)
        | st.just({1, "a"})
    ),
    max_leaves=15,
)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=15,
)


def refuse(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


@settings(max_examples=300, deadline=None)
@given(ANYTHING)
def test_the_text_is_json_and_utf_8(value: Any) -> None:
    text = to_json_text(value)
    text.encode()
    json.loads(text, parse_constant=refuse)


@settings(max_examples=200, deadline=None)
@given(PLAIN)
def test_plain_json_comes_back(value: Any) -> None:
    assert as_given(json.loads(to_json_text(value))) == value


OUR_NAMES = st.sampled_from(["$blob", "$bytes", "$$bytes", "$$$sealed", "$sealed", "$reduced", "$withheld", "$", "a"])


@given(st.recursive(st.none(), lambda inner: st.lists(inner) | st.dictionaries(OUR_NAMES, inner), max_leaves=8))
def test_nobody_makes_up_what_only_a_recorder_says(value: Any) -> None:
    written = json.loads(to_json_text(value))
    assert as_given(written) == value
    assert not {"$blob", "$bytes", "$sealed", "$reduced", "$withheld"} & set(names_in(written))
    assert json.loads(to_json_text({"$bytes": b"\x00"})) == {"$$bytes": {"$bytes": "AA=="}}


def names_in(value: Any) -> Iterator[str]:
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from names_in(item)
    if isinstance(value, dict):
        yield from value


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(categories=("Cs", "L")) | st.just("\\"), max_size=6))
def test_lone_surrogates_survive_escaped(text: str) -> None:
    assert json.loads(to_json_text([text, {text: 1}])) == [text, {text: 1}]


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Line:
    sku: str
    price: Decimal


class Order(pydantic.BaseModel):
    lines: list[str]
    placed: dt.date


class Opaque:
    def __repr__(self) -> str:
        return "Opaque(" + "x" * 1000 + ")"


class Broken:
    def __repr__(self) -> str:
        raise RuntimeError


class BrokenText(Exception):
    def __str__(self) -> str:
        raise RuntimeError


class BrokenMapping(dict[str, int]):
    def items(self) -> Any:
        raise RuntimeError


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), "nan"),
        ([float("inf"), -float("inf")], ["inf", "-inf"]),
        (Decimal("12.50"), "12.50"),
        (b"\x00\xff", {"$bytes": "AP8="}),
        (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (dt.datetime(2025, 6, 15, 12, tzinfo=dt.UTC), "2025-06-15T12:00:00+00:00"),
        ([Colour.RED, Level.HIGH], ["red", 3]),
        (Line("A", Decimal("1.0")), {"sku": "A", "price": "1.0"}),
        (Order(lines=["A"], placed=dt.date(2025, 6, 15)), {"lines": ["A"], "placed": "2025-06-15"}),
        ({1: "a", None: float("nan")}, {"1": "a", "None": "nan"}),
        ((1, 2), [1, 2]),
        ({"b", "a"}, ["a", "b"]),
        (Opaque(), {"$reduced": ("Opaque(" + "x" * 1000)[:500]}),
        (Broken(), {"$reduced": "Broken whose repr raised RuntimeError"}),
        (Line, {"$reduced": f"{Line!r}"}),
        (10**5000, {"$reduced": "an integer of 16610 bits"}),
        ([10**5000, 2**70], [{"$reduced": "an integer of 16610 bits"}, 2**70]),
    ],
    ids=lambda one: type(one).__name__,
)
def test_odd_values_become_a_form_that_says_so(value: Any, expected: Any) -> None:
    assert json.loads(to_json_text(value)) == expected


def test_a_value_that_contains_itself_is_cut_there_and_soon() -> None:
    several: list[Any] = [1]
    several += [several, several, {"again": several}]
    cut = {"$reduced": "contains itself"}
    assert json.loads(to_json_text(several)) == [1, cut, cut, {"again": cut}]


def test_the_same_value_twice_side_by_side_is_no_cycle() -> None:
    shared = {1, 2}
    assert json.loads(to_json_text([shared, shared])) == [[1, 2], [1, 2]]


def test_depth_is_cut() -> None:
    deep: Any = {"bottom"}  # a set, so that the fast way does not take it
    for _ in range(10_000):
        deep = [deep]
    text = to_json_text(deep)
    assert "nested deeper than 64" in text
    json.loads(text)


def test_deep_plain_json_stays_json() -> None:
    deep: Any = "bottom"
    for _ in range(100_000):
        deep = [deep]
    json.loads(to_json_text(deep))


def test_what_raises_while_it_is_read_is_reduced_whole() -> None:
    assert "$reduced" in json.loads(to_json_text((BrokenMapping(a=1),)))


def test_an_error_whose_text_raises_is_named() -> None:
    assert error_text(BrokenText()) == "BrokenText whose text raised RuntimeError"
    assert error_text(ValueError("a\ud800")) == "a\\ud800"
