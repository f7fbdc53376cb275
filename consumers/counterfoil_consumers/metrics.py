"""Every metric of ingest, relay and retention, declared once with its meaning and unit."""

from prometheus_client import Counter, Gauge, Histogram

EVENTS_STORED = Counter("counterfoil_ingest_events_stored_total", "Events landed in the store for the first time.")
EVENTS_REPEATED = Counter("counterfoil_ingest_duplicates_total", "Consumed records that repeated a stored event.")
EVENTS_UNREAD = Counter("counterfoil_ingest_unread_total", "Events stored with a kind or body unknown to this version.")
RECORDS_SET_ASIDE = Counter(
    "counterfoil_ingest_dead_letters_total", "Records set aside with their bytes, by class.", ["letter_class"]
)
BATCH_SECONDS = Histogram(
    "counterfoil_ingest_batch_seconds",
    "Seconds that a batch took to be written and committed.",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
OFFSETS_EMPTY = Counter(
    "counterfoil_ingest_empty_offsets_total", "Offsets at which no record stood, each on record in log_gap."
)
LAG = Gauge(
    "counterfoil_ingest_lag_records", "Records between the stored offset and the partition's end.", ["partition"]
)
FENCED = Counter("counterfoil_ingest_fenced_total", "Batches rolled back because another owner had the partition.")
PARTITIONS_LOST = Counter(
    "counterfoil_ingest_partitions_lost_total", "Partitions that went to another member without being given back."
)
STORE_RETRIES = Counter("counterfoil_ingest_store_retries_total", "Times the store went away and was connected anew.")
REGISTRY_RETRIES = Counter(
    "counterfoil_ingest_registry_retries_total", "Batches put off because the Schema Registry could not be asked."
)
OUTBOX_WAITING = Gauge("counterfoil_outbox_waiting", "Outbox rows that no broker has acknowledged yet.")
OUTBOX_RELAYED = Counter("counterfoil_outbox_relayed_total", "Outbox rows acknowledged by the brokers.")
EVENTS_DROPPED = Counter(
    "counterfoil_retention_events_dropped_total", "Events dropped past their time, those held too.", ["retention_class"]
)
EVENTS_ASTRAY = Gauge(
    "counterfoil_retention_astray_events", "Events in no partition of their own, by reason.", ["reason"]
)
EVENTS_HELD = Gauge(
    "counterfoil_retention_held_events", "Events that a hold keeps, or kept, past their time.", ["retention_class"]
)
LEAVES_OVERDUE = Gauge("counterfoil_retention_overdue", "Partitions past their time that the last run did not drop.")
LAST_RETENTION_RUN = Gauge("counterfoil_retention_last_run_timestamp_seconds", "When the last run of retention ended.")
