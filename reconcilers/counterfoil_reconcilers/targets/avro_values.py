"""Avro as rows hold it: bytes of one schema to JSON, written as PostgreSQL's `to_jsonb` would write the value.

Schemas come from strangers. fastavro is safe with those alone that `reader_of` lets pass: a recursive one ends the
process, and five bytes can be millions of items. It converts as it reads, by logical types of our own that stand in
place of the schema's: which branch of a union a value was of is not known afterwards.
"""

import datetime as dt
import io
import uuid
from collections.abc import Callable, Mapping
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Any, Final, NamedTuple

import fastavro
from fastavro.read import LOGICAL_READERS

from counterfoil.framing import Definition
from counterfoil_reconcilers.values import Unreadable, shortest_single

MOST_VALUES: Final = 4_000_000
_DEEPEST: Final = 64
_LONGEST_DECIMAL_BYTES: Final = 256  # 616 digits; a double has 309 at most, and longer ones take ever longer to read
_EPOCH: Final = dt.datetime(1970, 1, 1)  # noqa: DTZ001  # the zone is said where the value has one
_PRIMITIVES: Final = {"null", "boolean", "int", "long", "float", "double", "bytes", "string"}
_LEAST_BYTES: Final = {"null": 0, "float": 4, "double": 8}
_OURS: Final = "counterfoil-"


class SchemaUnread(Unreadable):
    """A schema whose values are not read, whatever they hold; the message says why."""


class AvroReader:
    """Reads values of one schema: make it with `reader_of`."""

    def __init__(self, parsed: Definition, weight: "_Weight") -> None:
        self._parsed = parsed
        self._weight = weight

    def read(self, content: bytes) -> Any:
        """The value as JSON holds it, but for numbers, which are as Python holds them. Raises Unreadable."""
        if self._weight.most_values(len(content)) > MOST_VALUES:
            raise Unreadable(f"it may hold more than {MOST_VALUES} values")
        source = io.BytesIO(content)
        try:
            record: Any = fastavro.schemaless_reader(source, self._parsed, None)
        except Unreadable:
            raise
        except Exception as error:  # fastavro raises many kinds on bytes that are not Avro
            raise Unreadable(f"it is not Avro of its schema ({type(error).__name__} {error})") from error
        if source.tell() != len(content):
            raise Unreadable(f"it is not Avro of its schema ({len(content) - source.tell()} bytes are too many)")
        return record["value"]


def reader_of(definition: Definition) -> AvroReader:
    """The reader of a schema that defines every type it names, by full names.

    Raises SchemaUnread for one that is recursive, nested too deeply, or has items that take no bytes.
    """
    weight = _Scales().weigh(definition, 0)
    # A record is written as its fields are, one after another: so any type is the one field of a record, which fastavro
    # parses once and for all.
    whole = {"type": "record", "name": "counterfoil_value", "fields": [{"name": "value", "type": _marked(definition)}]}
    try:
        return AvroReader(fastavro.parse_schema(whole), weight)
    except Exception as error:  # of many kinds, on a stranger's schema
        raise SchemaUnread(f"fastavro can't read it ({type(error).__name__} {error})") from error


class _Weight(NamedTuple):
    """What a value of a type is at least and at most, arrays and maps in it being empty.

    `values`: how many there are in it, at most; `least_bytes`: how many bytes it takes, at least. `rate`: how many
    values a further byte may be, in an array or map.
    """

    values: int
    least_bytes: int
    rate: Fraction

    def most_values(self, size_bytes: int) -> Fraction:
        """How many values there may be in so many bytes."""
        return self.values + size_bytes * self.rate


