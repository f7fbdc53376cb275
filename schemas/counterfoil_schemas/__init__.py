"""Every contract with the outside, as files: Avro schemas, topics, SQL migrations.

Nothing here decides anything; the other rooms read these files through this module, so that a
schema, a topic or a migration has one place and a test of its own.
"""

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from counterfoil_schemas.loading import (
    AvroSchema,
    Migration,
    json_fields_in,
    named_types,
    read_migrations,
    read_schemas,
)

__all__ = [
    "AvroSchema",
    "Migration",
    "Topic",
    "avro_schemas",
    "json_fields",
    "migrations",
    "named_types",
    "sql_queries",
    "topics",
]

_HERE = files(__name__)


@dataclass(frozen=True)
class Topic:
    """One declared topic; `config` holds Kafka's own names and values."""

    name: str
    partitions: int
    replication_factor: int
    config: dict[str, str]


@cache
def avro_schemas() -> tuple[AvroSchema, ...]:
    """Every released version of the envelope and of each kind's body, oldest first."""
    return read_schemas(_HERE.joinpath("avro"))


@cache
def json_fields(kind: str) -> frozenset[str]:
    """Names of the fields of a kind's body that hold JSON text, at any depth and in any version of it."""
    found: set[str] = set()
    for schema in avro_schemas():
        if schema.subject == kind:
            found |= set(json_fields_in(schema.definition))
    return frozenset(found)


@cache
def migrations() -> tuple[Migration, ...]:
    """The migrations in the order in which they are applied."""
    return read_migrations(_HERE.joinpath("sql", "migrations"))


def sql_queries(name: str) -> str:
    """The text of `sql/<name>.sql`."""
    return _HERE.joinpath("sql", f"{name}.sql").read_text(encoding="utf-8")


def topics(profile: str, prefix: str = "") -> dict[str, Topic]:
    """The declared topics by their short name (`events`, `dead_letters`, `redrive`, `control`).

    Raises KeyError when `profile` is not one of `local`, `production`.
    """
    declared = tomllib.loads(_HERE.joinpath("topics.toml").read_text(encoding="utf-8"))
    numbers = declared["profile"][profile]
    common = declared["all"]["config"] | {"min.insync.replicas": str(numbers["min_insync_replicas"])}
    return {
        short: Topic(
            name=prefix + topic["name"],
            partitions=topic["partitions"],
            replication_factor=numbers["replication_factor"],
            config=common | topic["config"],
        )
        for short, topic in declared["topics"].items()
    }
