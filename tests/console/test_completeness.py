"""`counterfoil completeness`, on real losses and on what only looks like one."""

import dataclasses
import signal
from collections.abc import Callable

import psycopg
import pytest

from counterfoil import Recorder
from counterfoil.codec import encode
from counterfoil.event import Event
from counterfoil.ids import new_id, task_id_of
from counterfoil_consumers import topics
from tests.consumers.made import event, key_of
from tests.events.test_crashes import _ADOPTS, _WORKS
from tests.fix_log import Produce, StartPython

from .conftest import Call


@pytest.fixture
def lost(call: Call, produce: Produce) -> bytes:
    """A producer that closed, whose task lacks 2 and 3 (given up), 5 (nobody knows why) and its tail from 8."""
    call("tenant", "add", "acme")
    producer_id = new_id()
    own = task_id_of("acme", f"producer:{producer_id.hex()}")

    def say(one: Event, **changes: object) -> None:
        made = dataclasses.replace(one, producer_id=producer_id, **changes)  # type: ignore[arg-type]  # a test's own
        produce(encode(made), key_of(made))

    for seq in (0, 1, 4, 6, 7):
        say(event(seq=seq, task_ref="T-9"))
    gap = {"first_seq": 2, "last_seq": 3, "reason": "the disk\x1b[31m was full"}
    task_id = event().task_id
    opened = {"host": "h", "pid": 1, "client": "c", "beat_interval": 1_000_000}
    closed = {"open_tasks": [{"task_id": task_id, "last_seq": 9}], "undelivered": 2}
    say(event("producer_opened", opened), task_id=own, seq=0)
    say(event("gap", gap | {"gap_task_id": task_id}), task_id=own, seq=1)
    say(event("producer_closed", closed), task_id=own, seq=2)
    return producer_id


def age(database: str) -> None:
    """What was said half a minute ago is no longer on its way."""
    with psycopg.connect(database) as admin:
        for table, column in (("producer", "last_at"), ("producer_claim", "said_at")):
            admin.execute(f"UPDATE counterfoil.{table} SET {column} = {column} - interval '1 hour'")


def test_losses_are_listed_and_told_apart(call: Call, lost: bytes, database: str) -> None:
    said = call("completeness", "--json")
    assert (said.code, said.json["lag"], said.json["complete"]) == (0, 8, True)  # nothing is ingested yet
    assert call("ingest", "--once").code == 0
    fresh = call("completeness", "--json")
    assert (fresh.code, fresh.json["totals"]["in_flight"]) == (0, 3)  # it may be on its way for a moment
    age(database)
    said = call("completeness", "--json")
    assert said.code == 1
    totals = said.json["totals"]
    assert (totals["emitted"], totals["stored"], totals["gaps"], totals["missing"]) == (13, 8, 2, 3)
    [task] = said.json["tasks"]
    assert (task["task"], task["missing_ranges"], task["gap_ranges"]) == ("T-9", "{[5,6),[8,10)}", "{[2,4)}")
    assert task["is_tail_missing"] is True
    text = call("completeness")
    assert text.code == 1
    assert text.out.splitlines()[0] == "13 emitted = 8 stored + 2 given up (gaps) + 3 missing + 0 on their way"
    assert "T-9" in text.out
    assert "\x1b" not in text.out
    assert call("completeness", "--tenant", "other").code == 0


def test_what_is_on_its_way_counts_beyond_the_rows_shown(call: Call, produce: Produce, database: str) -> None:
    call("tenant", "add", "acme")
    for task in ("T-1", "T-2", "T-3"):
        one = event(seq=1, task_ref=task, task_id=task_id_of("acme", task))
        produce(encode(one), key_of(one))
    assert call("ingest", "--once").code == 0
    said = call("completeness", "--limit", "1", "--json")
    assert (said.code, len(said.json["tasks"])) == (0, 1)
    assert (said.json["totals"]["in_flight"], said.json["totals"]["missing"]) == (3, 0)
    age(database)
    said = call("completeness", "--limit", "1", "--json")
    assert (said.code, said.json["totals"]["in_flight"], said.json["totals"]["missing"]) == (1, 0, 3)


def test_a_producer_that_fell_silent(call: Call, produce: Produce, database: str) -> None:
    call("tenant", "add", "acme")
    own = task_id_of("acme", f"producer:{event().producer_id.hex()}")
    opened = {"host": "h", "pid": 1, "client": "c", "beat_interval": 1_000_000}
    for one in (event("producer_opened", opened, task_id=own), event(seq=0)):
        produce(encode(one), key_of(one))
    assert call("ingest", "--once").code == 0
    alive = call("completeness", "--json")
    assert (alive.code, alive.json["totals"]["open"], alive.json["totals"]["silent"]) == (0, 1, 0)
    age(database)
    said = call("completeness")
    assert said.code == 1
    assert f"producer {event().producer_id.hex()} of acme" in said.out


def test_without_brokers_the_store_still_says_what_it_has(
    call: Call, lost: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call("ingest", "--once").code == 0
    monkeypatch.setattr(topics, "_TIMEOUT_SECONDS", 2.0)
    said = call("completeness", KAFKA__BOOTSTRAP_SERVERS="127.0.0.1:1")
    assert said.code == 0
    assert "no broker answers" in said.out


def test_a_killed_process_is_accounted_for(
    call: Call,
    start_python: StartPython,
    run_python: Callable[..., str],
    database: str,
    tmp_path: object,
) -> None:
    call("tenant", "add", "acme")
    dying = start_python(_WORKS, f"{tmp_path}/acted", COUNTERFOIL_FAILPOINTS="emit.numbered=kill@17")
    dying.communicate(timeout=60)
    assert dying.returncode == -signal.SIGKILL
    run_python(_ADOPTS)
    assert call("ingest", "--once").code == 0
    age(database)
    said = call("completeness", "--json")
    totals = said.json["totals"]
    assert (said.code, totals["missing"], totals["adopted"], totals["silent"]) == (0, 0, 1, 0)
    assert totals["gaps"] > 0
    assert totals["emitted"] == totals["stored"] + totals["gaps"]


def test_all_that_a_recorder_recorded_is_there(call: Call, recorder: Recorder, database: str) -> None:
    call("tenant", "add", "acme")
    for number in range(20):
        with recorder.task("t") as task:
            task.review(by=str(number))
    recorder.close()
    assert call("ingest", "--once").code == 0
    age(database)
    totals = call("completeness", "--json").json["totals"]
    assert totals["emitted"] == totals["stored"] >= 60 + 2
    assert (totals["missing"], totals["gaps"], totals["closed"]) == (0, 0, 1)
