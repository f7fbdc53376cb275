"""How an HTTP target is reached, and the credentials that go with each request: to its own host and no other."""

import asyncio
import base64
import re
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Protocol, Self
from urllib.parse import quote_plus

from pydantic import AfterValidator, Field, SecretStr, model_validator

from counterfoil_reconcilers.targets.http_options import HttpOptions, is_address
from counterfoil_reconcilers.targets.port import Connection, TargetUnavailable

_IS_TOKEN: Final = re.compile(r"[\x21-\x7e]+( [\x21-\x7e]+)*")
_MARGIN_SECONDS: Final = 30.0
# RFC 6749, section 5.2; anything else that stands there is not shown.
_GRANT_ERRORS: Final = {
    "invalid_request", "invalid_client", "invalid_grant", "unauthorized_client", "unsupported_grant_type",
    "invalid_scope",
}  # fmt: skip


Address = Annotated[str, AfterValidator(is_address)]


class HttpConnection(Connection):
    """How to reach an HTTP API, and by which one of the ways to prove who asks.

    What ends in `_path` is read anew at each new connection and after a refusal, so that a rotated secret is taken up.
    """

    url: Address | None = Field(None, description="Where the API is, instead of `base` in the contract.")
    token: SecretStr | None = Field(None, description="A token, for the header that the contract or its preset names.")
    token_path: Path | None = Field(None, description="A file that holds the token.")
    user: str | None = Field(None, description="A user's name, for HTTP Basic (RFC 7617).")
    password: SecretStr | None = Field(None, description="The user's password, or what the API takes for one.")
    password_path: Path | None = Field(None, description="A file that holds the password.")
    client_id: str | None = Field(None, description="An OAuth 2.0 client, for its own grant (RFC 6749, section 4.4).")
    client_secret: SecretStr | None = Field(None, description="The client's secret.")
    client_secret_path: Path | None = Field(None, description="A file that holds the client's secret.")
    token_url: Address | None = Field(None, description="Where the client gets its tokens.")
    scope: str | None = Field(None, description="What the client asks for.")
    client_auth: Literal["basic", "post"] = Field("basic", description="Where the client's id and secret are sent.")
    ca_path: Path | None = Field(None, description="A PEM file of the authorities to trust, instead of the usual ones.")

    @model_validator(mode="after")
    def _says_one_way(self) -> Self:
        token = _is_one("token", self.token, self.token_path)
        password = _is_one("password", self.password, self.password_path)
        client = _is_one("client_secret", self.client_secret, self.client_secret_path)
        if token + bool(self.user or password) + bool(self.client_id or client or self.token_url) > 1:
            raise ValueError("has several ways to prove who asks; set one of TOKEN, USER and CLIENT_ID")
        if self.user is not None and ":" in self.user:
            raise ValueError("has a colon in USER, where the password would begin (RFC 7617, section 2)")
        if bool(self.user) != password:
            raise ValueError("lacks a setting: USER and PASSWORD belong together")
        if len({bool(self.client_id), client, bool(self.token_url)}) > 1:
            raise ValueError("lacks a setting: CLIENT_ID, CLIENT_SECRET and TOKEN_URL belong together")
        return self


def _is_one(name: str, value: SecretStr | None, path: Path | None) -> bool:
    if value is not None and path is not None:
        raise ValueError(f"has {name.upper()} and {name.upper()}_PATH; set one of them")
    return value is not None or path is not None


# Sends a form to the token endpoint with these headers; gives the status and what its JSON says.
Post = Callable[[str, dict[str, str], dict[str, str]], Awaitable[tuple[int, Any]]]


class Credentials(Protocol):
    """What goes with a request. Both raise TargetUnavailable."""

    async def headers(self) -> dict[str, str]:
        """The headers that prove who asks."""

    async def renew(self, refused: dict[str, str]) -> bool:
        """After a 401 or 403 to these headers: whether there are others now."""


class Nobody:
    """No credentials."""

    async def headers(self) -> dict[str, str]:
        return {}

    async def renew(self, refused: dict[str, str]) -> bool:
        return False


