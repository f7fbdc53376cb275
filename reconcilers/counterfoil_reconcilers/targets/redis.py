"""Redis, or whatever speaks its protocol as one server does, as a target: a row is a key.

A whole read is one MULTI, so that two rows of one transaction are never seen half. Hashes are measured before they are
read, which takes another round trip. There is no search by content.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, Literal, cast
from urllib.parse import urlsplit

import redis
from pydantic import Field, SecretStr, field_validator
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    AuthorizationError,
    ClusterCrossSlotError,
    ExternalAuthProviderError,
    InvalidResponse,
    NoPermissionError,
    RedisError,
)  # fmt: skip
from redis.retry import Retry

from counterfoil_reconcilers.contract_files import Written
from counterfoil_reconcilers.contract_kinds import Capabilities
from counterfoil_reconcilers.contracts import ContractError, Contracts, Resource
from counterfoil_reconcilers.rows import Row
from counterfoil_reconcilers.targets.contents import LONGEST_ROW_BYTES, beside, document_of, text_of, too_long
from counterfoil_reconcilers.targets.named_rows import NamedRows
from counterfoil_reconcilers.targets.naming import NameTemplate, Naming
from counterfoil_reconcilers.targets.port import Connection, Kind, TargetUnavailable, Trouble
from counterfoil_reconcilers.values import Json, Unreadable, plain

_SEPARATOR: Final = ":"
_PAGE: Final = 1_000
_FETCHED: Final = 500  # keys of a scan whose rows are held at once
_LONGEST_REASON: Final = 300
_TYPES: Final = {"hash": b"hash", "json-string": b"string", "string": b"string"}
_REFUSED = (
    AuthenticationError, AuthenticationWrongNumberOfArgsError, AuthorizationError, ExternalAuthProviderError,
    NoPermissionError,
)  # fmt: skip
_NOT_PARSED = (ValueError, TypeError, LookupError, AttributeError)  # what redis-py raises on what is no answer of Redis
_NO_ANSWER = (AskError, ClusterCrossSlotError, InvalidResponse)  # MOVED is an AskError, too
_Client = redis.Redis
_GLOB: Final = str.maketrans({character: f"\\{character}" for character in "\\*?[]^-"})


class RedisResource(Written):
    """Which keys are rows, and what they hold. `ttl` names the field for the seconds until one expires."""

    redis_key: str
    type: Literal["hash", "json-string", "string"] = "hash"
    ttl: str | None = None

    @field_validator("redis_key")
    @classmethod
    def _is_a_template(cls, text: str) -> str:
        NameTemplate(text, _SEPARATOR)
        return text


class RedisConnection(Connection):
    """How to reach a Redis server; not a cluster."""

    url: SecretStr = Field(
        description="redis://user:password@host:6379/0, or rediss:// with TLS, of a user who may only read."
    )
    ca_file: str | None = Field(default=None, description="Certificates (PEM) to trust instead of the system's.")
    timeout_seconds: float = Field(default=5.0, ge=1, le=300, description="How long one request may be silent.")

    @field_validator("url")
    @classmethod
    def _can_be_read(cls, url: SecretStr) -> SecretStr:
        try:
            parts = urlsplit(url.get_secret_value())
            usable = parts.scheme in ("redis", "rediss") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        # What stands after a ? would count for more than the settings here.
        if not usable or parts.query or not re.fullmatch(r"/?\d*", parts.path):
            # The library's own words would quote the password.
            raise ValueError(
                "is no URL that can be used; write redis://user:password@host:6379/0, with nothing after it"
            )
        return url


class RedisTarget(NamedRows):
    """One Redis database behind the port `Target`. Not for use by several threads at once."""

    def __init__(self, contracts: Contracts, name: str, connection: RedisConnection) -> None:
        self._contracts = contracts
        self._target = contracts.targets[name]
        self._connection = connection
        self._client: redis.Redis | None = None
        super().__init__(
            name,
            {
                resource.name: Naming(resource, NameTemplate(options.redis_key, _SEPARATOR), options.type != "string")
                for resource in self._target.resources.values()
                for options in (_options(resource),)
            },
            _FETCHED,
        )

    def close(self) -> None:
        """Let go of the connection; the next call opens another."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def check(self) -> Sequence[ContractError]:
        """Templates that do not name the key, each with the line that says it. Redis has no tables to ask for."""
        with self._session() as client:
            client.ping()
        at = ("targets", self._name, "resources")
        mistakes = {name: naming.mistake() for name, naming in self._namings.items()}
        return [
            self._contracts.error_at((*at, name, "redis_key"), mistake) for name, mistake in mistakes.items() if mistake
        ]

    @contextmanager
    def _session(self) -> Iterator[_Client]:
        """Around requests, and nothing else: whatever they raise becomes TargetUnavailable."""
        try:
            if self._client is None:
                self._client = _client_of(self._connection)
            yield self._client
        except (RedisError, OSError) as error:
            self.close()
            raise TargetUnavailable(self._name, _sentence(error), trouble=_trouble(error)) from error
        except _NOT_PARSED as error:
            self.close()
            raise TargetUnavailable(self._name, "it answered what is no Redis", trouble="unreadable") from error

    def _fetch(self, wanted: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Row | None]:
        """Keys by resource and name, all in one transaction; a hash that is too large stays out of it."""
        asked = list(wanted)
        options = {resource: _options(self._target.resources[resource]) for resource, _ in asked}
        with self._session() as client:
            sizes = _measured(client, [one for one in asked if options[one[0]].type == "hash"])
            large = {one: size for one, size in sizes.items() if size > LONGEST_ROW_BYTES}
            small = [one for one in asked if one not in large]
            replies = _held(client, [(name, options[resource].type) for resource, name in small])
        rows: dict[tuple[str, str], Row | None] = {
            one: Row(None, problem=too_long(size)) for one, size in large.items()
        }
        for one, (kind, content, ttl) in zip(small, replies, strict=True):
            rows[one] = _row_of(options[one[0]], kind, content, ttl)
        return rows

    def _list(self, naming: Naming, tenant: str | None) -> Iterator[str]:
        """The names that look like those of the tenant's rows, each once. One that is no UTF-8 is no row's."""
        pieces = naming.template.pieces(naming.known_of(tenant))
        pattern = "".join("*" if piece is None else piece.translate(_GLOB) for piece in pieces)
        seen: set[bytes] = set()
        cursor = 0
        while True:
            with self._session() as client:
                following, names = _listed(client, cursor, pattern)
            fresh = names - seen  # a name may be given twice while the server's table grows
            seen |= fresh
            for name in fresh:
                with suppress(UnicodeDecodeError):
                    yield name.decode()
            if following == 0:
                return
            cursor = following


