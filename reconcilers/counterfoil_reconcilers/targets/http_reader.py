"""Rows of an HTTP API: by key, by what they hold, and page by page.

That a row is not there is believed only after the API has answered otherwise, by the resource's `probe` or its list: a
wrong path, a lost permission and an API that was taken away say 404, too.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from counterfoil_reconcilers.compare import agree
from counterfoil_reconcilers.rows import Row, RowKey
from counterfoil_reconcilers.targets.http_answers import Answer
from counterfoil_reconcilers.targets.http_client import Ask, HttpClient
from counterfoil_reconcilers.targets.http_options import Batch, HttpChanges, Listing
from counterfoil_reconcilers.targets.http_pages import Page, Walk
from counterfoil_reconcilers.targets.http_rows import Astray, Order, Shape
from counterfoil_reconcilers.targets.http_templates import (
    can_be_sent,
    can_fill,
    fill_body,
    fill_path,
    fill_query,
    names_in,
)
from counterfoil_reconcilers.targets.port import Address, TargetRow, TargetUnavailable, by_resource
from counterfoil_reconcilers.touched import Search
from counterfoil_reconcilers.values import Json, at

_NOT_FOUND: Final = frozenset({404, 410})
Item = Mapping[str, Any]


@dataclass(frozen=True)
class _Seen:
    """What a key's own address answered. `proof`: what must answer before its absence is believed."""

    row: TargetRow
    proof: Ask | None = None


