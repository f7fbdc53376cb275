"""Any REST API as a target, by declaration in the contract: where rows are, how they are found, which are gone."""

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Final

from counterfoil.errors import SettingsError
from counterfoil_reconcilers.contract_kinds import Capabilities
from counterfoil_reconcilers.contracts import ContractError, Contracts
from counterfoil_reconcilers.targets.http_auth import HttpConnection
from counterfoil_reconcilers.targets.http_client import HttpClient
from counterfoil_reconcilers.targets.http_declared import HttpKind
from counterfoil_reconcilers.targets.http_options import HttpChanges, HttpOptions, HttpResource, Listing
from counterfoil_reconcilers.targets.http_pages import Walk
from counterfoil_reconcilers.targets.http_reader import HttpReader, highest, values_of
from counterfoil_reconcilers.targets.http_rows import Astray, Order, Shape
from counterfoil_reconcilers.targets.port import Address, Closing, TargetRow, TargetUnavailable
from counterfoil_reconcilers.toml_lines import Location
from counterfoil_reconcilers.touched import Search
from counterfoil_reconcilers.values import Json

_NEWEST_SECONDS: Final = 20.0  # a part of a lease's length


class HttpTarget(Closing):
    """One HTTP API behind the port `Target`. Not for use by several threads at once, nor from a running event loop."""

    def __init__(
        self, contracts: Contracts, name: str, options: HttpOptions, shapes: dict[str, Shape], client: HttpClient
    ) -> None:
        self._contracts = contracts
        self._name = name
        self._options = options
        self._shapes = shapes
        self._client = client
        self._reader = HttpReader(name, shapes, client)

    def close(self) -> None:
        """Let go of connections and tokens; the next call opens and reads them anew."""
        self._client.close()

    def check(self) -> Sequence[ContractError]:
        """Resources that the API has nothing for, keys that its rows do not show, searches that it can't be asked."""
        errors = [error for shape in self._shapes.values() for error in self._check_finds(shape)]
        for shape in self._shapes.values():
            errors += self._client.run(self._check(shape), self._options.deadline_seconds)
        return errors

    def read(self, addresses: Iterable[Address]) -> Sequence[TargetRow]:
        """Every address once, in batches where the API can, the rest by key, a few at a time."""
        return self._client.run(self._reader.read(list(dict.fromkeys(addresses))), self._options.deadline_seconds)

    def find(self, tenant: str | None, searches: Sequence[Search], limit: int = 50) -> Sequence[TargetRow]:
        """Rows that hold every field of a search, by the API's own search or by all of its list."""
        found: dict[Address, TargetRow] = {}
        for search in searches:
            asking = self._reader.find(self._shapes[search.resource], tenant, search, limit)
            found |= {row.address: row for row in self._client.run(asking, self._options.deadline_seconds)}
        return list(found.values())

    def scan(self, resource: str, tenant: str | None = None) -> Iterator[TargetRow]:
        """Every row of a resource, page by page."""
        shape = self._shapes[resource]
        listing, values = shape.options.listing, values_of(shape, tenant)
        if listing is None or not listing.names <= values.keys():
            what = f"{resource} can't be listed for all tenants together; ask for the rows of one"
            raise TargetUnavailable(self._name, what, trouble="unreadable")
        yield from (row for row in self._walked(shape, listing, values, tenant) if row.row is not None)

    def position(self, resource: str, tenant: str | None, since: str | None) -> str | None:
        """The highest value that a change shows, of those that the list of changes has from `since` on.

        Of a list that takes long, of what came by then: what changes later stands no earlier than any of these.
        """
        shape, until = self._shapes[resource], time.monotonic() + self._options.sweep_seconds
        enough = time.monotonic() + _NEWEST_SECONDS
        changes, values = _changes_of(shape), _since(shape, tenant, since)
        walk, seen = Walk(shape.pages_of(changes)), list[Order | None]()
        while walk.page is not None and time.monotonic() < enough:
            left = max(0.001, until - time.monotonic())
            newest = self._client.run(self._reader.newest(shape, changes, values, walk), left)
            seen += [] if newest is None else [newest]
        try:
            newest = highest(seen, changes.at)
        except Astray as error:
            raise TargetUnavailable(self._name, f"{changes.path} {error}", trouble="unreadable") from None
        if newest is None:
            return since
        with suppress(Astray):  # a number that became a text, or the other way round, counts no more
            newest = highest([newest, *([] if since is None else [json.loads(since)])], changes.at)
        return json.dumps(newest)

    def changed(self, resource: str, tenant: str | None, since: str | None) -> Iterator[TargetRow]:
        """Rows that the list of changes has, page by page; one that says of itself that it was deleted is gone."""
        shape = self._shapes[resource]
        yield from self._walked(shape, _changes_of(shape), _since(shape, tenant, since), tenant)

    def _walked(
        self, shape: Shape, listing: Listing, values: Mapping[str, Json], tenant: str | None
    ) -> Iterator[TargetRow]:
        until = time.monotonic() + self._options.sweep_seconds
        is_empty = True
        walk = Walk(shape.pages_of(listing))
        while walk.page is not None:
            left = max(0.001, until - time.monotonic())
            for row in self._client.run(self._reader.page(shape, listing, values, walk, tenant), left):
                is_empty = is_empty and row.row is None
                yield row
        if is_empty:
            self._client.run(self._reader.prove_nothing(shape, tenant), self._options.deadline_seconds)

    async def _check(self, shape: Shape) -> Sequence[ContractError]:
        place = ("targets", self._name, "resources", shape.resource.name)
        listing = shape.options.listing
        probe = shape.options.probe
        if probe is not None and not shape.needs_values(probe) and not await self._reader.answers_probe(shape):
            return [self._nothing_at((*place, "probe"), probe)]
        errors = await self._check_changes(shape, (*place, "changes"))
        if listing is None or listing.names:  # what lists the rows of one tenant can't be asked for none
            return errors
        items = await self._reader.sample(shape, listing)
        if items is None:
            return [self._nothing_at((*place, "list", "path"), listing.path)]
        return errors + [
            self._contracts.error_at(
                (*place, what), f"rows of {shape.resource.name} at target {self._name} show no {n}"
            )
            for item in items[:1]
            for what, n in shape.lacking(item)
        ]

    async def _check_changes(self, shape: Shape, place: Location) -> list[ContractError]:
        changes = shape.options.changes
        if changes is None or shape.needs_values(changes.path):
            return []
        items = await self._reader.sample(shape, changes)
        if items is None:
            return [self._nothing_at((*place, "path"), changes.path)]
        what = f"rows of {shape.resource.name} at target {self._name} show no time or number at {changes.at}"
        return [
            self._contracts.error_at((*place, "at"), what)
            for item in items[:1]
            if shape.order_of(item, changes.at) is None
        ]

    def _nothing_at(self, place: Location, path: str) -> ContractError:
        what = f"target {self._name} has nothing at {path}, or does not show it to these credentials"
        return self._contracts.error_at(place, what)

    def _check_finds(self, shape: Shape) -> Iterator[ContractError]:
        """Searches of tools for which `find` has no place."""
        finds = shape.options.find
        if finds is None or shape.options.listing is not None:
            return
        for tool in self._contracts.tools.values():
            for write in tool.writes if tool.target == self._name else ():
                names = {name for name, _ in write.find}
                if write.resource == shape.resource and names and names.isdisjoint(finds.names):
                    place = ("tools", tool.name, "writes", str(write.index), "find")
                    what = (
                        f"find of {shape.resource.name} has no place for {', '.join(sorted(names))}; add one, or list"
                    )
                    yield self._contracts.error_at(place, what)


