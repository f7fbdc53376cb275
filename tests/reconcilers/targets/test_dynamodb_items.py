"""DynamoDB's own: types, keys of every type, keys put together, what is left unprocessed, and few requests."""

import datetime as dt
import json
import time
import uuid
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterfoil_reconcilers.rows import Row, RowKey
from counterfoil_reconcilers.targets.aws import AwsConnection
from counterfoil_reconcilers.targets.dynamodb import DynamoTarget
from counterfoil_reconcilers.targets.dynamodb_values import is_number, number_text
from counterfoil_reconcilers.targets.opening import open_target
from counterfoil_reconcilers.targets.port import Address, Target, TargetUnavailable
from counterfoil_reconcilers.touched import Search
from counterfoil_reconcilers.values import Json
from tests.fix_answers import Answer, Answering, Asked
from tests.fix_aws import Aws
from tests.reconcilers.targets.conformance import NAME, contracts_of

Opened = Callable[..., Target]
NewTable = Callable[..., str]
_KEYS = {"access_key_id": "AKIA", "secret_access_key": "geheim", "region": "eu-west-1", "timeout_seconds": "30"}
_TABLE = {
    "AttributeDefinitions": [{"AttributeName": "id", "AttributeType": "S"}],
    "KeySchema": [{"AttributeName": "id", "KeyType": "HASH"}],
}


def contract(table: str, more: str = 'key = ["id"]') -> str:
    return f'[targets.{NAME}]\nkind = "dynamodb"\n[targets.{NAME}.resources.items]\ntable = "{table}"\n{more}\n'


def at(*key: str, tenant: str | None = None) -> Address:
    return Address(tenant, RowKey("items", key))


def answer(content: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] = MappingProxyType({})) -> Answer:
    return Answer(status, json.dumps(content).encode(), {"Content-Type": "application/x-amz-json-1.0", **headers})


def failure(code: str, status: int = 400, headers: Mapping[str, str] = MappingProxyType({})) -> Answer:
    """As "DynamoDB error handling" shows it."""
    return answer({"__type": f"com.amazonaws.dynamodb.v20120810#{code}", "message": "no"}, status, headers)


@pytest.fixture
def new_table(aws: Aws) -> NewTable:
    """Makes tables: names of key attributes, and their types."""

    def make(*types: str, names: tuple[str, ...] = ("id", "region")) -> str:
        name = f"t{uuid.uuid4().hex}"
        key = list(zip(names, types, strict=False))
        aws.client("dynamodb").create_table(
            TableName=name,
            AttributeDefinitions=[{"AttributeName": attribute, "AttributeType": type_} for attribute, type_ in key],
            KeySchema=[
                {"AttributeName": attribute, "KeyType": role}
                for (attribute, _), role in zip(key, ("HASH", "RANGE"), strict=False)
            ],
            BillingMode="PAY_PER_REQUEST",
        )
        return name

    return make


@pytest.fixture
def opened(tmp_path: Path, aws: Aws) -> Opened:
    def opens(text: str, connection: Mapping[str, str] | None = None) -> Target:
        return open_target(
            contracts_of(tmp_path, text), NAME, {NAME: aws.connection if connection is None else connection}
        )

    return opens


@pytest.fixture
def told(opened: Opened, answering: Answering) -> Callable[..., Target]:
    """A target at the server that answers as it is told, and has one table."""

    def opens(say: Callable[[Asked], Answer] | Answer) -> Target:
        def answer_to(asked: Asked) -> Answer:
            if asked.operation == "DescribeTable":
                return answer({"Table": _TABLE})
            return say if isinstance(say, Answer) else say(asked)

        answering.say = answer_to
        return opened(contract("items"), {**_KEYS, "endpoint_url": answering.url})

    return opens


def docs(target: Target, *addresses: Address) -> list[Json]:
    return [row.row.doc if row.row else None for row in target.read(addresses)]


