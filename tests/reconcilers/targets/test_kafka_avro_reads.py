"""Avro on Kafka: each message by its own schema, as the page says, and what is no Avro is told."""

import datetime as dt
import json
import re
import uuid
from collections.abc import Callable, Mapping
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from counterfoil_reconcilers.targets.kafka import KafkaTarget
from counterfoil_reconcilers.targets.port import Target
from counterfoil_reconcilers.values import shown
from tests.fix_avro_bus import AVRO, BY_STATUS, V1, V2, AvroBus, framed, order_schema, trouble_of
from tests.fix_registry import Apicurio
from tests.reconcilers.targets.bus import EACH, EFFECT, LATEST, OTHER, docs_of, order
from tests.reconcilers.targets.conformance import doc_of
from tests.reconcilers.targets.test_avro_values import nested

PAGE = Path(__file__).parents[3] / "docs" / "targets.md"
SECTION = PAGE.read_text(encoding="utf-8").partition("\n### Avro\n")[2].partition("\n## ")[0]
ROW = re.compile(r"^\| `(.+?)` \| `(.+?)` \| `(.+?)` \|$", re.MULTILINE)
ROWS = ROW.findall(SECTION.partition("| type | written | comes as |")[2])


# -- values


@pytest.fixture(scope="module")
def values(
    kafka: dict[str, str], apicurio: Apicurio, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], Any]:
    """What every row of the page's table comes as, read from a topic."""
    bus = AvroBus(kafka["bootstrap.servers"], tmp_path_factory.mktemp("values"), schema_registry={"url": apicurio.url})
    for column, written, _ in ROWS:
        definition, value = json.loads(column), json.loads(written)
        is_hex = "bytes" in column or "fixed" in column
        row = {"type": "record", "name": "Row", "fields": [{"name": "k", "type": definition}]}
        bus.write(bus.framed(row, {"k": bytes.fromhex(value) if is_hex else value}, f"{bus.topic}-{uuid.uuid4().hex}"))
    with closing(bus.client), bus.target(EACH + AVRO) as target:
        found = [row.row for row in target.scan("orders")]
    assert len(found) == len(ROWS)
    docs = [row.problem or row.doc for row in found if row is not None]
    return {(column, written): doc for (column, written, _), doc in zip(ROWS, docs, strict=True)}


@pytest.mark.parametrize(("column", "written", "comes_as"), ROWS)
def test_the_page_says_what_values_come_as(
    values: dict[tuple[str, str], Any], column: str, written: str, comes_as: str
) -> None:
    doc = values[column, written]
    assert isinstance(doc, dict), doc
    assert json.dumps(shown(doc["k"])) == json.dumps(json.loads(comes_as))


def test_confluent_s_own_serializer_writes_what_is_read(
    avro_bus: AvroBus, open_avro: Callable[..., KafkaTarget]
) -> None:
    fields: list[Mapping[str, Any]] = [
        {"name": "amount", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "ref", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "day", "type": ["null", {"type": "int", "logicalType": "date"}]},
    ]
    serialize = AvroSerializer(avro_bus.client, json.dumps(order_schema(*fields)))
    ref = uuid.uuid4()
    written = {
        "id": "A-1",
        "status": "paid",
        "amount": Decimal("12.50"),
        "at": dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC),
        "ref": ref,
        "day": dt.date(2026, 1, 31),
    }
    avro_bus.write(serialize(written, SerializationContext(avro_bus.topic, MessageField.VALUE)), EFFECT)
    [doc] = docs_of(open_avro(EACH + AVRO), reference=EFFECT)
    assert doc == {
        "id": "A-1",
        "status": "paid",
        "amount": 12.5,
        "at": "2026-01-31T12:00:00+00:00",
        "ref": str(ref),
        "day": "2026-01-31",
        "reference": EFFECT,
        "position": "0:0",
    }


