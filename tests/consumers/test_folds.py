"""Any order, repetition and split of the same events folds to the same rows."""

import dataclasses
import itertools
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from counterfoil import Event
from counterfoil.ids import new_id
from counterfoil_consumers.errors import BadRecord
from counterfoil_consumers.projection import write_batch
from counterfoil_consumers.records import Reader, Record
from counterfoil_consumers.source import Source
from counterfoil_consumers.store import Connection, connect
from tests.consumers.made import event, reader, record, source_of

pytestmark = pytest.mark.oldest_postgres_too

TASKS = [bytes([9]) * 16, bytes([8]) * 16]
PRODUCERS = [bytes([7]) * 16, bytes([6]) * 16]
NUMBER = itertools.count()

TEXT = st.sampled_from(["a", "b", "c"])
EFFECTS = st.sampled_from([bytes([5]) * 16, bytes([4]) * 16])
OUTCOMES = st.sampled_from(["ok", "accepted", "failed", "unknown", "partial", "denied"])
TOKENS = st.none() | st.integers(0, 2**62)
COSTS = st.sampled_from([None, "0.25", "-1", "1e5", "NaN", "much", "123456789.123456789"])
RESOURCES = st.lists(
    st.fixed_dictionaries({"resource": TEXT, "key": st.sampled_from(['{"id":1}', "2", "oops"])}), max_size=2
)
VERDICTS = st.fixed_dictionaries(
    {
        "target": TEXT,
        "verdict": st.sampled_from(["applied", "not_applied", "mismatched"]),
        "reason": st.none() | TEXT,
        "check_seq": st.integers(0, 3),
        "contract_version": TEXT,
        "contract_digest": st.binary(min_size=1, max_size=1),
        "resources": RESOURCES,
        "evidence": st.sampled_from(["{}", "[1]", "null", ""]),
    }
)
SOURCES = st.lists(
    st.fixed_dictionaries(
        {"id": TEXT, "version": st.none() | TEXT, "as_of": st.none() | st.integers(-(2**63), 2**63 - 1)}
    ),
    max_size=3,
)
SEQS = st.integers(0, 9) | st.sampled_from([-1, 2**63 - 1, 2**63 - 2, -(2**63)])
CLAIMS = st.lists(st.fixed_dictionaries({"task_id": st.sampled_from(TASKS), "last_seq": SEQS}), max_size=3)
OPERATIONS = st.fixed_dictionaries(
    {
        "operation": st.sampled_from(["acknowledge", "resolve", "repair"]),
        "by": TEXT,
        "reason": st.none() | TEXT,
        "verdict_event_id": st.none() | st.sampled_from([bytes([3]) * 16, bytes([2]) * 16]),
        "target": st.none() | TEXT,
        "check_seq": st.none() | st.integers(0, 3),
        "resources": RESOURCES,
    }
)
ARGS = st.sampled_from(['{"a":1}', "[]", "null", "{oops"])
LETTER = {"letter_id": bytes(16), "letter_kind": "effect", "letter_class": "c", "reason": "r", "attempts": 1}
BODIES: dict[str, tuple[bool, st.SearchStrategy[Any]]] = {
    "task_started": (False, st.fixed_dictionaries({"title": TEXT})),
    "task_suspended": (False, st.fixed_dictionaries({"reason": TEXT})),
    "task_ended": (False, st.fixed_dictionaries({"status": st.sampled_from(["completed", "failed"])})),
    "completion": (
        False,
        st.fixed_dictionaries(
            {
                "text": TEXT,
                "input_tokens": TOKENS,
                "output_tokens": TOKENS,
                "cached_tokens": TOKENS,
                "cost": COSTS,
                "model": st.none() | TEXT,
                "currency": st.none() | TEXT,
            }
        ),
    ),
    "retrieval": (False, st.fixed_dictionaries({"query": TEXT, "sources": SOURCES})),
    "producer_opened": (
        False,
        st.fixed_dictionaries({"host": TEXT, "pid": st.just(1), "client": TEXT, "beat_interval": st.integers(1, 9)}),
    ),
    "producer_beat": (False, st.fixed_dictionaries({"open_tasks": CLAIMS, "spooled": st.just(0)})),
    "producer_closed": (
        False,
        st.fixed_dictionaries(
            {"open_tasks": CLAIMS, "undelivered": st.just(0), "adopted_by": st.none() | st.sampled_from(PRODUCERS)}
        ),
    ),
    "gap": (
        False,
        st.fixed_dictionaries(
            {"gap_task_id": st.sampled_from(TASKS), "first_seq": SEQS, "last_seq": SEQS, "reason": TEXT}
        ),
    ),
    "tool_intent": (
        True,
        st.fixed_dictionaries({"tool": TEXT, "target": st.none() | TEXT, "write": st.just(True), "args": ARGS}),
    ),
    "tool_result": (
        True,
        st.fixed_dictionaries(
            {
                "tool": TEXT,
                "outcome": OUTCOMES,
                "result": st.none() | ARGS,
                "deadline": st.none() | st.integers(0, 2**62),
                "duration": st.just(1),
            }
        ),
    ),
    "verdict": (True, VERDICTS),
    "operation": (False, OPERATIONS),
    "dead_lettered": (True, st.just(LETTER)),
}


