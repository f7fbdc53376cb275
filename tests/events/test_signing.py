"""What a process with a key records is signed, to the last record, whatever becomes of the process."""

import base64
import hmac
import os
import signal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterfoil import Recorder, RecorderSettings
from counterfoil.codec import decode
from counterfoil.errors import SettingsError
from counterfoil.ids import OPERATORS
from counterfoil.issuing import OrderDesk
from counterfoil.redaction import Redaction
from counterfoil.scope import Scope
from counterfoil.settings import load_settings
from counterfoil.signing import HEADER, NO_KEYS, Mac, Signer, SigningKey, SigningKeys, signing_keys_of
from counterfoil_consumers.records import Record
from tests.accounts import assert_accounted
from tests.fix_log import Logged, RecordsOf, StartPython
from tests.fix_recorder import folders
from tests.fix_stack import Outage
from tests.waiting import wait_until

ACME = SigningKey("acme", "k1acme", b"a" * 32)
GLOBEX = SigningKey("globex", "k1globex", b"g" * 32)
DESK = SigningKey(OPERATORS, "k1desk", b"d" * 40)


def with_keys(settings: RecorderSettings, *keys: SigningKey) -> RecorderSettings:
    """The settings of a process that has these keys."""
    given = {"signing_keys": "\n".join(key.text() for key in keys)} if keys else {"signing_keys": None}
    return RecorderSettings(**settings.model_dump() | given)


def is_signed(record: Record, key: SigningKey) -> bool:
    """Whether it has one signature, by the standard library's HMAC with the key."""
    found = [value for name, value in record.headers if name == HEADER]
    mac = base64.b64encode(hmac.digest(key.secret, record.value or b"", "sha256"))
    return found == [key.key_id.encode() + b":" + mac]


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=200), st.binary(max_size=5_000))
def test_the_mac_is_hmac_sha256(secret: bytes, value: bytes) -> None:
    assert base64.b64decode(Mac(secret).of(value)) == hmac.digest(secret, value, "sha256")


@settings(deadline=None)
@given(st.binary(min_size=32, max_size=64), st.sampled_from(["acme", "a-b_c", "0", "a" * 40, OPERATORS]))
def test_a_key_is_read_as_it_is_written(secret: bytes, tenant: str) -> None:
    key = SigningKey(tenant, "4f2a99c01b7e", secret)
    assert SigningKey.parse(key.text()) == key
    assert key.text().isprintable()
    assert " " not in key.text()
    assert str(secret) not in repr(key)


def test_a_key_in_a_text_is_taken_out(recorder_settings: RecorderSettings) -> None:
    redactor = Redaction(recorder_settings).of_task("acme", "w")
    for key in (ACME, DESK):
        told = redactor.text(f"the agent prints {key.text()}, all of it")
        assert key.text().rpartition(".")[2] not in told
        assert told.startswith("the agent prints [counterfoil_key:")
    assert redactor.text("keys begin with cfsk.acme.4f2a99c01b7e") == "keys begin with cfsk.acme.4f2a99c01b7e"


SECRET = ACME.text().rpartition(".")[2]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("hunter-2", "not of the form cfsk.TENANT.ID.SECRET"),
        (f"cfsk.acme.{SECRET}", "not of the form"),
        (f"cfsk.acme.k1acme.{SECRET}.x", "not of the form"),
        (f"cfsk.ACME.k1acme.{SECRET}", "no tenant's name"),
        (f"cfsk.acme.K1.{SECRET}", "no key's id"),
        (f"cfsk.acme.k1acme.{SECRET[:-3]}", "its secret has 30 bytes, and 32 are the least"),
        (f"cfsk.acme.k1acme.{SECRET[:-2]}!", "not base64url"),
        (f"{ACME.text()} {SigningKey('acme', 'k2acme', b'x' * 32).text()}", "two keys of acme, k1acme and k2acme"),
        (f"{GLOBEX.text()} cfsk.acme.k1acme.", "key 2 of COUNTERFOIL_SIGNING_KEYS can't be read"),
    ],
)
def test_a_key_that_can_t_be_read_is_said_and_not_shown(
    recorder_settings: RecorderSettings, text: str, problem: str
) -> None:
    settings = RecorderSettings(**recorder_settings.model_dump() | {"signing_keys": text})
    with pytest.raises(SettingsError, match="COUNTERFOIL_SIGNING_KEYS") as said:
        Recorder(settings)
    assert problem in str(said.value)
    assert SECRET[:8] not in str(said.value)
    assert "hunter" not in str(said.value)


