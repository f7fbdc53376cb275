"""Histories of agents, made up, and written by ingest's own way into the store: encoded, read, copied and folded.

A task has 200 events: 38 calls of a model, each with a message, a prompt, a completion and a call of a tool; every
sixth of these is a write. Three retrievals read documents that other tasks read, too; the target answers for five
writes. Every fourth task is carried on by a second process, every fiftieth tries one write again and again, every
twentieth is refused something. Beyond 100,000 events a store grows by twins of these tasks, made in SQL (twins.sql).
"""

import hashlib
import random
import re
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, LiteralString, cast

import psycopg

from counterfoil.codec import encode
from counterfoil.event import Event
from counterfoil.ids import partition_key, task_id_of
from counterfoil_consumers.projection import write_batch
from counterfoil_consumers.records import Reader, Record
from counterfoil_consumers.source import Source
from counterfoil_consumers.store import Connection, connect, fetch_one, queries
from counterfoil_consumers.texts import index_texts_now
from counterfoil_consumers.window import open_window

A_TASK = 200  # events
PARTITIONS = 24
TENANTS = tuple(f"tenant-{number}" for number in range(10))  # the first has half of the tasks
SOURCES = 1_000
_DAYS = 60
_ROUNDS = 38
_TOOLS = ("refund", "ship", "discount", "note")
_SYLLABLES = ("ba", "do", "ki", "lu", "me", "no", "pa", "re", "si", "tu", "va", "zo")
_WORDS = tuple(a + b + c for a in _SYLLABLES for b in _SYLLABLES for c in _SYLLABLES)
_SENTENCE = 8  # words
_BATCH = 10  # tasks
_TWINS = Path(__file__).with_name("twins.sql")
INGESTED = 500  # tasks, 100,000 events; what is beyond are their twins


@dataclass(frozen=True, slots=True)
class Told:
    """What is known of the task of a number."""

    number: int
    tenant: str
    task_ref: str
    task_id: bytes


