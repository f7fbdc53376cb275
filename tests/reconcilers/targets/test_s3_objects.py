"""S3's own: names, versions, what is too large or shut, and answers that are none."""

import datetime as dt
import json
import re
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from counterfoil.errors import SettingsError
from counterfoil_reconcilers.contracts import ContractError
from counterfoil_reconcilers.rows import Row, RowKey
from counterfoil_reconcilers.targets.opening import open_target
from counterfoil_reconcilers.targets.port import Address, Target, TargetUnavailable
from tests.fix_answers import Answer, Answering, Asked
from tests.fix_aws import Aws
from tests.reconcilers.targets.conformance import NAME, contracts_of

Opened = Callable[..., Target]
_KEYS = {"access_key_id": "AKIA", "secret_access_key": "geheim", "region": "eu-west-1", "timeout_seconds": "30"}
_OBJECT = {"ETag": '"e1"', "Last-Modified": "Wed, 01 Jul 2026 10:00:00 GMT", "Content-Type": "application/json"}


def error(status: int, code: str, message: str = "no", **headers: str) -> Answer:
    """As "Amazon S3 REST error responses" shows it."""
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Answer(status, body.encode(), {"Content-Type": "application/xml", **headers})


def contract(bucket: str, template: str, more: str = 'key = ["id"]') -> str:
    head = f'[targets.{NAME}]\nkind = "s3"\n[targets.{NAME}.resources.items]\n'
    return f'{head}bucket = "{bucket}"\nobject = "{template}"\n{more}\n'


def at(*key: str, tenant: str | None = None) -> Address:
    return Address(tenant, RowKey("items", key))


@pytest.fixture
def bucket(aws: Aws) -> str:
    name = f"b{uuid.uuid4().hex}"
    aws.client("s3").create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    return name


@pytest.fixture
def opened(tmp_path: Path, aws: Aws) -> Opened:
    def opens(text: str, connection: Mapping[str, str] | None = None) -> Target:
        return open_target(
            contracts_of(tmp_path, text), NAME, {NAME: aws.connection if connection is None else connection}
        )

    return opens


@pytest.fixture
def told(opened: Opened, answering: Answering) -> Callable[..., Target]:
    """A target at the server that answers as it is told, with one object for everybody."""

    def opens(say: Callable[[Asked], Answer] | Answer, more: str = 'key = ["id"]') -> Target:
        answering.say = (lambda _: say) if isinstance(say, Answer) else say
        return opened(contract("shop", "{id}.json", more), {**_KEYS, "endpoint_url": answering.url})

    return opens


def read_one(target: Target, address: Address) -> Row | None:
    with target:
        return target.read([address])[0].row


def problem_of(row: Row | None) -> str:
    assert row is not None
    assert row.doc is None
    return str(row.problem)


@pytest.mark.parametrize(
    "key", ["A-1?x=1&y", "A-1#x", "A-1%", "A%2D1", "*", "a b+c", "Ä-1\u65e5", "'; --", "..", "~", "=&;$@,"]
)
def test_an_odd_name_is_found_as_it_was_written_and_listed_so(opened: Opened, aws: Aws, bucket: str, key: str) -> None:
    aws.client("s3").put_object(Bucket=bucket, Key=f"items/{key}.json", Body=b'{"a": 1}')
    with opened(contract(bucket, "items/{id}.json")) as target:
        [found] = target.read([at(key)])
        assert found.row is not None
        assert found.row.doc == {"a": 1.0}
        assert [row.address for row in target.scan("items")] == [at(key)]


def test_no_key_leads_to_an_object_of_another(opened: Opened, aws: Aws, bucket: str) -> None:
    for name in ("eu/7/9.json", "eu/7.json", "us/eu/7.json", "eu/.json"):
        aws.client("s3").put_object(Bucket=bucket, Key=name, Body=json.dumps({"name": name}).encode())
    two = 'key = ["region", "id"]'
    with opened(contract(bucket, "{region}/{id}.json", two)) as target:
        rows = target.read(
            [at("eu", "7"), at("eu/7", "9"), at("eu", "7/9"), at("us/eu", "7"), at("eu", ""), at("", "7")]
        )
        assert [row.row.doc if row.row else None for row in rows] == [{"name": "eu/7.json"}, *[None] * 5]
        assert [row.address for row in target.scan("items")] == [at("eu", "7")]
    with opened(contract(bucket, "{region}/{+id}.json", two)) as target:
        rows = target.read([at("eu", "7/9"), at("eu/7", "9"), at("us", "eu/7")])
        assert [row.row.doc if row.row else None for row in rows] == [
            {"name": "eu/7/9.json"},
            None,
            {"name": "us/eu/7.json"},
        ]
        assert {row.address for row in target.scan("items")} == {at("eu", "7"), at("eu", "7/9"), at("us", "eu/7")}


