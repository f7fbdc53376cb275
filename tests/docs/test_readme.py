"""What README.md and docs/ tell people to type, click and copy is there and works."""

import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from counterfoil_console.cli.app import Loading, app, loaded
from counterfoil_reconcilers.contracts import load
from tests.fix_log import Logged
from tests.fix_recorder import IDENTITY_KEY

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINKING = [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]


def block(text: str, language: str) -> str:
    """The first code block of a language."""
    found = re.search(rf"```{language}\n(.*?)```", text, re.DOTALL)
    assert found is not None, f"there is no {language} block"
    return found.group(1)


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_contract_of_the_readme_loads(tmp_path: Path) -> None:
    written = block(README, "toml")
    tables = tomllib.loads(written)
    resources = {write["resource"] for tool in tables["tools"].values() for write in tool["writes"]}
    path = tmp_path / "contracts.toml"
    path.write_text(
        ("" if "version" in tables else 'version = "1"\n')
        + written
        + "".join(
            f'[targets.{target}.resources.{name}]\ntable = "t"\nkey = ["id"]\n'
            for target in tables["targets"]
            for name in sorted(resources - tables["targets"][target].get("resources", {}).keys())
        )
    )
    assert load(path).tools.keys() == tables["tools"].keys()


# Where a command begins: a line of a shell block, after && ; | or $(, or the beginning of a text in backticks.
_COMMAND = re.compile(r"(?:^|&&|\||;|\$\()\s*(?:counterfoil|docker compose run --rm cli)((?: +[^\s&|;)#`]+)+)")


def commands(text: str) -> Iterator[list[str]]:
    """The words after `counterfoil`, wherever a page shows a command."""
    shell = [line for part in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in part.splitlines()]
    inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    for line in (*shell, *inline):
        for words in _COMMAND.findall(line):
            yield words.replace('"', "").split()


def wrong_with(words: list[str]) -> str | None:
    """What is not there: the command, or an option."""
    command: Any = typer.main.get_command(app)
    rest = list(words)
    while isinstance(command, TyperGroup) and rest and not rest[0].startswith("-"):
        name = rest.pop(0)
        if name not in command.commands:
            return f"there is no command {name}"
        command = loaded(name) if isinstance(command, Loading) else command.commands[name]
    options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    unknown = [word for word in rest if word.startswith("-") and word.partition("=")[0] not in options]
    return f"it has no option {unknown[0]}" if unknown else None


def test_a_wrong_command_is_seen() -> None:
    shown = '```sh\neval "$(counterfoil envy)"  # so\ncounterfoil up --fresher\n```\n`counterfoil tenant drop acme`'
    assert [wrong_with(words) for words in commands(shown)] == [
        "there is no command envy",
        "it has no option --fresher",
        "there is no command drop",
    ]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_exists_with_its_options(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    wrong = {" ".join(words): found for words in commands(text) if (found := wrong_with(words))}
    assert wrong == {}


def test_the_readme_shows_commands() -> None:
    assert {"up", "ingest", "reconcile", "timeline", "drift", "doctor"} <= {words[0] for words in commands(README)}


def anchors(text: str) -> set[str]:
    """What GitHub makes of the headings."""
    plain = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", plain, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", LINKING, ids=name_of)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    broken = []
    for link in re.findall(r"\]\(<?([^)>\s]+)", text):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        is_there = target.is_relative_to(ROOT) and target.exists()
        if not is_there or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            broken.append(link)
    assert broken == []


def test_the_client_of_the_readme_records(
    kafka: dict[str, str], topic_prefix: str, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("COUNTERFOIL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COUNTERFOIL_KAFKA__BOOTSTRAP_SERVERS", kafka["bootstrap.servers"])
    monkeypatch.setenv("COUNTERFOIL_PROFILE", "local")
    monkeypatch.setenv("COUNTERFOIL_TOPIC_PREFIX", topic_prefix)
    monkeypatch.setenv("COUNTERFOIL_IDENTITY_KEY", IDENTITY_KEY)
    paid: list[tuple[str, str, str]] = []

    def refund(order: str, amount: str, idempotency_key: str) -> dict[str, str]:
        paid.append((order, amount, idempotency_key))
        return {"status": "refunded"}

    names: dict[str, Any] = {
        "messages": [{"role": "user", "content": "Where is my money?"}],
        "query": "refund policy",
        "sources": [{"id": "policy-7", "text": "Refunds within 30 days."}],
        "text": "I will refund the order.",
        "usage": {"input_tokens": 12, "output_tokens": 7},
        "payments": SimpleNamespace(refund=refund),
    }
    client = block(README, "python")
    assert len([line for line in client.splitlines() if line]) <= 11
    exec(compile(client, "README.md", "exec"), names)
    names["recorder"].close()
    events = logged()
    effects = {event.kind: event.effect_id for event in events if event.effect_id is not None}
    assert effects.keys() == {"tool_intent", "tool_result"}
    assert {(order, amount, bytes.fromhex(key)) for order, amount, key in paid} == {
        ("A-17", "12.50", bytes(effect)) for effect in effects.values()
    }
    kinds = {event.kind for event in events}
    assert kinds >= {"task_started", "message", "prompt", "retrieval", "completion", "task_ended"}
    assert {event.tenant for event in events if event.task_ref is not None} <= {"acme"}
