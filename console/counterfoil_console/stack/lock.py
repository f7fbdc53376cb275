"""Writes the lock file of Kafka's jars: `python -m counterfoil_console.stack.lock [KAFKA_VERSION]`.

Resolves what Kafka depends on, leaves out what a broker of ours never loads, and records the SHA-256 of the rest.
Run it for a new Kafka, look at the difference, and run tests/stack: they try TLS, SASL and the log cleaner.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from jgo.maven import MavenContext, PythonResolver

from counterfoil_console.stack.jars import LOCK_FILE, LockedJar, sha256_of

KAFKA_VERSION = "4.4.0"
SCALA = "2.13"
# Without a binding for slf4j a broker that cannot start ends without a word; this one is 15 kB, log4j-core 2 MB.
SLF4J_SIMPLE = "org.slf4j:slf4j-simple:1.7.36"
LEFT_OUT = frozenset(
    {
        "caffeine",
        "commons-beanutils",
        "commons-collections",
        "commons-digester",
        "commons-logging",
        "jose4j",
        "jspecify",
        "kafka-tools-api",
        "log4j-core",
        "scala-reflect",
        "snakeyaml",
    }
)


def resolve(kafka_version: str, folder: Path) -> list[LockedJar]:
    """The jars of one Kafka with all they depend on; downloads into `folder`."""
    context = MavenContext(repo_cache=folder, resolver=PythonResolver())
    roots = [f"org.apache.kafka:kafka_{SCALA}:{kafka_version}", SLF4J_SIMPLE]
    inputs, transitive = context.resolver.resolve([context.create_dependency(root) for root in roots])
    jars = []
    for dependency in [*inputs, *transitive]:
        if dependency.type != "jar" or dependency.scope not in {"compile", "runtime", None}:
            continue
        if dependency.artifactId in LEFT_OUT:
            continue
        path = Path(dependency.artifact.resolve())
        jars.append(
            LockedJar(
                dependency.groupId,
                dependency.artifactId,
                dependency.version,
                sha256_of(path),
                path.stat().st_size,
            )
        )
    return sorted(jars, key=lambda jar: (jar.group, jar.artifact))


def render(kafka_version: str, jars: Iterable[LockedJar]) -> str:
    """The text of the lock file."""
    lines = [
        "# The jars of the local Kafka, in the order of the class path; checked at every start.",
        "# Written by `python -m counterfoil_console.stack.lock`; not to be edited.",
        f'kafka = "{kafka_version}"',
    ]
    for jar in jars:
        lines += [
            "",
            "[[jar]]",
            f'coordinates = "{jar.group}:{jar.artifact}:{jar.version}"',
            f"bytes = {jar.size_bytes}",
            f'sha256 = "{jar.sha256}"',
        ]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> int:
    """Write the lock file beside this module."""
    version = arguments[0] if arguments else KAFKA_VERSION
    with tempfile.TemporaryDirectory() as folder:
        jars = resolve(version, Path(folder))
    LOCK_FILE.write_text(render(version, jars), "utf-8")
    total_bytes = sum(jar.size_bytes for jar in jars)
    sys.stdout.write(f"{LOCK_FILE.name}: {len(jars)} jars, {total_bytes / 1e6:.1f} MB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
