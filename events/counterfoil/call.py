"""A call that an agent makes: declared before it runs, answered once.

A read is only told of. A write is an `Effect`: its intent is durable before the body runs, and
leaving the block without a definite word is `unknown`, for a write that timed out may well have landed.
"""

import asyncio
import concurrent.futures
import contextlib
import datetime as dt
import logging
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Protocol, Self

from counterfoil.asking import Asking, RetryAnswer, no_answer, told
from counterfoil.definite import is_definite
from counterfoil.delivery import NotDurable
from counterfoil.errors import AuditUnavailable, Halted, UsageError
from counterfoil.event import Outcome
from counterfoil.failpoints import pass_by
from counterfoil.follower import denial_body
from counterfoil.ids import Id, new_id
from counterfoil.jsontext import error_text, to_json_text, to_text
from counterfoil.origin import About
from counterfoil.settings import Durable, Policy, WhenStale

logger = logging.getLogger("counterfoil")

_MICROS = 1_000_000
_DISK_SECONDS = 5.0


class Records(Protocol):
    """Records events of the call's task."""

    def record(
        self, kind: str, body: Mapping[str, Any], about: About, durable: Durable | None = None, /
    ) -> "Future[None] | None":
        """Record one; the future, if asked for, ends when it is durable, or with NotDurable."""

    def write_now(self) -> None:
        """Waiting for the brokers is over: put what they have not acknowledged in the spool."""

    def wait_for_orders(self) -> None:
        """Wait, at the beginning of a process, until it knows the standing orders."""

    async def wait_for_orders_async(self) -> None:
        """As `wait_for_orders`, without blocking the event loop."""

    def refusal(self, tool: str, when_stale: WhenStale, /) -> Halted | None:
        """What stops a write by `tool` now, if anything."""


class Call:
    """One attempt of a call, usable with `with`, with `async with`, or through `begin()` and a verb.

    Exactly one outcome is recorded; a second one raises UsageError.
    """

    _write = False
    effect_id: Id | None = None
    attempt: int | None = None

    def __init__(self, records: Records, tool: str, args: Any, *, call_id: str | None = None) -> None:
        self._records = records
        self.tool = tool
        self.args = args
        self._call_id = call_id
        self._intent_id = new_id()
        self._started = 0.0
        # No lock, for a child forked while it is held would wait for ever: whoever sets a key first, did it.
        self._said: dict[str, Any] = {}

    @property
    def outcome(self) -> Outcome | None:
        """The outcome recorded, or None while the call runs."""
        finished = self._said.get("finished")
        return None if finished is None else finished[1]

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
        if self.outcome is None:
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

    def _declare(self, durable: Durable | None = None) -> "Future[None] | None":
        mine = object()
        if self._said.setdefault("begun", mine) is not mine:
            raise UsageError(f"this attempt of {self.tool} has begun already; ask the task for another one")
        self._started = time.monotonic()
        about = About(event_id=self._intent_id, effect_id=self.effect_id, attempt=self.attempt)
        return self._records.record("tool_intent", self._intent(), about, durable)

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
        if "begun" not in self._said:
            raise UsageError(f"{self.tool} has not begun, so it can't be {outcome}")
        mine = (object(), outcome)
        if self._said.setdefault("finished", mine) is not mine:
            raise UsageError(f"this attempt of {self.tool} is {self.outcome} already, so it can't be {outcome}")
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
        pass_by("call.before_result")
        self._records.record("tool_result", body, about)
        pass_by("call.after_result")

    @property
    def intent_id(self) -> Id:
        """The event_id of the intent; the result names it as its cause."""
        return self._intent_id