def test_what_s3_knows_of_an_object_is_a_field_by_the_name_that_the_contract_gives(
    opened: Opened, aws: Aws, bucket: str
) -> None:
    put = aws.client("s3").put_object
    put(Bucket=bucket, Key="A.json", Body=b'{"a": 1}', ContentType="application/json", Metadata={"Origin": "agent"})
    put(Bucket=bucket, Key="B.json", Body=b'{"about": 1}')
    put(Bucket=bucket, Key="C.json", Body=b"[1]")
    more = 'key = ["id"]\nabout = "about"'
    with opened(contract(bucket, "{id}.json", more)) as target:
        known, own, no_fields = (row.row for row in target.read([at("A"), at("B"), at("C")]))
    assert known is not None
    assert isinstance(known.doc, dict)
    about = known.doc["about"]
    assert (about["size"], about["content_type"], about["metadata"]) == (8.0, "application/json", {"origin": "agent"})
    assert abs(dt.datetime.fromisoformat(about["last_modified"]) - dt.datetime.now(dt.UTC)) < dt.timedelta(hours=1)
    assert known.version == f'"{about["etag"]}"'
    assert "a field about of its own" in problem_of(own)
    assert "no object" in problem_of(no_fields)


def test_a_text_is_a_row_and_so_is_a_name_alone(opened: Opened, aws: Aws, bucket: str) -> None:
    for name, body in (("A", "Ärger".encode()), ("B", b"\xff"), ("C", b"x\0")):
        aws.client("s3").put_object(Bucket=bucket, Key=f"{name}.json", Body=body)
    with opened(contract(bucket, "{id}.json", 'key = ["id"]\nbody = "text"')) as target:
        text, bytes_, nul = (row.row for row in target.read([at("A"), at("B"), at("C")]))
    assert text is not None
    assert text.doc == {"text": "Ärger"}
    assert "UTF-8" in problem_of(bytes_)
    assert "NUL" in problem_of(nul)
    with opened(contract(bucket, "{id}.json", 'key = ["id"]\nbody = "none"\nabout = "object"')) as target:
        there, gone = (row.row for row in target.read([at("B"), at("D")]))
    assert there is not None
    assert isinstance(there.doc, dict)
    assert (there.doc["object"]["size"], gone) == (1.0, None)
    gone_bucket = contract("no-such-bucket", "{id}.json", 'key = ["id"]\nbody = "none"')
    with opened(gone_bucket) as target, pytest.raises(TargetUnavailable, match="NoSuchBucket"):
        target.read([at("B")])


def test_a_versioned_object_has_its_version_and_a_marker_is_none(opened: Opened, aws: Aws, bucket: str) -> None:
    s3 = aws.client("s3")
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    with opened(contract(bucket, "{id}.json")) as target:
        versions = []
        for _ in range(2):  # the same content, and so the same ETag
            s3.put_object(Bucket=bucket, Key="A.json", Body=b"{}")
            row = target.read([at("A")])[0].row
            versions.append(row.version if row else None)
        assert None not in versions
        assert versions[0] != versions[1]
        s3.delete_object(Bucket=bucket, Key="A.json")
        assert target.read([at("A")])[0].row is None
        assert list(target.scan("items")) == []


def test_content_that_cannot_be_compared_says_why(opened: Opened, aws: Aws, bucket: str) -> None:
    put = aws.client("s3").put_object
    put(Bucket=bucket, Key="twice.json", Body=b'{"a": 1, "a": 2}')
    put(Bucket=bucket, Key="large.json", Body=b'{"a": "' + b"x" * 4_000_000 + b'"}')
    put(Bucket=bucket, Key="packed.json", Body=b"{}", ContentEncoding="gzip")
    put(Bucket=bucket, Key="empty.json", Body=b"")
    with opened(contract(bucket, "{id}.json")) as target:
        rows = {row.address.row.key[0]: row.row for row in target.scan("items")}
    assert "named twice" in problem_of(rows["twice"])
    assert problem_of(rows["large"]) == "it has 4000009 bytes, more than 4000000"
    assert "gzip" in problem_of(rows["packed"])
    assert "not JSON" in problem_of(rows["empty"])


