"""Jars: locked ones only, verified at every start, downloaded once."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from counterfoil_console.stack import JarAltered, JarsMissing, Progress, silent
from counterfoil_console.stack.jars import LOCK_FILE, FetchFailed, LockedJar, provide_jars, read_lock
from counterfoil_console.stack.lock import render
from counterfoil_console.stack.maven import fetch_from_maven

CONTENT = {"one": b"1" * 3_000_000, "two": b"2" * 10}
JARS = [
    LockedJar("org.example", name, "1.0", hashlib.sha256(content).hexdigest(), len(content))
    for name, content in CONTENT.items()
]


class Registry:
    """A registry that has the jars and counts what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, jar: LockedJar, folder: Path, received: Callable[[int], None], /) -> Path:
        self.asked.append(jar.artifact)
        path = folder / f"{jar.artifact}.part"
        path.write_bytes(CONTENT[jar.artifact])
        time.sleep(0.05)
        received(jar.size_bytes)
        return path


def no_network(_jar: LockedJar, _folder: Path, _received: Callable[[int], None], /) -> Path:
    raise FetchFailed("no connection")


def test_missing_jars_are_downloaded_once_and_reported(tmp_path: Path) -> None:
    registry, told = Registry(), list[Progress]()
    paths = provide_jars(JARS, tmp_path / "jars", registry, told.append, threading.Event())
    assert [path.read_bytes() for path in paths] == list(CONTENT.values())
    assert (told[-1].jars_done, told[-1].jars_total) == (2, 2)
    assert told[-1].bytes_done == told[-1].bytes_total == 3_000_010
    provide_jars(JARS, tmp_path / "jars", no_network, silent, threading.Event())
    assert sorted(registry.asked) == ["one", "two"]


def test_two_downloads_at_once_fetch_each_jar_once(tmp_path: Path) -> None:
    registry = Registry()
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(provide_jars, JARS, tmp_path, registry, silent, threading.Event()) for _ in range(2)]
    assert both[0].result() == both[1].result()
    assert sorted(registry.asked) == ["one", "two"]


def test_a_tampered_jar_is_refused_by_name_and_not_replaced(tmp_path: Path) -> None:
    registry = Registry()
    first, _ = provide_jars(JARS, tmp_path, registry, silent, threading.Event())
    first.write_bytes(b"1" * 2_999_999 + b"x")
    with pytest.raises(JarAltered, match=r"one-1\.0\.jar is not the locked jar") as raised:
        provide_jars(JARS, tmp_path, registry, silent, threading.Event())
    assert raised.value.path == first
    assert sorted(registry.asked) == ["one", "two"]


def test_a_wrong_download_never_gets_the_jars_name(tmp_path: Path) -> None:
    wrong = [LockedJar("org.example", "one", "1.0", "0" * 64, 3_000_000)]
    with pytest.raises(JarAltered):
        provide_jars(wrong, tmp_path, Registry(), silent, threading.Event())
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_without_network_and_cache_one_sentence_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(JarsMissing) as raised:
        provide_jars(JARS, tmp_path, no_network, silent, threading.Event())
    assert raised.value.missing == ("one-1.0.jar", "two-1.0.jar")
    assert "no connection" in str(raised.value)
    assert "COUNTERFOIL_KAFKA__BOOTSTRAP_SERVERS" in str(raised.value)


def test_the_download_itself_says_when_there_is_no_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(FetchFailed, match="no connection"):
        fetch_from_maven(read_lock()[0], tmp_path, lambda _count: None)


def test_a_download_stops_when_the_start_was_interrupted(tmp_path: Path) -> None:
    stopped = threading.Event()
    stopped.set()
    with pytest.raises(JarsMissing, match="interrupted"):
        provide_jars(JARS, tmp_path, Registry(), silent, stopped)


def test_the_lock_file_is_what_its_writer_writes() -> None:
    jars = read_lock()
    assert LOCK_FILE.read_text("utf-8") == render("4.4.0", jars)
    assert len({jar.file_name for jar in jars}) == len(jars)
    assert "//" not in LOCK_FILE.read_text("utf-8")