def test_keys_come_from_a_file_and_no_mistake_shows_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keys").write_text(f"{ACME.text()}\n{GLOBEX.text()}\n\n", encoding="utf-8")
    monkeypatch.setenv("COUNTERFOIL_SIGNING_KEYS_FILE", str(tmp_path / "keys"))
    assert list(signing_keys_of(load_settings(RecorderSettings))) == [ACME, GLOBEX]
    monkeypatch.delenv("COUNTERFOIL_SIGNING_KEYS_FILE")
    (tmp_path / "counterfoil.toml").write_text(f'signing_keys = ["{ACME.text()}"]\n', encoding="utf-8")
    with pytest.raises(SettingsError, match="COUNTERFOIL_SIGNING_KEYS") as said:
        load_settings(RecorderSettings)
    assert SECRET[:8] not in str(said.value)
    assert list(NO_KEYS) == []


def test_each_tenant_has_its_own_key_and_the_operators_sign_for_the_others() -> None:
    def signs(keys: SigningKeys, tenant: str) -> str | None:
        signer = keys.signer(tenant)
        return None if signer is None else signer.header(b"x")[1].partition(":")[0]

    keys = SigningKeys([ACME, DESK])
    assert [signs(keys, tenant) for tenant in ("acme", "globex", OPERATORS)] == ["k1acme", "k1desk", "k1desk"]
    assert signs(SigningKeys([ACME]), "globex") is None
    assert Signer(ACME).header(b"x") != Signer(ACME).header(b"y")


def test_every_record_is_signed_with_its_tenant_s_key(
    recorder_settings: RecorderSettings, records_of: RecordsOf
) -> None:
    with Recorder(with_keys(recorder_settings, ACME, GLOBEX)) as recorder:
        for tenant in ("acme", "globex", "initech"):
            with recorder.task("t", tenant=tenant) as task, task.effect("refund", target="pay", args={}) as effect:
                effect.ok()
        OrderDesk(with_keys(recorder_settings, ACME, DESK)).halt(Scope.parse("tool:acme/refund"), by="dana", reason="r")
        OrderDesk(with_keys(recorder_settings, ACME, DESK)).halt(Scope.parse("everything"), by="dana", reason="r")
        wait_until(lambda: sum("control_ack" in str(record.headers) for record in records_of("events")) >= 4)
    found = records_of("events")
    kinds = {tenant: {decode(one.value or b"").kind for one in of(found, tenant)} for tenant in ("acme", "globex")}
    assert kinds["acme"] >= {"producer_opened", "tool_intent", "control_order", "control_ack", "producer_closed"}
    assert all(is_signed(one, ACME) for one in of(found, "acme"))
    assert all(is_signed(one, GLOBEX) for one in of(found, "globex"))
    assert [is_signed(one, DESK) for one in of(found, OPERATORS)] == [True]
    assert of(found, "initech")
    assert not any(name == HEADER for one in of(found, "initech") for name, _ in one.headers)
    assert all(is_signed(one, ACME) or is_signed(one, DESK) for one in records_of("control"))


def of(found: list[Record], tenant: str) -> list[Record]:
    """Those of a tenant."""
    return [record for record in found if (record.key or b"").startswith(f"{tenant}/".encode())]


