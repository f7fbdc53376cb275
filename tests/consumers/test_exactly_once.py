"""Each event of the log has one row, in order, whatever happens to who stores it. `make soak` has the long forms."""

import itertools
import os
import random
import signal
import statistics
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, suppress
from pathlib import Path

import psutil
import psycopg
import pytest

from counterfoil import Recorder
from counterfoil_console.stack.layout import Layout
from counterfoil_console.stack.ports import pick
from counterfoil_console.stack.postgres import PostgresOptions, account, dsn, initialise, start
from counterfoil_console.stack.progress import silent
from counterfoil_consumers.ingest import GroupProtocol, Ingest
from counterfoil_consumers.migrations import migrate
from counterfoil_consumers.store import Connection, connect, fetch_one
from counterfoil_consumers.topics import admin_client, end_offsets
from counterfoil_schemas import topics
from tests.consumers.nursery import Nursery, Order, nursery
from tests.waiting import wait_until

CRASHES = int(os.environ.get("COUNTERFOIL_TEST_CRASHES", "18"))
CRASH_EVENTS = int(os.environ.get("COUNTERFOIL_TEST_CRASH_EVENTS", "16000"))
CHURN_SECONDS = float(os.environ.get("COUNTERFOIL_TEST_CHURN_SECONDS", "10"))
STORE_KILLS = int(os.environ.get("COUNTERFOIL_TEST_STORE_KILLS", "2"))
BACKENDS_ENDED = int(os.environ.get("COUNTERFOIL_TEST_BACKENDS_ENDED", "10"))

POINTS = (
    "ingest.before_claim", "ingest.after_claim", "ingest.after_poll", "ingest.after_decode", "ingest.after_copy",
    "ingest.before_offset", "ingest.before_commit", "ingest.after_store", "ingest.after_hint",
)  # fmt: skip
ONCE_A_RUN = POINTS[:2]
A_TASK = 20


NUMBERS = """
    SELECT (SELECT count(*) FROM event) AS stored,
           (SELECT coalesce(sum(next_offset), 0)::int FROM ingest_offset) AS moved,
           (SELECT count(*) FROM duplicate) AS repeated, (SELECT count(*) FROM dead_letter) AS dead,
           (SELECT coalesce(sum(events), 0)::int FROM task) AS folded,
           (SELECT coalesce(sum(missing_count), 0)::int FROM completeness) AS missing,
           (SELECT coalesce(sum(intents + ok), 0)::int FROM effect) AS of_effects,
           (SELECT count(*) FROM event WHERE kind IN ('tool_intent', 'tool_result')) AS of_calls,
           (SELECT count(*) FROM (
                SELECT age(xmin) > lag(age(xmin)) OVER (PARTITION BY partition ORDER BY "offset") AS is_behind
                FROM (SELECT xmin, partition, "offset" FROM event OFFSET 0) AS e) AS o WHERE is_behind)::int AS behind
"""


