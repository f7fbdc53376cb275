"""The commands that docs/contracts.md shows are run here, in its order, and print what it says that they print."""

import re
from pathlib import Path

import psycopg
import pytest

from counterfoil import Recorder

from .conftest import Call

PAGE = (Path(__file__).parents[2] / "docs" / "contracts.md").read_text(encoding="utf-8")
TABLES = """
CREATE SCHEMA shop;
CREATE TABLE shop.orders (id text PRIMARY KEY, merchant text, status text, refunded numeric, address text,
                          updated_at timestamptz DEFAULT now());
CREATE TABLE shop.refunds (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, merchant text, order_id text,
                           amount numeric, reference text);
INSERT INTO shop.orders VALUES ('A-17', 'acme', 'paid', 0, 'here'), ('A-18', 'acme', 'paid', 0, 'here');
"""
_ID = re.compile(r"\b[0-9a-f]{32}\b|\b[0-9a-f]{8}\b")


def section(title: str) -> str:
    """The text under a heading, up to the next one."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None, f"the page has no section {title}"
    return found.group(1)


def blocks(title: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", section(title), re.DOTALL)


def sessions(title: str) -> list[tuple[list[str], str]]:
    """The commands of a section, each with what it is said to print."""
    found = []
    for block in blocks(title, "console"):
        for command, told in re.findall(r"^\$ counterfoil (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            found.append((command.split(), told))
    assert found
    return found


def without_ids(text: str) -> str:
    """Ids differ from run to run, and so do the spaces that fill up a table's columns."""
    return _ID.sub("ID", text)


@pytest.fixture
def page_folder(tmp_path: Path) -> Path:
    """A folder with the page's first contract."""
    first = re.findall(r"```toml\n(.*?)```", section("A first contract"), re.DOTALL)[0]
    (tmp_path / "contracts.toml").write_text(first, encoding="utf-8")
    return tmp_path


def refund(recorder: Recorder, database: str, order: str, amount: float, *, with_ledger: bool) -> str:
    with (
        recorder.task("refund", task_ref=f"refund-{order}") as task,
        task.effect("refund", target="shop", args={"order": order, "amount": amount}) as effect,
        psycopg.connect(database) as connection,
    ):
        status = "UPDATE shop.orders SET status = 'refunded', refunded = refunded + %s WHERE id = %s"
        connection.execute(status, (amount, order))
        if with_ledger:
            ledger = "INSERT INTO shop.refunds (merchant, order_id, amount, reference) VALUES ('acme', %s, %s, %s)"
            connection.execute(ledger, (order, amount, effect.key))
        effect.ok()
    return effect.key


def test_mistakes_are_told_as_the_page_says(bare: Call, page_folder: Path) -> None:
    [(command, told)] = sessions("Check")
    path = page_folder / "contracts.toml"
    text = path.read_text(encoding="utf-8")
    for old, new in (
        ("set.status", "sett.status"),
        ('resource = "refunds"', 'resource = "refund"'),
        ("args.address", "arg.address"),
    ):
        text = text.replace(old, new, 1)
    path.write_text(text, encoding="utf-8")
    said = bare(*command)
    assert (said.code, said.out) == (1, told)


def test_coverage_and_a_try_are_told_as_the_page_says(
    call: Call, recorder: Recorder, database: str, page_folder: Path
) -> None:
    with psycopg.connect(database) as connection:
        connection.execute(TABLES)
    reach = {"TARGETS__SHOP__DSN": database, "CONTRACTS": str(page_folder / "contracts.toml")}
    call("tenant", "add", "acme")
    for command in ("ingest", "reconcile"):
        assert call(command, "--once", **reach).code == 0
    refund(recorder, database, "A-17", 12.5, with_ledger=True)
    torn = refund(recorder, database, "A-18", 20, with_ledger=False)
    with recorder.task("tell", task_ref="T-3") as task:
        for number in range(2):
            task.effect("send_mail", target=None, args={"number": number}).__enter__().ok()
        task.effect("tag", target="shop", args={"order": "A-17"}).__enter__().ok()
    recorder.close()
    for command in ("ingest", *["reconcile", "ingest"] * 4):
        assert call(command, "--once", **reach).code == 0
    for arguments, told in sessions("Coverage"):
        said = call(*arguments, **reach)
        assert said.out + said.err == told
    [(words, told)] = sessions("Try one write")
    words[words.index("--effect") + 1] = torn[:8]
    assert without_ids(call(*words, **reach).out) == without_ids(told)


def test_a_draft_is_as_the_page_says(bare: Call, tmp_path: Path) -> None:
    [(command, told)] = sessions("Draft")
    [tools], [draft, *_] = blocks("Draft", "json"), blocks("Draft", "toml")
    (tmp_path / "tools.json").write_text(tools, encoding="utf-8")
    assert bare(*command).out == told
    assert (tmp_path / "draft.toml").read_text(encoding="utf-8") == draft