def test_a_forked_child_signs(recorder_settings: RecorderSettings, records_of: RecordsOf) -> None:
    with Recorder(with_keys(recorder_settings, ACME)) as recorder:
        with recorder.task("parent"):
            child = os.fork()
            if child == 0:
                with recorder.task("child"):
                    pass
                recorder.close()
                os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    found = records_of("events")
    assert len({decode(record.value or b"").producer_id for record in found}) == 2
    assert all(is_signed(record, ACME) for record in found)


_DIES_WITH_A_SPOOL = """
import os, signal, sys
from counterfoil import Recorder
recorder = Recorder.from_env(ack_timeout_seconds=0.5, when_stale="go_on")
with recorder.task("t", task_ref="T-9") as task:
    with task.effect("refund", target="payments", args={"n": 0}) as effect:
        effect.ok()
    assert recorder.flush() == 0
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(1, 6):
        with task.effect("refund", target="payments", args={"n": number}) as effect:
            effect.ok()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_signature_survives_spool_death_and_an_heir_without_the_key(
    recorder_settings: RecorderSettings,
    start_python: StartPython,
    outage: Outage,
    records_of: RecordsOf,
    logged: Logged,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The heir sends what was signed, as it is, and says nothing unsigned; who has the key says the goodbye."""
    dead = start_python(_DIES_WITH_A_SPOOL, COUNTERFOIL_SIGNING_KEYS=ACME.text())
    assert dead.stdout is not None
    assert dead.stdin is not None
    assert dead.stdout.readline() == "ready\n"
    with outage():
        dead.stdin.write("go\n")
        dead.stdin.flush()
        assert dead.wait(60) == -signal.SIGKILL
    [left] = folders(recorder_settings)
    producer_id = bytes.fromhex(left.name)

    def left_by_it() -> list[Record]:
        return [one for one in records_of("events") if decode(one.value or b"").producer_id == producer_id]

    def kinds() -> list[str]:
        """Each event once: what was on its way at the outage may land beside its spooled self."""
        events = {event.event_id: event.kind for event in (decode(one.value or b"") for one in left_by_it())}
        return list(events.values())

    with Recorder(with_keys(recorder_settings)) as poor, poor.task("without the key", tenant="globex"):
        wait_until(lambda: kinds().count("tool_intent") == 6 and not (left / "spool.sqlite").exists())
        wait_until(lambda: len(folders(recorder_settings)) == 2)
    assert folders(recorder_settings) == [left]
    assert "producer_closed" not in kinds()
    assert sum("wait for a process whose" in one.getMessage() for one in caplog.records) == 1

    with Recorder(with_keys(recorder_settings, ACME)) as rich, rich.task("with the key", tenant="globex"):
        wait_until(lambda: left not in folders(recorder_settings))
    assert kinds().count("producer_closed") == 1
    assert all(is_signed(one, ACME) for one in left_by_it())
    assert_accounted(logged())


def test_an_unsigned_producer_is_finished_by_whoever_comes(
    recorder_settings: RecorderSettings, start_python: StartPython, records_of: RecordsOf
) -> None:
    dead = start_python(
        "import os, signal\nfrom counterfoil import Recorder\nrecorder = Recorder.from_env()\n"
        "with recorder.task('t'):\n    recorder.flush()\n    os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert dead.wait(60) == -signal.SIGKILL
    [left] = folders(recorder_settings)
    with Recorder(recorder_settings) as heir, heir.task("heir", tenant="globex"):
        wait_until(lambda: left not in folders(recorder_settings))
    closed, _of_the_heir = sorted(
        (one for one in records_of("events") if decode(one.value or b"").kind == "producer_closed"),
        key=lambda one: decode(one.value or b"").tenant,
    )
    assert decode(closed.value or b"").producer_id == bytes.fromhex(left.name)
    assert not any(name == HEADER for name, _ in closed.headers)
