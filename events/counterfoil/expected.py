"""What the target should hold after a write, said by the code that writes instead of by a contract."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from counterfoil.errors import UsageError
from counterfoil.jsontext import to_json_text

MOST_ROWS = 1_000


@dataclass(frozen=True, kw_only=True)
class Expected:
    """One row as it should be afterwards.

    `resource` is one that the contract of the target declares, `key` the values of its key. `set`: fields and what they
    hold then; fields not named stay. `create`: the row is new; without a key it is looked for by the fields in `find`.
    `delete`: it is gone. Numbers, also Decimals, are compared as numbers, times as texts in ISO 8601.
    Raises UsageError when that does not say which row, or nothing of it.
    """

    resource: str
    key: Mapping[str, Any] = field(default_factory=dict)
    set: Mapping[str, Any] = field(default_factory=dict)
    find: Mapping[str, Any] = field(default_factory=dict)
    create: bool = False
    delete: bool = False

    def __post_init__(self) -> None:
        if not self.key and not (self.create and self.find):
            raise UsageError(f"what is expected of {self.resource} names no row: give key, or create=True and find")
        if self.delete and (self.set or self.create or self.find):
            raise UsageError(f"what is expected of {self.resource}: a deleted row holds nothing")
        if not (self.set or self.create or self.delete):
            raise UsageError(f"nothing is expected of {self.resource}: give set, create or delete")

    @property
    def said(self) -> dict[str, Any]:
        """As it stands in the intent's event, as JSON."""
        given = {"key": self.key, "set": self.set, "find": self.find, "create": self.create, "delete": self.delete}
        return {"resource": self.resource, **{name: _numbers(value) for name, value in given.items() if value}}


# The rows, or what makes them of the effect's key, which is not known before the effect is.
Expectation = Iterable[Expected] | Callable[[str], Iterable[Expected]]


def expected_text(expectation: Expectation | None, key: str) -> str | None:
    """JSON text of what is expected of the effect with this key; None where the code says nothing.

    Raises UsageError for more rows than 1,000.
    """
    if expectation is None:
        return None
    rows = list(expectation(key) if callable(expectation) else expectation)
    if len(rows) > MOST_ROWS:
        raise UsageError(f"{len(rows)} rows are expected of one effect; {MOST_ROWS} are allowed")
    return to_json_text([row.said for row in rows])


def _numbers(value: Any) -> Any:
    """With Decimals as numbers, which they would not be in an argument."""
    if isinstance(value, Decimal) and value.is_finite():
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, Mapping):
        return {name: _numbers(item) for name, item in value.items()}
    return [_numbers(item) for item in value] if isinstance(value, list | tuple) else value
