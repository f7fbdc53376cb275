"""PostgreSQL as a target: batched look-ups in a session that cannot write.

Keys travel as text and are cast to the column's own type, so that its index serves; a key that the type refuses
names no row. A whole read sees one snapshot, so that two rows of one transaction are never seen half.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql

from counterfoil_reconcilers.contract_kinds import Capabilities
from counterfoil_reconcilers.contracts import ContractError, Contracts, Resource
from counterfoil_reconcilers.rows import Row, RowKey
from counterfoil_reconcilers.targets.catalogue import changes_of, check_tables, lacking, log_of, no_column
from counterfoil_reconcilers.targets.port import (
    Address,
    Closing,
    Kind,
    TargetRow,
    TargetUnavailable,
    by_resource,
)
from counterfoil_reconcilers.targets.postgresql_session import PostgresConnection, sentence, trouble_of
from counterfoil_reconcilers.targets.postgresql_tables import (
    PostgresResource,
    Shape,
    address_of,
    named_by,
    options_of,
    read_shape,
    table_of,
)
from counterfoil_reconcilers.touched import Search
from counterfoil_reconcilers.values import Json, Unreadable, key_text, parse_json

_SCAN_ROWS: Final = 1_000
_LONGEST_ROW_BYTES: Final = 4_000_000

# Local to the transaction, so that nothing is left behind on a connection that a pooler shares.
_SETTINGS: LiteralString = """
    SELECT set_config('statement_timeout', %(statement)s, true),
           set_config('lock_timeout', %(lock)s, true),
           set_config('idle_in_transaction_session_timeout', %(idle)s, true)
"""
_TABLES: LiteralString = """
    SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
