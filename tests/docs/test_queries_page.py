"""The page of views and queries names every column with the type that the store gives it, and every parameter."""

import re
from pathlib import Path

import pytest
from psycopg import sql

from counterfoil_consumers.store import Connection, queries

PAGE = (Path(__file__).parents[2] / "docs" / "queries.md").read_text(encoding="utf-8")
VIEWS = (
    *("timeline", "effects_open", "tool_calls", "retrievals_by_source", "denials", "retry_storms", "cost_by_task"),
    "cross_tenant_suspects",
)
ONLY_QUERIES = ("source_reach", "history", "search_texts", "texts_waiting")
PARAMS = {"tenant": None, "task_id": None, "target": None, "tool": None, "outcome": None, "since": None} | {
    "source": "kb/7", "version": None, "words": "refund", "limit": 1, "resource": "r", "key": "[]", "before": None,
}  # fmt: skip


def section(name: str) -> str:
    found = re.search(rf"^### {name}\n(.*?)(?=^##|\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None, f"the page has no section {name}"
    return found.group(1)


def documented(name: str) -> list[tuple[str, str]]:
    """Columns and types, in the page's order; each with a meaning."""
    rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \| [^|]* \| (.+) \|$", section(name), re.MULTILINE)
    assert all(meaning.strip() for *_, meaning in rows)
    return [(column, kind) for column, kind, _ in rows]


@pytest.mark.parametrize("view", VIEWS)
def test_every_column_of_a_view_has_its_type(operator: Connection, view: str) -> None:
    query = sql.SQL(
        "SELECT attname, format_type(atttypid, atttypmod) AS kind FROM pg_attribute "
        "WHERE attrelid = {}::regclass AND attnum > 0 ORDER BY attnum"
    ).format(sql.Literal(f"counterfoil.{view}"))
    assert documented(view) == [(row["attname"], row["kind"]) for row in operator.execute(query)]


@pytest.mark.parametrize("name", ONLY_QUERIES)
def test_every_column_of_a_query_has_its_type(operator: Connection, name: str) -> None:
    described = operator.execute(queries("forensic")[name], PARAMS).description
    assert described is not None
    kinds = [
        operator.execute("SELECT format_type(%s, NULL) AS kind", [column.type_code]).fetchall()[0]["kind"]
        for column in described
    ]
    assert documented(name) == [(column.name, kind) for column, kind in zip(described, kinds, strict=True)]


@pytest.mark.parametrize("name", sorted(queries("forensic")))
def test_a_query_of_a_view_has_its_columns_and_the_page_its_parameters(operator: Connection, name: str) -> None:
    described = operator.execute(queries("forensic")[name], PARAMS).description
    assert described is not None
    about = name.removeprefix("task_") if name.removeprefix("task_") in VIEWS else name
    assert [column.name for column in described] == [column for column, _ in documented(about)]
    text = queries("forensic")[name].as_string(operator)
    [line] = re.findall(r"^Named query: (.*)\.$", section(about), re.MULTILINE)
    shown = line.partition(f"`{name}` with ")[2] if name != about else line.partition(";")[0]
    assert set(re.findall(r"`(\w+)`", shown)) == set(re.findall(r"%\((\w+)\)s", text))


def test_no_view_of_events_is_left_out(operator: Connection) -> None:
    rows = operator.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = 'counterfoil'::regnamespace AND relkind = 'v'"
    )
    # The columns of every_event are those of event; docs/retention.md tells of the last two.
    elsewhere = {"effect_state", "change_state", "drift", "completeness", "astray", "retention_rule"}
    assert {row["relname"] for row in rows} - elsewhere == {*VIEWS, "every_event"}
