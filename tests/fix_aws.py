"""moto's server: S3, DynamoDB, IAM and STS in one process on loopback, which can be made to hold its breath."""

import os
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3.session
import botocore.loaders
import botocore.session
import pytest
from botocore.config import Config

from counterfoil_console.stack.ports import HOST, is_open, pick
from tests.waiting import freeze

REGION = "eu-west-1"
_START_SECONDS = 90.0
_PATIENT = Config(retries={"total_max_attempts": 3}, read_timeout=60)
_ALLOWED = '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}'
_TRUSTING = (
    '{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "sts:AssumeRole"}]}'
)


class Aws:
    """One server, and a user of it who may do everything."""

    def __init__(self, port: int, pid: int) -> None:
        self._pid = pid
        self.url = f"http://{HOST}:{port}"
        self._clients: dict[str, Any] = {}
        self._iam = self._client_of("iam", "anybody", "none")
        self.connection = self.user(_ALLOWED)
        self._iam = self.client("iam")

    def client(self, service: str) -> Any:
        """A client of the user's own, around every adapter."""
        if service not in self._clients:
            keys = self.connection["access_key_id"], self.connection["secret_access_key"]
            self._clients[service] = self._client_of(service, *keys)
        return self._clients[service]

    @contextmanager
    def silent(self) -> Iterator[None]:
        """It neither answers nor closes its connections for the length of a block."""
        freeze(self._pid)
        try:
            yield
        finally:
            os.kill(self._pid, signal.SIGCONT)

    @contextmanager
    def strict(self) -> Iterator[None]:
        """For the length of a block it looks at signatures and policies, which it does not do otherwise."""
        self._look_at_keys("0")
        try:
            yield
        finally:
            self._look_at_keys("inf")

    def user(self, policy: str) -> Mapping[str, str]:
        """Settings of a new user who may do what a policy says."""
        name = f"u{uuid.uuid4().hex}"
        self._iam.create_user(UserName=name)
        self._iam.put_user_policy(UserName=name, PolicyName="its", PolicyDocument=policy)
        key = self._iam.create_access_key(UserName=name)["AccessKey"]
        return {
            "endpoint_url": self.url, "region": REGION, "timeout_seconds": "4",
            "access_key_id": key["AccessKeyId"], "secret_access_key": key["SecretAccessKey"],
        }  # fmt: skip

    def role(self) -> str:
        """The ARN of a new role that anybody may take on."""
        name = f"r{uuid.uuid4().hex}"
        return str(self._iam.create_role(RoleName=name, AssumeRolePolicyDocument=_TRUSTING)["Role"]["Arn"])

    def _client_of(self, service: str, key_id: str, secret: str) -> Any:
        session = boto3.session.Session(aws_access_key_id=key_id, aws_secret_access_key=secret, region_name=REGION)
        return session.client(service, endpoint_url=self.url, config=_PATIENT)

    def _look_at_keys(self, after_requests: str) -> None:
        """moto's own: how many requests it takes from anybody before it looks."""
        request = urllib.request.Request(
            f"{self.url}/moto-api/reset-auth", after_requests.encode(), {"Content-Type": "text/plain"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=60):
            pass


@pytest.fixture(scope="session", autouse=True)
def _models_are_read_once() -> Iterator[None]:
    """A session of botocore reads its services' models anew, megabytes of JSON; here all share what was read."""
    shared: dict[Any, Any] = {}

    def create(search_path: str | None = None) -> botocore.loaders.Loader:
        loader = botocore.loaders.create_loader(search_path)
        loader._cache = shared  # as each has of its own, for all clients of one session
        return loader

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(botocore.session, "create_loader", create)
        yield


@pytest.fixture(scope="session")
def aws() -> Iterator[Aws]:
    """The one server of a run. What tests make there has names of their own."""
    with running_aws() as server:
        yield server


@contextmanager
def running_aws(clock: Sequence[str] = ()) -> Iterator[Aws]:
    """A server for the length of a block; `clock` is a command that others are run by."""
    with tempfile.TemporaryDirectory(prefix="counterfoil-aws-") as folder:
        port, log = pick(None, ()), Path(folder) / "log"
        with log.open("wb") as said:
            program = [sys.executable, "-m", "moto.server", "--host", HOST, "--port", str(port)]
            command = ["setpriv", "--pdeathsig", "KILL", *clock, *program]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd=folder)
        try:
            deadline = time.monotonic() + _START_SECONDS
            while not is_open(port):
                assert process.poll() is None, log.read_text()[-4000:]
                assert time.monotonic() < deadline, log.read_text()[-4000:]
                time.sleep(0.05)
            yield Aws(port, process.pid)
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def strict_aws(aws: Aws) -> Iterator[None]:
    """The server looks at signatures and policies while a test runs."""
    with aws.strict():
        yield
