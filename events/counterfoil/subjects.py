"""Our schemas as a Schema Registry holds them: which subject, which text, which references.

The envelope stands under the topic's name (`<topic>-value`), each kind's body under `counterfoil.<kind>`, where a
reader finds it by the envelope's `kind`. The fixed types that several of them define stand under their own names, and
the others refer to them. See docs/decisions/0012.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from counterfoil_schemas import avro_schemas

NAMESPACE = "counterfoil"
# The fixed types that several schemas define, and their bytes; a fixed type never has a second version. Another one
# here would be another text, hence another id, of every schema that defines it.
SHARED_TYPES = {"Id": 16, "Digest": 32}


@dataclass(frozen=True, slots=True)
class Entry:
    """One schema to register. `text` is JSON that names the types of `references`, and defines all others."""

    subject: str
    name: str
    text: str
    references: tuple["Entry", ...] = ()

    @property
    def definition(self) -> dict[str, Any]:
        """The schema with a definition of every type it names."""
        return dict(with_types(json.loads(self.text), {one.name: one.definition for one in self.references}))


def entries(topic: str, prefix: str = "") -> tuple[Entry, ...]:
    """Every released schema, for events on `topic`: what others refer to first, then oldest first.

    `prefix` is put before every subject but the topic's, which begins with it already.
    """
    shared = {name: _shared(prefix, name, size) for name, size in SHARED_TYPES.items()}
    found = list(shared.values())
    for schema in avro_schemas():
        subject = f"{topic}-value" if schema.subject == "event" else f"{prefix}{NAMESPACE}.{schema.subject}"
        used: dict[str, Entry] = {}
        definition = _referring(schema.definition, shared, used)
        name = f"{schema.subject} {schema.version}"
        found.append(Entry(subject, name, json.dumps(definition), tuple(used.values())))
    return tuple(found)


def newest_envelope(schemas: Sequence[Entry]) -> Entry:
    """The envelope that this version writes, among all `entries`."""
    return [entry for entry in schemas if entry.name.startswith("event ")][-1]


def with_types(definition: Any, types: Mapping[str, Any]) -> Any:
    """The schema with `types` (definitions by full name) put in where each is named first.

    All names in `definition` must be full, as fastavro's parser leaves them.
    """
    return _with_types(definition, dict(types))


def _with_types(node: Any, missing: dict[str, Any]) -> Any:
    if isinstance(node, str):
        return _with_types(missing.pop(node), missing) if node in missing else node
    if isinstance(node, list):
        return [_with_types(branch, missing) for branch in node]
    return _over_types(node, lambda inner: _with_types(inner, missing))


def _referring(node: Any, shared: Mapping[str, Entry], used: dict[str, Entry]) -> Any:
    """The schema with full names in place of the definitions of shared types, and of their short names."""
    if isinstance(node, list):
        return [_referring(branch, shared, used) for branch in node]
    name = node if isinstance(node, str) else node.get("name")
    if isinstance(name, str) and name in shared:
        used[name] = shared[name]
        return f"{NAMESPACE}.{name}"
    if isinstance(node, str):
        return node
    return _over_types(node, lambda inner: _referring(inner, shared, used))


def _over_types(node: Mapping[str, Any], change: Callable[[Any], Any]) -> dict[str, Any]:
    """A copy of a type's definition, each type within it changed."""
    changed = dict(node)
    if "fields" in node:
        changed["fields"] = [{**field, "type": change(field["type"])} for field in node["fields"]]
    for place in ("items", "values"):
        if place in node:
            changed[place] = change(node[place])
    return changed


def _shared(prefix: str, name: str, size_bytes: int) -> Entry:
    definition = {"type": "fixed", "name": name, "namespace": NAMESPACE, "size": size_bytes}
    return Entry(f"{prefix}{NAMESPACE}.{name}", f"{NAMESPACE}.{name}", json.dumps(definition))
