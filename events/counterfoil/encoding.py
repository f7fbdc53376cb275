"""Avro encoders generated from our schemas: the bytes of fastavro's writer, in a third of its time.

Each schema becomes the source of one Python function, compiled at first use, that checks what it is given and
joins its parts (Avro 1.12, "Binary Encoding"). fastavro stays the reader, and the judge: a property test holds both
writers equal, byte for byte. Only what our schemas use is known here; another type is an error when it is generated.
"""

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

from counterfoil_schemas import named_types

Encoder = Callable[[Mapping[str, Any]], bytes]

_LONG_BITS = 64
_INT_BITS = 32


def encoder_of(definition: Mapping[str, Any]) -> Encoder:
    """The writer of one record schema (its JSON, as a dict).

    The encoder raises TypeError or ValueError, naming the field, for what does not fit, and UnicodeEncodeError
    for text that UTF-8 can't hold.
    """
    return _Source(definition).compiled()


def runs_of(definition: Mapping[str, Any], varying: Sequence[str]) -> list[list[str]]:
    """The record's fields in order, cut so that each of `varying` stands alone; what lies between is a run."""
    runs: list[list[str]] = []
    for field in definition["fields"]:
        if field["name"] in varying or not runs or runs[-1][0] in varying:
            runs.append([field["name"]])
        else:
            runs[-1].append(field["name"])
    return runs


