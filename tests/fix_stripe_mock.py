"""Stripe's own stripe-mock on loopback: it checks requests by Stripe's OpenAPI document, and answers with its examples.

It keeps nothing: whatever key is asked for is there, and a list holds one row. Of what its README says it can't do, the
tests assert nothing.
"""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.pgbouncer import served
from counterfoil_console.stack import default_directories
from counterfoil_console.stack.ports import HOST, pick
from tests.fix_oldest import need
from tests.waiting import is_served

VERSION = "0.203.0"
PROGRAM = default_directories(os.environ).cache / f"stripe-mock-{VERSION}" / "stripe-mock"
KEY = "rk_test_only"  # it takes test keys alone


@pytest.fixture(scope="session")
def stripe_mock() -> Iterator[str]:
    """The address of a server for the run."""
    need(PROGRAM, "stripe-mock")
    with tempfile.TemporaryDirectory(prefix="counterfoil-") as folder:
        port = pick(None, ())
        url = f"http://{HOST}:{port}"
        # It serves HTTPS at every address of the machine unless told where else.
        places = ["-http-addr", f"{HOST}:{port}", "-https-unix", f"{folder}/https"]
        # It leaves it to the system to end it, which does so only where SIGINT is not ignored, as in a job of a script.
        ending = ["setpriv", "--pdeathsig", "TERM", "env", "--default-signal=INT"]
        command = [*ending, str(PROGRAM), *places, "-strict-version-check"]
        headers = {"Authorization": f"Bearer {KEY}"}
        with served(command, Path(folder) / "log", lambda: is_served(f"{url}/v1/balance", headers=headers)):
            yield url
