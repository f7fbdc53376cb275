"""S3, or whatever speaks like it, as a target: a row is an object, and its name says which.

There is no search by content, and no moment at which several objects are seen at once. Since December 2020 a read and
a list see every write that was acknowledged before ("Amazon S3 data consistency model").
"""

import datetime as dt
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Literal

from botocore.exceptions import ClientError
from pydantic import field_validator

from counterfoil_reconcilers.contract_files import Written
from counterfoil_reconcilers.contract_kinds import Capabilities
from counterfoil_reconcilers.contracts import ContractError, Contracts, Resource
from counterfoil_reconcilers.rows import Row
from counterfoil_reconcilers.targets.aws import AwsConnection, client_of, code_of, status_of, translated
from counterfoil_reconcilers.targets.contents import LONGEST_ROW_BYTES, beside, document_of, too_long
from counterfoil_reconcilers.targets.named_rows import NamedRows
from counterfoil_reconcilers.targets.naming import NameTemplate, Naming
from counterfoil_reconcilers.targets.port import Kind, TargetUnavailable
from counterfoil_reconcilers.values import Json, Unreadable, plain

_SEPARATOR: Final = "/"
_LONGEST_NAME_BYTES: Final = 1_024  # "Naming Amazon S3 objects"
_AT_ONCE: Final = 16
_PAGE: Final = 1_000
_FETCHED: Final = 100  # their contents are held at once
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9]|arn:aws[a-z-]*:s3[a-z-]*:[A-Za-z0-9:/_-]+")
# Not there, or a name that S3, MinIO or Ceph do not take, so that nothing has it.
_NO_SUCH: Final = frozenset({"NoSuchKey", "InvalidURI", "KeyTooLongError", "XMinioInvalidObjectName"})
# What is there and can't be read as it is kept: an archive, a key that is switched off.
_SHUT: Final = frozenset({"InvalidObjectState", "KMS.DisabledException", "KMS.NotFoundException"})


class S3Resource(Written):
    """Which objects are rows, and what of them is the row. `about` names the field for what S3 itself knows of one."""

    bucket: str
    object: str
    body: Literal["json", "text", "none"] = "json"
    about: str | None = None

    @field_validator("bucket")
    @classmethod
    def _is_a_bucket(cls, bucket: str) -> str:
        if not _BUCKET.fullmatch(bucket):
            raise ValueError(f"{bucket!r} is no name of a bucket; write its name, or the ARN of an access point")
        return bucket

    @field_validator("object")
    @classmethod
    def _is_a_template(cls, text: str) -> str:
        NameTemplate(text, _SEPARATOR)
        return text


class S3Target(NamedRows):
    """The buckets of one account behind the port `Target`. Not for use by several threads at once."""

    def __init__(self, contracts: Contracts, name: str, connection: AwsConnection) -> None:
        self._contracts = contracts
        self._target = contracts.targets[name]
        self._connection = connection
        self._client: Any = None
        super().__init__(
            name,
            {
                resource.name: Naming(resource, NameTemplate(options.object, _SEPARATOR), options.body == "json")
                for resource in self._target.resources.values()
                for options in (_options(resource),)
            },
            _FETCHED,
        )

    def close(self) -> None:
        """Let go of the connections; the next call opens others."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def check(self) -> Sequence[ContractError]:
        """Buckets that are not there, and templates that do not name the key, each with the line that says it."""
        errors = []
        for name, naming in self._namings.items():
            at = ("targets", self._name, "resources", name)
            mistake = naming.mistake()
            if mistake is not None:
                errors.append(self._contracts.error_at((*at, "object"), mistake))
            bucket = _options(naming.resource).bucket
            if not self._has_bucket(naming):
                errors.append(
                    self._contracts.error_at((*at, "bucket"), f"bucket {bucket} does not exist in target {self._name}")
                )
        return errors

    def _connected(self) -> Any:
        if self._client is None:
            with translated(self._name):
                self._client = client_of(self._connection, "s3", _AT_ONCE)
        return self._client

    def _fetch(self, wanted: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Row | None]:
        """Objects by resource and name. The first that gets no answer ends it all: what is left is not asked for."""
        asked = list(wanted)
        client = self._connected()
        pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="counterfoil-s3")
        try:
            return dict(zip(asked, pool.map(lambda one: self._get(client, *one), asked), strict=True))
        finally:
            pool.shutdown(cancel_futures=True)

    def _get(self, client: Any, resource: str, name: str) -> Row | None:
        """One object. Without a right to list the bucket S3 says 403 for what is not there, and we do not guess."""
        options = _options(self._target.resources[resource])
        if len(name.encode()) > _LONGEST_NAME_BYTES:
            return None
        with translated(self._name):
            try:
                answer, content = _ask(client, options, name)
            except ClientError as error:
                if code_of(error) in _NO_SUCH:
                    return None
                if _is_shut(error):
                    return Row(None, problem=f"it can't be read as it is kept: {code_of(error)}")
                raise
        if not answer.get("ETag") or not answer.get("LastModified"):
            raise TargetUnavailable(self._name, "it gave an object without ETag or date", trouble="unreadable")
        return _row_of(options, answer, content)

    def _list(self, naming: Naming, tenant: str | None) -> Iterator[str]:
        """The names that begin as those of the tenant's rows do."""
        client, bucket = self._connected(), _options(naming.resource).bucket
        token: dict[str, str] = {}
        while True:
            with translated(self._name):
                page = client.list_objects_v2(Bucket=bucket, Prefix=_start(naming, tenant), MaxKeys=_PAGE, **token)
            is_cut, following = page.get("IsTruncated"), page.get("NextContinuationToken")
            if is_cut is None or (is_cut and (not following or following == token.get("ContinuationToken"))):
                raise TargetUnavailable(self._name, "it gave a list without an end", trouble="unreadable")
            yield from (found["Key"] for found in page.get("Contents", ()))
            if not is_cut:
                return
            token = {"ContinuationToken": following}

    def _has_bucket(self, naming: Naming) -> bool:
        client, bucket = self._connected(), _options(naming.resource).bucket
        with translated(self._name):
            try:
                client.list_objects_v2(Bucket=bucket, Prefix=_start(naming, None), MaxKeys=1)
            except ClientError as error:
                if code_of(error) != "NoSuchBucket":
                    raise
                return False
        return True


