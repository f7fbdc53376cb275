"""What a reconciler needs of a target, and nothing else: read rows by key, find some, list them, check the contract.

An adapter never writes. Whatever it cannot answer is `TargetUnavailable`: no answer is never an answer.
"""

import datetime as dt
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, NamedTuple, Protocol, Self, runtime_checkable

from pydantic import BaseModel, ConfigDict

from counterfoil.errors import CounterfoilError
from counterfoil_reconcilers.contract_kinds import KindDescription
from counterfoil_reconcilers.contracts import ContractError, Contracts
from counterfoil_reconcilers.rows import Row, RowKey
from counterfoil_reconcilers.touched import Search

Trouble = Literal["away", "throttled", "refused", "unreadable"]


class TargetUnavailable(CounterfoilError):
    """The target gave no answer that could be trusted. `reason` is one sentence, without secrets.

    `trouble`: it did not answer or met an error of its own (`away`), wants fewer requests (`throttled`), takes our
    credentials no more (`refused`), or answered what is no answer (`unreadable`). `retry_after`: how long it wants to
    be left alone, if it said so.
    """

    def __init__(
        self, target: str, reason: str, *, trouble: Trouble = "away", retry_after: dt.timedelta | None = None
    ) -> None:
        super().__init__(f"target {target}: {reason}")
        self.target = target
        self.reason = reason
        self.trouble: Trouble = trouble
        self.retry_after = retry_after


class Address(NamedTuple):
    """One row of one tenant. `tenant` None where the resource has no column for it."""

    tenant: str | None
    row: RowKey


class TargetRow(NamedTuple):
    """What stands at an address; `row` None: nothing does."""

    address: Address
    row: Row | None


class Target(Protocol):
    """A system written to, as far as it can be asked. Not for use by several threads at once.

    All but `close` raise TargetUnavailable. A row of another tenant than the one asked for is not there: where the
    resource has a `tenant`, a row belongs to who stands in that field.
    """

    def check(self) -> Sequence[ContractError]:
        """What the contract names and the target does not have; empty if all is there."""

    def read(self, addresses: Iterable[Address]) -> Sequence[TargetRow]:
        """Every address once, in as few requests as the target allows; a key that it would refuse names no row."""

    def find(self, tenant: str | None, searches: Sequence[Search], limit: int) -> Sequence[TargetRow]:
        """Rows that hold the fields of one of the searches, at most `limit` for each. Only of kinds that find."""

    def scan(self, resource: str, tenant: str | None = None) -> Iterator[TargetRow]:
        """Every row of a resource, of one tenant or of all. Only of kinds that list."""

    def close(self) -> None:
        """Let go of connections; a later call opens them anew."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Closing:
    """Adapters begin with this: `with` closes them at its end."""

    def close(self) -> None:
        """See Target."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def by_resource(addresses: Iterable[Address]) -> dict[str, list[Address]]:
    """Addresses by the resource that they are in, each once, in order."""
    grouped: dict[str, list[Address]] = {}
    for address in dict.fromkeys(addresses):
        grouped.setdefault(address.row.resource, []).append(address)
    return grouped


@runtime_checkable
class Forgetful(Protocol):
    """A target that loses what is old, such as a log. What it does not show is no proof that it never was."""

    def remembers_since(self, resource: str) -> dt.datetime | None:
        """Since when it knows all that was written to a resource, as of the last call; None: since ever."""


@runtime_checkable
class Watched(Protocol):
    """A target that can be asked what changed, for resources that declare `changes`. Both raise TargetUnavailable."""

    def position(self, resource: str, tenant: str | None, since: str | None) -> str | None:
        """Where the newest change of the tenant's rows stands, in words of the target's own; None: there was none yet.

        `since`: a position known already, for targets that can only be asked from there on.
        """

    def changed(self, resource: str, tenant: str | None, since: str | None) -> Iterator[TargetRow]:
        """The tenant's rows that changed at that position or later, as they are now, all of one moment where reads are.

        Some may come twice. `since` None: all that ever changed.
        """


def _cannot_be_opened(_contracts: Contracts, name: str, _connection: Any) -> Target:
    raise NotImplementedError(f"nobody said how target {name} is opened")


class Connection(BaseModel):
    """How to reach a target: each field is the setting `COUNTERFOIL_TARGETS__<TARGET>__<FIELD>`, or `..._FILE`.

    Secrets are SecretStr, so that no log and no error shows them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Kind(KindDescription):
    """A kind of target that can be connected to: what an entry point of `counterfoil.targets` names.

    `open` is given the contracts, the target's name in them and its `connection`; it must not connect yet.
    """

    connection: type[Connection] = Connection
    open: Callable[[Contracts, str, Any], Target] = _cannot_be_opened
