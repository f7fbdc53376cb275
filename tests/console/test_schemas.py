"""`counterfoil schemas register | check` against a real Schema Registry."""

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient, SchemaRegistryError

from counterfoil.registry import LEVEL
from counterfoil.subjects import SHARED_TYPES, entries
from counterfoil_console.schemas import unreadable
from counterfoil_schemas import avro_schemas
from tests.console.conftest import Call, Said

COUNT = len(avro_schemas()) + len(SHARED_TYPES)


@pytest.fixture
def ask(bare: Call, schema_registry: dict[str, str], registry_prefix: str) -> Call:
    """Calls the command with a registry, and no broker or store."""
    given = {"SCHEMA_REGISTRY__URL": schema_registry["url"], "TOPIC_PREFIX": registry_prefix}
    return lambda *arguments, **changes: bare(*arguments, **(given | changes))


@pytest.fixture
def client(schema_registry: dict[str, str]) -> Iterator[SchemaRegistryClient]:
    """The registry, asked without any code of ours."""
    with closing(SchemaRegistryClient(dict(schema_registry))) as client:
        yield client


def states(said: Said) -> dict[str, Any]:
    return {state["subject"]: state for state in said.json["schemas"]}


def test_all_are_registered_once(ask: Call) -> None:
    before = ask("schemas", "check", "--json")
    assert before.code == 1
    assert {tuple(state["problems"]) for state in states(before).values()} == {
        ("it is not registered; run `counterfoil schemas register`",)
    }
    first = ask("schemas", "register", "--json")
    assert (first.code, len(first.json["registered"])) == (0, COUNT)
    again = ask("schemas", "register", "--json")
    assert (again.code, again.json["registered"], again.json["schemas"]) == (0, [], first.json["schemas"])
    after = ask("schemas", "check", "--json")
    assert (after.code, after.json["schemas"]) == (0, first.json["schemas"])


def _not_held(level: str) -> str:
    return f"its compatibility is {level}, not {LEVEL}; run `counterfoil schemas register`"


def test_what_it_prints_for_a_person(ask: Call, registry_prefix: str) -> None:
    missing = ask("schemas", "check")
    assert missing.code == 1
    assert f"{registry_prefix}counterfoil.gap: gap 1 is missing" in missing.out
    done = ask("schemas", "register")
    assert (done.code, len(done.out.splitlines())) == (0, COUNT)
    assert f"{registry_prefix}counterfoil.events-value: event 1 registered, id " in done.out
    assert f"{registry_prefix}counterfoil.events-value: event 1 is there, id " in ask("schemas", "check").out


def test_what_the_registry_will_refuse_is_said_before(
    ask: Call, client: SchemaRegistryClient, registry_prefix: str
) -> None:
    """Somebody registered another version of a subject of ours, with which gaps were written that ours can't read."""
    [gap] = [one for one in entries(f"{registry_prefix}counterfoil.events", registry_prefix) if one.name == "gap 1"]
    other = {**gap.definition, "fields": gap.definition["fields"][:1]}
    client.register_schema(gap.subject, Schema(json.dumps(other), "AVRO"))
    said = ask("schemas", "check", "--json")
    assert said.code == 1
    [problem] = states(said)[gap.subject]["problems"]
    assert problem.startswith("gap 1 can't read what version 1 in the registry wrote (")
    assert "first_seq" in problem
    assert "answers 409" in ask("schemas", "register").sentence


def test_a_subject_that_is_not_held_is_said(ask: Call, client: SchemaRegistryClient, registry_prefix: str) -> None:
    ask("schemas", "register")
    client.set_compatibility(f"{registry_prefix}counterfoil.verdict", "NONE")
    said = ask("schemas", "check", "--json")
    assert said.code == 1
    assert {name: state["problems"] for name, state in states(said).items() if state["problems"]} == {
        f"{registry_prefix}counterfoil.verdict": [_not_held("NONE")]
    }
    assert ask("schemas", "register").code == 0
    assert client.get_compatibility(f"{registry_prefix}counterfoil.verdict") == LEVEL


