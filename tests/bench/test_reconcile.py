"""The benchmark of reconciling runs whole, on few effects, and finds every drift that it planted."""

import json
from pathlib import Path

import pytest

from bench import reconcile


def test_every_figure_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "QUICK", reconcile.Plan(effects=300, closed=(0, 2_000), rounds=1, swept=(1_000,)))
    assert reconcile.main(["--quick", "--json", str(tmp_path / "rows.jsonl")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [(row["contender"], row["metric"]) for row in rows] == [
        ("counterfoil", "effects_per_second"),
        ("counterfoil-no-baseline", "effects_per_second"),
        ("counterfoil-created-rows", "effects_per_second"),
        ("counterfoil-0-closed", "due_milliseconds"),
        ("counterfoil-2000-closed", "due_milliseconds"),
        ("counterfoil-listing-1000-rows", "sweep_milliseconds"),
        ("counterfoil-column-1000-rows", "sweep_milliseconds"),
        ("counterfoil-change-table-1000-rows", "sweep_milliseconds"),
    ]
    assert all(row["best"] > 0 for row in rows)
