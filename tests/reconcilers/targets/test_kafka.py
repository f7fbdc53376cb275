"""Kafka passes the suite of every kind, behind TLS and a login; what is its own is in test_kafka_reads."""

import json
import logging
import os
import signal
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # exported, but not by __all__

from counterfoil_console.stack import KafkaOptions, SaslSsl, StackState
from tests.fix_stack import stack_with
from tests.reconcilers.targets.conformance import SECRET, Conformance, Subject
from tests.waiting import freeze

LOGIN = ("agent", 'p"ss w\\rd=é')
_CONTRACT = """\
[targets.subject]
kind = "kafka"
[targets.subject.resources.items]
topic = "{topic}"
rows = "latest"
key = ["id"]
tenant = "tenant"
headers = {{ id = "item", tenant = "tenant" }}
"""


class Topic:
    """A topic whose messages are keyed by tenant and row, behind a login by SASL."""

    def __init__(self, state: StackState, authority: Path, topic: str) -> None:
        assert state.kafka is not None
        assert state.sasl_ssl_bootstrap_servers is not None
        self._pid = state.kafka.pid
        self._topic = topic
        self._producer = Producer(
            {"bootstrap.servers": state.bootstrap_servers, "linger.ms": 0, "logger": logging.getLogger("tests")}
        )
        self.contract = _CONTRACT.format(topic=topic)
        self.lost_contract = (_CONTRACT.format(topic="itemz"), "itemz")
        self.connection = {
            "bootstrap_servers": state.sasl_ssl_bootstrap_servers,
            "security_protocol": "SASL_SSL",
            "ssl_ca_location": str(authority / "ca.pem"),
            "sasl_mechanism": "SCRAM-SHA-512",
            "sasl_username": LOGIN[0],
            "sasl_password": LOGIN[1],
        }
        self.refused = {**self.connection, "sasl_password": SECRET}

    def put(self, tenant: str, key: str, fields: Mapping[str, Any]) -> None:
        self._produce(tenant, key, json.dumps(dict(fields)).encode())

    def remove(self, tenant: str, key: str) -> None:
        self._produce(tenant, key, None)

    def _produce(self, tenant: str, key: str, value: bytes | None) -> None:
        headers: list[tuple[str, str | bytes | None]] = [("item", key), ("tenant", tenant)]
        self._producer.produce(self._topic, value, f"{tenant}/{key}", headers=headers)
        assert self._producer.flush(30) == 0

    @contextmanager
    def away(self) -> Iterator[None]:
        """The broker neither answers nor closes its connections."""
        freeze(self._pid)
        try:
            yield
        finally:
            os.kill(self._pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def secure(authority: Path) -> Iterator[StackState]:
    """A broker that also listens with TLS, for one login."""
    with stack_with(KafkaOptions(sasl_ssl=SaslSsl(authority / "keystore.pem", *LOGIN))) as state:
        yield state


class TestKafka(Conformance):
    answers_within_seconds = 30.0

    @pytest.fixture
    def subject(self, secure: StackState, authority: Path) -> Subject:
        topic = f"items-{uuid.uuid4().hex[:8]}"
        admin = AdminClient({"bootstrap.servers": secure.bootstrap_servers}, logger=logging.getLogger("tests"))
        for future in admin.create_topics([NewTopic(topic, 3, 1)]).values():
            future.result(120)
        return Topic(secure, authority, topic)