def test_each_message_is_read_by_its_own_schema(avro_bus: AvroBus, open_avro: Callable[..., KafkaTarget]) -> None:
    """Of versions of a subject, and of a subject of another name."""
    refund = {"type": "record", "name": "Refund", "fields": [{"name": "status", "type": "string"}]}
    avro_bus.write(avro_bus.framed(V1, {"id": "A-1", "status": "paid"}), EFFECT)
    avro_bus.write(avro_bus.framed(V2, {"id": "A-2", "status": "Paid", "total": 12.5}), EFFECT)
    avro_bus.write(avro_bus.framed(refund, {"status": "paid"}, f"{avro_bus.topic}-com.acme.Refund"), OTHER)
    avro_bus.write(avro_bus.framed(V1, {"id": "A-3", "status": "open"}), EFFECT)
    target = open_avro(EACH + AVRO + "fields.status = { ignore_case = true }\n", BY_STATUS)
    assert [doc.get("id") for doc in docs_of(target, status="PAID")] == ["A-1", "A-2", None]
    assert [doc.get("total", "none") for doc in docs_of(target, reference=EFFECT)] == ["none", 12.5, "none"]
    avro_bus.write(avro_bus.framed(V2, {"id": "A-4", "status": "paid", "total": None}))
    assert [doc["position"] for doc in docs_of(target, status="paid")] == ["0:0", "0:1", "0:2", "0:4"]
    assert [doc["id"] for doc in docs_of(target, id="A-4")] == ["A-4"]


def test_references_are_resolved(avro_bus: AvroBus, open_avro: Callable[..., KafkaTarget]) -> None:
    money = {"type": "record", "name": "com.acme.Money", "fields": [{"name": "cents", "type": "long"}]}
    avro_bus.register(money, f"{avro_bus.topic}-money")
    order_ = order_schema({"name": "total", "type": "com.acme.Money"})
    references = {"com.acme.Money": f"{avro_bus.topic}-money"}
    order_id = avro_bus.register(order_, f"{avro_bus.topic}-order", references=references)
    refund = {
        "type": "record",
        "name": "com.acme.Refund",
        "fields": [{"name": "back", "type": ["null", "com.acme.Money"]}],
    }
    avro_bus.register(refund, f"{avro_bus.topic}-refund", references=references)
    either = avro_bus.register(
        ["com.acme.Order", "com.acme.Refund"],
        references={"com.acme.Order": f"{avro_bus.topic}-order", "com.acme.Refund": f"{avro_bus.topic}-refund"},
    )
    # As Avro 1.12 writes them: lengths doubled, then a union's branch, doubled.
    avro_bus.write(framed(order_id, b"\x06A-1\x08paid\x0e"))
    avro_bus.write(framed(either, b"\x00\x06A-2\x08paid\x0e"))
    avro_bus.write(framed(either, b"\x02\x02\x0e"))
    docs = [row.row.problem or row.row.doc for row in open_avro(EACH + AVRO).scan("orders") if row.row is not None]
    assert docs == [
        {"id": "A-1", "status": "paid", "total": {"cents": 7.0}, "position": "0:0"},
        {"id": "A-2", "status": "paid", "total": {"cents": 7.0}, "position": "0:1"},
        {"back": {"cents": 7.0}, "position": "0:2"},
    ]


