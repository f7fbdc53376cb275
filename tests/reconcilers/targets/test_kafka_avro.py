"""Avro on Kafka by a real Schema Registry: each message by its own schema, and none without the registry's word."""

import datetime as dt
import json
import re
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.schema_registry import Schema, SchemaReference, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroSerializer
from confluent_kafka.schema_registry.json_schema import JSONSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

from counterfoil.errors import SettingsError
from counterfoil_reconcilers.contracts import ContractError
from counterfoil_reconcilers.targets import kafka_schemas
from counterfoil_reconcilers.targets.kafka import KafkaTarget
from counterfoil_reconcilers.targets.kafka_options import KafkaConnection
from counterfoil_reconcilers.targets.kafka_schemas import Schemas
from counterfoil_reconcilers.targets.opening import open_target
from counterfoil_reconcilers.targets.port import Target, TargetUnavailable
from counterfoil_reconcilers.values import shown
from tests.fix_answers import Answer, Answering
from tests.fix_registry import Apicurio
from tests.reconcilers.targets.bus import EACH, EFFECT, LATEST, OTHER, Bus, docs_of, order
from tests.reconcilers.targets.conformance import MINE, SECRET, Conformance, Subject, doc_of
from tests.reconcilers.targets.test_avro_values import as_written, nested

PAGE = Path(__file__).parents[3] / "docs" / "targets.md"
SECTION = PAGE.read_text(encoding="utf-8").partition("\n### Avro\n")[2].partition("\n## ")[0]
ROW = re.compile(r"^\| `(.+?)` \| `(.+?)` \| `(.+?)` \|$", re.MULTILINE)
ROWS = ROW.findall(SECTION.partition("| type | written | comes as |")[2])
AVRO = 'value = "avro"\n'
BY_STATUS = """
[tools.publish]
target = "bus"
[[tools.publish.writes]]
resource = "orders"
create = true
find = { status = "args.status" }
set.status = "args.status"
"""


def order_schema(*more: Mapping[str, Any], name: str = "Order") -> dict[str, Any]:
    fields = [{"name": "id", "type": "string"}, {"name": "status", "type": "string"}]
    return {"type": "record", "name": name, "namespace": "com.acme", "fields": [*fields, *more]}


V1 = order_schema()
V2 = order_schema({"name": "total", "type": ["null", "double"], "default": None})


class AvroBus(Bus):
    """A topic whose schemas are in a registry."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.client = SchemaRegistryClient({"url": self.schema_registry["url"]})

    def register(
        self,
        definition: Any,
        subject: str | None = None,
        kind: str = "AVRO",
        references: Mapping[str, str] | None = None,
    ) -> int:
        """The schema's id. `references`: a type's name, and the subject where its newest version is."""
        text = definition if kind == "PROTOBUF" else json.dumps(definition)
        named = [
            SchemaReference(name, where, self.client.get_latest_version(where).version)
            for name, where in (references or {}).items()
        ]
        return self.client.register_schema(subject or f"{self.topic}-value", Schema(text, kind, named))

    def framed(self, definition: Any, value: Any, subject: str | None = None) -> bytes:
        """A value as Confluent's serializer writes it."""
        return framed(self.register(definition, subject), as_written(definition, value))


def framed(schema_id: int, content: bytes) -> bytes:
    return b"\x00" + schema_id.to_bytes(4, "big") + content


@pytest.fixture
def bus(kafka: dict[str, str], schema_registry: dict[str, str], tmp_path: Path) -> Iterator[AvroBus]:
    impatient = {**schema_registry, "timeout": "1", "max.retries": "0"}
    made = AvroBus(kafka["bootstrap.servers"], tmp_path, schema_registry=impatient)
    with closing(made.client):
        yield made


@pytest.fixture
def opened(bus: AvroBus) -> Iterator[Callable[..., KafkaTarget]]:
    """Opens targets on the bus, and closes them."""
    targets: list[KafkaTarget] = []

    def open_(*arguments: Any, **named: Any) -> KafkaTarget:
        targets.append(bus.target(*arguments, **named))
        return targets[-1]

    yield open_
    for target in targets:
        target.close()


def trouble_of(ask: Callable[[], Any]) -> tuple[str, str]:
    with pytest.raises(TargetUnavailable) as caught:
        ask()
    return caught.value.trouble, caught.value.reason


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


