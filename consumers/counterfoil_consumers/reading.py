"""Readers generated from our Avro schemas: an event's bytes to those of binary COPY and of JSON, no object between.

Each schema becomes the source of a Python function, compiled at first use (Avro 1.12, "Binary Encoding"). fastavro is
the judge: a property test holds both to the same values. Only what our schemas use is known here; another type is an
error when the reader is generated. A schema that is not the newest is read as the newest one would say it: fields it
lacks have their defaults ("Schema Resolution").

What a reader is given may be cut short: a slice beyond the end is only shorter, so readers say where they ended, and
callers compare that with where the bytes end.
"""

import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from counterfoil.errors import DecodeError
from counterfoil_consumers import binary_copy
from counterfoil_consumers.readable import json_text, quoted
from counterfoil_schemas import named_types

BodyReader = Callable[[bytes, int], tuple[str, str | None, int]]
FieldsReader = Callable[[bytes, int], tuple[Any, ...]]
# What a reader may raise on bytes that are not Avro of its schema, DecodeError aside.
NOT_AVRO = (IndexError, ValueError, struct.error)

_LONG_BYTES = 10
_INT_BITS = 32
_TWO_TO_64 = 2**64
_Node = Any  # a schema's JSON: a name, a list of branches, or a dict


def body_reader_of(definition: _Node, newest: _Node, json_names: frozenset[str], folded: Sequence[str]) -> BodyReader:
    """The reader of one body schema, from (bytes, position).

    It returns the body as JSON text that Postgres takes, the same of the fields `folded` alone (None where there are
    none), and where it ended. Fields of `json_names` hold JSON text, and are that JSON in it; ids and bytes are hex.
    """
    source = _Source(definition, newest, json_names)
    whole = source.json_record(definition, newest, "", "    ")
    part = _object({name: whole[name] for name in folded}) if folded else "None"
    return source.compiled(f"return {_object(whole)}, {part}, p")


def fields_readers_of(
    definition: _Node, newest: _Node, runs: Sequence[Sequence[str]], raw: Sequence[str]
) -> list[FieldsReader]:
    """Readers of runs of an envelope's fields, one after the other, each from (bytes, position).

    They return, in the order of a run's names, each field as one of binary COPY, with integers as integers and those of
    `raw` as the bytes they are, and then where it ended. Names that this version lacks have the newest one's defaults.
    Raises ValueError when the runs are not the record's fields in their order.
    """
    have = {field["name"]: field["type"] for field in definition["fields"]}
    if [name for run in runs for name in run if name in have] != list(have):
        raise ValueError(f"the fields of {definition['name']} are {', '.join(have)}, and not those of the runs")
    defaults = {field["name"]: field.get("default") for field in newest["fields"]}
    readers = []
    for run in runs:
        source = _Source(definition, newest)
        values = []
        for name in run:
            if name in have:
                values.append(source.name("v"))
                source.copy_field(have[name], values[-1], name, "    ", is_raw=name in raw)
            else:
                values.append(repr(_default_field(defaults[name])))
        readers.append(source.compiled(f"return {', '.join(values)}, p"))
    return readers


def _default_field(default: Any) -> bytes:
    return binary_copy.NULL if default is None else binary_copy.text(default)