def _options(resource: Resource) -> RedisResource:
    assert isinstance(resource.options, RedisResource)  # noqa: S101  # the kind of the resource's target says so
    return resource.options


def _client_of(connection: RedisConnection) -> _Client:
    """A client that has not connected yet. Retries are the reconciler's."""
    tls = {} if connection.ca_file is None else {"ssl_ca_certs": connection.ca_file}
    return redis.Redis.from_url(
        connection.url.get_secret_value(),
        protocol=2,
        socket_timeout=connection.timeout_seconds,
        socket_connect_timeout=min(5.0, connection.timeout_seconds),
        retry=Retry(NoBackoff(), 0),
        **tls,
    )


def _listed(client: _Client, cursor: int, pattern: str) -> tuple[int, set[bytes]]:
    """Where the list goes on, 0 for nowhere, and some names."""
    following, names = cast(tuple[int, list[bytes]], client.scan(cursor, match=pattern, count=_PAGE))
    if (following == cursor != 0) or not all(isinstance(name, bytes) for name in names):
        raise InvalidResponse("it gave a list without an end, or of what is no name")
    return following, set(names)


def _measured(client: _Client, hashes: Sequence[tuple[str, str]]) -> dict[tuple[str, str], int]:
    """How much memory hashes take; 0 for what is not there. One that grows before it is read costs us memory alone."""
    if not hashes:
        return {}
    pipeline = client.pipeline(transaction=False)
    for _, name in hashes:
        pipeline.memory_usage(name, samples=0)
    return dict(zip(hashes, (int(size or 0) for size in pipeline.execute()), strict=True))


def _held(client: _Client, wanted: Sequence[tuple[str, str]]) -> list[tuple[Any, Any, Any]]:
    """For each name its type, its content as far as that is a row, and the seconds until it expires."""
    if not wanted:
        return []
    transaction = client.pipeline(transaction=True)
    for name, form in wanted:
        transaction.type(name)
        if form == "hash":
            transaction.hgetall(name)
        else:
            transaction.getrange(name, 0, LONGEST_ROW_BYTES)  # and so one byte too many for what is too long
        transaction.ttl(name)
    replies = transaction.execute(raise_on_error=False)
    held = list(zip(replies[::3], replies[1::3], replies[2::3], strict=True))
    for (kind, content, ttl), (_, form) in zip(held, wanted, strict=True):
        _hold_to(kind, bytes)
        _hold_to(ttl, int)
        if kind == _TYPES[form]:  # of any other type the content is an error, and no wonder
            _hold_to(content, dict if form == "hash" else bytes)
    return held


def _hold_to(reply: object, type_: type) -> None:
    if isinstance(reply, RedisError):
        raise reply
    if not isinstance(reply, type_):
        raise InvalidResponse("it gave a value of another type than was asked for")


def _row_of(options: RedisResource, kind: bytes, content: Any, ttl: int) -> Row | None:
    if kind == b"none":
        return None
    if kind != _TYPES[options.type]:
        return Row(None, problem=f"it is of type {kind.decode()}, which is no {options.type}")
    try:
        seconds = None if ttl < 0 else float(ttl)
        return Row(beside(_document(options, content), options.ttl, seconds))
    except Unreadable as error:
        return Row(None, problem=str(error))


def _document(options: RedisResource, content: Any) -> Json:
    if options.type == "hash":
        return plain({text_of(name): text_of(value) for name, value in content.items()})
    if len(content) > LONGEST_ROW_BYTES:
        raise Unreadable(too_long(None))
    return document_of(content, "json" if options.type == "json-string" else "text")


def _sentence(error: Exception) -> str:
    """The first line of what went wrong; redis-py puts no password into it."""
    line = str(error).partition("\n")[0]
    return "".join(character for character in line if character.isprintable())[:_LONGEST_REASON] or "it gave no reason"


def _trouble(error: Exception) -> Trouble:
    """LOADING, BUSY, MASTERDOWN, CLUSTERDOWN, OOM and time-outs pass by themselves; a cluster's MOVED does not."""
    if isinstance(error, _REFUSED):
        return "refused"
    if "max number of clients reached" in str(error):
        return "throttled"
    return "unreadable" if isinstance(error, _NO_ANSWER) else "away"


KIND = Kind(
    name="redis",
    capabilities=Capabilities(lists=True, consistent=True),
    resource_options=RedisResource,
    connection=RedisConnection,
    open=RedisTarget,
)
