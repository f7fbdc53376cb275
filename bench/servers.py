"""The servers of a benchmark: Kafka and Postgres of its own, in a folder that goes with it."""

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from counterfoil_console.stack import LocalStack, PostgresOptions, default_directories
from counterfoil_consumers.topics import admin_client, create_missing
from counterfoil_schemas import topics


@dataclass(frozen=True, slots=True)
class Servers:
    """Where they are. `prefix` is that of topics that exist; the children of `postgres_pid` are backends."""

    kafka: dict[str, str]
    dsn: str
    postgres_pid: int
    prefix: str
    folder: Path


@contextmanager
def servers(postgres: PostgresOptions | None = None) -> Iterator[Servers]:
    """Start them, and end them."""
    options = postgres or PostgresOptions()
    cache = default_directories(os.environ).cache
    with (
        tempfile.TemporaryDirectory(prefix="counterfoil-bench-") as folder,
        LocalStack(Path(folder) / "data", cache, os.environ.get("PATH"), postgres=options).running() as state,
    ):
        kafka = {"bootstrap.servers": state.bootstrap_servers}
        prefix = f"b{uuid.uuid4().hex[:8]}."
        create_missing(admin_client(kafka), list(topics("local", prefix).values()))
        assert state.postgres is not None, "a running stack has both"
        yield Servers(kafka, state.postgres_dsn, state.postgres.pid, prefix, Path(folder))
