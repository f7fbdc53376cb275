"""Recorders and an ingest that a test can drive to the end of the log."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from counterfoil import Recorder, RecorderSettings
from counterfoil.framing import SINGLE_OBJECT, Framing
from counterfoil_consumers.ingest import Ingest

IDENTITY_KEY = "an identity key for tests only"


@pytest.fixture(autouse=True)
def _state_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left in the home of whoever runs the tests."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.getbasetemp() / "state"))


@pytest.fixture
def recorder_settings(kafka: dict[str, str], topic_prefix: str, tmp_path: Path) -> RecorderSettings:
    """Settings of a recorder on the test's own topics, with a spool of its own."""
    return RecorderSettings(
        kafka=kafka,
        profile="local",
        topic_prefix=topic_prefix,
        tenant="acme",
        identity_key=IDENTITY_KEY,
        beat_interval_seconds=0.2,
        spool_directory=tmp_path / "spool",
        blob_directory=tmp_path / "blobs",
    )


def folders(settings: RecorderSettings) -> list[Path]:
    """What producers have in the spool's directory."""
    assert settings.spool_directory is not None
    return list(settings.spool_directory.glob("*/*"))


@pytest.fixture
def recorder(recorder_settings: RecorderSettings) -> Iterator[Recorder]:
    """A recorder; a test may close it before its end."""
    with Recorder(recorder_settings) as recorder:
        yield recorder


@pytest.fixture
def new_ingest(kafka: dict[str, str], topic_prefix: str, database: str) -> Callable[[], Ingest]:
    """Makes members of the test's consumer group."""

    def make(framing: Framing = SINGLE_OBJECT) -> Ingest:
        return Ingest(
            kafka=kafka, dsn=database, profile="local", topic_prefix=topic_prefix, admit_tenants=True, framing=framing
        )

    return make


@pytest.fixture
def ingest_all(new_ingest: Callable[[], Ingest]) -> Callable[[], None]:
    """Ingests everything that is in the log now."""

    def run() -> None:
        ingest = new_ingest()
        ingest.run(threading.Event(), until=ingest.end_offsets())

    return run
