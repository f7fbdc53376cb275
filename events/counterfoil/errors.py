"""The errors of the recorder, split by who has to act.

CounterfoilError
├── SettingsError         yours: a setting is missing or wrong
├── UsageError            yours: a verb was used in the wrong place
├── AuditUnavailable      for now: an intent could not be made durable, so the tool did not run
├── Halted                for now, by a person: a standing order stops this write
│   └── ControlStale      for now: whether one does could not be known for too long
├── AlreadyApplied        nobody's: the reply of a write was lost, and the target has it: do not send it again
├── ControlAway           for now: the control topic can't be read, or did not take an order
├── BlobMissing           theirs: a text that was kept outside of its event is not there, or is another one
├── BlobsAway             for now, or yours: the blob store does not answer, or refuses
├── SealedAway            for now, or yours: a sealed value can't be opened: its key is not at hand, or it was altered
├── RegistryError         for now, or yours: the Schema Registry does not answer, or refuses
├── EventsUndelivered     for now: closing gave up on events that no broker acknowledged
└── DecodeError           theirs: these bytes are not an event that we can read
"""


class CounterfoilError(Exception):
    """Base of everything that Counterfoil raises."""


class SettingsError(CounterfoilError):
    """A setting is missing or wrong; the message names it, and what to do."""


class UsageError(CounterfoilError):
    """A verb was used where it has no meaning, such as a second outcome for one attempt."""


class AuditUnavailable(CounterfoilError):
    """The intent is not durable, so the write must not run (fail closed).

    `event_id` is the intent's id (16 bytes): it may still reach the log later.
    """

    def __init__(self, message: str, event_id: bytes) -> None:
        super().__init__(message)
        self.event_id = event_id


class Halted(CounterfoilError):
    """A standing order stops this write: it did not run, and may be tried again once the order is lifted.

    `order_id` is 16 bytes; `scope` is what the order stops, `by` and `reason` are whose it is and why.
    """

    def __init__(self, message: str, *, order_id: bytes | None, scope: str, by: str, reason: str | None) -> None:
        super().__init__(message)
        self.order_id = order_id
        self.scope = scope
        self.by = by
        self.reason = reason


class ControlStale(Halted):
    """No order is known to stop this write, but for longer than `stale_after_seconds` none could have been heard of.

    `order_id` is None; `by` names the setting that stops the write then.
    """


class AlreadyApplied(CounterfoilError):
    """A write that ended in doubt is at its target, by the target's own word: it must not be sent again.

    `result` is the reply that another attempt recorded, as JSON was read (None: nobody got one). `effect_id`: 16 bytes.
    """

    def __init__(self, message: str, *, effect_id: bytes, result: object) -> None:
        super().__init__(message)
        self.effect_id = effect_id
        self.result = result


class ControlAway(CounterfoilError):
    """The control topic can't be read to its end, or did not take an order; try again."""


class BlobMissing(CounterfoilError):
    """The text that a claim check stands for is not where it should be, or not what its digest says."""


class BlobsAway(CounterfoilError):
    """The blob store does not answer, or refuses; the message says what it said."""


class SealedAway(CounterfoilError):
    """A sealed value can't be opened: its key is not at hand, or it was altered; the message says which."""


class RegistryError(CounterfoilError):
    """The Schema Registry does not answer, or refuses; the message says which, and what to do.

    `status`: that of HTTP which it answered with; None: it gave no answer.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class EventsUndelivered(CounterfoilError):
    """`count` events were not acknowledged when the recorder was closed; the store will show the holes."""

    def __init__(self, message: str, count: int) -> None:
        super().__init__(message)
        self.count = count


class DecodeError(CounterfoilError):
    """Bytes that are not a readable event. `reason_class` is `poison` or `incompatible`."""

    def __init__(self, message: str, reason_class: str = "poison") -> None:
        super().__init__(message)
        self.reason_class = reason_class
