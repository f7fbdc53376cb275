"""Event to bytes and back, and what becomes of bytes that are no event."""

import contextlib
import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterfoil import DecodeError, Event
from counterfoil.codec import decode, encode
from counterfoil.framing import MAX_VALUE_BYTES
from counterfoil.jsontext import to_text
from counterfoil.reduction import encode_within_limit
from tests.events.generated import events

ID = bytes(range(16))


def event(**changes: object) -> Event:
    plain = Event(
        event_id=ID,
        kind="task_started",
        body={"title": "refund", "input": None},
        tenant="acme",
        workflow="support",
        task_id=ID,
        agent="support-7",
        producer_id=ID,
        seq=0,
        occurred_at=0,
    )
    return dataclasses.replace(plain, **changes)  # type: ignore[arg-type]  # a test's own changes


@settings(max_examples=300, deadline=None)
@given(events())
def test_what_is_encoded_is_decoded(original: Event) -> None:
    value = encode(original)
    decoded = decode(value)
    assert dataclasses.replace(decoded, body_schema=b"", raw_body=b"") == original
    assert encode(decoded) == value


@settings(max_examples=300, deadline=None)
@given(events(), st.data())
def test_a_changed_byte_shows(original: Event, data: st.DataObject) -> None:
    value = bytearray(encode(original))
    position = data.draw(st.integers(0, len(value) - 1))
    value[position] ^= data.draw(st.integers(1, 255))
    try:
        decoded = decode(bytes(value))
    except DecodeError:
        return
    # Of a union's branch fastavro takes a negative index, too, counted from the end: then the bytes alone tell.
    assert decoded != decode(encode(original)) or encode(decoded) != bytes(value)


@settings(max_examples=200, deadline=None)
@given(events(), st.data())
def test_a_truncated_value_is_refused(original: Event, data: st.DataObject) -> None:
    value = encode(original)
    with pytest.raises(DecodeError):
        decode(value[: data.draw(st.integers(0, len(value) - 1))])


@settings(max_examples=200, deadline=None)
@given(events(), st.binary(min_size=1, max_size=20))
def test_trailing_bytes_are_refused(original: Event, more: bytes) -> None:
    with pytest.raises(DecodeError, match="bytes too many"):
        decode(encode(original) + more)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_after_our_frame_decode_or_are_refused(content: bytes) -> None:
    frame = encode(event())[:10]
    with contextlib.suppress(DecodeError):
        assert decode(frame + content).raw_body in content


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(categories=("Cs", "L")), max_size=10))
def test_lone_surrogates_are_mended_wherever_they_stand(text: str) -> None:
    decoded = decode(encode(event(body={"title": text, "input": text}, task_ref=text, agent=text)))
    assert decoded.body == {"title": to_text(text), "input": to_text(text)}
    assert (decoded.task_ref, decoded.agent) == (to_text(text), to_text(text))


def test_a_body_with_trailing_bytes_is_refused() -> None:
    original = decode(encode(event()))
    with pytest.raises(DecodeError, match="the body has 1 bytes too many"):
        decode(encode(dataclasses.replace(original, body=None, raw_body=original.raw_body + b"\x00")))


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "dreamt"},
        {"body_schema": b"\x01" * 8},
        {"content_encoding": "zstd"},
        {"key_id": "acme/7"},
    ],
)
def test_what_is_not_known_here_is_kept_unread(changes: dict[str, object]) -> None:
    unread = event(**({"body": None, "raw_body": b"\xff later", "body_schema": b"\x02" * 8} | changes))
    value = encode(unread)
    decoded = decode(value)
    assert decoded.body is None
    assert decoded.raw_body == b"\xff later"
    assert decoded == unread
    assert encode(decoded) == value


def test_another_kind_s_schema_does_not_read_this_kind() -> None:
    ended = decode(encode(event(kind="task_ended", body={"status": "completed"})))
    mixed = dataclasses.replace(ended, kind="task_started", body=None)
    assert decode(encode(mixed)).body is None


@pytest.mark.parametrize(
    ("value", "reason_class"),
    [
        (b"", "poison"),
        (b"\xc3", "poison"),
        (b"\xc3\x01\x00", "poison"),
        (b"\xc3\x01" + bytes(8) + b"anything", "incompatible"),
        (b"\x00\x00\x00\x00\x07anything", "incompatible"),
        (b'{"event": 1}', "poison"),
        (b"\xc3\x01" * (MAX_VALUE_BYTES // 2 + 1), "poison"),
    ],
)
def test_other_frames_are_refused_by_class(value: bytes, reason_class: str) -> None:
    with pytest.raises(DecodeError) as refused:
        decode(value)
    assert refused.value.reason_class == reason_class


@pytest.mark.parametrize("body", [{"title": 1}, {}, {"title": None}, {"title": "x", "input": 3}])
def test_a_body_that_does_not_fit_is_refused(body: dict[str, object]) -> None:
    with pytest.raises((ValueError, TypeError)):
        encode(event(body=body))


def within_limit(large: Event) -> bytes:
    return encode_within_limit(lambda body: encode(dataclasses.replace(large, body=body)), large.body or {})


def test_the_longest_text_is_reduced_and_says_so() -> None:
    large = event(kind="completion", body={"text": "ü" * 600_000, "decision": "kept", "partial": False})
    decoded = decode(within_limit(large))
    assert decoded.body is not None
    assert decoded.body["decision"] == "kept"
    assert '"bytes": 1200000' in decoded.body["text"]
    assert "larger than an event may be" in decoded.body["text"]


def test_what_can_t_be_reduced_is_refused() -> None:
    with pytest.raises(ValueError, match="can't be reduced"):
        within_limit(event(subject_ref="x" * 1_000_000))
