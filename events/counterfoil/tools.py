"""A function of the agent's as a tool: its calls are recorded without a word in its body."""

import contextlib
import contextvars
import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ParamSpec, TypeVar, cast

from counterfoil.call import Call, Effect
from counterfoil.errors import UsageError
from counterfoil.task import current_task

Args = ParamSpec("Args")
Result = TypeVar("Result")

_current: contextvars.ContextVar[Effect | None] = contextvars.ContextVar("counterfoil_effect", default=None)


def current_effect() -> Effect:
    """The write that is running in this context, inside a decorated tool: for its `key`, or another outcome than `ok`.

    Raises UsageError outside any.
    """
    effect = _current.get()
    if effect is None:
        raise UsageError("no effect runs here: this is for the body of a function decorated with write=True")
    return effect


def tool(
    name: str | None = None,
    *,
    target: str | None = None,
    write: bool = False,
    leave_out: Iterable[str] = ("self", "cls"),
    **named: Any,
) -> Callable[[Callable[Args, Result]], Callable[Args, Result]]:
    """Record every call of a function, sync or async, in the task that is open around it.

    `name` is the function's own if not given. The arguments are those of the call, by name, defaults included, less
    those in `leave_out`. For a write, `named` goes to `Task.effect` (`identity`, `step`, `definite`, `durable`, ...).
    What the function returns is the reply; what it raises is an outcome as in a `with task.effect(...)` block.
    """
    omitted = frozenset(leave_out)
    if not write and named:
        raise UsageError(f"{', '.join(named)} is for writes: pass write=True")

    def decorate(function: Callable[Args, Result]) -> Callable[Args, Result]:
        signature = inspect.signature(function)
        tool_name = name or function.__name__

        def call(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Call:
            bound = signature.bind(*arguments, **keywords)
            bound.apply_defaults()
            args = {key: value for key, value in bound.arguments.items() if key not in omitted}
            task = current_task()
            if write:
                return task.effect(tool_name, target=target, args=args, **named)
            return task.tool(tool_name, args)

        @functools.wraps(function)
        def sync(*arguments: Args.args, **keywords: Args.kwargs) -> Result:
            with call(arguments, keywords) as running, _as_current(running):
                result = function(*arguments, **keywords)
                _answer(running, result)
            return result

        @functools.wraps(function)
        async def asynchronous(*arguments: Any, **keywords: Any) -> Any:
            async with call(arguments, keywords) as running:
                with _as_current(running):
                    result: Any = await function(*arguments, **keywords)  # type: ignore[misc]  # it is a coroutine function
                _answer(running, result)
            return result

        wrapped: Any = asynchronous if inspect.iscoroutinefunction(function) else sync
        return cast("Callable[Args, Result]", wrapped)

    return decorate


@contextlib.contextmanager
def _as_current(call: Call) -> Iterator[None]:
    token = _current.set(call if isinstance(call, Effect) else None)
    try:
        yield
    finally:
        _current.reset(token)


def _answer(call: Call, result: Any) -> None:
    if call.outcome is None:
        call.ok(result)
