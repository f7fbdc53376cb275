"""`make demo`: it ends well by itself, shows what it promises, and leaves nothing running."""

import json
import subprocess
import sys
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]


def test_the_demo(environment: dict[str, str], tmp_path: Path) -> None:
    data = tmp_path / "demo"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "examples.shop", "--data", str(data), "--down"],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=170, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    timeline, _, drift = done.stdout.partition("── counterfoil drift")
    assert "── counterfoil timeline refund-A-1003" in timeline
    assert "the agent said ok, the target says partial: DRIFT, a part of it landed" in timeline
    for verdict in ("duplicated", "not_applied", "partial", "unattributed"):
        assert f" {verdict} " in drift
    assert drift.count("counterfoil timeline ") >= 3
    state = json.loads((data / "state.json").read_text(encoding="utf-8")) if (data / "state.json").exists() else {}
    assert not [
        process.pid for process in psutil.process_iter(["cmdline"]) if str(data) in str(process.info["cmdline"])
    ]
    assert state.get("kafka") is None
    assert state.get("postgres") is None
