"""A task: what an agent was given to do, and everything it did about it."""

import contextvars
import datetime as dt
import hashlib
import itertools
import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from decimal import Decimal
from types import TracebackType
from typing import Annotated, Any, Self

import rfc8785
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from counterfoil.attempts import Attempts
from counterfoil.call import Call, Effect
from counterfoil.completion_stream import CompletionStream
from counterfoil.errors import Halted, UsageError
from counterfoil.event import Mode
from counterfoil.expected import Expectation, expected_text
from counterfoil.identity import effect_id_of
from counterfoil.ids import Id, new_id, task_id_of
from counterfoil.jsontext import error_text, to_json_text, to_text
from counterfoil.origin import MAX_NAME_CHARACTERS, NOTHING, About, Origin
from counterfoil.scope import Acting
from counterfoil.session import Lane, Recording
from counterfoil.settings import Durable, WhenStale, WhenUnavailable

TASK_HEADER = "counterfoil-task"
_MAX_STEP_CHARACTERS = 200
_HEX_ID = "^[0-9a-f]{32}$"
_TRACEPARENT = re.compile("[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")

_current: contextvars.ContextVar["Task | None"] = contextvars.ContextVar("counterfoil_task", default=None)


def current_task() -> "Task":
    """The innermost task entered in this context.

    Raises UsageError outside any task.
    """
    task = _current.get()
    if task is None:
        raise UsageError("no task is open here: enter one with `with recorder.task(...)`")
    return task


