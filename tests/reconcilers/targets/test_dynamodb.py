"""DynamoDB passes the suite of every kind, on moto's server; what is its own is in test_dynamodb_items."""

import uuid
from collections.abc import Mapping
from contextlib import AbstractContextManager
from decimal import Decimal
from typing import Any

import pytest
from boto3.dynamodb.types import TypeSerializer

from counterfoil_reconcilers.contracts import Contracts
from tests.fix_aws import Aws
from tests.reconcilers.targets.conformance import SECRET, Conformance, Subject

_CONTRACT = """\
[targets.subject]
kind = "dynamodb"
[targets.subject.resources.items]
table = "{table}"
key = ["id"]
tenant = "tenant"
"""


class Table:
    """A table of its own, partitioned by tenant."""

    key: Mapping[str, str] = {"tenant": "HASH", "id": "RANGE"}
    more = ""

    def __init__(self, aws: Aws) -> None:
        self._aws = aws
        self._name = f"t{uuid.uuid4().hex}"
        self.client = aws.client("dynamodb")
        self.client.create_table(
            TableName=self._name,
            AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in self.key],
            KeySchema=[{"AttributeName": name, "KeyType": role} for name, role in self.key.items()],
            BillingMode="PAY_PER_REQUEST",
        )
        self.contract = _CONTRACT.format(table=self._name) + self.more
        self.lost_contract = (self.contract.replace(self._name, "no-such-table"), "no-such-table")
        self.connection = aws.connection
        self.refused = {**aws.connection, "secret_access_key": SECRET}

    def put(self, tenant: str, key: str, fields: Mapping[str, Any]) -> None:
        item = {**self.key_of(tenant, key), "tenant": tenant, "id": key, **fields}
        self.client.put_item(TableName=self._name, Item={name: _attribute(value) for name, value in item.items()})

    def remove(self, tenant: str, key: str) -> None:
        its = {name: _attribute(value) for name, value in self.key_of(tenant, key).items()}
        self.client.delete_item(TableName=self._name, Key=its)

    def away(self) -> AbstractContextManager[None]:
        return self._aws.silent()

    def key_of(self, tenant: str, key: str) -> Mapping[str, str]:
        return {"tenant": tenant, "id": key}


class TableOfAll(Table):
    """One whose key does not say whose an item is."""

    key: Mapping[str, str] = {"id": "HASH"}

    def key_of(self, _tenant: str, key: str) -> Mapping[str, str]:
        return {"id": key}


class SingleTable(Table):
    """One for items of many sorts, whose key is put together."""

    key: Mapping[str, str] = {"pk": "HASH", "sk": "RANGE"}
    more = 'item = { pk = "TENANT#{tenant}", sk = "ITEM#{id}" }\n'

    def key_of(self, tenant: str, key: str) -> Mapping[str, str]:
        return {"pk": f"TENANT#{tenant}", "sk": f"ITEM#{key}"}


class TestDynamoDB(Conformance):
    @pytest.fixture(params=[Table, TableOfAll, SingleTable])
    def subject(self, aws: Aws, request: pytest.FixtureRequest) -> Subject:
        made: Subject = request.param(aws)
        return made

    @pytest.mark.usefixtures("strict_aws")
    def test_refused_credentials_are_no_answer_and_not_shown(self, subject: Subject, contracts: Contracts) -> None:
        super().test_refused_credentials_are_no_answer_and_not_shown(subject, contracts)


def _attribute(value: Any) -> Any:
    return TypeSerializer().serialize(_with_decimals(value))


def _with_decimals(value: Any) -> Any:
    if isinstance(value, float):
        return Decimal(repr(value))
    if isinstance(value, Mapping):
        return {name: _with_decimals(item) for name, item in value.items()}
    return [_with_decimals(item) for item in value] if isinstance(value, list) else value
