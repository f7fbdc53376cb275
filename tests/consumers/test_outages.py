"""The store goes away under a running ingest, and comes back."""

import threading
import time
import uuid
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from counterfoil import Recorder
from counterfoil_consumers import ingest as ingest_module
from counterfoil_consumers import metrics
from counterfoil_consumers.ingest import Ingest
from counterfoil_consumers.store import Connection
from tests.consumers.test_members import stored
from tests.fix_log import Logged
from tests.waiting import wait_until

_END_INGEST = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = %s AND application_name = 'counterfoil-ingest'
"""


def test_the_store_goes_away_again_and_again(
    recorder: Recorder,
    new_ingest: Callable[[], Ingest],
    admin_dsn: str,
    database: str,
    operator: Connection,
    logged: Logged,
) -> None:
    name = str(conninfo_to_dict(database)["dbname"])
    stopping = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            new_ingest().run(stopping)
        except BaseException as error:  # noqa: BLE001  # told below, in the test's own thread
            failures.append(error)

    def record(tasks: int) -> None:
        for _ in range(tasks):
            with recorder.task("t") as task:
                task.review(by="dana")

    thread = threading.Thread(target=work)
    thread.start()
    allow = sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}")
    try:
        with psycopg.connect(admin_dsn, autocommit=True) as admin:
            record(20)
            wait_until(lambda: stored(operator) > 0 or bool(failures))
            for _ in range(5):  # its connection is ended, perhaps inside a transaction
                record(40)
                admin.execute(_END_INGEST, (name,))
                time.sleep(0.2)
            admin.execute(allow.format(sql.Identifier(name), sql.SQL("false")))  # nobody gets in for a while
            admin.execute(_END_INGEST, (name,))
            record(40)
            recorder.flush()
            before = stored(operator)
            time.sleep(2.5)
            assert stored(operator) == before
            admin.execute(allow.format(sql.Identifier(name), sql.SQL("true")))
        back = time.monotonic()
        recorder.close()
        total = len(logged())
        wait_until(lambda: stored(operator) == total or bool(failures))
        assert time.monotonic() - back < 10
    finally:
        stopping.set()
        thread.join(30)
    assert failures == []
    assert operator.execute("SELECT FROM duplicate").rowcount == 0
    assert operator.execute("SELECT FROM dead_letter").rowcount == 0


@pytest.fixture
def cut_off(admin_dsn: str, database: str) -> Iterator[tuple[str, Callable[[bool], None]]]:
    """A login of one member's own: its DSN, and what lets it in or keeps it out."""
    login = f"member_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(admin_dsn, autocommit=True) as admin:
        make = sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'only-on-loopback' IN ROLE counterfoil_ingester")
        admin.execute(make.format(sql.Identifier(login)))

        def keep(may_log_in: bool) -> None:
            may = sql.SQL("LOGIN" if may_log_in else "NOLOGIN")
            admin.execute(sql.SQL("ALTER ROLE {} {}").format(sql.Identifier(login), may))
            if not may_log_in:
                admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = %s", [login])

        yield make_conninfo(database, user=login), keep
        keep(False)
        admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(login)))


def test_a_member_without_a_store_gives_its_partitions_to_one_that_has_it(
    recorder: Recorder,
    kafka: dict[str, str],
    topic_prefix: str,
    new_ingest: Callable[[], Ingest],
    cut_off: tuple[str, Callable[[bool], None]],
    operator: Connection,
    logged: Logged,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only one of two reaches the store: it gets all partitions, and the other one comes back when it can."""
    monkeypatch.setattr("counterfoil_consumers.ingest._GIVE_BACK_SECONDS", 1.0)
    own_dsn, keep = cut_off
    stopping, failures = threading.Event(), []
    members = [
        new_ingest(),
        Ingest(kafka=kafka, dsn=own_dsn, profile="local", topic_prefix=topic_prefix, admit_tenants=True),
    ]

    def work(member: Ingest) -> None:
        try:
            member.run(stopping)
        except BaseException as error:  # noqa: BLE001  # told below, in the test's own thread
            failures.append(error)

    def shared() -> list[int]:
        return [len(member._assignment.claims) if hasattr(member, "_assignment") else 0 for member in members]

    def record() -> None:
        for _ in range(30):
            with recorder.task("t") as task:
                task.review(by="dana")
        recorder.flush()

    threads = [threading.Thread(target=work, args=(member,)) for member in members]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: shared() == [12, 12] or bool(failures))
        keep(False)
        began = time.monotonic()
        record()
        wait_until(lambda: shared() == [24, 0] or bool(failures))
        total = len(logged())
        wait_until(lambda: stored(operator) >= total or bool(failures))
        assert time.monotonic() - began < 20
        keep(True)
        wait_until(lambda: shared() == [12, 12] or bool(failures))
        record()
        recorder.close()
        total = len(logged())
        wait_until(lambda: stored(operator) == total or bool(failures))
    finally:
        stopping.set()
        for thread in threads:
            thread.join(30)
    assert failures == []
    assert operator.execute("SELECT FROM duplicate").rowcount == 0


def test_a_batch_that_takes_too_long_is_cut_down(
    recorder: Recorder,
    new_ingest: Callable[[], Ingest],
    database: str,
    operator: Connection,
    logged: Logged,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each task's row takes 60 ms, and a statement may take 2 s: a batch of 34 tasks can never be stored as it is."""
    new_ingest().run(threading.Event(), until=[0] * 24)  # it makes the partitions, which takes its time
    for _ in range(150):
        with recorder.task("t") as task:
            task.review(by="dana")
    recorder.close()
    with psycopg.connect(database, autocommit=True) as migrator:
        migrator.execute("SET ROLE counterfoil_owner")
        migrator.execute(
            "CREATE FUNCTION counterfoil.dawdle() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN PERFORM pg_sleep(0.06); RETURN NEW; END $$"
        )
        migrator.execute(
            "CREATE TRIGGER dawdle BEFORE INSERT ON counterfoil.task FOR EACH ROW EXECUTE FUNCTION counterfoil.dawdle()"
        )
    monkeypatch.setitem(ingest_module._LIMITS, "statement_timeout", "2s")
    monkeypatch.setattr("counterfoil_consumers.assignment._BACKOFF_SECONDS", (0.1,))
    before, ingest = metrics.STORE_RETRIES._value.get(), new_ingest()
    ingest.run(threading.Event(), until=ingest.end_offsets())
    assert metrics.STORE_RETRIES._value.get() > before
    assert stored(operator) == len(logged())
    assert operator.execute("SELECT FROM task").rowcount == 151  # and the producer's own
