"""More than forty kinds of records that can't be stored, and where each of them ends."""

import dataclasses
import datetime as dt
import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

from counterfoil.codec import encode
from counterfoil.event import Event
from counterfoil.ids import new_id, task_id_of
from counterfoil.signing import HEADER, SigningKey
from tests.consumers.made import EPOCH, attempted, event, intent, key_of, noise, put_key, signature

OURS = SigningKey("initech", "ours1", bytes(range(32)))
RETIRED = SigningKey("initech", "retired1", bytes(range(1, 33)))
OTHERS = SigningKey("globex", "others1", bytes(range(2, 34)))
UNKNOWN = SigningKey("initech", "unknown1", bytes(range(3, 35)))


class Sent(NamedTuple):
    """A record; `letter_class` is empty where it is good."""

    value: bytes | None
    key: bytes | None
    letter_class: str = ""
    headers: tuple[tuple[str, bytes | None], ...] = ()


Make = Callable[[Event], Sent]
"""Makes the record from a good event that was stored before it."""


def of_value(change: Callable[[bytes], bytes | None], letter_class: str = "poison") -> Make:
    def make(_good: Event) -> Sent:
        one = event()
        return Sent(change(encode(one)), key_of(one), letter_class)

    return make


def of_event(letter_class: str = "poison", **changes: Any) -> Make:
    def make(_good: Event) -> Sent:
        one = event(**changes)
        return Sent(encode(one), key_of(one), letter_class)

    return make


def of_body(kind: str, raw: bytes) -> Make:
    """An envelope that is right around a body that is not."""

    def make(_good: Event) -> Sent:
        one = event(kind, None, raw_body=raw, body_schema=SCHEMAS[kind])
        return Sent(encode(one), key_of(one), "poison")

    return make


def of_key(change: Callable[[bytes], bytes | None]) -> Make:
    def make(_good: Event) -> Sent:
        one = event()
        return Sent(encode(one), change(key_of(one)), "foreign")

    return make


def fingerprint(one: Event) -> bytes:
    """That of its body's schema."""
    value = encode(one)
    at = 26
    return value[at + 1 + (value[at] >> 1) :][:8]


_BODIES: dict[str, dict[str, Any]] = {
    "review": {"by": "dana"},
    "prompt": {"model": "m", "messages": []},
    "task_ended": {"status": "completed"},
    "tool_intent": {"tool": "t", "write": True, "args": "{}"},
}
SCHEMAS = {kind: fingerprint(event(kind, body)) for kind, body in _BODIES.items()}


def replaced(old: bytes, new: bytes) -> Make:
    return of_value(lambda value: value.replace(old, new, 1))


def large_attempt(_good: Event) -> Sent:
    one = intent()
    return Sent(attempted(one, 2**40), key_of(one), "poison")


def large_resource(_good: Event) -> Sent:
    body = {
        "target": "t", "verdict": "applied", "check_seq": 1, "contract_version": "1", "contract_digest": b"",
        "evidence": "{}", "resources": [{"resource": "r", "key": noise(9_000)}],
    }  # fmt: skip
    one = event("verdict", body, effect_id=new_id())
    return Sent(encode(one), key_of(one), "poison")


def same_id(**changes: Any) -> Make:
    def make(good: Event) -> Sent:
        return Sent(encode(dataclasses.replace(good, **changes)), key_of(good), "conflict")

    return make


def put_keys(dsn: str) -> None:
    """What the store knows of the keys above."""
    put_key(dsn, OURS)
    put_key(dsn, RETIRED, retired_at=EPOCH + dt.timedelta(days=1))
    put_key(dsn, OTHERS)


def of_headers(make_headers: Callable[[bytes], list[tuple[str, bytes | None]]]) -> Make:
    """Of a tenant whose records must be signed, with such headers."""

    def make(_good: Event) -> Sent:
        one = event(tenant="initech", task_id=task_id_of("initech", "T-1"))
        value = encode(one)
        return Sent(value, key_of(one), "foreign", tuple(make_headers(value)))

    return make


def signed(text: Callable[[bytes], bytes | None]) -> Make:
    """With a signature that is changed."""
    return of_headers(lambda value: [(HEADER, text(signature(OURS, value)[1]))])


def signed_as_another(_good: Event) -> Sent:
    """Keyed as, and signed by, a tenant that may; the envelope names one that does not."""
    one = event(tenant="initech", task_id=task_id_of("globex", "T-1"))
    value = encode(one)
    return Sent(value, b"globex/" + one.task_id.hex().encode(), "foreign", (signature(OTHERS, value),))


