"""Whoever is lost gets help: every command explains itself, and wrong usage is one sentence."""

import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import typer

from counterfoil_console import cli
from counterfoil_console.cli.commands import COMMANDS as LISTED
from counterfoil_console.cli.commands import Command

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


def commands_in(module: str) -> Iterator[Command]:
    part = typer.Typer(rich_markup_mode="rich")
    import_module(f"counterfoil_console.cli.{module}").add_to(part)
    for name, command in typer.main.get_group(part).commands.items():
        yield Command(name, module, (command.help or "").partition("\n\n")[0])


def test_the_overview_says_what_the_commands_say() -> None:
    modules = [path.stem for path in Path(cli.__file__).parent.glob("*.py") if "def add_to" in path.read_text()]
    told = [command for module in modules for command in commands_in(module)]
    assert sorted(told, key=str) == sorted(LISTED, key=str)


def test_the_overview_waits_for_no_client(environment: dict[str, str]) -> None:
    code = "import sys; from counterfoil_console.cli import run; run(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "Usage: counterfoil" in done.stdout
    assert {"typer", "counterfoil_console"} <= set(done.stderr.split())
    assert not {"counterfoil", "counterfoil_consumers", "psycopg", "confluent_kafka"} & set(done.stderr.split())


def test_a_command_that_lacks_an_extra_names_it(environment: dict[str, str]) -> None:
    code = "import sys; sys.modules['psycopg'] = None; from counterfoil_console.__main__ import main; main()"
    command = [sys.executable, "-c", code, "timeline", "T-1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    [line] = done.stderr.splitlines()
    assert line.startswith("counterfoil: the command needs the extra `console`: pip install 'counterfoil[console]'")


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
