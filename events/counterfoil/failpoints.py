"""Named places where a test may break this process, so that promises are tested at the worst moment.

`COUNTERFOIL_FAILPOINTS="ingest.after_store=kill,relay.before_mark=raise@3,spool.write=enospc%0.2"`: the action
happens at the n-th time the point is passed (`@n`; the first, if nothing is given), or each time with a
probability (`%p`). Off by default; then a point costs one look at an empty dict. With `DESIGN.md`
section 1 this and `Recorder.from_env` alone read the environment.
"""

import errno
import os
import random
import signal
import time
from dataclasses import dataclass

from counterfoil.errors import SettingsError

_ERRORS = {"enospc": errno.ENOSPC, "eio": errno.EIO}
_ACTIONS = ("kill", "raise", "stop", *_ERRORS)


class Broken(RuntimeError):
    """Raised by the action `raise`."""


@dataclass(slots=True)
class _Point:
    action: str
    left: int = 1
    probability: float | None = None

    def is_due(self) -> bool:
        if self.probability is not None:
            return random.random() < self.probability  # noqa: S311  # a test's dice
        self.left -= 1
        return self.left == 0


def _parse(text: str) -> dict[str, _Point]:
    points: dict[str, _Point] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, rest = part.partition("=")
        try:
            points[name] = _point(rest)
        except ValueError as error:
            raise SettingsError(
                f"COUNTERFOIL_FAILPOINTS: {part!r} is not point=action, point=action@n or point=action%probability; "
                f"actions are {', '.join(_ACTIONS)}"
            ) from error
    return points


def _point(text: str) -> _Point:
    action, at, count = text.partition("@")
    action, percent, probability = action.partition("%")
    if action not in _ACTIONS or (at and percent):
        raise ValueError(text)
    if percent:
        return _Point(action, probability=float(probability))
    return _Point(action, left=int(count) if at else 1)


_points = _parse(os.environ.get("COUNTERFOIL_FAILPOINTS", ""))


def pass_by(name: str) -> None:
    """Mark a place. Kills, stops (SIGSTOP) or raises here, if it was asked for.

    Raises Broken, or OSError with ENOSPC or EIO.
    """
    if not _points or name not in _points or not _points[name].is_due():
        return
    action = _points[name].action
    if action == "raise":
        raise Broken(name)
    if action in _ERRORS:
        raise OSError(_ERRORS[action], os.strerror(_ERRORS[action]), name)
    os.kill(os.getpid(), signal.SIGKILL if action == "kill" else signal.SIGSTOP)
    time.sleep(0.01)  # a stopped process goes on here once it is continued
