"""The judge's figures on recorded agents' runs: no drift on clean ones, every fault found and called by its name."""

import os
from pathlib import Path

import pytest

from counterfoil_reconcilers.contracts import Contracts, load
from tests.reconcilers.trajectories_offline import (
    AGREES,
    CONTRACTS,
    DATA,
    Judged,
    drifts,
    explained_changes,
    figures,
    judge_all,
    lines,
)

WORDS = {
    "none": "applied",
    "none_rejected": "not_applied",
    "none_noop": "applied",
    "missing": "not_applied",
    "partial": "partial",
    "duplicated": "duplicated",
    "divergent": "mismatched",
    "wrong_tenant": "not_applied",
    "timeout_applied": "applied",
    "timeout_not_applied": "not_applied",
    "unrequested": "unattributed",
}


@pytest.fixture(scope="module")
def data() -> Path:
    if not DATA.is_dir():
        if os.environ.get("CI"):
            pytest.fail(f"the recorded runs are missing: put them at {DATA.name} beside the checkout, in shared/")
        pytest.skip("the recorded runs are not on this machine")
    return DATA


@pytest.fixture(scope="module")
def contracts() -> Contracts:
    return load(CONTRACTS)


@pytest.fixture(scope="module")
def clean(data: Path, contracts: Contracts) -> Judged:
    return judge_all(contracts, data, data / "events.jsonl.gz", data / "target_final_clean.jsonl.gz", "retail")


@pytest.fixture(scope="module")
def faulted(data: Path, contracts: Contracts) -> Judged:
    faults = data / "faults"
    return judge_all(contracts, data, faults / "events.jsonl.gz", faults / "target_final.jsonl.gz", "retail")


def test_clean_runs_show_no_drift_at_all(clean: Judged) -> None:
    assert len(clean.verdicts) == 193
    assert [place for place, verdict in clean.verdicts.items() if drifts(clean.effects[place], verdict)] == []
    assert [place for place, verdict in clean.verdicts.items() if verdict.verdict == "unknowable"] == []
    assert [changes for changes in clean.changes.values() if changes] == []


def test_every_fault_is_found_and_called_by_its_name(data: Path, faulted: Judged) -> None:
    table = figures(faulted, lines(data / "faults" / "labels.jsonl.gz"))
    for fault, row in table.items():
        assert set(row["verdicts"]) == {WORDS[fault]}, (fault, row)
        assert row["found"] == (0 if fault in AGREES else row["count"]), (fault, row)


def test_nothing_is_called_unattributed_that_was_asked_for(data: Path, faulted: Judged) -> None:
    true, said = explained_changes(faulted, lines(data / "faults" / "labels.jsonl.gz"))
    assert (true, said) == (11, 11)