def told(number: int) -> Told:
    """The same for the same number, in every process; from `INGESTED` on they are twins of the first ones."""
    first, twin = number % INGESTED, number // INGESTED
    tenant = TENANTS[0] if first % 2 else TENANTS[(first // 2) % len(TENANTS)]
    task_id = task_id_of(tenant, f"T-{first}")
    if not twin:
        return Told(number, tenant, f"T-{first}", task_id)
    return Told(number, tenant, f"T-{first}-{twin}", _twin_of(uuid.UUID(bytes=task_id), twin))


def _twin_of(of: uuid.UUID, number: int) -> bytes:
    """As the function `twin` of twins.sql."""
    digest = hashlib.md5(f"{of}{number}".encode()).hexdigest()
    return bytes.fromhex(f"{of.hex[:12]}7{digest[:3]}8{digest[3:18]}")


def fill(dsn: str, first: int, last: int, processes: int = 2) -> None:
    """Write the tasks of [first, last): below `INGESTED` by ingest with their words, else as twins of those."""
    ingested = [range(first + place, min(last, INGESTED), processes) for place in range(processes)]
    # Not by a fork: a child that collects another's Kafka clients crashes in librdkafka.
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        list(pool.map(_fill, [dsn] * processes, ingested))
    twins = range(max(1, -(-first // INGESTED)), -(-last // INGESTED))
    if not twins:
        return
    assert last % INGESTED == 0, f"twins come {INGESTED} tasks at a time"
    named = _twins_queries()
    with psycopg.connect(dsn, autocommit=True, options="-c search_path=counterfoil") as connection:
        for name in ("analyze", "make_twin", "drop_index"):
            connection.execute(named[name])
        with ThreadPoolExecutor(processes) as threads:
            list(threads.map(lambda number: _add_twins(dsn, number), twins))
        connection.execute(named["make_index"])


def _twins_queries() -> dict[str, LiteralString]:
    _, *parts = re.split(r"^-- name: (\w+)$", _TWINS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    # The text is a file of ours.
    return {name: cast("LiteralString", text) for name, text in zip(parts[::2], parts[1::2], strict=True)}


def _add_twins(dsn: str, number: int) -> None:
    # Statistics are old while the store grows: a nested loop would look best, and read everything 500 times.
    options = "-c search_path=counterfoil -c enable_nestloop=off"
    with psycopg.connect(dsn, autocommit=True, options=options) as connection:
        for name, query in _twins_queries().items():
            if name.startswith("add_"):
                connection.execute(query, {"number": number})


def _fill(dsn: str, numbers: Sequence[int]) -> None:
    with closing(connect(dsn, "ingester", application="bench")) as connection:
        source = _source_of(connection)
        reader = Reader(source.source_id, open_window(connection))
        for at in range(0, len(numbers), _BATCH):
            rows = [reader.row(record) for number in numbers[at : at + _BATCH] for record in _records(number)]
            written = write_batch(connection, source, rows, (), {})
            assert written.stored == len(rows), f"{written.stored} of {len(rows)} events were stored"
    index_texts_now(dsn)


def _source_of(connection: Connection) -> Source:
    where = {"cluster_id": "bench", "topic_id": "bench", "topic": "counterfoil.events"}
    connection.execute(queries("ingest")["add_source"], where)
    found = fetch_one(connection, queries("ingest")["find_source"], where)
    return Source("bench", "bench", "bench", found["source_id"], "dead", found["fact_oid"])


def _records(number: int) -> Iterator[Record]:
    partition, place = number % PARTITIONS, number // PARTITIONS
    for at, event in enumerate(events(number)):
        key = partition_key(event.tenant, event.task_id)
        offset, appended_at = place * A_TASK + at, event.occurred_at // 1000
        yield Record("counterfoil.events", partition, offset, appended_at, key, encode(event), ())


def events(number: int) -> list[Event]:
    """The 200 events of a task, in the order of its log."""
    return _History(told(number)).events()


def some_source(chance: random.Random) -> int:
    """The number of a document: few are read often."""
    return int(SOURCES * chance.random() ** 3)


@cache
def _sentences() -> tuple[str, ...]:
    """Few words are frequent."""
    chance = random.Random(0)  # as below
    return tuple(
        " ".join(_WORDS[int(len(_WORDS) * chance.random() ** 2)] for _ in range(_SENTENCE)) for _ in range(5_000)
    )


class _History:
    def __init__(self, task: Told) -> None:
        self._task = task
        self._random = random.Random(task.number)  # no secret: the same every time
        start = self._random.random() * _DAYS * 86_400
        self._micros = int((time.time() // 86_400 * 86_400 - 86_400 - start) * 1e6)
        self._producers = (self._random.randbytes(16), self._random.randbytes(16))
        self._seqs = [0, 0]
        self._made: list[Event] = []

    def events(self) -> list[Event]:
        self._add("task_started", {"title": self._text(4), "input": f'{{"ticket":"{self._task.task_ref}"}}'})
        judged: list[bytes] = []
        for at in range(_ROUNDS):
            if at % 13 == 0:
                self._add("retrieval", self._retrieval())
            message = {"digest": self._random.randbytes(32), "role": "user", "content": f'"{self._text(40)}"'}
            self._add("message", message)
            self._add("prompt", {"model": "m-large", "messages": [message["digest"]], "provider": "example"})
            self._add("completion", self._completion())
            effect = self._call(at)
            if effect is not None and len(judged) < 5:
                judged.append(effect)
        if self._task.number % 20 == 0:
            judged.pop()
            self._add("denial", {"about": "refund", "by": "policy:limits", "reason": "above the limit"})
        for effect in judged:
            self._add("verdict", self._verdict(), effect_id=effect)
        self._add("task_ended", {"status": "completed"})
        assert len(self._made) == A_TASK, f"a task has {len(self._made)} events"
        return self._made

    def _call(self, at: int) -> bytes | None:
        """A call and its result; the id of the effect where it is a write."""
        is_write, is_storm = at % 6 == 0, self._task.number % 50 == 0
        tool = self._random.choice(_TOOLS) if is_write else "lookup"
        step = 0 if is_storm else at
        effect = hashlib.sha256(f"{self._task.number}/{step}".encode()).digest()[:16] if is_write else None
        about = {"effect_id": effect, "attempt": at // 6 + 1 if is_storm else 1} if effect else {}
        args = f'{{"order":"A-{self._task.number}","step":{at},"amount":"12.50"}}'
        target = "payments" if is_write else None
        body = {"tool": tool, "target": target, "write": is_write, "args": args, "call_id": f"call_{at}"}
        intent = self._add("tool_intent", body, **about)
        outcome = "unknown" if is_storm and is_write else "ok"
        answer = {"tool": tool, "outcome": outcome, "result": f'{{"id":"re_{at}"}}', "duration": 183_000}
        self._add("tool_result", answer, causation_id=intent, **about)
        return effect

    def _verdict(self) -> dict[str, Any]:
        verdict = self._random.choices(("applied", "not_applied", "mismatched"), (94, 3, 3))[0]
        key = f'{{"order":"A-{self._task.number}"}}'
        return {
            "target": "payments", "tool": "refund", "verdict": verdict, "check_seq": 3, "contract_version": "1",
            "contract_digest": b"\x01" * 32, "evidence": '{"expected":"12.50"}',
            "resources": [{"resource": "refunds", "key": key}],
        }  # fmt: skip

    def _retrieval(self) -> dict[str, Any]:
        numbers = {some_source(self._random) for _ in range(4)}
        sources = [{"id": f"kb/{number}", "version": "3", "as_of": self._micros, "score": 0.5} for number in numbers]
        return {"query": self._text(6), "sources": sources, "omitted": None}

    def _completion(self) -> dict[str, Any]:
        return {
            "text": self._text(80), "decision": "refund", "rationale": self._text(12), "model": "m-large",
            "finish_reason": "stop", "input_tokens": 1200, "output_tokens": 48, "cost": "0.00231", "currency": "USD",
            "partial": False,
        }  # fmt: skip

    def _text(self, words: int) -> str:
        sentences = _sentences()
        chosen = [sentences[int(len(sentences) * self._random.random())] for _ in range(-(-words // _SENTENCE))]
        return f"order-{self._task.number} {' '.join(chosen)}"

    def _add(self, kind: str, body: dict[str, Any], **about: Any) -> bytes:
        self._micros += self._random.randrange(1, 2_000_000)
        second = self._task.number % 4 == 0 and 60 <= len(self._made) < 120
        event_id = (self._micros // 1000).to_bytes(6, "big") + b"\x70" + self._random.randbytes(1)
        event_id += b"\x80" + self._random.randbytes(7)
        self._made.append(
            Event(
                event_id=event_id, kind=kind, body=body, tenant=self._task.tenant, workflow="support",
                task_id=self._task.task_id, task_ref=self._task.task_ref, agent=f"agent-{self._task.number % 30}",
                release="2026-01-01", principal="svc-support", subject_ref=f"order A-{self._task.number}",
                trace_id=hashlib.md5(self._task.task_id).digest(), producer_id=self._producers[second],
                seq=self._seqs[second], occurred_at=self._micros, **about,
            )
        )  # fmt: skip
        self._seqs[second] += 1
        return event_id
