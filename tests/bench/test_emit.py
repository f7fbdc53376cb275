"""The benchmark runs whole, on very little work: every contender gives its rows."""

import json
from pathlib import Path

import pytest

from bench import emit
from bench.rows import Failed, Measure, row_of

_OURS = set(emit.UNITS)
_PEERS = {"call_microseconds", "call_p99_microseconds", "cpu_microseconds", "events_per_second", "kept_share"}


def test_every_contender_gives_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(emit, "QUICK", emit.Plan(calls=500, acks=20, rounds=2))
    monkeypatch.setattr(emit, "_LEAST_PERF_RECORDS", 2_500)
    assert emit.main(["--quick", "--json", str(tmp_path / "rows.jsonl")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row for row in rows if "error" in row] == []
    found = {
        name: {row["metric"] for row in rows if row["contender"] == name} for name in {row["contender"] for row in rows}
    }
    assert found == {
        "counterfoil": _OURS,
        "counterfoil-without-redaction": _OURS,
        "counterfoil-with-a-secret": _OURS,
        "opentelemetry": _PEERS,
        "langfuse": _PEERS,
        "kafka-producer-perf": {"events_per_second"},
    }
    assert all(row.keys() == {"contender", "metric", "unit", "best", "median", "worst", "rounds"} for row in rows)
    assert all(row["rounds"] == 2 for row in rows)
    assert {row["median"] for row in rows if row["metric"] == "kept_share"} == {1.0}
    assert "times less than opentelemetry's" in capsys.readouterr().out


def test_a_contender_that_can_not_run_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def contenders(*_: object) -> dict[str, Measure]:
        def fails() -> dict[str, float]:
            raise ValueError("no such thing")

        return {"counterfoil": lambda: {"call_microseconds": 1.0}, "langfuse": fails}

    monkeypatch.setattr(emit, "_contenders", contenders)
    rows = emit.run(emit.Plan(calls=1, acks=1, rounds=2))
    assert rows[1] == Failed("langfuse", "ValueError: no such thing")


def test_the_best_is_the_highest_where_more_is_better() -> None:
    fast = row_of("counterfoil", "events_per_second", "1/s", [3, 1, 2])
    assert (fast.best, fast.median, fast.worst) == (3, 2, 1)
    cheap = row_of("counterfoil", "call_microseconds", "us", [3, 1, 2])
    assert (cheap.best, cheap.median, cheap.worst) == (1, 2, 3)
