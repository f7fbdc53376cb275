"""S3 passes the suite of every kind, on moto's server; what is its own is in test_s3_objects."""

import json
import uuid
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import pytest

from counterfoil_reconcilers.contracts import Contracts
from counterfoil_reconcilers.targets.port import Target, TargetUnavailable
from tests.fix_aws import Aws
from tests.reconcilers.targets.conformance import ODD_KEYS, SECRET, Conformance, Subject, item

_CONTRACT = """\
[targets.subject]
kind = "s3"
[targets.subject.resources.items]
bucket = "{bucket}"
object = "{object}"
key = ["id"]
tenant = "tenant"
"""


class Bucket:
    """A bucket of its own: a tenant's objects lie under its name."""

    object = "{tenant}/items/{id}.json"

    def __init__(self, aws: Aws) -> None:
        self._aws = aws
        self._name = f"b{uuid.uuid4().hex}"
        self.client = aws.client("s3")
        self.client.create_bucket(Bucket=self._name, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        self.contract = _CONTRACT.format(bucket=self._name, object=self.object)
        self.lost_contract = (self.contract.replace(self._name, "no-such-bucket"), "no-such-bucket")
        self.connection = aws.connection
        self.refused = {**aws.connection, "secret_access_key": SECRET}

    def put(self, tenant: str, key: str, fields: Mapping[str, Any]) -> None:
        body = json.dumps({"tenant": tenant, **fields}).encode()
        self.client.put_object(Bucket=self._name, Key=self._key(tenant, key), Body=body)

    def remove(self, tenant: str, key: str) -> None:
        self.client.delete_object(Bucket=self._name, Key=self._key(tenant, key))

    def away(self) -> AbstractContextManager[None]:
        return self._aws.silent()

    def _key(self, tenant: str, key: str) -> str:
        return self.object.replace("{tenant}", tenant).replace("{id}", key)


class BucketOfAll(Bucket):
    """One whose objects say inside whose they are."""

    object = "items/{id}.json"


class TestS3(Conformance):
    odd_keys = tuple(key for key in ODD_KEYS if "\n" not in key)

    @pytest.fixture(params=[Bucket, BucketOfAll])
    def subject(self, aws: Aws, request: pytest.FixtureRequest) -> Subject:
        made: Subject = request.param(aws)
        return made

    def test_a_404_that_is_not_s3s_own_is_no_answer(self, subject: Subject, target: Target) -> None:
        """moto's server has no route for a name with a line break, and says so without a code of S3's."""
        with target, pytest.raises(TargetUnavailable, match="404") as caught:
            target.read([item("A-1\n")])
        assert caught.value.trouble == "unreadable"

    @pytest.mark.usefixtures("strict_aws")
    def test_refused_credentials_are_no_answer_and_not_shown(self, subject: Subject, contracts: Contracts) -> None:
        super().test_refused_credentials_are_no_answer_and_not_shown(subject, contracts)
