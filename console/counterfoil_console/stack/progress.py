"""What a long `up` tells its caller while it works."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

Stage = Literal["waiting", "jars", "java", "kafka", "postgres", "up", "down"]


@dataclass(frozen=True)
class Progress:
    """One step. The counts are zero except in stage `jars`, where they tell how much is downloaded."""

    stage: Stage
    message: str
    jars_done: int = 0
    jars_total: int = 0
    bytes_done: int = 0
    bytes_total: int = 0


class Report(Protocol):
    """Takes progress. It is called from several threads, one call at a time; it must not raise."""

    def __call__(self, progress: Progress, /) -> None: ...


def silent(_progress: Progress, /) -> None:
    """The report of a caller that does not want to know."""