def test_every_type_comes_as_json(opened: Opened, new_table: NewTable, aws: Aws) -> None:
    table = new_table("S")
    item = {
        "id": {"S": "A"}, "large": {"N": "9007199254740993"}, "half": {"N": "0.5"}, "whole": {"N": "3"},
        "texts": {"SS": ["b", "a"]}, "numbers": {"NS": ["10", "9", "-1.5"]}, "parts": {"BS": [b"\xff", b"\x00"]},
        "bytes": {"B": b"\x00\xff"}, "nothing": {"NULL": True}, "no": {"BOOL": False}, "empty": {"S": ""},
        "nested": {"M": {"list": {"L": [{"M": {"n": {"N": "-9223372036854775808"}}}, {"S": "x"}]}}},
    }  # fmt: skip
    aws.client("dynamodb").put_item(TableName=table, Item=item)
    with opened(contract(table)) as target:
        [held] = docs(target, at("A"))
    assert held == {
        "id": "A", "large": 9007199254740993, "half": 0.5, "whole": 3.0, "texts": ["a", "b"],
        "numbers": [-1.5, 9.0, 10.0], "parts": ["/w==", "AA=="], "bytes": "AP8=", "nothing": None, "no": False,
        "empty": "", "nested": {"list": [{"n": -(2**63)}, "x"]},
    }  # fmt: skip
    assert isinstance(held, dict)
    assert isinstance(held["large"], int)


@pytest.mark.parametrize("value", [{"N": "9223372036854775808"}, {"N": "1E+125"}, {"S": "a\0b"}])
def test_an_item_that_cannot_be_compared_says_why(
    opened: Opened, new_table: NewTable, aws: Aws, value: Mapping[str, str]
) -> None:
    table = new_table("S")
    aws.client("dynamodb").put_item(TableName=table, Item={"id": {"S": "A"}, "tenant": {"S": "acme"}, "odd": value})
    with opened(contract(table, 'key = ["id"]\ntenant = "tenant"')) as target:
        rows = [target.read([at("A", tenant="acme")])[0], *target.scan("items", "acme")]
        assert [row.address for row in rows] == [at("A", tenant="acme")] * 2
        for row in rows:
            assert row.row is not None
            assert (row.row.doc, bool(row.row.problem)) == (None, True)
        assert target.read([at("A", tenant="bolt")])[0].row is None
        assert list(target.scan("items", "bolt")) == []


@pytest.mark.parametrize(
    ("kind", "there", "text", "others"),
    [
        ("N", {"N": "17"}, "17", ["017", "17.0", "1.7e1", "+17", " 17", "17 ", "\u0661\u0667", "-17", "", "NaN", "x"]),
        ("N", {"N": "-0.50"}, "-0.5", ["-0.50", "-.5", "0.5", "-5e-1"]),
        ("N", {"N": "0"}, "0", ["-0", "00", "0.0", "0x0"]),
        ("N", {"N": "1" * 38}, "1" * 38, ["1" * 39, "1" * 5_000, "Infinity"]),
        ("B", {"B": b"\x00\xff"}, "AP8=", ["AP8", "AP9=", "AP8=\n", "!AP8=", "", "\ud800", "Ä"]),
        ("S", {"S": "17"}, "17", ["017", "17\0", "", "\ud800", "x" * 2_049, "1" * 2_048]),
    ],
)
def test_a_key_of_every_type_has_one_text(
    opened: Opened, new_table: NewTable, aws: Aws, kind: str, there: Mapping[str, Any], text: str, others: list[str]
) -> None:
    table = new_table(kind)
    aws.client("dynamodb").put_item(TableName=table, Item={"id": there, "status": {"S": "paid"}})
    with opened(contract(table)) as target:
        found = target.read([at(text), *map(at, others)])
        assert [row.row is not None for row in found] == [True, *[False] * len(others)]
        assert [row.address for row in target.scan("items")] == [at(text)]


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**20), max_value=10**20))
def test_a_number_has_one_text_whatever_its_form(number: Decimal) -> None:
    text = number_text(number)
    assert Decimal(text) == number
    assert is_number(text)
    assert number_text(number * Decimal("1.00")) == text


def test_a_key_of_two_is_read_and_the_same_item_is_asked_for_once(
    opened: Opened, new_table: NewTable, aws: Aws
) -> None:
    table = new_table("S", "N")
    for number in range(3):
        item = {"id": {"S": "A"}, "region": {"N": str(number)}, "tenant": {"S": "acme" if number else "bolt"}}
        aws.client("dynamodb").put_item(TableName=table, Item=item)
    with opened(contract(table, 'key = ["region", "id"]\ntenant = "tenant"')) as target:
        wanted = [at(str(n), "A", tenant=tenant) for n in (0, 1) for tenant in ("acme", "bolt")]
        assert [row.row is not None for row in target.read(wanted)] == [False, True, True, False]
        assert {row.address for row in target.scan("items")} == {
            at("0", "A", tenant="bolt"), at("1", "A", tenant="acme"), at("2", "A", tenant="acme"),
        }  # fmt: skip