def test_what_is_too_large_is_not_fetched(told: Callable[..., Target]) -> None:
    started = time.monotonic()
    row = read_one(told(Answer(200, b"{", _OBJECT, length=5_000_000_000)), at("A"))
    assert "5000000000 bytes" in problem_of(row)
    assert time.monotonic() - started < 25


def test_an_object_cut_short_is_no_answer(told: Callable[..., Target]) -> None:
    target = told(Answer(200, b'{"a": 1}', _OBJECT, length=9))
    with target, pytest.raises(TargetUnavailable) as caught:
        target.read([at("A")])
    assert caught.value.trouble == "away"


@pytest.mark.parametrize(
    ("say", "trouble"),
    [
        (error(503, "SlowDown", "Reduce your request rate"), "throttled"),
        (error(503, "ServiceUnavailable"), "throttled"),
        (error(400, "ThrottlingException"), "throttled"),
        (Answer(503, b"<html>busy</html>"), "throttled"),
        (Answer(429, b"slow"), "throttled"),
        (error(403, "AccessDenied"), "refused"),
        (error(403, "InvalidAccessKeyId"), "refused"),
        (error(403, "SignatureDoesNotMatch"), "refused"),
        (error(400, "ExpiredToken"), "refused"),
        (error(403, "RequestTimeTooSkewed"), "refused"),
        (Answer(403, b"<html>no</html>"), "refused"),
        (Answer(407, b""), "unreadable"),
        (error(404, "NoSuchBucket"), "away"),
        (error(500, "InternalError"), "away"),
        (error(301, "PermanentRedirect"), "unreadable"),
        (error(400, "AuthorizationHeaderMalformed"), "away"),
        (error(400, "InvalidRequest", "Please use AWS4-HMAC-SHA256."), "away"),
        (Answer(200, b"<html>log in first</html>", {"Content-Type": "text/html"}), "unreadable"),
        (Answer(404, b"<html>not found</html>"), "unreadable"),
        (Answer(404, b""), "unreadable"),
        (Answer(404, b'{"Code": "NoSuchKey"}'), "unreadable"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.status} {value.body[:60]!r}",
)
def test_no_answer_is_taken_for_one(told: Callable[..., Target], say: Answer, trouble: str) -> None:
    with told(say) as target, pytest.raises(TargetUnavailable) as caught:
        target.read([at("A")])
    assert caught.value.trouble == trouble, caught.value
    assert "geheim" not in str(caught.value)


def test_only_s3s_own_word_says_that_a_name_has_no_object(told: Callable[..., Target]) -> None:
    assert read_one(told(error(404, "NoSuchKey")), at("A")) is None
    assert read_one(told(error(400, "KeyTooLongError")), at("A")) is None


def test_an_object_that_is_shut_is_there_and_unreadable(told: Callable[..., Target]) -> None:
    words = "The object was stored using a form of Server Side Encryption. The correct parameters must be provided."
    for body in ("json", "none"):
        target = told(error(400, "InvalidRequest", words), f'key = ["id"]\nbody = "{body}"')
        assert "InvalidRequest" in problem_of(read_one(target, at("A")))
    assert "InvalidObjectState" in problem_of(read_one(told(error(403, "InvalidObjectState")), at("A")))


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("17", 17), ("Wed, 01 Jul 2020 10:00:00 GMT", 0), ("soon", None), ("-5", None), ("9" * 30, None)],
)
def test_a_target_says_when_to_ask_again(told: Callable[..., Target], header: str, seconds: int | None) -> None:
    with told(error(503, "SlowDown", **{"Retry-After": header})) as target, pytest.raises(TargetUnavailable) as caught:
        target.read([at("A")])
    assert caught.value.retry_after == (None if seconds is None else dt.timedelta(seconds=seconds))


