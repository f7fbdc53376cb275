"""Emitted = stored + gaps + missing, exactly, whatever was lost, given up, repeated or said twice."""

import dataclasses
import itertools
import time
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from counterfoil import Event
from counterfoil.ids import new_id, task_id_of
from counterfoil_consumers.records import Reader
from counterfoil_consumers.source import Source
from counterfoil_consumers.store import Connection
from tests.consumers.made import PRODUCER, TASK, event
from tests.consumers.test_folds import ingester, read, record_at, source, store

__all__ = ["ingester", "read", "source"]  # fixtures

OWN = task_id_of("acme", f"producer:{PRODUCER.hex()}")
NUMBER = itertools.count()


@dataclasses.dataclass
class History:
    """What one producer emitted for one task, which of it arrived, and what was said of it."""

    emitted: int
    arrived: set[int]
    gaps: list[tuple[int, int]]
    claims: list[int]

    def events(self) -> list[Event]:
        own = itertools.count()

        def speaks(kind: str, body: dict[str, Any]) -> Event:
            return event(kind, body, task_id=OWN, seq=next(own))

        opened = {"host": "h", "pid": 1, "client": "c", "beat_interval": 1_000_000}
        made = [speaks("producer_opened", opened)]
        made += [event(seq=seq) for seq in sorted(self.arrived)]
        made += [
            speaks("producer_beat", {"open_tasks": [{"task_id": TASK, "last_seq": last}], "spooled": 0})
            for last in self.claims
        ]
        made += [
            speaks("gap", {"gap_task_id": TASK, "first_seq": first, "last_seq": last, "reason": "r"})
            for first, last in self.gaps
        ]
        return made


@st.composite
def histories(draw: st.DrawFn) -> History:
    emitted = draw(st.integers(1, 30))
    numbers = st.integers(0, emitted - 1)
    gaps = draw(st.lists(st.tuples(numbers, numbers).map(lambda pair: (min(pair), max(pair))), max_size=4))
    return History(emitted, draw(st.sets(numbers)), gaps, [*draw(st.lists(numbers, max_size=3)), emitted - 1])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(histories(), st.randoms(use_true_random=False))
def test_the_view_says_what_a_simple_model_says(
    ingester: Connection, source: Source, read: Reader, operator: Connection, history: History, dice: Any
) -> None:
    tenant = f"model-{next(NUMBER)}"
    records = [record_at(one, tenant, place) for place, one in enumerate(history.events())]
    records += [one._replace(offset=one.offset + 1) for one in records if dice.random() < 0.2]
    dice.shuffle(records)
    half = len(records) // 2
    store(ingester, source, read, records[:half])
    store(ingester, source, read, records[half:])
    row = operator.execute(
        "SELECT *, missing::text AS ranges FROM completeness WHERE tenant = %s AND task_id = %s", [tenant, TASK.hex()]
    ).fetchone()
    assert row is not None
    given_up = {seq for first, last in history.gaps for seq in range(first, last + 1)} - history.arrived
    missing = set(range(history.emitted)) - history.arrived - given_up
    assert (row["emitted"], row["stored"]) == (history.emitted, len(history.arrived))
    assert (row["given_up_count"], row["missing_count"]) == (len(given_up), len(missing))
    assert row["is_tail_missing"] == (bool(missing) and max(missing) > max(history.arrived, default=-1))
    assert row["stored"] + row["given_up_count"] + row["missing_count"] == row["emitted"]
    stored = operator.execute(
        "SELECT count(*) AS n FROM event WHERE tenant = %s AND task_id = %s", [tenant, TASK.hex()]
    )
    assert (stored.fetchone() or {})["n"] == row["stored"]


def test_a_beat_of_very_many_claims_is_folded_in_time(
    ingester: Connection, source: Source, read: Reader, operator: Connection
) -> None:
    claims = [{"task_id": new_id(), "last_seq": 5} for _ in range(20_000)]
    beats = [event("producer_beat", {"open_tasks": claims, "spooled": 0}, task_id=OWN, seq=seq) for seq in range(3)]
    costs = []
    for place, beat in enumerate(beats):
        started = time.perf_counter()
        store(ingester, source, read, [record_at(beat, "many", place)])
        costs.append(time.perf_counter() - started)
    print("seconds per beat of 20,000 claims:", [round(cost, 2) for cost in costs])
    assert operator.execute("SELECT FROM producer_claim WHERE tenant = 'many'").rowcount == 20_000
    assert max(costs) < 5
