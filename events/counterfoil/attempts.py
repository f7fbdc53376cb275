"""A write tried several times: never re-sent while nobody knows whether it happened.

The waiting between attempts is stamina's (exponential backoff with jitter); whether there is another attempt is asked
of the effect first, see `Effect.may_retry`, and where a console is configured of the target, see `Effect.confirm`.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType

import stamina

from counterfoil.asking import RetryAnswer
from counterfoil.call import Effect
from counterfoil.errors import AlreadyApplied


class Attempts:
    """To iterate over with `for` or `async for`; each item is entered with `with` or `async with` and gives its effect.

    The iteration ends after the first attempt that is left without an exception. An exception passes through once
    the effect may not be retried, or `tries` or `timeout_seconds` are used up. AuditUnavailable always does.
    AlreadyApplied takes its place where the target has the write all the same.
    """

    def __init__(
        self, new_effect: Callable[[], Effect], *, tries: int, timeout_seconds: float | None, confirm_seconds: float
    ) -> None:
        self._new_effect = new_effect
        self._confirm_seconds = confirm_seconds
        self._last: Effect | None = None
        self._error: Exception | None = None
        self._context = stamina.retry_context(on=self._may_retry, attempts=tries, timeout=timeout_seconds)

    def __iter__(self) -> Iterator["Attempt"]:
        for attempt in self._context:
            yield self._next(attempt)

    async def __aiter__(self) -> AsyncIterator["Attempt"]:
        async for attempt in self._context:
            yield self._next(attempt)

    def _next(self, attempt: stamina.Attempt) -> "Attempt":
        answer = None if self._last is None else self._last.answer
        if self._error is not None and answer is not None and not answer.is_open:
            raise self._error  # the window closed while we waited
        self._last = self._new_effect()
        return Attempt(attempt, self._last, self._confirm_seconds)

    def _may_retry(self, error: Exception) -> bool:
        self._error = error  # its outcome is what the effect goes by
        if self._last is None:
            return False
        return self._last.may_retry() if self._last.answer is None else self._last.answer.is_open


class Attempt:
    """One attempt, not begun yet."""

    def __init__(self, attempt: stamina.Attempt, effect: Effect, confirm_seconds: float) -> None:
        self._attempt = attempt
        self._confirm_seconds = confirm_seconds
        self.effect = effect

    def __enter__(self) -> Effect:
        self._attempt.__enter__()
        return self.effect.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        self.effect.__exit__(kind, error, traceback)
        if self._must_ask(error):
            self._refuse_applied(self.effect.confirm(self._confirm_seconds), error)
        return self._attempt.__exit__(kind, error, traceback)

    async def __aenter__(self) -> Effect:
        self._attempt.__enter__()
        return await self.effect.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        await self.effect.__aexit__(kind, error, traceback)
        if self._must_ask(error):
            self._refuse_applied(await self.effect.confirm_async(self._confirm_seconds), error)
        return self._attempt.__exit__(kind, error, traceback)

    def _must_ask(self, error: BaseException | None) -> bool:
        """Not where the program is being ended: whoever resumes the task will ask."""
        return isinstance(error, Exception) and self.effect.is_doubtful and self.effect.asks_console

    def _refuse_applied(self, answer: RetryAnswer, error: BaseException | None) -> None:
        if answer.applied:
            raise AlreadyApplied(
                f"{self.effect.tool} ended in doubt ({type(error).__name__}), and {self.effect.target} has it: do not "
                "send it again",
                effect_id=self.effect.effect_id,
                result=answer.result,
            ) from error
