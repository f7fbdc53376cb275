"""DynamoDB as a target: a row is an item, read by its whole key with strongly consistent reads.

No two items are sure to be seen at one moment. A search reads the whole table, or the tenant's partition where there
is one, for DynamoDB filters what it has read.
"""

import datetime as dt
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from pydantic import field_validator

from counterfoil_reconcilers.compare import agree
from counterfoil_reconcilers.contract_files import Written
from counterfoil_reconcilers.contract_kinds import Capabilities
from counterfoil_reconcilers.contracts import ContractError, Contracts, Resource
from counterfoil_reconcilers.rows import Row, row_of
from counterfoil_reconcilers.targets.aws import AwsConnection, client_of, translated
from counterfoil_reconcilers.targets.dynamodb_keys import SEPARATOR, Item, Keys, keys_of
from counterfoil_reconcilers.targets.dynamodb_requests import BATCH, Condition, Requests
from counterfoil_reconcilers.targets.dynamodb_values import alternatives, json_of, text_of_key
from counterfoil_reconcilers.targets.naming import NameTemplate
from counterfoil_reconcilers.targets.port import Address, Closing, Kind, TargetRow, TargetUnavailable, by_resource
from counterfoil_reconcilers.touched import Search
from counterfoil_reconcilers.values import MISSING, Unreadable

_TABLE = re.compile(r"[A-Za-z0-9_.-]{3,255}|arn:aws[a-z-]*:dynamodb:[a-z0-9-]+:\d{12}:table/[A-Za-z0-9_.-]{3,255}")
_TOKENS_LAST: Final = dt.timedelta(minutes=10)  # "TransactWriteItems", ClientRequestToken


class DynamoResource(Written):
    """Which items are rows. `item`: what each attribute of the table's key holds, where not the field of its name."""

    table: str
    item: dict[str, str] | None = None

    @field_validator("table")
    @classmethod
    def _is_a_name(cls, table: str) -> str:
        if not _TABLE.fullmatch(table):
            raise ValueError(f"{table!r} is no name of a table; write its name or ARN")
        return table

    @field_validator("item")
    @classmethod
    def _are_templates(cls, item: dict[str, str] | None) -> dict[str, str] | None:
        for text in (item or {}).values():
            NameTemplate(text, SEPARATOR)
        return item


