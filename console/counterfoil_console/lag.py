"""How far ingest is behind the log, as brokers and store say it now."""

from counterfoil_console.settings import Settings
from counterfoil_consumers import topics
from counterfoil_consumers.store import connect, queries
from counterfoil_schemas import topics as declared_topics


def ingest_lag(settings: Settings) -> int:
    """Records in the log that are not ingested yet.

    Raises BrokersAway, TopicsError, and StoreAway.
    """
    topic = declared_topics(settings.profile, settings.topic_prefix)["events"]
    admin = topics.admin_client(settings.kafka)
    ends = topics.end_offsets(admin, topic.name, topic.partitions)
    group = {
        "consumer": settings.topic_prefix + settings.consumer,
        "cluster_id": topics.cluster_id(admin),
        "topic_id": topics.describe(admin, [topic.name])[topic.name].topic_id,
    }
    with connect(settings.dsn, "operator", application="console") as store:
        stored = {
            row["partition"]: row["next_offset"] for row in store.execute(queries("console")["stored_offsets"], group)
        }
    return sum(max(0, end - stored.get(partition, 0)) for partition, end in enumerate(ends))
