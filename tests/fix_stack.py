"""The real Kafka and the real Postgres, started once for the whole run by the project's own stack."""

import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from counterfoil_console.stack import BehindProxy, KafkaOptions, LocalStack, StackState, default_directories
from counterfoil_console.stack.ports import pick
from counterfoil_console.stack.postgres import PostgresOptions
from counterfoil_consumers.topics import admin_client, create_missing
from counterfoil_schemas import topics
from tests.waiting import freeze

# It is never cut off here: tests that end a server end one of their own, which keeps what it has promised.
NO_POWER_CUT = {"fsync": "off", "full_page_writes": "off"}
_MEMORY, _ROOM = "/dev/shm", 4 * 1024**3
Outage = Callable[[], AbstractContextManager[None]]


def pytest_configure() -> None:
    """Servers end at a SIGINT, which a job in a shell's background ignores, and with it all that it starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def memory_folder() -> str | None:
    """Where files are held in memory, if there is room: the hundreds of a store take half the time of its test."""
    try:
        return _MEMORY if os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ROOM else None
    except OSError:
        return None


@pytest.fixture(scope="session")
def kafka_behind_proxy() -> BehindProxy:
    """The broker's second port, for a proxy to lead to, and the port where the broker says that the proxy is."""
    port = pick(None, ())
    return BehindProxy(port, pick(None, {port}))


@pytest.fixture(scope="session")
def stack(kafka_behind_proxy: BehindProxy) -> Iterator[StackState]:
    """Both servers, with data of their own; they go down with the run, however it ends.

    Not under pytest's own folder: another run beside this one takes away the right to pass through that, which the
    user that Postgres runs under needs.
    """
    with tempfile.TemporaryDirectory(prefix="counterfoil-", dir=memory_folder()) as folder:
        own = default_directories(os.environ)
        data, quick = Path(folder) / "data", PostgresOptions(settings=NO_POWER_CUT)
        kafka = KafkaOptions(behind_proxy=kafka_behind_proxy)
        with LocalStack(data, own.cache, os.environ.get("PATH"), kafka=kafka, postgres=quick).running() as state:
            yield state


@contextmanager
def stack_with(options: KafkaOptions) -> Iterator[StackState]:
    """Both servers again, for the length of a block, with a broker that is set up otherwise."""
    with tempfile.TemporaryDirectory(prefix="counterfoil-", dir=memory_folder()) as folder:
        cache = default_directories(os.environ).cache
        with LocalStack(Path(folder) / "data", cache, os.environ.get("PATH"), kafka=options).running() as state:
            yield state


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest) -> dict[str, str]:
    """librdkafka's settings for the running broker; for what is marked `oldest_kafka_too` once more the oldest one."""
    oldest = getattr(request, "param", "newest") == "oldest"
    running: StackState = request.getfixturevalue("oldest_kafka" if oldest else "stack")
    return {"bootstrap.servers": running.bootstrap_servers}


@pytest.fixture
def broker_pid(stack: StackState) -> int:
    """The process of the one broker, to stop (SIGSTOP) and continue."""
    assert stack.kafka is not None
    return stack.kafka.pid


@pytest.fixture
def outage(broker_pid: int) -> Outage:
    """The broker neither answers nor closes its connections for the length of a block."""

    @contextmanager
    def stop() -> Iterator[None]:
        freeze(broker_pid)
        try:
            yield
        finally:
            os.kill(broker_pid, signal.SIGCONT)

    return stop


@pytest.fixture
def new_topics(kafka: dict[str, str]) -> Iterator[Callable[[], str]]:
    """Makes topics, as declared, and gives the prefix of their names."""
    admin = admin_client(kafka)
    made: list[str] = []

    def make() -> str:
        prefix = f"t{uuid.uuid4().hex[:12]}."
        declared = list(topics("local", prefix).values())
        create_missing(admin, declared)
        made.extend(topic.name for topic in declared)
        return prefix

    yield make
    for future in admin.delete_topics(made).values() if made else ():
        future.result()


@pytest.fixture
def topic_prefix(new_topics: Callable[[], str]) -> str:
    """The test's own topics: all of their names begin with this."""
    return new_topics()
