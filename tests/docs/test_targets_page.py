"""The page on kinds of targets: its contracts load, and its tables name the keys and settings that there are."""

import re
from importlib import import_module
from pathlib import Path

import pytest
from pydantic import BaseModel

from counterfoil_reconcilers.contract_kinds import entry_points_of_kinds, find_kind
from counterfoil_reconcilers.contracts import load
from counterfoil_reconcilers.targets.aws import AwsConnection
from counterfoil_reconcilers.targets.dynamodb import DynamoResource
from counterfoil_reconcilers.targets.http_options import preset_names
from counterfoil_reconcilers.targets.kafka_options import KafkaResource
from counterfoil_reconcilers.targets.mail_options import MailConnection, MailResource
from counterfoil_reconcilers.targets.port import Kind
from counterfoil_reconcilers.targets.redis import RedisConnection, RedisResource
from counterfoil_reconcilers.targets.s3 import S3Resource
from tests import fix_stripe_mock
from tests.reconcilers.targets import recordings
from tests.reconcilers.targets.shown import SHOWN, Part

PAGE = (Path(__file__).parents[2] / "docs" / "targets.md").read_text(encoding="utf-8")
# A block marked as a fragment lacks its version, or more.
_WHOLE = r"(?<!-->\n)```toml\n(.*?)```"
CONTRACTS = [text for text in re.findall(_WHOLE, PAGE, re.DOTALL) if "kind = " in text]


PARTS: tuple[Part, ...] = ("row", "pages", "search", "absence", "throttling", "windows")


def section(title: str) -> str:
    """The text under a heading, up to the next one."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None, f"the page has no section {title}"
    return found.group(1)


def first_cells(text: str) -> set[str]:
    """What the tables name in their first column."""
    return {
        name for row in re.findall(r"^\|([^|]*`[^|]*)\|", text, re.MULTILINE) for name in re.findall(r"`([^`]*)`", row)
    }


@pytest.mark.parametrize("text", CONTRACTS, ids=lambda text: re.findall(r'kind = "([^"]*)"', text)[0])
def test_every_contract_on_the_page_loads(tmp_path: Path, text: str) -> None:
    (tmp_path / "contracts.toml").write_text(text, encoding="utf-8")
    assert load(tmp_path / "contracts.toml").tools


@pytest.mark.parametrize(
    ("title", "model"), [("S3", S3Resource), ("DynamoDB", DynamoResource), ("Redis", RedisResource)]
)
def test_the_tables_name_every_key_and_no_other(title: str, model: type[S3Resource]) -> None:
    assert first_cells(section(title)) == set(model.model_fields)


@pytest.mark.parametrize(
    ("title", "head", "model"),
    [
        ("Kafka", "| key of a resource |", KafkaResource),
        ("E-mail", "| key of a resource |", MailResource),
        ("E-mail", "| setting |", MailConnection),
    ],
)
def test_a_table_names_every_key_and_no_other(title: str, head: str, model: type[BaseModel]) -> None:
    lines = section(title).partition(head)[2].splitlines()[2:]
    rows = lines[: next(n for n, line in enumerate(lines) if not line.startswith("|"))]
    named = {name.lower() for row in rows for name in re.findall(r"`([^`]*)`", row.split("|")[1])}
    assert named == set(model.model_fields)


def test_the_settings_are_these() -> None:
    assert {name.lower() for name in first_cells(section("Settings of AWS"))} == set(AwsConnection.model_fields)
    assert all(f"`{name.upper()}`" in section("Redis") for name in RedisConnection.model_fields)


@pytest.mark.parametrize("name", ["dynamodb", "redis", "s3"])
def test_the_first_table_says_what_a_kind_can_do(name: str) -> None:
    kind = find_kind(name)
    assert isinstance(kind, Kind)
    assert name in entry_points_of_kinds()
    [row] = re.findall(rf"^\| `{name}` \| (.*?) \| (.*?) \|", PAGE, re.MULTILINE)
    said = [cell.startswith("yes") for cell in row]
    assert said == [kind.capabilities.finds, kind.capabilities.lists]


def test_the_contract_of_presets_loads_with_every_one_of_them(tmp_path: Path) -> None:
    [text] = re.findall(r"-->\n```toml\n(.*?)```", PAGE.partition("### Presets")[2], re.DOTALL)
    (tmp_path / "contracts.toml").write_text(f'version = "1"\n{text}', encoding="utf-8")
    assert sorted(re.findall(r'^preset = "(.*)"', text, re.MULTILINE)) == preset_names()
    assert len(load(tmp_path / "contracts.toml").targets) == len(preset_names())


@pytest.mark.parametrize("name", preset_names())
def test_the_table_says_what_a_preset_was_held_against(name: str) -> None:
    """The tests say so, too: what shows a part of a preset by something else than our own words is marked with it."""
    for module in ("recorded", "stripe_mock"):
        import_module(f"tests.reconcilers.targets.test_http_{module}")
    [line] = re.findall(rf"^\| `{name}` \|((?:[^|\n]*\|){{6}})$", PAGE, re.MULTILINE)
    for part, cell in zip(PARTS, line.split("|"), strict=False):
        said = set(re.findall(r"stripe-mock|recorded|examples", cell))
        assert said == SHOWN.get((name, part), set()), part
        assert said or re.search("shapes|documented", cell), part


def test_the_page_names_the_versions_that_are_installed() -> None:
    ops = Path(__file__).parents[2] / "ops"
    programs = (ops / "install-go-programs.sh").read_text(encoding="utf-8")
    brought = (ops / "install-recordings.sh").read_text(encoding="utf-8")
    assert f"STRIPE_MOCK={fix_stripe_mock.VERSION}\n" in programs
    assert f"{fix_stripe_mock.VERSION}, of the API" in section("HTTP")
    for package in (recordings.GITHUB, recordings.ZENDESK, recordings.SALESFORCE, recordings.JIRA):
        name, _, version = package.rpartition("-")
        assert f"\nkeep {package} " in brought, name
        assert re.search(rf"\s{re.escape(version)}\b", section("HTTP")), name