def _options(resource: Resource) -> S3Resource:
    assert isinstance(resource.options, S3Resource)  # noqa: S101  # the kind of the resource's target says so
    return resource.options


def _start(naming: Naming, tenant: str | None) -> str:
    """How the names of all rows begin, of one tenant or of all."""
    start = ""
    for piece in naming.template.pieces(naming.known_of(tenant)):
        if piece is None:
            break
        start += piece
    return start


def _ask(client: Any, options: S3Resource, name: str) -> tuple[Mapping[str, Any], bytes | None]:
    """What S3 says of an object, and its content, None where that is too long or not asked for."""
    where = {"Bucket": options.bucket, "Key": name}
    if options.body == "none":
        try:
            return client.head_object(**where), None
        except ClientError as error:
            if status_of(error) not in (400, 404):
                raise
            # An answer to HEAD has no body, hence no code that tells a missing object from a missing bucket.
    answer = client.get_object(**where)
    size = answer.get("ContentLength")
    with answer["Body"] as body:
        if options.body == "none" or (size is not None and size > LONGEST_ROW_BYTES):
            return answer, None
        # To its end, where botocore holds its length and checksum against what was announced.
        return answer, body.read() if size is not None else body.read(LONGEST_ROW_BYTES + 1)


def _is_shut(error: ClientError) -> bool:
    """Whether an object is there that can't be read with our credentials alone, whoever asks.

    For one under a customer's key (SSE-C) S3 says InvalidRequest, as it does for much else.
    """
    words = str(error.response.get("Error", {}).get("Message"))
    return code_of(error) in _SHUT or (code_of(error) == "InvalidRequest" and "Server Side Encryption" in words)


def _row_of(options: S3Resource, answer: Mapping[str, Any], content: bytes | None) -> Row:
    version = answer.get("VersionId")
    version = str(answer["ETag"] if version in (None, "", "null") else version)
    try:
        return Row(beside(_document(options, answer, content), options.about, _about(answer)), version)
    except Unreadable as error:
        return Row(None, version, problem=str(error))


def _document(options: S3Resource, answer: Mapping[str, Any], content: bytes | None) -> Json:
    if options.body == "none":
        return {}
    if content is None or len(content) > LONGEST_ROW_BYTES:
        raise Unreadable(too_long(answer.get("ContentLength") or len(content or b"")))
    encoding = str(answer.get("ContentEncoding") or "identity")
    if encoding not in ("identity", "aws-chunked"):
        raise Unreadable(f"its content is encoded ({encoding}), and only what is not can be read")
    return document_of(content, options.body)


def _about(answer: Mapping[str, Any]) -> Json:
    """What S3 itself knows of an object; times in UTC."""
    return plain({
        "size": answer.get("ContentLength"),
        "etag": str(answer["ETag"]).strip('"'),
        "content_type": answer.get("ContentType"),
        "last_modified": answer["LastModified"].astimezone(dt.UTC),
        "metadata": answer.get("Metadata") or {},
    })  # fmt: skip


KIND = Kind(
    name="s3",
    capabilities=Capabilities(lists=True),
    resource_options=S3Resource,
    connection=AwsConnection,
    open=S3Target,
)