class Task:
    """One unit of work; enter it with `with` or `async with`, from as many processes as it takes."""

    def __init__(
        self, recording: Recording, title: str, origin: Origin, *, given: Any = None, ends: bool = True
    ) -> None:
        self._recording = recording
        self._origin = origin
        self._title = title
        self._given = given
        self._leaving = "task_ended" if ends else "task_suspended"
        self._told = False
        self._known_lane: Lane | None = None
        # No lock: a child forked while another thread held it would wait for ever. What follows is atomic without one.
        self._messages: dict[bytes, bytes] = {}  # by the digest of what was given, that of what is recorded
        self._attempts: dict[Id, tuple[itertools.count[int], float]] = {}  # attempts, and when the first was asked for
        self._tokens: list[contextvars.Token[Task | None]] = []

    @property
    def task_id(self) -> Id:
        """16 bytes; UUIDv5 of tenant and task_ref where the caller named one."""
        return self._origin.task_id

    @property
    def origin(self) -> Origin:
        """What all of this task's events share."""
        return self._origin

    def __enter__(self) -> Self:
        self._lane().opened()
        given = None if self._given is None else to_json_text(self._given)
        self._emit("task_started", {"title": to_text(self._title), "input": given})
        self._told = False
        self._tokens.append(_current.set(self))
        return self

    async def __aenter__(self) -> Self:
        return self.__enter__()

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if not self._told:
            if error is not None:
                self.end("failed", error)
            elif self._leaving == "task_ended":
                self.end()
            else:
                self.suspend("handed back")
        _current.reset(self._tokens.pop())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    def suspend(self, reason: str) -> None:
        """The task goes on later, here or elsewhere: leaving the `with` does not end it."""
        self._tell("task_suspended", {"reason": to_text(reason)})

    def end(self, status: str = "completed", error: BaseException | None = None) -> None:
        """The task is over; said by leaving the `with`, too."""
        body = {
            "status": status,
            "error_type": None if error is None else type(error).__name__,
            "error_message": None if error is None else error_text(error),
        }
        self._tell("task_ended", body)

    def prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        model: str,
        tools: Any = None,
        provider: str | None = None,
        region: str | None = None,
        route: str | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> Id:
        """A call of a model. Each message ({"role": ..., "content": ...}) travels once per task, then as its digest."""
        lane = self._lane()
        digests = [self._message(lane, message) for message in messages] if lane.redactor.stores_messages else []
        body = {
            "model": model,
            "messages": digests,
            "tools": None if tools is None else _digest(tools),
            "provider": provider,
            "region": region,
            "route": route,
            "parameters": None if parameters is None else to_json_text(parameters),
            "omitted": None,
        }
        return self._emit("prompt", body)

    def completion_stream(self, *, model: str | None = None) -> CompletionStream:
        """A completion that comes in pieces; one that breaks off is recorded as partial.

        with task.completion_stream(model="m") as stream:
            for piece in client.stream(...):
                stream.add(piece.text)
        """
        return CompletionStream(self.completion, model)

    def completion(
        self,
        text: str,
        *,
        decision: str | None = None,
        rationale: str | None = None,
        model: str | None = None,
        finish_reason: str | None = None,
        usage: Mapping[str, int] | None = None,
        cost: Decimal | str | None = None,
        currency: str | None = None,
        partial: bool = False,
    ) -> Id:
        """What the model answered; `usage` holds `input_tokens`, `output_tokens`, `cached_tokens`."""
        used = usage or {}
        body = {
            "text": to_text(text),
            "decision": decision,
            "rationale": None if rationale is None else to_text(rationale),
            "model": model,
            "finish_reason": finish_reason,
            "input_tokens": used.get("input_tokens"),
            "output_tokens": used.get("output_tokens"),
            "cached_tokens": used.get("cached_tokens"),
            "cost": None if cost is None else str(cost),
            "currency": currency,
            "partial": partial,
        }
        return self._emit("completion", body)

    def retrieval(self, query: str, sources: Iterable[Mapping[str, Any]]) -> Id:
        """Documents read, best first.

        Each source has `id` and may have `version`, `as_of` (microseconds), `digest` (bytes), `uri`, `score`.
        """
        known = ("version", "as_of", "digest", "uri", "score")
        listed = [{"id": str(source["id"])} | {name: source.get(name) for name in known} for source in sources]
        return self._emit("retrieval", {"query": to_text(query), "sources": listed, "omitted": None})

    def approval(self, *, by: str, about: str | None = None, reason: str | None = None, details: Any = None) -> Id:
        """A person or policy allowed something."""
        return self._decision("approval", by, about, reason, details)

    def denial(self, *, by: str, about: str | None = None, reason: str | None = None, details: Any = None) -> Id:
        """A person or policy refused something."""
        return self._decision("denial", by, about, reason, details)

    def review(self, *, by: str, about: str | None = None, reason: str | None = None, details: Any = None) -> Id:
        """A person looked at what was done."""
        return self._decision("review", by, about, reason, details)

    def tool(self, name: str, args: Any = None, *, call_id: str | None = None) -> Call:
        """A read: told of, not waited for."""
        return Call(self, name, {} if args is None else args, call_id=call_id)

    def effect(
        self,
        tool: str,
        *,
        target: str | None,
        args: Mapping[str, Any],
        step: str | None = None,
        identity: Iterable[str] | None = None,
        definite: tuple[type[BaseException], ...] = (),
        call_id: str | None = None,
        durable: Durable | None = None,
        when_unavailable: WhenUnavailable | None = None,
        idempotent: dt.timedelta | None = None,
        expect: Expectation | None = None,
    ) -> Effect:
        """A write. The same tool, target, `step` and identity arguments are the same effect, next attempt.

        `identity` names the arguments that identify it (all, if not given); `definite` lists the errors
        after which it certainly did not happen, besides those known of httpx, requests, psycopg and botocore. `durable`
        and `when_unavailable` stand over the settings of the tool. `idempotent` says how long the target takes
        another call with `effect.key` as the same one. `expect` says what the target holds afterwards, in place of the
        tool's contract: rows, or a function that makes them of `effect.key`.
        Raises UsageError when an identity argument is missing or has no canonical form.
        """
        names = None if identity is None else tuple(identity)
        for name in names or ():
            if name not in args:
                raise UsageError(f"identity names the argument {name!r} of {tool}, which args does not hold")
        for what, name in (("tool", tool), ("target", target or "none")):
            if not 0 < len(name) <= MAX_NAME_CHARACTERS:
                raise UsageError(f"{what} has {len(name)} characters; 1 to {MAX_NAME_CHARACTERS} are allowed")
        if step is not None and not 0 < len(step) <= _MAX_STEP_CHARACTERS:
            raise UsageError(f"step has {len(step)} characters; 1 to {_MAX_STEP_CHARACTERS} are allowed")
        effect_id = effect_id_of(
            self._recording.identity_key,
            tenant=self._origin.tenant,
            task_id=self._origin.task_id,
            tool=tool,
            target=target,
            args=args if names is None else {name: args[name] for name in names},
            step=step,
        )
        counter, first_at = self._attempts.setdefault(effect_id, (itertools.count(1), time.monotonic()))
        return Effect(
            self,
            tool,
            args,
            target=target,
            effect_id=effect_id,
            attempt=next(counter),
            step=step,
            identity=names,
            definite=definite,
            policy=self._recording.settings.policy_for(tool, durable, when_unavailable),
            idempotent_until=None if idempotent is None else first_at + idempotent.total_seconds(),
            call_id=call_id,
            console=self._recording.console,
            expected=expected_text(expect, effect_id.hex()),
        )

    def attempts(
        self,
        tool: str,
        *,
        target: str | None,
        args: Mapping[str, Any],
        tries: int = 3,
        timeout_seconds: float | None = 45,
        **named: Any,
    ) -> Attempts:
        """A write tried again while that can't do it twice; `named` as for `effect`.

            for attempt in task.attempts("refund", target="payments", args=args):
                with attempt as effect:
                    effect.ok(api.refund(args, idempotency_key=effect.key))

        With exponential backoff and jitter. After an outcome that is `unknown` the console is asked, if one is
        configured: for the target's own answer, as `Effect.confirm` does. AlreadyApplied is raised where it landed, and
        there is another attempt only where the target does not have it and its window is open. Without a console there
        is none, unless `idempotent` declares how long the target knows a key again.
        """

        def new_effect() -> Effect:
            return self.effect(tool, target=target, args=args, **named)

        seconds = self._recording.settings.console.confirm_seconds
        return Attempts(new_effect, tries=tries, timeout_seconds=timeout_seconds, confirm_seconds=seconds)

    def begin_effect(self, tool: str, *, target: str | None, args: Mapping[str, Any], **named: Any) -> Effect:
        """An effect already begun, for callbacks and threads to finish by one of its verbs."""
        return self.effect(tool, target=target, args=args, **named).begin()

    def child(
        self,
        title: str,
        *,
        agent: str | None = None,
        task_ref: str | None = None,
        workflow: str | None = None,
    ) -> "Task":
        """A task of a sub-agent, or of a tool that is an agent."""
        own = self._origin
        origin = replace(
            own,
            task_id=new_id() if task_ref is None else task_id_of(own.tenant, task_ref),
            task_ref=task_ref,
            parent_task_id=own.task_id,
            agent=agent or own.agent,
            workflow=workflow or own.workflow,
        )
        return Task(self._recording, title, origin)

    def headers(self) -> dict[str, str]:
        """What another service needs to go on with this task: pass it to `recorder.continue_task`."""
        own = self._origin
        passed = {
            "title": self._title,
            "tenant": own.tenant,
            "workflow": own.workflow,
            "task_id": own.task_id.hex(),
            "task_ref": own.task_ref,
            "parent_task_id": own.parent_task_id and own.parent_task_id.hex(),
            "conversation_id": own.conversation_id,
            "subject_ref": own.subject_ref,
            "on_behalf_of": own.on_behalf_of,
            "mode": own.mode,
            "retention_class": own.retention_class,
        }
        headers = {TASK_HEADER: json.dumps({name: value for name, value in passed.items() if value is not None})}
        if own.trace_id is not None:
            headers["traceparent"] = f"00-{own.trace_id.hex()}-{new_id()[-8:].hex()}-01"
        return headers

    def _message(self, lane: Lane, message: Mapping[str, Any]) -> bytes:
        """The digest under which a message stands in prompts; one that comes for the first time is recorded."""
        content = to_json_text(message.get("content"))
        role = to_text(str(message.get("role", "user")))
        seen = hashlib.sha256(f"{role}\n{content}".encode()).digest()
        known = self._messages.get(seen)
        if known is None:
            digest, body = lane.redactor.message(role, content)
            known = self._messages.setdefault(seen, digest)
            if known is digest:
                try:
                    lane.record("message", body)
                except BaseException:
                    del self._messages[seen]  # it was not recorded: the next prompt brings it again
                    raise
        return known

    def _decision(self, kind: str, by: str, about: str | None, reason: str | None, details: Any) -> Id:
        body = {
            "about": about,
            "by": by,
            "reason": reason,
            "details": None if details is None else to_json_text(details),
        }
        return self._emit(kind, body)

    def _tell(self, kind: str, body: Mapping[str, Any]) -> None:
        self._told = True
        self._emit(kind, body)
        self._lane().ended()

    def record(
        self, kind: str, body: Mapping[str, Any], about: About = NOTHING, durable: Durable | None = None
    ) -> "Future[None] | None":
        """Record an event of this task; the future, if asked for, ends when it is durable."""
        lane = self._lane()
        # A denial quotes an order, which was redacted when it was given.
        return lane.record(kind, lane.redactor.body(kind, body, ours=kind == "denial"), about, durable)[1]

    def wait_for_orders(self) -> None:
        """Wait, at the beginning of a process, until it knows the standing orders."""
        self._recording.session.control.wait()

    async def wait_for_orders_async(self) -> None:
        """As `wait_for_orders`, without blocking the event loop."""
        await self._recording.session.control.wait_async()

    def refusal(self, tool: str, when_stale: WhenStale) -> Halted | None:
        """What stops a write by `tool` now, if anything."""
        own = self._origin
        acting = Acting(own.tenant, own.workflow, own.agent, tool)
        return self._recording.session.control.refusal(acting, when_stale)

    def write_now(self) -> None:
        """Waiting for the brokers is over: put what they have not acknowledged in the spool."""
        self._recording.session.write_now()

    def _emit(self, kind: str, body: Mapping[str, Any]) -> Id:
        lane = self._lane()
        return lane.record(kind, lane.redactor.body(kind, body))[0]

    def _lane(self) -> Lane:
        """This process's; a fork makes another."""
        session = self._recording.session
        lane = self._known_lane
        if lane is None or lane.session is not session:
            lane = self._known_lane = session.lane(self._origin)
            if self._tokens:
                lane.opened()
        return lane


