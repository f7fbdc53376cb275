"""One HTTP API, asked politely: a few requests at a time, each with a time-out, all of a read with a deadline.

Nothing is written: GET, and POST for searches that the contract declares and for OAuth's tokens. No redirect is
followed, no cookie kept, no proxy or .netrc of the environment used, so credentials go to the target's host alone.
"""

import asyncio
import json
import logging
import ssl
import zlib
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlencode

import httpx2

from counterfoil_reconcilers.targets.http_answers import (
    Answer,
    TooLong,
    answer_of,
    body_of,
    drain,
    no_answer,
    trouble_of,
)
from counterfoil_reconcilers.targets.http_auth import Credentials, HttpConnection, credentials_of
from counterfoil_reconcilers.targets.http_options import HttpOptions
from counterfoil_reconcilers.targets.port import TargetUnavailable
from counterfoil_reconcilers.values import Unreadable

_CONNECT_SECONDS: Final = 5.0
_FIXED: Final = {"Accept": "application/json", "Accept-Encoding": "gzip", "Cache-Control": "no-cache"}
_NO_ANSWER: Final = (httpx2.HTTPError, httpx2.InvalidURL, OSError, UnicodeError)

# It would log each address, and so keys and what is searched for.
logging.getLogger("httpx2").setLevel(logging.WARNING)

Thing = TypeVar("Thing")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Ask:
    """One request. `what` names it in reasons, by its template; `post` is the body of a declared search."""

    what: str
    url: str
    post: Any = None


class HttpClient:
    """Asks one API. Its event loop is its own and runs only inside `run`, so callers need none."""

    def __init__(self, target: str, base: str, options: HttpOptions, connection: HttpConnection) -> None:
        self._target = target
        self._base = base + options.prefix
        self._options = options
        self._connection = connection
        self._runner: asyncio.Runner | None = None
        self._client: httpx2.AsyncClient | None = None
        self._credentials: Credentials | None = None

    def run(self, asking: Coroutine[Any, Any, Result], seconds: float) -> Result:
        """What `asking` gives, if it does so in time. Raises TargetUnavailable."""
        if self._runner is None:
            self._runner = asyncio.Runner()
        return self._runner.run(self._in_time(asking, seconds))

    def close(self) -> None:
        """Let go of connections and tokens."""
        if self._runner is None:
            return
        if self._client is not None:
            self._runner.run(self._client.aclose())
        self._runner.close()
        self._runner = self._client = self._credentials = None

    def ask(
        self, template: str, path: str, query: Iterable[tuple[str, Any]], post: Mapping[str, Any] | None = None
    ) -> Ask:
        """The request for a path of the API, both as they are filled."""
        text = urlencode(list(query), quote_via=quote)
        verb = "GET" if post is None else "POST"
        return Ask(f"{verb} {template}", f"{self._base}{path}{'?' if text else ''}{text}", post)

    async def fetch(self, ask: Ask, absent: frozenset[int] = frozenset()) -> Answer:
        """The answer with status 200, or with one of `absent`; then it has no document.

        Raises TargetUnavailable.
        """
        try:
            async with asyncio.timeout(self._options.timeout_seconds):
                return await self._fetch(ask, absent)
        except TimeoutError:
            what = f"{ask.what} was not answered within {self._options.timeout_seconds:g} seconds"
            raise TargetUnavailable(self._target, what) from None
        except _NO_ANSWER as error:
            raise no_answer(error, ask.what, self._target) from None

    async def each(self, asking: Callable[[Thing], Awaitable[Result]], things: Sequence[Thing]) -> list[Result]:
        """`asking` for each of the things, a few at a time, in their order; the first trouble ends all."""
        results: dict[int, Result] = {}
        waiting = iter(enumerate(things))

        async def work() -> None:
            for index, thing in waiting:
                results[index] = await asking(thing)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._options.concurrency, len(things))):
                    group.create_task(work())
        except ExceptionGroup as several:
            raise several.exceptions[0] from None
        return [results[index] for index in range(len(things))]

    async def _in_time(self, asking: Coroutine[Any, Any, Result], seconds: float) -> Result:
        try:
            async with asyncio.timeout(seconds):
                return await asking
        except TimeoutError:
            what = f"not all of it was answered within {seconds:.3g} seconds; see deadline_seconds in the contract"
            raise TargetUnavailable(self._target, what) from None

    async def _fetch(self, ask: Ask, absent: frozenset[int]) -> Answer:
        credentials = self._opened()
        headers = await credentials.headers()
        try:
            return await self._send(ask, absent, headers)
        except TargetUnavailable as error:
            # 403 as well: to some APIs whoever brings a token that is worth nothing is a guest, who may not look.
            if error.trouble != "refused" or not await credentials.renew(headers):
                raise
        return await self._send(ask, absent, await credentials.headers())

    async def _send(self, ask: Ask, absent: frozenset[int], credentials: Mapping[str, str]) -> Answer:
        client = self._client
        assert client is not None  # noqa: S101  # _opened made it
        verb = ask.what.partition(" ")[0]
        headers = httpx2.Headers(_FIXED)
        headers.update(self._options.headers)
        headers.update(credentials)
        async with client.stream(verb, ask.url, headers=headers, json=ask.post) as response:
            if response.status_code == 200:
                return await answer_of(response, ask.what, self._target)
            if response.status_code in absent:
                await drain(response)
                return Answer(response.url, response.status_code, {})
            if response.status_code == 401:
                what = f"{ask.what} answered 401: it does not take our credentials; look at the target's settings"
                raise TargetUnavailable(self._target, what, trouble="refused")
            raise await trouble_of(response, self._options.throttled, ask.what, self._target)

    def _opened(self) -> Credentials:
        if self._client is None or self._credentials is None:
            self._client = httpx2.AsyncClient(
                verify=self._trusted(),
                trust_env=False,
                timeout=httpx2.Timeout(self._options.timeout_seconds, connect=_CONNECT_SECONDS),
                limits=httpx2.Limits(max_connections=self._options.concurrency),
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            )
            self._credentials = credentials_of(self._target, self._connection, self._options, self._post_form)
        return self._credentials

    def _trusted(self) -> ssl.SSLContext:
        path = self._connection.ca_path
        try:
            return ssl.create_default_context(cafile=path)
        except (OSError, ssl.SSLError) as error:
            what = f"the file of CA_PATH can't be read ({type(error).__name__})"
            raise TargetUnavailable(self._target, what, trouble="refused") from None

    async def _post_form(self, url: str, form: dict[str, str], headers: dict[str, str]) -> tuple[int, Any]:
        """To the token endpoint; errors of its own are TargetUnavailable."""
        client, what = self._client, "POST to the token endpoint"
        assert client is not None  # noqa: S101  # _opened made it
        async with client.stream("POST", url, data=form, headers={**_FIXED, **headers}) as response:
            if response.status_code not in (200, 400, 401, 403):
                raise await trouble_of(response, self._options.throttled, what, self._target)
            try:
                return response.status_code, json.loads(await body_of(response))
            except (ValueError, RecursionError, Unreadable, TooLong, zlib.error):
                return response.status_code, None