class HttpReader:
    """Asks for rows as the contract declares it. All raise TargetUnavailable."""

    def __init__(self, target: str, shapes: Mapping[str, Shape], client: HttpClient) -> None:
        self._target = target
        self._shapes = shapes
        self._client = client

    async def read(self, wanted: Sequence[Address]) -> Sequence[TargetRow]:
        """Every address, in batches where the API can, the rest by key; what a batch did not bring, too."""
        found: dict[Address, TargetRow] = {}
        for name, addresses in by_resource(wanted).items():
            batch = self._shapes[name].options.batch
            if batch is not None:
                found |= await self._read_in_batches(self._shapes[name], batch, addresses)
        seen = await self._client.each(self._read_one, [address for address in wanted if address not in found])
        await self._client.each(self._prove, list({one.proof.url: one.proof for one in seen if one.proof}.values()))
        found |= {one.row.address: one.row for one in seen}
        return [found[address] for address in wanted]

    async def find(self, shape: Shape, tenant: str | None, search: Search, limit: int) -> Sequence[TargetRow]:
        """Rows that hold every field of a search, which is looked at here again, whatever the API calls a hit."""
        fields = dict(search.fields)
        if not all(can_be_sent(value) for value in fields.values() if isinstance(value, str)):
            return []
        listing = shape.options.find
        if listing is None or not can_fill([listing.query, listing.post], fields, values_of(shape, tenant)):
            listing = shape.options.listing
        if listing is None:
            what = f"{search.resource} can't be searched by {', '.join(fields)}; say how in find, or declare list"
            raise self._unreadable(what)
        found: list[TargetRow] = []
        walk = Walk(shape.pages_of(listing))
        while walk.page is not None and len(found) < limit:
            rows = await self.page(shape, listing, {**fields, **values_of(shape, tenant)}, walk, tenant)
            found += [row for row in rows if _holds(shape, row, fields)]
        if not found:
            await self.prove_nothing(shape, tenant)
        return found[:limit]

    async def page(
        self, shape: Shape, listing: Listing, values: Mapping[str, Json], walk: Walk, tenant: str | None
    ) -> Sequence[TargetRow]:
        """The rows of the walk's next page, as far as they are the tenant's; afterwards the walk is one page on."""
        ask = self.ask_page(shape, listing, values, walk.page or Page())
        items = await self._items(shape, ask, listing.items, walk)
        with self._reading(ask):
            rows = [self._listed(shape, item, tenant, whole=not listing.keys_only) for item in items]
            listed = [row for row in rows if row is not None]
            walk.note([row.address for row in listed])
        return await self.read([row.address for row in listed]) if listing.keys_only else listed

    async def newest(self, shape: Shape, changes: HttpChanges, values: Mapping[str, Json], walk: Walk) -> Order | None:
        """The highest place among the changes on the walk's next page; afterwards the walk is one page on."""
        ask = self.ask_page(shape, changes, values, walk.page or Page())
        items = await self._items(shape, ask, changes.items, walk)
        with self._reading(ask):
            return highest([shape.order_of(item, changes.at) for item in items], changes.at)

    async def prove_nothing(self, shape: Shape, tenant: str | None) -> None:
        """Where a probe is declared: that no rows are there, and not that they are not shown to these credentials."""
        probe, values = shape.options.probe, values_of(shape, tenant)
        if probe is not None and names_in(probe) <= values.keys():
            await self._prove(self.ask_probe(shape, values))

    async def sample(self, shape: Shape, listing: Listing) -> Sequence[Item] | None:
        """A few rows as a list shows them; None if it isn't there."""
        walk = Walk(shape.pages_of(listing).model_copy(update={"size": 1}))
        ask = self.ask_page(shape, listing, values_of(shape, None), walk.page or Page())
        answer = await self._client.fetch(ask, _NOT_FOUND)
        if answer.status != 200:
            return None
        with self._reading(ask):
            return list(shape.many(_document(answer), listing.items))

    async def answers_probe(self, shape: Shape) -> bool:
        """Whether there is something at a probe that needs no values."""
        return (await self._client.fetch(self.ask_probe(shape, {}), _NOT_FOUND)).status == 200

    def ask_probe(self, shape: Shape, values: Mapping[str, str]) -> Ask:
        """What the API answers whenever it would have answered for a row, too."""
        if shape.options.probe is not None:
            return self._ask_path(shape, shape.options.probe, values)
        listing = shape.options.listing
        assert listing is not None  # noqa: S101  # a resource without either is refused when it is loaded
        first = Walk(shape.pages_of(listing).model_copy(update={"size": 1}))
        return self.ask_page(shape, listing, values, first.page or Page())

    def ask_page(self, shape: Shape, listing: Listing, values: Mapping[str, Json], page: Page) -> Ask:
        """One page of a list or of a search."""
        verb = "GET" if listing.post is None else "POST"
        if page.url is not None:
            return Ask(f"{verb} {listing.path}", page.url)
        path = fill_path(listing.path, {name: str(value) for name, value in values.items()})
        if path is None:
            raise self._unreadable(f"{verb} {listing.path} can't be asked for this tenant")
        query = {**shape.options.query, **dict(fill_query(listing.query, values))}
        if listing.post is None:
            return self._client.ask(listing.path, path, {**query, **dict(page.params)}.items())
        post = {**fill_body(listing.post, values), **dict(page.params)}
        return self._client.ask(listing.path, path, query.items(), post)

    def _ask_path(self, shape: Shape, template: str, values: Mapping[str, str]) -> Ask:
        path = fill_path(template, values)
        if path is None:
            raise self._unreadable(f"GET {template} can't be asked for this key")
        return self._client.ask(template, path, shape.options.query.items())

    async def _read_one(self, address: Address) -> _Seen:
        shape, nothing = self._shapes[address.row.resource], TargetRow(address, None)
        values = {**dict(zip(shape.resource.key, address.row.key, strict=True)), **values_of(shape, address.tenant)}
        if not names_in(shape.options.get) <= values.keys():
            raise self._unreadable(f"GET {shape.options.get} needs a tenant")
        if not shape.may_name(address.row.key) or fill_path(shape.options.get, values) is None:
            return _Seen(nothing)
        ask = self._ask_path(shape, shape.options.get, values)
        answer = await self._client.fetch(ask, shape.absent)
        if answer.status != 200:
            return _Seen(nothing, self.ask_probe(shape, values))
        if answer.problem is not None:
            return _Seen(TargetRow(address, Row(None, problem=answer.problem)))
        with self._reading(ask):
            return _Seen(TargetRow(address, _row_at(shape, address, answer)))

    async def _read_in_batches(
        self, shape: Shape, batch: Batch, addresses: Sequence[Address]
    ) -> Mapping[Address, TargetRow]:
        """The rows that batches bring; of a row that they don't, nothing is said."""
        fit = [one for one in addresses if shape.may_name(one.row.key) and _is_one_of_many(batch, one.row.key[0])]
        by_tenant: dict[str | None, list[Address]] = defaultdict(list)
        for address in fit:
            by_tenant[address.tenant].append(address)
        chunks = [
            some[start : start + batch.most] for some in by_tenant.values() for start in range(0, len(some), batch.most)
        ]
        brought = await self._client.each(lambda some: self._read_batch(shape, batch, some), chunks)
        return {row.address: row for rows in brought for row in rows}

    async def _read_batch(self, shape: Shape, batch: Batch, some: Sequence[Address]) -> Sequence[TargetRow]:
        tenant, keys = some[0].tenant, [address.row.key[0] for address in some]
        values = values_of(shape, tenant)
        path = fill_path(batch.path, values)
        if path is None:
            raise self._unreadable(f"GET {batch.path} can't be asked for this tenant")
        query = [*shape.options.query.items(), *fill_query(batch.query, values)]
        query += [(batch.param, batch.separator.join(keys))] if batch.separator else [(batch.param, k) for k in keys]
        walk, rows = Walk(batch.pages or shape.pages), []
        while walk.page is not None:
            ask = self._client.ask(batch.path, path, [*query, *walk.page.params])
            if walk.page.url is not None:
                ask = Ask(ask.what, walk.page.url)
            items = await self._items(shape, ask, batch.items, walk)
            with self._reading(ask):
                rows += [self._batched(shape, item, tenant) for item in items]
        asked = set(some)
        return [row for row in rows if row.address in asked]

    def _batched(self, shape: Shape, item: Item, tenant: str | None) -> TargetRow:
        address = Address(tenant, RowKey(shape.resource.name, shape.key_of(item) or ("",)))
        is_there = shape.belongs_to(item, tenant) and not shape.is_gone(item)
        return TargetRow(address, shape.row(item) if is_there else None)

    async def _items(self, shape: Shape, ask: Ask, path: str | None, walk: Walk) -> Sequence[Item]:
        answer = await self._client.fetch(ask)
        with self._reading(ask):
            items = list(shape.many(_document(answer), path))
            is_incomplete = shape.is_incomplete(answer.document)
            walk.advance(answer, items)
        if is_incomplete:
            raise TargetUnavailable(self._target, f"{ask.what} says that it did not look through all that there is")
        return items

    def _listed(self, shape: Shape, item: Item, tenant: str | None, *, whole: bool) -> TargetRow | None:
        """A row in a list, empty if it is gone; None if it is not the tenant's, or has a key that nothing can name."""
        key = shape.key_of(item)
        if key is None:
            return None
        if not whole:
            return TargetRow(Address(tenant, RowKey(shape.resource.name, key)), None)
        is_gone = shape.is_gone(item)
        if not shape.belongs_to(item, tenant) or (is_gone and tenant is None):
            return None
        whose = shape.tenant_of(item) if tenant is None else tenant
        return TargetRow(Address(whose, RowKey(shape.resource.name, key)), None if is_gone else shape.row(item))

    async def _prove(self, proof: Ask) -> None:
        doubt = "rows were said not to be there, which can't be believed"
        try:
            answer = await self._client.fetch(proof, _NOT_FOUND)
        except TargetUnavailable as error:
            wait = error.retry_after
            reason = f"{doubt}: {error.reason}"
            raise TargetUnavailable(self._target, reason, trouble=error.trouble, retry_after=wait) from None
        if answer.status != 200:
            raise self._unreadable(f"{doubt}, for {proof.what} answered {answer.status}, too; run the contract check")

    @contextmanager
    def _reading(self, ask: Ask) -> Iterator[None]:
        try:
            yield
        except Astray as error:
            raise self._unreadable(f"{ask.what} {error}") from None

    def _unreadable(self, reason: str) -> TargetUnavailable:
        return TargetUnavailable(self._target, reason, trouble="unreadable")