def _changes_of(shape: Shape) -> HttpChanges:
    changes = shape.options.changes
    assert changes is not None  # noqa: S101  # nobody else is asked what changed
    return changes


def _since(shape: Shape, tenant: str | None, since: str | None) -> Mapping[str, Json]:
    """What a list of changes is asked with."""
    return {**values_of(shape, tenant), **({} if since is None else {"since": json.loads(since)})}


def _open(contracts: Contracts, name: str, connection: HttpConnection) -> HttpTarget:
    declared = contracts.targets[name]
    options = declared.options
    assert isinstance(options, HttpOptions)  # noqa: S101  # the kind of the target says so
    base = connection.url or options.base
    if base is None:
        raise SettingsError(f"target {name} lacks an address: set its URL, or base in the contract")
    shapes = {}
    for resource in declared.resources.values():
        assert isinstance(resource.options, HttpResource)  # noqa: S101  # likewise
        shapes[resource.name] = Shape(resource, options, resource.options)
    return HttpTarget(contracts, name, options, shapes, HttpClient(name, base, options, connection))


KIND = HttpKind(
    name="http",
    capabilities=Capabilities(finds=True, lists=True),
    resource_options=HttpResource,
    target_options=HttpOptions,
    connection=HttpConnection,
    open=_open,
)
