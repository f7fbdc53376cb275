"""Which part of a preset is held against what besides answers that we wrote: docs/targets.md has it in a table, too."""

from collections import defaultdict
from collections.abc import Callable
from typing import Final, Literal, TypeVar

Part = Literal["row", "pages", "search", "absence", "throttling", "windows"]
Source = Literal["stripe-mock", "recorded", "examples"]
Test = TypeVar("Test", bound=Callable[..., None])

SHOWN: Final[dict[tuple[str, Part], set[Source]]] = defaultdict(set)


def shows(preset: str, *parts: Part, by: Source) -> Callable[[Test], Test]:
    """Marks a test that shows parts of a preset by a source."""
    for part in parts:
        SHOWN[preset, part].add(by)
    return lambda test: test
