"""One process's life as a producer: its id, its numbers, its beats, its goodbye.

`seq` has no holes per (producer, task), so what never arrives is provable; what is given up is said in a gap event. A
forked child is another producer: it gets a session of its own.
"""

import ctypes
import logging
import os
import platform
import threading
import time
from collections.abc import Collection, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Protocol

from counterfoil.adoption import Adopter
from counterfoil.asking import Asking
from counterfoil.blobs import Blobs, all_done
from counterfoil.claims import OwedGaps, claims_of, gap_body
from counterfoil.composing import Composer
from counterfoil.control import ControlLog
from counterfoil.delivery import Delivery, NotDurable
from counterfoil.errors import UsageError
from counterfoil.failpoints import pass_by
from counterfoil.folder import Cluster, ProducerFolder, TenantOrigin
from counterfoil.follower import NOTHING_KNOWN, Follower, Knowledge
from counterfoil.framing import Framing
from counterfoil.home import Damage, Gap, Home, count_of
from counterfoil.ids import Id, new_id, partition_key, read_partition_key
from counterfoil.jsontext import to_json_text, to_text
from counterfoil.origin import NOTHING, About, Origin, producer_origin
from counterfoil.redaction import Redacted, Redaction
from counterfoil.settings import Durable, RecorderSettings
from counterfoil.signing import SigningKeys
from counterfoil.tally import Numbers
from counterfoil.tracing import current_span
from counterfoil.window import Outgoing, Window, WindowLimits
from counterfoil_schemas import topics

logger = logging.getLogger("counterfoil")

_MICROS = 1_000_000
_MOST_TASKS = 50_000  # of which a session knows the numbers; then another one takes its place
_FIRST_LOOK_SECONDS = 0.2
_alive: set["Session"] = set()


@dataclass
class _Tenant:
    spoken_to: TenantOrigin
    own: "Lane"  # the producer's own reserved task
    open_tasks: dict[bytes, Numbers] = field(default_factory=dict)
    touched: dict[bytes, Numbers] = field(default_factory=dict)  # since the last beat

    def claimed(self) -> list[Numbers]:
        claimed = {**self.open_tasks, **self.touched}
        self.touched = {}
        return list(claimed.values())


class Recording(Protocol):
    """What a task needs of the recorder: the producer of this process, and how writes are identified and waited for."""

    settings: RecorderSettings
    identity_key: bytes
    console: Asking | None

    @property
    def session(self) -> "Session":
        """This process's producer, started at first use."""