def record_events(recorder: Recorder, events: int) -> None:
    """At least so many, of tasks of 20 events with a write each."""
    for _ in range(events // A_TASK):
        with recorder.task("a refund", agent="a-1") as task:
            for place in range(A_TASK - 4):
                task.completion(f"{place} of an answer", usage={"input_tokens": 1, "output_tokens": 2})
            with task.effect("refund", target="payments", args={"order": place}) as effect:
                effect.ok({"id": place})


def log_size(kafka: dict[str, str], prefix: str) -> int:
    topic = topics("local", prefix)["events"]
    return sum(end_offsets(admin_client(kafka), topic.name, topic.partitions))


def numbers(operator: Connection) -> dict[str, int]:
    """What stands where; `behind` are rows written by an earlier transaction than the one before them in the log."""
    return fetch_one(operator, NUMBERS)  # type: ignore[arg-type]


def assert_once(operator: Connection, total: int) -> None:
    found = numbers(operator)
    of_calls = found.pop("of_calls")
    assert found == {
        "stored": total,
        "moved": total,
        "repeated": 0,
        "dead": 0,
        "folded": total,
        "missing": 0,
        "of_effects": of_calls,
        "behind": 0,
    }


NewNursery = Callable[[], AbstractContextManager[Nursery]]


@pytest.fixture
def new_nursery(kafka: dict[str, str], topic_prefix: str, database: str, tmp_path: Path) -> NewNursery:
    """Nurseries whose members ingest the test's topic into its store."""
    return lambda: nursery(kafka["bootstrap.servers"], database, topic_prefix, tmp_path / f"{uuid.uuid4().hex}.log")


def crash(one: Nursery, dice: random.Random, point: str) -> bool:
    """A member of a Kafka group of its own, which claims all partitions; returns whether it came so far as to crash."""
    at = 1 if point in ONCE_A_RUN else dice.randint(1, 6)
    batch = CRASH_EVENTS * 9 // (CRASHES * 20)
    status = one.wait(one.start(Order(uuid.uuid4().hex, f"{point}=kill@{at}", batch=batch)))
    assert status in (0, -signal.SIGKILL)
    return status == -signal.SIGKILL


def in_threads(*works: Callable[[], None]) -> None:
    """Run them beside each other; raises what ended one of them."""
    failures: list[BaseException] = []

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001  # raised below, in the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for failure in failures:
        raise failure


@pytest.mark.oldest_postgres_in_soak
@pytest.mark.timeout(3600)
def test_crashes_at_every_step(
    recorder: Recorder,
    kafka: dict[str, str],
    topic_prefix: str,
    database: str,
    operator: Connection,
    new_nursery: NewNursery,
) -> None:
    """Two members at a time, which fence each other all the while."""
    record_events(recorder, CRASH_EVENTS)
    recorder.close()
    total = log_size(kafka, topic_prefix)
    crashed: Counter[str] = Counter()
    points = itertools.cycle(POINTS)

    def work(seed: int) -> None:
        dice = random.Random(seed)  # a test's dice
        with new_nursery() as one:
            while crashed.total() < CRASHES and moved(database) < total:
                point = next(points)
                crashed[point] += crash(one, dice, point)

    in_threads(lambda: work(1), lambda: work(2))
    with new_nursery() as one:
        assert one.wait(one.start(Order("last"))) == 0
    print(f"{crashed.total()} crashes over {total} events: {dict(crashed)}")
    assert_once(operator, total)
    assert crashed.total() >= CRASHES
    assert min(crashed[point] for point in POINTS) > 0


class Load:
    """Tasks recorded one after the other in a thread, until it is told to stop."""

    def __init__(self, recorder: Recorder, pause: float) -> None:
        self._recorder = recorder
        self._pause = pause
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stopping.wait(self._pause):
            record_events(self._recorder, A_TASK)

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_members_come_and_go(
    protocol: GroupProtocol,
    recorder: Recorder,
    kafka: dict[str, str],
    topic_prefix: str,
    operator: Connection,
    new_nursery: NewNursery,
) -> None:
    """One joins or leaves every two seconds, under load."""
    dice = random.Random(protocol)  # a test's dice
    joined = left = 0
    with (
        new_nursery() as one,
        Load(recorder, 0.02),
    ):
        members: list[int] = []
        deadline = time.monotonic() + CHURN_SECONDS
        while time.monotonic() < deadline:
            if len(members) < 2 or (len(members) < 4 and dice.random() < 0.5):
                members.append(one.start(Order("group", ends_with_log=False, protocol=protocol)))
                joined += 1
            else:
                leaving = members.pop(dice.randrange(len(members)))
                os.kill(leaving, signal.SIGTERM)
                assert one.wait(leaving) == 0
                left += 1
            time.sleep(2)
        for member in members:
            os.kill(member, signal.SIGTERM)
            assert one.wait(member) == 0
    recorder.close()
    total = log_size(kafka, topic_prefix)
    before = numbers(operator)["moved"]
    with new_nursery() as one:
        assert one.wait(one.start(Order("group", protocol=protocol))) == 0
    print(f"{protocol}: {joined} joined, {left} left in {CHURN_SECONDS:.0f} s, {before} of {total} events by then")
    assert_once(operator, total)
    assert min(joined, left) > 0
    assert before > 0


@pytest.mark.parametrize("point", ["ingest.after_decode", "ingest.before_commit"])
def test_a_stalled_member_s_partitions_go_to_the_others(
    point: str,
    recorder: Recorder,
    kafka: dict[str, str],
    topic_prefix: str,
    operator: Connection,
    new_nursery: NewNursery,
) -> None:
    """Stopped before its transaction, or inside it: the other member of the group has its partitions soon."""
    zombies: list[int] = []
    with new_nursery() as one:
        try:
            zombies.append(one.start(Order("group", f"{point}=stop@2", ends_with_log=False)))
            wait_until(lambda: members_of(operator) == 1)
            zombies.append(one.start(Order("group", ends_with_log=False)))
            wait_until(lambda: members_of(operator) == 2)
            while not is_stopped(zombies[0]):
                record_events(recorder, A_TASK)
                time.sleep(0.05)
            stalled = time.monotonic()
            recorder.close()
            total = log_size(kafka, topic_prefix)
            wait_until(lambda: numbers(operator)["moved"] == total)
            took = time.monotonic() - stalled
            print(f"stopped at {point}: everything is stored by the other {took:.1f} s later")
            assert_once(operator, total)
            os.kill(zombies[0], signal.SIGCONT)
            time.sleep(1)
            assert_once(operator, total)
        finally:
            for zombie in zombies:
                os.kill(zombie, signal.SIGCONT)
                os.kill(zombie, signal.SIGTERM)
            assert [one.wait(zombie) for zombie in zombies] == [0, 0]
    assert_once(operator, total)
    assert took < 15


def members_of(operator: Connection) -> int:
    return int(fetch_one(operator, "SELECT count(DISTINCT owner) AS n FROM ingest_offset")["n"])  # type: ignore[arg-type]


def is_stopped(pid: int) -> bool:
    return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)


