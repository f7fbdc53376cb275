"""What the broker runs on: a Java, the verified jars, and an archive of their classes.

The archive (AppCDS, or an AOT cache from Java 25 on, which needs no archive of the JVM's own) halves the
broker's starting time. The JVM writes it as a broker ends in good order; only then is the draft given its name.
The name is a digest of the JVM's build, the class path with every jar's SHA-256 and the options, so an archive
is never used for anything else.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from counterfoil_console.stack.java import Java

_OPTIONS = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData")
_QUIET = ("-Xlog:disable", "-Xlog:all=error:stderr")
_FIRST_MAJOR_WITH_AOT_CACHE = 25  # JEP 514: made in one step


@dataclass(frozen=True)
class Runtime:
    """`digests` are the jars' SHA-256 in the order of the class path; `archives` is a folder in the cache."""

    java: Java
    class_path: tuple[Path, ...]
    digests: tuple[str, ...]
    archives: Path

    def command(self, mark: str, heap_mebibytes: int, temporary: Path, *, record_archive: bool = False) -> list[str]:
        """The command line up to the main class; native libraries are unpacked in `temporary`."""
        options = [*_OPTIONS, f"-Xmx{heap_mebibytes}m"]
        return [
            str(self.java.executable),
            f"-Dcounterfoil.stack={mark}",
            *options,
            *self._archive_options(mark, options, record=record_archive),
            f"-Djava.io.tmpdir={temporary}",
            "-Djava.awt.headless=true",
            # Kafka touches log4j's interface directly; without this it reports the missing log4j-core as an error.
            "-Dlog4j2.loggerContextFactory=org.apache.logging.log4j.simple.SimpleLoggerContextFactory",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-Dorg.slf4j.simpleLogger.showDateTime=true",
            "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSXXX",
            "-cp",
            ":".join(map(str, self.class_path)),
        ]

    def _archive_options(self, mark: str, options: list[str], *, record: bool) -> list[str]:
        identity = "\0".join(
            [
                *(str(self.java.executable), self.java.version, self.java.build),
                *(str(path) for path in self.class_path),
                *self.digests,
                *options,
            ]
        )
        archive = self.archives / f"{hashlib.sha256(identity.encode()).hexdigest()[:24]}.classes"
        aot = self.java.major >= _FIRST_MAJOR_WITH_AOT_CACHE
        if archive.exists():  # the JVM ignores one that is damaged
            use = [f"-XX:AOTCache={archive}"] if aot else [f"-XX:SharedArchiveFile={archive}", "-Xshare:auto"]
            return [*use, "-XX:+VerifySharedSpaces", *_QUIET]
        if not record:
            return []
        self.archives.mkdir(parents=True, exist_ok=True)
        option = "AOTCacheOutput" if aot else "ArchiveClassesAtExit"
        return [f"-XX:{option}={archive}{_draft_suffix(mark)}", *_QUIET]


def settle_archives(folder: Path, mark: str, *, complete: bool) -> None:
    """After a broker has ended: give its draft its name, or remove one that may be cut off or hold too little."""
    suffix = _draft_suffix(mark)
    for draft in folder.glob(f"*{suffix}*"):
        if complete and draft.name.endswith(suffix):
            draft.replace(draft.with_name(draft.name.removesuffix(suffix)))
        else:
            draft.unlink(missing_ok=True)


def _draft_suffix(mark: str) -> str:
    return f".{mark}.draft"