def test_another_program_s_subject_is_said(ask: Call, client: SchemaRegistryClient, registry_prefix: str) -> None:
    text = '{"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"}'
    client.register_schema(f"{registry_prefix}counterfoil.gap", Schema(text, "JSON"))
    problem, *_ = states(ask("schemas", "check", "--json"))[f"{registry_prefix}counterfoil.gap"]["problems"]
    assert problem == "the Schema Registry's schema is JSON, not Avro; another program uses this subject"


def test_without_a_registry_what_to_do_is_said(ask: Call) -> None:
    for command in ("register", "check"):
        assert "set COUNTERFOIL_SCHEMA_REGISTRY__URL" in ask("schemas", command, SCHEMA_REGISTRY__URL=None).sentence
        away = {"SCHEMA_REGISTRY__URL": "http://127.0.0.1:1", "SCHEMA_REGISTRY__MAX_RETRIES": "0"}
        assert "http://127.0.0.1:1 does not answer" in ask("schemas", command, **away).sentence


def test_its_password_is_never_shown(bare: Call) -> None:
    given = {
        "SCHEMA_REGISTRY__URL": "http://me:geheim@127.0.0.1:1",
        "SCHEMA_REGISTRY__BASIC_AUTH_USER_INFO": "me:geheim",
        "SCHEMA_REGISTRY__MAX_RETRIES": "0",
    }
    shown = bare("config", "--json", **given)
    assert shown.json["COUNTERFOIL_SCHEMA_REGISTRY"] == (
        "basic.auth.user.info=(set), max.retries=0, url=http://127.0.0.1:1"
    )
    both = bare("schemas", "check", **given)
    del given["SCHEMA_REGISTRY__BASIC_AUTH_USER_INFO"]
    address = bare("schemas", "check", **given)
    assert (both.code, address.code) == (1, 1)
    assert "geheim" not in shown.out + both.err + address.err


def test_doctor_looks_at_it(ask: Call) -> None:
    def found() -> list[tuple[str, str]]:
        said = ask("doctor", "--json").json
        return [(one["grade"], one["todo"]) for one in said if one["check"] == "registry"]

    assert set(found()) == {("bad", "run `counterfoil schemas register`")}
    ask("schemas", "register")
    assert found() == [("good", "")]


_BASE = [{"name": "a", "type": "long"}, {"name": "b", "type": ["null", "string"], "default": None}]


@pytest.mark.parametrize(
    ("fields", "is_compatible"),
    [
        (_BASE, True),
        (_BASE[:1], True),
        ([*_BASE, {"name": "c", "type": "string", "default": ""}], True),
        ([*_BASE, {"name": "c", "type": ["null", "double"], "default": None}], True),
        ([{"name": "a", "type": "double"}, _BASE[1]], True),
        ([_BASE[0], {"name": "b", "type": ["null", "string", "long"], "default": None}], True),
        ([*_BASE, {"name": "c", "type": "string"}], False),
        ([{"name": "a", "type": "int"}, _BASE[1]], False),
        ([{"name": "a", "type": "string"}, _BASE[1]], False),
        ([_BASE[0], {"name": "b", "type": "string"}], False),
        ([_BASE[0], {"name": "b", "type": ["null", "long"], "default": None}], False),
    ],
)
def test_ours_and_the_registry_s_judgement_are_one(
    client: SchemaRegistryClient, registry_prefix: str, fields: list[Any], is_compatible: bool
) -> None:
    def record(fields: list[Any]) -> dict[str, Any]:
        return {"type": "record", "name": "Change", "fields": fields}

    subject = f"{registry_prefix}change"
    client.register_schema(subject, Schema(json.dumps(record(_BASE)), "AVRO"))
    client.set_compatibility(subject, LEVEL)
    assert (unreadable(record(fields), record(_BASE)) == []) is is_compatible
    changed = Schema(json.dumps(record(fields)), "AVRO")
    if is_compatible:
        client.register_schema(subject, changed)
    else:
        with pytest.raises(SchemaRegistryError) as refused:
            client.register_schema(subject, changed)
        assert refused.value.http_status_code == 409
