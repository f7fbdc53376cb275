"""How far ingest is behind the log, as brokers and store say it now."""

from confluent_kafka.admin import AdminClient

from counterfoil_console.settings import Settings
from counterfoil_consumers import topics
from counterfoil_consumers.errors import TopicsError
from counterfoil_consumers.store import connect, queries
from counterfoil_schemas import topics as declared_topics


def group_of(settings: Settings, admin: AdminClient, topic: str) -> dict[str, str]:
    """By which names the store knows ingest's offsets in this topic.

    Raises BrokersAway, and TopicsError where there is no such topic.
    """
    state = topics.describe(admin, [topic]).get(topic)
    if state is None:
        raise TopicsError(f"topic {topic} does not exist; run `counterfoil topics --create`")
    return {
        "consumer": settings.topic_prefix + settings.consumer,
        "cluster_id": topics.cluster_id(admin),
        "topic": topic,
        "topic_id": state.topic_id,
    }


def ingest_lag(settings: Settings) -> int:
    """Records in the log that are not ingested yet.

    Raises BrokersAway, TopicsError, and StoreAway.
    """
    topic = declared_topics(settings.profile, settings.topic_prefix)["events"]
    admin = topics.admin_client(settings.kafka)
    ends = topics.end_offsets(admin, topic.name, topic.partitions)
    group = group_of(settings, admin, topic.name)
    with connect(settings.dsn, "operator", application="console") as store:
        stored = {
            row["partition"]: row["next_offset"] for row in store.execute(queries("console")["stored_offsets"], group)
        }
    return sum(max(0, end - stored.get(partition, 0)) for partition, end in enumerate(ends))
