"""The benchmark of ingest runs whole, on very little work; a peer that can't be installed is a row."""

import json
from pathlib import Path

import pytest

from bench import ingest, sinks
from bench.servers import Servers

_STORING = {"events_per_second", "kept_share", "client_cpu_microseconds", "postgres_cpu_microseconds"}
_LOAD = {"emit_to_row_p50_milliseconds", "emit_to_row_milliseconds"}


def test_every_contender_gives_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def offline(given: Servers, *_: object, **__: object) -> dict[str, float]:
        raise OSError(f"no index to install from, for the events of {given.prefix}")

    monkeypatch.setattr(sinks, "quixstreams", offline)
    monkeypatch.setattr(sinks, "debezium", offline)
    monkeypatch.setattr(ingest, "QUICK", ingest.Plan(events=400, seconds=1, rounds=1))
    assert ingest.main(["--quick", "--json", str(tmp_path / "rows.jsonl")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["contender"] for row in rows if "error" in row] == [
        "quixstreams",
        "debezium-jdbc",
        "debezium-jdbc-2-tasks",
    ]
    found = {
        name: {row["metric"] for row in rows if row["contender"] == name and "error" not in row}
        for name in {row["contender"] for row in rows}
    }
    assert found == {
        "counterfoil": _STORING,
        "counterfoil-2-processes": _STORING,
        "copy-from-file": _STORING,
        "quixstreams": set(),
        "debezium-jdbc": set(),
        "debezium-jdbc-2-tasks": set(),
        "naive": _STORING,
        "counterfoil-at-1000-a-second": _LOAD | {"client_cpu_microseconds", "postgres_cpu_microseconds"},
    }
    assert {row["median"] for row in rows if row.get("metric") == "kept_share"} == {1.0}
    assert "times as many events a second as copy-from-file" in capsys.readouterr().out
