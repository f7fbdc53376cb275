"""What every way to tell changes must do, on the real thing: one suite, run for each way on a server that really runs.

A class that inherits `Watching` has a fixture `subject`, whose contract declares `changes` for its resource `items`.
"""

from pathlib import Path

import pytest

from counterfoil_reconcilers.contracts import Contracts
from counterfoil_reconcilers.targets.opening import open_target
from counterfoil_reconcilers.targets.port import Target, Watched
from tests.reconcilers.targets.conformance import MINE, NAME, OTHER, Subject, contracts_of, doc_of


class Watching:
    """Inherit this. `lost` are names in `changes` to put wrong ones for: each must be found by the check."""

    many = 1_050  # more than any batch
    lost: tuple[tuple[str, str], ...] = ()

    @pytest.fixture
    def contracts(self, subject: Subject, tmp_path: Path) -> Contracts:
        return contracts_of(tmp_path, subject.contract)

    @pytest.fixture
    def target(self, subject: Subject, contracts: Contracts) -> Target:
        return open_target(contracts, NAME, {NAME: subject.connection})

    def test_before_anything_changed_there_is_no_position_and_then_all_changed(
        self, subject: Subject, target: Target
    ) -> None:
        with target:
            assert watched(target).position("items", MINE, None) is None
            assert changed(target, None) == {}
            subject.put(MINE, "A-1", {"status": "open"})
            assert watched(target).position("items", MINE, None) is not None
            assert changed(target, None) == {"A-1": "open"}

    def test_what_changed_at_a_position_or_later_is_read_as_it_is_now(self, subject: Subject, target: Target) -> None:
        with target:
            for key in ("A-1", "A-2", "A-3"):
                subject.put(MINE, key, {"status": "open"})
            third = watched(target).position("items", MINE, None)
            assert changed(target, third) == {"A-3": "open"}
            subject.put(MINE, "A-1", {"status": "paid"})
            subject.put(MINE, "A-1", {"status": "sent"})
            assert changed(target, third) == {"A-3": "open", "A-1": "sent"}
            last = watched(target).position("items", MINE, third)
            assert changed(target, last) == {"A-1": "sent"}
            assert watched(target).position("items", MINE, last) == last

    def test_of_another_tenant_nothing_is_told(self, subject: Subject, target: Target) -> None:
        with target:
            subject.put(MINE, "A-1", {"status": "open"})
            first = watched(target).position("items", MINE, None)
            subject.put(OTHER, "B-1", {"status": "open"})
            assert changed(target, first) == {"A-1": "open"}
            assert set(changed(target, first, OTHER)) == {"B-1"}

    def test_a_row_that_is_gone_is_told_where_the_way_says_so(
        self, subject: Subject, target: Target, contracts: Contracts
    ) -> None:
        with target:
            subject.put(MINE, "A-1", {"status": "open"})
            subject.put(MINE, "A-2", {"status": "open"})
            position = watched(target).position("items", MINE, None)
            subject.remove(MINE, "A-1")
            way = contracts.targets[NAME].resources["items"].changes
            assert way is not None
            gone = {"A-1": None} if way.sees_deletions else {}
            assert changed(target, position) == {"A-2": "open"} | gone

    def test_more_changes_than_a_batch_holds_are_all_told(self, subject: Subject, target: Target) -> None:
        with target:
            subject.put(MINE, "A-0", {"status": "open"})
            position = watched(target).position("items", MINE, None)
            wanted = {f"A-{number}" for number in range(self.many)}
            for key in sorted(wanted):
                subject.put(MINE, key, {"status": "paid"})
            assert changed(target, position) == dict.fromkeys(wanted, "paid")

    def test_the_check_looks_for_what_tells_changes(self, subject: Subject, target: Target, tmp_path: Path) -> None:
        subject.put(MINE, "A-1", {"status": "open"})
        with target:
            assert target.check() == []
        for right, wrong in self.lost:
            text = subject.contract.replace(right, wrong)
            assert text != subject.contract
            with open_target(contracts_of(tmp_path, text), NAME, {NAME: subject.connection}) as lost:
                [mistake] = lost.check()
            assert mistake.line is not None
            assert wrong in ('version = "1"\n' + text).splitlines()[mistake.line - 1], mistake


def watched(target: Target) -> Watched:
    """The target as one that can be asked what changed."""
    assert isinstance(target, Watched)
    return target


def changed(target: Target, since: str | None, tenant: str = MINE) -> dict[str, str | None]:
    """The status of the rows that changed, by key; None for those that are gone."""
    rows = watched(target).changed("items", tenant, since)
    return {found.address.row.key[0]: doc_of(found.row, "status") for found in rows}