class DynamoTarget(Closing):
    """The tables of one account and region behind the port `Target`. Not for use by several threads at once."""

    def __init__(
        self, contracts: Contracts, name: str, connection: AwsConnection, *, unprocessed_seconds: float = 15.0
    ) -> None:
        self._contracts = contracts
        self._target = contracts.targets[name]
        self._name = name
        self._connection = connection
        self._unprocessed_seconds = unprocessed_seconds
        self._client: Any = None
        self._keys: dict[str, Keys] = {}

    def close(self) -> None:
        """Let go of the connections; the next call opens others."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def check(self) -> Sequence[ContractError]:
        """Tables that are not there, and keys that are others than theirs, each with the line that says it."""
        errors = []
        self._keys.clear()
        requests = self._requests()
        for name, resource in self._target.resources.items():
            at, options = ("targets", self._name, "resources", name), _options(resource)
            table = requests.table(options.table)
            if table is None:
                sentence = f"table {options.table} does not exist in target {self._name}"
                errors.append(self._contracts.error_at((*at, "table"), sentence))
                continue
            place = (*at, "key" if options.item is None else "item")
            mistakes = keys_of(resource, options.item, table).mistakes(options.table)
            errors += [self._contracts.error_at(place, mistake) for mistake in mistakes]
        return errors

    def read(self, addresses: Iterable[Address]) -> Sequence[TargetRow]:
        """Every address once, with its item or None; one request for each hundred of a table."""
        wanted = list(dict.fromkeys(addresses))
        requests = self._requests()
        found: dict[Address, Row] = {}
        for name, its in by_resource(wanted).items():
            found.update(self._look_up(requests, self._target.resources[name], its))
        return [TargetRow(address, found.get(address)) for address in wanted]

    def find(self, tenant: str | None, searches: Sequence[Search], limit: int = 50) -> Sequence[TargetRow]:
        """Items that hold every field of a search."""
        found: dict[Address, TargetRow] = {}
        for search in searches:
            resource = self._target.resources[search.resource]
            rows = self._rows(resource, tenant, search)
            found |= {row.address: row for row in islice(rows, limit)}
        return list(found.values())

    def scan(self, resource: str, tenant: str | None = None) -> Iterator[TargetRow]:
        """Every item of a table that is a row of this resource."""
        declared = self._target.resources[resource]
        yield from self._rows(declared, tenant, Search(resource, ()))

    def _requests(self) -> Requests:
        if self._client is None:
            with translated(self._name):
                self._client = client_of(self._connection, "dynamodb")
        return Requests(self._name, self._client, self._unprocessed_seconds)

    def _keys_of(self, requests: Requests, resource: Resource) -> Keys:
        """Asked for once; TargetUnavailable if the table is not there, or has another key than the contract says."""
        if resource.name not in self._keys:
            options = _options(resource)
            table = requests.table(options.table)
            if table is None:
                raise TargetUnavailable(self._name, f"there is no table {options.table}; run the contract check")
            keys = keys_of(resource, options.item, table)
            for mistake in keys.mistakes(options.table):
                raise TargetUnavailable(self._name, f"{mistake}; run the contract check")
            self._keys[resource.name] = keys
        return self._keys[resource.name]

    def _look_up(self, requests: Requests, resource: Resource, wanted: Sequence[Address]) -> Mapping[Address, Row]:
        keys = self._keys_of(requests, resource)
        asked = {address: key for address in wanted if (key := keys.key_of(address)) is not None}
        distinct = list({keys.texts_of(key): key for key in asked.values()}.values())
        items: dict[tuple[str, ...], Item] = {}
        for start in range(0, len(distinct), BATCH):
            for item in requests.items(_options(resource).table, keys, distinct[start : start + BATCH]):
                items[keys.texts_of(item)] = item
        if items.keys() - {keys.texts_of(key) for key in distinct}:
            raise TargetUnavailable(self._name, "it gave an item that nobody asked for", trouble="unreadable")
        there = {address: items[texts] for address, key in asked.items() if (texts := keys.texts_of(key)) in items}
        is_told = keys.has_tenant or resource.tenant is None
        return {a: _row(item) for a, item in there.items() if is_told or _tenant_in(resource, item) == a.tenant}

    def _rows(self, resource: Resource, tenant: str | None, search: Search) -> Iterator[TargetRow]:
        """The rows of a tenant, or of all, that hold the fields of a search."""
        requests = self._requests()
        keys = self._keys_of(requests, resource)
        condition = Condition()
        if tenant is not None and resource.tenant is not None and not keys.has_tenant:
            condition.holds_one_of(resource.tenant, alternatives(tenant))
        for name, value in search.fields:
            if name not in keys.templates:  # which a filter of a query may not name
                condition.holds_one_of(name, alternatives(value))
        for item in requests.all_items(_options(resource).table, keys, keys.partition_of(tenant), condition):
            address, row = keys.address_of(item), _row(item)
            if address is None or not _holds(resource, row, search):
                continue
            found = address if keys.has_tenant else Address(_tenant_in(resource, item), address.row)
            if tenant in (None, found.tenant):
                yield TargetRow(found, row)


def _options(resource: Resource) -> DynamoResource:
    assert isinstance(resource.options, DynamoResource)  # noqa: S101  # the kind of the resource's target says so
    return resource.options


def _row(item: Item) -> Row:
    try:
        return row_of({name: json_of(value) for name, value in item.items()})
    except Unreadable as error:
        return Row(None, problem=str(error))


def _tenant_in(resource: Resource, item: Item) -> str | None:
    """Who stands in the tenant's attribute of an item, if somebody does."""
    try:
        return text_of_key(item.get(resource.tenant or "", {}))
    except Unreadable:
        return None


def _holds(resource: Resource, row: Row, search: Search) -> bool:
    """Whether a row holds what a filter was not asked about: key attributes, lists and maps.

    One that can't be read was found by the rest.
    """
    if row.problem is not None or not isinstance(row.doc, dict):
        return True
    return all(agree(resource, value, row.doc.get(name, MISSING), (name,)) for name, value in search.fields)


KIND = Kind(
    name="dynamodb",
    capabilities=Capabilities(finds=True, lists=True, idempotent_for=_TOKENS_LAST),
    resource_options=DynamoResource,
    connection=AwsConnection,
    open=DynamoTarget,
)
