"""What the judge is given: effects of one tenant at one target, and rows of that target, as plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any, Final, Literal, NamedTuple

from counterfoil.jsontext import as_given
from counterfoil_reconcilers.contracts import Resource
from counterfoil_reconcilers.values import (
    Hidden,
    Json,
    Path,
    Unreadable,
    canonical,
    holds_hidden,
    json_list,
    key_text,
    parse_json,
    plain,
)

Outcome = Literal["ok", "accepted", "failed", "unknown", "partial", "denied"]


class RowKey(NamedTuple):
    """One row of a target: the resource's name, and its key's values as text in the order of the contract."""

    resource: str
    key: tuple[str, ...]

    @property
    def text(self) -> str:
        """The values as a JSON list: how the store keeps a key, and events show it."""
        return json_list(self.key)


class NotRead(Enum):
    """A row that nobody looked for, as against one that is known not to exist (None)."""

    NOT_READ = "not read"


NOT_READ: Final = NotRead.NOT_READ


@dataclass(frozen=True)
class Row:
    """A row as it was read. `version` is the target's own (xmin, an ETag); `ours` answers the contract's predicate."""

    doc: Json
    version: str | None = None
    ours: bool | None = None
    problem: str | None = None

    @cached_property
    def text(self) -> str:
        """What it holds: one text for equal rows, whatever their versions."""
        return self.problem or canonical(self.doc)


def row_of(value: Any, version: str | None = None, ours: bool | None = None) -> Row:
    """A row from any JSON-like value; what cannot be compared becomes the row's `problem`."""
    try:
        return Row(plain(value), version, ours)
    except Unreadable as error:
        return Row(None, version, ours, str(error))


@dataclass(frozen=True)
class Rows:
    """Rows by key. `whole`: resources that were read completely, so that a row not in here does not exist.

    What `of` and those below it give is worked out once: make another one where rows were added.
    """

    rows: Mapping[RowKey, Row | None] = field(default_factory=dict)
    whole: frozenset[str] = frozenset()

    def get(self, key: RowKey) -> Row | NotRead | None:
        """The row; None if it does not exist; NOT_READ if nobody looked."""
        if key in self.rows:
            return self.rows[key]
        return None if key.resource in self.whole else NOT_READ

    def of(self, resource: str) -> Sequence[tuple[RowKey, Row]]:
        """The rows of one resource that exist."""
        return self._by_resource.get(resource, ())

    def unreadable(self, resource: str) -> Sequence[tuple[RowKey, Row]]:
        """Those of them that can't be compared."""
        return self._unreadable.get(resource, ())

    def that_may_hold(self, resource: str, field: str, text: str) -> Sequence[tuple[RowKey, Row]]:
        """Those, in their order, in which the field is this text, or is no text: one among thousands is found by it."""
        places = self._by_text.get((resource, field))
        if places is None:
            places = self._by_text[resource, field] = _places_by_text(self.of(resource), field)
        rows, here, anywhere = self.of(resource), places.get(text, ()), places.get(None, ())
        return [rows[place] for place in (sorted((*here, *anywhere)) if anywhere else here)]

    @cached_property
    def _by_resource(self) -> Mapping[str, Sequence[tuple[RowKey, Row]]]:
        found: dict[str, list[tuple[RowKey, Row]]] = {}
        for key, row in self.rows.items():
            if row is not None:
                found.setdefault(key.resource, []).append((key, row))
        return found

    @cached_property
    def _unreadable(self) -> Mapping[str, Sequence[tuple[RowKey, Row]]]:
        split = {name: [(key, row) for key, row in rows if row.problem] for name, rows in self._by_resource.items()}
        return {name: rows for name, rows in split.items() if rows}

    @cached_property
    def _by_text(self) -> dict[tuple[str, str], Mapping[str | None, Sequence[int]]]:
        return {}


