"""What every kind of target must do, on the real thing: one suite, run by each kind on a server that really runs.

A kind's test module has a class that inherits `Conformance` and a fixture `subject` that gives a `Subject`.
"""

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import pytest

from counterfoil_reconcilers.contracts import ContractError, Contracts, load
from counterfoil_reconcilers.rows import Row, RowKey
from counterfoil_reconcilers.targets.opening import open_target
from counterfoil_reconcilers.targets.port import Address, Target, TargetUnavailable
from counterfoil_reconcilers.touched import Search

NAME = "subject"
SECRET = "hunter2-not-to-be-seen"
MINE, OTHER = "acme", "bolt"
# Whoever names a row has it from a model. A target that can hold such a key finds it; none may find another row by it.
ODD_KEYS = (
    "",
    " ",
    ".",
    "..",
    "../A-1",
    "A-1/../A-2",
    "A-1?x=1",
    "A-1#x",
    "A-1%",
    "A%2D1",
    "*",
    "A-*",
    "A_1",
    "'; DROP TABLE items; --",
    '"A-1"',
    "A-1\n",
    "a-1",
    "Ä-1",
    "A-1\u0000",
    "\ud800",
    "0",
    "x" * 5_000,
)
# JSON in, JSON out: what a document may hold.
DOCUMENT: Mapping[str, Any] = {
    "status": "paid",
    "count": 3,
    "price": 12.5,
    "note": "Ärger, \u65e5\u672c, \"quoted\" and 'single' \\ back\nline",
    "flag": True,
    "nothing": None,
    "address": {"city": "Ulm", "lines": ["a", "b"]},
}


_FIND = """\
[tools.make]
target = "subject"
[[tools.make.writes]]
resource = "items"
create = true
find = { status = "'paid'" }
"""


class Subject(Protocol):
    """A real target, and ways around its adapter: to write to it as an agent does, and to break it.

    `contract` is the TOML of `[targets.subject]` with one resource `items`, keyed by `id`, whose `tenant` says whose a
    row is; no tools. `connection` are its settings, `refused` those with a wrong secret (`SECRET`).
    `lost_contract` is the contract with the name of something that the target does not have, and that name.
    """

    @property
    def contract(self) -> str: ...

    @property
    def lost_contract(self) -> tuple[str, str]: ...

    @property
    def connection(self) -> Mapping[str, str]: ...

    @property
    def refused(self) -> Mapping[str, str]: ...

    def put(self, tenant: str, key: str, fields: Mapping[str, Any]) -> None:
        """Write a row, new or not; by another connection than the adapter's."""

    def remove(self, tenant: str, key: str) -> None:
        """Take it away."""

    def away(self) -> AbstractContextManager[None]:
        """For the length of a block the target does not answer, as after a crash or behind a dead network."""


