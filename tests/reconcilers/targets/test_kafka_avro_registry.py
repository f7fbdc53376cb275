"""A Kafka target's Schema Registry: without its word there is no answer, and wrong settings are told."""

import re
import sys
import uuid
from collections.abc import Callable, Mapping
from contextlib import closing

import pytest

from counterfoil.errors import SettingsError
from counterfoil_reconcilers.contracts import ContractError
from counterfoil_reconcilers.targets import kafka_schemas
from counterfoil_reconcilers.targets.kafka import KafkaTarget
from counterfoil_reconcilers.targets.kafka_options import KafkaConnection
from counterfoil_reconcilers.targets.kafka_schemas import Schemas
from counterfoil_reconcilers.targets.opening import open_target
from tests.fix_answers import Answer, Answering
from tests.fix_avro_bus import AVRO, BY_STATUS, V1, V2, AvroBus, as_written, framed, order_schema, trouble_of
from tests.fix_registry import Apicurio
from tests.reconcilers.targets.bus import EACH, EFFECT, LATEST, OTHER, docs_of, order
from tests.reconcilers.targets.conformance import doc_of

# -- a registry that is away, refuses, or does not know


def test_with_the_registry_away_what_is_known_is_read_and_nothing_is_lost(
    avro_bus: AvroBus, apicurio: Apicurio, open_avro: Callable[..., KafkaTarget]
) -> None:
    target = open_avro(EACH + AVRO, BY_STATUS)
    first, second = (avro_bus.framed(schema, {"id": "A", "status": "paid", "total": 1.0}) for schema in (V1, V2))
    avro_bus.write(first, EFFECT)
    assert len(docs_of(target, status="paid")) == 1
    with apicurio.silent():
        avro_bus.write(first, EFFECT)
        assert len(docs_of(target, status="paid")) == 2
        for value in (second, first):
            avro_bus.write(value, EFFECT)
        for ask in (lambda: docs_of(target, status="paid"), lambda: target.read([order("0:9")])):
            trouble, reason = trouble_of(ask)
            assert [trouble, "does not answer" in reason] == ["away", True]
            assert "COUNTERFOIL_TARGETS__BUS__SCHEMA_REGISTRY_URL" in reason
        with avro_bus.target(EACH + AVRO) as by_header:  # what no index needs is read when it is asked for
            assert docs_of(by_header, reference=OTHER) == []
            assert trouble_of(lambda: docs_of(by_header, reference=EFFECT))[0] == "away"
    assert [doc["position"] for doc in docs_of(target, status="paid")] == ["0:0", "0:1", "0:2", "0:3"]


def test_an_id_that_the_registry_does_not_know_is_no_answer_until_it_does(
    avro_bus: AvroBus, open_avro: Callable[..., KafkaTarget], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_schemas, "_FORGET_SECONDS", 0.0)
    target = open_avro(EACH + AVRO, BY_STATUS)
    keyed = open_avro(LATEST + AVRO)
    known, late = (order_schema(name=f"{name}{uuid.uuid4().hex}") for name in ("Known", "Late"))
    avro_bus.write(avro_bus.framed(known, {"id": "A-1", "status": "paid"}), EFFECT, key="A-1")
    coming = avro_bus.register(known) + 1  # the registry counts
    avro_bus.write(framed(coming, as_written(late, {"id": "A-2", "status": "late"})), OTHER, key="A-2")
    for status in ("late", "never"):
        trouble, reason = trouble_of(lambda status=status: docs_of(target, status=status))  # type: ignore[misc]
        assert trouble == "unreadable"
        assert (
            f"schema {coming}, which the Schema Registry at {avro_bus.schema_registry['url']} does not know" in reason
        )
    assert trouble_of(lambda: list(target.scan("orders")))[0] == "unreadable"
    assert [doc["status"] for doc in docs_of(target, reference=EFFECT)] == ["paid"]  # its header says all
    assert keyed.read([order("A-1"), order("A-9")])[1].row is None
    latest = open_avro(LATEST + AVRO, BY_STATUS)
    assert trouble_of(lambda: docs_of(latest, status="late"))[0] == "unreadable"
    assert trouble_of(lambda: keyed.read([order("A-2")]))[0] == "unreadable"
    assert avro_bus.register(late, f"{avro_bus.topic}-late") == coming
    assert [doc["id"] for doc in docs_of(target, status="late")] == ["A-2"]
    assert docs_of(target, status="never") == []
    assert len(list(target.scan("orders"))) == 2
    assert [doc["id"] for doc in docs_of(latest, status="late")] == ["A-2"]
    avro_bus.write(avro_bus.framed(late, {"id": "A-2", "status": "later"}, f"{avro_bus.topic}-late"), key="A-2")
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
    avro_bus: AvroBus, apicurio: Apicurio, open_avro: Callable[..., KafkaTarget]
) -> None:
    target = open_avro(LATEST + AVRO + 'message_key_is = "avro"\n')
    avro_bus.write(
        avro_bus.framed(V1, {"id": "x", "status": "paid"}),
        key=avro_bus.framed("string", "A-1", f"{avro_bus.topic}-key"),
    )
    with apicurio.silent():
        assert trouble_of(lambda: target.read([order("A-1")]))[0] == "away"
    [found] = target.read([order("A-1")])
    assert doc_of(found.row, "status") == "paid"


# -- settings, contracts and their check


def test_the_check_looks_for_the_subject(avro_bus: AvroBus, open_avro: Callable[..., KafkaTarget]) -> None:
    avro_bus.register(V1, f"{avro_bus.topic}-values")
    [mistake] = open_avro(EACH + AVRO).check()
    assert f"has no subject {avro_bus.topic}-value; did you mean {avro_bus.topic}-values?" in str(mistake)
    assert "say subject" in str(mistake)
    assert mistake.line == 2 + (EACH + AVRO).splitlines().index(AVRO.strip())
    assert open_avro(EACH + AVRO + f'subject = "{avro_bus.topic}-values"\n').check() == []
    [mistake] = open_avro(EACH + AVRO + 'subject = "nobody-s"\n').check()
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
def test_a_contract_that_says_it_wrong_is_told_with_its_line(avro_bus: AvroBus, line: str, sentence: str) -> None:
    with pytest.raises(ContractError, match=re.escape(sentence)) as caught:
        avro_bus.contracts(EACH + line)
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
    avro_bus: AvroBus, given: Mapping[str, str], sentence: str
) -> None:
    url = {} if not given else {"schema_registry_url": "http://registry:8081"}
    with pytest.raises(SettingsError) as caught:
        open_target(avro_bus.contracts(EACH + AVRO), "bus", {"bus": {"bootstrap_servers": "x:1", **url, **given}})
    assert sentence in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_without_its_extra_the_missing_one_is_named(avro_bus: AvroBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka.schema_registry", None)
    with pytest.raises(SettingsError, match=re.escape("pip install 'counterfoil[registry]'")):
        avro_bus.target(EACH + AVRO)
    avro_bus.target(EACH).close()


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
