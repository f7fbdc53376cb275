"""What an effect touches, as numbers that Postgres can look for: two effects with a mark in common are judged together.

A mark is a hash of 64 bits, so that no value of a row is kept where it is not needed. Where two things share one, too
much is judged together, which changes no verdict.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

from counterfoil_reconcilers.contracts import Contracts
from counterfoil_reconcilers.rows import RowKey
from counterfoil_reconcilers.touched import Search, Touched

ANY = "*"  # any resource of the target


@dataclass(frozen=True)
class Marks:
    """`own` are kept with an effect; whoever else has one of `seeks` belongs to its group."""

    own: frozenset[int]
    seeks: frozenset[int]


def marks_of(
    contracts: Contracts,
    target: str,
    tenant: str,
    touched: Touched,
    *,
    may_have_landed: bool,
    has_own_expectation: bool = False,
) -> Marks:
    """The marks of one effect; one that can't be judged, and may have landed, is marked by what it may have changed.

    What code expects may look for created rows by other fields than the contracts do.
    """
    place = Place(tenant, target)
    writes = {place.row(key) for key in touched.writes}
    reads = {place.read(key) for key in touched.reads}
    searches = {mark for search in touched.searches for mark in (place.search(search), place.searches(search.resource))}
    varied = _searched_in_several_ways(contracts, target)
    sought = {
        place.searches(s.resource) if s.resource in varied or not s.fields else place.search(s)
        for s in touched.searches
    }
    anyhow = {place.search(Search(s.resource, ())) for s in touched.searches}
    sought |= anyhow
    if has_own_expectation:
        searches |= anyhow
        sought |= {place.searches(s.resource) for s in touched.searches}
    blind = {ANY} if touched.reason is not None else set(touched.blind)
    seeks = writes | sought
    seeks |= {place.row(key) for key in touched.reads} | {place.read(key) for key in touched.writes}
    blinds = {place.blind(resource) for resource in blind} if may_have_landed else set()
    return Marks(frozenset(writes | reads | searches | blinds), frozenset(seeks))


@dataclass(frozen=True)
class Place:
    """One tenant's rows at one target: makes the marks of what is there."""

    tenant: str
    target: str

    def row(self, key: RowKey) -> int:
        """Of a row that is written."""
        return self._mark("row", key.resource, *key.key)

    def read(self, key: RowKey) -> int:
        """Of a row that an expression reads."""
        return self._mark("read", key.resource, *key.key)

    def search(self, search: Search) -> int:
        """Of a created row that is looked for by these values."""
        return self._mark("search", search.resource, json.dumps(search.fields, sort_keys=True, default=str))

    def searches(self, resource: str) -> int:
        """Of any created row of a resource that is looked for."""
        return self._mark("searches", resource)

    def blind(self, resource: str) -> int:
        """Of what may have changed any row of a resource."""
        return self._mark("blind", resource)

    def changed(self, rows: Iterable[RowKey]) -> frozenset[int]:
        """Whoever has one of these may be what changed the rows."""
        keys = tuple(rows)
        resources = {key.resource for key in keys}
        return frozenset({self.row(key) for key in keys} | {self.searches(name) for name in resources})

    def blinds(self, rows: Iterable[RowKey]) -> frozenset[int]:
        """Whoever has one of these may have changed any row of these resources, and nobody can tell."""
        return frozenset(self.blind(name) for name in {ANY, *(key.resource for key in rows)})

    def _mark(self, *parts: str) -> int:
        text = json.dumps([self.tenant, self.target, *parts]).encode()
        return int.from_bytes(blake2b(text, digest_size=8).digest(), "big", signed=True)


def _searched_in_several_ways(contracts: Contracts, target: str) -> frozenset[str]:
    """Resources whose created rows are looked for by these fields here and by others there."""
    ways: dict[str, set[frozenset[str]]] = {}
    for tool in contracts.tools.values():
        for write in tool.writes if tool.target == target else ():
            if write.create:
                ways.setdefault(write.resource.name, set()).add(frozenset(field for field, _ in write.find))
    return frozenset(resource for resource, found in ways.items() if len(found) > 1)