def test_confluent_s_own_serializer_writes_what_is_read(bus: AvroBus, opened: Callable[..., KafkaTarget]) -> None:
    fields: list[Mapping[str, Any]] = [
        {"name": "amount", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "ref", "type": {"type": "string", "logicalType": "uuid"}},
        {"name": "day", "type": ["null", {"type": "int", "logicalType": "date"}]},
    ]
    serialize = AvroSerializer(bus.client, json.dumps(order_schema(*fields)))
    ref = uuid.uuid4()
    written = {
        "id": "A-1",
        "status": "paid",
        "amount": Decimal("12.50"),
        "at": dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC),
        "ref": ref,
        "day": dt.date(2026, 1, 31),
    }
    bus.write(serialize(written, SerializationContext(bus.topic, MessageField.VALUE)), EFFECT)
    [doc] = docs_of(opened(EACH + AVRO), reference=EFFECT)
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


def test_each_message_is_read_by_its_own_schema(bus: AvroBus, opened: Callable[..., KafkaTarget]) -> None:
    """Of versions of a subject, and of a subject of another name."""
    refund = {"type": "record", "name": "Refund", "fields": [{"name": "status", "type": "string"}]}
    bus.write(bus.framed(V1, {"id": "A-1", "status": "paid"}), EFFECT)
    bus.write(bus.framed(V2, {"id": "A-2", "status": "Paid", "total": 12.5}), EFFECT)
    bus.write(bus.framed(refund, {"status": "paid"}, f"{bus.topic}-com.acme.Refund"), OTHER)
    bus.write(bus.framed(V1, {"id": "A-3", "status": "open"}), EFFECT)
    target = opened(EACH + AVRO + "fields.status = { ignore_case = true }\n", BY_STATUS)
    assert [doc.get("id") for doc in docs_of(target, status="PAID")] == ["A-1", "A-2", None]
    assert [doc.get("total", "none") for doc in docs_of(target, reference=EFFECT)] == ["none", 12.5, "none"]
    bus.write(bus.framed(V2, {"id": "A-4", "status": "paid", "total": None}))
    assert [doc["position"] for doc in docs_of(target, status="paid")] == ["0:0", "0:1", "0:2", "0:4"]
    assert [doc["id"] for doc in docs_of(target, id="A-4")] == ["A-4"]


def test_references_are_resolved(bus: AvroBus, opened: Callable[..., KafkaTarget]) -> None:
    money = {"type": "record", "name": "com.acme.Money", "fields": [{"name": "cents", "type": "long"}]}
    bus.register(money, f"{bus.topic}-money")
    order_ = order_schema({"name": "total", "type": "com.acme.Money"})
    references = {"com.acme.Money": f"{bus.topic}-money"}
    order_id = bus.register(order_, f"{bus.topic}-order", references=references)
    refund = {
        "type": "record",
        "name": "com.acme.Refund",
        "fields": [{"name": "back", "type": ["null", "com.acme.Money"]}],
    }
    bus.register(refund, f"{bus.topic}-refund", references=references)
    either = bus.register(
        ["com.acme.Order", "com.acme.Refund"],
        references={"com.acme.Order": f"{bus.topic}-order", "com.acme.Refund": f"{bus.topic}-refund"},
    )
    # As Avro 1.12 writes them: lengths doubled, then a union's branch, doubled.
    bus.write(framed(order_id, b"\x06A-1\x08paid\x0e"))
    bus.write(framed(either, b"\x00\x06A-2\x08paid\x0e"))
    bus.write(framed(either, b"\x02\x02\x0e"))
    docs = [row.row.problem or row.row.doc for row in opened(EACH + AVRO).scan("orders") if row.row is not None]
    assert docs == [
        {"id": "A-1", "status": "paid", "total": {"cents": 7.0}, "position": "0:0"},
        {"id": "A-2", "status": "paid", "total": {"cents": 7.0}, "position": "0:1"},
        {"back": {"cents": 7.0}, "position": "0:2"},
    ]


