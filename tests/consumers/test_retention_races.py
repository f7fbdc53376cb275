"""Dropping beside ingest, readers, holds and crashes: nothing is lost, nothing waits long, and nothing comes back."""

import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any

import psycopg
import pytest
from psycopg import sql

from counterfoil import Event
from counterfoil.codec import encode
from counterfoil_consumers.ingest import Ingest
from counterfoil_consumers.retention import Scope, connect_eraser, place_hold, release_hold
from counterfoil_consumers.store import Connection, connect, fetch_one, queries
from counterfoil_consumers.window import open_window
from tests.consumers.made import key_of
from tests.consumers.past import event_of, ids, keep, months_ago, run_retention, store
from tests.fix_log import Produce, StartPython
from tests.waiting import wait_until

_RUN = """
import sys
from counterfoil_consumers.retention import connect_eraser, run
run(connect_eraser(sys.argv[1]), "dana")
"""


@pytest.fixture
def owner(database: str) -> Iterator[psycopg.Connection[Any]]:
    """A session of the owner, to stand in the way with locks."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("SET ROLE counterfoil_owner")
        connection.execute("SET search_path TO counterfoil")
        yield connection


def outcomes(database: str) -> dict[str, str]:
    return {one.relation: one.outcome for one in run_retention(database)}


def leaf(months: int) -> str:
    return f"event_standard_{months_ago(months):%Y_%m}"


def everything(operator: Connection) -> tuple[set[bytes], set[bytes], int]:
    """Ids that are stored, ids of hashes, and what was dropped."""
    drops = operator.execute("SELECT FROM retention_drop WHERE events > 0").rowcount
    return ids(operator, "every_event"), ids(operator, "event_hash"), drops


IN_USE = "kept: in use, left to the next run"
HAS_LOCK = "SELECT FROM pg_locks WHERE relation = 'hold'::regclass AND mode = %s AND granted = %s"
WAITS_FOR_LEAF = "SELECT FROM pg_locks WHERE relation = %s::regclass AND mode = 'RowExclusiveLock' AND NOT granted"
WAITS_FOR_ME = "SELECT FROM pg_locks WHERE NOT granted AND pg_backend_pid() = ANY (pg_blocking_pids(pid))"
END_WAITING = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'counterfoil-retention' "
    "AND datname = current_database() AND wait_event_type = 'Lock'"
)
STEPS = ("event_hash", "hold", "event_held", "event_standard", "retention_drop")


@pytest.mark.parametrize("step", STEPS)
def test_a_run_that_ends_at_any_step_has_done_nothing_and_the_next_one_does_all(
    database: str, operator: Connection, owner: psycopg.Connection[Any], step: str
) -> None:
    """The run stands before a lock at that step, and its session is ended there."""
    operator.execute("INSERT INTO tenant (tenant) VALUES ('acme')")
    held, other = event_of(months_ago(8), subject_ref="order-17"), event_of(months_ago(8))
    store(database, [held, other])
    hold = place_hold(operator, Scope("acme", subject_ref="order-17"), "a claim", "dana")
    keep(operator, 6)
    told: list[object] = []

    def drop() -> None:
        with closing(connect_eraser(database)) as eraser:
            try:
                told.append(eraser.execute("SELECT outcome FROM drop_leaf(%s, 'dana', false)", [leaf(8)]).fetchone())
            except psycopg.Error as error:
                told.append(type(error))

    with owner.transaction(), psycopg.connect(database, autocommit=True) as looking:
        mode = "ACCESS EXCLUSIVE" if step in ("event_hash", "event_held", "retention_drop") else "ROW EXCLUSIVE"
        owner.execute(sql.SQL("LOCK TABLE {} IN {} MODE").format(sql.Identifier(step), sql.SQL(mode)))
        dropping = threading.Thread(target=drop)
        dropping.start()
        ended = False
        while dropping.is_alive():
            ended |= looking.execute(END_WAITING).rowcount > 0
        dropping.join()
    assert ended
    assert told == [psycopg.errors.AdminShutdown]
    assert everything(operator) == ({held.event_id, other.event_id}, set(), 0)
    assert outcomes(database)[leaf(8)] == "dropped"
    assert everything(operator) == ({held.event_id}, {held.event_id, other.event_id}, 1)
    assert [row["hold_ids"] for row in operator.execute("SELECT hold_ids FROM event_held")] == [[hold]]


def test_a_run_killed_between_two_leaves_is_ended_by_the_next(
    database: str, operator: Connection, start_python: StartPython
) -> None:
    old = [event_of(months_ago(months)) for months in (10, 9, 8)]
    store(database, old)
    keep(operator, 6)
    process = start_python(_RUN, database, COUNTERFOIL_FAILPOINTS="retention.after_drop=kill@5")
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert everything(operator) == ({old[2].event_id}, {one.event_id for one in old[:2]}, 2)
    run_retention(database)
    assert everything(operator) == (set(), {one.event_id for one in old}, 3)


def test_a_hold_that_is_placed_while_a_run_drops_comes_before_or_after(
    database: str, operator: Connection, owner: psycopg.Connection[Any]
) -> None:
    operator.execute("INSERT INTO tenant (tenant) VALUES ('acme')")
    one = event_of(months_ago(8))
    store(database, [one])
    keep(operator, 6)
    with closing(connect(database, "operator", application="test")) as other, other.transaction():
        hold = place_hold(other, Scope("acme"), "a claim", "dana")
        assert outcomes(database)[leaf(13)] == IN_USE
    assert outcomes(database)[leaf(8)] == "dropped"
    assert ids(operator, "event_held") == {one.event_id}
    release_hold(operator, hold, "settled", "dana")

    placed: list[float] = []

    def place() -> None:
        with closing(connect(database, "operator", application="late-hold")) as another:
            place_hold(another, Scope("acme"), "came too late", "dana")
        placed.append(time.monotonic())

    young = event_of(months_ago(6))
    store(database, [young])
    keep(operator, 5)
    with operator.transaction():
        operator.execute("SELECT count(*) FROM event")  # a reader: the run stands before its last lock
        dropping = threading.Thread(target=run_retention, args=[database])
        dropping.start()
        wait_until(lambda: owner.execute(HAS_LOCK, ["ShareLock", True]).rowcount)
        holding = threading.Thread(target=place)
        holding.start()
        wait_until(lambda: owner.execute(HAS_LOCK, ["RowExclusiveLock", False]).rowcount)
        assert placed == []
    dropping.join()
    holding.join()
    assert young.event_id in ids(operator, "event_hash")  # dropped before the hold came


def test_a_reader_is_waited_for_and_makes_nobody_wait_long(database: str, operator: Connection) -> None:
    one = event_of(months_ago(8))
    store(database, [one])
    keep(operator, 6)
    waits: list[float] = []
    with operator.transaction():
        operator.execute("SELECT count(*) FROM event")
        dropping: list[dict[str, str]] = []
        thread = threading.Thread(target=lambda: dropping.append(outcomes(database)))
        thread.start()
        while thread.is_alive():
            began = time.monotonic()
            store(database, [event_of(months_ago(0))])
            waits.append(time.monotonic() - began)
        thread.join()
    assert dropping == [{leaf(13): IN_USE}]
    assert one.event_id in ids(operator, "event")
    print(f"{len(waits)} batches beside a run that waits for a reader, the longest {max(waits):.3f} s")
    assert max(waits) < 2
    assert outcomes(database)[leaf(8)] == "dropped"


def test_ingest_goes_on_while_its_leaves_are_dropped(
    new_ingest: Callable[[], Ingest], produce: Produce, database: str, operator: Connection
) -> None:
    """A member holds the window of before; what comes for a leaf that is gone goes astray, and nothing stops."""
    stopping = threading.Event()
    member = threading.Thread(target=new_ingest().run, args=[stopping])
    member.start()
    try:
        sent = [event_of(months_ago(months)) for months in (0, 9, 8)]
        for one in sent:
            produce(encode(one), key_of(one))
        wait_until(lambda: len(ids(operator, "every_event")) == 3)
        assert ids(operator, "event_astray") == set()
        with psycopg.connect(database, autocommit=True) as owner:  # as if the brokers had taken them then
            owner.execute("SET ROLE counterfoil_owner")
            for months in (9, 8):
                owner.execute(
                    sql.SQL("UPDATE counterfoil.{} SET appended_at = occurred_at").format(sql.Identifier(leaf(months)))
                )
        keep(operator, 6)
        assert outcomes(database)[leaf(8)] == "dropped"
        late = [event_of(months_ago(9)), event_of(months_ago(0)), sent[1]]
        for one in late:
            produce(encode(one), key_of(one))
        wait_until(lambda: ids(operator, "every_event") == {one.event_id for one in (sent[0], *late[:2])})
        wait_until(lambda: operator.execute("SELECT FROM duplicate").rowcount == 1)
    finally:
        stopping.set()
        member.join()
    assert ids(operator, "event_astray") == {late[0].event_id}
    [task] = operator.execute("SELECT events FROM task").fetchall()
    assert task["events"] == 5


def test_what_comes_for_a_leaf_after_its_hashes_were_copied_is_not_lost(
    database: str, operator: Connection, owner: psycopg.Connection[Any]
) -> None:
    """A run has copied all there was, and waits for a reader: a writer waits for the run, and finds the leaf gone."""
    store(database, [event_of(months_ago(5))])
    keep(operator, 6)
    run_retention(database)
    one, late = event_of(months_ago(6)), event_of(months_ago(6))
    store(database, [one])
    keep(operator, 5)
    told: list[object] = []

    def write() -> None:
        with pytest.raises(psycopg.errors.UndefinedTable):
            store(database, [late])
        told.append("gone")

    with operator.transaction():
        operator.execute("SELECT count(*) FROM event")
        dropping = threading.Thread(target=run_retention, args=[database])
        dropping.start()
        wait_until(lambda: owner.execute(HAS_LOCK, ["ShareLock", True]).rowcount)
        writing = threading.Thread(target=write)
        writing.start()
        wait_until(lambda: owner.execute(WAITS_FOR_LEAF, [leaf(6)]).rowcount)
    dropping.join()
    writing.join()
    assert told == ["gone"]
    assert (ids(operator, "event_hash"), ids(operator, "event_astray")) == ({one.event_id}, set())
    assert store(database, [late]).stored == 1
    assert ids(operator, "event_astray") == {late.event_id}


def test_what_comes_for_a_leaf_while_it_is_dropped_is_folded_once_and_not_lost(
    database: str, operator: Connection
) -> None:
    """Writers send old events, each twice, while their leaves go: stored or known by its hash, and folded once."""
    keep(operator, 6)
    with closing(connect(database, "ingester", application="test")) as ingester:
        open_window(ingester)
    keep(operator, None)
    sent: list[Event] = []
    is_over = threading.Event()

    def write() -> None:
        for number in itertools.count():
            if is_over.is_set():
                break
            batch = [event_of(months_ago(number % 5 + 2)), event_of(months_ago(0))]
            sent.extend(batch)
            for _ in range(2):
                while True:
                    with suppress(psycopg.errors.UndefinedTable):  # it was decoded for a leaf that is gone
                        store(database, batch)
                        break

    with ThreadPoolExecutor(2) as pool:
        writers = [pool.submit(write) for _ in range(2)]
        try:
            for months in (7, 6, 5, 4, 3, 2):  # leaf after leaf becomes due while it is written to
                keep(operator, months)
                run_retention(database)
        finally:
            is_over.set()
        for writer in writers:
            writer.result()
    assert ids(operator, "every_event") | ids(operator, "event_hash") == {one.event_id for one in sent}
    assert operator.execute("SELECT FROM every_event").rowcount == len(ids(operator, "every_event"))
    [task] = operator.execute("SELECT events FROM task").fetchall()
    assert task["events"] == len(sent)
    assert operator.execute("SELECT FROM retention_drop WHERE events > 0").rowcount > 0


def test_a_writer_that_waits_for_a_leaf_does_not_stand_in_the_way_of_its_drop(
    database: str, operator: Connection, owner: psycopg.Connection[Any]
) -> None:
    """It looks for what is known, which reads every leaf: were that first, the two would wait for each other."""
    store(database, [event_of(months_ago(30)), one := event_of(months_ago(8))])
    with ThreadPoolExecutor(1) as pool, owner.transaction():
        owner.execute(f"LOCK TABLE {leaf(8)} IN SHARE MODE")
        writing = pool.submit(store, database, [one, event_of(months_ago(8)), event_of(months_ago(30))])
        wait_until(lambda: owner.execute(WAITS_FOR_LEAF, [leaf(8)]).rowcount == 1)
        owner.execute("SET LOCAL lock_timeout = '200ms'")
        owner.execute(f"LOCK TABLE ONLY event_standard, {leaf(8)} IN ACCESS EXCLUSIVE MODE")
    assert writing.result().stored == 2


def test_what_only_repeats_waits_for_no_leaf(
    database: str, operator: Connection, owner: psycopg.Connection[Any]
) -> None:
    """Hashes of a large month are copied for long; whoever reads it again, for an offset was set back, goes on."""
    store(database, [one := event_of(months_ago(8))])
    with ThreadPoolExecutor(1) as pool, owner.transaction():
        owner.execute(f"LOCK TABLE {leaf(8)} IN SHARE MODE")
        batch = [one, event_of(months_ago(0))]
        written = pool.submit(store, database, batch, lock_timeout="200ms").result(30)
    assert (written.stored, written.repeated) == (1, 1)


def test_a_month_that_is_dropped_while_partitions_are_made_is_not_made_again(
    database: str, operator: Connection, owner: psycopg.Connection[Any]
) -> None:
    store(database, [event_of(months_ago(12))])
    owner.execute(f"ALTER TABLE event_standard DETACH PARTITION {leaf(13)}")
    owner.execute(f"DROP TABLE {leaf(13)}")
    with (
        ThreadPoolExecutor(1) as pool,
        closing(connect(database, "ingester", application="test")) as ingester,
        closing(connect_eraser(database)) as eraser,
    ):
        with owner.transaction(force_rollback=True):
            owner.execute(f"CREATE TABLE {leaf(13)} ()")  # who makes it, too, waits
            opening = pool.submit(open_window, ingester)
            wait_until(lambda: owner.execute(WAITS_FOR_ME).rowcount == 1)
            keep(operator, 11)
            params = {"name": leaf(12), "by": "dana", "is_rehearsal": False}
            assert fetch_one(eraser, queries("retention")["drop_leaf"], params)["outcome"] == "dropped"
        made = {one.name for one in opening.result().leaves["standard"]}
    assert (leaf(13) in made, leaf(12) in made) == (True, False)


def test_two_runs_at_once_do_the_work_once(database: str, operator: Connection) -> None:
    old = [event_of(months_ago(months)) for months in (12, 11, 10, 9, 8)]
    store(database, old)
    keep(operator, 6)
    failures: list[Exception] = []

    def work() -> None:
        try:
            run_retention(database)
        except psycopg.Error as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run_retention(database)
    assert failures == []
    assert everything(operator) == (set(), {one.event_id for one in old}, 5)
