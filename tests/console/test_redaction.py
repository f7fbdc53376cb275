"""The policy tried out by hand, the keys that seal, and what a person sees of what was taken out."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from counterfoil import Recorder
from counterfoil.redaction_policy import RedactionPolicy
from tests.console.conftest import Call

GHP = "gh" + "p_" + "a1B2" * 9


@pytest.fixture
def ask(bare: Call, tmp_path: Path) -> Call:
    """Calls the command with nothing but keys: no broker, no store."""
    given = {
        "IDENTITY_KEY": "an identity key for tests only",
        "KEY_DIRECTORY": str(tmp_path / "keys"),
        "TENANT": "acme",
    }
    return lambda *arguments, **changes: bare(*arguments, **(given | changes))


def test_a_text_as_it_would_be_recorded(ask: Call) -> None:
    said = ask("redact", f"key {GHP}, mail bob@example.com")
    assert said.code == 0
    assert said.out.startswith("key [github_token:")
    assert "bob@example.com" in said.out
    both = ask("redact", f"key {GHP}, mail bob@example.com", "--json", REDACTION__PERSONAL='["email"]')
    assert [one["kind"] for one in both.json["found"]] == ["github_token", "email"]
    assert both.json["found"][0]["token"] in said.out
    assert both.json["policy"].startswith("default@1+")
    assert GHP not in both.out
    other = ask("redact", GHP, "--tenant", "globex", "--json")
    assert other.json["found"][0]["token"] != both.json["found"][0]["token"]


def test_arguments_of_a_tool(ask: Call, tmp_path: Path) -> None:
    fields = json.dumps([{"tool": "pay", "path": "$.args.iban", "do": "seal"}])
    made = ask("key", "new", "--name", "2026")
    assert made.code == 0, made.err
    assert f"{tmp_path}/keys/acme.2026 seals for acme" in made.out
    said = ask("redact", "--tool", "pay", '{"iban": "DE00 1", "n": 1}', "--json", REDACTION__FIELDS=fields)
    assert json.loads(said.json["redacted"])["iban"]["$sealed"]["key_id"] == "acme.2026"
    assert ask("redact", "--tool", "pay", "{").sentence.startswith("the arguments of a tool are JSON, and this is none")


def test_keys(ask: Call, tmp_path: Path) -> None:
    assert ask("key", "list", KEY_DIRECTORY="").sentence.startswith(
        "no key directory is named: set COUNTERFOIL_KEY_DIR"
    )
    for tenant, name in (("acme", "1"), ("acme", "2"), ("globex", "1")):
        assert ask("key", "new", "--tenant", tenant, "--name", name).code == 0
    assert ask("key", "list", "--json").json == [
        {"tenant": "acme", "keys": ["acme.1", "acme.2"], "seals": "acme.2"},
        {"tenant": "globex", "keys": ["globex.1"], "seals": "globex.1"},
    ]
    assert "acme: acme.1, acme.2 (acme.2 seals)" in ask("key", "list").out
    assert ask("key", "new", "--name", "2").sentence.endswith("keys/acme.2 can't be written: File exists")
    assert "is no name of a key" in ask("key", "new", "--name", "../x").sentence
    assert "is no tenant's name" in ask("key", "new", "--tenant", "A.B").sentence
    assert {path.name for path in (tmp_path / "keys").iterdir()} == {"acme.1", "acme.2", "globex.1"}


def test_the_doctor_looks_at_the_policy(ask: Call, tmp_path: Path) -> None:
    def findings(**changes: str) -> list[tuple[str, str]]:
        found = ask("doctor", "--json", **changes).json
        return [(one["grade"], one["what"]) for one in found if one["check"] == "redaction"]

    assert "keys can't be read: No such file" in findings()[1][1]
    (tmp_path / "keys").mkdir()
    [(grade, what)] = findings()
    assert grade == "good"
    assert what.endswith("takes out secrets, and no personal kinds")
    assert findings(REDACTION__ENABLED="false") == [("warning", "redaction is off: secrets go into the log")]
    seals = {"REDACTION__FIELDS": json.dumps([{"path": "$.args.a", "do": "seal"}])}
    assert findings(**seals)[1] == ("bad", "the policy seals values, and there is no key")
    ask("key", "new", "--name", "1")
    assert len(findings(**seals)) == 1
    os.chmod(tmp_path / "keys" / "acme.1", 0o644)
    assert findings(**seals)[1] == ("warning", "everybody may read the key acme.1")
    wrong = findings(REDACTION__FIELDS=json.dumps([{"path": "args"}]))
    assert wrong[0][0] == "bad"
    assert "is no JSONPath" in wrong[0][1]


def test_config_shows_the_policy(ask: Call) -> None:
    shown = ask("config", "--json", REDACTION__NAME="acme", REDACTION__PERSONAL='["email"]').json
    assert shown["COUNTERFOIL_REDACTION"].startswith("acme@1+")
    assert shown["COUNTERFOIL_REDACTION"].endswith(' {"name":"acme","personal":["email"]}')
    assert ask("config", "--json", REDACTION__ENABLED="false").json["COUNTERFOIL_REDACTION"].startswith("off")


def test_a_task_is_found_by_the_name_that_was_redacted(
    call: Call, recorder: Recorder, ingest_all: Callable[[], None], tmp_path: Path
) -> None:
    assert call("key", "new", "--tenant", "acme", KEY_DIRECTORY=str(tmp_path / "keys")).code == 0
    policy = RedactionPolicy(personal=["email"], fields=[{"path": "$.args.iban", "do": "seal"}])
    changed = {"redaction": policy, "key_directory": tmp_path / "keys"}
    own = Recorder(recorder.settings.model_copy(update=changed))
    with own, own.task("t", task_ref="refund bob@example.com") as task:
        with task.effect("pay", target="bank", args={"iban": "DE00", "note": "x" * 70_000}) as effect:
            effect.ok()
        with task.effect("pay", target="bank", args={"iban": "DE00"}, step="2") as effect:
            effect.ok()
    ingest_all()
    said = call("timeline", "refund bob@example.com", "--tenant", "acme")
    assert said.code == 0, said.err
    assert "refund [email:" in said.out
    assert '"iban": "[sealed:' in said.out
    assert "see `counterfoil blob" in said.out
    assert call("timeline", "refund bob@example.com").code == 0
    assert call("timeline", "refund eve@example.com").code == 1