class OwnPostgres:
    """A server that may be killed."""

    def __init__(self, folder: Path) -> None:
        self._layout = Layout(folder)
        folder.mkdir()
        self._user = account(self._layout)
        initialise(self._layout, self._user, silent)
        self._port = pick(None, ())
        self.dsn = dsn(self._layout, self._port)
        self._process: psutil.Process | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        found = start(self._layout, PostgresOptions(), self._port, self._user, silent)
        self._process = psutil.Process(found.pid)
        wait_until(self.answers)

    def answers(self) -> bool:
        try:
            psycopg.connect(self.dsn).close()
        except psycopg.OperationalError:
            return False
        return True

    def kill(self) -> None:
        """As if its power were cut, and the disk's cache kept: SIGKILL, to all of it at once."""
        assert self._process is not None
        parts = [self._process, *self._process.children()]
        for part in parts:
            with suppress(psutil.NoSuchProcess):
                part.kill()
        psutil.wait_procs(parts, 30)


@pytest.fixture
def own_postgres() -> Iterator[OwnPostgres]:
    with tempfile.TemporaryDirectory(prefix="counterfoil-") as folder:
        server = OwnPostgres(Path(folder) / "data")
        server.start()
        try:
            yield server
        finally:
            server.kill()


@pytest.mark.timeout(3600)
def test_the_store_is_killed_again_and_again(
    recorder: Recorder, kafka: dict[str, str], topic_prefix: str, own_postgres: OwnPostgres
) -> None:
    """The server itself, and between its deaths the backend of ingest."""
    for _ in migrate(own_postgres.dsn):
        pass
    ingest = Ingest(kafka=kafka, dsn=own_postgres.dsn, profile="local", topic_prefix=topic_prefix, admit_tenants=True)
    stopping, resumed = threading.Event(), []

    def trouble() -> None:
        try:
            with Load(recorder, 0.02):
                wait_until(lambda: moved(own_postgres.dsn) > 0)
                for _ in range(STORE_KILLS):
                    end_backends(own_postgres.dsn, BACKENDS_ENDED // STORE_KILLS)
                    own_postgres.kill()
                    time.sleep(0.5)
                    own_postgres.start()
                    resumed.append(seconds_until_more(own_postgres.dsn))
            recorder.close()
            total = log_size(kafka, topic_prefix)
            wait_until(lambda: moved(own_postgres.dsn) == total)
        finally:
            stopping.set()

    in_threads(lambda: ingest.run(stopping), trouble)
    with closing(connect(own_postgres.dsn, "operator", application="test")) as operator:
        total = log_size(kafka, topic_prefix)
        assert_once(operator, total)
    ended = BACKENDS_ENDED // STORE_KILLS * STORE_KILLS
    print(
        f"killed {STORE_KILLS} times, its backend ended {ended} times, over {total} events: stored again "
        f"{statistics.median(resumed):.2f} s after its return, {max(resumed):.2f} s at worst"
    )
    assert max(resumed) < 5


def moved(where: str) -> int:
    with psycopg.connect(where) as connection:
        row = connection.execute("SELECT coalesce(sum(next_offset), 0)::int FROM counterfoil.ingest_offset").fetchone()
    assert row is not None
    return int(row[0])


def seconds_until_more(where: str) -> float:
    """How long it takes from now until more is stored than now."""
    began, before = time.monotonic(), moved(where)
    wait_until(lambda: moved(where) > before)
    return time.monotonic() - began


def end_backends(where: str, times: int) -> None:
    """Ingest's backend, so many times, each time at another moment of its work."""
    dice = random.Random(times)  # a test's dice
    with psycopg.connect(where, autocommit=True) as connection:
        left, deadline = times, time.monotonic() + 60 + times
        while left:
            assert time.monotonic() < deadline, "ingest has no backend that could be ended"
            time.sleep(dice.random() * 0.2)
            ended = connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'counterfoil-ingest'"
            ).fetchall()
            left -= bool(ended)
