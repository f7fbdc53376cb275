"""A completion that arrives in pieces, recorded once: whole, or as far as it came."""

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from counterfoil.ids import Id


class CompletionStream:
    """Collects a completion's text; enter it with `with` or `async with`.

    Leaving it by an exception, by `break` out of a generator, or by cancellation records what came, as partial.
    """

    def __init__(self, record: Callable[..., Id], model: str | None) -> None:
        self._record = record
        self._model = model
        self._pieces: list[str] = []
        self._named: dict[str, Any] = {}
        self.event_id: Id | None = None

    def add(self, piece: str) -> None:
        """The next piece of text."""
        self._pieces.append(piece)

    def tell(self, **named: Any) -> None:
        """What else is known in the end: `usage`, `finish_reason`, `decision`, `rationale`, `cost`, `currency`."""
        self._named |= named

    @property
    def text(self) -> str:
        """All that came so far."""
        return "".join(self._pieces)

    def __enter__(self) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self.event_id = self._record(self.text, model=self._model, partial=error is not None, **self._named)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)
