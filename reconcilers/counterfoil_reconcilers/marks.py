"""What an effect touches, as numbers that Postgres can look for: two effects with a mark in common are judged together.

A mark is a hash of 64 bits, so that no value of a row is kept where it is not needed. Where two things share one, too
much is judged together, which changes no verdict.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

from counterfoil_reconcilers.contracts import Contracts
from counterfoil_reconcilers.rows import RowKey
from counterfoil_reconcilers.touched import Search, Touched
from counterfoil_reconcilers.values import json_list

ANY = "*"  # any resource of the target


class Marks(NamedTuple):
    """`own` are kept with an effect; whoever else has one of `seeks` belongs to its group."""

    own: frozenset[int]
    seeks: frozenset[int]


@dataclass(frozen=True)
class Place:
    """One tenant's rows at one target: makes the marks of what is there.

    `varied`: resources whose created rows are looked for by these fields here and by others there.
    """

    tenant: str
    target: str
    varied: frozenset[str] = frozenset()
    _made: dict[tuple[str, ...], int] = field(default_factory=dict, compare=False, repr=False)

    def marks_of(self, touched: Touched, *, may_have_landed: bool, has_own_expectation: bool = False) -> Marks:
        """The marks of one effect; one that can't be judged, and may have landed, is marked by what it may change.

        What code expects may look for created rows by other fields than the contracts do.
        """
        writes = {self.row(key) for key in touched.writes | touched.may_be}
        reads = {self.read(key) for key in touched.reads}
        seeks = writes | {self.row(key) for key in touched.reads} | {self.read(key) for key in touched.writes}
        searches: set[int] = set()
        for search in touched.searches:
            of_all, of_this = self.searches(search.resource), self.search(search)
            anyhow = self.search(Search(search.resource, ()))
            searches |= {of_all, of_this, *([anyhow] if has_own_expectation else ())}
            varies = search.resource in self.varied or has_own_expectation
            seeks |= {of_all if varies or not search.fields else of_this, anyhow}
        blind = {ANY} if touched.reason is not None else set(touched.blind)
        blinds = {self.blind(resource) for resource in blind} if may_have_landed else set()
        return Marks(frozenset(writes | reads | searches | blinds), frozenset(seeks))

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
        mark = self._made.get(parts)
        if mark is None:
            text = json_list((self.tenant, self.target, *parts)).encode()
            mark = self._made[parts] = int.from_bytes(blake2b(text, digest_size=8).digest(), "big", signed=True)
        return mark


def searched_in_several_ways(contracts: Contracts, target: str) -> frozenset[str]:
    """Resources whose created rows are looked for by these fields here and by others there."""
    ways: dict[str, set[frozenset[str]]] = {}
    for tool in contracts.tools.values():
        for write in tool.writes if tool.target == target else ():
            if write.create:
                ways.setdefault(write.resource.name, set()).add(frozenset(field for field, _ in write.find))
    return frozenset(resource for resource, found in ways.items() if len(found) > 1)
