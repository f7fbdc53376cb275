"""The benchmark of a thousand tenants runs whole, on few of them."""

import json
from pathlib import Path

import pytest

from bench import tenants
from bench.pgbouncer import PROGRAM
from tests.fix_oldest import need


def test_every_contender_gives_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    need(PROGRAM, "pgbouncer")
    monkeypatch.setattr(tenants, "_FEW", 4)
    monkeypatch.setattr(tenants, "QUICK", tenants.Plan(tenants=12, events=3, reads=40, rounds=1))
    assert tenants.main(["--quick", "--json", str(tmp_path / "rows.jsonl")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row for row in rows if "error" in row] == []
    backends = {row["contender"]: row["median"] for row in rows if row["metric"] == "backends"}
    assert backends.pop("direct-new-connections") <= 1  # the last one may not be gone yet
    assert backends == {
        "direct": 12,
        "pgbouncer": 12,
        "pgbouncer-4-backends": 4,
        "direct-4-tenants": 4,
        "operator": 4,
    }
    assert {row["metric"] for row in rows} == set(tenants.UNITS)
    assert "row-level security and current_tenant()" in capsys.readouterr().out
