"""Rows of MySQL and MariaDB: where a resource's stand, what is selected of them, and what that tells.

Nothing here keeps state: a table is described anew in each transaction, for columns come and go.
"""

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Any, Final

import pymysql
from pydantic import AfterValidator, Field
from pymysql.constants import ER
from pymysql.cursors import Cursor

from counterfoil_reconcilers.contracts import Resource
from counterfoil_reconcilers.rows import Row, RowKey, row_of
from counterfoil_reconcilers.targets.catalogue import Named, TableChanges, TableOptions
from counterfoil_reconcilers.targets.mysql_columns import Bound, Column, Condition, columns_of, quoted
from counterfoil_reconcilers.targets.mysql_session import is_mariadb
from counterfoil_reconcilers.targets.port import Address, TargetRow
from counterfoil_reconcilers.values import Json, Unreadable, key_text, parse_json

_LONGEST_ROW_BYTES: Final = 4_000_000

_PART = r"(?:[A-Za-z_$][\w$]*|`[^`]+`)"
_TABLE = re.compile(rf"({_PART})(?:\.({_PART}))?", re.ASCII)
# MariaDB keeps JSON as text with a check; in MySQL it is a type.
_DOCUMENTS = """
    SELECT constraint_name FROM information_schema.check_constraints
    WHERE constraint_schema = COALESCE(%s, DATABASE()) AND table_name = %s
        AND check_clause = CONCAT('json_valid(`', constraint_name, '`)')
"""


def _is_a_name(table: str) -> str:
    if not _TABLE.fullmatch(table):
        raise ValueError(f"{table!r} is no table name; write it as schema.table, quoted parts in backticks")
    return table


_Name = Annotated[str, AfterValidator(_is_a_name)]


class MySqlChanges(TableChanges):
    """How rows tell what changed, in MySQL's own words."""

    table: _Name | None = None


class MySqlResource(TableOptions):
    """Where rows are found, in MySQL's own words.

    `version`: the column that changes whenever the row does, if one does. `numbers`: columns declared TINYINT(1) or
    BIT that hold numbers, not truth values.
    """

    table: _Name
    changes: MySqlChanges | None = None
    version: str | None = None
    numbers: list[str] = Field(default_factory=list)

    def columns(self) -> Iterator[Named]:
        yield from super().columns()
        if self.version is not None:
            yield "version", self.version
        for name in self.numbers:
            yield "numbers", name


def options_of(resource: Resource) -> MySqlResource:
    """Where the rows of a resource of this kind are."""
    assert isinstance(resource.options, MySqlResource)  # noqa: S101  # the kind of the resource's target says so
    return resource.options


