"""Reads the contract files of this package and refuses what a consumer must never meet.

Recursive types crash fastavro and zero-size items let five bytes decode to millions of objects,
so neither may stand in a schema of ours (DESIGN.md sections 4 and 9).
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from typing import Any

_MIGRATION = re.compile(r"^(\d{4})_(pre|post)_([a-z0-9_]+)\.sql$")


@dataclass(frozen=True)
class AvroSchema:
    """One version of one schema: `subject` is `event` or a kind of event."""

    subject: str
    version: int
    definition: dict[str, Any]


@dataclass(frozen=True)
class Migration:
    """One migration file; `sha256` is over its exact bytes."""

    number: int
    phase: str
    name: str
    sql: str
    sha256: str

    @property
    def is_of_projections(self) -> bool:
        """Whether it makes or changes projections, and nothing else: a rebuild applies it to a schema of its own."""
        return self.name.startswith("projections")

    def __str__(self) -> str:
        return f"{self.number:04}_{self.phase}_{self.name}"


def read_schemas(folder: Traversable) -> tuple[AvroSchema, ...]:
    """Read `<subject>/<version>.avsc`.

    Raises ValueError when a schema is recursive or has items of no size.
    """
    found = []
    for subject in sorted(folder.iterdir(), key=lambda entry: entry.name):
        for file in sorted(subject.iterdir(), key=lambda entry: entry.name):
            if file.name.endswith(".avsc"):
                definition = json.loads(file.read_text(encoding="utf-8"))
                refuse_unsafe(definition, f"{subject.name}/{file.name}")
                found.append(AvroSchema(subject.name, int(file.name.removesuffix(".avsc")), definition))
    return tuple(sorted(found, key=lambda schema: (schema.subject, schema.version)))


def refuse_unsafe(definition: object, where: str) -> None:
    """Raise ValueError when `definition` is recursive or holds items of no size."""
    _walk(definition, where, open_names=())


def _walk(node: object, where: str, open_names: tuple[str, ...]) -> bool:
    """Whether a value of the type takes at least one byte."""
    if isinstance(node, str):
        if _short(node) in open_names:
            raise ValueError(f"{where}: the type {node} contains itself")
        return node != "null"
    if isinstance(node, list):
        for branch in node:
            _walk(branch, where, open_names)
        return True  # the number of the branch
    if not isinstance(node, dict):
        raise ValueError(f"{where}: {node!r} is no Avro type")  # noqa: TRY004  # wrong is the file, not the call
    kind = node["type"]
    if kind == "record":
        names = (*open_names, _short(node["name"]))
        sized = [_walk(field["type"], where, names) for field in node["fields"]]
        if not any(sized):
            raise ValueError(f"{where}: the record {node['name']} has no size")
    elif kind in ("array", "map"):
        if not _walk(node["items" if kind == "array" else "values"], where, open_names):
            raise ValueError(f"{where}: an {kind} of null has items of no size")
    elif kind == "fixed" and node["size"] == 0:
        raise ValueError(f"{where}: the fixed {node['name']} has no size")
    elif kind not in ("fixed", "enum"):
        return _walk(kind, where, open_names)
    return True


def json_fields_in(node: object) -> Iterator[str]:
    """Names of the fields, at any depth, that are marked `"json": true`."""
    if isinstance(node, dict):
        if node.get("json"):
            yield node["name"]
        for part in node.values():
            yield from json_fields_in(part)
    elif isinstance(node, list):
        for part in node:
            yield from json_fields_in(part)


def named_types(node: object) -> dict[str, dict[str, Any]]:
    """The records and fixed types that are defined in a schema, at any depth, by the names that they have there."""
    found: dict[str, dict[str, Any]] = {}
    if isinstance(node, dict):
        if node.get("type") in ("record", "fixed"):
            found[node["name"]] = node
        for part in node.values():
            found |= named_types(part)
    elif isinstance(node, list):
        for part in node:
            found |= named_types(part)
    return found


def _short(name: str) -> str:
    return name.rpartition(".")[2]


def read_migrations(folder: Traversable) -> tuple[Migration, ...]:
    """Read `NNNN_pre_name.sql` and `NNNN_post_name.sql`.

    Raises ValueError when a name does not fit or a number stands twice.
    """
    found: dict[int, Migration] = {}
    for file in folder.iterdir():
        match = _MIGRATION.match(file.name)
        if match is None:
            raise ValueError(f"{file.name}: a migration is named NNNN_pre_name.sql or NNNN_post_name.sql")
        number = int(match[1])
        if number in found:
            raise ValueError(f"{file.name}: {match[1]} is taken by {found[number].name}")
        content = file.read_bytes()
        found[number] = Migration(number, match[2], match[3], content.decode(), hashlib.sha256(content).hexdigest())
    return tuple(found[number] for number in sorted(found))
