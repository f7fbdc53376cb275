"""Reads from a target what the effects in hand touch: by key, in a few rounds."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Protocol, TypeVar

from counterfoil_reconcilers.contracts import Contracts
from counterfoil_reconcilers.contracts import Target as Declared
from counterfoil_reconcilers.disclosure import Disclosure
from counterfoil_reconcilers.expressions import Unevaluable
from counterfoil_reconcilers.rows import Effect, Row, RowKey, Rows
from counterfoil_reconcilers.targets.port import Address, Target, TargetRow
from counterfoil_reconcilers.touched import Search, Touched, resources_of

# A row found through a row found through a row: deeper joins stay unread, and so unknowable.
_ROUNDS = 5
_MOST_FOUND = 200
_READ_AT_A_TIME, _SEARCHED_AT_A_TIME = 500, 50
_NOTHING = Touched(frozenset(), frozenset(), (), frozenset(), {}, ())


Thing = TypeVar("Thing")


class Known(Protocol):
    """What is known of the rows as they were before."""

    @property
    def rows(self) -> Rows:
        """Those that were asked for."""

    def load(self, keys: Iterable[RowKey]) -> Sequence[Row | None]:
        """Ask for these; returns those that are new."""


class Looker:
    """Looks at the target for the effects of one pass; what was read once is not read again.

    `go_on` is called after each request.
    """

    def __init__(
        self,
        adapter: Target,
        contracts: Contracts,
        declared: Declared,
        disclosure: Disclosure,
        past: Known,
        go_on: Callable[[], object],
    ) -> None:
        self._adapter = adapter
        self._contracts = contracts
        self._declared = declared
        self._disclosure = disclosure
        self._past = past
        self._go_on = go_on
        self._rows: dict[RowKey, Row | None] = {}

    @property
    def rows(self) -> Rows:
        """All that was read so far."""
        return Rows(self._rows)

    def add(self, rows: Mapping[RowKey, Row | None]) -> None:
        """Take rows that were read otherwise."""
        self._rows.update(rows)
        self._disclosure.learn(self._past.load(rows))

    def look(self, noted: Sequence[Effect]) -> tuple[list[Effect], list[Touched]]:
        """Read the rows that the effects write or refer to.

        Returns the effects as these rows tell them, and what each touches. Raises TargetUnavailable.
        """
        touched = self._touched(noted)
        for _ in range(_ROUNDS):
            keys = {key for one in touched for key in (*one.writes, *one.reads, *one.missing)}
            wanted = keys - self._rows.keys()
            learnt = self._past.load(keys)
            if not wanted and not learnt:
                break
            self._disclosure.learn(learnt)
            self._read([Address(self._tenant(key.resource), key) for key in wanted])
            touched = self._touched(noted, touched)
        if self._search(touched):
            touched = self._touched(noted, touched)
        return [self._disclosure.opened(effect) for effect in noted], touched

    def survey(self, noted: Sequence[Effect]) -> list[Touched]:
        """What each touches. Rows are read only if that may depend on them: then any of them may tell it.

        Raises TargetUnavailable.
        """
        touched = self._touched(noted)
        if all(one.is_final and not effect.secret for effect, one in zip(noted, touched, strict=True)):
            return touched
        return self.look(noted)[1]

    def _read(self, addresses: Sequence[Address]) -> None:
        """Some at a time, for a target may be slow."""
        for some in _in_parts(addresses, _READ_AT_A_TIME):
            self._take(self._adapter.read(some))
            self._go_on()

    def _search(self, touched: Sequence[Touched]) -> bool:
        """Look for created rows by what they hold; whether there was anything to look for."""
        searches: dict[str | None, dict[Search, None]] = {}
        for search in (search for one in touched for search in one.searches):
            searches.setdefault(self._tenant(search.resource), {})[search] = None
        for tenant, wanted in searches.items():
            for some in _in_parts(list(wanted), _SEARCHED_AT_A_TIME):
                self._take(self._adapter.find(tenant, some, _MOST_FOUND))
                self._go_on()
        return bool(searches)

    def _take(self, found: Iterable[TargetRow]) -> None:
        new = by_key(self._declared, found)
        self._rows.update(new)
        self._disclosure.learn(new.values())
        self._disclosure.learn(self._past.load(new))

    def _touched(self, noted: Sequence[Effect], so_far: Sequence[Touched] = ()) -> list[Touched]:
        """What each touches by what is known now; what no row changes is not asked again."""
        known, seen = self._past.rows, Rows(self._rows)
        return [
            one
            if one is not None and one.is_final and not effect.secret
            else touched_at(self._contracts, self._declared, self._disclosure.opened(effect), known, seen)
            for effect, one in zip_longest(noted, so_far)
        ]

    def _tenant(self, resource: str) -> str | None:
        return tenant_at(self._declared, resource, self._disclosure.tenant)


def _in_parts(things: Sequence[Thing], most: int) -> Iterator[Sequence[Thing]]:
    return (things[first : first + most] for first in range(0, len(things), most))


def touched_at(contracts: Contracts, declared: Declared, effect: Effect, known: Rows, seen: Rows) -> Touched:
    """What an effect touches at a target; nothing, where the contract of its tool names another one."""
    tool = contracts.tools.get(effect.tool)
    is_elsewhere = effect.expect is None and tool is not None and tool.target != declared.name
    return _NOTHING if is_elsewhere else resources_of(contracts, effect, declared.name, known, seen)


def read_rows(adapter: Target, declared: Declared, tenant: str, keys: Iterable[RowKey]) -> dict[RowKey, Row | None]:
    """Rows of the tenant by their keys.

    Raises TargetUnavailable.
    """
    return by_key(declared, adapter.read(Address(tenant_at(declared, key.resource, tenant), key) for key in keys))


def tenant_at(declared: Declared, resource: str, tenant: str) -> str | None:
    """Whose rows to ask for; None where the resource does not say whose a row is."""
    return tenant if declared.resources[resource].tenant is not None else None


def by_key(declared: Declared, found: Iterable[TargetRow]) -> dict[RowKey, Row | None]:
    """Rows as the judge takes them."""
    return {one.address.row: _with_ours(declared, one.row) for one in found}


def _with_ours(declared: Declared, row: Row | None) -> Row | None:
    """Whether a row is ours, where the target itself can't be asked."""
    if declared.is_ours is None or row is None:
        return row
    try:
        return replace(row, ours=declared.is_ours.evaluate({"row": row.doc}) is True)
    except Unevaluable:
        return replace(row, ours=False)
