"""One process's life as a producer: its id, its numbers, its beats.

`seq` has no holes per (producer, task), so what never arrives is provable. A forked child is another
producer: it gets a session of its own.
"""

import itertools
import logging
import os
import platform
import threading
import time
from collections import defaultdict
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from typing import Any, Protocol

from counterfoil.delivery import Delivery
from counterfoil.errors import UsageError
from counterfoil.event import Event
from counterfoil.ids import Id, new_id, partition_key, task_id_of
from counterfoil.reduction import encode_within_limit
from counterfoil.settings import RecorderSettings
from counterfoil_schemas import topics

logger = logging.getLogger("counterfoil")

_MICROS = 1_000_000
# What a name may have: names stand in indexes of the store.
MAX_NAME_CHARACTERS = 500
_MAX_LISTED_TASKS = 20_000  # of at most 26 bytes each


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What all events of one task share: the envelope less what is each event's own."""

    tenant: str
    workflow: str
    task_id: Id
    agent: str
    environment: str
    mode: str
    task_ref: str | None = None
    parent_task_id: Id | None = None
    conversation_id: str | None = None
    subject_ref: str | None = None
    release: str | None = None
    principal: str | None = None
    on_behalf_of: str | None = None
    trace_id: bytes | None = None

    def __post_init__(self) -> None:
        for name in _SHARED:
            value = getattr(self, name)
            if isinstance(value, str) and len(value) > MAX_NAME_CHARACTERS:
                raise UsageError(
                    f"{name} has {len(value)} characters, and {MAX_NAME_CHARACTERS} are the most: {value[:40]!r}…"
                )


_SHARED = tuple(field.name for field in fields(Origin))


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What one event refers to, besides its task. `event_id` is given where others must name it beforehand."""

    event_id: Id | None = None
    effect_id: Id | None = None
    attempt: int | None = None
    causation_id: Id | None = None


NOTHING = About()


@dataclass
class _Tenant:
    origin: Origin
    open_tasks: dict[Id, int] = field(default_factory=dict)


class Recording(Protocol):
    """What a task needs of the recorder: the producer of this process, and how writes are identified and waited for."""

    settings: RecorderSettings
    identity_key: bytes

    @property
    def session(self) -> "Session":
        """This process's producer, started at first use."""


