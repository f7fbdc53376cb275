"""Confluent's wire format, by the ids of a real Schema Registry."""

import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from counterfoil import DecodeError, Event, Recorder, RecorderSettings, RegistryError, SettingsError
from counterfoil.codec import EnvelopeEncoder, decode, encode
from counterfoil.framing import SINGLE_OBJECT, fingerprint_of
from counterfoil.registry import LEVEL, Registry, register_missing
from counterfoil.subjects import SHARED_TYPES, Entry, entries
from counterfoil.wire_format import ConfluentWireFormat, framing_of
from counterfoil_console.stack.ports import HOST
from counterfoil_schemas import avro_schemas
from tests.events.generated import events
from tests.fix_log import RecordsOf
from tests.fix_registry import Apicurio
from tests.fix_toxiproxy import Toxiproxy
from tests.waiting import wait_until

TOPIC = "counterfoil.events"
NOBODY = {"url": "http://127.0.0.1:1", "max.retries": "0"}


@pytest.fixture(scope="module")
def framing(apicurio: Apicurio) -> Iterator[ConfluentWireFormat]:
    """A framing that is connected to a registry which has all our schemas."""
    with closing(ConfluentWireFormat({"url": apicurio.url}, entries(f"module.{TOPIC}", "module."))) as framing:
        framing.connect()
        yield framing


@pytest.fixture
def client(schema_registry: dict[str, str]) -> Iterator[SchemaRegistryClient]:
    """The registry, asked without any code of ours."""
    with closing(SchemaRegistryClient(dict(schema_registry))) as client:
        yield client


def id_in(value: bytes) -> int:
    return int.from_bytes(value[1:5], "big")


# -- what is registered


def fixed_types(node: Any) -> Iterator[tuple[str, int]]:
    if isinstance(node, list):
        for branch in node:
            yield from fixed_types(branch)
    elif isinstance(node, dict):
        if node.get("type") == "fixed":
            yield node["name"], node["size"]
        for place in ("fields", "type", "items", "values"):
            yield from fixed_types(node.get(place))


def test_a_shared_type_is_the_same_wherever_it_is_defined() -> None:
    found = [one for schema in avro_schemas() for one in fixed_types(schema.definition)]
    assert {(name, size) for name, size in found if name in SHARED_TYPES} == set(SHARED_TYPES.items())


def test_every_schema_is_registered_under_a_subject_of_its_own() -> None:
    found = entries("blue.counterfoil.events", "blue.")
    assert len(found) == len(avro_schemas()) + len(SHARED_TYPES)
    assert {entry.subject for entry in found} == {
        "blue.counterfoil.events-value",
        *(f"blue.counterfoil.{schema.subject}" for schema in avro_schemas() if schema.subject != "event"),
        *(f"blue.counterfoil.{name}" for name in SHARED_TYPES),
    }
    known: set[Entry] = set()
    for entry in found:  # what is referred to comes first
        assert known.issuperset(entry.references)
        known.add(entry)


def test_with_its_references_put_in_a_schema_is_the_one_that_we_ship() -> None:
    shipped = {f"{schema.subject} {schema.version}": schema.definition for schema in avro_schemas()}
    for entry in entries(TOPIC):
        if entry.name in shipped:
            assert fingerprint_of(entry.definition) == fingerprint_of(shipped[entry.name])
    assert {one.name for entry in entries(TOPIC) for one in entry.references} == {
        f"counterfoil.{name}" for name in SHARED_TYPES
    }


def test_the_first_recorder_registers_all_and_holds_them_to_backward_transitive(
    registry_settings: RecorderSettings, topic_prefix: str, client: SchemaRegistryClient
) -> None:
    with Recorder(registry_settings) as recorder:
        recorder.connect()
    ours = entries(f"{topic_prefix}{TOPIC}", topic_prefix)
    assert {subject for subject in client.get_subjects() if subject.startswith(topic_prefix)} == {
        entry.subject for entry in ours
    }
    assert {client.get_compatibility(entry.subject) for entry in ours} == {LEVEL}
    envelope = client.get_latest_version(f"{topic_prefix}{TOPIC}-value").schema
    assert [(ref.name, ref.subject) for ref in envelope.references or ()] == [
        ("counterfoil.Id", f"{topic_prefix}counterfoil.Id")
    ]


