"""The store goes away under a running ingest, and comes back."""

import threading
import time
from collections.abc import Callable

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from counterfoil import Recorder
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