@dataclass(frozen=True)
class Layout:
    """A resource's table as the server describes it now, and what of a row is selected."""

    resource: Resource
    columns: Mapping[str, Column]
    ours: str | None

    @cached_property
    def incomparable(self) -> Column | None:
        """A column that rows are to be told apart by, and whose values can't be compared."""
        telling = [*self.named_by, *(one for one in (self._version, self._told_by) if one)]
        return next((column for column in telling if column.form.named is None), None)

    @cached_property
    def key(self) -> list[Column]:
        """The columns that name a row, in the contract's order."""
        return [self.columns[name] for name in self.resource.key]

    @cached_property
    def tenant(self) -> Column | None:
        """The column that says whose a row is, if there is one."""
        return self.columns[self.resource.tenant] if self.resource.tenant else None

    @cached_property
    def named_by(self) -> list[Column]:
        """What a row is looked up by: its tenant's column, if there is one, and its key."""
        return [*([self.tenant] if self.tenant else []), *self.key]

    @cached_property
    def query(self) -> str:
        """SELECT and FROM: of a row its tenant, version, whether it is ours, bytes, key, and all or the document."""
        large = [f"COALESCE(LENGTH(t.{quoted(column.name)}), 0)" for column in self._body if column.is_large]
        size = " + ".join(large) or "0"
        selected = [
            self.tenant.read if self.tenant else "NULL",
            self._version.read if self._version else "NULL",
            # The predicate is the contract's own SQL, in a session that cannot write. NULL is not ours.
            f"({self.ours.replace('%', '%%')}) IS TRUE" if self.ours else "NULL",
            size,
            *(column.read for column in self.key),
            *(
                f"CASE WHEN {size} <= {_LONGEST_ROW_BYTES} THEN {column.read} END" if column.is_large else column.read
                for column in self._body
            ),
        ]
        return self._selected(selected)

    @cached_property
    def named_query(self) -> str:
        """SELECT and FROM: what a row is looked up by, and nothing else."""
        return self._selected([column.read for column in self.named_by])

    @cached_property
    def newest_query(self) -> str:
        """SELECT and FROM: the column that tells changes."""
        return self._selected([self._told.read])

    def _selected(self, selected: Sequence[str]) -> str:
        return f"SELECT {', '.join(selected)} FROM {_table(self.resource)} t"  # noqa: S608  # names are quoted

    @cached_property
    def _version(self) -> Column | None:
        name = options_of(self.resource).version
        return self.columns[name] if name else None

    @cached_property
    def _told_by(self) -> Column | None:
        changes = options_of(self.resource).changes
        return None if changes is None or changes.table is not None else self.columns[changes.column]

    @property
    def _told(self) -> Column:
        assert self._told_by is not None  # noqa: S101  # asked of what tells changes alone
        return self._told_by

    @cached_property
    def newest_first(self) -> str:
        """SQL of a condition and an order: what changed last comes first."""
        name = f"t.{quoted(self._told.name)}"
        return f"{name} IS NOT NULL ORDER BY {name} DESC"

    def position(self, raw: Any) -> str:
        """A value of the column that tells changes, as text."""
        return self._told.key_of(raw)

    def since(self, position: str | None) -> Condition:
        """SQL that holds for what changed then or later; a position that is no value of the column is before all."""
        name, bound = f"t.{quoted(self._told.name)}", None if position is None else self._told.named(position)
        return (f"{name} IS NOT NULL", []) if bound is None else (f"{name} >= {self._told.value}", [bound])

    def address(self, named: Sequence[Any]) -> Address:
        """The address that values of `named_by` make up."""
        return self._address([_text(column, raw) for column, raw in zip(self.named_by, named, strict=True)])

    def _address(self, texts: list[str | None]) -> Address:
        tenant = texts.pop(0) if self.tenant else None
        return Address(tenant, RowKey(self.resource.name, tuple(map(str, texts))))

    @cached_property
    def _body(self) -> list[Column]:
        doc = options_of(self.resource).doc
        return [self.columns[doc]] if doc else list(self.columns.values())

    def row(self, values: Sequence[Any]) -> TargetRow:
        """What was selected, as a row and its address."""
        tenant, version, ours, size, *rest = values
        width = len(self.key)
        key = tuple(column.key_of(raw) for column, raw in zip(self.key, rest[:width], strict=True))
        address = Address(_text(self.tenant, tenant), RowKey(self.resource.name, key))
        seen = Row(None, _text(self._version, version), None if ours is None else ours == "1")
        return TargetRow(address, self._with_body(seen, int(size), rest[width:]))

    def _with_body(self, seen: Row, size: int, body: Sequence[Any]) -> Row:
        if size > _LONGEST_ROW_BYTES:
            return replace(seen, problem=f"it has {size} bytes, more than {_LONGEST_ROW_BYTES}")
        try:
            doc = self._document(body)
        except Unreadable as error:
            return replace(seen, problem=str(error))
        return row_of(doc, seen.version, seen.ours)

    def _document(self, body: Sequence[Any]) -> Json:
        if options_of(self.resource).doc is not None:
            text = "null" if body[0] is None else body[0]
            try:
                return parse_json(text.decode() if isinstance(text, bytes) else text)
            except UnicodeDecodeError:
                raise Unreadable("it is not text in UTF-8") from None
        return {
            column.name: None if raw is None else column.form.shown(raw)
            for column, raw in zip(self._body, body, strict=True)
        }

    def values_of(self, address: Address) -> tuple[Bound, ...] | None:
        """The values of `named_by` at an address; None if one is no value of its column, so that no row is there."""
        texts = [*([address.tenant or ""] if self.resource.tenant else []), *address.row.key]
        values = [column.named(text) for column, text in zip(self.named_by, texts, strict=True)]
        return None if None in values else tuple(value for value in values if value is not None)

    def as_written(self, address: Address) -> Address | None:
        """The address as the columns' own types write it; None if no row can be there."""
        values = self.values_of(address)
        if values is None:
            return None
        return self._address([column.key_named(value) for column, value in zip(self.named_by, values, strict=True)])

    def one_of(self, named: Collection[tuple[Bound, ...]]) -> Condition:
        """SQL that holds for the rows with these values, and for few others: the collation's, which are no match."""
        *before, last = self.named_by
        groups: dict[tuple[Bound, ...], list[Bound]] = defaultdict(list)
        for values in named:
            groups[values[:-1]].append(values[-1])
        either: list[str] = []
        bound: list[Bound] = []
        for values, lasts in groups.items():
            each = [column.is_one_of([value]) for column, value in zip(before, values, strict=True)]
            conditions = [*each, last.is_one_of(lasts)]
            either.append(" AND ".join(sql for sql, _ in conditions))
            bound += [value for _, values_of in conditions for value in values_of]
        return " OR ".join(f"({sql})" for sql in either), bound

    def holding(self, name: str, value: Json) -> Condition | None:
        """SQL that holds where a field is this value; None where it can be in no row.

        Raises KeyError where there is no such column, and Incomparable.
        """
        if value is None or isinstance(value, dict | list):
            return None
        doc = options_of(self.resource).doc
        if doc is not None:
            return _in_document(doc, name, value)
        bound = self.columns[name].named(key_text(value))
        return None if bound is None else self.columns[name].equals(bound)


