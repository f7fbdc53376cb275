"""Named places where a test may break this process, so that promises are tested at the worst moment.

`COUNTERFOIL_FAILPOINTS="ingest.after_store=kill,relay.before_mark=raise@3"`: the action happens at the
n-th time the point is passed (the first, if no count is given). Off by default; then a point costs one
look at an empty dict. With `DESIGN.md` section 1 this and `Recorder.from_env` alone read the environment.
"""

import os
import signal
import time

from counterfoil.errors import SettingsError

_ACTIONS = ("kill", "raise", "stop")


class Broken(RuntimeError):
    """Raised by the action `raise`."""


def _parse(text: str) -> dict[str, tuple[str, int]]:
    points: dict[str, tuple[str, int]] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, _, rest = part.partition("=")
        action, _, count = rest.partition("@")
        if action not in _ACTIONS or (count and not count.isdigit()):
            raise SettingsError(f"COUNTERFOIL_FAILPOINTS: {part!r} is not point=kill|raise|stop or point=action@n")
        points[name] = (action, int(count or 1))
    return points


_points = _parse(os.environ.get("COUNTERFOIL_FAILPOINTS", ""))


def pass_by(name: str) -> None:
    """Mark a place. Kills, raises or stops (SIGSTOP) this process if it was asked for."""
    if not _points or name not in _points:
        return
    action, left = _points[name]
    if left > 1:
        _points[name] = (action, left - 1)
        return
    del _points[name]
    if action == "raise":
        raise Broken(name)
    os.kill(os.getpid(), signal.SIGKILL if action == "kill" else signal.SIGSTOP)
    time.sleep(0.01)  # a stopped process goes on here once it is continued
