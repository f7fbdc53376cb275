"""Values framed by a Schema Registry's ids, through ingest into the store."""

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from counterfoil import Recorder, RecorderSettings
from counterfoil.codec import decode, encode
from counterfoil.framing import Framing
from counterfoil.ids import new_id
from counterfoil.wire_format import framing_of
from counterfoil_consumers.ingest import Ingest
from counterfoil_consumers.metrics import REGISTRY_RETRIES
from counterfoil_consumers.store import Connection
from tests.consumers.made import event, key_of
from tests.consumers.test_members import stored
from tests.fix_log import Produce, RecordsOf
from tests.fix_registry import Apicurio
from tests.waiting import wait_until

NewIngest = Callable[..., Ingest]


def impatient(settings: RecorderSettings, registry: Apicurio) -> RecorderSettings:
    """Settings that name a registry, and wait two seconds for it."""
    named = {"url": registry.url, "timeout": "2", "max.retries": "0"}
    return settings.model_copy(update={"schema_registry": named})


def record(settings: RecorderSettings) -> None:
    with Recorder(settings) as recorder, recorder.task("t") as task:
        task.review(by="dana")


def ingest_all(new_ingest: NewIngest, framing: Framing) -> None:
    ingest = new_ingest(framing)
    ingest.run(threading.Event(), until=ingest.end_offsets())


@contextmanager
def running(ingest: Ingest, beat: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Ingest in a thread for the length of a block; what it raised is raised here."""
    stopping = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            ingest.run(stopping, beat=beat)
        except BaseException as error:  # noqa: BLE001  # told below, in the test's own thread
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join(30)
    assert failures == []


def dead_letters(operator: Connection) -> list[tuple[str, str]]:
    rows = operator.execute("SELECT letter_class, reason FROM dead_letter ORDER BY placed_at")
    return [(row["letter_class"], row["reason"]) for row in rows]


def test_both_framings_on_one_topic_are_stored_as_they_were_sent(
    recorder_settings: RecorderSettings,
    registry_settings: RecorderSettings,
    new_ingest: NewIngest,
    operator: Connection,
    records_of: RecordsOf,
) -> None:
    record(recorder_settings)
    record(registry_settings)
    framing = framing_of(registry_settings)
    ingest_all(new_ingest, framing)
    records = records_of("events")
    assert {(record.value or b"")[:1] for record in records} == {b"\x00", b"\xc3"}
    rows = {(row["partition"], row["offset"]): row for row in operator.execute("SELECT * FROM event")}
    assert set(rows) == {(record.partition, record.offset) for record in records}
    for one in records:
        row, value = rows[one.partition, one.offset], one.value or b""
        sent = decode(value, framing)
        assert (row["value"], row["value_sha256"]) == (value, hashlib.sha256(value).digest())
        assert (row["event_id"].bytes, row["kind"], row["seq"], row["unread"]) == (
            sent.event_id, sent.kind, sent.seq, False,
        )  # fmt: skip
    framing.close()
    assert dead_letters(operator) == []


def test_an_id_that_the_registry_does_not_have_is_a_dead_letter(
    registry_settings: RecorderSettings, new_ingest: NewIngest, operator: Connection, produce: Produce
) -> None:
    framing = framing_of(registry_settings)
    one, other = event(event_id=new_id()), event(event_id=new_id())
    produce(b"\x00\x7f\xff\xff\xff" + encode(one)[10:], key_of(one))
    produce(encode(other, framing), key_of(other))
    ingest_all(new_ingest, framing)
    [(letter_class, reason)] = dead_letters(operator)
    assert letter_class == "incompatible"
    assert "has no schema with the id 2147483647" in reason
    assert stored(operator) == 1


def test_a_batch_of_ids_that_nobody_gave_does_not_look_like_a_hang(
    registry_settings: RecorderSettings, new_ingest: NewIngest, operator: Connection, produce: Produce
) -> None:
    for schema_id in range(2**31 - 300, 2**31):
        produce(b"\x00" + schema_id.to_bytes(4, "big"), partition=0)
    beats: list[int] = []
    ingest = new_ingest(framing_of(registry_settings))
    ingest.run(threading.Event(), until=ingest.end_offsets(), beat=lambda: beats.append(0))
    assert len(dead_letters(operator)) == 300
    assert len(beats) > 300


def test_without_a_registry_what_is_framed_by_an_id_is_a_dead_letter(
    registry_settings: RecorderSettings, ingest_all: Callable[[], None], operator: Connection, produce: Produce
) -> None:
    one = event(event_id=new_id())
    produce(encode(one, framing_of(registry_settings)), key_of(one))
    ingest_all()
    [(letter_class, reason)] = dead_letters(operator)
    assert letter_class == "incompatible"
    assert "no Schema Registry is configured" in reason


def test_with_the_registry_away_records_wait_and_nothing_is_set_aside(
    apicurio: Apicurio,
    recorder_settings: RecorderSettings,
    new_ingest: NewIngest,
    operator: Connection,
    records_of: RecordsOf,
) -> None:
    settings = impatient(recorder_settings, apicurio)
    record(settings)
    total = len(records_of("events"))
    beats: list[None] = []
    with ExitStack() as outage:
        outage.enter_context(apicurio.silent())
        with running(new_ingest(framing_of(settings)), lambda: beats.append(None)):
            retries = REGISTRY_RETRIES._value.get()
            wait_until(lambda: REGISTRY_RETRIES._value.get() >= retries + 2)
            before = len(beats)
            wait_until(lambda: len(beats) > before)  # it lives
            assert stored(operator) == 0
            outage.close()
            wait_until(lambda: stored(operator) == total)
    assert dead_letters(operator) == []
    assert operator.execute("SELECT FROM duplicate").rowcount == 0


def test_with_the_registry_away_what_is_known_goes_on(
    apicurio: Apicurio,
    recorder_settings: RecorderSettings,
    new_ingest: NewIngest,
    operator: Connection,
    records_of: RecordsOf,
) -> None:
    settings = impatient(recorder_settings, apicurio)
    with Recorder(settings) as recorder, running(new_ingest(framing_of(settings))):
        with recorder.task("before"):
            pass
        recorder.flush()
        wait_until(lambda: stored(operator) >= 3)
        with apicurio.silent():
            with recorder.task("meanwhile") as task:
                task.review(by="dana")
            recorder.flush()
            wait_until(lambda: stored(operator) >= 6)
        recorder.close()
        total = len(records_of("events"))
        wait_until(lambda: stored(operator) == total)
    assert dead_letters(operator) == []