# Few kinds to a history, so that events meet in one row.
THEMES = [
    ["task_started", "task_suspended", "task_ended", "completion"],
    ["completion", "retrieval"],
    ["producer_opened", "producer_beat", "producer_closed", "gap"],
    ["tool_intent", "tool_result"],
    ["tool_result"],
    ["verdict"],
    ["operation"],
    ["tool_intent", "verdict", "dead_lettered"],
    sorted(BODIES),
]


@st.composite
def one_event(draw: st.DrawFn, kinds: list[str]) -> Event:
    kind = draw(st.sampled_from(kinds))
    of_effect, bodies = BODIES[kind]
    task = draw(st.sampled_from(TASKS))
    effect_id = draw(EFFECTS) if of_effect else None
    if kind == "verdict" and draw(st.booleans()):
        effect_id = None  # a change at the target
    return event(
        kind,
        draw(bodies),
        task_id=TASKS[0] if effect_id else task,
        effect_id=effect_id,
        workflow=draw(TEXT),
        agent=draw(TEXT),
        mode=draw(st.sampled_from(["live", "shadow"])),
        task_ref=draw(st.none() | TEXT),
        parent_task_id=draw(st.none() | EFFECTS),
        conversation_id=draw(st.none() | TEXT),
        subject_ref=draw(st.none() | TEXT),
        producer_id=draw(st.sampled_from(PRODUCERS)),
        occurred_at=draw(st.integers(0, 2**50)),
    )


@st.composite
def histories(draw: st.DrawFn) -> list[Event]:
    """Events numbered as their producers would, with ids in another order than their offsets."""
    drawn = draw(st.lists(one_event(draw(st.sampled_from(THEMES))), min_size=1, max_size=12))
    ids = draw(st.permutations([new_id() for _ in drawn]))
    seqs: dict[tuple[bytes, bytes], int] = {}
    numbered = []
    for one, event_id in zip(drawn, ids, strict=True):
        place = (one.producer_id, one.task_id)
        seqs[place] = seqs.get(place, -1) + 1
        numbered.append(dataclasses.replace(one, event_id=event_id, seq=seqs[place]))
    return numbered


@pytest.fixture
def ingester(database: str) -> Iterator[Connection]:
    with closing(connect(database, "ingester", application="test")) as connection:
        yield connection


@pytest.fixture
def source(ingester: Connection) -> Source:
    return source_of(ingester)


@pytest.fixture
def read(ingester: Connection, source: Source) -> Reader:
    return reader(ingester, source)


# Offsets are even, so that a repetition has the odd one beside it.
def record_at(one: Event, tenant: str, offset: int) -> Record:
    return record(dataclasses.replace(one, tenant=tenant), one.task_id[0], 2 * offset, 1_750_000_000_000 + offset)


def store(ingester: Connection, source: Source, read: Reader, records: list[Record]) -> None:
    rows = [read.row(one) for one in records]
    written = write_batch(ingester, source, rows, (), {})
    assert not written.set_aside, str(written.set_aside[0].reason)
    assert written.stored + written.repeated == len(records)