def test_the_latest_message_of_a_key_that_is_avro(bus: AvroBus, opened: Callable[..., KafkaTarget]) -> None:
    """A record's field, and a key that is no record; the value need not hold it."""
    value = {"type": "record", "name": "Stock", "fields": [{"name": "count", "type": "int"}]}
    key = {"type": "record", "name": "Key", "fields": [{"name": "sku", "type": "string"}]}
    text = LATEST.replace('"id"', '"sku"') + AVRO + 'message_key_is = "avro"\n'

    def put(definition: Any, sku: Any, count: int | None) -> None:
        raw_key = bus.framed(definition, sku, f"{bus.topic}-{uuid.uuid4().hex}-key")
        bus.write(None if count is None else bus.framed(value, {"count": count}), key=raw_key)

    target = opened(text)
    for count in (3, 2):
        put(key, {"sku": "A-1"}, count)
    put("string", "A-2", 5)
    put("long", 17, 6)
    put(key, {"sku": "A-3"}, 1)
    assert [count_at(target, sku) for sku in ("A-1", "A-2", "17", "A-3", "A-4")] == [2, 5, 6, 1, None]
    put(key, {"sku": "A-3"}, None)
    bus.write(bus.framed(value, {"count": 9}), key="no Avro")
    assert [count_at(target, sku) for sku in ("A-1", "A-3", "no Avro")] == [2, None, None]
    assert {row.address.row.key for row in target.scan("orders")} == {("A-1",), ("A-2",), ("17",)}
    put({**key, "fields": [*key["fields"], {"name": "x", "type": "int", "default": 0}]}, {"sku": "A-1", "x": 0}, 4)
    assert "2 message keys hold the row" in str(count_at(target, "A-1"))


def test_rows_whose_key_their_values_hold(bus: AvroBus, opened: Callable[..., KafkaTarget]) -> None:
    target = opened(LATEST.replace('message_key = "id"\n', "") + AVRO, BY_STATUS)
    for definition, status in ((V1, "new"), (V2, "paid")):
        bus.write(bus.framed(definition, {"id": "A-1", "status": status, "total": 1.0}), key="one")
        bus.write(bus.framed(V1, {"id": "A-2", "status": status}), key="two")
        assert [doc["id"] for doc in docs_of(target, status=status)] == ["A-1", "A-2"]
    bus.write(None, key="one")
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
    bus: AvroBus, opened: Callable[..., KafkaTarget], value: bytes | str, problem: str
) -> None:
    whole = bus.framed(V1, {"id": "A-1", "status": "fine"})
    spoilt = {"cut off": whole[:-1], "too long": whole + b"x", "no record": bus.framed("string", "x", f"{bus.topic}-s")}
    bus.write(value if isinstance(value, bytes) else spoilt.get(value, value.encode()), EFFECT)
    bus.write(whole, EFFECT)
    found = docs_of(opened(EACH + AVRO), reference=EFFECT)
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
    bus: AvroBus, opened: Callable[..., KafkaTarget], kind: str, definition: Any, content: bytes, problem: str
) -> None:
    """Where headers and positions say which row it is, it has a problem; where its value would, nobody knows."""
    schema_id = bus.register(definition, kind=kind)
    bus.write(framed(schema_id, content), EFFECT, key="A-1")
    bus.write(bus.framed(V1, {"id": "A-2", "status": "fine"}, f"{bus.topic}-good"), OTHER, key="A-2")
    target = opened(EACH + AVRO, BY_STATUS)
    assert problem in docs_of(target, reference=EFFECT)[0]
    assert [doc["status"] for doc in docs_of(target, reference=OTHER)] == ["fine"]
    maybe, sure = docs_of(target, status="fine", reference=EFFECT), docs_of(target, status="other", reference=OTHER)
    assert [problem in str(one) for one in maybe] == [True]
    assert sure == []
    by_value = opened(LATEST.replace('message_key = "id"\n', "") + AVRO)
    trouble, reason = trouble_of(lambda: by_value.read([order("A-9")]))
    assert trouble == "unreadable"
    assert problem in reason
    [mistake] = target.check()
    assert problem in str(mistake)


def test_a_key_of_a_schema_that_is_not_read_may_be_any_row(bus: AvroBus, opened: Callable[..., KafkaTarget]) -> None:
    target = opened(LATEST + AVRO + 'message_key_is = "avro"\n')
    good = bus.framed(V1, {"id": "A-1", "status": "fine"})
    bus.write(good, key=bus.framed("string", "A-1", f"{bus.topic}-key"))
    assert [found.row is not None for found in target.read([order("A-1")])] == [True]
    bus.write(good, key=framed(bus.register(_TREE, f"{bus.topic}-tree"), b"\x02a\x00"))
    for _ in range(2):
        trouble, reason = trouble_of(lambda: target.read([order("A-1")]))
        assert [trouble, "Tree contains itself" in reason] == ["unreadable", True]


