"""What goes wrong while a dead producer's spool is sent, and what an interruption leaves to be said."""

from pathlib import Path

import pytest

from counterfoil.composing import headers_of
from counterfoil.delivery import Delivery
from counterfoil.folder import Cluster, ProducerFolder
from counterfoil.home import Home
from counterfoil.ids import new_id, partition_key
from counterfoil.spool import Spooled
from counterfoil.window import Outgoing, Window, WindowLimits
from tests.accounts import assert_accounted
from tests.fix_log import Logged, RecordsOf, StartPython
from tests.waiting import wait_until

LIMIT = 1024**2
KEY = partition_key("acme", new_id())

_IS_INTERRUPTED = """
import contextlib
from counterfoil import Recorder
from counterfoil.failpoints import Broken
recorder = Recorder.from_env()
with contextlib.suppress(Broken), recorder.task("the first, whose producer_opened is interrupted"):
    raise SystemExit("it was not")
recorder.close()
"""


def is_free(path: Path) -> bool:
    """Whether nobody holds the folder's lock."""
    folder = ProducerFolder.adopt(path, LIMIT)
    if folder is not None:
        folder.release()
    return folder is not None


def test_an_adopted_spool_that_turns_out_damaged_is_left_to_the_next_look(
    kafka: dict[str, str],
    topic_prefix: str,
    tmp_path: Path,
    records_of: RecordsOf,
    caplog: pytest.LogCaptureFixture,
) -> None:
    dead = ProducerFolder.create(tmp_path / "base", new_id(), Cluster("a:1"), LIMIT)
    dead.spool.append([Spooled(n, KEY, n - 1, headers_of("review"), b"%d" % n) for n in range(1, 11)])
    dead.release()
    folder = ProducerFolder.adopt(dead.path, LIMIT)
    assert folder is not None
    adopted = Home(folder)
    adopted.take_up()
    adopted.waiting += 1  # it lacks one that it was given
    own = Home(None)
    window = Window(kafka, f"{topic_prefix}counterfoil.events", "heir", WindowLimits(100, LIMIT))
    delivery = Delivery(
        window,
        own,
        ack_timeout_seconds=5,
        memory_bytes=LIMIT,
        given_up=lambda *_: None,
        damaged=lambda *_: None,
    )
    delivery.adopt(adopted)
    delivery.start()
    wait_until(lambda: not delivery.adopted and is_free(dead.path))
    delivery.send(Outgoing(own, own.tally.numbers(KEY), 10, headers_of("review"), b"11"))
    assert delivery.flush(10) == 0
    assert delivery.close(5) == 0
    assert [one for one in caplog.records if one.levelname == "ERROR"] == []
    assert sorted(int(record.value or b"") for record in records_of("events")) == list(range(1, 12))


def test_an_interrupted_greeting_is_a_gap(start_python: StartPython, logged: Logged) -> None:
    process = start_python(_IS_INTERRUPTED, COUNTERFOIL_FAILPOINTS="emit.numbered=raise@1")
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    accounts = assert_accounted(logged())
    assert sum(len(account.gaps) for account in accounts.values()) == 1
