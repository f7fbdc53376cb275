"""Creates the declared topics and says where an existing one differs from its declaration."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # exported, but not by __all__
    AdminClient,
    ConfigResource,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from counterfoil.kafka import client_config
from counterfoil_consumers.errors import BrokersAway, TopicsError
from counterfoil_schemas import Topic

_TIMEOUT_SECONDS = 10.0
_MOVING = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_LEADER_EPOCH,
)
_MOVING_PAUSE_SECONDS = 0.02


@dataclass(frozen=True)
class TopicState:
    """A topic as the brokers have it. `topic_id` changes when a topic is made anew."""

    name: str
    topic_id: str
    partitions: int
    replication_factor: int
    config: Mapping[str, str]


def admin_client(kafka: Mapping[str, str]) -> AdminClient:
    """An admin client; keep it until its futures are resolved.

    Raises SettingsError when no broker is named.
    """
    return AdminClient(client_config(kafka, "counterfoil-admin", {}))


def cluster_id(admin: AdminClient) -> str:
    """The id of the Kafka cluster.

    Raises BrokersAway.
    """
    try:
        described = admin.describe_cluster(request_timeout=_TIMEOUT_SECONDS).result()
    except KafkaException as error:
        raise _away(error) from error
    return str(described.cluster_id)


def describe(admin: AdminClient, names: Sequence[str]) -> dict[str, TopicState]:
    """Those of `names` that exist.

    Raises BrokersAway.
    """
    found: dict[str, TopicState] = {}
    futures = admin.describe_topics(TopicCollection(list(names)), request_timeout=_TIMEOUT_SECONDS)
    for name, future in futures.items():
        try:
            topic = future.result()
        except KafkaException as error:
            if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                continue
            raise _away(error) from error
        resource = ConfigResource(ResourceType.TOPIC, name)
        try:
            entries = admin.describe_configs([resource], request_timeout=_TIMEOUT_SECONDS)[resource].result()
        except KafkaException as error:
            if error.args[0].code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                continue  # deleted since
            raise _away(error) from error
        found[name] = TopicState(
            name,
            str(topic.topic_id),
            len(topic.partitions),
            min((len(partition.replicas) for partition in topic.partitions), default=0),
            {key: str(entry.value) for key, entry in entries.items()},
        )
    return found


def create_missing(admin: AdminClient, declared: Sequence[Topic]) -> list[str]:
    """Create the topics that do not exist; returns their names.

    Raises BrokersAway, or TopicsError when the brokers refuse one.
    """
    have = describe(admin, [topic.name for topic in declared])
    missing = [topic for topic in declared if topic.name not in have]
    if not missing:
        return []
    new = [NewTopic(t.name, t.partitions, t.replication_factor, config=dict(t.config)) for t in missing]
    for name, future in admin.create_topics(new, request_timeout=_TIMEOUT_SECONDS).items():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise TopicsError(f"the brokers refuse to create {name}: {error.args[0].str()}") from error
    names = [topic.name for topic in missing]
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    # What the controller made, a broker knows a moment later, and leads a moment after that.
    while len(describe(admin, names)) < len(names) and time.monotonic() < deadline:
        time.sleep(_MOVING_PAUSE_SECONDS)
    for topic in missing:
        end_offsets(admin, topic.name, topic.partitions)
    return names


def differences(topic: Topic, state: TopicState | None) -> list[str]:
    """Sentences on where a topic differs from its declaration, each with what to do; empty when it does not."""
    if state is None:
        return [f"topic {topic.name} does not exist; run `counterfoil topics --create`"]
    found = []
    if state.partitions != topic.partitions:
        found.append(
            f"topic {topic.name} has {state.partitions} partitions and {topic.partitions} are declared; order and "
            "single-writer rows hang on that number, so make the topic anew under another topic_prefix"
        )
    if state.replication_factor < topic.replication_factor:
        found.append(
            f"topic {topic.name} has {state.replication_factor} replicas and {topic.replication_factor} are declared; "
            "reassign its partitions, or set COUNTERFOIL_PROFILE=local on a single broker"
        )
    for key, value in topic.config.items():
        if state.config.get(key) != value:
            found.append(
                f"topic {topic.name} has {key}={state.config.get(key)} and {value} is declared; "
                f"run kafka-configs --alter --topic {topic.name} --add-config {key}={value}"
            )
    return found


def check(admin: AdminClient, topic: Topic) -> TopicState:
    """The state of a topic that must be as declared in partitions and clock.

    Raises TopicsError with the first difference that would break a promise, or BrokersAway.
    """
    state = describe(admin, [topic.name]).get(topic.name)
    wrong = differences(topic, state)
    if state is None or state.partitions != topic.partitions:
        raise TopicsError(wrong[0])
    if state.config.get("message.timestamp.type") != "LogAppendTime":
        raise TopicsError(next(sentence for sentence in wrong if "message.timestamp.type" in sentence))
    return state


def end_offsets(admin: AdminClient, topic: str, partitions: int) -> list[int]:
    """The end offset of every partition, in order.

    Raises BrokersAway.
    """
    latest = OffsetSpec.latest()  # type: ignore[no-untyped-call]  # confluent-kafka's stub gap
    return _offsets(admin, topic, partitions, latest)


def start_offsets(admin: AdminClient, topic: str, partitions: int) -> list[int]:
    """The first offset still in the log of every partition, in order.

    Raises BrokersAway.
    """
    earliest = OffsetSpec.earliest()  # type: ignore[no-untyped-call]  # confluent-kafka's stub gap
    return _offsets(admin, topic, partitions, earliest)


def _offsets(admin: AdminClient, topic: str, partitions: int, spec: OffsetSpec) -> list[int]:
    asked = {TopicPartition(topic, partition): spec for partition in range(partitions)}
    # A new client may ask for the leaders on the connection that it is about to leave for the broker's own, and asks
    # again after three seconds; once a broker has answered, it has left it.
    cluster_id(admin)
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while True:
        futures = admin.list_offsets(asked, request_timeout=_TIMEOUT_SECONDS)
        try:
            found = {partition.partition: future.result().offset for partition, future in futures.items()}
        except KafkaException as error:
            # A topic just made, or a leader just moved: the client has yet to hear of it.
            if error.args[0].code() not in _MOVING or time.monotonic() > deadline:
                raise _away(error) from error
            time.sleep(_MOVING_PAUSE_SECONDS)
        else:
            return [int(found[partition]) for partition in range(partitions)]


def _away(error: KafkaException) -> BrokersAway:
    return BrokersAway(
        f"Kafka does not answer within {math.ceil(_TIMEOUT_SECONDS)} s: {error.args[0].str()}; "
        "check COUNTERFOIL_KAFKA__BOOTSTRAP_SERVERS and that the brokers run"
    )