def test_json_may_have_the_id_of_its_schema_before_it(bus: AvroBus, opened: Callable[..., KafkaTarget]) -> None:
    serialize = JSONSerializer(json.dumps(_JSON_SCHEMA), bus.client)
    value = serialize({"status": "paid"}, SerializationContext(bus.topic, MessageField.VALUE))
    assert isinstance(value, bytes)
    assert value.startswith(b"\x00")
    for raw in (value, b'{"status": "paid"}', value[:4]):
        bus.write(raw, EFFECT)
    bus.schema_registry = {}  # it is not asked
    target = opened(EACH, BY_STATUS)
    found = docs_of(target, reference=EFFECT)
    assert [one["status"] if isinstance(one, dict) else "no JSON" for one in found] == ["paid", "paid", "no JSON"]
    assert len(docs_of(target, status="paid", reference=EFFECT)) == 3  # of the third nobody knows
    assert docs_of(target, status="open", reference=OTHER) == []


# -- a registry that is away, refuses, or does not know


def test_with_the_registry_away_what_is_known_is_read_and_nothing_is_lost(
    bus: AvroBus, apicurio: Apicurio, opened: Callable[..., KafkaTarget]
) -> None:
    target = opened(EACH + AVRO, BY_STATUS)
    first, second = (bus.framed(schema, {"id": "A", "status": "paid", "total": 1.0}) for schema in (V1, V2))
    bus.write(first, EFFECT)
    assert len(docs_of(target, status="paid")) == 1
    with apicurio.silent():
        bus.write(first, EFFECT)
        assert len(docs_of(target, status="paid")) == 2
        for value in (second, first):
            bus.write(value, EFFECT)
        for ask in (lambda: docs_of(target, status="paid"), lambda: target.read([order("0:9")])):
            trouble, reason = trouble_of(ask)
            assert [trouble, "does not answer" in reason] == ["away", True]
            assert "COUNTERFOIL_TARGETS__BUS__SCHEMA_REGISTRY_URL" in reason
        with bus.target(EACH + AVRO) as by_header:  # what no index needs is read when it is asked for
            assert docs_of(by_header, reference=OTHER) == []
            assert trouble_of(lambda: docs_of(by_header, reference=EFFECT))[0] == "away"
    assert [doc["position"] for doc in docs_of(target, status="paid")] == ["0:0", "0:1", "0:2", "0:3"]


def test_an_id_that_the_registry_does_not_know_is_no_answer_until_it_does(
    bus: AvroBus, opened: Callable[..., KafkaTarget], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_schemas, "_FORGET_SECONDS", 0.0)
    target = opened(EACH + AVRO, BY_STATUS)
    keyed = opened(LATEST + AVRO)
    known, late = (order_schema(name=f"{name}{uuid.uuid4().hex}") for name in ("Known", "Late"))
    bus.write(bus.framed(known, {"id": "A-1", "status": "paid"}), EFFECT, key="A-1")
    coming = bus.register(known) + 1  # the registry counts
    bus.write(framed(coming, as_written(late, {"id": "A-2", "status": "late"})), OTHER, key="A-2")
    for status in ("late", "never"):
        trouble, reason = trouble_of(lambda status=status: docs_of(target, status=status))  # type: ignore[misc]
        assert trouble == "unreadable"
        assert f"schema {coming}, which the Schema Registry at {bus.schema_registry['url']} does not know" in reason
    assert trouble_of(lambda: list(target.scan("orders")))[0] == "unreadable"
    assert [doc["status"] for doc in docs_of(target, reference=EFFECT)] == ["paid"]  # its header says all
    assert keyed.read([order("A-1"), order("A-9")])[1].row is None
    latest = opened(LATEST + AVRO, BY_STATUS)
    assert trouble_of(lambda: docs_of(latest, status="late"))[0] == "unreadable"
    assert trouble_of(lambda: keyed.read([order("A-2")]))[0] == "unreadable"
    assert bus.register(late, f"{bus.topic}-late") == coming
    assert [doc["id"] for doc in docs_of(target, status="late")] == ["A-2"]
    assert docs_of(target, status="never") == []
    assert len(list(target.scan("orders"))) == 2
    assert [doc["id"] for doc in docs_of(latest, status="late")] == ["A-2"]
    bus.write(bus.framed(late, {"id": "A-2", "status": "later"}, f"{bus.topic}-late"), key="A-2")
    assert [docs_of(latest, status="late"), len(docs_of(latest, status="later"))] == [[], 1]


