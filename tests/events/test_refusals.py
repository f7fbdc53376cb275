"""What Kafka refuses, loses from sight or takes twice: retried, said, or collapsed, and never a hole."""

import time
from collections.abc import Callable
from itertools import pairwise

from confluent_kafka.admin import (  # type: ignore[attr-defined]  # exported, but not by __all__
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from counterfoil import Recorder, RecorderSettings
from counterfoil_consumers.store import Connection
from counterfoil_consumers.topics import admin_client, create_missing, describe
from counterfoil_schemas import topics
from tests.accounts import accounts_of, assert_accounted
from tests.fix_log import Logged, RecordsOf
from tests.fix_recorder import folders
from tests.fix_stack import Outage
from tests.waiting import wait_until


def test_a_topic_that_is_made_later(recorder_settings: RecorderSettings, kafka: dict[str, str], logged: Logged) -> None:
    """librdkafka gives up on an unknown topic; the recorder does not."""
    topic = topics("local", recorder_settings.topic_prefix)["events"]
    admin = admin_client(kafka)
    admin.delete_topics([topic.name])[topic.name].result()
    while describe(admin, [topic.name]).get(topic.name) is not None:  # until then it would take events, and lose them
        time.sleep(0.05)
    time.sleep(0.5)
    hurried = {"topic.metadata.propagation.max.ms": "300", "topic.metadata.refresh.interval.ms": "300"}
    settings = recorder_settings.model_copy(update={"kafka": kafka | hurried, "ack_timeout_seconds": 0.5})
    recorder = Recorder(settings)
    with recorder.task("t") as task:
        for number in range(50):
            task.review(by=str(number))
        time.sleep(2)
        create_missing(admin, [topic])
        for number in range(50, 100):
            task.review(by=str(number))
    assert recorder.flush(30) == 0
    recorder.close()
    events = logged()
    accounts = accounts_of(events)
    assert not any(account.gaps or account.missing for account in accounts.values()), accounts
    reviews = [int((event.body or {})["by"]) for event in events if event.kind == "review"]
    assert sorted(reviews) == list(range(100))
    # A leader so new that it refuses the first batch and takes the next: `delivery_error` has the first sent once more.
    assert sum(later < earlier for earlier, later in pairwise(reviews)) <= 1


def test_an_event_that_the_brokers_find_too_large_is_a_gap(
    recorder_settings: RecorderSettings, kafka: dict[str, str], logged: Logged
) -> None:
    narrow(admin_client(kafka), topics("local", recorder_settings.topic_prefix)["events"].name, 20_000)
    recorder = Recorder(recorder_settings.model_copy(update={"kafka": kafka | {"compression.type": "none"}}))
    with recorder.task("t") as task:
        task.review(by="before")
        recorder.flush()  # what is in one batch with it is refused with it, and sent again behind what follows
        task.completion("x" * 50_000)
        recorder.flush()
        task.review(by="after")
        recorder.flush()
        time.sleep(0.5)
    recorder.close()
    accounts = assert_accounted(logged())
    own = next(account for (_, task_id), account in accounts.items() if task_id == task.task_id)
    assert (own.stored, own.gaps) == ([0, 1, 3, 4], {2})
    [gap] = [event.body or {} for event in logged() if event.kind == "gap"]
    assert "too large" in gap["reason"].lower() or "size" in gap["reason"].lower()


def narrow(admin: AdminClient, topic: str, size_bytes: int) -> None:
    entry = ConfigEntry("max.message.bytes", str(size_bytes), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    for future in admin.incremental_alter_configs([resource]).values():
        future.result()
    time.sleep(1)  # the broker applies it once it has read its metadata


def test_what_was_written_twice_is_stored_once(
    recorder_settings: RecorderSettings,
    outage: Outage,
    records_of: RecordsOf,
    ingest_all: Callable[[], None],
    operator: Connection,
) -> None:
    """Requests that a frozen broker has in its socket land once it goes on; the spool sends them, too."""
    settings = recorder_settings.model_copy(update={"ack_timeout_seconds": 0.5, "close_timeout_seconds": 2})
    recorder = Recorder(settings)
    recorder.connect()
    with recorder.task("t") as task:
        recorder.flush()
        with outage():
            for number in range(20):
                task.review(by=str(number))
            task.suspend("an outage")
            recorder.close()
    [left] = folders(settings)
    heir = Recorder(settings)
    with heir.task("other"):
        wait_until(lambda: not left.exists())
    heir.close()
    ingest_all()
    consumed = len(records_of("events"))
    row = operator.execute(
        "SELECT (SELECT count(*) FROM event) AS stored, (SELECT count(*) FROM duplicate) AS twice,"
        " (SELECT count(*) FROM dead_letter) AS dead, (SELECT count(DISTINCT event_id) FROM event) AS events"
    ).fetchone()
    assert row is not None
    assert row["twice"] > 0
    assert row["stored"] + row["twice"] == consumed
    assert (row["dead"], row["events"]) == (0, row["stored"])