"""
# What the type of a column does not take, and a lone surrogate, which no encoding does.
_REFUSED_VALUES = (psycopg.DataError, UnicodeEncodeError)
_Connection = psycopg.Connection[tuple[Any, ...]]


class PostgresTarget(Closing):
    """One PostgreSQL database behind the port `Target`. Not for use by several threads at once."""

    def __init__(
        self,
        contracts: Contracts,
        name: str,
        conninfo: str,
        *,
        connect_timeout_seconds: int = 5,
        statement_timeout_millis: int = 10_000,
        lock_timeout_millis: int = 2_000,
    ) -> None:
        self._contracts = contracts
        self._target = contracts.targets[name]
        self._name = name
        self._conninfo = conninfo
        self._connect_timeout_seconds = connect_timeout_seconds
        self._settings = {
            "statement": str(statement_timeout_millis),
            "lock": str(lock_timeout_millis),
            "idle": str(6 * statement_timeout_millis),
        }
        self._connection: _Connection | None = None
        self._shapes: dict[tuple[str, str], Shape] = {}

    def close(self) -> None:
        """Let go of the connection; the next call opens another, and looks at the tables anew."""
        self._shapes.clear()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def check(self) -> Sequence[ContractError]:
        """Tables and columns that the contract names and this database lacks, each with the line that names it."""
        self._shapes.clear()
        with self._session() as connection:

            def columns_of(resource: Resource) -> Collection[str] | None:
                shape = read_shape(connection, resource)
                return shape.columns if shape else None

            def tables() -> Sequence[tuple[str, str]]:
                return [(str(schema), str(table)) for schema, table in connection.execute(_TABLES)]

            return list(check_tables(self._contracts, self._name, columns_of, tables))

    def read(self, addresses: Iterable[Address]) -> Sequence[TargetRow]:
        """Every address once, with its row or None; one query per resource, all in one snapshot."""
        found: list[TargetRow] = []
        with self._session() as connection:
            for name, wanted in by_resource(addresses).items():
                rows = self._look_up(connection, self._target.resources[name], wanted)
                for index, address in enumerate(wanted):
                    there = rows.get(index)
                    found.append(TargetRow(address, there.row if there else None))
        return found

    def find(self, tenant: str | None, searches: Sequence[Search], limit: int = 50) -> Sequence[TargetRow]:
        """Rows that hold every field of a search, one query for all that look at the same fields.

        A value that a column's type refuses is held by none.
        """
        alike: dict[tuple[str, tuple[str, ...]], list[list[str | None]]] = defaultdict(list)
        for search in searches:
            if any(isinstance(value, dict | list) for _, value in search.fields):
                continue  # no column's text is looked for by one
            names = tuple(name for name, _ in search.fields)
            alike[search.resource, names].append([_text(value) for _, value in search.fields])
        found: dict[Address, TargetRow] = {}
        with self._session() as connection:
            for (resource, names), wanted in alike.items():
                query = self._search_query(connection, self._target.resources[resource], tenant, names, limit)
                for values in self._search(connection, query, tenant, wanted):
                    row = self._target_row(self._target.resources[resource], values)
                    found[row.address] = row
        return list(found.values())

    def scan(self, resource: str, tenant: str | None = None) -> Iterator[TargetRow]:
        """Every row of a resource, in batches from a server-side cursor, all from one snapshot."""
        declared = self._target.resources[resource]
        with self._session() as connection:
            where = self._of_tenant(connection, declared, tenant)
            yield from self._listed(connection, declared, where, {"tenant": tenant})

    def position(self, resource: str, tenant: str | None, since: str | None) -> str | None:
        """The highest value of the column that tells changes: the last entry of an index over tenant and column."""
        del since  # the newest can be asked for
        log = log_of(self._target.resources[resource])
        column = sql.Identifier(changes_of(log).column)
        with self._session() as connection:
            query = sql.SQL(
                "SELECT t.{column}::text FROM {table} t WHERE t.{column} IS NOT NULL AND {whose}"
                " ORDER BY t.{column} DESC LIMIT 1"
            ).format(column=column, table=table_of(log), whose=self._of_tenant(connection, log, tenant))
            found = connection.execute(query, {"tenant": tenant}).fetchone()
        return None if found is None else str(found[0])

    def changed(self, resource: str, tenant: str | None, since: str | None) -> Iterator[TargetRow]:
        """Rows by their own column, or those that a change table names, in batches, all from one snapshot."""
        declared = self._target.resources[resource]
        log, bound = log_of(declared), {"tenant": tenant, "since": since}
        with self._session() as connection:
            conditions = [self._of_tenant(connection, log, tenant), self._since(connection, log, since)]
            where = sql.SQL(" AND ").join(conditions)
            if log is declared:
                yield from self._listed(connection, declared, where, bound)
                return
            named = [sql.SQL("t.{}::text").format(sql.Identifier(name)) for name in named_by(declared)]
            query = sql.SQL("SELECT {named} FROM {table} t WHERE {where}").format(
                named=sql.SQL(", ").join(named), table=table_of(log), where=where
            )
            with connection.cursor(name="counterfoil_changes") as cursor:
                cursor.execute(query, bound)
                while some := cursor.fetchmany(_SCAN_ROWS):
                    wanted = [address_of(declared, values) for values in dict.fromkeys(some)]
                    yield from self._look_up(connection, declared, wanted).values()

    def _listed(
        self, connection: _Connection, resource: Resource, where: sql.Composable, bound: Mapping[str, str | None]
    ) -> Iterator[TargetRow]:
        query = sql.SQL("SELECT {row} FROM {table} t WHERE {where}").format(
            row=self._row(resource, self._shape(connection, resource)), table=table_of(resource), where=where
        )
        with connection.cursor(name="counterfoil_scan") as cursor:
            cursor.itersize = _SCAN_ROWS
            cursor.execute(query, bound)
            for values in cursor:
                yield self._target_row(resource, values)

    def _of_tenant(self, connection: _Connection, resource: Resource, tenant: str | None) -> sql.Composable:
        """SQL that holds for the rows of a tenant, or for all."""
        if tenant is None or resource.tenant is None:
            return sql.SQL("true")
        type_ = self._shape(connection, resource).type_of(resource.tenant)
        return sql.SQL("t.{} = %(tenant)s::{}").format(sql.Identifier(resource.tenant), type_)

    def _since(self, connection: _Connection, log: Resource, since: str | None) -> sql.Composable:
        """SQL that holds for what changed since then; a position that is no value of the column is before them all."""
        column, type_ = changes_of(log).column, self._shape(connection, log).type_of(changes_of(log).column)
        try:
            with connection.transaction():
                connection.execute(sql.SQL("SELECT %s::{}").format(type_), [since])
        except _REFUSED_VALUES:
            since = None
        condition = sql.SQL("t.{} IS NOT NULL") if since is None else sql.SQL("t.{} >= %(since)s::{}")
        return condition.format(sql.Identifier(column), type_)

    @contextmanager
    def _session(self) -> Iterator[_Connection]:
        """One read-only transaction; every error of the driver becomes TargetUnavailable."""
        try:
            connection = self._connected()
            with connection.transaction():
                connection.execute(_SETTINGS, self._settings)
                yield connection
        except psycopg.Error as error:
            self.close()
            raise TargetUnavailable(self._name, sentence(error), trouble=trouble_of(error)) from error

    def _connected(self) -> _Connection:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(
                self._conninfo,
                connect_timeout=self._connect_timeout_seconds,
                application_name="counterfoil reconcile",
                autocommit=True,
                prepare_threshold=None,
            )
            self._connection.read_only = True
            self._connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        return self._connection

    def _shape(self, connection: _Connection, resource: Resource) -> Shape:
        """The table's shape, asked for once; TargetUnavailable if it lacks what a look-up needs."""
        place = (resource.name, options_of(resource).table)
        if place not in self._shapes:
            shape = read_shape(connection, resource)
            reason = lacking(resource, shape.columns if shape else None)
            if shape is None or reason is not None:
                raise TargetUnavailable(self._name, str(reason))
            self._shapes[place] = shape
        return self._shapes[place]

    def _row(self, resource: Resource, shape: Shape) -> sql.Composable:
        """The columns that make up a TargetRow: tenant, version, whether it is ours, size, document, key."""
        whole = sql.SQL("to_jsonb(t)::text")
        doc = options_of(resource).doc
        document = sql.SQL("t.{}::text").format(sql.Identifier(doc)) if doc else whole
        # The predicate is the contract's own SQL, in a session that cannot write.
        predicate: Any = (self._target.ours or "NULL::bool").replace("%", "%%")
        ours = sql.SQL("({})").format(sql.SQL(predicate))
        return sql.SQL(
            "{tenant}, {version}, {ours}, octet_length({doc}),"
            " CASE WHEN octet_length({doc}) <= {most} THEN {doc} END, {key}"
        ).format(
            tenant=sql.SQL("t.{}::text").format(sql.Identifier(resource.tenant))
            if resource.tenant
            else sql.SQL("NULL"),
            version=sql.SQL("t.xmin::text") if shape.versioned else sql.SQL("NULL"),
            ours=ours,
            doc=document,
            most=sql.Literal(_LONGEST_ROW_BYTES),
            key=sql.SQL(", ").join(sql.SQL("t.{}::text").format(sql.Identifier(name)) for name in resource.key),
        )

    def _look_up(self, connection: _Connection, resource: Resource, wanted: Sequence[Address]) -> dict[int, TargetRow]:
        """What stands at each address, by its position there; the addresses are as the columns' own types write them.

        A batch with a refused key is halved until that key stands alone, and it names no row.
        """
        if not wanted:
            return {}
        shape, names = self._shape(connection, resource), named_by(resource)
        columns = [
            [(a.tenant or "") if resource.tenant and i == 0 else a.row.key[i - bool(resource.tenant)] for a in wanted]
            for i in range(len(names))
        ]
        aliases = [sql.Identifier(f"counterfoil_{i}") for i in range(len(names))]
        on = [
            sql.SQL("t.{} = k.{}").format(sql.Identifier(name), alias)
            for name, alias in zip(names, aliases, strict=True)
        ]
        arrays = [sql.SQL("%s::text[]::{}[]").format(shape.type_of(name)) for name in names]
        query = sql.SQL(
            "SELECT k.counterfoil_number, {asked}, {row}"
            " FROM unnest({arrays}) WITH ORDINALITY AS k({aliases}, counterfoil_number)"
            " LEFT JOIN {table} t ON {on}"
        ).format(
            asked=sql.SQL(", ").join(sql.SQL("k.{}::text").format(alias) for alias in aliases),
            row=self._row(resource, shape),
            arrays=sql.SQL(", ").join(arrays),
            aliases=sql.SQL(", ").join(aliases),
            table=table_of(resource),
            on=sql.SQL(" AND ").join(on),
        )
        try:
            with connection.transaction():
                found = connection.execute(query, columns).fetchall()
        except _REFUSED_VALUES:
            if len(wanted) == 1:
                return {}
            half = len(wanted) // 2
            left = self._look_up(connection, resource, wanted[:half])
            right = self._look_up(connection, resource, wanted[half:])
            return {**left, **{index + half: row for index, row in right.items()}}
        width = len(names)
        return {
            int(v[0]) - 1: TargetRow(address_of(resource, v[1 : 1 + width]), None)
            if v[-1] is None
            else self._target_row(resource, v[1 + width :])
            for v in found
        }

    def _search_query(
        self, connection: _Connection, resource: Resource, tenant: str | None, names: Sequence[str], limit: int
    ) -> sql.Composed:
        """For every set of values of these fields, given as an array by field, the rows that hold them."""
        shape, doc = self._shape(connection, resource), options_of(resource).doc
        on: list[sql.Composable] = []
        arrays: list[sql.Composable] = [sql.SQL("%(numbers)s::int[]")]
        if tenant is not None and resource.tenant:
            whose = sql.SQL("t.{} = %(tenant)s::{}")
            on.append(whose.format(sql.Identifier(resource.tenant), shape.type_of(resource.tenant)))
        for number, name in enumerate(names):
            value, array = sql.Identifier(f"v{number}"), sql.Placeholder(f"v{number}")
            if doc:
                held: sql.Composable = sql.SQL("t.{}::jsonb ->> {}").format(sql.Identifier(doc), sql.Literal(name))
                arrays.append(sql.SQL("{}::text[]").format(array))
            elif name in shape.columns:
                held = sql.SQL("t.{}").format(sql.Identifier(name))
                arrays.append(sql.SQL("{}::text[]::{}[]").format(array, shape.type_of(name)))
            else:
                raise TargetUnavailable(self._name, no_column(resource, name), trouble="unreadable")
            on.append(sql.SQL("{} = k.{}").format(held, value))
        return sql.SQL(
            "SELECT r.* FROM unnest({arrays}) AS k({values})"
            " CROSS JOIN LATERAL (SELECT {row} FROM {table} t WHERE {on} LIMIT {limit}) AS r"
        ).format(
            arrays=sql.SQL(", ").join(arrays),
            values=sql.SQL(", ").join(
                [sql.Identifier("number"), *(sql.Identifier(f"v{n}") for n in range(len(names)))]
            ),
            row=self._row(resource, shape),
            table=table_of(resource),
            on=sql.SQL(" AND ").join(on) if on else sql.SQL("true"),
            limit=sql.Literal(limit),
        )

    def _search(
        self, connection: _Connection, query: sql.Composed, tenant: str | None, wanted: Sequence[Sequence[str | None]]
    ) -> Sequence[Sequence[Any]]:
        """What is found for these values; those with one that is refused are halved until it stands alone."""
        arrays = {f"v{number}": list(values) for number, values in enumerate(zip(*wanted, strict=True))}
        try:
            with connection.transaction():
                params = {"tenant": tenant, "numbers": list(range(len(wanted))), **arrays}
                return connection.execute(query, params).fetchall()
        except _REFUSED_VALUES:
            if len(wanted) == 1:
                return []
            half = len(wanted) // 2
            halves = (wanted[:half], wanted[half:])
            return [row for some in halves for row in self._search(connection, query, tenant, some)]

    def _target_row(self, resource: Resource, values: Sequence[Any]) -> TargetRow:
        tenant, version, ours, size, text, *key = values
        address = Address(tenant, RowKey(resource.name, tuple(str(value) for value in key)))
        if text is None and size is not None:
            problem = f"it has {size} bytes, more than {_LONGEST_ROW_BYTES}"
            return TargetRow(address, Row(None, version, ours, problem))
        try:
            return TargetRow(address, Row(parse_json(text or "null"), version, ours))
        except Unreadable as error:
            return TargetRow(address, Row(None, version, ours, str(error)))


def _text(value: Json) -> str | None:
    return None if value is None else key_text(value)


def _open(contracts: Contracts, name: str, connection: PostgresConnection) -> PostgresTarget:
    return PostgresTarget(contracts, name, connection.dsn.get_secret_value())


KIND = Kind(
    name="postgresql",
    capabilities=Capabilities(finds=True, lists=True, consistent=True),
    resource_options=PostgresResource,
    ours="sql",
    connection=PostgresConnection,
    open=_open,
)
