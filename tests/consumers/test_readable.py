"""Whatever stands in a body, its JSON is one that Postgres takes."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from counterfoil_consumers.readable import mended_text, readable_body

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(), max_size=3), inner, max_size=3)
    ),
    max_leaves=10,
)


def refuse(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


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


def assert_postgres_takes(text: str) -> None:
    text.encode()
    for found in strings(json.loads(text, parse_constant=refuse)):
        found.encode()
        assert "\x00" not in found


@settings(max_examples=200, deadline=None)
@given(JSON, st.booleans())
def test_json_in_a_field_of_json(value: Any, plain: bool) -> None:
    text = json.dumps(value, ensure_ascii=plain)
    assert_postgres_takes(readable_body("tool_intent", {"tool": text, "args": text, "expect": None}))


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(), max_size=30) | st.text('[]{}":,\\ud8091eENaIfity-+.', max_size=30))
def test_any_text_in_a_field_of_json(text: str) -> None:
    assert_postgres_takes(readable_body("tool_intent", {"tool": text, "args": text}))


def test_ids_are_hex_and_json_is_nested() -> None:
    body = {"digest": b"\x01\xff", "resources": [{"resource": "r", "key": '{"id": 1}'}], "evidence": '[1, {"a": null}]'}
    assert json.loads(readable_body("verdict", body)) == {
        "digest": "01ff",
        "resources": [{"resource": "r", "key": {"id": 1}}],
        "evidence": [1, {"a": None}],
    }


def test_a_field_that_is_no_json_stays_text() -> None:
    assert json.loads(readable_body("review", {"by": '{"a": 1}', "details": '{"a": 1}'})) == {
        "by": '{"a": 1}',
        "details": {"a": 1},
    }


def test_mended_text() -> None:
    assert [mended_text(text) for text in (None, "", "a\x00b", "\ud800", "😀")] == [
        None,
        "",
        "a\ufffdb",
        "\ufffd",
        "😀",
    ]
