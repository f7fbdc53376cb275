"""Roundup, a real issue tracker, by declaration alone: the contract of docs/targets.md judges what agents do there."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from counterfoil_reconcilers.contracts import Contracts, load
from counterfoil_reconcilers.rows import Effect, Outcome, RowKey, Rows
from counterfoil_reconcilers.targets.opening import open_target
from counterfoil_reconcilers.targets.port import Address, Target, TargetUnavailable
from tests.fix_roundup import Roundup
from tests.reconcilers import looked
from tests.reconcilers.targets.conformance import ODD_KEYS, SECRET

PAGE = (Path(__file__).parents[3] / "docs" / "targets.md").read_text(encoding="utf-8")
[TEXT] = [text for text in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL) if "[targets.tracker]" in text]


@pytest.fixture
def contracts(tmp_path: Path) -> Contracts:
    (tmp_path / "contracts.toml").write_text(TEXT, encoding="utf-8")
    return load(tmp_path / "contracts.toml")


@pytest.fixture
def target(contracts: Contracts, roundup: Roundup) -> Iterator[Target]:
    with open_target(contracts, "tracker", {"tracker": roundup.settings}) as adapter:
        yield adapter


def effect(number: int, tool: str, outcome: Outcome = "ok", reply: object = None, **args: object) -> Effect:
    said = None if reply is None else json.dumps(reply)
    return Effect(bytes([number]) * 16, tool, args, outcome, (number,), said, tenant="acme")


def verdicts(
    contracts: Contracts, target: Target, effects: Sequence[Effect], baseline: Rows | None = None
) -> list[str]:
    """What the reconciler says of effects when it looks at the tracker now."""
    return looked.verdicts(contracts, "tracker", target, effects, baseline)


def issue(key: str) -> Address:
    return Address(None, RowKey("issues", (key,)))


def test_the_contract_fits_the_tracker(target: Target) -> None:
    assert target.check() == []


def test_a_change_of_an_issue_is_judged(contracts: Contracts, target: Target, roundup: Roundup) -> None:
    key = roundup.open_issue(title="The printer is offline", status="1", priority="3")
    baseline = looked.all_rows(contracts, "tracker", target, "acme")
    close = effect(1, "set_status", issue=key, status="8")
    assert verdicts(contracts, target, [close], baseline) == ["not_applied"]
    roundup.change_issue(key, {"status": "5"})
    assert verdicts(contracts, target, [close], baseline) == ["mismatched"]
    roundup.change_issue(key, {"status": "8"})
    assert verdicts(contracts, target, [close], baseline) == ["applied"]


def test_a_new_issue_is_found_by_its_title(contracts: Contracts, target: Target, roundup: Roundup) -> None:
    title = 'It\'s "odd" & <b>new</b>, \u65e5\u672c * ?'
    opened = effect(2, "open_issue", "unknown", title=title, priority="2")
    baseline = looked.all_rows(contracts, "tracker", target, "acme")
    assert verdicts(contracts, target, [opened], baseline) == ["not_applied"]
    roundup.open_issue(title=title + " (another)", status="1", priority="2")
    assert verdicts(contracts, target, [opened], baseline) == ["not_applied"]
    roundup.open_issue(title=title, status="1", priority="2")
    assert verdicts(contracts, target, [opened], baseline) == ["applied"]
    roundup.open_issue(title=title, status="1", priority="2")
    assert verdicts(contracts, target, [opened], baseline) == ["duplicated"]


def test_more_issues_than_a_page_holds_are_all_listed(contracts: Contracts, target: Target, roundup: Roundup) -> None:
    keys = {roundup.open_issue(title=f"one of many {number}", status="1", priority="3") for number in range(6)}
    listed = {found.address.row.key[0] for found in target.scan("issues")}
    assert keys <= listed


def test_no_odd_key_finds_another_issue(target: Target, roundup: Roundup) -> None:
    """Roundup itself reads `1` and a line break as issue 1; the form of its keys keeps that out."""
    key = roundup.open_issue(title="the one", status="1", priority="3")
    odd = [*ODD_KEYS, f"{key}\n", f"0{key}", f"{key}.0", f" {key}", f"{key}/../{key}", f"{key}.json"]
    found = target.read([*map(issue, odd), issue(key)])
    assert [one.row for one in found[:-1]] == [None] * len(odd)
    assert found[-1].row is not None
    assert found[-1].row.version is not None


def test_wrong_credentials_are_refused(contracts: Contracts, roundup: Roundup) -> None:
    settings = {**roundup.settings, "password": SECRET}
    with open_target(contracts, "tracker", {"tracker": settings}) as target, pytest.raises(TargetUnavailable) as caught:
        target.read([issue("1")])
    assert caught.value.trouble == "refused"
    assert SECRET not in str(caught.value)


def test_a_retired_issue_is_not_listed(contracts: Contracts, target: Target, roundup: Roundup) -> None:
    key = roundup.open_issue(title="to be retired", status="1", priority="3")
    roundup.retire_issue(key)
    assert issue(key) not in [found.address for found in target.scan("issues")]
    # By its key it is still shown, and nothing in it says so: docs/targets.md says what that means for contracts.
    assert target.read([issue(key)])[0].row is not None