def test_items_of_many_sorts_share_a_table(opened: Opened, new_table: NewTable, aws: Aws) -> None:
    table = new_table("S", "S", names=("pk", "sk"))
    keys = [("T#acme#ORDER#1", "META"), ("T#acme#ORDER#1", "LINE#1"), ("T#acme#ORDER#2#3", "META"), ("T#bolt", "META")]
    for pk, sk in keys:
        aws.client("dynamodb").put_item(TableName=table, Item={"pk": {"S": pk}, "sk": {"S": sk}})
    more = 'key = ["id"]\ntenant = "tenant"\nitem = { pk = "T#{tenant}#ORDER#{id}", sk = "META" }'
    with opened(contract(table, more)) as target:
        wanted = [at(key, tenant="acme") for key in ("1", "2", "2#3", "1#LINE", "")]
        assert [row.row is not None for row in target.read(wanted)] == [True, False, False, False, False]
        assert [row.address for row in target.scan("items", "acme")] == [at("1", tenant="acme")]
    lines = 'key = ["id", "line"]\ntenant = "tenant"\nitem = { pk = "T#{tenant}#ORDER#{id}", sk = "LINE#{line}" }'
    with opened(contract(table, lines)) as target:
        assert [row.address for row in target.scan("items")] == [at("1", "1", tenant="acme")]


def test_a_search_sends_names_and_values_never_text(opened: Opened, new_table: NewTable, aws: Aws) -> None:
    table = new_table("S", "S", names=("tenant", "id"))
    fields: Mapping[str, Any] = {
        "status": {"S": "paid"}, "size": {"N": "12.50"}, "a.b": {"S": "#n0 = :v0"}, "is": {"BOOL": True},
        "text": {"S": "12.5"}, "none": {"NULL": True}, "lines": {"L": [{"N": "1"}, {"N": "2"}]},
    }  # fmt: skip
    for number in range(3):
        key = {"tenant": {"S": "acme"}, "id": {"S": f"A-{number}"}}
        aws.client("dynamodb").put_item(TableName=table, Item={**key, **(fields if number else {})})

    def found(*search: tuple[str, Json]) -> list[str]:
        rows = target.find("acme", [Search("items", search)], 10)
        return sorted(row.address.row.key[0] for row in rows)

    both = ["A-1", "A-2"]
    with opened(contract(table, 'key = ["id"]\ntenant = "tenant"')) as target:
        assert found(("status", "paid"), ("size", 12.5), ("a.b", "#n0 = :v0")) == both
        assert found(("size", "12.5")) == found(("text", 12.5)) == found(("is", True)) == found(("none", None)) == both
        assert found(("lines", [1.0, 2.0])) == both
        assert found(("status", "paid"), ("id", "A-2")) == ["A-2"]
        for nothing in (
            ("lines", [2.0, 1.0]),
            ("is", 1.0),
            ("status", "paid' OR '1'='1"),
            ("size", 12.51),
            ("no", None),
        ):
            assert found(nothing) == []
        assert target.find("bolt", [Search("items", (("status", "paid"),))], 10) == []


def test_a_list_of_more_than_a_page_is_whole(
    opened: Opened, new_table: NewTable, aws: Aws, answering: Answering
) -> None:
    table = new_table("S")
    for number in range(8):
        item = {"id": {"S": f"A-{number}"}, "note": {"S": "x" * 300_000}}
        aws.client("dynamodb").put_item(TableName=table, Item=item)
    answering.say = answering.pass_on_to(aws.url)
    with opened(contract(table), {**aws.connection, "endpoint_url": answering.url}) as target:
        assert sorted(row.address.row.key[0] for row in target.scan("items")) == [f"A-{n}" for n in range(8)]
    assert [asked.operation for asked in answering.asked].count("Scan") > 1


