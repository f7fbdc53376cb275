"""Members of ingest that are born in a fork of a process that has loaded everything, and broken where they are told.

Run as `python -m tests.consumers.nursery BOOTSTRAP DSN PREFIX`; each line of its input starts a member, with the fields
of `Order` as JSON; each line of its output says how one ended: its id and its exit status, negative for a signal.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from counterfoil import failpoints
from counterfoil_consumers import ingest, records
from counterfoil_consumers.ingest import GroupProtocol


@dataclass(frozen=True)
class Order:
    """One member: its Kafka group, where it is broken, and whether it ends with the log or at a SIGTERM.

    Decoding a value that holds `kills` ends it, as a fault in a library would.
    """

    group: str
    failpoints: str = ""
    batch: int = 5_000
    ends_with_log: bool = True
    protocol: GroupProtocol = "classic"
    kills: str = ""


class Nursery:
    """The process that members are born in."""

    def __init__(self, bootstrap: str, dsn: str, prefix: str, log: Path) -> None:
        self._log = log.open("ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, bootstrap, dsn, prefix],
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def start(self, order: Order) -> int:
        """Start a member; returns its process id."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(order)) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def wait(self, pid: int) -> int:
        """How a member ended, negative for a signal."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{pid}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End it; its members have ended before."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(30)
        finally:
            self._process.kill()
            self._process.stdout.close()
            self._log.close()


@contextmanager
def nursery(bootstrap: str, dsn: str, prefix: str, log: Path) -> Iterator[Nursery]:
    """A nursery for the length of a block."""
    one = Nursery(bootstrap, dsn, prefix, log)
    try:
        yield one
    finally:
        one.close()


def _die_of(content: bytes) -> None:
    row = records.Reader.row

    def deadly(self: records.Reader, record: records.Record) -> records.Row:
        if content in (record.value or b""):
            os.kill(os.getpid(), signal.SIGKILL)
        return row(self, record)

    records.Reader.row = deadly  # type: ignore[method-assign]  # in this process alone


def _live(order: Order, bootstrap: str, dsn: str, prefix: str) -> None:
    failpoints._points = failpoints._parse(order.failpoints)
    ingest._BATCH = order.batch
    if order.kills:
        _die_of(order.kills.encode())
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    member = ingest.Ingest(
        kafka={"bootstrap.servers": bootstrap, "group.id": order.group},
        dsn=dsn,
        profile="local",
        topic_prefix=prefix,
        admit_tenants=True,
        group_protocol=order.protocol,
    )
    member.run(stopping, until=member.end_offsets() if order.ends_with_log else None)


def _main(bootstrap: str, dsn: str, prefix: str) -> None:
    for line in sys.stdin:
        asked = json.loads(line)
        if isinstance(asked, int):
            print(os.waitstatus_to_exitcode(os.waitpid(asked, 0)[1]), flush=True)
            continue
        pid = os.fork()
        if pid:
            print(pid, flush=True)
            continue
        sys.stdin.close()
        status = 1
        try:
            _live(Order(**asked), bootstrap, dsn, prefix)
            status = 0
        except BaseException as error:  # noqa: BLE001  # what ends a member is told, and it ends
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        finally:
            os._exit(status)


if __name__ == "__main__":
    _main(*sys.argv[1:])
