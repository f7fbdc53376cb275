"""Where records come from."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Source:
    """Where the records come from, and who stores them. `fact_oid` is that of the type fact in this database."""

    consumer: str
    cluster_id: str
    topic_id: str
    source_id: int
    dead_letters_topic: str
    fact_oid: int