def test_the_registry_refuses_what_could_not_read_what_was_written(
    schema_registry: dict[str, str], registry_prefix: str
) -> None:
    first, *_ = [entry for entry in entries(TOPIC, registry_prefix) if entry.name == "task_suspended 1"]
    definition = json.loads(first.text)
    more = [*definition["fields"], {"name": "until", "type": "long"}]
    second = Entry(first.subject, "task_suspended 2", json.dumps({**definition, "fields": more}))
    with Registry(schema_registry) as registry:
        assert register_missing(registry, [first]) == [first]
        assert register_missing(registry, [first]) == []
        with pytest.raises(RegistryError, match=r"answers 409 .*`counterfoil schemas check`"):
            register_missing(registry, [first, second])
        more[-1]["default"] = 0
        third = Entry(first.subject, "task_suspended 3", json.dumps({**definition, "fields": more}))
        assert register_missing(registry, [first, third]) == [third]


def test_a_subject_that_was_not_held_is_held_from_then_on(
    schema_registry: dict[str, str], registry_prefix: str, client: SchemaRegistryClient
) -> None:
    [entry, *_] = entries(TOPIC, registry_prefix)
    client.register_schema(entry.subject, Schema(entry.text, "AVRO"))
    client.set_compatibility(entry.subject, "NONE")
    with Registry(schema_registry) as registry:
        assert register_missing(registry, [entry]) == []
    assert client.get_compatibility(entry.subject) == LEVEL


# -- bytes


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(original=events())
def test_what_is_framed_by_an_id_is_decoded_as_what_is_not(framing: ConfluentWireFormat, original: Event) -> None:
    framed, plain = encode(original, framing), encode(original)
    assert framed[:1] == b"\x00"
    assert framed[5:] == plain[10:]
    assert decode(framed, framing) == decode(plain, framing) == decode(plain)
    assert encode(decode(framed, framing), framing) == framed


def test_the_encoder_of_a_task_frames_likewise(framing: ConfluentWireFormat) -> None:
    event_id = bytes(range(16))
    shared = {"task_id": event_id, "producer_id": event_id, "tenant": "acme", "workflow": "w", "agent": "a"}
    body = {"title": "t", "input": None}
    framed, plain = (
        EnvelopeEncoder(shared, by).encode("task_started", body, event_id, 0, 0) for by in (framing, SINGLE_OBJECT)
    )
    assert framed == framing.prefix(b"") + plain[10:]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(original=events(), data=st.data())
def test_a_truncated_value_is_refused(framing: ConfluentWireFormat, original: Event, data: st.DataObject) -> None:
    value = encode(original, framing)
    with pytest.raises(DecodeError):
        decode(value[: data.draw(st.integers(0, len(value) - 1))], framing)


@pytest.mark.parametrize(
    ("start", "reason_class", "message"),
    [
        ("00 7f ff ff ff", "incompatible", "has no schema with the id 2147483647"),
        ("00 00 00 00 00", "incompatible", "has no schema with the id 0"),
        ("00 ff ff ff ff", "poison", "no schema's id stands"),
        ("00 00 00", "poison", "no schema's id stands"),
    ],
)
def test_an_id_that_nobody_gave_is_refused(
    framing: ConfluentWireFormat, start: str, reason_class: str, message: str
) -> None:
    for _ in range(2):  # the second time from memory
        with pytest.raises(DecodeError, match=message) as refused:
            decode(bytes.fromhex(start), framing)
        assert refused.value.reason_class == reason_class


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (
            "AVRO",
            '{"type": "record", "name": "Order", "fields": [{"name": "id", "type": "string"}]}',
            "not one of ours",
        ),
        ("JSON", '{"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"}', "is JSON, not Avro"),
    ],
)
def test_a_stranger_s_schema_is_refused(
    framing: ConfluentWireFormat, client: SchemaRegistryClient, registry_prefix: str, kind: str, text: str, message: str
) -> None:
    schema_id = client.register_schema(f"{registry_prefix}stranger", Schema(text, kind))
    with pytest.raises(DecodeError, match=message) as refused:
        decode(b"\x00" + schema_id.to_bytes(4, "big") + b"anything", framing)
    assert refused.value.reason_class == "incompatible"