class Effect(Call):
    """One attempt of an intended write."""

    _write = True

    def __init__(
        self,
        records: Records,
        tool: str,
        args: Any,
        *,
        target: str | None,
        effect_id: Id,
        attempt: int,
        step: str | None,
        identity: tuple[str, ...] | None,
        definite: tuple[type[BaseException], ...],
        policy: Policy,
        idempotent_until: float | None = None,
        call_id: str | None = None,
        console: Asking | None = None,
        expected: str | None = None,
    ) -> None:
        super().__init__(records, tool, args, call_id=call_id)
        self.target = target
        self.effect_id: Id = effect_id
        self.attempt: int = attempt
        self.step = step
        self._identity = identity
        self._definite = definite
        self._policy = policy
        self._idempotent_until = idempotent_until
        self._console = console
        self._expected = expected
        self.answer: RetryAnswer | None = None  # of the last question

    @property
    def key(self) -> str:
        """The effect's id in 32 hex digits: stable over retries and processes, made to be an idempotency key."""
        return self.effect_id.hex()

    def begin(self) -> Self:
        """Record the intent and wait until it is durable, as the tool's policy has it.

        Raises AuditUnavailable when it can't be, under `fail_closed`, and Halted when a standing order stops this
        write; it must not run then.
        """
        self._records.wait_for_orders()
        durable = self._declare_durable()
        with self._guarded():
            for seconds in self._patience():
                if _is_done(durable, seconds):
                    break
            durable.result(0)
        return self

    async def begin_async(self) -> Self:
        """As `begin`, without blocking the event loop."""
        await self._records.wait_for_orders_async()
        durable = self._declare_durable()
        with self._guarded():
            waiting = asyncio.wrap_future(durable)
            for seconds in self._patience():
                await asyncio.wait([waiting], timeout=seconds)
                if waiting.done():
                    break
            if not waiting.done():
                waiting.cancel()
                raise TimeoutError
            waiting.result()
        return self

    def _obey(self) -> None:
        """Raise Halted when a standing order stops this write."""
        refusal = self._records.refusal(self.tool, self._policy.when_stale)
        if refusal is None:
            return
        has_begun = "begun" in self._said
        if has_begun:
            self._finish("denied", error=refusal)
        cause = self._intent_id if has_begun else None
        about = About(effect_id=self.effect_id, attempt=self.attempt, causation_id=cause)
        self._records.record("denial", denial_body(refusal, to_text(self.tool), self.key), about)
        raise refusal

    def _declare_durable(self) -> "Future[None]":
        self._obey()
        durable = self._declare(self._policy.durable)
        assert durable is not None  # noqa: S101  # asked for
        return durable

    def _patience(self) -> Iterator[float]:
        """Seconds to wait: for the brokers and then, where the spool is enough, for the disk."""
        yield self._policy.ack_timeout_seconds
        if self._policy.durable == "spool":
            self._records.write_now()
            yield _DISK_SECONDS

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        pass_by("call.after_intent")
        try:
            yield
        except (TimeoutError, concurrent.futures.TimeoutError, NotDurable) as error:
            if self._policy.when_unavailable == "fail_closed":
                raise self._unavailable(error) from error
            logger.warning("%s runs though its intent is not durable (fail_open): %s", self.tool, _why(error))
        except BaseException as error:
            # Interrupted while waiting: the body does not run, and nobody else will say so.
            self._finish("failed", error=error)
            raise
        self._obey()
        pass_by("call.before_body")

    def may_retry(self) -> bool:
        """Whether another attempt can't do it twice.

        Yes after a definite failure. After `unknown` or `partial` the console is asked, if one is configured, and no
        answer in time (`console.timeout_seconds`) is a no; nothing is asked of the target, see `confirm`. Without a
        console: only where the write was declared idempotent and its window, counted from this process's first attempt,
        is open.
        """
        if self.outcome == "failed":
            return True
        if not self.is_doubtful:
            return False
        if self._console is not None:
            asked = self._console.may_retry(self.effect_id, self._own_intent)
            self.answer = told(self.tool, self.key, asked.result())
            return self.answer.is_open
        return self._idempotent_until is not None and time.monotonic() < self._idempotent_until

    def confirm(self, timeout: float = 30.0) -> RetryAnswer:
        """Have the target asked, through the console, and wait at most so many seconds (30 at most) for the answer.

        That it is applied is said at first sight; an absence has to settle first. For an attempt that has begun or
        not: whoever resumes a task learns what became of the write before. Never raises for an answer that does not
        come: then `may_retry` is False and `reason` says why.
        """
        self.answer = told(self.tool, self.key, self._asked(timeout).result())
        return self.answer

    async def confirm_async(self, timeout: float = 30.0) -> RetryAnswer:
        """As `confirm`, without blocking the event loop."""
        self.answer = told(self.tool, self.key, await asyncio.wrap_future(self._asked(timeout)))
        return self.answer

    @property
    def is_doubtful(self) -> bool:
        """Whether its outcome leaves open what the target has."""
        return self.outcome in ("unknown", "partial")

    @property
    def asks_console(self) -> bool:
        """Whether a console is configured."""
        return self._console is not None

    @property
    def _own_intent(self) -> Id | None:
        return self._intent_id if "begun" in self._said else None

    def _asked(self, timeout: float) -> "Future[RetryAnswer]":
        if self._console is not None:
            return self._console.confirm(self.effect_id, self._own_intent, timeout)
        nobody: Future[RetryAnswer] = Future()
        nobody.set_result(no_answer("no console is configured; set COUNTERFOIL_CONSOLE__URL and its token"))
        return nobody

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
        if error is not None and (isinstance(error, self._definite) or is_definite(error)):
            self._finish("failed", error=error)
        else:
            self._finish("unknown", error=error)

    def _intent(self) -> dict[str, Any]:
        identity = None if self._identity is None else list(self._identity)
        own = {"target": self.target, "step": self.step, "identity": identity, "expect": self._expected}
        return super()._intent() | own

    def _unavailable(self, error: BaseException) -> AuditUnavailable:
        # The tool does not run, and that is definite: should the intent reach the log late, this explains it.
        self._finish("failed", error=f"AuditUnavailable: the tool did not run ({_why(error)})")
        disk = ", nor is it in the spool" if self._policy.durable == "spool" else " (durable = broker)"
        return AuditUnavailable(
            f"the intent of {self.tool} was not acknowledged by Kafka within {self._policy.ack_timeout_seconds:g} s"
            f"{disk} ({_why(error)}), so the write must not run; check the brokers and try again",
            self._intent_id,
        )


def _is_done(future: "Future[None]", seconds: float) -> bool:
    return bool(concurrent.futures.wait([future], seconds).done)


def _why(error: BaseException) -> str:
    return str(error) or "no answer in time"
