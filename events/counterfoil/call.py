"""A call that an agent makes: declared before it runs, answered once.

A read is only told of. A write is an `Effect`: its intent is durable before the body runs, and
leaving the block without a definite word is `unknown`, for a write that timed out may well have landed.
"""

import asyncio
import concurrent.futures
import datetime as dt
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Protocol, Self

from confluent_kafka import KafkaException

from counterfoil.errors import AuditUnavailable, UsageError
from counterfoil.event import Outcome
from counterfoil.ids import Id, new_id
from counterfoil.jsontext import error_text, to_json_text, to_text
from counterfoil.session import About

_MICROS = 1_000_000


class Record(Protocol):
    """Records an event of the call's task; the future is the brokers' answer."""

    def __call__(self, kind: str, body: Mapping[str, Any], about: About, /) -> "Future[None]": ...


class Call:
    """One attempt of a call, usable with `with`, with `async with`, or through `begin()` and a verb.

    Exactly one outcome is recorded; a second one raises UsageError.
    """

    _write = False
    effect_id: Id | None = None
    attempt: int | None = None

    def __init__(self, record: Record, tool: str, args: Any, *, call_id: str | None = None) -> None:
        self._record = record
        self.tool = tool
        self.args = args
        self._call_id = call_id
        self._intent_id = new_id()
        self._started = 0.0
        self._finished: Outcome | None = None
        self._begun = False
        self._lock = threading.Lock()

    @property
    def outcome(self) -> Outcome | None:
        """The outcome recorded, or None while the call runs."""
        return self._finished

    def begin(self) -> Self:
        """Record the intent.

        Raises UsageError when the attempt has begun already.
        """
        self._declare()
        return self

    async def begin_async(self) -> Self:
        """As `begin`, without blocking the event loop."""
        return self.begin()

    def __enter__(self) -> Self:
        return self.begin()

    async def __aenter__(self) -> Self:
        return await self.begin_async()

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if self._finished is None:
            self._left(error)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    def ok(self, reply: Any = None) -> None:
        """It happened; `reply` is what the tool returned."""
        self._finish("ok", reply=reply)

    def failed(self, error: BaseException | str | None = None) -> None:
        """It definitely did not happen."""
        self._finish("failed", error=error)

    def _left(self, error: BaseException | None) -> None:
        if error is None:
            self._finish("ok")
        else:
            self._finish("failed", error=error)

    def _declare(self) -> "Future[None]":
        with self._lock:
            if self._begun:
                raise UsageError(f"this attempt of {self.tool} has begun already; ask the task for another one")
            self._begun = True
        self._started = time.monotonic()
        about = About(event_id=self._intent_id, effect_id=self.effect_id, attempt=self.attempt)
        return self._record("tool_intent", self._intent(), about)

    def _intent(self) -> dict[str, Any]:
        return {
            "tool": to_text(self.tool),
            "target": None,
            "write": self._write,
            "args": to_json_text(self.args),
            "call_id": self._call_id,
        }

    def _finish(
        self,
        outcome: Outcome,
        *,
        reply: Any = None,
        error: BaseException | str | None = None,
        deadline_micros: int | None = None,
    ) -> None:
        with self._lock:
            if not self._begun:
                raise UsageError(f"{self.tool} has not begun, so it can't be {outcome}")
            if self._finished is not None:
                raise UsageError(f"this attempt of {self.tool} is {self._finished} already, so it can't be {outcome}")
            self._finished = outcome
        is_error = isinstance(error, BaseException)
        body = {
            "tool": to_text(self.tool),
            "outcome": outcome,
            "result": None if reply is None else to_json_text(reply),
            "error_type": type(error).__name__ if is_error else None,
            "error_message": None if error is None else error_text(error),
            "deadline": deadline_micros,
            "duration": int((time.monotonic() - self._started) * _MICROS),
        }
        about = About(effect_id=self.effect_id, attempt=self.attempt, causation_id=self._intent_id)
        self._record("tool_result", body, about)

    @property
    def intent_id(self) -> Id:
        """The event_id of the intent; the result names it as its cause."""
        return self._intent_id


class Effect(Call):
    """One attempt of an intended write."""

    _write = True

    def __init__(
        self,
        record: Record,
        tool: str,
        args: Any,
        *,
        target: str | None,
        effect_id: Id,
        attempt: int,
        step: str | None,
        identity: tuple[str, ...] | None,
        definite: tuple[type[BaseException], ...],
        ack_timeout_seconds: float,
        call_id: str | None = None,
    ) -> None:
        super().__init__(record, tool, args, call_id=call_id)
        self.target = target
        self.effect_id: Id = effect_id
        self.attempt: int = attempt
        self.step = step
        self._identity = identity
        self._definite = definite
        self._ack_timeout_seconds = ack_timeout_seconds

    @property
    def key(self) -> str:
        """The effect's id in 32 hex digits: stable over retries and processes, made to be an idempotency key."""
        return self.effect_id.hex()

    def begin(self) -> Self:
        """Record the intent and wait until the brokers have it.

        Raises AuditUnavailable when they do not acknowledge it in time; the write must not run then.
        """
        acknowledged = self._declare()
        try:
            acknowledged.result(self._ack_timeout_seconds)
        except (concurrent.futures.TimeoutError, KafkaException, BufferError) as error:
            raise self._unavailable(error) from error
        return self

    async def begin_async(self) -> Self:
        """As `begin`, without blocking the event loop."""
        acknowledged = asyncio.wrap_future(self._declare())
        try:
            await asyncio.wait_for(asyncio.shield(acknowledged), self._ack_timeout_seconds)
        except (TimeoutError, KafkaException, BufferError) as error:
            raise self._unavailable(error) from error
        return self

    def accepted(self, reply: Any = None, *, deadline: dt.datetime | dt.timedelta) -> None:
        """The target took it and will have applied it by `deadline` (aware, or from now)."""
        moment = dt.datetime.now(dt.UTC) + deadline if isinstance(deadline, dt.timedelta) else deadline
        if moment.tzinfo is None:
            raise UsageError("the deadline of accepted() has no time zone; pass an aware datetime or a timedelta")
        self._finish("accepted", reply=reply, deadline_micros=int(moment.timestamp() * _MICROS))

    def unknown(self, error: BaseException | str | None = None) -> None:
        """It may have happened."""
        self._finish("unknown", error=error)

    def partial(self, reply: Any = None, error: BaseException | str | None = None) -> None:
        """Some of it happened."""
        self._finish("partial", reply=reply, error=error)

    def denied(self, reason: str | None = None) -> None:
        """A person or policy refused it before it ran."""
        self._finish("denied", error=reason)

    def _left(self, error: BaseException | None) -> None:
        if error is not None and isinstance(error, self._definite):
            self._finish("failed", error=error)
        else:
            self._finish("unknown", error=error)

    def _intent(self) -> dict[str, Any]:
        identity = None if self._identity is None else list(self._identity)
        return super()._intent() | {"target": self.target, "step": self.step, "identity": identity}

    def _unavailable(self, error: BaseException) -> AuditUnavailable:
        # The tool does not run, and that is definite: should the intent reach the log late, this explains it.
        self._finish("failed", error=f"AuditUnavailable: the tool did not run ({type(error).__name__})")
        return AuditUnavailable(
            f"the intent of {self.tool} was not acknowledged by Kafka within {self._ack_timeout_seconds:g} s "
            f"({type(error).__name__}: {error}), so the write must not run; check the brokers and try again",
            self._intent_id,
        )