def _places_by_text(rows: Sequence[tuple[RowKey, Row]], field: str) -> Mapping[str | None, Sequence[int]]:
    """The places of rows by the text in a field; under None those that have none there."""
    places: dict[str | None, list[int]] = {}
    for place, (_, row) in enumerate(rows):
        value = row.doc.get(field) if isinstance(row.doc, dict) else None
        places.setdefault(value if isinstance(value, str) else None, []).append(place)
    return places


_ELSEWHERE = {"$blob", "$reduced"}  # stand for arguments that were too large for an event


@dataclass(frozen=True)
class Reply:
    """A reply that was read already, so that a text in it is a text."""

    value: Any


@dataclass(frozen=True)
class Effect:
    """One intended write as the store knows it.

    `order` sorts effects of one tenant in the order in which they were attempted; `attempts` counts its intents.
    `reply` is what the tool gave back, text or JSON, and None if it was lost. Arguments and reply are as they were
    recorded, with `$` before names that only recorders give. `expect` is what its own code expects, likewise.
    `secret`: places in `args`, `result`, `step` and `expect` that were redacted.
    """

    effect_id: bytes
    tool: str
    args: Mapping[str, Any]
    outcome: Outcome
    order: tuple[int | str, ...]
    reply: Any = None
    attempts: int = 1
    step: str | None = None
    tenant: str = ""
    expect: Any = None
    secret: frozenset[Path] = frozenset()

    @cached_property
    def variables(self) -> Mapping[str, Json]:
        """What expressions see of an effect; `Unreadable` if its arguments are not plain JSON, or not at hand."""
        return _variables_of(self)

    @cached_property
    def hides(self) -> bool:
        """Whether it holds what was redacted and not found again."""
        reply = self.reply.value if isinstance(self.reply, Reply) else self.reply
        return holds_hidden([self.args, reply, self.step, self.expect])


def _variables_of(effect: Effect) -> Mapping[str, Json]:
    if not isinstance(effect.args, Mapping):
        raise Unreadable("its arguments are no map of names and values")
    if effect.args.keys() & _ELSEWHERE:
        raise Unreadable("its arguments were too large for the event, and the text that holds them is not at hand")
    variables: dict[str, Json] = {
        "args": plain(as_given(effect.args)),
        "effect": effect.effect_id.hex(),
        "tenant": effect.tenant,
        "keys": {},
    }
    if effect.step is not None:
        variables["step"] = effect.step
    if effect.reply is not None:
        variables["result"] = result_of(effect.reply)
    return variables


def with_reduced_hidden(value: Any, *, is_inside: bool = False) -> Any:
    """A value as it was recorded, with Hidden texts where a recorder wrote down what was no JSON in a reduced form."""
    if isinstance(value, Mapping):
        if is_inside and "$reduced" in value:
            return Hidden(value["$reduced"])
        return {name: with_reduced_hidden(item, is_inside=True) for name, item in value.items()}
    return [with_reduced_hidden(item, is_inside=True) for item in value] if isinstance(value, list) else value


def result_of(reply: Any) -> Json:
    """The reply as JSON if it is JSON text that can be compared, else the text itself."""
    return plain(as_given(recorded_reply(reply)))


def recorded_reply(reply: Any) -> Any:
    """The reply likewise, its names as they were recorded."""
    if isinstance(reply, Reply):
        return reply.value
    if isinstance(reply, str):
        try:
            return parse_json(reply)
        except Unreadable:
            return reply
    return reply


def row_key(resource: Resource, values: Mapping[str, Json]) -> RowKey:
    """The key of a row from its columns' values; `Unreadable` if one is missing or is no key."""
    missing = [name for name in resource.key if name not in values]
    if missing or len(values) != len(resource.key):
        raise Unreadable(
            f"the key of {resource.name} is {', '.join(resource.key)}, not {', '.join(values) or 'nothing'}"
        )
    if holds_hidden(list(values.values())):
        raise Unreadable(f"the row of {resource.name} is named by a redacted value that nothing at the target tells")
    return RowKey(resource.name, tuple(key_text(values[name]) for name in resource.key))


def key_shown(key: RowKey) -> str:
    """For people: `orders W-17`."""
    return f"{key.resource} {key.key[0] if len(key.key) == 1 else key.text}"