def folded(operator: Connection, tenant: str) -> dict[str, list[Any]]:
    """All rows of a tenant but its name; an offset of a repetition counts as the first one's."""
    found: dict[str, list[Any]] = {}
    for table in (
        *("task", "effect", "producer", "producer_claim", "completeness", "effect_resource", "target_change"),
        *("retrieval_source", "task_cost", "verdict_operation", "repair"),
    ):
        query = f"SELECT to_jsonb(t) - 'tenant' AS row FROM {table} AS t WHERE tenant = %s"
        rows = [row["row"] for row in operator.execute(query, [tenant])]
        for row in rows:
            for offset in {"intent_offset", "beat_offset", "offset"} & set(row):
                row[offset] = row[offset] and row[offset] // 2
        found[table] = sorted(rows, key=str)
    return found


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(histories(), st.data())
def test_order_repetition_and_split_do_not_matter(
    ingester: Connection, source: Source, read: Reader, operator: Connection, history: list[Event], data: st.DataObject
) -> None:
    number = next(NUMBER)
    straight, mixed = f"straight-{number}", f"mixed-{number}"
    store(ingester, source, read, [record_at(one, straight, place) for place, one in enumerate(history)])

    once = [record_at(one, mixed, place) for place, one in enumerate(history)]
    again = data.draw(st.lists(st.sampled_from(once), max_size=6, unique_by=lambda one: one.offset))
    shuffled = data.draw(st.permutations(once + [one._replace(offset=one.offset + 1) for one in again]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(shuffled)), max_size=4)))
    for begin, end in itertools.pairwise([0, *cuts, len(shuffled)]):
        store(ingester, source, read, list(shuffled[begin:end]))

    assert folded(operator, mixed) == folded(operator, straight)


def test_the_highest_check_seq_wins_in_one_batch_and_over_two(
    ingester: Connection, source: Source, read: Reader, operator: Connection
) -> None:
    plain = {"target": "a", "contract_version": "1", "contract_digest": b"\x01", "evidence": "{}", "resources": []}
    ids = sorted(new_id() for _ in range(3))
    judged = [(9, "applied"), (10, "mismatched"), (10, "not_applied")]  # of two with one check_seq, the later id
    for number, order in enumerate(itertools.permutations(range(3))):
        for cut in (0, 1, 2):
            tenant = f"order-{number}-{cut}"
            records = [
                record_at(
                    event(
                        "verdict",
                        plain | {"check_seq": judged[place][0], "verdict": judged[place][1]},
                        event_id=(ids[2], ids[0], ids[1])[place],
                        effect_id=bytes([5]) * 16,
                        task_id=TASKS[0],
                        seq=place,
                    ),
                    tenant,
                    place,
                )
                for place in order
            ]
            store(ingester, source, read, records[:cut])
            store(ingester, source, read, records[cut:])
            [effect] = folded(operator, tenant)["effect"]
            assert (effect["check_seq"], effect["verdict"]) == (10, "not_applied")
            assert effect["verdict_event_id"].replace("-", "") == ids[1].hex()


def test_the_latest_of_two_decisions_on_one_verdict_counts_in_any_order(
    ingester: Connection, source: Source, read: Reader, operator: Connection
) -> None:
    """Two people at once: the event with the higher id says who resolved it, and the acknowledgement stays beside."""
    ids = sorted(new_id() for _ in range(3))
    said = [("acknowledge", "ann"), ("resolve", "bea"), ("resolve", "cy")]
    for number, order in enumerate(itertools.permutations(range(3))):
        for cut in (0, 1, 2):
            tenant = f"decided-{number}-{cut}"
            records = [
                record_at(
                    event(
                        "operation",
                        {"operation": said[place][0], "by": said[place][1], "verdict_event_id": bytes([3]) * 16},
                        event_id=ids[place],
                        task_id=TASKS[0],
                        seq=place,
                    ),
                    tenant,
                    place,
                )
                for place in order
            ]
            store(ingester, source, read, records[:cut])
            store(ingester, source, read, records[cut:])
            [decided] = folded(operator, tenant)["verdict_operation"]
            assert (decided["acked_by"], decided["resolved_by"]) == ("ann", "cy")
            assert decided["resolved_event_id"].replace("-", "") == ids[2].hex()


def test_a_row_of_a_repair_that_is_too_long_to_be_looked_up_is_set_aside(read: Reader) -> None:
    body = {"operation": "resolve", "by": "ann", "target": "a", "resources": [{"resource": "r" * 2_001, "key": "[]"}]}
    with pytest.raises(BadRecord, match="a resource has 2001 bytes; at most 2000 can be looked up"):
        read.row(record_at(event("operation", body, task_id=TASKS[0]), "acme", 0))