class Session:
    """A started producer. Thread-safe."""

    def __init__(
        self,
        settings: RecorderSettings,
        framing: Framing,
        redaction: Redaction,
        signing: SigningKeys,
        known: Knowledge = NOTHING_KNOWN,
    ) -> None:
        self.producer_id = new_id()
        self.pid = os.getpid()
        self._spool_problem: str | None = None
        self._settings = settings
        self._framing = framing
        self._redaction = redaction
        self._signing = signing
        topic = topics(settings.profile, settings.topic_prefix)["events"].name
        limits = WindowLimits(settings.window_events, settings.window_bytes)
        window = Window(settings.kafka, topic, f"counterfoil-{self.producer_id.hex()[-8:]}", limits)
        self._own = Home(self._new_folder(topic))
        self._owed = OwedGaps()
        self._damage: list[tuple[list[TenantOrigin], Damage]] = []  # not yet said
        self._delivery = Delivery(
            window,
            self._own,
            ack_timeout_seconds=settings.ack_timeout_seconds,
            memory_bytes=settings.window_bytes,
            problem=self._spool_problem,
            given_up=self._owed.add,
            damaged=self._note_damage,
        )
        self._adopter = Adopter(
            self._own.folder,
            self._delivery,
            window,
            framing,
            redaction,
            signing,
            settings.spool_limit_bytes,
            self._note_damage,
        )
        self._tenants: dict[str, _Tenant] = {}
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._said_goodbye = False
        self._beats = threading.Thread(target=self._beat, name="counterfoil-beat", daemon=True)
        self.control = self._new_follower(known)
        self._blobs = Blobs(settings)
        _alive.add(self)
        self._delivery.start()
        self._beats.start()
        self.control.start()
        self._blobs.start()

    def lane(self, origin: Origin) -> "Lane":
        """The way of one task's events through this producer; make it once per task.

        Raises UsageError when the session is closed, or a name of the task can't be encoded, and SettingsError when the
        policy seals and the tenant has no key.
        """
        self._redaction.require_key(origin.tenant)
        with self._lock:
            self._greet(origin)
            return self._new_lane(origin, self._tenants[origin.tenant])

    def record(
        self, lane: "Lane", kind: str, body: Redacted, about: About, durable: Durable | None
    ) -> tuple[Id, "Future[None] | None"]:
        """See `Lane.record`."""
        self._delivery.wait_for_room()
        event_id = about.event_id or new_id()
        body, carried = self._blobs.lightened(lane.redactor.tenant, kind, body)
        with self._lock:
            if self._said_goodbye:
                raise UsageError("this recorder is closed; open another one")
            out = self._number(lane, kind, body, about, event_id)
            if durable is not None:
                out.future = Future()
                out.spool_is_enough = durable == "spool"
            lane.touched()
            self._send(out)
        # This disk is not enough for an intent that wants the brokers: nor is it for its texts.
        return event_id, all_done(out.future, carried) if out.future and durable == "broker" else out.future

    def greeted(self) -> Collection[str]:
        """The tenants for which something was recorded."""
        return tuple(self._tenants)

    def acknowledge(self, tenant: str, body: Mapping[str, Any]) -> None:
        """Record that this client knows an order."""
        with self._lock:
            if not self._said_goodbye:
                self._say(self._tenants[tenant], "control_ack", body)

    def write_now(self) -> None:
        """Put on disk what the brokers have not acknowledged."""
        self._delivery.write_now()

    @property
    def is_worn(self) -> bool:
        """Whether it knows so many tasks that another session should take its place."""
        return len(self._own.tally) >= _MOST_TASKS

    @property
    def delivery(self) -> Delivery:
        """Where its events are on their way."""
        return self._delivery

    def flush(self, timeout_seconds: float) -> int:
        """Wait for the brokers' answers; returns how many events they do not have yet."""
        return self._delivery.flush(timeout_seconds)

    def close(self, timeout_seconds: float) -> int:
        """Say goodbye, wait for the brokers, and leave in the spool what they have not acknowledged by then.

        Returns how many events are neither acknowledged nor on disk; 0 when it is closed already.
        """
        if self._closing.is_set():
            return 0
        self._closing.set()
        self.control.stop()
        deadline = time.monotonic() + timeout_seconds
        if self._beats is not threading.current_thread():
            self._beats.join(min(1, timeout_seconds))  # it may be reading what a dead process left
        with self._lock:
            self._say_damage()
            self._say_gaps()
            for tenant in self._tenants.values():
                *earlier, last = claims_of(tenant.claimed())
                for claims in earlier:
                    self._say_beat(tenant, claims)
                body = {"open_tasks": last, "undelivered": self._owed.count, "adopted_by": None}
                self._say(tenant, "producer_closed", body)
            self._said_goodbye = True  # whoever waited for the lock would send what nobody waits for any more
        lost = self._delivery.close(max(0.5, deadline - time.monotonic()))
        self._blobs.close(max(0.2, deadline - time.monotonic()))
        self.control.join(min(1.0, timeout_seconds))  # it may be asking brokers that are away
        _alive.discard(self)
        left = self._own.rows
        if left and self._own.folder is not None:
            logger.warning(
                "%d events wait in the spool %s: the next process that records with this spool directory sends them",
                left, self._own.folder.path,
            )  # fmt: skip
        return lost

    def forget_in_child(self) -> None:
        """In a forked child: leave everything to the parent."""
        if self._own.folder is not None:
            self._own.folder.forget_in_child()
        for home in self._delivery.adopted:
            if home.folder is not None:
                home.folder.forget_in_child()

    def _new_follower(self, known: Knowledge) -> Follower:
        settings = self._settings
        topic = topics(settings.profile, settings.topic_prefix)["control"].name
        client_id = f"counterfoil-control-{self.producer_id.hex()[-8:]}"
        return Follower(
            ControlLog(settings.kafka, topic, client_id),
            self,
            stale_after_seconds=settings.stale_after_seconds,
            control_timeout_seconds=settings.control_timeout_seconds,
            inherited=known,
        )

    def _new_folder(self, topic: str) -> ProducerFolder | None:
        base = self._settings.spool_directory
        if base is None:
            self._spool_problem = "COUNTERFOIL_SPOOL_DIRECTORY is empty"
            return None
        cluster = Cluster(self._settings.kafka["bootstrap.servers"])
        try:
            return ProducerFolder.create(base / topic, self.producer_id, cluster, self._settings.spool_limit_bytes)
        except OSError as error:
            self._spool_problem = f"{error.filename or base}: {error.strerror}"
            logger.warning(
                "there is no spool (%s): without brokers no write can run; set COUNTERFOIL_SPOOL_DIRECTORY to a folder "
                "that this process may write to", self._spool_problem,
            )  # fmt: skip
            return None

    def _greet(self, origin: Origin) -> None:
        if self._said_goodbye:
            raise UsageError("this recorder is closed; open another one")
        if origin.tenant in self._tenants:
            return
        is_signed = self._signing.signer(origin.tenant) is not None
        spoken_to = TenantOrigin(
            origin.tenant, origin.workflow, origin.agent, origin.environment, origin.mode, is_signed
        )
        tenant = _Tenant(spoken_to, self._new_lane(producer_origin(self.producer_id, spoken_to), None))
        self._keep_tenant(spoken_to)
        body = {
            "host": platform.node(),
            "pid": self.pid,
            "client": f"counterfoil-python/{version('counterfoil')}",
            "beat_interval": int(self._settings.beat_interval_seconds * _MICROS),
        }
        self._tenants[origin.tenant] = tenant  # first, for should this be interrupted, the gap is said to this tenant
        self._say(tenant, "producer_opened", body)

    def _keep_tenant(self, spoken_to: TenantOrigin) -> None:
        """So that whoever finds this process dead can say goodbye for it."""
        if self._own.folder is not None:
            try:
                self._own.folder.add_tenant(spoken_to)
            except OSError as error:
                logger.warning("should this process be killed, nobody can say goodbye for it: %s", error)

    def _new_lane(self, origin: Origin, tenant: _Tenant | None) -> "Lane":
        numbers = self._own.tally.numbers(partition_key(origin.tenant, origin.task_id))
        redactor = self._redaction.of_task(origin.tenant, origin.workflow)
        signer = self._signing.signer(origin.tenant)
        return Lane(self, tenant, numbers, Composer(origin, self.producer_id, self._framing, redactor, signer))

    def _say(self, tenant: _Tenant, kind: str, body: Mapping[str, Any], speaks_of: Gap | None = None) -> None:
        out = self._number(tenant.own, kind, tenant.own.redactor.body(kind, body), NOTHING, new_id())
        out.speaks_of = speaks_of
        self._send(out)

    def _number(self, lane: "Lane", kind: str, body: Redacted, about: About, event_id: Id) -> Outgoing:
        numbers, span = lane.numbers, current_span()
        value = lane.composer.compose(kind, body, event_id, numbers.next_seq, about, span)
        headers = lane.composer.headers(kind, value, span)
        return Outgoing(self._own, numbers, numbers.take(), headers, value)  # what can't be encoded has no number

    def _send(self, out: Outgoing) -> None:
        try:
            pass_by("emit.numbered")
            if self._delivery.send(out):
                return
        except BaseException:
            self._owed.add(out.numbers, out.seq, out.seq + 1, "interrupted")
            raise
        reason = "the brokers were away, and neither disk nor memory had room"
        self._owed.add(out.numbers, out.seq, out.seq + 1, reason)
        if out.future is not None:
            out.future.set_exception(NotDurable(self._delivery.problem or reason))

    # -- the thread of beats

    def _beat(self) -> None:
        interval = self._settings.beat_interval_seconds
        beat_at, has_looked = time.monotonic() + interval, False
        while True:
            # The first look for the dead comes as soon as the brokers answer; then one after every beat.
            pause = beat_at - time.monotonic()
            if self._closing.wait(max(0.0, pause if has_looked else min(pause, _FIRST_LOOK_SECONDS))):
                return
            try:
                if time.monotonic() >= beat_at:
                    beat_at = time.monotonic() + interval
                    has_looked = False
                    self._say_all()
                if not has_looked and self._delivery.acknowledged:
                    has_looked = True
                    self._adopter.look()
            except Exception as error:  # noqa: BLE001  # beats go on whatever one of them met
                logger.warning("a beat failed, and the next will come: %r", error)

    def _say_all(self) -> None:
        with self._lock:
            self._say_damage()
            for tenant in self._tenants.values():
                for claims in claims_of(tenant.claimed()):
                    self._say_beat(tenant, claims)
            self._say_gaps()

    def _say_beat(self, tenant: _Tenant, claims: list[dict[str, Any]]) -> None:
        self._say(tenant, "producer_beat", {"open_tasks": claims, "spooled": self._delivery.spooled_count})

    def _say_gaps(self) -> None:
        """Those that were given up, once there is room to say so."""
        if not self._owed or not self._delivery.has_room:
            return
        for gap, reason in self._owed.take():
            tenant = self._tenants[read_partition_key(gap[0].key)[0]]
            self._say(tenant, "gap", gap_body(gap, reason), gap)

    def _note_damage(self, home: Home, damage: Damage) -> None:
        for numbers, first, end in damage.lost:
            if home is self._own:  # an adopted one's losses are said in its own name
                self._owed.add(numbers, first, end, "the spool was damaged")
        spoken_to = () if home.folder is None else home.folder.tenants()
        tenants = [tenant for tenant in spoken_to if self._signing.may_speak(tenant)]
        self._damage.append((tenants, damage))

    def _say_damage(self) -> None:
        while self._damage:
            tenants, damage = self._damage.pop()
            for spoken_to in tenants:
                self._greet(producer_origin(self.producer_id, spoken_to))
                self._say(self._tenants[spoken_to.tenant], "finding", _damage_body(damage))


