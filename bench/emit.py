"""What recording costs: `python -m bench.emit [--quick] [--json FILE]`.

Cost of a call on the caller's thread, events a second from one process to the last acknowledgement, processor time,
and how long the intent of a write waits for the brokers; the peers' clients on the same text in the same rounds.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from bench.rows import Failed, Measure, Row, command, interleaved
from bench.servers import servers
from counterfoil import Recorder, RecorderSettings
from counterfoil.redaction_policy import RedactionPolicy
from counterfoil_schemas import topics

UNITS = {
    "call_microseconds": "us",
    "call_p99_microseconds": "us",
    "cpu_microseconds": "us",
    "events_per_second": "1/s",
    "kept_share": "1",
    "ack_p50_milliseconds": "ms",
    "ack_p99_milliseconds": "ms",
}
_TEXT = "The customer asks for a refund of the second box, which came broken. " * 12  # an event of about 1 KiB
_WITH_A_SECRET = _TEXT[:-40] + " the password is hunter2-or-so"
_LEAST_PERF_RECORDS = 200_000  # of fewer it would be the start of its JVM that is measured
_ACKS_PER_SECOND = 500  # an intent and a result each: 1,000 events
Emit = Callable[[int], None]
Flush = Callable[[], int]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is done: calls and acknowledgements in a round, and rounds."""

    calls: int
    acks: int
    rounds: int


QUICK = Plan(calls=20_000, acks=500, rounds=3)
FULL = Plan(calls=100_000, acks=2_000, rounds=5)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; returns 0."""
    return command(
        "emit",
        __doc__,
        "emit: one event of about 1 KiB",
        lambda quick: run(QUICK if quick else FULL),
        ratios,
        arguments,
    )


def run(plan: Plan) -> list[Row | Failed]:
    """All contenders, interleaved."""
    with servers() as given:
        return interleaved(_contenders(plan, given.kafka, given.prefix, given.folder), plan.rounds, UNITS)


def ratios(rows: Sequence[Row | Failed]) -> Iterator[str]:
    """How we stand to each peer, by the medians."""
    medians = {(row.contender, row.metric): row.median for row in rows if isinstance(row, Row)}
    for ours in ("counterfoil", "counterfoil-without-redaction"):
        for peer in ("opentelemetry", "langfuse"):
            if (peer, "call_microseconds") in medians and (ours, "call_microseconds") in medians:
                times = medians[peer, "call_microseconds"] / medians[ours, "call_microseconds"]
                yield f"a call of {ours} costs {times:.1f} times less than {peer}'s"
    if ("kafka-producer-perf", "events_per_second") in medians:
        share = medians["counterfoil", "events_per_second"] / medians["kafka-producer-perf", "events_per_second"]
        yield f"events per second are {share:.2f} of ProducerPerformance's"


def _contenders(plan: Plan, kafka: dict[str, str], prefix: str, folder: Path) -> dict[str, Measure]:
    def peer(name: str) -> Measure:
        def measure() -> dict[str, float]:
            from bench import peers  # noqa: PLC0415  # one that is not installed is a row, not the end

            client: Callable[[str], AbstractContextManager[tuple[Emit, Flush]]] = getattr(peers, name)
            with client(_TEXT) as (emit, flush):
                return measured(emit, flush, plan.calls)

        return measure

    def perf() -> dict[str, float]:
        from bench.peers import producer_perf  # noqa: PLC0415  # as above

        topic = topics("local", prefix)["events"].name
        return {
            "events_per_second": producer_perf(
                kafka["bootstrap.servers"], topic, max(_LEAST_PERF_RECORDS, 5 * plan.calls), 1024
            )
        }

    settings = RecorderSettings(
        kafka=kafka, profile="local", topic_prefix=prefix, tenant="acme", identity_key="a key for the bench",
        spool_directory=folder / "spool",
    )  # fmt: skip
    without = settings.model_copy(update={"redaction": RedactionPolicy(enabled=False)})
    return {
        "counterfoil": lambda: _counterfoil(settings, plan, _TEXT),
        "counterfoil-without-redaction": lambda: _counterfoil(without, plan, _TEXT),
        "counterfoil-with-a-secret": lambda: _counterfoil(settings, plan, _WITH_A_SECRET),
        "opentelemetry": peer("opentelemetry"),
        "langfuse": peer("langfuse"),
        "kafka-producer-perf": perf,
    }


def _counterfoil(settings: RecorderSettings, plan: Plan, text: str) -> dict[str, float]:
    with Recorder(settings) as recorder, recorder.task("bench") as task:
        recorder.flush(30)  # connected

        def emit(number: int) -> None:
            task.completion(text, model="m", usage={"output_tokens": number})

        def flush() -> int:
            recorder.flush(60)
            return recorder.session.delivery.acknowledged - before

        before = recorder.session.delivery.acknowledged
        found = measured(emit, flush, plan.calls)
        waits = []
        due = time.perf_counter()
        for number in range(plan.acks):
            due += 1 / _ACKS_PER_SECOND
            time.sleep(max(0.0, due - time.perf_counter()))
            effect = task.effect("refund", target="payments", args={"n": number})
            started = time.perf_counter()
            effect.begin()
            waits.append((time.perf_counter() - started) * 1e3)
            effect.ok()
    waits.sort()
    return found | {
        "ack_p50_milliseconds": statistics.median(waits),
        "ack_p99_milliseconds": waits[len(waits) * 99 // 100],
    }


def measured(emit: Emit, flush: Flush, calls: int) -> dict[str, float]:
    """The cost of each call, of all of them to the end, and what share of them was kept."""
    for number in range(200):
        emit(number)
    already = flush()
    costs = [0] * calls
    cpu, started = time.process_time(), time.perf_counter()
    for number in range(calls):
        begun = time.perf_counter_ns()
        emit(number)
        costs[number] = time.perf_counter_ns() - begun
    kept = flush() - already
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    costs.sort()
    return {
        "call_microseconds": costs[calls // 2] / 1e3,
        "call_p99_microseconds": costs[calls * 99 // 100] / 1e3,
        "cpu_microseconds": cpu * 1e6 / calls,
        "events_per_second": calls / seconds,
        "kept_share": min(1.0, kept / calls),
    }


if __name__ == "__main__":
    raise SystemExit(main())
