"""What targets of Amazon's have in common: settings, a session, and the meaning of their errors.

Retries are the reconciler's, so botocore makes none: every call is one request with time-outs of its own.
"""

import datetime as dt
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, Final, Self
from urllib.parse import urlsplit

import boto3.session
import botocore.session
from botocore.config import Config
from botocore.credentials import (
    AssumeRoleCredentialFetcher,
    CredentialProvider,
    CredentialResolver,
    DeferredRefreshableCredentials,
)
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    PartialCredentialsError,
    UnauthorizedSSOTokenError,
)
from botocore.parsers import ResponseParserError
from pydantic import Field, SecretStr, field_validator, model_validator
from urllib3.exceptions import HTTPError  # of a body that is read piece by piece, where botocore lets it through

from counterfoil_reconcilers.targets.port import Connection, TargetUnavailable, Trouble

# AWS SDKs and Tools Reference Guide, "Retry behavior", and the error pages of S3, DynamoDB and STS.
_THROTTLED: Final = frozenset({
    "BandwidthLimitExceeded", "LimitExceededException", "PriorRequestNotComplete",
    "ProvisionedThroughputExceededException", "RequestLimitExceeded", "RequestThrottled", "RequestThrottledException",
    "ServiceUnavailable", "SlowDown", "Throttling", "ThrottlingException", "ThrottledException",
    "TooManyRequestsException",
})  # fmt: skip
_REFUSED: Final = frozenset({
    "AccessDenied", "AccessDeniedException", "AccountProblem", "AllAccessDisabled", "AuthFailure", "ExpiredToken",
    "ExpiredTokenException", "IncompleteSignature", "InvalidAccessKeyId", "InvalidClientTokenId",
    "InvalidSignatureException", "InvalidToken", "MissingAuthenticationToken", "MissingAuthenticationTokenException",
    "NotSignedUp", "OptInRequired", "RequestExpired", "RequestTimeTooSkewed", "SignatureDoesNotMatch",
    "UnrecognizedClientException",
})  # fmt: skip
_WITHOUT_CREDENTIALS = (
    NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, UnauthorizedSSOTokenError,
)  # fmt: skip
# What botocore raises on an answer that is none of the service's; a redirect to nowhere it follows without an end.
_NO_ANSWER = (ResponseParserError, ValueError, TypeError, AttributeError, LookupError, RecursionError)
_LONGEST_REASON: Final = 300


class AwsConnection(Connection):
    """How to reach a service of Amazon's, or one that speaks like it. Without keys, botocore's own chain finds some."""

    region: str | None = Field(default=None, description="For example eu-west-1; without it, botocore's own settings.")
    endpoint_url: str | None = Field(default=None, description="Of a service that is not Amazon's, or a VPC endpoint.")
    access_key_id: str | None = Field(default=None, description="Of a user who may only read.")
    secret_access_key: SecretStr | None = Field(default=None, description="Its secret.")
    session_token: SecretStr | None = Field(default=None, description="For keys that were given for a time.")
    role_arn: str | None = Field(default=None, description="A role to take on before each hour's reads.")
    sts_endpoint_url: str | None = Field(default=None, description="Where roles are taken on, if not at Amazon's.")
    timeout_seconds: float = Field(default=10.0, ge=1, le=300, description="How long one request may be silent.")

    @field_validator("endpoint_url", "sts_endpoint_url")
    @classmethod
    def _is_a_url(cls, url: str | None) -> str | None:
        if url is None:
            return url
        try:
            parts = urlsplit(url)
            usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            usable = None
        if not usable or "@" in url:  # what stands before an @ is a password, and not to be quoted
            raise ValueError("is no URL of a service; write https://host or https://host:port, without user")
        return url

    @model_validator(mode="after")
    def _keys_are_whole(self) -> Self:
        if (self.access_key_id is None) != (self.secret_access_key is None):
            raise ValueError("needs access_key_id and secret_access_key, or neither for botocore's own chain")
        if self.session_token is not None and self.access_key_id is None:
            raise ValueError("has a session_token without access_key_id and secret_access_key; set these, too")
        return self


def client_of(connection: AwsConnection, service: str, connections: int = 1) -> Any:
    """A client of boto3 for one service. Nothing is connected to yet, but the chain may ask for credentials.

    `connections`: how many requests it may have at once. To be called within `translated`.
    """
    config = Config(
        connect_timeout=min(5.0, connection.timeout_seconds),
        read_timeout=connection.timeout_seconds,
        retries={"total_max_attempts": 1},
        max_pool_connections=connections,
        # A host of one's own has no names for buckets below it.
        s3={"addressing_style": "path" if connection.endpoint_url else "auto"},
        user_agent_extra="counterfoil-reconcile",
    )
    session = _session(connection, config)
    return session.client(service, region_name=connection.region, endpoint_url=connection.endpoint_url, config=config)


