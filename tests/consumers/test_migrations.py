"""Migrations that come under a running ingest: before the processes are upgraded, and after."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import psycopg
import pytest

from counterfoil import Recorder, RecorderSettings
from counterfoil_consumers import metrics
from counterfoil_consumers.errors import StoreError
from counterfoil_consumers.ingest import Ingest
from counterfoil_consumers.migrations import migrate, refuse_unfit
from counterfoil_consumers.store import Connection, connect
from counterfoil_consumers.topics import admin_client, end_offsets
from counterfoil_schemas import Migration, migrations
from tests.consumers.test_members import stored
from tests.waiting import wait_until

NEXT = len(migrations()) + 1
PRE = Migration(NEXT, "pre", "projections_moods", "ALTER TABLE task ADD COLUMN mood text DEFAULT 'calm'", "1")
INDEX = Migration(NEXT + 1, "pre", "projections_index", "CREATE INDEX task_mood ON task (tenant, mood)", "2")
POST = Migration(NEXT + 2, "post", "projections_moods", "ALTER TABLE task DROP COLUMN IF EXISTS mood", "3")
LATER = Migration(NEXT + 3, "pre", "projections_later", "ALTER TABLE task ADD COLUMN later text", "4")
Know = Callable[..., None]


@pytest.fixture
def know(monkeypatch: pytest.MonkeyPatch) -> Know:
    """Has this version know so many migrations beyond its own."""

    def of(*more: Migration) -> None:
        monkeypatch.setattr("counterfoil_consumers.migrations.migrations", lambda: (*migrations(), *more))

    return of


@contextmanager
def at_work(settings: RecorderSettings, ingest: Ingest) -> Iterator[list[BaseException]]:
    """An agent records, and ingest stores, until the end of the block; gives what ended ingest."""
    ended, stopping = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    def record() -> None:
        with Recorder(settings) as recorder:
            while not ended.wait(0.005):
                with recorder.task("t") as task:
                    task.review(by="dana")

    def store() -> None:
        try:
            ingest.run(stopping)
        except BaseException as error:  # noqa: BLE001  # told below, in the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=record), threading.Thread(target=store)]
    for thread in threads:
        thread.start()
    try:
        yield failures
    finally:
        ended.set()
        threads[0].join(30)
        end = sum(end_offsets(admin_client(settings.kafka), f"{settings.topic_prefix}counterfoil.events", 24))
        with closing(psycopg.connect(ingest._dsn, autocommit=True)) as connection:
            query = "SELECT coalesce(sum(next_offset), 0) FROM counterfoil.ingest_offset"
            wait_until(lambda: bool(failures) or connection.execute(query).fetchone() == (end,))
        stopping.set()
        threads[1].join(30)


def test_ingest_goes_on_under_migrations(
    recorder_settings: RecorderSettings,
    new_ingest: Callable[[], Ingest],
    database: str,
    operator: Connection,
    know: Know,
) -> None:
    """Columns, an index, and a reader that holds up the lock which a migration needs."""
    retries = metrics.STORE_RETRIES._value.get()
    with at_work(recorder_settings, new_ingest()) as failures:
        wait_until(lambda: stored(operator) > 0 or bool(failures))
        know(PRE, INDEX)
        with psycopg.connect(database) as reader:
            reader.execute("SELECT count(*) FROM counterfoil.task")  # its transaction stays open
            migrator = threading.Thread(target=lambda: list(migrate(database)))
            migrator.start()
            longest = longest_pause(operator, 3.0)
            assert migrator.is_alive()
        migrator.join(30)
        assert operator.execute("SELECT mood FROM task LIMIT 1").fetchone() == {"mood": "calm"}
        before = stored(operator)
        wait_until(lambda: stored(operator) > before or bool(failures))
    assert failures == []
    assert longest < 2.5
    assert metrics.STORE_RETRIES._value.get() == retries
    events = operator.execute("SELECT sum(events)::int AS folded FROM task").fetchone()
    assert events == {"folded": stored(operator)}


def longest_pause(operator: Connection, seconds: float) -> float:
    """How long nothing new was stored, at most, within so many seconds."""
    last, seen, longest, end = time.monotonic(), stored(operator), 0.0, time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.02)
        now = stored(operator)
        if now > seen:
            longest, last, seen = max(longest, time.monotonic() - last), time.monotonic(), now
    return max(longest, time.monotonic() - last)


def test_the_order_of_an_upgrade(database: str, know: Know, operator: Connection) -> None:
    know(PRE, INDEX, POST)
    with pytest.raises(StoreError, match=r"2 migrations are to be applied; run `counterfoil migrate`"):
        refuse_unfit(operator)
    assert list(migrate(database, pre_only=True)) == [PRE, INDEX]
    refuse_unfit(operator)  # the new version, before the end of the upgrade
    know()
    refuse_unfit(operator)  # and the one before
    with pytest.raises(StoreError, match=f"the store has migration {INDEX.number:04}.*upgrade counterfoil"):
        list(migrate(database))
    know(PRE, INDEX, POST, LATER)
    with pytest.raises(StoreError, match=rf"{POST} of an earlier version stands before .* without --pre"):
        list(migrate(database, pre_only=True))
    assert list(migrate(database)) == [POST, LATER]
    know(PRE, INDEX)
    with pytest.raises(StoreError, match=f"the store has migration {POST.number:04}.*upgrade counterfoil first"):
        refuse_unfit(operator)


def test_an_ingest_that_was_not_upgraded_ends(
    recorder_settings: RecorderSettings,
    new_ingest: Callable[[], Ingest],
    database: str,
    operator: Connection,
    know: Know,
) -> None:
    """What it writes is no longer there: it ends at its next connection, and loses nothing."""
    ingest = new_ingest()
    know(PRE, POST)
    list(migrate(database))
    know()
    with pytest.raises(StoreError, match="upgrade counterfoil first"):
        ingest.run(threading.Event())
    with closing(connect(database, "operator", application="test")) as connection, pytest.raises(StoreError):
        refuse_unfit(connection)


def test_a_lock_that_is_never_free(database: str, know: Know, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("counterfoil_consumers.migrations._LOCK_TRIES", 2)
    know(PRE)
    with psycopg.connect(database) as reader:
        reader.execute("SELECT count(*) FROM counterfoil.task")
        with pytest.raises(StoreError, match=rf"{PRE} got no lock in 2 tries, and changed nothing"):
            list(migrate(database))
    assert list(migrate(database)) == [PRE]
