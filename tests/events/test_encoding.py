"""The generated encoders write what fastavro writes, byte for byte, and refuse what does not fit."""

import dataclasses
import io
from typing import Any

import fastavro
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterfoil import Event
from counterfoil.codec import EnvelopeEncoder, encode
from counterfoil.encoding import encoder_of, long_bytes
from counterfoil_schemas import avro_schemas
from tests.events.generated import BODIES, IDS, LONGS, events

DEFINITIONS = {schema.subject: schema.definition for schema in avro_schemas()}
PARSED = {subject: fastavro.parse_schema(definition) for subject, definition in DEFINITIONS.items()}
ENCODERS = {subject: encoder_of(definition) for subject, definition in DEFINITIONS.items()}


def by_fastavro(subject: str, record: Any) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, PARSED[subject], record, strict_allow_default=True)
    return out.getvalue()


@pytest.mark.parametrize("kind", sorted(BODIES))
def test_bodies_are_fastavro_s(kind: str) -> None:
    @settings(max_examples=60, deadline=None)
    @given(BODIES[kind])
    def check(body: dict[str, Any]) -> None:
        assert ENCODERS[kind](body) == by_fastavro(kind, body)
        sparse = {name: value for name, value in body.items() if value is not None}
        assert ENCODERS[kind](sparse) == by_fastavro(kind, sparse)

    check()


@given(LONGS | st.integers(2**48 - 2, 2**55 + 2) | st.integers(-9000, 9000))
def test_longs_are_fastavro_s(value: int) -> None:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema("long"), value)
    assert long_bytes(value) == out.getvalue()


ODD: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=3), st.binary(max_size=17),
    st.lists(st.none(), max_size=2), st.just(object()), st.dictionaries(st.text(max_size=2), st.none(), max_size=2),
)  # fmt: skip


@pytest.mark.parametrize("kind", sorted(BODIES))
def test_what_does_not_fit_is_refused_or_written_as_fastavro_does(kind: str) -> None:
    """A field of another type is never written as other bytes than fastavro's."""

    @settings(max_examples=80, deadline=None)
    @given(BODIES[kind], st.data())
    def check(body: dict[str, Any], data: st.DataObject) -> None:
        name = data.draw(st.sampled_from([*body, "no field of ours"]))
        odd = body | {name: data.draw(ODD)}
        try:
            ours = ENCODERS[kind](odd)
        except (TypeError, ValueError) as error:
            assert name in str(error)  # noqa: PT017  # the message is what is tested
            return
        assert ours == by_fastavro(kind, odd)

    check()


@pytest.mark.parametrize("kind", sorted(BODIES))
def test_a_missing_field_is_refused(kind: str) -> None:
    @settings(max_examples=5, deadline=None)
    @given(BODIES[kind])
    def check(body: dict[str, Any]) -> None:
        for name in [field["name"] for field in DEFINITIONS[kind]["fields"] if "default" not in field]:
            with pytest.raises(ValueError, match=f"{name} is missing"):
                ENCODERS[kind]({other: value for other, value in body.items() if other != name})

    check()


@settings(max_examples=300, deadline=None)
@given(events())
def test_an_envelope_made_in_parts_is_the_same(event: Event) -> None:
    given_each = (
        *("kind", "body", "event_id", "seq", "occurred_at", "effect_id", "attempt", "causation_id"),
        *("trace_id", "span_id"),
    )
    shared = {
        field.name: getattr(event, field.name)
        for field in dataclasses.fields(event)
        if field.name not in given_each and field.name not in ("body_schema", "raw_body")
    }
    parts = EnvelopeEncoder(shared)
    assert parts.encode(*(getattr(event, name) for name in given_each)) == encode(event)


@given(IDS)
def test_an_id_of_another_length_is_refused(event_id: bytes) -> None:
    shared = {"tenant": "a", "workflow": "w", "task_id": event_id, "agent": "a", "producer_id": event_id}
    parts = EnvelopeEncoder(shared)
    body = {"by": "dana"}
    for wrong in (event_id[1:], event_id + b"x", b""):
        with pytest.raises(ValueError, match="16"):
            parts.encode("review", body, wrong, 0, 0)
        with pytest.raises(ValueError, match="16"):
            parts.encode("review", body, event_id, 0, 0, wrong)
    with pytest.raises(TypeError, match="16 bytes"):
        EnvelopeEncoder(shared | {"task_id": event_id[1:]})


def test_an_avro_type_that_we_do_not_use_is_an_error_at_once() -> None:
    for node in ({"type": "map", "values": "string"}, ["null", "string", "long"], "float"):
        with pytest.raises(NotImplementedError, match="odd"):
            encoder_of({"type": "record", "name": "R", "fields": [{"name": "odd", "type": node}]})
