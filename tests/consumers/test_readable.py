"""Whatever stands in a body, its JSON is one that Postgres takes."""

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterfoil_consumers.readable import json_text, mended_text, quoted

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(), max_size=3), inner, max_size=3)
    ),
    max_leaves=10,
)


def strings(value: Any) -> list[str]:
    """Every string in a parsed JSON, names too."""
    match value:
        case str():
            return [value]
        case list():
            return [text for item in value for text in strings(item)]
        case dict():
            return [*value, *(text for item in value.values() for text in strings(item))]
    return []


def finite(digits: str) -> float | str:
    return float(digits) if math.isfinite(float(digits)) else digits


def mended(value: Any) -> Any:
    match value:
        case str():
            return mended_text(value)
        case list():
            return [mended(item) for item in value]
        case dict():
            return {mended_text(name): mended(item) for name, item in value.items()}
    return value


def refuse(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def assert_postgres_takes(text: str) -> None:
    text.encode()
    for found in strings(json.loads(text, parse_constant=refuse)):
        found.encode()
        assert "\x00" not in found


@settings(max_examples=300, deadline=None)
@given(JSON, st.booleans())
def test_json_stays_json(value: Any, plain: bool) -> None:
    text = json.dumps(value, ensure_ascii=plain).encode("utf-8", "replace").decode()
    assert_postgres_takes(json_text(text))
    as_read = json.loads(text, parse_constant=str, parse_float=finite)
    assert json.loads(json_text(text)) == mended(as_read)


@settings(max_examples=300, deadline=None)
@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.text('[]{}":,\\ud8091eENaIfity-+.', max_size=30)
)
def test_any_text_in_a_field_of_json(text: str) -> None:
    assert_postgres_takes(json_text(text))
    assert_postgres_takes(quoted(text))
    assert json.loads(quoted(text)) == text.replace("\x00", "\ufffd")


@pytest.mark.parametrize("text", ["", "{oops", "[" * 202 + "]" * 202, "[" * 100_000, '"\x00"', "1 2", "\ufeff1", "nan"])
def test_what_is_no_json_stays_text(text: str) -> None:
    assert json.loads(json_text(text)) == text.replace("\x00", "\ufffd")


@pytest.mark.parametrize("text", ['{"a": [1, 2.50]}', "null", "[" * 200 + "]" * 200, '"\\n"', ' {"b":1,"a":1} '])
def test_json_that_postgres_takes_stays_as_it_is(text: str) -> None:
    assert json_text(text) == text


def test_mended_text() -> None:
    assert [mended_text(text) for text in ("", "a\x00b", "\ud800", "😀")] == ["", "a\ufffdb", "\ufffd", "😀"]