def test_our_schema_registered_by_another_s_hand_is_ours(
    framing: ConfluentWireFormat, client: SchemaRegistryClient, registry_prefix: str
) -> None:
    """As our file has it, every type defined inside: another text and another id for the same schema."""
    [shipped] = [schema.definition for schema in avro_schemas() if schema.subject == "event"]
    schema_id = client.register_schema(f"{registry_prefix}own-value", Schema(json.dumps(shipped), "AVRO"))
    plain = encode(decode(bytes.fromhex(_example())))
    framed = b"\x00" + schema_id.to_bytes(4, "big") + plain[10:]
    assert schema_id != id_in(framing.prefix(b""))
    assert decode(framed, framing) == decode(plain)


def _example() -> str:
    from tests.schemas.avro_text import example_of

    [schema] = [schema for schema in avro_schemas() if schema.subject == "event"]
    return str(example_of(schema)["hex"])


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(original=events())
def test_confluent_s_own_deserializer_reads_the_envelope(
    framing: ConfluentWireFormat, deserialize: Callable[[bytes], dict[str, Any]], original: Event
) -> None:
    value = encode(original, framing)
    ours, theirs = decode(value, framing), deserialize(value)
    assert theirs.pop("body") == ours.raw_body
    assert theirs == {name: getattr(ours, name) for name in theirs}


@pytest.fixture(scope="module")
def deserialize(apicurio: Apicurio) -> Iterator[Callable[[bytes], dict[str, Any]]]:
    """What a consumer without any code of ours uses."""
    with closing(SchemaRegistryClient({"url": apicurio.url, "timeout": 20})) as client:
        read = AvroDeserializer(client)
        yield lambda value: dict(read(value, SerializationContext(f"module.{TOPIC}", MessageField.VALUE)))


def test_a_reader_finds_every_body_s_schema_by_kind_and_fingerprint(
    framing: ConfluentWireFormat, apicurio: Apicurio
) -> None:
    framing.connect()
    with Registry({"url": apicurio.url}) as registry:
        for schema in avro_schemas():
            if schema.subject != "event":
                there = registry.definitions(f"module.counterfoil.{schema.subject}")
                assert fingerprint_of(schema.definition) in map(fingerprint_of, there.values())


def test_recorders_that_start_at_once_on_an_empty_registry_agree(
    schema_registry: dict[str, str], registry_prefix: str
) -> None:
    ours = entries(f"{registry_prefix}{TOPIC}", registry_prefix)

    def prefix() -> bytes:
        return ConfluentWireFormat(schema_registry, ours).prefix(b"")

    with ThreadPoolExecutor(8) as pool:
        prefixes = {future.result() for future in [pool.submit(prefix) for _ in range(8)]}
    assert len(prefixes) == 1


# -- a registry that is away, or refuses


def test_without_a_registry_at_the_start_there_is_a_clear_error(recorder_settings: RecorderSettings) -> None:
    recorder = Recorder(recorder_settings.model_copy(update={"schema_registry": NOBODY}))
    for _ in range(2):
        with pytest.raises(
            RegistryError, match=r"http://127.0.0.1:1 does not answer .*COUNTERFOIL_SCHEMA_REGISTRY__URL"
        ):
            recorder.connect()
    ran = []
    with pytest.raises(RegistryError), recorder.task("t"):
        ran.append(1)
    assert not ran
    recorder.close()