class Told:
    """A token or a password that a setting or a file tells."""

    def __init__(self, read: Callable[[], str], header: str, written: Callable[[str], str]) -> None:
        self._read = read
        self._header = header
        self._written = written
        self._secret: str | None = None

    async def headers(self) -> dict[str, str]:
        if self._secret is None:
            self._secret = self._read()
        return {self._header: self._written(self._secret)}

    async def renew(self, refused: dict[str, str]) -> bool:
        self._secret = self._read()
        return await self.headers() != refused


class ClientGrant:
    """A token by OAuth 2.0's client credentials grant (RFC 6749, section 4.4), kept until shortly before it expires."""

    def __init__(
        self, target: str, connection: HttpConnection, read: Callable[[], str], header: str, post: Post
    ) -> None:
        self._target = target
        self._connection = connection
        self._read = read
        self._header = header
        self._post = post
        self._token: str | None = None
        self._until = 0.0
        self._one_at_a_time = asyncio.Lock()

    async def headers(self) -> dict[str, str]:
        async with self._one_at_a_time:
            if self._token is None or time.monotonic() >= self._until:
                await self._fetch()
            return {self._header: f"Bearer {self._token}"}

    async def renew(self, refused: dict[str, str]) -> bool:
        if refused == {self._header: f"Bearer {self._token}"}:
            self._token = None
        return await self.headers() != refused

    async def _fetch(self) -> None:
        own, secret = self._connection.client_id or "", self._read()
        form = {"grant_type": "client_credentials"}
        headers = {}
        if self._connection.scope:
            form["scope"] = self._connection.scope
        if self._connection.client_auth == "basic":
            headers["Authorization"] = _basic(quote_plus(own), quote_plus(secret))  # RFC 6749, section 2.3.1
        else:
            form |= {"client_id": own, "client_secret": secret}
        self._token = None
        status, said = await self._post(self._connection.token_url or "", form, headers)
        fields = said if isinstance(said, dict) else {}
        if status in (400, 401, 403):
            error = fields.get("error")
            shown = error if isinstance(error, str) and error in _GRANT_ERRORS else str(status)
            raise TargetUnavailable(self._target, f"the token endpoint refused the client ({shown})", trouble="refused")
        token = fields.get("access_token")
        if not isinstance(token, str) or not _IS_TOKEN.fullmatch(token):
            raise TargetUnavailable(self._target, "the token endpoint gave no access token", trouble="unreadable")
        self._token = token
        self._until = time.monotonic() + _lasts(fields.get("expires_in"))


def _lasts(expires_in: Any) -> float:
    """Seconds for which to use a token; one that does not say it, or says nonsense, until it is refused."""
    try:
        seconds = float(expires_in)
    except (TypeError, ValueError):
        return float("inf")
    return max(0.0, seconds - min(_MARGIN_SECONDS, seconds / 10))


def credentials_of(target: str, connection: HttpConnection, options: HttpOptions, post: Post) -> Credentials:
    """The way that the settings chose; a secret is read when it is first needed."""
    header, scheme = options.auth_header, options.auth_scheme
    if connection.user is not None:
        user, password = connection.user, _reader(target, "PASSWORD", connection.password, connection.password_path)
        return Told(password, "Authorization", lambda secret: _basic(user, secret))
    if connection.client_id is not None:
        secret = _reader(target, "CLIENT_SECRET", connection.client_secret, connection.client_secret_path)
        return ClientGrant(target, connection, secret, header, post)
    if connection.token is None and connection.token_path is None:
        return Nobody()
    token = _reader(target, "TOKEN", connection.token, connection.token_path)
    return Told(token, header, lambda secret: f"{scheme} {secret}".strip())


def _reader(target: str, name: str, value: SecretStr | None, path: Path | None) -> Callable[[], str]:
    def read() -> str:
        try:
            text = (value.get_secret_value() if value else path.read_text(encoding="utf-8") if path else "").strip()
        except (OSError, UnicodeDecodeError) as error:
            what = f"the file of {name}_PATH can't be read ({type(error).__name__})"
            raise TargetUnavailable(target, what, trouble="refused") from None
        if not text or (name == "TOKEN" and not _IS_TOKEN.fullmatch(text)):
            raise TargetUnavailable(target, f"{name} is empty, or holds what no header may", trouble="refused")
        return text

    return read


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