def _session(connection: AwsConnection, config: Config) -> boto3.session.Session:
    """A session with the settings' own credentials, the chain's, or those of the role that is taken on with these."""
    session = boto3.session.Session(
        aws_access_key_id=connection.access_key_id,
        aws_secret_access_key=_plain(connection.secret_access_key),
        aws_session_token=_plain(connection.session_token),
        region_name=connection.region,
    )
    if connection.role_arn is None:
        return session
    sts = partial(session.client, endpoint_url=connection.sts_endpoint_url, config=config)
    core = botocore.session.Session()
    core.register_component("credential_provider", CredentialResolver([_Role(session, sts, connection.role_arn)]))
    return boto3.session.Session(botocore_session=core, region_name=connection.region)


class _Role(CredentialProvider):  # type: ignore[misc]  # botocore has no types
    """Credentials of a role, fetched anew before they expire."""

    METHOD = "assume-role"

    def __init__(self, session: boto3.session.Session, sts: Any, role_arn: str) -> None:
        super().__init__()
        self._session = session
        self._sts = sts
        self._role_arn = role_arn

    def load(self) -> Any:
        """What botocore asks for credentials; without any of our own there is nothing to take the role on with."""
        own = self._session.get_credentials()
        if own is None:
            return None
        fetcher = AssumeRoleCredentialFetcher(
            client_creator=self._sts, source_credentials=own, role_arn=self._role_arn,
            extra_args={"RoleSessionName": "counterfoil-reconcile"},
        )  # fmt: skip
        return DeferredRefreshableCredentials(refresh_using=fetcher.fetch_credentials, method=self.METHOD)


@contextmanager
def translated(target: str) -> Iterator[None]:
    """Around calls of botocore, and nothing else: whatever it raises becomes TargetUnavailable."""
    try:
        yield
    except ClientError as error:
        raise unavailable(target, error) from error
    except _WITHOUT_CREDENTIALS as error:
        raise TargetUnavailable(target, _cut(str(error)), trouble="refused") from error
    except (BotoCoreError, HTTPError) as error:
        raise TargetUnavailable(target, _cut(f"{type(error).__name__}: {error}")) from error
    except _NO_ANSWER as error:
        raise TargetUnavailable(target, "it answered what is no answer of the service", trouble="unreadable") from error


def unavailable(target: str, error: ClientError) -> TargetUnavailable:
    """What the service's own error means: its code says it, and its status where the code is not known."""
    code, status = code_of(error), status_of(error)
    reason = f"{error.operation_name} was answered with {code or 'no code'} ({status})"
    words = error.response.get("Error", {}).get("Message")
    if words and "Signature" not in code:  # whose words quote the request, with its session token
        reason += f": {words}"
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return TargetUnavailable(target, _cut(reason), trouble=_trouble(code, status), retry_after=_retry_after(headers))


def code_of(error: ClientError) -> str:
    """The code of a service's error, without the namespace that some services put before it."""
    return str(error.response.get("Error", {}).get("Code", "")).rsplit("#", 1)[-1]


def status_of(error: ClientError) -> int:
    """The HTTP status of a service's error; 0 where there is none."""
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)


def _trouble(code: str, status: int) -> Trouble:
    if code in _REFUSED:
        return "refused"
    if code in _THROTTLED or status in (429, 503):
        return "throttled"
    if status in (401, 403):
        return "refused"
    return "unreadable" if code in ("", str(status)) and status < 500 else "away"  # no error of AWS has no code


def _retry_after(headers: Mapping[str, str]) -> dt.timedelta | None:
    """RFC 9110, section 10.2.3: seconds, or a date."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit() and len(text) < 7:
        return dt.timedelta(seconds=int(text))
    try:
        until = parsedate_to_datetime(text)
    except ValueError:
        return None
    if until.tzinfo is None:
        return None
    return max(until - dt.datetime.now(dt.UTC), dt.timedelta(0))


def _cut(text: str) -> str:
    """One line of bounded length: these words may be anybody's."""
    line = re.sub(r"\s+", " ", text).strip()
    return "".join(character for character in line if character.isprintable())[:_LONGEST_REASON]


def _plain(secret: SecretStr | None) -> str | None:
    return None if secret is None else secret.get_secret_value()
