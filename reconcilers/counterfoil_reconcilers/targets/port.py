"""What a reconciler needs of a target, and nothing else: read rows by key, find some, list them, check the contract.

An adapter never writes. Whatever it cannot answer is `TargetUnavailable`: no answer is never an answer.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from counterfoil.errors import CounterfoilError
from counterfoil_reconcilers.contracts import ContractError
from counterfoil_reconcilers.rows import Row, RowKey
from counterfoil_reconcilers.touched import Search


class TargetUnavailable(CounterfoilError):
    """The target gave no answer that could be trusted. `reason` is one sentence, without secrets."""

    def __init__(self, target: str, reason: str) -> None:
        super().__init__(f"target {target}: {reason}")
        self.target = target
        self.reason = reason


@dataclass(frozen=True)
class Address:
    """One row of one tenant. `tenant` None where the resource has no column for it."""

    tenant: str | None
    row: RowKey


@dataclass(frozen=True)
class TargetRow:
    """What stands at an address; `row` None: nothing does."""

    address: Address
    row: Row | None


class Target(Protocol):
    """A system written to, as far as it can be asked."""

    def check(self) -> Sequence[ContractError]:
        """What the contract names and the target does not have; empty if all is there."""

    def read(self, addresses: Iterable[Address]) -> Sequence[TargetRow]:
        """Every address once, in one consistent view; one query per resource."""

    def find(self, tenant: str | None, searches: Sequence[Search], limit: int) -> Sequence[TargetRow]:
        """Rows that hold the fields of one of the searches, at most `limit` for each."""

    def scan(self, resource: str, tenant: str | None = None) -> Iterator[TargetRow]:
        """Every row of a resource, of one tenant or of all."""

    def close(self) -> None:
        """Let go of connections; a later call opens them anew."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
