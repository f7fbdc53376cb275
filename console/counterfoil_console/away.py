"""Why Kafka is away: librdkafka retries in silence, so it is asked once what it meets."""

import time
from collections.abc import Mapping

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient

from counterfoil.errors import SettingsError
from counterfoil.kafka import client_config
from counterfoil_consumers.errors import BrokersAway

_PATIENCE_SECONDS = 2.0


def explained(error: BrokersAway, kafka: Mapping[str, str]) -> str:
    """The error's sentence, with what the first broker answered, such as a refused password or certificate."""
    what, _, todo = str(error).partition("; ")
    met = _met(kafka)
    return f"{what}{f' ({met})' if met else ''}{f'; {todo}' if todo else ''}"


def _met(kafka: Mapping[str, str]) -> str:
    heard: list[KafkaError] = []
    try:
        admin = AdminClient(client_config(kafka, "counterfoil-away", {"error_cb": heard.append, "log_level": 0}))
    except (KafkaException, SettingsError):
        return ""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while time.monotonic() < deadline:
        admin.poll(0.1)
        for error in heard:
            if error.code() != KafkaError._ALL_BROKERS_DOWN:  # the only name librdkafka gives it
                return error.str()
    return ""
