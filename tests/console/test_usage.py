"""Whoever is lost gets help: every command explains itself, and wrong usage is one sentence."""

import subprocess
import sys

import pytest

from .conftest import Call

COMMANDS = [
    "up", "down", "status", "env", "migrate", "topics", "config", "tenant add", "tenant list", "key new", "key list",
    "ingest", "offsets list", "offsets skip", "offsets retire", "rebuild", "fold-unread", "digest", "reconcile",
    "timeline", "task", "history", "drift", "drift ack", "drift resolve", "completeness", "blob", "redact", "halt",
    "resume", "halts", "schemas register", "schemas check", "doctor", "tenant rotate",
    "tenant login", "retention list", "retention set", "retention run",
    "hold add", "hold list", "hold release", "contracts check", "contracts coverage", "contracts test",
    "contracts draft",
    "serve", "token create", "token list", "token revoke",
]  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(bare: Call, command: str) -> None:
    said = bare(*command.split(), "--help")
    assert said.code == 0
    assert f"Usage: counterfoil {command}" in said.out
    [example] = [line for line in said.out.splitlines() if "Example: " in line]
    assert f"counterfoil {command}" in example


def test_the_list_of_commands_is_whole(bare: Call) -> None:
    said = bare("--help")
    assert said.code == 0
    assert all(f" {command.split(maxsplit=1)[0]} " in said.out for command in COMMANDS)


@pytest.mark.parametrize("arguments", [[], ["tenant"]])
def test_without_a_command_there_is_help(bare: Call, arguments: list[str]) -> None:
    said = bare(*arguments)
    assert said.code == 2
    assert "Usage: counterfoil" in said.out + said.err


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("drfit", "No such command 'drfit'. Did you mean 'drift'? see `counterfoil --help`"),
        ("--bogus", "No such option: --bogus; see `counterfoil --help`"),
        ("drift --bogus", "No such option: --bogus; see `counterfoil drift --help`"),
        ("timeline", "Missing argument 'task'; see `counterfoil timeline --help`"),
        ("tenant add", "Missing argument 'name'; see `counterfoil tenant add --help`"),
    ],
)
def test_wrong_usage_is_one_sentence(bare: Call, line: str, sentence: str) -> None:
    said = bare(*line.split())
    assert said.code == 2
    assert said.sentence == sentence


@pytest.mark.parametrize("limit", ["0", "-1", "x", "1000001"])
def test_a_limit_that_is_none(bare: Call, limit: str) -> None:
    said = bare("drift", f"--limit={limit}")
    assert said.code == 2
    assert said.sentence.startswith("Invalid value for '--limit': ")


def test_an_argument_that_is_not_utf_8(environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "counterfoil_console", "timeline", "\udcff"]  # as os.fsdecode() gives the byte FF
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "counterfoil: the argument '\\udcff' is not UTF-8; write it anew\n"


def test_the_version(bare: Call) -> None:
    assert bare("--version").out.startswith("counterfoil 0.")
