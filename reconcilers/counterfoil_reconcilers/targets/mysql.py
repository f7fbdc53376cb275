"""MySQL and MariaDB as targets: batched look-ups in a session that cannot write.

Keys travel as values of the column's own type, so that its index serves and nothing is converted; a text that is no
such value names no row. A collation may take other texts for the same, so keys are compared once more, exactly. A
whole read sees one snapshot, so that two rows of one transaction are never seen half.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from pymysql.cursors import Cursor

from counterfoil_reconcilers.contract_kinds import Capabilities
from counterfoil_reconcilers.contracts import ContractError, Contracts, Resource
from counterfoil_reconcilers.targets.catalogue import check_tables, lacking, log_of, no_column
from counterfoil_reconcilers.targets.mysql_columns import Bound, Condition, Incomparable
from counterfoil_reconcilers.targets.mysql_rows import Layout, MySqlResource, describe, options_of
from counterfoil_reconcilers.targets.mysql_session import Limits, Login, MySqlConnection, Sessions, login_of
from counterfoil_reconcilers.targets.port import Address, Closing, Kind, TargetRow, TargetUnavailable, by_resource
from counterfoil_reconcilers.touched import Search

_SCAN_ROWS: Final = 1_000
# From 1,000 on MariaDB makes a table of the list (in_predicate_conversion_threshold).
_BATCH_KEYS: Final = 500
_BATCH_CHARACTERS: Final = 1_000_000

_TABLES = """
    SELECT table_schema, table_name FROM information_schema.tables
    WHERE table_schema NOT IN ('mysql', 'sys', 'performance_schema', 'information_schema')