def test_a_thousand_keys_are_ten_requests(opened: Opened, new_table: NewTable, aws: Aws, answering: Answering) -> None:
    table = new_table("S")
    for number in range(0, 1_000, 100):
        aws.client("dynamodb").put_item(TableName=table, Item={"id": {"S": f"A-{number}"}})
    answering.say = answering.pass_on_to(aws.url)
    with opened(contract(table), {**aws.connection, "endpoint_url": answering.url}) as target:
        found = target.read([at(f"A-{number}") for number in range(1_000)])
    assert [row.address.row.key[0] for row in found if row.row] == [f"A-{n}" for n in range(0, 1_000, 100)]
    assert [asked.operation for asked in answering.asked] == ["DescribeTable", *["BatchGetItem"] * 10]
    asked_for = json.loads(answering.asked[1].body)["RequestItems"][table]
    assert (len(asked_for["Keys"]), asked_for["ConsistentRead"]) == (100, True)


def leaves_out(processed: int) -> Callable[[Asked], Answer]:
    """Answers so many of the keys of each request, and leaves the others unprocessed."""

    def say(asked: Asked) -> Answer:
        keys = json.loads(asked.body)["RequestItems"]["items"]["Keys"]
        left = {"items": {"Keys": keys[processed:]}} if keys[processed:] else {}
        return answer({"Responses": {"items": keys[:processed]}, "UnprocessedKeys": left})

    return say


def test_keys_that_are_left_out_are_asked_for_again(told: Callable[..., Target], answering: Answering) -> None:
    with told(leaves_out(30)) as target:
        found = target.read([at(f"A-{number}") for number in range(100)])
    assert all(row.row is not None for row in found)
    assert len(answering.asked) == 1 + 4


def test_keys_that_are_left_out_for_long_are_throttled(answering: Answering, tmp_path: Path) -> None:
    never = leaves_out(0)
    answering.say = lambda asked: answer({"Table": _TABLE}) if asked.operation == "DescribeTable" else never(asked)
    connection = AwsConnection.model_validate({**_KEYS, "endpoint_url": answering.url})
    started = time.monotonic()
    contracts = contracts_of(tmp_path, contract("items"))
    target = DynamoTarget(contracts, NAME, connection, unprocessed_seconds=0.5)
    with target, pytest.raises(TargetUnavailable, match="left 1 keys unread") as caught:
        target.read([at("A")])
    assert caught.value.trouble == "throttled"
    assert time.monotonic() - started < 30
    assert len(answering.asked) > 2


