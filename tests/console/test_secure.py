"""A broker that speaks SASL_SSL, reached with environment variables alone, as a managed one is."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from counterfoil import AuditUnavailable, ControlStale, Recorder
from counterfoil_console.stack import KafkaOptions, LocalStack, SaslSsl, StackState
from tests.stack.conftest import CACHE

from .conftest import Call

LOGIN = ("agent", 'p"ss w\\rd=é')


@pytest.fixture(scope="module")
def secure(authority: Path) -> Iterator[StackState]:
    """A second stack, whose broker also listens with TLS and SASL."""
    options = KafkaOptions(sasl_ssl=SaslSsl(authority / "keystore.pem", *LOGIN))
    with (
        tempfile.TemporaryDirectory(prefix="counterfoil-") as folder,
        LocalStack(Path(folder), CACHE, kafka=options).running() as state,
    ):
        yield state


@pytest.fixture
def sasl(secure: StackState, authority: Path, tmp_path: Path) -> dict[str, str]:
    """The variables, the password in a file."""
    (tmp_path / "password").write_text(LOGIN[1] + "\n", encoding="utf-8")
    return {
        "KAFKA__BOOTSTRAP_SERVERS": str(secure.sasl_ssl_bootstrap_servers),
        "KAFKA__SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA__SASL_MECHANISMS": "SCRAM-SHA-256",
        "KAFKA__SASL_USERNAME": LOGIN[0],
        "KAFKA__SASL_PASSWORD_FILE": str(tmp_path / "password"),
        "KAFKA__SSL_CA_LOCATION": str(authority / "ca.pem"),
    }


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "PLAIN"])
def test_topics_an_effect_ingest_and_doctor(
    call: Call, sasl: dict[str, str], variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, mechanism: str
) -> None:
    given = sasl | {"KAFKA__SASL_MECHANISMS": mechanism}
    assert call("topics", "--create", **given).code == 0
    for name, value in (variables | {f"COUNTERFOIL_{name}": value for name, value in given.items()}).items():
        monkeypatch.setenv(name, value)
    with (
        Recorder.from_env() as recorder,
        recorder.task("over TLS", tenant="acme", task_ref="T-1") as task,
        task.effect("refund", target="payments", args={"order": "A-17"}) as effect,
    ):
        effect.ok()
    ingested = call("ingest", "--once", **given)
    assert (ingested.code, ingested.err) == (0, "")
    assert "refund → payments" in call("timeline", "T-1", **given).out
    found = {one["check"]: one["grade"] for one in call("doctor", "--json", **given).json}
    assert (found["brokers"], found["topics"], found["ingest"]) == ("good", "good", "good")
    assert LOGIN[1] not in call("config", **given).out


def test_a_wrong_password_is_one_sentence(
    sasl: dict[str, str], environment: dict[str, str], variables: dict[str, str]
) -> None:
    own = {f"COUNTERFOIL_{name}": value for name, value in sasl.items()}
    own["COUNTERFOIL_KAFKA__SASL_PASSWORD"] = "wrong"
    del own["COUNTERFOIL_KAFKA__SASL_PASSWORD_FILE"]
    both = [
        subprocess.Popen(
            [sys.executable, "-m", "counterfoil_console", command],
            env=environment | variables | own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for command in ("topics", "ingest")
    ]  # fmt: skip
    for process in both:
        _, stderr = process.communicate(timeout=20)
        assert process.returncode == 1
        lines = stderr.splitlines()
        assert lines[-1].startswith("counterfoil: Kafka does not answer within 10 s: ")
        assert "SASL authentication error: Authentication failed" in lines[-1]
        assert len(lines) == 1, stderr
        assert "wrong" not in stderr


def test_a_recorder_with_a_wrong_password_runs_no_write(
    sasl: dict[str, str], variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    given = variables | {f"COUNTERFOIL_{name}": value for name, value in sasl.items()}
    del given["COUNTERFOIL_KAFKA__SASL_PASSWORD_FILE"]
    for name, value in (given | {"COUNTERFOIL_KAFKA__SASL_PASSWORD": "wrong"}).items():
        monkeypatch.setenv(name, value)
    recorder = Recorder.from_env(
        ack_timeout_seconds=1.5,
        close_timeout_seconds=0.5,
        control_timeout_seconds=5,
        spool_directory=None,
        tools={"note": {"when_stale": "go_on"}},
    )
    task = recorder.task("over TLS", tenant="acme")
    with task:
        with pytest.raises(ControlStale, match=r"refund did not run: .*authentication"):
            task.begin_effect("refund", target="payments", args={})
        with pytest.raises(AuditUnavailable, match="so the write must not run"):
            task.begin_effect("note", target="payments", args={})
    with pytest.raises(Exception, match="not acknowledged by Kafka"):
        recorder.close()
    assert capfd.readouterr().err == ""