def test_the_latest_message_of_a_key_that_is_avro(avro_bus: AvroBus, open_avro: Callable[..., KafkaTarget]) -> None:
    """A record's field, and a key that is no record; the value need not hold it."""
    value = {"type": "record", "name": "Stock", "fields": [{"name": "count", "type": "int"}]}
    key = {"type": "record", "name": "Key", "fields": [{"name": "sku", "type": "string"}]}
    text = LATEST.replace('"id"', '"sku"') + AVRO + 'message_key_is = "avro"\n'

    def put(definition: Any, sku: Any, count: int | None) -> None:
        raw_key = avro_bus.framed(definition, sku, f"{avro_bus.topic}-{uuid.uuid4().hex}-key")
        avro_bus.write(None if count is None else avro_bus.framed(value, {"count": count}), key=raw_key)

    target = open_avro(text)
    for count in (3, 2):
        put(key, {"sku": "A-1"}, count)
    put("string", "A-2", 5)
    put("long", 17, 6)
    put(key, {"sku": "A-3"}, 1)
    assert [count_at(target, sku) for sku in ("A-1", "A-2", "17", "A-3", "A-4")] == [2, 5, 6, 1, None]
    put(key, {"sku": "A-3"}, None)
    avro_bus.write(avro_bus.framed(value, {"count": 9}), key="no Avro")
    assert [count_at(target, sku) for sku in ("A-1", "A-3", "no Avro")] == [2, None, None]
    assert {row.address.row.key for row in target.scan("orders")} == {("A-1",), ("A-2",), ("17",)}
    put({**key, "fields": [*key["fields"], {"name": "x", "type": "int", "default": 0}]}, {"sku": "A-1", "x": 0}, 4)
    assert "2 message keys hold the row" in str(count_at(target, "A-1"))


def test_rows_whose_key_their_values_hold(avro_bus: AvroBus, open_avro: Callable[..., KafkaTarget]) -> None:
    target = open_avro(LATEST.replace('message_key = "id"\n', "") + AVRO, BY_STATUS)
    for definition, status in ((V1, "new"), (V2, "paid")):
        avro_bus.write(avro_bus.framed(definition, {"id": "A-1", "status": status, "total": 1.0}), key="one")
        avro_bus.write(avro_bus.framed(V1, {"id": "A-2", "status": status}), key="two")
        assert [doc["id"] for doc in docs_of(target, status=status)] == ["A-1", "A-2"]
    avro_bus.write(None, key="one")
    found = target.read([order("A-1"), order("A-2")])
    assert [row.row is not None for row in found] == [False, True]
    assert docs_of(target, status="new") == []


def count_at(target: Target, sku: str) -> Any:
    [found] = target.read([order(sku)])
    return None if found.row is None else found.row.problem or doc_of(found.row, "count")


# -- what is no Avro


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (b'{"id": "A-1"}', "it begins with 7b, and not with 00"),
        (b"", "it begins with nothing"),
        (b"\x00\x00", "it names no schema"),
        (b"\x00\xff\xff\xff\xff", "it names no schema"),
        ("cut off", "it is not Avro of its schema"),
        ("too long", "it is not Avro of its schema (1 bytes are too many)"),
        ("no record", "its value is no Avro record"),
        ("x" * 4_000_001, "more than 4000000"),
    ],
    ids=["JSON", "empty", "no id", "a wrong id", "cut off", "too long", "no record", "large"],
)
def test_what_is_no_avro_of_its_schema_is_the_rows_problem(
    avro_bus: AvroBus, open_avro: Callable[..., KafkaTarget], value: bytes | str, problem: str
) -> None:
    whole = avro_bus.framed(V1, {"id": "A-1", "status": "fine"})
    spoilt = {
        "cut off": whole[:-1],
        "too long": whole + b"x",
        "no record": avro_bus.framed("string", "x", f"{avro_bus.topic}-s"),
    }
    avro_bus.write(value if isinstance(value, bytes) else spoilt.get(value, value.encode()), EFFECT)
    avro_bus.write(whole, EFFECT)
    found = docs_of(open_avro(EACH + AVRO), reference=EFFECT)
    assert problem in found[0]
    assert found[1]["status"] == "fine"


_TREE = {
    "type": "record",
    "name": "Tree",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "children", "type": {"type": "array", "items": "Tree"}},
    ],
}
_JSON_SCHEMA = {"$schema": "http://json-schema.org/draft-07/schema#", "title": "Order", "type": "object"}
_NOTHINGS = order_schema({"name": "n", "type": {"type": "array", "items": "null"}})