def test_one_that_is_silent_is_not_waited_for_without_end(
    recorder_settings: RecorderSettings, apicurio: Apicurio
) -> None:
    patient = {"url": apicurio.url, "timeout": "0.5", "max.retries": "1", "retries.wait.ms": "1"}
    recorder = Recorder(recorder_settings.model_copy(update={"schema_registry": patient}))
    with apicurio.silent(), pytest.raises(RegistryError, match="does not answer"):
        recorder.connect()
    recorder.connect()  # it is back
    recorder.close()


def test_an_address_without_its_path_is_not_taken_for_an_empty_registry(schema_registry: dict[str, str]) -> None:
    wrong = {"url": schema_registry["url"].removesuffix("/ccompat/v7")}
    with closing(ConfluentWireFormat(wrong, entries(TOPIC))) as framing:
        with pytest.raises(RegistryError, match=r"answers 404 .*/apis/ccompat/v7"):
            framing.fingerprint(1)
        with pytest.raises(RegistryError, match="answers 404"):
            framing.connect()


def test_an_agent_that_may_only_read_finds_what_was_registered_for_it(
    guarded_registry: dict[str, str], schema_registry: dict[str, str], registry_prefix: str
) -> None:
    ours = entries(f"{registry_prefix}{TOPIC}", registry_prefix)
    with pytest.raises(RegistryError, match=r"answers 403 .*`counterfoil schemas register`"):
        ConfluentWireFormat(guarded_registry, ours).connect()
    with Registry(schema_registry) as registry:
        assert register_missing(registry, ours) == list(ours)
    framing = ConfluentWireFormat(guarded_registry, ours)
    framing.connect()
    with closing(framing):
        assert decode(encode(decode(bytes.fromhex(_example())), framing), framing).kind == "tool_intent"
    with pytest.raises(RegistryError, match=r"answers 401 .*BASIC_AUTH_USER_INFO") as refused:
        ConfluentWireFormat({**guarded_registry, "basic.auth.user.info": "agent:falsch"}, ours).connect()
    assert "falsch" not in str(refused.value)


