"""The errors of ingest and store, split by who has to act; all are CounterfoilError.

├── StoreError         yours: the database is missing, older, newer, or refuses us
├── StoreAway          for now: it does not answer
├── BrokersAway        for now: Kafka does not answer
├── TopicsError        yours: a topic is missing or not as declared
├── IngestStopped      yours: going on would lose or repeat events; an operator decides
├── RebuildStopped     yours: the projections can't be rebuilt, or not be swapped
├── Fenced             for now: another process owns this partition
└── BadRecord          theirs: this record can't be stored
"""

from counterfoil.errors import CounterfoilError


class StoreError(CounterfoilError):
    """The store is not as this version needs it."""


class StoreAway(CounterfoilError):
    """The store does not answer; try again."""


class BrokersAway(CounterfoilError):
    """Kafka does not answer; try again."""


class TopicsError(CounterfoilError):
    """A topic is missing or differs from its declaration."""


class IngestStopped(CounterfoilError):
    """The log is not the one that the stored offsets speak of; going on would lose or repeat events."""


class RebuildStopped(CounterfoilError):
    """The projections were not rebuilt, or not swapped; the live ones are as they were."""


class Fenced(CounterfoilError):
    """This owner's epoch or offset is no longer the stored one; nothing was written."""


class BadRecord(CounterfoilError):
    """One record can't be stored. `letter_class` and the message go to its dead letter."""

    def __init__(self, message: str, letter_class: str = "poison", tenant: str | None = None) -> None:
        super().__init__(message)
        self.letter_class = letter_class
        self.tenant = tenant
