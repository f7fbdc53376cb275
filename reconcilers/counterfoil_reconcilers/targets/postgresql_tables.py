"""Tables of PostgreSQL: where a resource's rows stand, and what the catalogue says of its columns."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, LiteralString

import psycopg
from psycopg import sql
from pydantic import AfterValidator

from counterfoil_reconcilers.contracts import Resource
from counterfoil_reconcilers.rows import RowKey
from counterfoil_reconcilers.targets.catalogue import TableChanges, TableOptions
from counterfoil_reconcilers.targets.port import Address

_COLUMNS: LiteralString = """
    SELECT a.attname, format_type(a.atttypid, a.atttypmod), c.relkind::text
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
    WHERE c.oid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped
"""
_TABLE = re.compile(r'^(?:[A-Za-z_]\w*|"[^"]+")(?:\.(?:[A-Za-z_]\w*|"[^"]+")){0,2}$')


def _is_a_name(table: str) -> str:
    if not _TABLE.match(table):
        raise ValueError(f"{table!r} is no table name; write it as schema.table, quoted parts in double quotes")
    return table


_Name = Annotated[str, AfterValidator(_is_a_name)]


class PostgresChanges(TableChanges):
    """How rows tell what changed, in PostgreSQL's own words."""

    table: _Name | None = None


class PostgresResource(TableOptions):
    """Where rows are found, in PostgreSQL's own words."""

    table: _Name
    changes: PostgresChanges | None = None


def options_of(resource: Resource) -> PostgresResource:
    """Where the rows of a resource of this kind are."""
    assert isinstance(resource.options, PostgresResource)  # noqa: S101  # the kind of the resource's target says so
    return resource.options


@dataclass(frozen=True)
class Shape:
    """A resource's table as the catalogue has it. `versioned`: it has xmin, which views lack."""

    columns: dict[str, str]
    versioned: bool

    def type_of(self, column: str) -> sql.Composable:
        """A column's type as format_type() gave it, which is why it may be SQL."""
        catalogued: Any = self.columns[column]
        return sql.SQL(catalogued)


def read_shape(connection: psycopg.Connection[tuple[Any, ...]], resource: Resource) -> Shape | None:
    """The table as it is now; None if there is none, or it may not be seen."""
    rows = connection.execute(_COLUMNS, (options_of(resource).table,)).fetchall()
    columns = {str(name): str(type_) for name, type_, _ in rows}
    return Shape(columns, versioned=rows[0][2] in ("r", "p", "m")) if rows else None


def table_of(resource: Resource) -> sql.Composable:
    """The contract's table as PostgreSQL itself reads it: a part without quotes is lower case."""
    parts = re.findall(r'"([^"]+)"|(\w+)', options_of(resource).table)
    return sql.Identifier(*(quoted or bare.lower() for quoted, bare in parts))


def named_by(resource: Resource) -> list[str]:
    """The columns that a row is looked up by: its tenant's, if there is one, and its key's."""
    return [*([resource.tenant] if resource.tenant else []), *resource.key]


def address_of(resource: Resource, named: Sequence[Any]) -> Address:
    """The address that the values of these columns make up."""
    texts = [None if value is None else str(value) for value in named]
    tenant = texts.pop(0) if resource.tenant else None
    return Address(tenant, RowKey(resource.name, tuple(map(str, texts))))
