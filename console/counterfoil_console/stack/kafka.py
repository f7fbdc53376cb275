"""One Apache Kafka broker that is its own controller (KRaft), on the loopback interface."""

from __future__ import annotations

import base64
import shutil
import uuid

from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined] # its stubs forget to export them
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from counterfoil_console.stack.errors import ServerFailed
from counterfoil_console.stack.kafka_settings import KafkaOptions, SaslSsl, server_properties
from counterfoil_console.stack.layout import Layout
from counterfoil_console.stack.ports import HOST, is_open
from counterfoil_console.stack.processes import Recognise, run, spawn, tail
from counterfoil_console.stack.runtime import Runtime
from counterfoil_console.stack.state import ProcessRecord, StackState, write_private

START_TIMEOUT_SECONDS = 90.0
STOP_GRACE_SECONDS = 30.0  # the first broker of a cache writes the class archive as it ends

_ENVIRONMENT = {"LC_ALL": "C.UTF-8", "TZ": "UTC"}  # nothing of the caller's, such as JAVA_TOOL_OPTIONS
_SCRAM_ITERATIONS = 4096
_REQUEST_SECONDS = 10.0


def recogniser(mark: str) -> Recognise:
    """Tells command lines of the broker, and of the tool that formats its storage."""
    argument = f"-Dcounterfoil.stack={mark}"
    return lambda command: argument in command


def format_storage(runtime: Runtime, options: KafkaOptions, layout: Layout, state: StackState) -> None:
    """Make the data folder of a new broker; a half-made one never gets the folder's name.

    Raises ServerFailed.
    """
    draft = layout.kafka.with_name("kafka.new")
    shutil.rmtree(draft, ignore_errors=True)
    (draft / "tmp").mkdir(mode=0o700, parents=True)
    properties = draft / "format.properties"
    write_private(properties, server_properties(options, state, draft / "log").encode("ascii"))
    cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    jvm = runtime.command(layout.mark, options.heap_mebibytes, draft / "tmp")
    tool = ["kafka.tools.StorageTool", "format", f"--cluster-id={cluster_id}", "--config", str(properties)]
    if run([*jvm, *tool], layout.kafka_log, _ENVIRONMENT) != 0:
        raise ServerFailed("Kafka", "could not format its storage", layout.kafka_log, tail(layout.kafka_log))
    properties.unlink()
    draft.rename(layout.kafka)


def start(runtime: Runtime, options: KafkaOptions, layout: Layout, state: StackState) -> ProcessRecord:
    """Start the broker on formatted storage; it does not answer yet."""
    temporary = layout.kafka / "tmp"
    shutil.rmtree(temporary, ignore_errors=True)  # native libraries that a killed broker had unpacked
    temporary.mkdir(mode=0o700)
    properties = server_properties(options, state, layout.kafka / "log")
    write_private(layout.kafka_properties, properties.encode("ascii"))
    jvm = runtime.command(layout.mark, options.heap_mebibytes, temporary, record_archive=True)
    return spawn([*jvm, "kafka.Kafka", str(layout.kafka_properties)], layout.kafka_log, _ENVIRONMENT)


def answers(port: int, timeout_seconds: float = 1.0) -> bool:
    """Whether the broker has told us its metadata and is not fenced."""
    if not is_open(port):
        return False
    try:
        return bool(_admin(port).list_topics(timeout=timeout_seconds).brokers)
    except KafkaException:
        return False


def store_scram_credentials(port: int, login: SaslSsl) -> None:
    """Let the listener's user log in by SCRAM as well; the credentials are kept in the cluster's metadata."""
    upsertions = [
        UserScramCredentialUpsertion(
            login.username, ScramCredentialInfo(mechanism, _SCRAM_ITERATIONS), login.password.encode()
        )
        for mechanism in (ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512)
    ]
    admin = _admin(port)  # to be kept until its futures are resolved
    for upsertion in upsertions:  # one at a time: a request may name a user once
        for future in admin.alter_user_scram_credentials([upsertion]).values():
            future.result(timeout=_REQUEST_SECONDS)


def _admin(port: int) -> AdminClient:
    return AdminClient(
        {
            "bootstrap.servers": f"{HOST}:{port}",
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 100,
            "log_level": 0,
        }
    )