@pytest.mark.parametrize(
    ("answer", "trouble", "sentence"),
    [
        (Answer(401), "refused", "check COUNTERFOIL_TARGETS__BUS__SCHEMA_REGISTRY_BASIC_AUTH_USER_INFO"),
        (Answer(403), "refused", "give this user the right to read"),
        (Answer(429), "throttled", "answers 429"),
        (Answer(503), "away", "answers 503"),
        (Answer(404), "unreadable", "check the path in COUNTERFOIL_TARGETS__BUS__SCHEMA_REGISTRY_URL"),
        (Answer(404, b'{"error_code": 40403, "message": "none"}'), "unreadable", "does not know"),
        (Answer(200, b"<html>"), "away", "does not answer"),
        (Answer(200, b"{}"), "unreadable", "answers without a schema"),
    ],
    ids=lambda given: f"{given.status} {given.body.decode()}" if isinstance(given, Answer) else None,
)
def test_what_is_no_word_of_the_registry_is_no_answer(
    answering: Answering, answer: Answer, trouble: str, sentence: str
) -> None:
    answering.say = lambda _: answer
    schemas = Schemas("bus", {"url": answering.url, "max.retries": "0"})
    with closing(schemas):
        for _ in range(2):
            told = trouble_of(lambda: schemas.decode(framed(1, b"")))
            assert told[0] == trouble
            assert sentence in told[1]


def test_keys_by_which_rows_are_named_wait_for_their_schema(
    bus: AvroBus, apicurio: Apicurio, opened: Callable[..., KafkaTarget]
) -> None:
    target = opened(LATEST + AVRO + 'message_key_is = "avro"\n')
    bus.write(bus.framed(V1, {"id": "x", "status": "paid"}), key=bus.framed("string", "A-1", f"{bus.topic}-key"))
    with apicurio.silent():
        assert trouble_of(lambda: target.read([order("A-1")]))[0] == "away"
    [found] = target.read([order("A-1")])
    assert doc_of(found.row, "status") == "paid"


# -- settings, contracts and their check