def _digest(value: Any) -> bytes:
    try:
        content = rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError):
        content = to_json_text(value).encode()
    return hashlib.sha256(content).digest()


class _Passed(BaseModel):
    """What `headers()` writes, as another service hands it to us."""

    model_config = ConfigDict(strict=True)

    title: str = "task"
    tenant: str
    workflow: str
    task_id: Annotated[str, Field(pattern=_HEX_ID)]
    task_ref: str | None = None
    parent_task_id: Annotated[str, Field(pattern=_HEX_ID)] | None = None
    conversation_id: str | None = None
    subject_ref: str | None = None
    on_behalf_of: str | None = None
    mode: Mode = "live"
    retention_class: str | None = None


def origin_from_headers(
    headers: Mapping[str, str], *, agent: str, release: str | None, environment: str, retention_class: str
) -> tuple[str, Origin]:
    """Title and origin of the task that `headers` hand over.

    Raises UsageError when they hold none, or one that can't be read.
    """
    lowered = {name.lower(): value for name, value in headers.items()}
    if TASK_HEADER not in lowered:
        raise UsageError(f"these headers hand over no task: {TASK_HEADER} is missing (made by task.headers())")
    try:
        passed = _Passed.model_validate_json(lowered[TASK_HEADER])
    except ValidationError as error:
        mistake = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in mistake["loc"]) or "it"
        raise UsageError(f"the header {TASK_HEADER} can't be read ({where}: {mistake['msg']})") from error
    origin = Origin(
        tenant=passed.tenant,
        workflow=passed.workflow,
        task_id=bytes.fromhex(passed.task_id),
        task_ref=passed.task_ref,
        parent_task_id=None if passed.parent_task_id is None else bytes.fromhex(passed.parent_task_id),
        conversation_id=passed.conversation_id,
        subject_ref=passed.subject_ref,
        on_behalf_of=passed.on_behalf_of,
        mode=passed.mode,
        retention_class=passed.retention_class or retention_class,
        agent=agent,
        release=release,
        environment=environment,
        trace_id=_trace_id(lowered.get("traceparent")),
    )
    return passed.title, origin


def _trace_id(traceparent: str | None) -> bytes | None:
    """W3C Trace Context, section 3.2."""
    match = _TRACEPARENT.fullmatch(traceparent or "")
    return None if match is None else bytes.fromhex(match[1])