@pytest.mark.parametrize(
    ("kind", "definition", "content", "problem"),
    [
        ("AVRO", _TREE, b"\x02a\x00" * 50_000, "it is recursive: Tree contains itself"),
        ("AVRO", _NOTHINGS, b"\x02a\x02b" + b"\x80\xe1\xeb\x17\x00", "items that take no bytes"),
        ("AVRO", nested(400), b"\x00", "nested deeper than 300"),
        (
            "PROTOBUF",
            'syntax = "proto3"; message Order { string id = 1; }',
            b"\x00\x0a\x03A-1",
            "is PROTOBUF, not Avro",
        ),
        ("JSON", _JSON_SCHEMA, b'{"id": "A-1"}', "is JSON, not Avro"),
    ],
    ids=["recursive", "of no size", "deep", "Protobuf", "JSON Schema"],
)
def test_a_schema_that_is_not_read_is_told_and_nothing_is_absent_for_it(
    avro_bus: AvroBus, open_avro: Callable[..., KafkaTarget], kind: str, definition: Any, content: bytes, problem: str
) -> None:
    """Where headers and positions say which row it is, it has a problem; where its value would, nobody knows."""
    schema_id = avro_bus.register(definition, kind=kind)
    avro_bus.write(framed(schema_id, content), EFFECT, key="A-1")
    avro_bus.write(avro_bus.framed(V1, {"id": "A-2", "status": "fine"}, f"{avro_bus.topic}-good"), OTHER, key="A-2")
    target = open_avro(EACH + AVRO, BY_STATUS)
    assert problem in docs_of(target, reference=EFFECT)[0]
    assert [doc["status"] for doc in docs_of(target, reference=OTHER)] == ["fine"]
    maybe, sure = docs_of(target, status="fine", reference=EFFECT), docs_of(target, status="other", reference=OTHER)
    assert [problem in str(one) for one in maybe] == [True]
    assert sure == []
    by_value = open_avro(LATEST.replace('message_key = "id"\n', "") + AVRO)
    trouble, reason = trouble_of(lambda: by_value.read([order("A-9")]))
    assert trouble == "unreadable"
    assert problem in reason
    [mistake] = target.check()
    assert problem in str(mistake)


def test_a_key_of_a_schema_that_is_not_read_may_be_any_row(
    avro_bus: AvroBus, open_avro: Callable[..., KafkaTarget]
) -> None:
    target = open_avro(LATEST + AVRO + 'message_key_is = "avro"\n')
    good = avro_bus.framed(V1, {"id": "A-1", "status": "fine"})
    avro_bus.write(good, key=avro_bus.framed("string", "A-1", f"{avro_bus.topic}-key"))
    assert [found.row is not None for found in target.read([order("A-1")])] == [True]
    avro_bus.write(good, key=framed(avro_bus.register(_TREE, f"{avro_bus.topic}-tree"), b"\x02a\x00"))
    for _ in range(2):
        trouble, reason = trouble_of(lambda: target.read([order("A-1")]))
        assert [trouble, "Tree contains itself" in reason] == ["unreadable", True]


def test_json_may_have_the_id_of_its_schema_before_it(avro_bus: AvroBus, open_avro: Callable[..., KafkaTarget]) -> None:
    serialize = JSONSerializer(json.dumps(_JSON_SCHEMA), avro_bus.client)
    value = serialize({"status": "paid"}, SerializationContext(avro_bus.topic, MessageField.VALUE))
    assert isinstance(value, bytes)
    assert value.startswith(b"\x00")
    for raw in (value, b'{"status": "paid"}', value[:4]):
        avro_bus.write(raw, EFFECT)
    avro_bus.schema_registry = {}  # it is not asked
    target = open_avro(EACH, BY_STATUS)
    found = docs_of(target, reference=EFFECT)
    assert [one["status"] if isinstance(one, dict) else "no JSON" for one in found] == ["paid", "paid", "no JSON"]
    assert len(docs_of(target, status="paid", reference=EFFECT)) == 3  # of the third nobody knows
    assert docs_of(target, status="open", reference=OTHER) == []