def test_the_words_on_a_wrong_signature_are_not_repeated(told: Callable[..., Target]) -> None:
    words = "The Canonical String should have been x-amz-security-token:T0KEN"
    with told(error(403, "InvalidSignatureException", words)) as target, pytest.raises(TargetUnavailable) as caught:
        target.read([at("A")])
    assert "T0KEN" not in str(caught.value)


def test_one_refusal_ends_a_read_of_many(told: Callable[..., Target], answering: Answering) -> None:
    with told(error(503, "SlowDown")) as target, pytest.raises(TargetUnavailable):
        target.read([at(str(number)) for number in range(1_000)])
    assert len(answering.asked) < 100


def test_many_are_asked_for_at_once_but_not_too_many(told: Callable[..., Target]) -> None:
    at_once, most, lock = 0, 0, threading.Lock()

    def say(_: Asked) -> Answer:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.02)
        with lock:
            at_once -= 1
        return Answer(200, b"{}", _OBJECT)

    with told(say) as target:
        rows = target.read([at(str(number)) for number in range(200)])
    assert all(row.row is not None for row in rows)
    assert 4 <= most <= 16


@pytest.mark.parametrize(
    "page",
    [
        "<html>no list</html>",
        "<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
        "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>1</NextContinuationToken></ListBucketResult>",
    ],
)
def test_a_list_that_is_none_ends(told: Callable[..., Target], page: str) -> None:
    with told(Answer(200, page.encode())) as target, pytest.raises(TargetUnavailable) as caught:
        list(target.scan("items"))
    assert caught.value.trouble == "unreadable", caught.value


def test_a_list_asks_for_the_tenants_own_names_page_by_page(
    opened: Opened, aws: Aws, bucket: str, answering: Answering
) -> None:
    for number in range(3):
        aws.client("s3").put_object(Bucket=bucket, Key=f"acme/o/{number}.json", Body=b"{}")
        aws.client("s3").put_object(Bucket=bucket, Key=f"bolt/o/{number}.json", Body=b"{}")
    answering.say = answering.pass_on_to(aws.url)
    text = contract(bucket, "{tenant}/o/{id}.json", 'key = ["id"]\ntenant = "tenant"')
    with opened(text, {**aws.connection, "endpoint_url": answering.url}) as target:
        assert [row.address for row in target.scan("items", "acme")] == [at(str(n), tenant="acme") for n in range(3)]
        assert len(list(target.scan("items"))) == 6
    lists = [asked.path for asked in answering.asked if "list-type=2" in asked.path]
    assert ["prefix=acme%2Fo%2F" in path for path in lists] == [True, False]
    assert len(answering.asked) == 2 + 3 + 6


def test_a_body_that_cannot_be_read_belongs_to_whoever_asks(opened: Opened, aws: Aws, bucket: str) -> None:
    aws.client("s3").put_object(Bucket=bucket, Key="A.json", Body=b"no JSON")
    aws.client("s3").put_object(Bucket=bucket, Key="B.json", Body=b"[1]")
    with opened(contract(bucket, "{id}.json", 'key = ["id"]\ntenant = "tenant"')) as target:
        unread, no_ones = (row.row for row in target.read([at("A", tenant="acme"), at("B", tenant="acme")]))
        assert "not JSON" in problem_of(unread)
        assert no_ones is None
        assert [row.address.row.key for row in target.scan("items", "acme")] == [("A",)]


