"""What an agent installs: it records what is about to happen before it happens."""

import logging
import os
import secrets
import signal
import threading
import weakref
from collections.abc import Callable, Mapping
from multiprocessing.util import Finalize
from types import TracebackType
from typing import Any, Self

from counterfoil.asking import Asking, console_of
from counterfoil.errors import EventsUndelivered, UsageError
from counterfoil.event import Mode
from counterfoil.follower import NOTHING_KNOWN
from counterfoil.ids import is_tenant, new_id, task_id_of
from counterfoil.kafka import client_config
from counterfoil.origin import Origin
from counterfoil.redaction import Redaction
from counterfoil.session import Session
from counterfoil.settings import RecorderSettings, identity_key_of, load_settings
from counterfoil.signing import signing_keys_of
from counterfoil.task import Task, origin_from_headers
from counterfoil.tools import Args, Result, tool
from counterfoil.tracing import current_span
from counterfoil.wire_format import framing_of

logger = logging.getLogger("counterfoil")


class Recorder:
    """Records tasks, prompts and effects as events on Kafka. One per process; thread-safe.

    Only the intent of a write waits: for the brokers, then for the spool. Every other event waits for nothing, but for
    a tenth of a second where it comes faster than the brokers take them. A forked child records under a producer_id of
    its own.

    Raises SettingsError when no broker or no identity key is set, a Schema Registry without its address, a console
    without its token, or a redaction policy or a signing key that can't be read.
    """

    def __init__(self, settings: RecorderSettings) -> None:
        client_config(settings.kafka, "counterfoil", {})  # says now, not at the first event, that no broker is named
        self.settings = settings
        self.identity_key = identity_key_of(settings)
        self.console: Asking | None = console_of(settings)
        self._framing = framing_of(settings)
        self._redaction = Redaction(settings)
        self._signing = signing_keys_of(settings)
        self._session: Session | None = None
        self._known_orders = NOTHING_KNOWN  # of the session before
        self._closed = False
        self._lock = threading.Lock()
        os.register_at_fork(after_in_child=_Forked(self))

    @classmethod
    def from_env(cls, **overrides: Any) -> Self:
        """A recorder set up from `COUNTERFOIL_*`, `counterfoil.toml` and `overrides`.

        Raises SettingsError: one sentence that names the setting.
        """
        return cls(load_settings(RecorderSettings, **overrides))

    @property
    def session(self) -> Session:
        """This process's producer, started at first use.

        Raises UsageError once the recorder is closed, and RegistryError when a Schema Registry is set and does not say
        under which id events go.
        """
        session = self._session
        if session is not None and not session.is_worn:
            return session
        with self._lock:
            if self._closed:
                raise UsageError("this recorder is closed; open another one")
            if self._session is not None and self._session.is_worn:
                self._retire()
            if self._session is None:
                self._session = self._start()
            return self._session

    def connect(self) -> None:
        """Connect now: a fresh producer takes about half a second to its first acknowledgement.

        Entering a task connects too, before its first effect. Raises RegistryError and SettingsError.
        """
        _ = self.session

    def _start(self) -> Session:
        self._framing.connect()
        session = Session(self.settings, self._framing, self._redaction, self._signing, self._known_orders)
        # Unlike atexit this also runs at the end of a multiprocessing child, and in no other process.
        arguments = (session, self.settings.close_timeout_seconds)
        self._at_exit = Finalize(None, _close_at_exit, arguments, exitpriority=0)
        if self.settings.exit_on_sigterm:
            _exit_on_sigterm()
        return session

    def _retire(self) -> None:
        """Another session takes the place of one that knows too many tasks; it says goodbye beside."""
        assert self._session is not None  # noqa: S101  # it is the one that is worn
        self._known_orders = self._session.control.known
        self._at_exit.cancel()
        arguments = (self._session, self.settings.close_timeout_seconds)
        threading.Thread(target=_close_at_exit, args=arguments, name="counterfoil-retire").start()
        self._session = None

    def task(
        self,
        title: str,
        *,
        tenant: str | None = None,
        workflow: str | None = None,
        agent: str | None = None,
        task_ref: str | None = None,
        conversation_id: str | None = None,
        subject_ref: str | None = None,
        release: str | None = None,
        principal: str | None = None,
        on_behalf_of: str | None = None,
        mode: Mode = "live",
        retention_class: str | None = None,
        given: Any = None,
    ) -> Task:
        """A task to enter. With `task_ref` any process can reopen it, today or on another day.

        `given` is what the task starts from. Raises UsageError when the tenant is missing or ill-named, or the
        retention class is.
        """
        span = current_span()
        name = tenant or self.settings.tenant
        if name is None or not is_tenant(name):
            raise UsageError(f"the tenant {name!r} is not [a-z0-9_-]{{1,40}}; pass tenant= or set COUNTERFOIL_TENANT")
        origin = Origin(
            tenant=name,
            workflow=workflow or self.settings.workflow,
            task_id=new_id() if task_ref is None else task_id_of(name, task_ref),
            task_ref=task_ref,
            agent=agent or self.settings.agent,
            environment=self.settings.environment,
            mode=mode,
            retention_class=retention_class or self.settings.retention_class,
            conversation_id=conversation_id,
            subject_ref=subject_ref,
            release=release or self.settings.release,
            principal=principal,
            on_behalf_of=on_behalf_of,
            trace_id=secrets.token_bytes(16) if span is None else span.trace_id,
        )
        return Task(self, title, origin, given=given)

    def continue_task(self, headers: Mapping[str, str], *, agent: str | None = None) -> Task:
        """The task that another service handed over with `task.headers()`; leaving it does not end it.

        Raises UsageError when the headers hold no readable task.
        """
        title, origin = origin_from_headers(
            headers,
            agent=agent or self.settings.agent,
            release=self.settings.release,
            environment=self.settings.environment,
            retention_class=self.settings.retention_class,
        )
        if not is_tenant(origin.tenant):
            raise UsageError(f"the headers name the tenant {origin.tenant!r}, which is no tenant's name")
        return Task(self, title, origin, ends=False)

    def tool(
        self, name: str | None = None, *, target: str | None = None, write: bool = False, **named: Any
    ) -> Callable[[Callable[Args, Result]], Callable[Args, Result]]:
        """Make a function a tool of this recorder's tasks, see `counterfoil.tools.tool`.

        @recorder.tool(target="payments", write=True)
        def refund(order: str, amount: str) -> dict: ...
        """
        return tool(name, target=target, write=write, **named)

    def flush(self, timeout_seconds: float = 10) -> int:
        """Wait until the brokers have every event; returns how many they do not have, spooled ones among them."""
        return 0 if self._session is None else self._session.flush(timeout_seconds)

    def close(self) -> None:
        """Wait for the brokers, at most `close_timeout_seconds`, then stop. The spool keeps what they have not taken.

        Raises EventsUndelivered when some are neither acknowledged nor in the spool.
        """
        with self._lock:
            session, self._session = self._session, None
            self._closed = True
            if session is not None:
                self._at_exit.cancel()
        if session is not None:
            _close(session, self.settings.close_timeout_seconds)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def forget_session(self) -> None:
        """In a forked child: the parent's producer sends nothing from here, so the next event starts another."""
        self._lock = threading.Lock()
        if self._session is not None:
            self._known_orders = self._session.control.known
        self._session = None


class _Forked:
    """What a fork calls in the child, without keeping the recorder alive."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = weakref.ref(recorder)

    def __call__(self) -> None:
        recorder = self._recorder()
        if recorder is not None:
            recorder.forget_session()


def _close(session: Session, timeout_seconds: float) -> None:
    undelivered = session.close(timeout_seconds)
    if undelivered:
        raise EventsUndelivered(
            f"{undelivered} events were not acknowledged by Kafka within {timeout_seconds:g} s, and are not in the "
            f"spool ({session.delivery.problem or 'time was up'}); the store will show the holes in their numbers",
            undelivered,
        )


def _close_at_exit(session: Session, timeout_seconds: float) -> None:
    try:
        _close(session, timeout_seconds)
    except EventsUndelivered as error:
        logger.critical("%s", error)


def _exit_on_sigterm() -> None:
    """Where the program has no handler: end it in order, so that blocks are left and what is recorded is sent."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _exit)


def _exit(number: int, _frame: object) -> None:
    raise SystemExit(128 + number)