class _Source:
    """Writes the source of a reader. `b` are the bytes, `p` is the position; other names are numbered."""

    def __init__(self, definition: _Node, newest: _Node, json_names: frozenset[str] = frozenset()) -> None:
        self._named = named_types(definition)
        self._newest_named = named_types(newest)
        self._json_names = json_names
        self._lines: list[str] = []
        self._count = 0

    def compiled(self, last: str) -> Callable[..., Any]:
        source = "\n".join(["def read(b, p):", "    size = len(b)", *self._lines, f"    {last}"])
        namespace = dict(_KNOWN)
        exec(compile(source, "<reader>", "exec"), namespace)  # noqa: S102  # our own text
        read: Callable[..., Any] = namespace["read"]
        return read

    def name(self, stem: str) -> str:
        self._count += 1
        return f"{stem}{self._count}"

    # -- a body, as JSON

    def json_record(self, node: _Node, newest: _Node, where: str, indent: str) -> dict[str, str]:
        """Reads the fields of a record; returns an expression of the JSON text of each that the newest version has."""
        wanted = {field["name"]: field for field in newest["fields"]}
        found: dict[str, str] = {}
        for field in node["fields"]:
            name = field["name"]
            value = self.name("v")
            target = wanted[name]["type"] if name in wanted else field["type"]
            self._json(field["type"], target, value, f"{where}{name}", indent, is_json=name in self._json_names)
            if name in wanted:
                found[name] = value
        for name, field in wanted.items():
            if name not in found:
                found[name] = self.name("default")
                self._line(indent, f"{found[name]} = {json.dumps(field['default'])!r}")
        return {name: found[name] for name in wanted}

    def _json(self, node: _Node, newest: _Node, value: str, where: str, indent: str, *, is_json: bool) -> None:
        node, newest = self._resolved(node), _resolved(newest, self._newest_named)
        if isinstance(node, list):
            inner = _other_than_null(node, where)
            newest_inner = _other_than_null(newest, where) if isinstance(newest, list) else newest
            self._branch(node, where, indent)
            self._line(indent, f"if is_null: {value} = 'null'")
            self._line(indent, "else:")
            self._json(inner, newest_inner, value, where, indent + "    ", is_json=is_json)
            return
        kind = node["type"] if isinstance(node, Mapping) else node
        if kind == "record":
            fields = self.json_record(node, newest, f"{where}.", indent)
            self._line(indent, f"{value} = {_object(fields)}")
        elif kind == "array":
            self._json_array(node, newest, value, where, indent)
        elif kind == "string":
            self._bytes("s", where, indent)
            self._line(indent, f"{value} = {'json_text' if is_json else 'quoted'}(str(s, 'utf-8'))")
        elif kind == "bytes":
            self._bytes("s", where, indent)
            self._line(indent, f"{value} = '\"' + s.hex() + '\"'")
        elif kind == "fixed":
            self._line(indent, f"{value} = '\"' + b[p:p + {node['size']}].hex() + '\"'; p += {node['size']}")
        elif kind == "boolean":
            self._line(indent, "if b[p] > 1: refuse(where, 'no boolean')".replace("where", repr(where)))
            self._line(indent, f"{value} = 'true' if b[p] else 'false'; p += 1")
        elif kind == "double":
            self._line(indent, f"{value} = number(unpack(b, p)[0]); p += 8")
        elif kind in ("int", "long"):
            self._integer(kind, value, where, indent)
        else:
            raise NotImplementedError(f"{where}: no reader is generated for the Avro type {kind!r}")

    def _json_array(self, node: _Node, newest: _Node, value: str, where: str, indent: str) -> None:
        """Blocks of items, each with its count; a negative one is followed by the block's size in bytes."""
        items, count, item = self.name("items"), self.name("count"), self.name("item")
        self._line(indent, f"{items} = []")
        self._line(indent, "while True:")
        inside = indent + "    "
        self._integer("long", count, where, inside)
        self._line(inside, f"if {count} == 0: break")
        self._line(inside, f"if {count} < 0:")
        self._integer("long", self.name("ignored"), where, inside + "    ")
        self._line(inside, f"for _ in range(abs({count})):")
        self._line(inside + "    ", f"if p >= size: refuse({where!r}, 'cut short')")  # else items would never end
        self._json(node["items"], newest["items"], item, where, inside + "    ", is_json=False)
        self._line(inside + "    ", f"{items}.append(str({item}))")
        self._line(indent, f"{value} = '[' + ', '.join({items}) + ']'")

    # -- a field of the envelope, as binary COPY

    def copy_field(self, node: _Node, value: str, where: str, indent: str, *, is_raw: bool) -> None:
        node = self._resolved(node)
        if isinstance(node, list):
            self._branch(node, where, indent)
            self._line(indent, f"if is_null: {value} = {'None' if _is_integer(node) else 'NULL'}")
            self._line(indent, "else:")
            self.copy_field(_other_than_null(node, where), value, where, indent + "    ", is_raw=is_raw)
            return
        kind = node["type"] if isinstance(node, Mapping) else node
        if kind == "string":
            self._bytes(value, where, indent)
            if not is_raw:
                self._line(indent, f"{value} = text({value})")
        elif kind == "bytes":
            self._bytes(value, where, indent)
        elif kind == "fixed":
            size = node["size"]
            prefix = b"" if is_raw else struct.pack(">i", size)
            self._line(indent, f"{value} = {prefix!r} + b[p:p + {size}]; p += {size}")
        elif kind in ("int", "long"):
            self._integer(kind, value, where, indent)
        else:
            raise NotImplementedError(f"{where}: no reader is generated for the Avro type {kind!r}")

    # -- parts of both

    def _branch(self, node: _Node, where: str, indent: str) -> None:
        null = node.index("null") * 2
        self._line(indent, f"if b[p] not in (0, 2): refuse({where!r}, 'no branch of the union')")
        self._line(indent, f"is_null = b[p] == {null}; p += 1")

    def _bytes(self, value: str, where: str, indent: str) -> None:
        self._varint(indent)
        self._line(indent, f"if n & 1: refuse({where!r}, 'a negative length')")
        self._line(indent, "q = p + (n >> 1)")
        self._line(indent, f"{value} = b[p:q]; p = q")

    def _integer(self, kind: str, value: str, where: str, indent: str) -> None:
        self._varint(indent)
        self._line(indent, f"{value} = (n >> 1) ^ -(n & 1)")
        if kind == "int":
            self._line(indent, f"if n >> {_INT_BITS}: refuse({where!r}, 'more than 32 bits')")

    def _varint(self, indent: str) -> None:
        """Most have one byte or two."""
        self._line(indent, "n = b[p]; p += 1")
        self._line(indent, "if n > 127:")
        self._line(indent, "    if b[p] < 128: n = n & 127 | b[p] << 7; p += 1")
        self._line(indent, "    else: n, p = longer(b, p)")

    def _line(self, indent: str, text: str) -> None:
        self._lines.append(indent + text)

    def _resolved(self, node: _Node) -> _Node:
        return _resolved(node, self._named)


