"""Python code run in a fork of a process that has loaded `counterfoil`, for tests that start dozens of processes.

It does what `start_python` does, but for the third of a second that loading takes. The process that is forked,
`python -m tests.fix_born`, has done nothing but load: it has no recorder, no client and no thread.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from counterfoil import RecorderSettings, failpoints
from tests.fix_log import variables_of


@dataclass(frozen=True)
class Order:
    """Code to run, what stands in sys.argv behind it, all its variables, and the file for what it says on stderr."""

    code: str
    arguments: tuple[str, ...]
    variables: dict[str, str]
    stderr: str


class Cradle:
    """The process that others are forked from; there is another one after it had to be ended."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def run(self, order: Order) -> int:
        """How the code ended, negative for a signal; if whoever waits is interrupted, it ends."""
        process = self._process = self._process or self._begin()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(asdict(order)) + "\n")
            process.stdin.flush()
            return int(process.stdout.readline())
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End it, and what was forked from it."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()
            self._process = None

    @staticmethod
    def _begin() -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-W", "error", "-m", __name__],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )


@dataclass(frozen=True)
class Ended:
    """How code ended, negative for a signal, and what it said on stderr."""

    status: int
    said: str


RunBorn = Callable[..., Ended]


@pytest.fixture(scope="session")
def cradle() -> Iterator[Cradle]:
    """One for the run."""
    with closing(Cradle()) as one:
        yield one


@pytest.fixture
def run_born(cradle: Cradle, recorder_settings: RecorderSettings, tmp_path: Path) -> RunBorn:
    """Runs code to its end, whose `Recorder.from_env()` records on the test's topics; keywords are variables."""
    said = tmp_path / "said"

    def run(code: str, *arguments: str, **variables: str) -> Ended:
        said.write_text("")
        status = cradle.run(Order(code, arguments, variables_of(recorder_settings) | variables, str(said)))
        return Ended(status, said.read_text())

    return run


def _become(order: Order) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    errors = os.open(order.stderr, os.O_WRONLY | os.O_APPEND)
    for found, wanted in ((nothing, 0), (nothing, 1), (errors, 2)):
        os.dup2(found, wanted)
    os.environ.clear()
    os.environ.update(order.variables)
    failpoints._points = failpoints._parse(os.environ.get("COUNTERFOIL_FAILPOINTS", ""))
    sys.argv = ["-c", *order.arguments]
    code: Any = compile(order.code, "<born>", "exec")
    exec(code, {"__name__": "__main__"})


def _main() -> None:
    for line in sys.stdin:
        order = Order(**json.loads(line))
        pid = os.fork()
        if not pid:
            _become(order)  # it ends as any process does, by an exception or with its code
            return
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    _main()