def test_a_password_in_the_address_is_not_told(recorder_settings: RecorderSettings) -> None:
    secret = {"url": "http://me:geheim@127.0.0.1:1", "max.retries": "0"}
    changed = recorder_settings.model_copy(update={"schema_registry": secret})
    with pytest.raises(RegistryError) as refused:
        framing_of(changed).connect()
    assert "http://127.0.0.1:1" in str(refused.value)
    assert "geheim" not in f"{refused.value} {changed!r}"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"basic.auth.user.info": "a:b"}, "set COUNTERFOIL_SCHEMA_REGISTRY__URL"),
        ({"url": "me:geheim@registry:8081"}, r"^((?!geheim).)*set COUNTERFOIL_SCHEMA_REGISTRY__URL((?!geheim).)*$"),
        ({**NOBODY, "no.such": "1"}, "COUNTERFOIL_SCHEMA_REGISTRY__….*no.such"),
        ({**NOBODY, "timeout": "soon"}, "COUNTERFOIL_SCHEMA_REGISTRY__….*timeout is no number"),
        ({**NOBODY, "ssl.ca.location": "/absent.pem"}, "COUNTERFOIL_SCHEMA_REGISTRY__…"),
    ],
)
def test_a_wrong_setting_is_told(given: dict[str, str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        ConfluentWireFormat(given, entries(TOPIC)).connect()


_WITHOUT_THE_EXTRA = """
import sys
sys.modules["authlib"] = None
from counterfoil import Recorder, SettingsError
try:
    Recorder.from_env().connect()
except SettingsError as error:
    print(error)
"""


def test_a_missing_extra_is_named(run_python: Callable[..., str]) -> None:
    said = run_python(_WITHOUT_THE_EXTRA, COUNTERFOIL_SCHEMA_REGISTRY__URL="http://127.0.0.1:1")
    assert said.startswith("a Schema Registry is set, and its client can't load")
    assert said.endswith(": pip install 'counterfoil[registry]'\n")


# -- through the recorder


def test_what_is_recorded_goes_under_the_envelope_s_id(
    registry_settings: RecorderSettings,
    topic_prefix: str,
    client: SchemaRegistryClient,
    records_of: RecordsOf,
) -> None:
    with Recorder(registry_settings) as recorder, recorder.task("t") as task:
        task.review(by="dana")
    values = [record.value or b"" for record in records_of("events")]
    registered = client.get_latest_version(f"{topic_prefix}{TOPIC}-value")
    assert {value[:5] for value in values} == {b"\x00" + int(registered.schema_id or 0).to_bytes(4, "big")}
    with closing(framing_of(registry_settings)) as framing:
        kinds = [decode(value, framing).kind for value in values]
    assert {"producer_opened", "task_started", "review", "task_ended", "producer_closed"} == set(kinds)


_DIES = """
import os
from counterfoil import Recorder
recorder = Recorder.from_env()
with recorder.task("t"):
    pass
recorder.flush()
os._exit(9)
"""


def test_what_a_dead_process_left_is_finished_under_the_same_id(
    registry_settings: RecorderSettings, start_python: Callable[..., Any], records_of: RecordsOf
) -> None:
    process = start_python(_DIES, COUNTERFOIL_SCHEMA_REGISTRY__URL=registry_settings.schema_registry["url"])
    assert process.wait(60) == 9
    with Recorder(registry_settings) as recorder, closing(framing_of(registry_settings)) as framing:
        with recorder.task("another"):
            pass

        def values() -> list[bytes]:
            return [record.value or b"" for record in records_of("events")]

        def said() -> list[Event]:
            return [decode(value, framing) for value in values()]

        wait_until(lambda: any((event.body or {}).get("adopted_by") for event in said()))
        assert len({value[:5] for value in values()}) == 1


def test_the_registry_may_go_once_the_id_is_known(
    recorder_settings: RecorderSettings,
    apicurio: Apicurio,
    toxiproxy: Toxiproxy,
    records_of: RecordsOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Later tasks, a second session and a forked child need it no more; nothing is lost."""
    there = urlsplit(apicurio.url)
    door = toxiproxy.door("registry", there.port or 0)
    url = f"http://{HOST}:{door.port}{there.path}"
    changed = recorder_settings.model_copy(update={"schema_registry": {"url": url, "max.retries": "0"}})
    with Recorder(changed) as recorder:
        recorder.connect()
        door.shut()
        with recorder.task("t") as task, task.effect("pay", target="bank", args={}) as effect:
            effect.ok()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                with recorder.task("child"):
                    pass
                code = 0 if recorder.flush() == 0 else 2
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        first = recorder.session
        with monkeypatch.context() as worn:
            worn.setattr("counterfoil.session._MOST_TASKS", 1)
            assert recorder.session is not first
        with recorder.task("later"):
            pass
    for thread in threading.enumerate():
        if thread.name == "counterfoil-retire":
            thread.join()
    values = [record.value or b"" for record in records_of("events")]
    assert len({value[:5] for value in values}) == 1
    assert values[0][:1] == b"\x00"
    titles = [body["title"] for body in map(_body_of(values[0][:5]), values) if "title" in body]
    assert sorted(titles) == ["child", "later", "t"]


def _body_of(prefix: bytes) -> Callable[[bytes], dict[str, Any]]:
    """Bodies of values framed by one id, read without the registry."""
    plain = encode(decode(bytes.fromhex(_example())))[:10]
    return lambda value: dict(decode(plain + value.removeprefix(prefix)).body or {})