class Session:
    """A started producer. Thread-safe."""

    def __init__(self, settings: RecorderSettings) -> None:
        self.producer_id = new_id()
        self.pid = os.getpid()
        self._settings = settings
        topic = topics(settings.profile, settings.topic_prefix)["events"].name
        self._delivery = Delivery(settings.kafka, topic, f"counterfoil-{self.producer_id.hex()[-8:]}")
        self._seqs: defaultdict[Id, int] = defaultdict(int)
        self._tenants: dict[str, _Tenant] = {}
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._said_goodbye = False
        self._beats = threading.Thread(target=self._beat, name="counterfoil-beat", daemon=True)
        self._delivery.start()
        self._beats.start()

    def record(
        self, origin: Origin, kind: str, body: Mapping[str, Any], about: About = NOTHING
    ) -> tuple[Event, "Future[None]"]:
        """Number one event and hand it to the brokers; the future ends with their answer.

        Raises UsageError when the body can't be encoded, or the session is closed; nothing was numbered then.
        """
        with self._lock:
            self._greet(origin)
            event = self._event(origin, kind, body, about)
            return event, self._send(event)

    def opened(self, origin: Origin) -> None:
        """From now on the task is among those that beats list."""
        with self._lock:
            self._greet(origin)
            self._tenants[origin.tenant].open_tasks[origin.task_id] = self._seqs[origin.task_id] - 1

    def ended(self, origin: Origin) -> None:
        """From now on it is not."""
        with self._lock:
            self._tenants[origin.tenant].open_tasks.pop(origin.task_id, None)

    def flush(self, timeout_seconds: float) -> int:
        """Wait for the brokers' answers; returns how many are still missing."""
        return self._delivery.flush(timeout_seconds)

    def close(self, timeout_seconds: float) -> int:
        """Say goodbye for every tenant, wait, and return how many events were never acknowledged.

        Returns 0 when it is closed already.
        """
        if self._closing.is_set():
            return 0
        self._closing.set()
        deadline = time.monotonic() + timeout_seconds
        if self._beats is not threading.current_thread():
            self._beats.join(timeout_seconds)
        self._delivery.flush(timeout_seconds)
        with self._lock:
            for tenant in self._tenants.values():
                body = {"open_tasks": _open(tenant), "undelivered": self._delivery.undelivered}
                self._say(tenant.origin, "producer_closed", body)
            self._said_goodbye = True  # whoever waited for the lock would send what nobody flushes any more
        return self._delivery.close(max(0.5, deadline - time.monotonic()))

    def _greet(self, origin: Origin) -> None:
        if self._said_goodbye:
            raise UsageError("this recorder is closed; open another one")
        if origin.tenant in self._tenants:
            return
        name = f"producer:{self.producer_id.hex()}"
        own = Origin(
            tenant=origin.tenant,
            workflow=origin.workflow,
            agent=origin.agent,
            environment=origin.environment,
            mode=origin.mode,
            task_id=task_id_of(origin.tenant, name),
            task_ref=name,
        )
        self._tenants[origin.tenant] = _Tenant(own)
        body = {
            "host": platform.node(),
            "pid": self.pid,
            "client": f"counterfoil-python/{version('counterfoil')}",
            "beat_interval": int(self._settings.beat_interval_seconds * _MICROS),
        }
        try:
            self._say(own, "producer_opened", body)
        except UsageError:
            del self._tenants[origin.tenant]  # not greeted: the next task says it
            raise

    def _say(self, origin: Origin, kind: str, body: Mapping[str, Any]) -> None:
        self._send(self._event(origin, kind, body))

    def _event(self, origin: Origin, kind: str, body: Mapping[str, Any], about: About = NOTHING) -> Event:
        shared = {name: getattr(origin, name) for name in _SHARED}
        return Event(
            **shared,
            kind=kind,
            body=body,
            event_id=about.event_id or new_id(),
            effect_id=about.effect_id,
            attempt=about.attempt,
            causation_id=about.causation_id,
            producer_id=self.producer_id,
            seq=self._seqs[origin.task_id],
            occurred_at=time.time_ns() // 1000,
        )

    def _send(self, event: Event) -> "Future[None]":
        try:
            value = encode_within_limit(event)
        except (ValueError, TypeError, AttributeError) as error:
            raise UsageError(f"this {event.kind} can't be recorded: {error}") from error
        # Numbered only now: what could not be encoded leaves no hole.
        self._seqs[event.task_id] = event.seq + 1
        open_tasks = self._tenants[event.tenant].open_tasks
        if event.task_id in open_tasks:
            open_tasks[event.task_id] = event.seq
        headers: list[tuple[str, str | bytes | None]] = [("counterfoil-kind", event.kind.encode())]
        key = partition_key(event.tenant, event.task_id)
        return self._delivery.send(key, value, headers, self._settings.ack_timeout_seconds)

    def _beat(self) -> None:
        while not self._closing.wait(self._settings.beat_interval_seconds):
            with self._lock:
                for tenant in self._tenants.values():
                    self._say(tenant.origin, "producer_beat", {"open_tasks": _open(tenant), "spooled": 0})


def _open(tenant: _Tenant) -> list[dict[str, Any]]:
    """The tasks opened last, as many as one event holds: a beat that does not fit would end all beats."""
    older = max(0, len(tenant.open_tasks) - _MAX_LISTED_TASKS)
    newest = itertools.islice(tenant.open_tasks.items(), older, None)
    return [{"task_id": task_id, "last_seq": last} for task_id, last in newest]
