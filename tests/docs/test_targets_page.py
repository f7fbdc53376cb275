"""The contracts on the page about targets load, and its tables name every key and setting of their kind."""

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from counterfoil_reconcilers.contracts import load
from counterfoil_reconcilers.targets.kafka_options import KafkaResource
from counterfoil_reconcilers.targets.mail_options import MailConnection, MailResource

PAGE = (Path(__file__).parents[2] / "docs" / "targets.md").read_text(encoding="utf-8")
CONTRACTS = [block for block in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL) if "\n[targets." in block]


@pytest.mark.parametrize("text", CONTRACTS)
def test_every_contract_on_the_page_loads(tmp_path: Path, text: str) -> None:
    path = tmp_path / "contracts.toml"
    path.write_text(text, encoding="utf-8")
    assert load(path).tools


@pytest.mark.parametrize(
    ("title", "head", "model"),
    [
        ("Kafka", "| key of a resource |", KafkaResource),
        ("E-mail", "| key of a resource |", MailResource),
        ("E-mail", "| setting |", MailConnection),
    ],
)
def test_the_tables_name_every_key_and_no_other(title: str, head: str, model: type[BaseModel]) -> None:
    section = re.split(r"^## ", PAGE.partition(f"\n## {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]
    lines = section.partition(head)[2].splitlines()[2:]
    rows = lines[: next(n for n, line in enumerate(lines) if not line.startswith("|"))]
    named = {name.lower() for row in rows for name in re.findall(r"`([^`]*)`", row.split("|")[1])}
    assert named == set(model.model_fields)
