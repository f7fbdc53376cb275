"""Real servers: started, asked, killed, repaired and taken down without a trace."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from counterfoil_console.stack import (
    JarAltered,
    JarsMissing,
    KafkaOptions,
    LocalStack,
    PostgresOptions,
    Progress,
    ServerFailed,
    StackDiffers,
    StackState,
)
from counterfoil_console.stack.jars import FetchFailed, LockedJar, read_lock
from counterfoil_console.stack.ports import is_free
from tests.waiting import wait_until

from .conftest import CACHE, NewStack, RunScript, stray


def create_topic(state: StackState, name: str, **config: str) -> None:
    admin = AdminClient({"bootstrap.servers": state.bootstrap_servers})
    for future in admin.create_topics([NewTopic(name, 1, 1, config=config)]).values():
        future.result(10)


def topics(state: StackState) -> set[str]:
    listed = AdminClient({"bootstrap.servers": state.bootstrap_servers}).list_topics(timeout=10)
    return {name for name in listed.topics if not name.startswith("_")}


def read_one(state: StackState, topic: str, group: str) -> tuple[bytes | None, int | None]:
    """The next record of a group (KIP-848) and its offset; the offset is committed."""
    consumer = Consumer(
        {
            "bootstrap.servers": state.bootstrap_servers,
            "group.id": group,
            "group.protocol": "consumer",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    consumer.subscribe([topic])
    try:
        message = consumer.poll(20)
        assert message is not None
        assert message.error() is None
        consumer.commit(message=message, asynchronous=False)
        return message.value(), message.offset()
    finally:
        consumer.close()


def produce(state: StackState, topic: str, *values: bytes) -> None:
    producer = Producer({"bootstrap.servers": state.bootstrap_servers, "message.max.bytes": 5_000_000})
    for value in values:
        producer.produce(topic, value)
    assert producer.flush(20) == 0


def all_ports_free(state: StackState) -> bool:
    return all(is_free(port) for port in (*state.ports("kafka"), *state.ports("postgres")))


def test_data_outlives_a_restart_and_fresh_ends_it(new_stack: NewStack) -> None:
    stack = new_stack()
    assert stack.status().overall == "down"
    assert stack.down() is False

    state = stack.up()
    assert (stack.status().overall, stack.status().state) == ("up", state)
    assert stat.S_IMODE((stack.data_directory / "stack.json").stat().st_mode) == 0o600
    create_topic(state, "kept")
    produce(state, "kept", b"first", b"x" * 3_000_000)
    assert read_one(state, "kept", "readers") == (b"first", 0)
    with psycopg.connect(state.postgres_dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE kept AS SELECT uuidv7() AS id")
        connection.execute("CREATE ROLE counterfoil_reader LOGIN PASSWORD 'its own'")

    said = list[Progress]()
    assert stack.up(report=said.append) == state
    assert [progress.message for progress in said] == ["already up"]

    # Clients that are still connected do not hold it up.
    with psycopg.connect(state.postgres_dsn):
        assert stack.down() is True
    assert all_ports_free(state)
    assert not stray(stack)
    assert stack.status().overall == "down"

    again = stack.up()
    assert again.bootstrap_servers == state.bootstrap_servers
    assert read_one(again, "kept", "readers") == (b"x" * 3_000_000, 1)
    login = psycopg.conninfo.make_conninfo(
        again.postgres_dsn, user="counterfoil_reader", password="its own", dbname="postgres"
    )
    with psycopg.connect(login) as connection:
        assert connection.execute("SELECT current_user").fetchone() == ("counterfoil_reader",)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(psycopg.conninfo.make_conninfo(login, password="wrong"))

    renewed = stack.up(fresh=True)
    assert topics(renewed) == set()
    with psycopg.connect(renewed.postgres_dsn) as connection:
        assert connection.execute("SELECT to_regclass('kept')").fetchone() == (None,)
    stack.down()


def test_a_killed_broker_shows_and_is_repaired_alone(new_stack: NewStack) -> None:
    stack = new_stack()
    state = stack.up()
    create_topic(state, "kept")
    assert state.kafka is not None
    os.kill(state.kafka.pid, signal.SIGKILL)
    wait_until(lambda: stack.status().kafka.condition == "dead")
    assert (stack.status().overall, stack.status().postgres.condition) == ("broken", "answering")

    repaired = stack.up()
    assert repaired.postgres == state.postgres
    assert repaired.kafka != state.kafka
    assert topics(repaired) == {"kept"}

    # Postgres dies next, and with it its child processes; a stale postmaster.pid is no hindrance.
    assert repaired.postgres is not None
    os.kill(repaired.postgres.pid, signal.SIGKILL)
    wait_until(lambda: stack.status().postgres.condition == "dead")
    assert stack.up().kafka == repaired.kafka
    assert stack.status().overall == "up"
    with pytest.raises(StackDiffers):
        new_stack(kafka=KafkaOptions(heap_mebibytes=300)).up()
    stack.down()
    assert all_ports_free(state)


def test_a_recycled_pid_is_left_alone(new_stack: NewStack) -> None:
    stack = new_stack()
    state = stack.up()
    stack.down()
    with subprocess.Popen(["sleep", "60"]) as bystander:
        taken = psutil.Process(bystander.pid)
        state_file = stack.data_directory / "stack.json"
        text = state_file.read_text("utf-8").replace('"phase": "down"', '"phase": "up"')
        record = f'{{"pid": {bystander.pid}, "started": {taken.create_time()}}}'
        state_file.write_text(text.replace('"kafka": null', f'"kafka": {record}'), "utf-8")
        assert stack.status().kafka.condition == "dead"
        assert stack.down() is False
        assert bystander.poll() is None
        bystander.kill()
    assert all_ports_free(state)


def test_two_ups_at_once_make_one_stack(new_stack: NewStack, run_script: RunScript) -> None:
    stack = new_stack()
    code = "state = stack.up(); print(state.started_at, state.kafka, state.postgres, flush=True)"
    both = [run_script(stack, code) for _ in range(2)]
    first, second = (process.communicate(timeout=60)[0] for process in both)
    assert first == second
    assert "pid=" in first
    assert len(stray(stack)) > 2
    assert stack.down() is True


def test_the_stack_dies_with_its_owner(new_stack: NewStack, run_script: RunScript) -> None:
    stack = new_stack()
    process = run_script(stack, "with stack.running(): say('up'); time.sleep(600)")
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    assert stack.status().overall == "up"
    state = stack.status().state
    assert state is not None
    process.kill()
    process.wait()
    wait_until(lambda: not stray(stack) and stack.status().overall == "down")
    assert all_ports_free(state)


def test_running_ends_with_its_block_and_leaves_what_was_up_before(new_stack: NewStack) -> None:
    stack = new_stack()
    seen = list[StackState]()

    def fail_inside() -> None:
        with stack.running() as state:
            seen.append(state)
            assert stack.status().overall == "up"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert all_ports_free(seen[0])
    before = stack.up()
    with stack.running() as state:
        assert state == before
    assert stack.status().overall == "up"
    stack.down()


@pytest.mark.parametrize(
    "moment",
    [
        "stack.up(report=lambda p: p.stage == 'postgres' and p.message == 'answers' and die())",
        # Between the start of the broker and the note of its id.
        "kafka.spawn = lambda *a, spawn=kafka.spawn: (spawn(*a), die()); stack.up()",
        "kafka.run = lambda *a, run=kafka.run: (run(*a), die()); stack.up()",
    ],
    ids=["one server up", "broker not yet recorded", "half formatted"],
)
def test_leftovers_of_a_killed_up_are_found(new_stack: NewStack, run_script: RunScript, moment: str) -> None:
    stack = new_stack()
    code = "from counterfoil_console.stack import kafka\ndef die(): os.kill(os.getpid(), signal.SIGKILL)\n" + moment
    assert run_script(stack, code).wait(60) == -signal.SIGKILL
    assert stack.status().overall == "broken"
    if "stack.up(report" in moment:
        assert stack.up().phase == "up"
    has_ended_some = stack.down()
    assert has_ended_some or "kafka.run" in moment  # half formatted: Postgres may not have been started yet
    assert not stray(stack)


def test_ctrl_c_while_starting_leaves_nothing(new_stack: NewStack, run_script: RunScript) -> None:
    stack = new_stack()
    process = run_script(stack, "stack.up(report=lambda p: say(f'{p.stage} {p.message[:8]}'))")
    assert process.stdout is not None
    for line in process.stdout:
        if line == "kafka starting\n":
            break
    process.send_signal(signal.SIGINT)
    assert process.wait(60) != 0
    assert not stray(stack)
    assert stack.status().overall == "down"


@pytest.mark.parametrize(
    ("options", "name", "word"),
    [
        ({"kafka": KafkaOptions(settings={"log.retention.hours": "soon"})}, "Kafka", "soon"),
        ({"postgres": PostgresOptions(settings={"shared_buffers": "much"})}, "Postgres", "much"),
    ],
)
def test_a_server_that_cannot_start_says_why_and_takes_the_other_with_it(
    new_stack: NewStack, options: dict[str, object], name: str, word: str
) -> None:
    stack = new_stack(**options)
    with pytest.raises(ServerFailed, match=word) as raised:
        stack.up()
    assert raised.value.name == name
    assert not stray(stack)
    assert stack.status().overall == "down"


def test_a_tampered_jar_stops_the_start(new_stack: NewStack, tmp_path: Path) -> None:
    stack = new_stack(cache_directory=tmp_path / "cache")
    jars = tmp_path / "cache" / "jars"
    jars.mkdir(parents=True)
    for jar in read_lock():
        (jars / jar.file_name).symlink_to(CACHE / "jars" / jar.file_name)
    victim = jars / "log4j-api-2.25.5.jar"
    content = victim.read_bytes()
    victim.unlink()
    victim.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(JarAltered, match=r"log4j-api-2\.25\.5\.jar"):
        stack.up()
    assert not stray(stack)


def test_without_network_and_cache_nothing_is_left_running(new_stack: NewStack, tmp_path: Path) -> None:
    def unreachable(_jar: LockedJar, _folder: Path, _received: Callable[[int], None], /) -> Path:
        raise FetchFailed("no connection")

    stack: LocalStack = new_stack(cache_directory=tmp_path / "cache", fetch_jar=unreachable)
    with pytest.raises(JarsMissing, match=r"34 of Kafka's 34 jars.*COUNTERFOIL_KAFKA__BOOTSTRAP_SERVERS"):
        stack.up()
    assert not stray(stack)


def test_the_wheels_java_runs_it_too(new_stack: NewStack) -> None:
    with new_stack(search_path=None).running() as state:
        create_topic(state, "made-by-the-wheels-java")
