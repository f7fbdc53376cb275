"""Tenants: registered, given keys, rotated, listed, and given a login that reads their rows alone."""

import datetime as dt
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from counterfoil import Recorder, RecorderSettings
from counterfoil.ids import OPERATORS
from counterfoil.signing import SigningKey
from counterfoil_consumers.store import Connection, fetch_one
from tests.consumers.made import put_key

from .conftest import Call, Said, stored_events


def key_in(said: Said) -> SigningKey:
    """The key that a command printed, alone on stdout."""
    assert said.code == 0, said.err
    [line] = said.out.splitlines()
    assert line not in said.err
    return SigningKey.parse(line)


def test_a_tenant_is_added_once_and_listed(call: Call) -> None:
    assert call("tenant", "list").out == ""
    assert call("tenant", "add", "acme").out == "tenant acme added\n"
    assert call("tenant", "add", "acme").out == "tenant acme is registered already\n"
    said = call("tenant", "list").out
    assert said.startswith("acme  since 20")
    assert said.endswith(", not signed\n")
    [tenant] = call("tenant", "list", "--json").json
    assert (tenant["tenant"], tenant["keys"], tenant["signed_from"]) == ("acme", [], None)
    assert call("tenant", "add", "globex", "--json").json == {"tenant": "globex", "added": True, "login_role": None}


@pytest.mark.parametrize("name", ["Acme", "", OPERATORS, "a" * 41, "a.b"])
def test_a_name_that_is_none(call: Call, name: str) -> None:
    assert "is no tenant's name" in call("tenant", "add", name, "--signed").sentence


def test_what_a_signed_tenant_s_key_signs_is_stored_and_nothing_else(
    call: Call, recorder_settings: RecorderSettings, operator: Connection
) -> None:
    said = call("tenant", "add", "acme", "--signed")
    key = key_in(said)
    assert "every record of it must be signed" in said.err
    assert "COUNTERFOIL_SIGNING_KEYS" in said.err
    signed = RecorderSettings(**recorder_settings.model_dump() | {"signing_keys": key.text()})
    for settings in (signed, recorder_settings):
        with Recorder(settings) as recorder, recorder.task("t"):
            pass
    assert call("ingest", "--once").code == 0
    assert stored_events(operator) > 0
    letters = operator.execute("SELECT tenant, letter_class FROM dead_letter").fetchall()
    assert len(letters) == stored_events(operator)  # each of the two recorded the same
    assert {(row["tenant"], row["letter_class"]) for row in letters} == {(None, "foreign")}
    assert "acme  since" in call("tenant", "list").out
    assert "signed from its first record on" in call("tenant", "list").out
    refused = call("tenant", "add", "acme", "--signed").sentence
    assert refused == "tenant acme is registered already; make it a key with `counterfoil tenant rotate`"


def test_a_rotation_leaves_the_old_key_for_the_grace(call: Call, operator: Connection) -> None:
    first = key_in(call("tenant", "add", "acme", "--signed"))
    said = call("tenant", "rotate", "acme", "--grace", "2h")
    second = key_in(said)
    assert "older keys of acme are taken until 20" in said.err
    assert (first.tenant, second.tenant) == ("acme", "acme")
    assert first.secret != second.secret
    listed = call("tenant", "list", "--json")
    [tenant] = listed.json
    assert [key["key_id"] for key in tenant["keys"]] == [first.key_id, second.key_id]
    left = dt.datetime.fromisoformat(tenant["keys"][0]["retired_at"]) - dt.datetime.now(dt.UTC)
    assert dt.timedelta(hours=1, minutes=58) < left < dt.timedelta(hours=2, minutes=2)
    assert tenant["keys"][1]["retired_at"] is None
    for key in (first, second):
        assert key.text() not in listed.out + call("tenant", "list").out
        assert key.secret.hex() not in listed.out
    assert call("tenant", "list").out.count("  key ") == 2


def test_the_first_key_of_a_tenant_at_work_is_required_after_the_grace(call: Call) -> None:
    assert call("tenant", "add", "acme").code == 0
    said = call("tenant", "rotate", "acme", "--grace", "1d", "--json")
    key = SigningKey.parse(said.json["key"])
    assert (said.json["tenant"], said.json["key_id"]) == (key.tenant, key.key_id) == ("acme", key.key_id)
    assert said.json["said"].startswith("records of acme must be signed from 20")
    [tenant] = call("tenant", "list", "--json").json
    left = dt.datetime.fromisoformat(tenant["signed_from"]) - dt.datetime.now(dt.UTC)
    assert dt.timedelta(hours=23, minutes=58) < left < dt.timedelta(hours=24, minutes=2)


