"""What others do for one event of the same text: their own clients, with an exporter that takes everything at once."""

import os
import subprocess
import threading
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from langfuse import Langfuse
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.util.types import AnyValue

from counterfoil_console.stack import default_directories
from counterfoil_console.stack.jars import LockedJar, provide_jars, read_lock
from counterfoil_console.stack.java import find_java
from counterfoil_console.stack.maven import fetch_from_maven
from counterfoil_console.stack.progress import silent

# Kafka's own tools, which the local stack runs without.
_TOOLS = LockedJar(
    "org.apache.kafka",
    "kafka-tools",
    "4.4.0",
    "4eb9a7fbfd63badfd8d1a677aa2d54b47b2b2d442ff7d68fd223972afea1954c",
    751995,
)


class Taking(SpanExporter):
    """Takes every span and counts it."""

    def __init__(self) -> None:
        self.count = 0

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.count += len(spans)
        return SpanExportResult.SUCCESS

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        del timeout_millis
        return True


Emit = Callable[[int], None]
Flush = Callable[[], int]


@contextmanager
def opentelemetry(text: str) -> Iterator[tuple[Emit, Flush]]:
    """`start_span` with 11 attributes and `end`, through a BatchSpanProcessor with its defaults."""
    exporter = Taking()
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(exporter))
    tracer = provider.get_tracer("bench")

    def emit(number: int) -> None:
        attributes: dict[str, AnyValue] = {
            "tenant": "acme", "workflow": "support", "task": "T-9", "agent": "support-7", "release": "1",
            "gen_ai.system": "x", "gen_ai.request.model": "m", "gen_ai.usage.input_tokens": 12,
            "gen_ai.usage.output_tokens": number, "environment": "production", "text": text,
        }  # fmt: skip
        tracer.start_span("completion", attributes=attributes).end()

    def flush() -> int:
        provider.force_flush()
        return exporter.count

    try:
        yield emit, flush
    finally:
        provider.shutdown()


@contextmanager
def langfuse(text: str) -> Iterator[tuple[Emit, Flush]]:
    """`start_observation` of a generation and `end`, its exporter replaced."""
    exporter = Taking()
    client = Langfuse(
        public_key=f"pk-{uuid.uuid4()}", secret_key="sk-bench", base_url="http://127.0.0.1:9", span_exporter=exporter,
        tracer_provider=TracerProvider(),
    )  # fmt: skip

    def emit(number: int) -> None:
        client.start_observation(
            name="completion", as_type="generation", output=text, model="m", usage_details={"output": number}
        ).end()

    def flush() -> int:
        client.flush()
        return exporter.count

    try:
        yield emit, flush
    finally:
        client.shutdown()


def producer_perf(bootstrap_servers: str, topic: str, count: int, size_bytes: int) -> float:
    """Events a second of Kafka's ProducerPerformance: idempotent, acks=all, lz4.

    Raises RuntimeError with what it said.
    """
    cache = default_directories(os.environ).cache / "jars"
    jars = provide_jars((_TOOLS, *read_lock()), cache, fetch_from_maven, silent, threading.Event())
    java = find_java(os.environ.get("PATH")).executable
    command = [
        str(java), "-Xmx512m", "-cp", os.pathsep.join(map(str, jars)), "org.apache.kafka.tools.ProducerPerformance",
        "--topic", topic, "--num-records", str(count), "--record-size", str(size_bytes), "--throughput", "-1",
        "--producer-props", f"bootstrap.servers={bootstrap_servers}", "acks=all", "enable.idempotence=true",
        "compression.type=lz4",
    ]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    last = next((line for line in reversed(ended.stdout.splitlines()) if "records/sec" in line), None)
    if ended.returncode or last is None:
        raise RuntimeError((ended.stderr or ended.stdout).strip().splitlines()[-1][:200])
    return float(last.split("records sent, ")[1].split(" records/sec")[0])
