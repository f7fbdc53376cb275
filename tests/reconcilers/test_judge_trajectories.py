"""The judge's figures on recorded agents' runs: no drift on clean ones, every fault found and called by its name."""

import json
import os
from pathlib import Path

import pytest

from counterfoil import RecorderSettings
from counterfoil.redaction import Redaction
from counterfoil.redaction_policy import FieldRule, RedactionPolicy
from counterfoil.sealing import write_new_key
from counterfoil_reconcilers.contracts import Contracts, load
from tests.fix_recorder import IDENTITY_KEY
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


SECRET_ARGUMENTS = ("email", "address1", "zip", "payment_method_id", "first_name")
POLICIES = {
    "personal": RedactionPolicy(personal=("email", "phone")),
    "redacted": RedactionPolicy(
        fields=(FieldRule(path="$.result..address1"), *(FieldRule(path=f"$.args.{name}") for name in SECRET_ARGUMENTS))
    ),
    "sealed": RedactionPolicy(fields=tuple(FieldRule(path=f"$.args.{name}", do="seal") for name in SECRET_ARGUMENTS)),
}


@pytest.mark.parametrize("policy", POLICIES)
def test_redacted_runs_are_judged_as_the_runs_themselves(
    data: Path, contracts: Contracts, clean: Judged, faulted: Judged, policy: str, tmp_path: Path
) -> None:
    write_new_key(tmp_path, "acme", "1")
    given = RecorderSettings(identity_key=IDENTITY_KEY, redaction=POLICIES[policy], key_directory=tmp_path)
    redaction = Redaction(given)
    faults = data / "faults"
    for plain, events, final in (
        (clean, data / "events.jsonl.gz", data / "target_final_clean.jsonl.gz"),
        (faulted, faults / "events.jsonl.gz", faults / "target_final.jsonl.gz"),
    ):
        judged = judge_all(contracts, data, events, final, "retail", redaction)
        assert {p: v.verdict for p, v in judged.verdicts.items()} == {p: v.verdict for p, v in plain.verdicts.items()}
        changed = [{t: [c.row for c in cs] for t, cs in one.changes.items() if cs} for one in (judged, plain)]
        assert changed[0] == changed[1]
        said = json.dumps([verdict.evidence for verdict in judged.verdicts.values()], default=str)
        addresses = {effect.args.get("address1", "?") for effect in plain.effects.values()} - {"?"}
        assert len(addresses) > 5
        assert policy == "personal" or not [address for address in addresses if address in said]
