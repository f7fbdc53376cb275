"""Our schemas held against a Schema Registry: what it has, what it lacks, and what could not follow what it has.

What is registered, the registry judges itself. What is not yet, is judged here, by Apache Avro's own rules and over
every version that is there: Apicurio 3.3.3 can't be asked about a schema with references (docs/decisions/0012).
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from avro.schema import parse

from counterfoil.errors import DecodeError
from counterfoil.framing import Definition
from counterfoil.registry import LEVEL, Registry
from counterfoil.subjects import Entry


@dataclass(frozen=True)
class SchemaState:
    """One schema of ours in the registry; `schema_id` is None where it is not registered."""

    subject: str
    name: str
    schema_id: int | None
    problems: tuple[str, ...]


def examine(registry: Registry, entries: Sequence[Entry]) -> Iterator[SchemaState]:
    """Every schema in turn, with what is wrong and what to do about it.

    Raises RegistryError.
    """
    for entry in entries:
        found = registry.look_up(entry)
        problems = [] if found is not None else [*_hindrances(registry, entry)] or [_MISSING]
        level = registry.level(entry.subject)
        if found is not None and level != LEVEL:
            problems.append(f"its compatibility is {level or 'the default'}, not {LEVEL}; {_REGISTER}")
        yield SchemaState(entry.subject, entry.name, None if found is None else found.schema_id, tuple(problems))


def unreadable(reader: Definition, writer: Definition) -> list[str]:
    """Why `reader` can't read all that is written with `writer` (Avro 1.12, "Schema Resolution"); empty if it can."""
    checker = ReaderWriterCompatibilityChecker()  # type: ignore[no-untyped-call]  # avro leaves its return type out
    result = checker.get_compatibility(parse(json.dumps(reader)), parse(json.dumps(writer)))
    if result.compatibility is SchemaCompatibilityType.compatible:
        return []
    return sorted(result.messages) or ["Avro's rules do not allow it"]


_REGISTER = "run `counterfoil schemas register`"
_MISSING = f"it is not registered; {_REGISTER}"


def _hindrances(registry: Registry, entry: Entry) -> Iterator[str]:
    try:
        versions = registry.definitions(entry.subject)
    except DecodeError as error:
        yield f"{error}; another program uses this subject"
        return
    for version, writer in versions.items():
        why = unreadable(entry.definition, writer)
        if why:
            yield (
                f"{entry.name} can't read what version {version} in the registry wrote ({', '.join(why)}), so it would "
                "be refused; see who registered that version"
            )
