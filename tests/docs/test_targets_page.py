"""The page on kinds of targets: its contracts load, and its tables name the keys and settings that there are."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from counterfoil_reconcilers.contract_kinds import entry_points_of_kinds, find_kind
from counterfoil_reconcilers.contracts import load
from counterfoil_reconcilers.targets.aws import AwsConnection
from counterfoil_reconcilers.targets.dynamodb import DynamoResource
from counterfoil_reconcilers.targets.kafka_options import KafkaResource
from counterfoil_reconcilers.targets.mail_options import MailConnection, MailResource
from counterfoil_reconcilers.targets.port import Kind
from counterfoil_reconcilers.targets.redis import RedisConnection, RedisResource
from counterfoil_reconcilers.targets.s3 import S3Resource

PAGE = (Path(__file__).parents[2] / "docs" / "targets.md").read_text(encoding="utf-8")
# A block marked as a fragment lacks its version, or more.
_WHOLE = r"(?<!-->\n)```toml\n(.*?)```"
CONTRACTS = [text for text in re.findall(_WHOLE, PAGE, re.DOTALL) if "kind = " in text]


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