def _damage_body(damage: Damage) -> dict[str, Any]:
    details = {
        "kept": str(damage.kept),
        "saved": damage.saved,
        "lost": count_of(damage.lost),
    }
    return {"name": "spool_damaged", "message": to_text(damage.problem), "details": to_json_text(details)}


def _leave_to_the_parent() -> None:
    """In a forked child. Tearing librdkafka down there, where its threads are missing, ends the process (SIGSEGV)."""
    for session in _alive:
        session.forget_in_child()
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
    _alive.clear()


os.register_at_fork(after_in_child=_leave_to_the_parent)


class Lane:
    """The way of one task's events through one producer: their numbers, and the bytes that they share.

    Thread-safe. `tenant` is None for the producer's own task, of which no beat speaks.
    """

    __slots__ = ("_tenant", "composer", "numbers", "redactor", "session")

    def __init__(self, session: Session, tenant: _Tenant | None, numbers: Numbers, composer: Composer) -> None:
        self.session = session
        self.numbers = numbers
        self.composer = composer
        self.redactor = composer.redactor
        self._tenant = tenant

    def record(
        self, kind: str, body: Redacted, about: About = NOTHING, durable: Durable | None = None
    ) -> tuple[Id, "Future[None] | None"]:
        """Number one event and send it on its way; returns its event_id.

        With `durable`, also a future that ends when the event is acknowledged or, if that is enough, in the spool; its
        exception is NotDurable. Raises UsageError when the body can't be encoded, or the session is
        closed; nothing was numbered then.
        """
        return self.session.record(self, kind, body, about, durable)

    def opened(self) -> None:
        """From now on the task is among those that every beat lists."""
        if self._tenant is not None:
            self._tenant.open_tasks[self.numbers.key] = self.numbers

    def ended(self) -> None:
        """From now on it is not."""
        if self._tenant is not None:
            self._tenant.open_tasks.pop(self.numbers.key, None)

    def touched(self) -> None:
        """The next beat speaks of it."""
        if self._tenant is not None:
            self._tenant.touched[self.numbers.key] = self.numbers