def test_the_operators_have_a_key_like_a_tenant(call: Call) -> None:
    assert key_in(call("tenant", "rotate", OPERATORS)).tenant == OPERATORS
    assert f"{OPERATORS}  reserved, signed from 20" in call("tenant", "list").out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("rotate", "nobody"), "there is no tenant 'nobody'; see `counterfoil tenant list`"),
        (("rotate", "acme", "--grace", "soon"), "'soon' is no length of time"),
        (("rotate", "acme", "--grace", "-1h"), "'-1h' is no length of time"),
        (("login", "nobody", "key_login"), "there is no tenant 'nobody'"),
        (("login", "acme", 'no"such'), 'CREATE ROLE "no""such" LOGIN PASSWORD'),
        (("login", "acme", "counterfoil_auditor"), "can't log in and read: ALTER ROLE"),
        (("login", "acme", "test_migrator"), "sees every tenant's rows"),
        (("login", "globex", "key_login"), "key_login reads the rows of another tenant"),
    ],
)
def test_mistakes_are_one_sentence(call: Call, reader: str, arguments: tuple[str, ...], sentence: str) -> None:
    for tenant in ("acme", "globex"):
        assert call("tenant", "add", tenant).code == 0
    assert call("tenant", "login", "acme", reader).code == 0
    assert sentence in call("tenant", *arguments).sentence


@pytest.fixture
def reader(admin_dsn: str) -> Iterator[str]:
    """A role as a database's administrator makes it for a tenant."""
    with psycopg.connect(admin_dsn, autocommit=True) as admin:
        admin.execute("CREATE ROLE key_login LOGIN PASSWORD 'only-on-loopback' IN ROLE counterfoil_auditor")
        yield "key_login"
        admin.execute("DROP ROLE key_login")


def test_a_login_reads_one_tenant(call: Call, database: str, reader: str, operator: Connection) -> None:
    assert call("tenant", "add", "globex").code == 0
    assert call("tenant", "add", "acme", "--login-role", reader).code == 0
    assert f"read by {reader}" in call("tenant", "list").out
    query = "SELECT tenant FROM counterfoil.tenant"
    with psycopg.connect(make_conninfo(database, user=reader), autocommit=True) as connection:
        assert connection.execute(query).fetchall() == [("acme",)]
        assert call("tenant", "login", "acme").out == "no login role reads the rows of acme\n"
        assert connection.execute(query).fetchall() == []
        assert call("tenant", "login", "globex", reader).out == f"{reader} reads the rows of globex\n"
        assert connection.execute(query).fetchall() == [("globex",)]
    unknown = call("tenant", "add", "initech", "--signed", "--login-role", "no_such_role").sentence
    assert unknown.startswith("there is no role no_such_role; make it: CREATE ROLE")
    count = fetch_one(operator, "SELECT count(*)::int AS n FROM tenant WHERE tenant = 'initech'")  # type: ignore[arg-type]
    assert count["n"] == 0  # all or nothing


# -- doctor

NOW = dt.datetime.now(dt.UTC)
KEY = SigningKey("acme", "k1acme", b"a" * 32)


def signing_findings(said: Said) -> list[tuple[str, str]]:
    return [(one["grade"], one["what"]) for one in said.json if one["check"] == "signing"]


@pytest.mark.parametrize(
    ("valid_from", "retired_at", "keys", "grade", "what"),
    [
        (None, None, None, "good", "no key is set, and none is needed here"),
        (None, None, KEY, "bad", "is not one of the store's"),
        (NOW - dt.timedelta(days=9), None, None, "bad", "records of acme must be signed, and there is no key for it"),
        (NOW + dt.timedelta(days=9), None, None, "warning", "must be signed from 20"),
        (NOW, None, KEY, "good", "the key k1acme of acme is taken by the store"),
        (NOW, None, SigningKey("acme", "k1acme", b"b" * 32), "bad", "is not as the store has it"),
        (NOW - dt.timedelta(9), NOW - dt.timedelta(1), KEY, "bad", "what it signs is foreign"),
        (NOW - dt.timedelta(9), NOW + dt.timedelta(1), KEY, "warning", "is taken until 20"),
    ],
)
def test_doctor_holds_this_process_s_key_against_the_store(
    call: Call,
    database: str,
    valid_from: dt.datetime | None,
    retired_at: dt.datetime | None,
    keys: SigningKey | None,
    grade: str,
    what: str,
) -> None:
    if valid_from is not None:
        put_key(database, KEY, valid_from, retired_at)
    said = call("doctor", "--json", TENANT="acme", SIGNING_KEYS=None if keys is None else keys.text())
    [(found, sentence)] = signing_findings(said)
    assert found == grade
    assert what in sentence
    assert KEY.text() not in said.out


def test_doctor_says_that_a_key_can_t_be_read(call: Call) -> None:
    [(grade, what)] = signing_findings(call("doctor", "--json", SIGNING_KEYS="hunter-2"))
    assert grade == "bad"
    assert "key 1 of COUNTERFOIL_SIGNING_KEYS can't be read" in what
    assert "hunter" not in what