def _resolved(node: _Node, named: Mapping[str, _Node]) -> _Node:
    return named.get(node, node) if isinstance(node, str) else node


def _other_than_null(branches: Sequence[_Node], where: str) -> _Node:
    others = [branch for branch in branches if branch != "null"]
    if len(others) != 1 or len(branches) != 2:
        raise NotImplementedError(f"{where}: readers are generated for unions of null and one other type only")
    return others[0]


def _is_integer(branches: Sequence[_Node]) -> bool:
    return "int" in branches or "long" in branches


def _object(fields: Mapping[str, str]) -> str:
    """The expression of an object's JSON text, from those of its fields' values."""
    inner = ", ".join(f'"{name}": {{{value}}}' for name, value in fields.items())
    return "f'{{" + inner + "}}'"


def _longer(b: bytes, p: int) -> tuple[int, int]:
    """A varint of two bytes and more, the first of which stands before `p`; still zigzag."""
    word = int.from_bytes(b[p - 1 : p + 7], "little")
    if word & 0x8080808080808080 == 0x0080808080808080:  # a time of our days: always eight bytes
        word &= 0x7F7F7F7F7F7F7F7F
        word = word & 0x007F007F007F007F | (word & 0x7F007F007F007F00) >> 1
        word = word & 0x00003FFF00003FFF | (word & 0x3FFF00003FFF0000) >> 2
        return word & 0x000000000FFFFFFF | (word & 0x0FFFFFFF00000000) >> 4, p + 7
    value = b[p - 1] & 0x7F
    for place in range(1, _LONG_BYTES):
        byte = b[p]
        p += 1
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            if value >= _TWO_TO_64:
                break
            return value, p
    raise ValueError("an integer of more than 64 bits")


def _number(value: float) -> str:
    return repr(value) if math.isfinite(value) else f'"{value}"'


def _refuse(where: str, problem: str) -> NoReturn:
    raise DecodeError(f"{where} is {problem}")


_KNOWN: dict[str, Any] = {
    "NULL": binary_copy.NULL,
    "json_text": json_text,
    "longer": _longer,
    "number": _number,
    "quoted": quoted,
    "refuse": _refuse,
    "text": binary_copy.text_of,
    "unpack": struct.Struct("<d").unpack_from,
}