"""


class MySqlTarget(Closing):
    """One MySQL or MariaDB server behind the port `Target`. Not for use by several threads at once."""

    def __init__(self, contracts: Contracts, name: str, login: Login, limits: Limits | None = None) -> None:
        self._contracts = contracts
        self._target = contracts.targets[name]
        self._name = name
        self._sessions = Sessions(name, login, limits or Limits())

    def close(self) -> None:
        """Let go of the connection; the next call opens another."""
        self._sessions.close()

    def check(self) -> Sequence[ContractError]:
        """Tables and columns that the contract names and this server lacks, each with the line that names it."""
        with self._sessions.reading() as cursor:

            def tables() -> Sequence[tuple[str, str]]:
                cursor.execute(_TABLES)
                return [(str(schema), str(table)) for schema, table in cursor.fetchall()]

            return list(check_tables(self._contracts, self._name, lambda r: describe(cursor, r), tables))

    def read(self, addresses: Iterable[Address]) -> Sequence[TargetRow]:
        """Every address once, with its row or None; a query per resource and 500 keys, all in one snapshot."""
        found: list[TargetRow] = []
        with self._sessions.reading() as cursor:
            for name, wanted in by_resource(addresses).items():
                rows = self._look_up(cursor, self._layout(cursor, self._target.resources[name]), wanted)
                found += [TargetRow(address, rows[address].row if address in rows else None) for address in wanted]
        return found

    def find(self, tenant: str | None, searches: Sequence[Search], limit: int = 50) -> Sequence[TargetRow]:
        """Rows that hold every field of a search, one query for those of a resource, unless they find very many.

        A value that is none of a column's type is held by none.
        """
        found: dict[Address, TargetRow] = {}
        wanted: dict[str, list[Search]] = defaultdict(list)
        for search in searches:
            wanted[search.resource].append(search)
        with self._sessions.reading() as cursor:
            for resource, some in wanted.items():
                layout = self._layout(cursor, self._target.resources[resource])
                told = (self._holding(layout, tenant, search) for search in some)
                conditions = [condition for condition in told if condition is not None]
                for values in self._search(cursor, layout, conditions, limit):
                    row = layout.row(values)
                    found[row.address] = row
        return list(found.values())

    def scan(self, resource: str, tenant: str | None = None) -> Iterator[TargetRow]:
        """Every row of a resource, in batches as the server sends them, all from one snapshot."""
        with self._sessions.streaming() as cursor:
            layout = self._layout(cursor, self._target.resources[resource])
            where = self._of_tenant(layout, tenant)
            if where is not None:
                yield from self._listed(cursor, layout, where)

    def position(self, resource: str, tenant: str | None, since: str | None) -> str | None:
        """The highest value of the column that tells changes: the last entry of an index over tenant and column."""
        del since  # the newest can be asked for
        with self._sessions.reading() as cursor:
            layout = self._layout(cursor, log_of(self._target.resources[resource]))
            where = self._of_tenant(layout, tenant)
            if where is None:
                return None
            cursor.execute(f"{layout.newest_query} WHERE {where[0]} AND {layout.newest_first} LIMIT 1", tuple(where[1]))
            newest = cursor.fetchone()
        return None if newest is None else layout.position(newest[0])

    def changed(self, resource: str, tenant: str | None, since: str | None) -> Iterator[TargetRow]:
        """Rows by their own column, or those that a change table names, all from one snapshot.

        Of the second the keys are held at once: a streamed answer is to be taken before the next one is asked for.
        """
        declared = self._target.resources[resource]
        log = log_of(declared)
        with self._sessions.streaming() as cursor:
            layout = self._layout(cursor, log)
            whose, told = self._of_tenant(layout, tenant), layout.since(since)
            if whose is None:
                return
            where = f"{whose[0]} AND {told[0]}", [*whose[1], *told[1]]
            if log is declared:
                yield from self._listed(cursor, layout, where)
                return
            cursor.execute(f"{layout.named_query} WHERE {where[0]}", tuple(where[1]))
            named = list(dict.fromkeys(cursor))
            rows = self._layout(cursor, declared)
            for start in range(0, len(named), _SCAN_ROWS):
                told_of = (layout.address(values) for values in named[start : start + _SCAN_ROWS])
                wanted = [one for address in told_of if (one := rows.as_written(address)) is not None]
                found = self._look_up(cursor, rows, wanted)
                yield from (found.get(address, TargetRow(address, None)) for address in wanted)

    def _listed(self, cursor: Cursor, layout: Layout, where: Condition) -> Iterator[TargetRow]:
        cursor.execute(f"{layout.query} WHERE {where[0]}", tuple(where[1]))
        while rows := cursor.fetchmany(_SCAN_ROWS):
            yield from map(layout.row, rows)

    def _layout(self, cursor: Cursor, resource: Resource) -> Layout:
        """The table as it is in this transaction; TargetUnavailable if it lacks what a look-up needs."""
        columns = describe(cursor, resource)
        reason = lacking(resource, columns)
        if columns is None or reason is not None:
            raise TargetUnavailable(self._name, str(reason))
        layout = Layout(resource, columns, self._target.ours)
        if layout.incomparable is not None:
            raise self._incomparable(resource, layout.incomparable.name)
        return layout

    def _incomparable(self, resource: Resource, column: str) -> TargetUnavailable:
        where = f"column {column} of table {options_of(resource).table}"
        return TargetUnavailable(self._name, f"values of {where} can't be compared; name another in the contract")

    def _look_up(self, cursor: Cursor, layout: Layout, wanted: Sequence[Address]) -> Mapping[Address, TargetRow]:
        """The rows that there are, each by the address that it was asked for by."""
        places: dict[tuple[Bound, ...], list[Address]] = defaultdict(list)
        for address in wanted:
            values = layout.values_of(address)
            if values is not None:
                places[values].append(address)
        found: dict[Address, TargetRow] = {}
        for batch in _batches(places):
            condition, bound = layout.one_of(batch)
            cursor.execute(f"{layout.query} WHERE {condition}", tuple(bound))
            for one in map(layout.row, cursor.fetchall()):
                # Only here is a key compared exactly: in the form that all texts for one value have.
                for address in places.get(layout.values_of(one.address) or (), ()):
                    found[address] = one
        return found

    def _holding(self, layout: Layout, tenant: str | None, search: Search) -> Condition | None:
        """SQL that holds for the rows of a search; None where no row can be one."""
        try:
            conditions = [self._of_tenant(layout, tenant), *(layout.holding(*field) for field in search.fields)]
        except Incomparable as error:
            raise self._incomparable(layout.resource, str(error)) from error
        except KeyError as error:
            raise TargetUnavailable(self._name, no_column(layout.resource, str(error.args[0]))) from error
        all_of = [condition for condition in conditions if condition is not None]
        if len(all_of) < len(conditions):
            return None
        return " AND ".join(f"({sql})" for sql, _ in all_of), [value for _, values in all_of for value in values]

    def _search(
        self, cursor: Cursor, layout: Layout, conditions: Sequence[Condition], limit: int
    ) -> Sequence[Sequence[Any]]:
        """The rows of these searches; asked for one by one where together they find as many as all may, or more."""
        if not conditions:
            return []
        where = " OR ".join(f"({sql})" for sql, _ in conditions)
        bound = [value for _, values in conditions for value in values]
        most = limit * len(conditions)
        cursor.execute(f"{layout.query} WHERE {where} LIMIT %s", (*bound, most))
        found = cursor.fetchall()
        if len(found) < most or len(conditions) == 1:
            return found
        return [row for condition in conditions for row in self._search(cursor, layout, [condition], limit)]

    def _of_tenant(self, layout: Layout, tenant: str | None) -> Condition | None:
        """SQL that holds for the rows of a tenant, or for all; None where no row can be the tenant's."""
        if tenant is None or layout.tenant is None:
            return "TRUE", []
        bound = layout.tenant.named(tenant)
        return None if bound is None else layout.tenant.equals(bound)


def _batches(named: Iterable[tuple[Bound, ...]]) -> Iterator[list[tuple[Bound, ...]]]:
    """In pieces that a query may hold, by their number and their length."""
    batch: list[tuple[Bound, ...]] = []
    characters = 0
    for values in named:
        characters += sum(len(value) for value in values if isinstance(value, str | bytes))
        if batch and (len(batch) == _BATCH_KEYS or characters > _BATCH_CHARACTERS):
            yield batch
            batch, characters = [], 0
        batch.append(values)
    if batch:
        yield batch


def _open(contracts: Contracts, name: str, connection: MySqlConnection) -> MySqlTarget:
    return MySqlTarget(contracts, name, login_of(connection.url.get_secret_value()))


KIND = Kind(
    name="mysql",
    capabilities=Capabilities(finds=True, lists=True, consistent=True),
    resource_options=MySqlResource,
    ours="sql",
    connection=MySqlConnection,
    open=_open,
)
MARIADB = replace(KIND, name="mariadb")