def part_of(definition: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """A record of some of the fields, for the bytes of a run of them."""
    source = _Source(definition)  # knows the types that other fields name
    fields = [{**field, "type": source.resolved(field["type"])} for field in definition["fields"]]
    return {"type": "record", "name": "Part", "fields": [field for field in fields if field["name"] in names]}


def long_bytes(value: int) -> bytes:
    """A long: zigzag, then 7 bits a byte, the lowest first."""
    if -_SMALL <= value < _SMALL:
        return _SMALL_LONGS[value + _SMALL]
    if _MICROS_FROM <= value < _MICROS_BEFORE:  # a time of our days: always eight bytes
        z = value << 1
        return bytes(
            (z & 127 | 128, z >> 7 & 127 | 128, z >> 14 & 127 | 128, z >> 21 & 127 | 128,
             z >> 28 & 127 | 128, z >> 35 & 127 | 128, z >> 42 & 127 | 128, z >> 49)
        )  # fmt: skip
    return _varint(value)


def _varint(value: int) -> bytes:
    left = (value << 1) ^ (value >> (_LONG_BITS - 1))
    out = bytearray()
    while left > 0x7F:
        out.append(left & 0x7F | 0x80)
        left >>= 7
    out.append(left)
    return bytes(out)


_SMALL = 8192  # lengths, mostly
_SMALL_LONGS = [_varint(value) for value in range(-_SMALL, _SMALL)]
_MICROS_FROM, _MICROS_BEFORE = 1 << 48, 1 << 55


class _Source:
    """Writes the source of a record's encoder. Generated names can't clash: each is numbered."""

    def __init__(self, definition: Mapping[str, Any]) -> None:
        self._definition = definition
        self._named = named_types(definition)
        self._known: dict[str, Any] = {
            "long_bytes": long_bytes,
            "small": _SMALL_LONGS,
            "integer": _integer,
            "text": _text,
            "refuse": _refuse,
            "refuse_extra": _refuse_extra,
            "refuse_missing": _refuse_missing,
            "double": struct.Struct("<d").pack,
        }
        self._lines: list[str] = []
        self._count = 0

    def resolved(self, node: Any) -> Any:
        """The node with every name replaced by what it names."""
        if isinstance(node, list):
            return [self.resolved(branch) for branch in node]
        return self._named.get(node, node) if isinstance(node, str) else node

    def compiled(self) -> Encoder:
        body = self._record(self._definition, "record", self._definition["name"])
        source = "\n    ".join(["def encode(record):", *self._lines, f"return b''.join(({', '.join(body)},))"])
        namespace = dict(self._known)
        exec(compile(source, f"<encoder of {self._definition['name']}>", "exec"), namespace)  # noqa: S102  # our own text
        encode: Encoder = namespace["encode"]
        return encode

    def _name(self, stem: str, value: Any = None) -> str:
        self._count += 1
        name = f"{stem}{self._count}"
        if value is not None:
            self._known[name] = value
        return name

    def _record(self, definition: Mapping[str, Any], variable: str, where: str) -> list[str]:
        fields = definition["fields"]
        names = self._name("names", frozenset(field["name"] for field in fields))
        self._lines.append(f"if not {names}.issuperset({variable}): refuse_extra({variable}, {names}, {where!r})")
        parts: list[str] = []
        for field in fields:
            value = self._name("v")
            inside = f"{where}.{field['name']}" if where else field["name"]
            if "default" in field:
                default = self._name("default", (field["default"],))
                self._lines.append(f"{value} = {variable}.get({field['name']!r}, {default}[0])")
            else:
                self._lines.append(f"if {field['name']!r} not in {variable}: refuse_missing({inside!r})")
                self._lines.append(f"{value} = {variable}[{field['name']!r}]")
            parts += self._parts(field["type"], value, inside)
        return parts

    def _parts(self, node: Any, value: str, where: str) -> list[str]:
        """Expressions of the bytes of `value`, after the lines that they need."""
        node = self.resolved(node)
        if isinstance(node, list):
            return self._union(node, value, where)
        kind = node["type"] if isinstance(node, Mapping) else node
        match kind:
            case "string":
                content = self._name("b")
                is_text = f"{value}.__class__ is str"
                self._lines.append(f"{content} = {value}.encode() if {is_text} else text({value}, {where!r})")
                return [_length(content), content]
            case "bytes":
                self._lines.append(f"if {value}.__class__ is not bytes: refuse({value}, 'bytes', {where!r})")
                return [_length(value), value]
            case "fixed":
                size = node["size"]
                is_whole = f"{value}.__class__ is bytes and len({value}) == {size}"
                self._lines.append(f"if not ({is_whole}): refuse({value}, '{size} bytes', {where!r})")
                return [value]
            case "boolean":
                self._lines.append(f"if {value}.__class__ is not bool: refuse({value}, 'a boolean', {where!r})")
                return [f"(b'\\x01' if {value} else b'\\x00')"]
            case "long" | "int":
                bits = _LONG_BITS if kind == "long" else _INT_BITS
                small = f"{value}.__class__ is int and -{_SMALL} <= {value} < {_SMALL}"
                return [f"small[{value} + {_SMALL}] if {small} else integer({value}, {bits}, {where!r})"]
            case "double":
                self._lines.append(f"if {value}.__class__ not in (float, int): refuse({value}, 'a number', {where!r})")
                return [f"double({value})"]
            case "array":
                return [self._array(node["items"], value, where)]
            case "record":
                self._lines.append(f"if not hasattr({value}, 'keys'): refuse({value}, 'a mapping', {where!r})")
                return self._record(node, value, where)
        raise NotImplementedError(f"{where}: no encoder is generated for the Avro type {kind!r}")

    def _union(self, branches: Sequence[Any], value: str, where: str) -> list[str]:
        others = [branch for branch in branches if branch != "null"]
        if len(others) != 1 or len(branches) != 2:
            raise NotImplementedError(f"{where}: encoders are generated for unions of null and one other type only")
        null, other = long_bytes(branches.index("null")), long_bytes(branches.index(others[0]))
        result = self._name("u")
        outer, self._lines = self._lines, []
        parts = self._parts(others[0], value, where)
        inner, self._lines = self._lines, outer
        self._lines.append(f"if {value} is None: {result} = {null!r}")
        self._lines.append("else:")
        self._lines += [f"    {line}" for line in inner]
        self._lines.append(f"    {result} = b''.join(({other!r}, {', '.join(parts)}))")
        return [result]

    def _array(self, items: Any, value: str, where: str) -> str:
        """Written as one block, as fastavro does."""
        field = {"name": "item", "type": self.resolved(items)}
        encode = _Source({"type": "record", "name": where, "fields": [field]})
        encode._named.update(self._named)
        item = self._name("item", _item_encoder(encode.compiled()))
        result = self._name("a")
        self._lines.append(f"if {value}.__class__ not in (list, tuple): refuse({value}, 'a list', {where!r})")
        self._lines.append(
            f"{result} = b''.join((long_bytes(len({value})), *map({item}, {value}), b'\\x00')) if {value} else b'\\x00'"
        )
        return result


def _length(content: str) -> str:
    return f"small[len({content}) + {_SMALL}] if len({content}) < {_SMALL} else long_bytes(len({content}))"


def _item_encoder(encode: Encoder) -> Callable[[Any], bytes]:
    return lambda item: encode({"item": item})


def _integer(value: Any, bits: int, where: str) -> bytes:
    if value.__class__ is not int:
        _refuse(value, "an integer", where)
    if not -(1 << bits - 1) <= value < 1 << bits - 1:
        raise ValueError(f"{where} is {value}, which {bits} bits can't hold")
    return long_bytes(value)


def _text(value: Any, where: str) -> bytes:
    if not isinstance(value, str):
        _refuse(value, "text", where)
    return value.encode()


def _refuse(value: Any, expected: str, where: str) -> NoReturn:
    raise TypeError(f"{where} is a {type(value).__name__}, not {expected}")


def _refuse_missing(where: str) -> NoReturn:
    raise ValueError(f"{where} is missing")


def _refuse_extra(record: Mapping[str, Any], names: frozenset[str], where: str) -> NoReturn:
    extra: Iterator[str] = (repr(name) for name in record if name not in names)
    raise ValueError(f"{where} has no field {', '.join(extra)}")
