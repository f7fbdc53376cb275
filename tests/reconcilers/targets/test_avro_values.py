"""Avro of strangers' schemas: what can't be read is refused before fastavro meets it, and a decode is whole or none."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from counterfoil.framing import Definition
from counterfoil_reconcilers.targets.avro_values import AvroReader, SchemaUnread, reader_of
from counterfoil_reconcilers.values import Unreadable, plain
from tests.fix_avro_bus import as_written

# What a release of the adapter may meet: every kind of type, named twice, in unions.
RICH: dict[str, Any] = {
    "type": "record",
    "name": "com.acme.Order",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "lines", "type": {"type": "array", "items": {
            "type": "record", "name": "com.acme.Line", "fields": [
                {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
                {"name": "weight", "type": ["null", "float", "double"]},
                {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
            ],
        }}},
        {"name": "best", "type": ["null", "com.acme.Line"]},
        {"name": "kind", "type": {"type": "enum", "name": "com.acme.Kind", "symbols": ["NEW", "PAID"]}},
        {"name": "tags", "type": {"type": "map", "values": ["null", "long"]}},
        {"name": "digest", "type": {"type": "fixed", "name": "com.acme.Digest", "size": 4}},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
    ],
}  # fmt: skip
ORDER = {
    "id": "A-1",
    "lines": [{"price": b"\x04\xe2", "weight": 1.5, "at": 0}],
    "best": None,
    "kind": "PAID",
    "tags": {"a": None, "b": 2},
    "digest": b"\x00\x01\x02\x03",
    "day": 20484,
}


def record(*fields: Any, name: str = "R") -> dict[str, Any]:
    return {
        "type": "record",
        "name": name,
        "fields": [{"name": f"f{number}", "type": one} for number, one in enumerate(fields)],
    }


def nested(depth: int) -> Any:
    inner: Any = "int"
    for _ in range(depth):
        inner = {"type": "array", "items": inner}
    return inner


def test_a_value_of_every_type_is_read() -> None:
    assert plain(reader_of(RICH).read(as_written(RICH, ORDER))) == {
        "id": "A-1",
        "lines": [{"price": 12.5, "weight": 1.5, "at": "1970-01-01T00:00:00+00:00"}],
        "best": None,
        "kind": "PAID",
        "tags": {"a": None, "b": 2.0},
        "digest": "\\x00010203",
        "day": "2026-01-31",
    }


@st.composite
def written(draw: st.DrawFn, depth: int = 3) -> tuple[Any, Any, Any]:
    """A type, a value of it, and what that comes as."""
    leaves: dict[Any, tuple[st.SearchStrategy[Any], Callable[[Any], Any]]] = {
        "null": (st.none(), lambda value: value),
        "boolean": (st.booleans(), lambda value: value),
        "int": (st.integers(-(2**31), 2**31 - 1), lambda value: value),
        "long": (st.integers(-(2**63), 2**63 - 1), lambda value: value),
        "double": (st.floats(allow_nan=False, allow_infinity=False), lambda value: value),
        "string": (st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20), lambda value: value),
        "bytes": (st.binary(max_size=20), lambda value: f"\\x{value.hex()}"),
    }
    kind = draw(st.sampled_from([*leaves, *(["array", "map", "record", "union"] if depth else [])]))
    if kind in leaves:
        value = draw(leaves[kind][0])
        return kind, value, leaves[kind][1](value)
    inner, value, comes_as = draw(written(depth - 1))
    if kind == "union":
        assume(not isinstance(inner, list) and inner not in ("null", "boolean"))
        branches = draw(st.permutations(["null", "boolean", inner]))
        return branches, value, comes_as
    if kind == "record":
        name = draw(st.uuids()).hex
        return record(inner, "int", name=f"R{name}"), {"f0": value, "f1": 7}, {"f0": comes_as, "f1": 7}
    assume(inner != "null")
    if kind == "map":
        return {"type": "map", "values": inner}, {"k": value}, {"k": comes_as}
    return {"type": "array", "items": inner}, [value] * 2, [comes_as] * 2


@settings(max_examples=300, deadline=None)
@given(given_=written())
def test_what_fastavro_wrote_is_read_as_it_was(given_: tuple[Any, Any, Any]) -> None:
    definition, value, comes_as = given_
    assert plain(reader_of(definition).read(as_written(definition, value))) == plain(comes_as)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_bytes_that_are_cut_off_or_too_many_are_no_value(data: st.DataObject) -> None:
    whole, reader = as_written(RICH, ORDER), reader_of(RICH)
    with pytest.raises(Unreadable, match="not Avro of its schema"):
        reader.read(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(Unreadable, match="bytes are too many"):
        reader.read(whole + data.draw(st.binary(min_size=1, max_size=9)))


@settings(max_examples=1_000, deadline=None)
@given(content=st.binary(max_size=200))
def test_whatever_the_bytes_are_they_are_a_value_or_refused(content: bytes) -> None:
    with suppress(Unreadable):
        plain(reader_of(RICH).read(content))


@pytest.mark.parametrize(
    ("definition", "sentence"),
    [
        (record(["null", "R"]), "recursive: R contains itself"),
        (record({"type": "array", "items": record({"type": "map", "values": "R"}, name="Inner")}), "recursive: R"),
        ({"type": "array", "items": "null"}, "items that take no bytes"),
        ({"type": "array", "items": record("null", {"type": "fixed", "name": "F", "size": 0})}, "take no bytes"),
        ({"type": "array", "items": record()}, "items that take no bytes"),
        (nested(65), "nested deeper than 64"),
        (record(*[nested(40)] * 2, record(nested(63), name="Inner")), "deeper than 64"),
        (record("B"), "names B, which nothing defines"),
    ],
    ids=["itself", "through others", "null", "empty", "no fields", "deep", "deep in a record", "undefined"],
)
def test_schemas_that_fastavro_would_not_survive_are_refused(definition: Definition, sentence: str) -> None:
    with pytest.raises(SchemaUnread, match=sentence):
        reader_of(definition)


def test_a_name_that_is_used_again_counts_with_all_that_is_in_it() -> None:
    chain: list[Any] = [record(nested(30), name="T0")]
    chain += [record(f"T{number}", name=f"T{number + 1}") for number in range(34)]
    assert isinstance(reader_of(record(*chain[:30])), AvroReader)
    with pytest.raises(SchemaUnread, match="deeper than 64"):
        reader_of(record(*chain))


def test_few_bytes_do_not_become_many_values() -> None:
    """Neither by many fields of no size in each item, nor by types that are used twice in each other."""
    wide = {"type": "array", "items": record("boolean", *["null"] * 999)}
    small = as_written(wide, [{"f0": True} | {f"f{number}": None for number in range(1, 1000)}])
    assert len(reader_of(wide).read(small)[0]) == 1_000
    with pytest.raises(Unreadable, match="may hold more than 4000000 values"):
        reader_of(wide).read(b"\x00" * 5_000)
    doubled: list[Any] = [record("null", "null", name="T0")]
    doubled += [record(f"T{number}", f"T{number}", name=f"T{number + 1}") for number in range(40)]
    with pytest.raises(Unreadable, match="may hold more than 4000000 values"):
        reader_of(record(*doubled)).read(b"")


def test_types_of_one_name_in_two_namespaces_are_two() -> None:
    inner = record("string", name="com.acme.model.Order")
    outer = record(inner, name="com.acme.events.Order")
    assert reader_of(outer).read(as_written(outer, {"f0": {"f0": "x"}})) == {"f0": {"f0": "x"}}


@pytest.mark.parametrize("definition", ["string", ["null", "string"], {"type": "array", "items": "string"}])
def test_what_is_no_record_is_read_as_well(definition: Definition) -> None:
    value: Any = ["x"] if isinstance(definition, dict) else "x"
    assert reader_of(definition).read(as_written(definition, value)) == value


@pytest.mark.parametrize(
    ("logical", "value", "problem"),
    [
        ({"type": "long", "logicalType": "timestamp-millis"}, 2**62, "outside of the years"),
        ({"type": "int", "logicalType": "date"}, -(2**31), "outside of the years"),
        ({"type": "int", "logicalType": "time-millis"}, 86_400_000, "a time that no day has"),
        ({"type": "bytes", "logicalType": "decimal", "precision": 4}, b"\x01" * 257, "a decimal of 257 bytes"),
        ({"type": "bytes", "logicalType": "decimal", "precision": 4}, b"\x01" * 9, "more than 64 bits"),
        ({"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 1}, b"\x01" * 200, "not finite"),
        ("double", float("nan"), "not finite"),
        ("float", float("inf"), "not finite"),
        ("string", "a\0b", "NUL"),
    ],
)
def test_what_json_can_not_hold_is_refused(logical: Definition, value: Any, problem: str) -> None:
    with pytest.raises(Unreadable, match=problem):
        plain(reader_of(logical).read(as_written(logical, value)))


def test_logical_types_that_nobody_knows_are_their_avro_type() -> None:
    odd = {"type": "string", "logicalType": "iso-8601", "connect.name": "x"}
    assert reader_of(odd).read(as_written(odd, "2026")) == "2026"
    no_uuid = {"type": "string", "logicalType": "uuid"}
    assert reader_of(no_uuid).read(as_written(no_uuid, "none")) == "none"
