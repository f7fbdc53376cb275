"""The benchmark of queries runs whole, on a small store; the plans of one task's questions are those that grow well."""

import json
import re
from pathlib import Path

import pytest

from bench import histories, queries


def test_every_query_is_measured_as_operator_and_as_tenant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(queries, "QUICK", queries.Plan(events=(4_000, 20_000), runs=3, seconds=1))
    assert queries.main(["--quick", "--json", str(tmp_path / "rows.jsonl"), "--plans", str(tmp_path / "plans")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [(row["events"], row["query"], row["contender"]) for row in rows] == [
        (events, query, f"counterfoil-{login}")
        for events in (4_000, 20_000)
        for query in queries.ASKED
        for login in ("operator", "tenant")
    ]
    assert {(row["metric"], row["unit"], row["runs"]) for row in rows} == {("query_milliseconds", "ms", 3)}
    assert all(0 < row["best"] <= row["median"] <= row["p99"] <= row["worst"] for row in rows)
    found = {row["query"]: row["rows"] for row in rows if row["events"] == 20_000 and "tenant" in row["contender"]}
    assert (found["timeline"], found["task_tool_calls"], found["search_texts"] > 0) == (200, 38, True)
    assert found["cross_tenant_suspects"] == 0
    assert "20,000 events" in capsys.readouterr().out
    for login in ("operator", "tenant"):
        plan = (tmp_path / "plans" / f"20000-timeline-{login}.txt").read_text()
        _assert_looked_up(plan)
        calls = (tmp_path / "plans" / f"20000-task_tool_calls-{login}.txt").read_text()
        read = [float(rows) for rows in re.findall(r" rows=([0-9.]+) loops", calls)]
        assert 38 <= max(read) <= histories.A_TASK, calls  # what is of the task, and not all calls of the tenant


def _assert_looked_up(plan: str) -> None:
    """Whatever holds rows is read by the index on (tenant, task_id); only partitions without any are read through."""
    lines = plan.splitlines()
    reads = [at for at, line in enumerate(lines) if " on event_" in line and " rows=" in line]
    assert reads
    full = [lines[at].strip() for at in reads if " rows=0.00 " not in lines[at] and " rows=0 " not in lines[at]]
    assert full
    assert [line for line in full if "Seq Scan" in line] == []
    assert "_tenant_task_id_idx" in plan
