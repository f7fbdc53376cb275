"""How much one token may ask for: a token bucket each, in the memory of this process."""

import math
import threading
from collections import OrderedDict

_MOST_KEYS = 10_000


class Buckets:
    """Each key may take `per_second` a second, and `depth_seconds` worth at once. Thread-safe.

    Each process counts for itself. Of more than 10,000 keys those that were not used for longest are forgotten, and
    are full when they come back.
    """

    def __init__(self, per_second: float, depth_seconds: float = 10.0) -> None:
        self._per_second = per_second
        self._depth = max(1.0, per_second * depth_seconds)
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, key: str, now: float) -> int | None:
        """Take one at `now` (monotonic seconds); None if there was one, else whole seconds until there is."""
        with self._lock:
            had, at = self._left.pop(key, (self._depth, now))
            left = min(self._depth, had + (now - at) * self._per_second)
            is_granted = left >= 1
            self._left[key] = (left - 1 if is_granted else left, now)
            if len(self._left) > _MOST_KEYS:
                self._left.popitem(last=False)
        return None if is_granted else max(1, math.ceil((1 - left) / self._per_second))
