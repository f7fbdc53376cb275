"""Settings: where they come from, which wins, and what a mistake is told."""

from pathlib import Path

import pytest

from counterfoil import Recorder, RecorderSettings, SettingsError
from counterfoil.settings import describe, load_settings

BROKER = {"bootstrap.servers": "127.0.0.1:1"}


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty working directory and no variable of ours."""
    import os

    for name in list(os.environ):
        if name.upper().startswith("COUNTERFOIL_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def setting(monkeypatch: pytest.MonkeyPatch, **variables: str) -> RecorderSettings:
    for name, value in variables.items():
        monkeypatch.setenv(f"COUNTERFOIL_{name}", value)
    return load_settings(RecorderSettings)


def test_defaults_fail_closed() -> None:
    settings = load_settings(RecorderSettings)
    assert (settings.profile, settings.kafka, settings.identity_key, settings.tenant) == ("production", {}, None, None)


def test_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = setting(monkeypatch, TENANT="acme", PROFILE="local", ACK_TIMEOUT_SECONDS="2.5", TOPIC_PREFIX="blue.")
    assert (settings.tenant, settings.profile, settings.ack_timeout_seconds) == ("acme", "local", 2.5)
    assert settings.topic_prefix == "blue."


def test_every_librdkafka_setting_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = setting(
        monkeypatch,
        KAFKA__BOOTSTRAP_SERVERS="broker:9092",
        KAFKA__SECURITY_PROTOCOL="SASL_SSL",
        KAFKA__SASL_PASSWORD="pa__ss=wörd",
        KAFKA__MESSAGE_TIMEOUT_MS="1000",
    )
    assert settings.kafka == {
        "bootstrap.servers": "broker:9092",
        "security.protocol": "SASL_SSL",
        "sasl.password": "pa__ss=wörd",
        "message.timeout.ms": "1000",
    }


def test_every_setting_of_the_registry_s_client_by_its_variable(monkeypatch: pytest.MonkeyPatch, bare: Path) -> None:
    (bare / "user").write_text("me:geheim\n")
    (bare / "counterfoil.toml").write_text('[schema_registry]\nurl = "http://toml"\n"ssl.ca.location" = "ca.pem"\n')
    settings = setting(
        monkeypatch,
        SCHEMA_REGISTRY__URL="http://registry:8081",
        SCHEMA_REGISTRY__BASIC_AUTH_USER_INFO_FILE=str(bare / "user"),
    )
    assert settings.schema_registry == {
        "url": "http://registry:8081",
        "basic.auth.user.info": "me:geheim",
        "ssl.ca.location": "ca.pem",
    }
    assert "geheim" not in repr(settings)


def test_secrets_from_files(monkeypatch: pytest.MonkeyPatch, bare: Path) -> None:
    (bare / "key").write_text("a key of sixteen bytes\n")
    (bare / "password").write_text("geheim\n")
    settings = setting(
        monkeypatch, IDENTITY_KEY_FILE=str(bare / "key"), KAFKA__SASL_PASSWORD_FILE=str(bare / "password")
    )
    assert settings.identity_key is not None
    assert settings.identity_key.get_secret_value() == "a key of sixteen bytes"
    assert settings.kafka["sasl.password"] == "geheim"


def test_a_secret_s_file_that_can_t_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match=r"identity_key_file names absent.*No such file"):
        setting(monkeypatch, IDENTITY_KEY_FILE="absent")


def test_the_toml_file(bare: Path) -> None:
    (bare / "key").write_text("a key of sixteen bytes")
    (bare / "counterfoil.toml").write_text(
        'tenant = "acme"\nidentity_key_file = "key"\nunknown_to_us = 1\n'
        '[kafka]\n"bootstrap.servers" = "toml:1"\nenable_idempotence = true\n"linger.ms" = 5\n'
    )
    settings = load_settings(RecorderSettings)
    assert settings.tenant == "acme"
    assert settings.identity_key is not None
    assert settings.kafka == {"bootstrap.servers": "toml:1", "enable.idempotence": "true", "linger.ms": "5"}


def test_the_caller_wins_over_variables_and_these_over_the_file(monkeypatch: pytest.MonkeyPatch, bare: Path) -> None:
    (bare / "counterfoil.toml").write_text(
        'tenant = "toml"\nagent = "toml"\nworkflow = "toml"\n[kafka]\n"client.rack" = "toml"\n"linger.ms" = 1\n'
        '"bootstrap.servers" = "toml:1"\n'
    )
    monkeypatch.setenv("COUNTERFOIL_TENANT", "variable")
    monkeypatch.setenv("COUNTERFOIL_AGENT", "variable")
    monkeypatch.setenv("COUNTERFOIL_KAFKA__CLIENT_RACK", "variable")
    monkeypatch.setenv("COUNTERFOIL_KAFKA__BOOTSTRAP_SERVERS", "variable:1")
    settings = load_settings(RecorderSettings, tenant="caller", kafka={"bootstrap.servers": "caller:1"})
    assert (settings.tenant, settings.agent, settings.workflow) == ("caller", "variable", "toml")
    assert settings.kafka == {"bootstrap.servers": "caller:1", "client.rack": "variable", "linger.ms": "1"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PROFILE", "laptop"),
        ("ACK_TIMEOUT_SECONDS", "soon"),
        ("ACK_TIMEOUT_SECONDS", "0"),
        ("CLOSE_TIMEOUT_SECONDS", "-1"),
        ("KAFKA", "broker:9092"),
        ("SCHEMA_REGISTRY", "http://registry:8081"),
    ],
)
def test_a_wrong_value_is_one_sentence_that_names_it(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    with pytest.raises(SettingsError) as refused:
        setting(monkeypatch, **{name: value})
    message = str(refused.value)
    assert name.lower() in message.lower()
    assert "\n" not in message


def test_a_broken_toml_file_is_told(bare: Path) -> None:
    (bare / "counterfoil.toml").write_text("tenant = \n")
    with pytest.raises(SettingsError, match="settings can't be read"):
        load_settings(RecorderSettings)


def test_no_broker_is_told_at_once() -> None:
    with pytest.raises(SettingsError, match="COUNTERFOIL_KAFKA__BOOTSTRAP_SERVERS"):
        Recorder.from_env(identity_key="a key of sixteen bytes")


@pytest.mark.parametrize("key", [None, "", "fifteen bytes.."])
def test_a_missing_or_short_identity_key_is_told(key: str | None) -> None:
    with pytest.raises(SettingsError, match="COUNTERFOIL_IDENTITY_KEY"):
        Recorder.from_env(kafka=BROKER, identity_key=key)


def test_a_setting_that_librdkafka_refuses_is_told() -> None:
    recorder = Recorder.from_env(kafka=BROKER | {"no.such.setting": "1"}, identity_key="a key of sixteen bytes")
    with (
        pytest.raises(SettingsError, match=r"COUNTERFOIL_KAFKA__.*no\.such\.setting"),
        recorder.task("t", tenant="acme"),
    ):
        pass


def test_secrets_are_not_shown() -> None:
    settings = load_settings(RecorderSettings, identity_key="a key of sixteen bytes")
    assert "sixteen" not in repr(settings)
    assert "sixteen" not in str(settings.model_dump())


def test_every_setting_is_described() -> None:
    described = describe(RecorderSettings)
    assert {name for name, _, _ in described} >= {"COUNTERFOIL_KAFKA", "COUNTERFOIL_IDENTITY_KEY"}
    assert [name for name, _, meaning in described if not meaning] == []
