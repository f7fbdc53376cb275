"""What a contract names of a target's tables, held against what the target's own catalogue says is there.

Kinds that keep rows in tables share this; each asks its catalogue in its own way.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from counterfoil_reconcilers.contract_files import Written, WrittenChanges, did_you_mean
from counterfoil_reconcilers.contracts import ContractError, Contracts, Resource
from counterfoil_reconcilers.toml_lines import Location

Named = tuple[str, str]  # a key of a contract's table, and the column that it names
Placed = tuple[Location, str]  # a place in the contract, and the column that it names


class TableChanges(WrittenChanges):
    """`column`: a time or a growing number, which each write sets, in the table itself or in one with a row per change.

    The second has columns named as the key of the resource, and its tenant.
    """

    column: str
    table: str | None = None

    @property
    def sees_deletions(self) -> bool:
        return self.table is not None


class TableOptions(Written):
    """Where rows are found: `doc` is the JSON column that holds the row, if one does."""

    table: str
    doc: str | None = None
    changes: TableChanges | None = None

    def columns(self) -> Iterator[Named]:
        """The columns of the table that these options name."""
        if self.doc is not None:
            yield "doc", self.doc
        if self.changes is not None and self.changes.table is None:
            yield "changes", self.changes.column


def table_options(resource: Resource) -> TableOptions:
    """Where the rows of a resource are."""
    assert isinstance(resource.options, TableOptions)  # noqa: S101  # the kind of the resource's target says so
    return resource.options


def changes_of(resource: Resource) -> TableChanges:
    """How the table of a resource that declares it tells what changed."""
    changes = table_options(resource).changes
    assert changes is not None  # noqa: S101  # nobody else is asked what changed
    return changes


def log_of(resource: Resource) -> Resource:
    """What tells the changes of a resource: its change table, as if that were its table, or the resource itself."""
    changes, options = changes_of(resource), table_options(resource)
    if changes.table is None:
        return resource
    told = changes.model_copy(update={"table": None})
    return replace(resource, name=f"{resource.name} changes", options=type(options)(table=changes.table, changes=told))


def lacking(resource: Resource, columns: Collection[str] | None) -> str | None:
    """Why rows of a resource can't be read from a table with these columns, None for no table; None if they can."""
    options = table_options(resource)
    needed = [*resource.key, *([resource.tenant] if resource.tenant else []), *(name for _, name in options.columns())]
    missing = next((name for name in needed if columns is None or name not in columns), None)
    if missing is None:
        return None
    if columns is None:
        return f"there is no table {options.table}, or it may not be read; run the contract check"
    return no_column(resource, missing)


def no_column(resource: Resource, column: str) -> str:
    """Why rows can't be told by this column."""
    where = f"column {column} in table {table_options(resource).table}"
    return f"there is no {where}, or it may not be read; run the contract check"


def check_tables(
    contracts: Contracts,
    name: str,
    columns_of: Callable[[Resource], Collection[str] | None],
    tables: Callable[[], Sequence[tuple[str, str]]],
) -> Iterator[ContractError]:
    """Tables and columns that the contract names and target `name` lacks, each with the line that names it.

    `columns_of` gives a resource's columns, None where there is no such table; `tables` every (schema, table), for
    advice.
    """
    for resource in contracts.targets[name].resources.values():
        columns = columns_of(resource)
        if columns is None:
            place = ("targets", name, "resources", resource.name, "table")
            yield _no_table(contracts, name, resource, tables(), place)
        else:
            yield from _no_columns(contracts, name, resource, columns, _named(contracts, name, resource))
        if table_options(resource).changes is None or log_of(resource) is resource:
            continue
        log, at = log_of(resource), ("targets", name, "resources", resource.name, "changes")
        columns = columns_of(log)
        if columns is None:
            yield _no_table(contracts, name, log, tables(), (*at, "table"))
        else:
            yield from _no_columns(contracts, name, log, columns, _named_in_log(log, at))


def _no_table(
    contracts: Contracts, name: str, resource: Resource, tables: Sequence[tuple[str, str]], place: Location
) -> ContractError:
    table = table_options(resource).table
    hint = did_you_mean(table, [f"{schema}.{found}" if "." in table else found for schema, found in tables])
    return contracts.error_at(place, f"table {table} does not exist in target {name}{hint}")


def _no_columns(
    contracts: Contracts, name: str, resource: Resource, columns: Collection[str], named: Iterable[Placed]
) -> Iterator[ContractError]:
    table = table_options(resource).table
    for place, column in named:
        if column not in columns:
            sentence = f"table {table} of target {name} has no column {column}{did_you_mean(column, columns)}"
            yield contracts.error_at(place, sentence)


def _named_in_log(log: Resource, at: Location) -> Iterator[Placed]:
    """Every column that a change table must have."""
    for column in (*log.key, *([log.tenant] if log.tenant else [])):
        yield (*at, "table"), column
    yield (*at, "column"), changes_of(log).column


def _named(contracts: Contracts, name: str, resource: Resource) -> Iterator[Placed]:
    """Every column of its table that the contract names, with the place that names it."""
    at = ("targets", name, "resources", resource.name)
    options = table_options(resource)
    if options.doc is None:
        yield from _written(contracts, name, resource)
    for column in resource.key:
        yield (*at, "key"), column
    if resource.tenant:
        yield (*at, "tenant"), resource.tenant
    for key, column in options.columns():
        yield (*at, key), column
    if options.doc is None:
        for path, _ in resource.fields:
            yield (*at, "fields", path[0]), path[0]


def _written(contracts: Contracts, name: str, resource: Resource) -> Iterator[Placed]:
    """Columns that a tool's write changes, or finds its row by."""
    for tool in contracts.tools.values():
        for write in tool.writes if tool.target == name else ():
            if write.resource != resource:
                continue
            named = [(str(change.kind), str(change.path[0])) for change in write.changes]
            for what, column in (*named, *(("find", found) for found, _ in write.find)):
                yield ("tools", tool.name, "writes", write.index, what, column), column
