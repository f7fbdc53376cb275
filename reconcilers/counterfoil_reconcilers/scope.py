"""What an expression sees: the variables of one effect, and rows as they were before it."""

from collections.abc import Collection, Mapping

from counterfoil_reconcilers.expressions import Expression, NoSuchRow, Unevaluable
from counterfoil_reconcilers.rows import NOT_READ, Row, RowKey, key_shown, row_key
from counterfoil_reconcilers.values import Json, Path, holds_hidden, overlap
from counterfoil_reconcilers.world import Cell, Surroundings


class Reader:
    """Looks rows up for expressions, in the world before the effect; notes what was asked for and not there."""

    def __init__(self, around: Surroundings, cells: Mapping[RowKey, Cell], careful: bool) -> None:
        self._around = around
        self._cells = cells
        self._careful = careful
        self.hides = around.hides
        self.asked: set[RowKey] = set()
        self.missing: set[RowKey] = set()

    def __call__(self, resource: str, key: Mapping[str, Json]) -> Json:
        declared = self._around.target.resources.get(resource)
        if declared is None:
            raise ValueError(f"there is no resource {resource}")
        found = row_key(declared, key)
        self.asked.add(found)
        cell = self._cells.get(found)
        if cell is not None and not cell.partial and not cell.open:
            return _existing(cell.doc, found)
        row = self._around.baseline.get(found)
        if row is NOT_READ:
            if self._careful and found in self._around.written:
                raise ValueError(f"the state of {key_shown(found)} before is not known")
            row = self._around.observed.get(found)
        if row is NOT_READ:
            self.missing.add(found)
            raise ValueError(f"{key_shown(found)} was not read")
        if isinstance(row, Row) and row.problem:
            raise ValueError(f"{key_shown(found)} cannot be compared: {row.problem}")
        return _existing(row.doc if isinstance(row, Row) else None, found)


def _existing(doc: Json, key: RowKey) -> Json:
    if doc is None:
        raise NoSuchRow(f"{key_shown(key)} does not exist")
    return doc


WHOLE: Collection[Path] = ((),)
_NOT_SAID = "it has no value, and why can't be said, for it reads what was redacted"


class Scope:
    """The variables of one effect, with the reason for each that has no value.

    `secret`: by variable, the places in it that were redacted, or were made of what was.
    """

    def __init__(
        self,
        variables: Mapping[str, Json],
        reader: Reader,
        unknown: Mapping[str, str],
        secret: Mapping[str, Collection[Path]],
    ) -> None:
        self.variables = dict(variables)
        self.unknown = dict(unknown)
        self.secret = dict(secret)
        self.reader = reader
        self.hides = reader.hides
        self._partly_known = False

    def inner(self) -> "Scope":
        """A scope inside this one."""
        inner = Scope(self.variables, self.reader, self.unknown, self.secret)
        inner._partly_known = self._partly_known
        return inner

    def see(self, before: Cell, secret: Collection[Path] = ()) -> None:
        """Bind `before`: the row's document, as far as it is known."""
        self.secret["before"] = secret
        self.unknown.pop("before", None)
        self.variables.pop("before", None)
        self._partly_known = before.partial or bool(before.open)
        if before.doc is None:
            self.unknown["before"] = "the row did not exist before"
        else:
            self.variables["before"] = before.doc

    def let(self, names: tuple[tuple[str, Expression], ...]) -> None:
        """Bind each name, or remember why it has no value."""
        for name, expression in names:
            try:
                self.variables[name] = self.evaluate(expression)
                self.unknown.pop(name, None)
                self.secret[name] = WHOLE if self.is_secret(expression) else ()
            except Unevaluable as error:
                self.variables.pop(name, None)
                self.unknown[name] = error.reason

    def evaluate(self, expression: Expression) -> Json:
        """The expression's value; `Unevaluable` with the first cause, not only the name that lacks a value."""
        for name in expression.names:
            if name not in self.variables and name in self.unknown:
                raise Unevaluable(expression.text, self.unknown[name])
        if self.hides and not expression.is_path and any(map(self._is_hidden, expression.reads)):
            raise Unevaluable(expression.text, "it calculates with a redacted value that nothing at the target tells")
        if self._partly_known and expression.asks_absence and "before" in expression.names:
            raise Unevaluable(expression.text, "the row's state before is not wholly known")
        try:
            return expression.evaluate(self.variables, self.reader)
        except Unevaluable:
            if self.is_secret(expression):  # the reason may quote it
                raise Unevaluable(expression.text, _NOT_SAID) from None
            raise

    def is_secret(self, expression: Expression) -> bool:
        """Whether its value tells of something that was redacted."""
        return any(overlap(read[1:], place) for read in expression.reads for place in self.secret.get(read[0], ()))

    def _is_hidden(self, path: tuple[str, ...]) -> bool:
        """Whether what stands at a path, or at as much of it as there is, holds a Hidden text."""
        value: Json = self.variables.get(path[0])
        for name in path[1:]:
            if not isinstance(value, dict) or name not in value:
                break
            value = value[name]
        return holds_hidden(value)