@pytest.mark.usefixtures("strict_aws")
def test_a_user_who_may_not_read_is_refused(opened: Opened, aws: Aws, bucket: str) -> None:
    aws.client("s3").put_object(Bucket=bucket, Key="A.json", Body=b"{}")
    only_lists = {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": "*"}
    user = aws.user(json.dumps({"Version": "2012-10-17", "Statement": [only_lists]}))
    with opened(contract(bucket, "{id}.json"), user) as target:
        assert target.check() == []
        for key in ("A", "B"):
            with pytest.raises(TargetUnavailable, match="AccessDenied") as caught:
                target.read([at(key)])
            assert caught.value.trouble == "refused"


def test_a_role_is_taken_on(opened: Opened, aws: Aws, bucket: str, answering: Answering) -> None:
    """moto takes no role on where it looks at signatures; so what is looked at are the requests."""
    answering.say = answering.pass_on_to(aws.url)
    where = {**aws.connection, "endpoint_url": answering.url, "sts_endpoint_url": answering.url, "role_arn": aws.role()}
    with opened(contract(bucket, "{id}.json"), where) as target:
        assert [row.row for row in target.read([at("A"), at("B")])] == [None, None]
    taken, *reads = answering.asked
    assert b"AssumeRole" in taken.body
    assert aws.connection["access_key_id"] in taken.headers["Authorization"]
    assert len(reads) == 2
    for read in reads:
        assert aws.connection["access_key_id"] not in read.headers["Authorization"]
        assert read.headers["X-Amz-Security-Token"]


def test_a_role_that_may_not_be_taken_on_is_refused(opened: Opened, answering: Answering) -> None:
    answering.say = lambda _: Answer(403, b"<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>")
    where = {**_KEYS, "endpoint_url": answering.url, "sts_endpoint_url": answering.url}
    with (
        opened(contract("shop", "{id}.json"), {**where, "role_arn": "arn:aws:iam::123456789012:role/reader"}) as target,
        pytest.raises(TargetUnavailable, match="AssumeRole") as caught,
    ):
        target.read([at("A")])
    assert caught.value.trouble == "refused"


@pytest.mark.usefixtures("strict_aws")
def test_without_keys_botocores_own_chain_is_asked(
    opened: Opened, aws: Aws, bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    where = {name: value for name, value in aws.connection.items() if "key" not in name}
    with opened(contract(bucket, "{id}.json"), where) as target, pytest.raises(TargetUnavailable) as caught:
        target.read([at("A")])
    assert caught.value.trouble == "refused"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", aws.connection["access_key_id"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", aws.connection["secret_access_key"])
    with opened(contract(bucket, "{id}.json"), where) as target:
        assert target.read([at("A")])[0].row is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"endpoint_url": "https://me:geheim@host"},
        {"endpoint_url": "ftp://host"},
        {"secret_access_key": "geheim"},
        {"access_key_id": "AKIA"},
        {"session_token": "geheim"},
        {"timeout_seconds": "0"},
        {"key": "geheim"},
    ],
)
def test_settings_that_cannot_be_used_are_told_and_not_shown(opened: Opened, wrong: Mapping[str, str]) -> None:
    with pytest.raises(SettingsError) as caught:
        opened(contract("shop", "{id}.json"), wrong)
    assert "geheim" not in str(caught.value)
    assert "subject" in str(caught.value).lower()


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ('bucket = "b"\nobject = "{id}.json"', "'b' is no name of a bucket"),
        ('bucket = "shop"\nobject = "{id"', "is no template"),
        ('bucket = "shop"\nobject = "{id}{region}"', "nothing stands between two fields"),
        ('bucket = "shop"\nobject = "{id!r}"', "which is no field's name"),
        ('bucket = "shop"\nobject = "{}"', "which is no field's name"),
        ('bucket = "shop"\nobject = "{id}"\nbody = "xml"', "body is wrong"),
    ],
)
def test_a_contract_that_is_wrong_is_refused_with_its_line(tmp_path: Path, keys: str, sentence: str) -> None:
    text = f'[targets.{NAME}]\nkind = "s3"\n[targets.{NAME}.resources.items]\nkey = ["id"]\n{keys}\n'
    with pytest.raises(ContractError, match=re.escape(sentence)) as caught:
        contracts_of(tmp_path, text)
    assert caught.value.line is not None
    assert caught.value.line >= 5


def test_the_check_names_the_line_of_every_mistake(opened: Opened, aws: Aws, bucket: str) -> None:
    with opened(contract(bucket, "{idd}.json")) as target:
        [mistake] = target.check()
        assert str(mistake) == (
            "contracts.toml line 6: {idd}.json names idd, which is neither in the key of items nor its tenant;"
            " did you mean id?"
        )
        with pytest.raises(TargetUnavailable, match="run the contract check"):
            target.read([at("A")])
    with opened(contract(bucket, "{id}.json", 'key = ["id"]\ntenant = "owner"\nbody = "text"')) as target:
        assert [str(one) for one in target.check()] == [
            "contracts.toml line 6: nothing says whose a row of items is; write {owner} into {id}.json"
        ]
    with opened(contract(bucket, "{id}.json", 'key = ["id", "region"]')) as target:
        assert [str(one) for one in target.check()] == [
            "contracts.toml line 6: {id}.json lacks region, which is in the key of items; add {region}"
        ]
