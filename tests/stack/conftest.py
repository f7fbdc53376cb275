"""Fixtures of the stack's tests: data in a temporary folder, jars from the cache of whoever runs them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from counterfoil_console.stack import LocalStack, default_directories
from counterfoil_console.stack.layout import Layout
from counterfoil_console.stack.processes import find
from counterfoil_console.stack.status import recognisers

CACHE = default_directories(os.environ).cache
NewStack = Callable[..., LocalStack]
RunScript = Callable[[LocalStack, str], "subprocess.Popen[str]"]

_PREAMBLE = """
import os, signal, sys, time
from pathlib import Path
from counterfoil_console.stack import LocalStack
stack = LocalStack(Path(sys.argv[1]), Path(sys.argv[2]), os.environ["PATH"])
def say(word):
    print(word, flush=True)
"""


def stray(stack: LocalStack) -> list[psutil.Process]:
    """Every process of a stack, wherever it came from."""
    mark = Layout(stack.data_directory.resolve()).mark
    return [process for recognise in recognisers(mark).values() for process in find(recognise)]


@pytest.fixture
def new_stack() -> Iterator[NewStack]:
    """Makes stacks in a folder of the test's; whatever they leave running fails the test.

    Not under pytest's own folder, as in tests/fix_stack.py: another run beside this one shuts Postgres' user out of it.
    """
    made: list[LocalStack] = []
    with tempfile.TemporaryDirectory(prefix="counterfoil-") as folder:

        def make(name: str = "data", **options: object) -> LocalStack:
            stack = LocalStack(
                Path(folder) / name,
                **{"cache_directory": CACHE, "search_path": os.environ["PATH"], **options},  # type: ignore[arg-type] # a test's own options
            )
            made.append(stack)
            return stack

        yield make
        left = [process.pid for stack in made for process in stray(stack)]
        for stack in made:
            stack.down()
    assert not left


@pytest.fixture
def run_script() -> Iterator[RunScript]:
    """Runs Python code in a process of its own, with `stack` and `say` in its reach."""
    started: list[subprocess.Popen[str]] = []

    def run(stack: LocalStack, code: str) -> subprocess.Popen[str]:
        arguments = [str(stack.data_directory), str(stack.cache_directory)]
        process = subprocess.Popen(
            [sys.executable, "-c", _PREAMBLE + code, *arguments],
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
