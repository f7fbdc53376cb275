"""Downloading from Maven Central through jgo; the one module that imports it (0.3 seconds, so only when needed)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
from jgo.maven import MavenContext, PythonResolver

from counterfoil_console.stack.jars import FetchFailed, LockedJar

_TIMEOUT_SECONDS = 15


def fetch_from_maven(jar: LockedJar, folder: Path, received: Callable[[int], None], /) -> Path:
    """Download one jar by its locked coordinates; see FetchJar."""

    @contextmanager
    def meter(_name: str, _total_bytes: int) -> Iterator[Callable[[int], None]]:
        yield received

    context = MavenContext(
        repo_cache=folder, resolver=PythonResolver(progress_callback=meter), timeout=_TIMEOUT_SECONDS
    )
    artifact = context.project(jar.group, jar.artifact).at_version(jar.version).artifact()
    try:
        return Path(artifact.resolve())
    except requests.Timeout as error:
        raise FetchFailed("no answer in time") from error
    except requests.ConnectionError as error:
        raise FetchFailed("no connection") from error
    except (requests.RequestException, OSError, RuntimeError) as error:
        raise FetchFailed(f"{jar.file_name}: {error}") from error