BAD: dict[str, Make] = {
    # no frame of ours
    "garbage": of_value(lambda _: b"not an event"),
    "nothing": of_value(lambda _: b""),
    "a tombstone": of_value(lambda _: None),
    "JSON": of_value(lambda _: json.dumps({"event": 1}).encode()),
    "gzip": of_value(gzip.compress),
    "zlib": of_value(zlib.compress),
    "half a magic": of_value(lambda _: b"\xc3"),
    "a magic alone": of_value(lambda _: b"\xc3\x01"),
    "a frame alone": of_value(lambda value: value[:10]),
    "an id of no registry": of_value(lambda value: b"\x00\x00\x00\x00\x01" + value[10:], "incompatible"),
    "an id below zero": of_value(lambda value: b"\x00\xff\xff\xff\xff" + value[10:]),
    "an id cut short": of_value(lambda _: b"\x00\x00\x00"),
    "an envelope of tomorrow": of_value(lambda value: b"\xc3\x01" + bytes(8) + value[10:], "incompatible"),
    "a fingerprint backwards": of_value(lambda value: value[:2] + value[2:10][::-1] + value[10:], "incompatible"),
    # cut short, or too long
    "without its last byte": of_value(lambda value: value[:-1]),
    "without its tail": of_value(lambda value: value[:-60]),
    "cut in its body": of_value(lambda value: value[:45]),
    "cut in its id": of_value(lambda value: value[:20]),
    "with a byte behind it": of_value(lambda value: value + b"\x00"),
    "twice in one": of_value(lambda value: value + value),
    "a body cut short": of_body("review", b"\x08da"),
    "a body too long": of_body("task_ended", b"\x02x\x00\x00\x00"),
    "an empty body": of_body("tool_intent", b""),
    # no Avro
    "a branch that no union has": replaced(b"standard", b"standar\x80"),
    "a text of negative length": of_body("review", b"\x07dana"),
    "a text longer than all": of_body("review", b"\xfe\xff\xff\xff\x0fdana"),
    "a length without end": of_body("review", b"\x80" * 30),
    "a bomb of digests": of_body("prompt", b"\x02m" + b"\xfe\xff\xff\xff\xff\xff\xff\x7f"),
    "a bomb in a sized block": of_body("prompt", b"\x02m" + b"\xfd\xff\xff\xff\xff\xff\xff\x7f\x00"),
    "a boolean of seven": of_body("tool_intent", b"\x02t\x00\x07\x04{}\x00\x00\x00\x00"),
    "no UTF-8 in the envelope": replaced(b"support-7", b"suppor\xff-7"),
    "no UTF-8 in the body": of_body("review", b"\x08da\xff\xfe\x00\x00\x00\x00"),
    "a surrogate as UTF-8": of_body("review", b"\x06\xed\xa0\x80\x00\x00\x00\x00"),
    # whose?
    "a tenant in capitals": of_event("foreign", tenant="ACME"),
    "a tenant without a name": of_event("foreign", tenant=""),
    "a tenant of 41 letters": of_event("foreign", tenant="a" * 41),
    "a tenant with NUL": of_event("foreign", tenant="a\x00"),
    "a tenant nobody knows": of_event("foreign", tenant="stranger"),
    "another tenant's key": of_key(lambda key: key.replace(b"acme", b"globex")),
    "another task's key": of_key(lambda key: key[:-1] + (b"0" if key[-1:] != b"0" else b"1")),
    "no key": of_key(lambda _: None),
    "an empty key": of_key(lambda _: b""),
    "a key of another form": of_key(lambda key: key.upper()),
    # signed?
    "no signature": of_headers(lambda _: []),
    "a signature of another name": of_headers(lambda value: [("counterfoil_signature", signature(OURS, value)[1])]),
    "two signatures": of_headers(lambda value: [signature(OURS, value)] * 2),
    "a signature of other bytes": of_headers(lambda value: [signature(OURS, value + b"\x00")]),
    "a signature without a value": signed(lambda _: None),
    "an empty signature": signed(lambda _: b""),
    "a signature cut short": signed(lambda text: text[:-1]),
    "a signature too long": signed(lambda text: text + b"="),
    "a signature with a bit turned": signed(lambda text: text[:-5] + bytes([text[-5] ^ 1]) + text[-4:]),
    "a signature without its key's id": signed(lambda text: text.partition(b":")[2]),
    "a signature that is no text": signed(lambda _: b"\xff" * 50),
    "a key that nobody knows": of_headers(lambda value: [signature(UNKNOWN, value)]),
    "a key of another tenant": of_headers(lambda value: [signature(OTHERS, value)]),
    "another secret under the key's id": of_headers(
        lambda value: [signature(dataclasses.replace(OTHERS, key_id=OURS.key_id), value)]
    ),
    "a retired key": of_headers(lambda value: [signature(RETIRED, value)]),
    "signed by whose it is not": signed_as_another,
    # out of range
    "beyond the calendar": of_event(occurred_at=2**62),
    "before the calendar": of_event(occurred_at=-(2**62)),
    "a negative seq": of_event(seq=-1),
    "a seq beyond all": of_event(seq=2**62),
    "a negative attempt": of_event(attempt=-1),
    "an attempt beyond int4": large_attempt,
    "a mode of tomorrow": of_event(mode="wild"),
    # too large, and refused by Postgres
    "1.04 MB of noise": of_value(lambda _: noise(1_040_000).encode()),
    "a megabyte of zeros in a frame": of_value(lambda value: value[:10] + bytes(1_000_000)),
    "a task_ref beyond any index": of_event(task_ref=noise(9_000)),
    "a resource beyond any index": large_resource,
    # the second of its name
    "the same id, other content": same_id(agent="liar"),
    "the same id, another class": same_id(retention_class="legal"),
    "the same id, other times": same_id(occurred_at=1),
}  # fmt: skip
