"""What a producer says of itself: which numbers it has given out, and which of them will not come."""

import threading
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from counterfoil.home import Gap
from counterfoil.ids import read_partition_key
from counterfoil.tally import Numbers

_MAX_LISTED_TASKS = 20_000  # of at most 26 bytes each


def claims_of(numbers: Iterable[Numbers]) -> Iterator[list[dict[str, Any]]]:
    """Lists for the field `open_tasks`, as many as are needed to name every task; at least one."""
    listed = (
        {"task_id": read_partition_key(one.key)[1], "last_seq": one.next_seq - 1} for one in numbers if one.next_seq
    )
    yield list(islice(listed, _MAX_LISTED_TASKS))
    while more := list(islice(listed, _MAX_LISTED_TASKS)):
        yield more


def gap_body(gap: Gap, reason: str) -> dict[str, Any]:
    """The body of a gap event."""
    numbers, first, end = gap
    task_id = read_partition_key(numbers.key)[1]
    return {"gap_task_id": task_id, "first_seq": first, "last_seq": end - 1, "reason": reason}


class OwedGaps:
    """Numbers given up, and not yet said so, in runs. Thread-safe; never blocks for long whoever adds."""

    def __init__(self) -> None:
        self._runs: dict[tuple[bytes, str], tuple[Numbers, list[tuple[int, int]]]] = {}
        self._lock = threading.Lock()
        self.count = 0  # all that were ever given up

    def add(self, numbers: Numbers, first: int, end: int, reason: str) -> None:
        """The numbers from `first` to before `end` will not come."""
        with self._lock:
            self.count += end - first
            runs = self._runs.setdefault((numbers.key, reason), (numbers, []))[1]
            if runs and runs[-1][0] <= first <= runs[-1][1]:
                runs[-1] = (runs[-1][0], max(end, runs[-1][1]))
            else:
                runs.append((first, end))

    def take(self) -> list[tuple[Gap, str]]:
        """All that is owed, which is then owed no more."""
        with self._lock:
            taken, self._runs = self._runs, {}
        return [
            ((numbers, first, end), reason) for (_, reason), (numbers, runs) in taken.items() for first, end in runs
        ]

    def __bool__(self) -> bool:
        return bool(self._runs)
