"""Kafka's clients as this project uses them: the settings that matter here, the rest passed through."""

import logging
from collections.abc import Mapping
from typing import Any

import confluent_kafka.admin  # noqa: F401  # `list_topics` needs it, and a thread must import nothing
from confluent_kafka import KafkaError, Message, Producer

from counterfoil.errors import SettingsError

logger = logging.getLogger("counterfoil.kafka")
# librdkafka retries most of what it logs; without a handler of the user's, none of it goes to stderr.
logger.addHandler(logging.NullHandler())

# librdkafka's default partitioner is not Java's: the two agree on 20 of 200 keys.
_PRODUCER = {
    "acks": "all",
    "enable.idempotence": True,
    "partitioner": "murmur2_random",
    "linger.ms": 0,
    "compression.type": "lz4",
    "message.max.bytes": 1_000_000_000,  # the brokers decide: a dead letter carries the largest record they ever took
    "queue.buffering.max.messages": 20_000,
    "queue.buffering.max.kbytes": 65_536,
}


def client_config(kafka: Mapping[str, str], client_id: str, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """librdkafka's configuration: our defaults, under everything that the user set.

    Raises SettingsError when no broker is named.
    """
    if not kafka.get("bootstrap.servers"):
        raise SettingsError(
            "no Kafka broker is named: set COUNTERFOIL_KAFKA__BOOTSTRAP_SERVERS=host:port, "
            'or start the local stack with `counterfoil up` and run eval "$(counterfoil env)"'
        )
    return {"client.id": client_id, "logger": logger, **defaults, **kafka}


def new_producer(kafka: Mapping[str, str], client_id: str, defaults: Mapping[str, Any] | None = None) -> Producer:
    """An idempotent producer whose log goes to `logging`, not to stderr; what the user sets wins over `defaults`.

    Raises SettingsError when librdkafka refuses a setting.
    """
    config = client_config(kafka, client_id, _PRODUCER | dict(defaults or {}))
    for name in ("acks", "request.required.acks"):
        if str(config.get(name, "all")) not in ("all", "-1"):
            raise SettingsError(
                f"{name}={config[name]} would call written what a broker may lose yet: "
                f"unset COUNTERFOIL_KAFKA__{name.upper().replace('.', '_')}, which then is all"
            )
    try:
        return Producer(config)
    except Exception as error:  # KafkaException and, for types, TypeError or ValueError
        raise SettingsError(f"Kafka's client refuses a setting of COUNTERFOIL_KAFKA__…: {error}") from error


def delivery_error(error: KafkaError | None, message: Message) -> KafkaError | None:
    """Why a delivery report proves nothing: its error, or that it names no offset. None: a broker has the message.

    Where a batch is refused and the one sent behind it is taken, librdkafka calls the first one acknowledged too (an
    "implicit ack"). A broker that does not know the producer yet takes a batch with any sequence number, so the first
    may be nowhere (confluentinc/confluent-kafka-go#921). Such a report has no offset; what is sent again because of one
    may be in the log twice.
    """
    if error is None and message.offset() is None:
        return KafkaError(KafkaError._NO_OFFSET, "acknowledged without an offset, which proves nothing")
    return error
