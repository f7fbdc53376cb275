"""The Kafka adapter on a real broker: what a log does that no table does, and no answer that is not one."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # exported, but not by __all__
    NewPartitions,
)

from counterfoil.errors import SettingsError
from counterfoil_console.stack import KafkaOptions
from counterfoil_console.stack.ports import HOST, pick
from counterfoil_reconcilers.rows import Row
from counterfoil_reconcilers.targets.kafka import KafkaTarget
from counterfoil_reconcilers.targets.kafka_options import KafkaConnection
from counterfoil_reconcilers.targets.opening import open_target
from counterfoil_reconcilers.targets.port import Forgetful, TargetUnavailable
from counterfoil_reconcilers.touched import Search
from tests.fix_stack import stack_with
from tests.reconcilers.targets.bus import EACH, EFFECT, LATEST, OTHER, Bus, docs_of, now_millis, opening, order
from tests.reconcilers.targets.conformance import contracts_of
from tests.waiting import wait_until

_OPTIONS = KafkaOptions(
    settings={
        "log.cleaner.backoff.ms": "200",
        "log.initial.task.delay.ms": "500",
        "message.max.bytes": "16000000",
        "replica.fetch.max.bytes": "16000000",
    }
)
FIND = """
[tools.publish]
target = "bus"
[[tools.publish.writes]]
resource = "orders"
create = true
find = { status = "args.status" }
set.status = "args.status"
"""


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    """A broker whose cleaner does not wait, and which takes large messages."""
    with stack_with(_OPTIONS) as state:
        yield state.bootstrap_servers


@pytest.fixture
def bus(broker: str, tmp_path: Path) -> Bus:
    return Bus(broker, tmp_path)


@pytest.fixture
def opened(bus: Bus) -> Iterator[Callable[..., KafkaTarget]]:
    """Opens targets on the bus, and closes them."""
    with opening(bus) as open_:
        yield open_


def row_at(target: KafkaTarget, key: str) -> Row | None:
    [found] = target.read([order(key)])
    return found.row


def status_at(target: KafkaTarget, key: str) -> Any:
    row = row_at(target, key)
    return None if row is None else row.problem or (row.doc["status"] if isinstance(row.doc, dict) else row.doc)


def test_each_message_is_a_row_and_a_doubled_one_is_two(bus: Bus, opened: Callable[..., KafkaTarget]) -> None:
    for reference in (EFFECT, OTHER, EFFECT):
        bus.write({"status": "paid"}, reference)
    target = opened()
    found = target.find(None, [Search("orders", (("reference", EFFECT),))], 50)
    assert [row.address.row.key for row in found] == [("0:0",), ("0:2",)]
    assert found[0].row == Row({"status": "paid", "reference": EFFECT, "position": "0:0"}, "0:0")
    assert len(target.find(None, [Search("orders", (("reference", EFFECT),))], 1)) == 1
    assert [row.address.row.key[0] for row in target.scan("orders")] == ["0:0", "0:1", "0:2"]
    assert status_at(target, "0:2") == "paid"
    assert [row_at(target, key) for key in ("0:3", "1:0", "0:02", "00:2", "-1:0", "0:٢", "x", "9" * 5_000 + ":0")] == (
        [None] * 8
    )


def test_rows_are_found_by_what_their_values_hold(bus: Bus, opened: Callable[..., KafkaTarget]) -> None:
    rules = "fields.status = { ignore_case = true }\nfields.amount = { tolerance = 0.01 }\n"
    for value in ({"status": "Paid", "amount": 12.5}, {"status": "paid", "amount": "12.50"}, {"status": 7}, {}):
        bus.write(value)
    target = opened(EACH + rules, FIND)
    assert [doc["position"] for doc in docs_of(target, status="PAID")] == ["0:0", "0:1"]
    assert [doc["position"] for doc in docs_of(target, amount=12.505)] == ["0:0", "0:1"]
    assert [doc["position"] for doc in docs_of(target, status=7.0)] == ["0:2"]
    assert docs_of(target, status="7x") == []


def test_what_was_aborted_is_not_seen_and_what_is_open_not_yet(bus: Bus, opened: Callable[..., KafkaTarget]) -> None:
    target = opened()
    bus.write({"status": "plain"}, OTHER)
    producer = bus.new_producer(**{"transactional.id": bus.topic})
    producer.init_transactions(60)

    def seen(expected: list[str]) -> bool:
        return [doc["status"] for doc in docs_of(target, reference=EFFECT)] == expected

    for status, end, before, after in (
        ("undone", producer.abort_transaction, [], []),
        ("done", producer.commit_transaction, [], ["done"]),
        ("undone again", producer.abort_transaction, ["done"], ["done"]),
    ):
        producer.begin_transaction()
        producer.produce(bus.topic, json.dumps({"status": status}), headers=[("counterfoil-effect", EFFECT)])
        assert producer.flush(60) == 0
        assert seen(before)
        end(60)
        wait_until(partial(seen, after))  # the brokers write the marker a moment later
    started = time.monotonic()
    assert len(list(target.scan("orders"))) == 2  # its end is the marker of an aborted transaction
    assert time.monotonic() - started < 5


def test_the_latest_message_of_a_key_counts_until_it_is_compacted_away(
    bus: Bus, opened: Callable[..., KafkaTarget]
) -> None:
    bus.make_anew(
        {
            "cleanup.policy": "compact",
            "delete.retention.ms": "100",
            "min.cleanable.dirty.ratio": "0.01",
            "segment.ms": "100",
            "max.compaction.lag.ms": "200",
        }
    )
    target = opened(LATEST)
    for status in ("new", "paid", "sent"):
        bus.write({"status": status}, key="A-1")
    bus.write({"status": "new"}, key="A-2")
    bus.write(None, key="A-2")
    assert [status_at(target, key) for key in ("A-1", "A-2", "A-3")] == ["sent", None, None]
    bus.write({"status": "again"}, key="A-2")
    assert status_at(target, "A-2") == "again"
    bus.write(None, key="A-2")

    def is_clean() -> bool:
        bus.write({"status": "tick"}, key="tick")  # segments roll when something is written
        with bus.target(EACH) as raw:
            offsets = [str(row.row.version) for row in raw.scan("orders") if row.row is not None]
            return "0:2" in offsets and not {"0:0", "0:1", "0:3", "0:4", "0:6"} & set(offsets)

    wait_until(is_clean, 90)
    with bus.target(LATEST) as fresh:  # reads what the cleaner left; the other one read all of it
        for one in (target, fresh):
            assert [status_at(one, key) for key in ("A-1", "A-2", "tick")] == ["sent", None, "tick"]
            assert {row.address.row.key[0] for row in one.scan("orders")} == {"A-1", "tick"}
            assert one.remembers_since("orders") is None


def test_a_topic_that_was_made_anew_is_read_anew(bus: Bus, opened: Callable[..., KafkaTarget]) -> None:
    target = opened()
    for number in range(3):
        bus.write({"status": f"old {number}"}, EFFECT)
    assert len(docs_of(target, reference=EFFECT)) == 3
    assert target.remembers_since("orders") is None
    bus.make_anew()
    for number in range(4):  # more than there were: the old position is one of the new topic, too
        bus.write({"status": f"new {number}"}, EFFECT)
    assert [doc["status"] for doc in docs_of(target, reference=EFFECT)] == [f"new {number}" for number in range(4)]
    assert target.remembers_since("orders") is not None


def test_a_topic_that_is_gone_gives_no_answer(bus: Bus, opened: Callable[..., KafkaTarget]) -> None:
    target = opened()
    bus.write({}, EFFECT)
    assert len(docs_of(target, reference=EFFECT)) == 1
    for future in bus.admin.delete_topics([bus.topic]).values():
        future.result(30)
    with pytest.raises(TargetUnavailable, match="there is no topic") as caught:
        wait_until(lambda: not docs_of(target, reference=EFFECT))
    assert caught.value.trouble == "unreadable"


def test_what_retention_took_is_not_called_absent(bus: Bus, opened: Callable[..., KafkaTarget]) -> None:
    each, latest = opened(), opened(LATEST)
    first = now_millis() - 3_600_000
    for number in range(6):
        bus.write({"status": "x"}, EFFECT, key=f"A-{number}", at_millis=first + 1_000 * number)
    assert len(docs_of(each, reference=EFFECT)) == 6
    assert status_at(latest, "A-0") == "x"
    bus.cut_off(4)
    bus.write({"status": "y"}, OTHER, key="A-6")
    assert isinstance(each, Forgetful)
    with bus.target() as fresh:  # one that starts now, and those that stood behind what was cut off
        assert [doc["position"] for doc in docs_of(fresh, reference=EFFECT)] == ["0:4", "0:5"]
        assert "no more is known" in str(status_at(fresh, "0:1"))
        assert [row_at(fresh, "0:7"), status_at(fresh, "0:6")] == [None, "y"]
        since = fresh.remembers_since("orders")
        assert since is not None
        assert since.timestamp() * 1000 == first + 4_000
    with bus.target(LATEST) as fresh:
        assert "no more is known" in str(status_at(fresh, "A-0"))
        bus.write(None, key="A-5")
        assert [row_at(fresh, "A-5"), status_at(fresh, "A-4")] == [None, "x"]
    bus.cut_off(8)
    assert docs_of(each, reference=EFFECT) == []
    assert each.remembers_since("orders") is not None


def test_a_window_bounds_what_is_known(bus: Bus, opened: Callable[..., KafkaTarget]) -> None:
    hour = 3_600_000
    for age in (30, 20, 3, 1):
        bus.write({"status": f"{age} hours old"}, EFFECT, at_millis=now_millis() - age * hour)
    target = opened(EACH + "keep_hours = 12\n")
    assert [doc["status"] for doc in docs_of(target, reference=EFFECT)] == ["3 hours old", "1 hours old"]
    since = target.remembers_since("orders")
    assert since is not None
    assert 11.9 < (time.time() - since.timestamp()) / 3600 <= 12.1
    assert "no more is known" in str(status_at(target, "0:0"))
    with bus.target(EACH + "keep_hours = 48\n") as longer:
        assert len(docs_of(longer, reference=EFFECT)) == 4
        assert longer.remembers_since("orders") is None
        assert longer.remembers_since("orders") is None


def test_a_window_moves_on(bus: Bus, opened: Callable[..., KafkaTarget]) -> None:
    target = opened(EACH + f"keep_hours = {5 / 3600}\n")
    bus.write({}, EFFECT)
    assert len(docs_of(target, reference=EFFECT)) == 1
    assert target.remembers_since("orders") is None
    wait_until(lambda: not docs_of(target, reference=EFFECT))
    assert target.remembers_since("orders") is not None


def test_more_than_may_be_kept_is_no_answer(bus: Bus, opened: Callable[..., KafkaTarget]) -> None:
    target = opened(EACH + "keep_megabytes = 1\n")
    for _ in range(3):
        bus.write({"status": "x" * 500_000}, EFFECT)
    for _ in range(2):
        with pytest.raises(TargetUnavailable, match="keep_megabytes") as caught:
            docs_of(target, reference=EFFECT)
        assert caught.value.trouble == "unreadable"


def test_partitions_that_were_added_are_read_and_the_later_message_of_a_key_counts(
    bus: Bus, opened: Callable[..., KafkaTarget]
) -> None:
    target = opened(LATEST)
    now = now_millis()
    bus.write({"status": "old"}, key="A-1", at_millis=now - 60_000)
    bus.write({"status": "same time"}, key="A-2", at_millis=now - 60_000)
    bus.write({"status": "older"}, key="A-3", at_millis=now - 60_000)
    assert status_at(target, "A-1") == "old"
    for future in bus.admin.create_partitions([NewPartitions(bus.topic, 3)]).values():
        future.result(30)
    wait_until(lambda: len(bus.admin.list_topics(bus.topic, timeout=10).topics[bus.topic].partitions) == 3)
    bus.producer = bus.new_producer()
    bus.write({"status": "new"}, key="A-1", at_millis=now, partition=2)
    bus.write(None, key="A-2", at_millis=now - 60_000, partition=1)
    bus.write({"status": "even older"}, key="A-3", at_millis=now - 90_000, partition=1)
    assert [status_at(target, key) for key in ("A-1", "A-3")] == ["new", "older"]
    assert "which is the later" in str(status_at(target, "A-2"))


def test_a_message_of_five_megabytes_is_told_by_its_headers(bus: Bus, opened: Callable[..., KafkaTarget]) -> None:
    bus.write({"status": "x" * 5_000_000}, EFFECT)
    bus.write({"status": "small"}, OTHER)
    target = opened()
    assert docs_of(target, reference=EFFECT) == ["it has 5000014 bytes, more than 4000000"]
    assert [doc["status"] for doc in docs_of(target, reference=OTHER)] == ["small"]


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (b"\xff\xfe", "its value is no UTF-8 text"),
        (b"[1]", "its value is no JSON object"),
        (b'{"a": 1, "a": 2}', "named twice"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": "\\u0000"}', "NUL"),
        (b"<html>", "not JSON"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_json_is_the_rows_problem(
    bus: Bus, opened: Callable[..., KafkaTarget], value: bytes, problem: str
) -> None:
    bus.write(value, EFFECT)
    bus.write({"status": "fine"}, EFFECT)
    found = docs_of(opened(), reference=EFFECT)
    assert problem in found[0]
    assert found[1]["status"] == "fine"


def test_headers_that_are_repeated_or_no_text(bus: Bus, opened: Callable[..., KafkaTarget]) -> None:
    name = "counterfoil-effect"
    bus.write({"n": 0}, EFFECT, headers=[(name, EFFECT)])
    bus.write({"n": 1}, EFFECT, headers=[(name, OTHER)])
    bus.write({"n": 2}, b"\xff")
    bus.write({"n": 3, "reference": "the header counts"}, headers=[(name, None)])
    target = opened()
    rows = {row.address.row.key[0]: row.row for row in target.scan("orders")}
    held = {
        key: row.problem or (row.doc["reference"] if isinstance(row.doc, dict) else None)
        for key, row in rows.items()
        if row
    }
    assert held == {
        "0:0": EFFECT,
        "0:1": [OTHER, EFFECT],
        "0:2": "its header or key for reference is no UTF-8 text",
        "0:3": None,
    }
    assert [doc["n"] for doc in docs_of(target, reference=EFFECT)] == [0]


def test_a_value_that_is_text(bus: Bus, opened: Callable[..., KafkaTarget]) -> None:
    bus.write("Ärger".encode(), EFFECT)
    bus.write(None, EFFECT)
    target = opened(EACH + 'value = "text"\n')
    assert [doc.get("value") for doc in docs_of(target, reference=EFFECT)] == ["Ärger", None]
    assert [doc["position"] for doc in docs_of(target, value="Ärger")] == ["0:0"]


def test_several_keys_of_messages_with_one_row(bus: Bus, opened: Callable[..., KafkaTarget]) -> None:
    text = LATEST.replace('message_key = "id"\n', "")
    bus.write({"id": "A-1", "status": "a"}, key="first")
    bus.write({"id": "A-1", "status": "b"}, key="second")
    bus.write({"id": 17, "status": "c"}, key="third")
    bus.write({"status": "no key"}, key="fourth")
    target = opened(text)
    assert "2 message keys" in str(status_at(target, "A-1"))
    assert status_at(target, "17") == "c"
    assert {row.address.row.key for row in target.scan("orders")} == {("A-1",), ("17",)}


def test_no_group_is_joined_and_no_topic_made(bus: Bus, opened: Callable[..., KafkaTarget]) -> None:
    bus.write({}, EFFECT)
    assert len(docs_of(opened(), reference=EFFECT)) == 1
    missing = opened(EACH.replace("{topic}", "nobody-made-this"))
    with pytest.raises(TargetUnavailable, match="there is no topic nobody-made-this"):
        docs_of(missing, reference=EFFECT)
    assert bus.admin.list_consumer_groups(request_timeout=30).result().valid == []
    assert "nobody-made-this" not in bus.admin.list_topics(timeout=30).topics


def test_a_long_read_goes_on_at_the_next_call(bus: Bus, opened: Callable[..., KafkaTarget]) -> None:
    value = json.dumps({"status": "x" * 1_000}).encode()
    for _ in range(20_000):
        bus.producer.produce(bus.topic, value, headers=[("counterfoil-effect", EFFECT)])
        bus.producer.poll(0)
    assert bus.producer.flush(120) == 0
    target = opened(call_seconds=0.05)
    told: list[TargetUnavailable] = []
    while len(told) < 1_000:
        try:
            assert len(docs_of(target, reference=EFFECT)) == 50
        except TargetUnavailable as error:
            told.append(error)
        else:
            break
    assert {error.trouble for error in told} == {"away"}
    left = [int(error.reason.split(" offsets")[0].rsplit(" ", 1)[1]) for error in told]
    assert left == sorted(left, reverse=True)
    assert len(list(target.scan("orders"))) == 20_000


def test_keys_that_can_name_no_message_are_told(bus: Bus, opened: Callable[..., KafkaTarget]) -> None:
    for text in (EACH.replace('["position"]', '["reference"]'), LATEST.replace('["id"]', '["position"]')):
        target = opened(text)
        [mistake] = target.check()
        assert "position" in str(mistake)
        with pytest.raises(TargetUnavailable, match="run the contract check"):
            target.read([order("0:0")])


def test_nobody_there_is_told_in_time(tmp_path: Path) -> None:
    contracts = contracts_of(tmp_path, EACH.replace("{topic}", "orders"))
    settings = {"bus": {"bootstrap_servers": f"{HOST}:{pick(None, ())}"}}
    started = time.monotonic()
    with open_target(contracts, "bus", settings) as target, pytest.raises(TargetUnavailable) as caught:
        target.read([order("0:0")])
    assert caught.value.trouble == "away"
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"sasl_mechanismz": "hunter2"}, "the setting sasl.mechanismz"),
        ({"security_protocol": "hunter2"}, "the setting security.protocol"),
    ],
)
def test_a_wrong_setting_is_told_without_its_value(tmp_path: Path, given: Mapping[str, str], sentence: str) -> None:
    contracts = contracts_of(tmp_path, EACH.replace("{topic}", "orders"))
    with pytest.raises(SettingsError) as caught:
        open_target(contracts, "bus", {"bus": {"bootstrap_servers": "x:1", **given}})
    assert sentence in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_secrets_are_not_shown() -> None:
    connection = KafkaConnection.model_validate({"bootstrap_servers": "x:1", "sasl_password": "hunter2"})
    assert "hunter2" not in repr(connection)
    assert connection.settings["sasl.password"] == "hunter2"
