"""Takes a stack down when the process that must own it dies without a word: `python -P watchdog.py ...`.

It is a child of the owner and waits until it has another parent, which happens however the owner ends, and needs
neither Linux nor a thread of the owner's that stays alive (PDEATHSIG needs both). It is run by its path and
imports nothing of ours before it must act, so waiting costs 10 MB.
"""

import os
import sys
import time

_POLL_SECONDS = 0.2


def main(parent_pid: int, parent_started: float, data: str, cache: str) -> None:
    """Wait for the end of the parent, then stop the stack in `data` if it is still the parent's."""
    while os.getppid() == parent_pid:
        time.sleep(_POLL_SECONDS)

    from pathlib import Path  # noqa: PLC0415 - see the module's docstring

    from counterfoil_console.stack.local import LocalStack  # noqa: PLC0415
    from counterfoil_console.stack.state import ProcessRecord  # noqa: PLC0415

    LocalStack(Path(data), Path(cache)).release(ProcessRecord(parent_pid, parent_started))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3], sys.argv[4])