def test_the_check_looks_for_the_subject(bus: AvroBus, opened: Callable[..., KafkaTarget]) -> None:
    bus.register(V1, f"{bus.topic}-values")
    [mistake] = opened(EACH + AVRO).check()
    assert f"has no subject {bus.topic}-value; did you mean {bus.topic}-values?" in str(mistake)
    assert "say subject" in str(mistake)
    assert mistake.line == 2 + (EACH + AVRO).splitlines().index(AVRO.strip())
    assert opened(EACH + AVRO + f'subject = "{bus.topic}-values"\n').check() == []
    [mistake] = opened(EACH + AVRO + 'subject = "nobody-s"\n').check()
    assert mistake.line == 2 + (EACH + AVRO).count("\n")  # that of `subject`


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('value = "protobuf"', "Protobuf is not read"),
        ('value = "arvo"', "'json', 'text' or 'avro'"),
        ('message_key_is = "avro"', "lacks message_key"),
        ('subject = "orders-value"', 'write value = "avro"'),
    ],
)
def test_a_contract_that_says_it_wrong_is_told_with_its_line(bus: AvroBus, line: str, sentence: str) -> None:
    with pytest.raises(ContractError, match=re.escape(sentence)) as caught:
        bus.contracts(EACH + line)
    assert caught.value.line is not None


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({}, "set COUNTERFOIL_TARGETS__BUS__SCHEMA_REGISTRY_URL=http://host:port"),
        ({"schema_registry_url": "hunter2"}, "set COUNTERFOIL_TARGETS__BUS__SCHEMA_REGISTRY_URL=http://host:port"),
        ({"schema_registry_timeout": "hunter2"}, "COUNTERFOIL_TARGETS__BUS__SCHEMA_REGISTRY_…: timeout is no number"),
        ({"schema_registry_ssl_ca_location": "hunter2"}, "COUNTERFOIL_TARGETS__BUS__SCHEMA_REGISTRY_…"),
        ({"schema_registry_no_such": "hunter2"}, "no.such"),
    ],
)
def test_a_wrong_setting_of_the_registry_is_told_without_its_value(
    bus: AvroBus, given: Mapping[str, str], sentence: str
) -> None:
    url = {} if not given else {"schema_registry_url": "http://registry:8081"}
    with pytest.raises(SettingsError) as caught:
        open_target(bus.contracts(EACH + AVRO), "bus", {"bus": {"bootstrap_servers": "x:1", **url, **given}})
    assert sentence in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_without_its_extra_the_missing_one_is_named(bus: AvroBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka.schema_registry", None)
    with pytest.raises(SettingsError, match=re.escape("pip install 'counterfoil[registry]'")):
        bus.target(EACH + AVRO)
    bus.target(EACH).close()


def test_secrets_of_the_registry_are_not_shown() -> None:
    given = {
        "bootstrap_servers": "x:1",
        "schema_registry_url": "http://a:hunter2@x",
        "SCHEMA_REGISTRY_SSL_KEY": "hunter2",
    }
    connection = KafkaConnection.model_validate(given)
    assert "hunter2" not in repr(connection)
    assert connection.schema_registry == {"url": "http://a:hunter2@x", "ssl.key": "hunter2"}
    assert connection.settings == {"bootstrap.servers": "x:1"}


# -- what every kind of target must do

_CONTRACT = """\
[targets.subject]
kind = "kafka"
[targets.subject.resources.items]
topic = "{topic}"
value = "avro"
rows = "latest"
key = ["id"]
tenant = "tenant"
message_key = "id"
message_key_is = "avro"
headers = {{ tenant = "tenant" }}
"""
_KEY = {
    "type": "record",
    "name": "Key",
    "fields": [{"name": "tenant", "type": "string"}, {"name": "id", "type": "string"}],
}
_LINES = {"type": "array", "items": "string"}
_ADDRESS = {
    "type": "record",
    "name": "Address",
    "fields": [{"name": "city", "type": "string"}, {"name": "lines", "type": _LINES}],
}
_ITEM = {
    "type": "record",
    "name": "Item",
    "fields": [
        {"name": name, "type": ["null", kind], "default": None}
        for name, kind in {
            "status": "string",
            "count": "long",
            "price": "double",
            "note": "string",
            "flag": "boolean",
            "nothing": "string",
            "address": _ADDRESS,
        }.items()
    ],
}


class AvroItems:
    """A topic of Avro keyed by Avro, with schemas in a registry that asks for a login."""

    def __init__(self, bus: AvroBus, guarded: Mapping[str, str], registry: Apicurio) -> None:
        self._bus = bus
        self._registry = registry
        self._value_id = bus.register(_ITEM)
        self._key_id = bus.register(_KEY, f"{bus.topic}-key")
        self.contract = _CONTRACT.format(topic=bus.topic)
        self.lost_contract = (_CONTRACT.format(topic="itemz"), "itemz")
        self.connection = {
            "bootstrap_servers": bus.broker,
            "schema_registry_url": guarded["url"],
            "schema_registry_basic_auth_user_info": guarded["basic.auth.user.info"],
            "schema_registry_timeout": "1",
            "schema_registry_max_retries": "0",
        }
        self.refused = {**self.connection, "schema_registry_basic_auth_user_info": f"agent:{SECRET}"}

    def put(self, tenant: str, key: str, fields: Mapping[str, Any]) -> None:
        self._produce(tenant, key, framed(self._value_id, as_written(_ITEM, fields)))

    def remove(self, tenant: str, key: str) -> None:
        self._produce(tenant, key, None)

    def _produce(self, tenant: str, key: str, value: bytes | None) -> None:
        raw_key = framed(self._key_id, as_written(_KEY, {"tenant": tenant, "id": key}))
        self._bus.write(value, key=raw_key, headers=[("tenant", tenant)])

    @contextmanager
    def away(self) -> Iterator[None]:
        """The registry does not answer, and the row is written by a schema that was not asked for before."""
        more = [*_ITEM["fields"], {"name": "more", "type": ["null", "string"], "default": None}]
        self._value_id = self._bus.register({**_ITEM, "fields": more})
        value = as_written({**_ITEM, "fields": more}, {"status": "paid"})
        self._produce(MINE, "A-1", framed(self._value_id, value))
        with self._registry.silent():
            yield


class TestKafkaAvro(Conformance):
    @pytest.fixture
    def subject(self, bus: AvroBus, guarded_registry: dict[str, str], apicurio: Apicurio) -> Subject:
        return AvroItems(bus, guarded_registry, apicurio)