class Conformance:
    """Inherit this. `documents`: whether a row may hold what JSON holds, or only what the subject's columns do."""

    documents: Mapping[str, Any] = DOCUMENT
    odd_keys: Sequence[str] = ODD_KEYS
    answers_within_seconds = 15.0

    @pytest.fixture
    def contracts(self, subject: Subject, tmp_path: Path) -> Contracts:
        return contracts_of(tmp_path, subject.contract)

    @pytest.fixture
    def target(self, subject: Subject, contracts: Contracts) -> Target:
        return open_target(contracts, NAME, {NAME: subject.connection})

    def test_each_address_is_answered_once_in_order(self, subject: Subject, target: Target) -> None:
        subject.put(MINE, "A-1", {"status": "paid"})
        subject.put(MINE, "A-2", {"status": "open"})
        wanted = [item("A-2"), item("A-9"), item("A-1"), item("A-2")]
        with target:
            found = target.read(wanted)
        assert [row.address for row in found] == wanted[:3]
        assert [doc_of(row.row, "status") for row in found] == ["open", None, "paid"]

    def test_what_json_holds_comes_back_as_it_was(self, subject: Subject, target: Target) -> None:
        subject.put(MINE, "A-1", self.documents)
        with target:
            [found] = target.read([item("A-1")])
        assert isinstance(found.row, Row)
        assert found.row.problem is None
        held = {name: doc_of(found.row, name) for name in self.documents}
        assert held == dict(self.documents)

    def test_a_row_of_another_tenant_is_not_there(self, subject: Subject, target: Target, contracts: Contracts) -> None:
        subject.put(OTHER, "A-1", {"status": "paid"})
        with target:
            assert [found.row for found in target.read([item("A-1")])] == [None]
            if contracts.targets[NAME].capabilities.finds:
                assert target.find(MINE, [Search("items", (("status", "paid"),))], 10) == []
            if contracts.targets[NAME].capabilities.lists:
                assert list(target.scan("items", MINE)) == []

    def test_a_row_that_came_changed_and_went_is_seen_so(self, subject: Subject, target: Target) -> None:
        with target:
            seen = [target.read([item("A-1")])[0].row]
            for status in ("open", "paid"):
                subject.put(MINE, "A-1", {"status": status})
                seen.append(target.read([item("A-1")])[0].row)
            subject.remove(MINE, "A-1")
            seen.append(target.read([item("A-1")])[0].row)
        assert [doc_of(row, "status") for row in seen] == [None, "open", "paid", None]
        versions = [row.version for row in seen if row is not None]
        assert versions[0] is None or versions[0] != versions[1]

    def test_an_odd_key_names_no_other_row(self, subject: Subject, target: Target) -> None:
        for there in ("A-1", "A-2"):
            subject.put(MINE, there, {"status": there})
        with target:
            for key in self.odd_keys:
                found = target.read([item(key), item("A-2")])
                assert found[0].address == item(key)
                assert found[0].row is None, ascii(key)
                assert doc_of(found[1].row, "status") == "A-2", ascii(key)

    def test_rows_are_found_by_what_they_hold(
        self, subject: Subject, target: Target, contracts: Contracts, tmp_path: Path
    ) -> None:
        """Or a contract that needs that is refused, and nobody gets as far as asking."""
        if not contracts.targets[NAME].capabilities.finds:
            with pytest.raises(NotImplementedError):
                target.find(MINE, [Search("items", (("status", "paid"),))], 10)
            with pytest.raises(ContractError, match="can't be searched"):
                contracts_of(tmp_path, subject.contract + _FIND)
            return
        for number in range(4):
            subject.put(MINE, f"A-{number}", {"status": "paid" if number % 2 else "open"})
        with target:
            paid = target.find(MINE, [Search("items", (("status", "paid"),))], 10)
            assert {found.address.row.key for found in paid} == {("A-1",), ("A-3",)}
            assert {doc_of(found.row, "status") for found in paid} == {"paid"}
            assert len(target.find(MINE, [Search("items", (("status", "paid"),))], 1)) == 1
            assert target.find(MINE, [Search("items", (("status", "' OR 1=1 --"),))], 10) == []
            assert target.find(MINE, [Search("items", (("status", "*"),))], 10) == []

    def test_all_rows_are_listed(self, subject: Subject, target: Target, contracts: Contracts) -> None:
        assert contracts.targets[NAME].capabilities.lists, "of a kind that can't, show here that writers are refused"
        wanted = {f"A-{number}" for number in range(self.many)}
        for key in sorted(wanted):
            subject.put(MINE, key, {"status": "open"})
        subject.put(OTHER, "B-1", {"status": "open"})
        with target:
            listed = [found.address.row for found in target.scan("items", MINE)]
        assert sorted(row.key[0] for row in listed) == sorted(wanted)

    many = 120  # more than a page of whoever pages

    def test_many_rows_are_read_at_once(self, subject: Subject, target: Target) -> None:
        for number in range(0, 300, 100):
            subject.put(MINE, f"A-{number}", {"status": "open"})
        with target:
            found = target.read([item(f"A-{number}") for number in range(300)])
        assert [row.address.row.key[0] for row in found if row.row] == ["A-0", "A-100", "A-200"]

    def test_a_target_that_is_away_gives_no_answer_and_then_answers(self, subject: Subject, target: Target) -> None:
        subject.put(MINE, "A-1", {"status": "paid"})
        with target:
            assert doc_of(target.read([item("A-1")])[0].row, "status") == "paid"
            with subject.away():
                for _ in range(2):
                    started = time.monotonic()
                    with pytest.raises(TargetUnavailable) as caught:
                        target.read([item("A-1")])
                    assert time.monotonic() - started < self.answers_within_seconds
                    assert caught.value.trouble == "away", caught.value
            assert_answers(target)

    def test_refused_credentials_are_no_answer_and_not_shown(self, subject: Subject, contracts: Contracts) -> None:
        subject.put(MINE, "A-1", {"status": "paid"})
        with open_target(contracts, NAME, {NAME: subject.refused}) as target:
            with pytest.raises(TargetUnavailable) as caught:
                target.read([item("A-1")])
            assert caught.value.trouble == "refused", caught.value
            assert SECRET not in str(caught.value)
            with pytest.raises(TargetUnavailable):
                target.check()

    def test_what_the_contract_names_is_looked_for(self, subject: Subject, target: Target, tmp_path: Path) -> None:
        with target:
            assert target.check() == []
        text, name = subject.lost_contract
        with open_target(contracts_of(tmp_path, text), NAME, {NAME: subject.connection}) as lost:
            [mistake] = lost.check()
            assert name in str(mistake)
            assert mistake.line is not None
            assert name in ('version = "1"\n' + text).splitlines()[mistake.line - 1]
            with pytest.raises(TargetUnavailable):
                lost.read([item("A-1")])

    def test_a_closed_adapter_opens_anew(self, subject: Subject, target: Target) -> None:
        subject.put(MINE, "A-1", {"status": "paid"})
        target.close()
        target.close()
        with target:
            assert doc_of(target.read([item("A-1")])[0].row, "status") == "paid"
        assert doc_of(target.read([item("A-1")])[0].row, "status") == "paid"
        target.close()


def contracts_of(folder: Path, text: str) -> Contracts:
    """The contract of a subject, loaded."""
    path = folder / "contracts.toml"
    path.write_text('version = "1"\n' + text, encoding="utf-8")
    return load(path)


def item(key: str, tenant: str | None = MINE) -> Address:
    """The address of one of the subject's rows."""
    return Address(tenant, RowKey("items", (key,)))


def doc_of(row: Row | None, name: str) -> Any:
    """A field of a row; None where there is no row."""
    if row is None:
        return None
    assert isinstance(row.doc, dict), row
    return row.doc[name]


def assert_answers(target: Target, seconds: float = 20.0) -> None:
    """It answers again; a target that comes back may take a moment."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            assert doc_of(target.read([item("A-1")])[0].row, "status") == "paid"
        except TargetUnavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return
