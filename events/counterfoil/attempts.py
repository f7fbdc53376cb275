"""A write tried several times: never re-sent while nobody knows whether it happened.

The waiting between attempts is stamina's (exponential backoff with jitter); whether there is another attempt is asked
of the effect first, see `Effect.may_retry`.
"""

from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType

import stamina

from counterfoil.call import Effect


class Attempts:
    """To iterate over with `for` or `async for`; each item is entered with `with` or `async with` and gives its effect.

    The iteration ends after the first attempt that is left without an exception. An exception passes through once
    the effect may not be retried, or `tries` or `timeout_seconds` are used up. AuditUnavailable always does.
    """

    def __init__(self, new_effect: Callable[[], Effect], *, tries: int, timeout_seconds: float | None) -> None:
        self._new_effect = new_effect
        self._last: Effect | None = None
        self._context = stamina.retry_context(on=self._may_retry, attempts=tries, timeout=timeout_seconds)

    def __iter__(self) -> Iterator["Attempt"]:
        for attempt in self._context:
            yield self._next(attempt)

    async def __aiter__(self) -> AsyncIterator["Attempt"]:
        async for attempt in self._context:
            yield self._next(attempt)

    def _next(self, attempt: stamina.Attempt) -> "Attempt":
        self._last = self._new_effect()
        return Attempt(attempt, self._last)

    def _may_retry(self, error: Exception) -> bool:
        del error  # its outcome is what the effect goes by
        return self._last is not None and self._last.may_retry()


class Attempt:
    """One attempt, not begun yet."""

    def __init__(self, attempt: stamina.Attempt, effect: Effect) -> None:
        self._attempt = attempt
        self.effect = effect

    def __enter__(self) -> Effect:
        self._attempt.__enter__()
        return self.effect.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        self.effect.__exit__(kind, error, traceback)
        return self._attempt.__exit__(kind, error, traceback)

    async def __aenter__(self) -> Effect:
        self._attempt.__enter__()
        return await self.effect.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return self.__exit__(kind, error, traceback)