def highest(orders: Sequence[Order | None], at: str) -> Order | None:
    """The highest of them, if there are any. Raises Astray where one is lacking, or texts stand beside numbers."""
    known = [order for order in orders if order is not None]
    if len(known) < len(orders):
        raise Astray(f"shows a row without a time or number at {at}")
    try:
        return max(known, default=None)
    except TypeError:
        raise Astray(f"shows both texts and numbers at {at}") from None


def values_of(shape: Shape, tenant: str | None) -> dict[str, str]:
    """What stands in the place that is named as the tenant is."""
    name = shape.resource.tenant
    return {} if name is None or tenant is None else {name: tenant}


def _row_at(shape: Shape, address: Address, answer: Answer) -> Row | None:
    item = shape.one(answer.document)
    if not shape.is_named(item, address.row.key):
        raise Astray("shows another row than was asked for")
    if not shape.belongs_to(item, address.tenant) or shape.is_gone(item):
        return None
    return shape.row(item, answer.headers)


def _document(answer: Answer) -> Any:
    if answer.problem is not None:
        raise Astray(f"can't be read: {answer.problem}")
    return answer.document


def _holds(shape: Shape, found: TargetRow, fields: Mapping[str, Json]) -> bool:
    """Whether a row holds the fields; one that can't be compared holds none."""
    return found.row is not None and all(
        agree(shape.resource, value, at(found.row.doc, (name,)), (name,)) for name, value in fields.items()
    )


def _is_one_of_many(batch: Batch, key: str) -> bool:
    return bool(key) and (not batch.separator or batch.separator not in key)