class _Scales:
    """Weighs the types of one schema, and refuses it."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[_Weight, int]] = {}
        self._open: set[str] = set()
        self._deepest = 0

    def weigh(self, node: Any, depth: int) -> _Weight:
        self._deepest = max(self._deepest, depth)
        if depth > _DEEPEST:
            raise SchemaUnread(f"it is nested deeper than {_DEEPEST}")
        if isinstance(node, list):
            return _widest([self.weigh(branch, depth) for branch in node])
        kind = node if isinstance(node, str) else node["type"]
        if not isinstance(kind, str):
            return self.weigh(kind, depth)
        match kind:
            case "record" | "error":
                return self._record(node, depth)
            case "array" | "map":
                return self._several(node, kind, depth)
            case "fixed" | "enum":
                weight = _Weight(1, node["size"] if kind == "fixed" else 1, Fraction(0))
                self._known[node["name"]] = weight, 0
                return weight
        if kind in _PRIMITIVES:
            return _Weight(1, _LEAST_BYTES.get(kind, 1), Fraction(0))
        return self._named(kind, depth)

    def _named(self, name: str, depth: int) -> _Weight:
        if name in self._open:
            raise SchemaUnread(f"it is recursive: {name} contains itself")
        if name not in self._known:
            raise SchemaUnread(f"it names {name}, which nothing defines")
        weight, inner = self._known[name]
        if depth + inner > _DEEPEST:
            raise SchemaUnread(f"it is nested deeper than {_DEEPEST}")
        self._deepest = max(self._deepest, depth + inner)
        return weight

    def _record(self, node: Mapping[str, Any], depth: int) -> _Weight:
        name, outer, self._deepest = node["name"], self._deepest, depth
        self._open.add(name)
        fields = [self.weigh(field["type"], depth + 1) for field in node["fields"]]
        self._open.discard(name)
        weight = _Weight(
            1 + sum(field.values for field in fields),
            sum(field.least_bytes for field in fields),
            max((field.rate for field in fields), default=Fraction(0)),
        )
        self._known[name] = weight, self._deepest - depth
        self._deepest = max(self._deepest, outer)
        return weight

    def _several(self, node: Mapping[str, Any], kind: str, depth: int) -> _Weight:
        item = self.weigh(node["items" if kind == "array" else "values"], depth + 1)
        least_bytes = item.least_bytes + (kind == "map")  # the length of a name
        if least_bytes == 0:
            raise SchemaUnread(f"it has an {kind} of items that take no bytes")
        return _Weight(1, 1, max(Fraction(item.values, least_bytes), item.rate))


def _widest(branches: list[_Weight]) -> _Weight:
    return _Weight(
        max((branch.values for branch in branches), default=1),
        1 + min((branch.least_bytes for branch in branches), default=0),
        max((branch.rate for branch in branches), default=Fraction(0)),
    )


def _marked(node: Any) -> Any:
    """The type, with logical types that make fastavro call what we registered below, and no others."""
    if isinstance(node, list):
        return [_marked(branch) for branch in node]
    if isinstance(node, str):
        return _with_mark({"type": node}) if node in ("bytes", "float") else node
    if not isinstance(node["type"], str):
        return _marked(node["type"])
    kept = {name: node[name] for name in ("type", "name", "symbols", "size", "scale", "logicalType") if name in node}
    for place in ("items", "values"):
        if place in node:
            kept[place] = _marked(node[place])
    if "fields" in node:
        kept["fields"] = [{"name": field["name"], "type": _marked(field["type"])} for field in node["fields"]]
    return _with_mark(kept)


def _with_mark(node: dict[str, Any]) -> dict[str, Any]:
    kind, logical = node["type"], node.pop("logicalType", None)
    for mark in (logical, "plain"):
        if isinstance(mark, str) and f"{kind}-{_OURS}{mark}" in LOGICAL_READERS:
            return {**node, "logicalType": f"{_OURS}{mark}"}
    return node


def _decimal(content: bytes, scale: int) -> int | float:
    """Whole numbers stay exact, as they do in the columns of the other kinds."""
    if len(content) > _LONGEST_DECIMAL_BYTES:
        raise Unreadable(f"it holds a decimal of {len(content)} bytes")
    unscaled = int.from_bytes(content, "big", signed=True)
    return float(Decimal(f"{unscaled}E-{scale}")) if scale else unscaled


def _hex(content: bytes) -> str:
    return f"\\x{content.hex()}"


def _date(days: int) -> str:
    return _moment(days * 86_400, 0, 0).partition("T")[0]


def _time(value: int, digits: int) -> str:
    if not 0 <= value < 86_400 * 10**digits:
        raise Unreadable("it holds a time that no day has")
    return _timestamp(value, digits).partition("T")[2]


def _timestamp(value: int, digits: int) -> str:
    seconds, fraction = divmod(value, 10**digits)
    return _moment(seconds, fraction, digits)


def _moment(seconds: int, fraction: int, digits: int) -> str:
    """ISO 8601, without zeros at the end of a fraction."""
    try:
        whole = (_EPOCH + dt.timedelta(seconds=seconds)).isoformat()
    except OverflowError:
        raise Unreadable("it holds a moment outside of the years 1 to 9999") from None
    return f"{whole}.{fraction:0{digits}}".rstrip("0") if fraction else whole


def _uuid(value: bytes | str) -> str:
    try:
        return str(uuid.UUID(bytes=value) if isinstance(value, bytes) else uuid.UUID(value))
    except ValueError:
        return value if isinstance(value, str) else _hex(value)


def _with_unit(convert: Callable[[int, int], str], digits: int, ending: str = "") -> Callable[[Any], str]:
    return lambda value: f"{convert(value, digits)}{ending}"


# By Avro's type and logical type (Avro 1.12, "Logical Types"); `plain`: where there is none that is known here.
_CONVERSIONS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "bytes-plain": _hex,
    "fixed-plain": _hex,
    "float-plain": shortest_single,
    "int-date": _date,
    "string-uuid": _uuid,
    "fixed-uuid": _uuid,
    **{
        name: _with_unit(convert, digits, ending)
        for unit, digits in (("millis", 3), ("micros", 6), ("nanos", 9))
        for name, convert, ending in (
            (f"{'int' if unit == 'millis' else 'long'}-time-{unit}", _time, ""),
            (f"long-timestamp-{unit}", _timestamp, "+00:00"),
            (f"long-local-timestamp-{unit}", _timestamp, ""),
        )
        if name != "long-time-nanos"
    },
}


def _register() -> None:
    """Under names of ours: other users of fastavro in this process have theirs."""
    for name, convert in _CONVERSIONS.items():
        kind, _, logical = name.partition("-")
        LOGICAL_READERS[f"{kind}-{_OURS}{logical}"] = partial(_converted, convert)
    for kind in ("bytes", "fixed"):
        LOGICAL_READERS[f"{kind}-{_OURS}decimal"] = _decimal_read


def _converted(convert: Callable[[Any], Any], value: Any, _writer: Any, _reader: Any) -> Any:
    return convert(value)


def _decimal_read(value: bytes, writer: Any, _reader: Any) -> int | float:
    return _decimal(value, writer.get("scale", 0))


_register()