@pytest.mark.parametrize(
    ("say", "trouble"),
    [
        (failure("ProvisionedThroughputExceededException"), "throttled"),
        (failure("ThrottlingException"), "throttled"),
        (failure("RequestLimitExceeded"), "throttled"),
        (failure("AccessDeniedException"), "refused"),
        (failure("UnrecognizedClientException"), "refused"),
        (failure("ExpiredTokenException"), "refused"),
        (failure("MissingAuthenticationTokenException"), "refused"),
        (failure("ResourceNotFoundException"), "away"),
        (failure("InternalServerError", 500), "away"),
        (failure("ValidationException"), "away"),
        (Answer(200, b"<html>log in first</html>", {"Content-Type": "text/html"}), "unreadable"),
        (Answer(200, b""), "unreadable"),
        (Answer(200, b"[1]"), "unreadable"),
        (Answer(200, b"\xff\xfe"), "unreadable"),
        (answer({"Responses": {"items": [{"name": {"S": "no key"}}]}}), "unreadable"),
        (answer({"Responses": {"items": [{"id": {"S": "B"}}]}}), "unreadable"),
        (answer({"Responses": {"items": [{"id": {"N": "x"}}]}}), "unreadable"),
        (answer({"Responses": {"items": [{"id": {}}]}}), "unreadable"),
        (answer({"Responses": {"items": ["A"]}}), "unreadable"),
        (answer({"Responses": []}), "unreadable"),
        (answer({"Responses": {"items": [{"id": {"S": 5}}]}}), "unreadable"),
        (answer({"Responses": None}), "unreadable"),
        (Answer(404, b"<html>not found</html>"), "unreadable"),
        (Answer(503, b"<html>busy</html>"), "throttled"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.status} {value.body[:70]!r}",
)
def test_no_answer_is_taken_for_one(told: Callable[..., Target], say: Answer, trouble: str) -> None:
    with told(say) as target, pytest.raises(TargetUnavailable) as caught:
        target.read([at("A")])
    assert caught.value.trouble == trouble, caught.value
    assert "geheim" not in str(caught.value)


@pytest.mark.parametrize(
    "table", [{}, {"KeySchema": []}, {**_TABLE, "AttributeDefinitions": []}, {**_TABLE, "AttributeDefinitions": [{}]}]
)
def test_a_table_without_a_key_is_no_answer(opened: Opened, answering: Answering, table: Mapping[str, Any]) -> None:
    answering.say = lambda _: answer({"Table": table})
    target = opened(contract("items"), {**_KEYS, "endpoint_url": answering.url})
    with target, pytest.raises(TargetUnavailable) as caught:
        target.read([at("A")])
    assert caught.value.trouble == "unreadable"


def test_an_attribute_may_have_any_name(opened: Opened, new_table: NewTable, aws: Aws) -> None:
    table = new_table("S", "S", names=("order-id", "line no."))
    aws.client("dynamodb").put_item(TableName=table, Item={"order-id": {"S": "A#1"}, "line no.": {"S": "{x}"}})
    with opened(contract(table, 'key = ["order-id", "line no."]')) as target:
        assert target.check() == []
        assert [row.row is not None for row in target.read([at("A#1", "{x}"), at("A#1", "x")])] == [True, False]
        assert [row.address for row in target.scan("items")] == [at("A#1", "{x}")]


def test_a_row_of_nobody_is_not_there(opened: Opened, new_table: NewTable, aws: Aws) -> None:
    table = new_table("S", "S", names=("tenant", "id"))
    aws.client("dynamodb").put_item(TableName=table, Item={"tenant": {"S": "acme"}, "id": {"S": "A"}})
    with opened(contract(table, 'key = ["id"]\ntenant = "tenant"')) as target:
        assert target.read([at("A")])[0].row is None
        assert [row.address for row in target.scan("items")] == [at("A", tenant="acme")]


@pytest.mark.parametrize("content", [{}, {"Count": 0}, {"Items": [], "LastEvaluatedKey": {"id": {"S": "A"}}}])
def test_a_list_that_is_none_ends(told: Callable[..., Target], content: Mapping[str, Any]) -> None:
    with told(answer(content)) as target, pytest.raises(TargetUnavailable) as caught:
        list(target.scan("items"))
    assert caught.value.trouble == "unreadable"


def test_a_target_says_when_to_ask_again(told: Callable[..., Target]) -> None:
    throttled = failure("ThrottlingException", headers={"Retry-After": "3"})
    with told(throttled) as target, pytest.raises(TargetUnavailable) as caught:
        target.read([at("A")])
    assert caught.value.retry_after == dt.timedelta(seconds=3)


def test_the_check_names_the_line_of_every_mistake(opened: Opened, new_table: NewTable) -> None:
    table = new_table("S", "S")
    with opened(contract(table)) as target:
        assert [str(one) for one in target.check()] == [
            f"contracts.toml line 6: the key of table {table} has region, too, and nothing says what it holds"
        ]
        with pytest.raises(TargetUnavailable, match="run the contract check"):
            target.read([at("A")])
    with opened(contract(table, 'key = ["id", "regio"]')) as target:
        assert str(target.check()[0]) == (
            f"contracts.toml line 6: the key of table {table} has no attribute regio; did you mean region?"
        )
    with opened(contract(table, 'key = ["id"]\nitem = { id = "{id}", region = "R#{no}" }')) as target:
        [mistake] = target.check()
        assert "line 7" in str(mistake)
        assert "names no" in str(mistake)


def test_a_client_token_holds_ten_minutes(tmp_path: Path) -> None:
    kind = contracts_of(tmp_path, contract("items")).targets[NAME].capabilities
    assert kind.idempotent_for == dt.timedelta(minutes=10)


def test_a_value_of_an_unknown_type_is_a_problem(told: Callable[..., Target]) -> None:
    odd = answer({"Responses": {"items": [{"id": {"S": "A"}, "x": {"Q": "1"}}]}})
    with told(odd) as target:
        [found] = target.read([at("A")])
    assert isinstance(found.row, Row)
    assert found.row.problem is not None