def describe(cursor: Cursor, resource: Resource) -> dict[str, Column] | None:
    """The columns that the session may read; None where there is no such table."""
    try:
        cursor.execute(f"SHOW FULL COLUMNS FROM {_table(resource)}", ())
    except pymysql.Error as error:
        if error.args[0] in (ER.NO_SUCH_TABLE, ER.BAD_DB_ERROR, ER.NO_DB_ERROR):
            return None
        raise
    described = [(str(name), str(type_), collation) for name, type_, collation, *_ in cursor.fetchall()]
    documents: set[str] = set()
    if is_mariadb(cursor.connection) and any(type_ == "longtext" for _, type_, _ in described):
        schema, table = _parts(resource)
        cursor.execute(_DOCUMENTS, (schema, table))
        documents = {str(name) for (name,) in cursor.fetchall()}
    return columns_of(described, documents, options_of(resource).numbers)


def _text(column: Column | None, raw: Any) -> str | None:
    return None if column is None or raw is None else column.key_of(raw)


def _parts(resource: Resource) -> tuple[str | None, str]:
    """Schema, if one is named, and table."""
    found = _TABLE.fullmatch(options_of(resource).table)
    assert found is not None  # noqa: S101  # the contract was checked
    first, second = (part and part.strip("`") for part in found.groups())
    return (first, second) if second else (None, first)


def _table(resource: Resource) -> str:
    return ".".join(quoted(part) for part in _parts(resource) if part)


def _in_document(doc: str, name: str, value: Json) -> Condition:
    """SQL that holds where a document's field is this text, or this number, however it is written."""
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    path = f'$."{escaped}"'
    field = f"JSON_EXTRACT(t.{quoted(doc)}, %s)"
    text = f"CAST(CONVERT(JSON_UNQUOTE({field}) USING utf8mb4) AS BINARY) = CAST(%s AS BINARY)"
    same = f"JSON_TYPE({field}) <> 'NULL' AND {text}"
    bound: list[Bound] = [path, path, key_text(value)]
    if isinstance(value, float):
        is_number = f"JSON_TYPE({field}) IN ('INTEGER', 'UNSIGNED INTEGER', 'DECIMAL', 'DOUBLE')"
        same = f"({same} OR {is_number} AND JSON_UNQUOTE({field}) + 0e0 = %s)"
        bound += [path, path, value]
    return f"CASE WHEN JSON_VALID(t.{quoted(doc)}) THEN {same} END", bound
