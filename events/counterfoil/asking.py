"""Asks the console whether a write may be sent again: `counterfoil serve`, see docs/retry.md.

Every error, delay, redirect or answer that is none means no. What may block (names, connections, slow answers) runs
in a thread, so that a deadline holds as a whole, and nothing blocks an event loop.
"""

import datetime as dt
import http.client
import json
import logging
import math
import ssl
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from counterfoil.errors import SettingsError
from counterfoil.ids import Id
from counterfoil.settings import RecorderSettings

logger = logging.getLogger("counterfoil")

LONGEST_CONFIRM_SECONDS = 30.0
_GRACE_SECONDS = 3.0  # over what the console was given, until its answer must be here
_MOST_BODY_BYTES = 16 * 1024**2  # a result may be as large as an event
_PIECE_BYTES = 65_536


@dataclass(frozen=True)
class RetryAnswer:
    """What is known of a write that may have happened.

    `applied`: the target has it; `result` is then the reply that an attempt recorded, as JSON was read, or None.
    `may_retry`: the target was asked, does not have it, and takes another attempt with the same key for the same one,
    until `until` (aware; by the store's clock). `reason` is a sentence. `code` says the same to programs, as
    docs/retry.md has them; it is `no_answer` where the console gave none.
    """

    applied: bool
    may_retry: bool
    reason: str
    code: str
    result: Any = None
    until: dt.datetime | None = None
    until_monotonic: float | None = None  # the same on this process's own clock, to go by

    @property
    def is_open(self) -> bool:
        """Whether it may be sent now."""
        return self.may_retry and self.until_monotonic is not None and time.monotonic() < self.until_monotonic


class Asking(Protocol):
    """Answers questions about effects."""

    timeout_seconds: float

    def may_retry(self, effect_id: Id, after: Id | None) -> "Future[RetryAnswer]":
        """What the store knows now. `after`: the event_id of the latest attempt's intent here, if there was one."""

    def confirm(self, effect_id: Id, after: Id | None, timeout_seconds: float) -> "Future[RetryAnswer]":
        """The same, once the target was asked, or the time is up."""


def told(tool: str, key: str, answer: RetryAnswer) -> RetryAnswer:
    """The answer, once the log has it."""
    level = logging.WARNING if answer.code == "no_answer" else logging.INFO
    word = "may be sent again" if answer.may_retry else "is applied" if answer.applied else "must not be sent again"
    logger.log(level, "%s %s %s: %s", tool, key, word, answer.reason)
    return answer


def no_answer(reason: str) -> RetryAnswer:
    """What is not known is not sent again."""
    return RetryAnswer(False, False, f"there is no answer: {reason}", "no_answer")


class _Body(BaseModel):
    """An answer of the console; what a newer one says besides is left out."""

    model_config = ConfigDict(strict=True)

    effect_id: str
    answer: Literal["yes", "no", "wait"]
    code: str
    may_retry: bool
    applied: bool
    reason: str
    result: Any = None
    until: AwareDatetime | None = None
    seconds_left: float | None = None


class _Refused(Exception):
    """No answer, and why, in words without secrets."""


@dataclass(frozen=True)
class _Request:
    method: str
    path: str
    body: bytes | None = None


class Console:
    """The console at a URL, and the token by which it lets us in.

    Raises SettingsError when the URL is none, or there is no token.
    """

    def __init__(self, url: str, token: str, timeout_seconds: float) -> None:
        self.timeout_seconds = timeout_seconds
        self._token = token
        self._host, self._port, self._base, self._tls = _read_url(url)

    def may_retry(self, effect_id: Id, after: Id | None) -> "Future[RetryAnswer]":
        """See Asking; the future ends within `timeout_seconds`, and never with an error."""
        query = "" if after is None else f"?after={after.hex()}"
        request = _Request("GET", f"/v1/effects/{effect_id.hex()}/may-retry{query}")
        return self._ask(effect_id, request, self.timeout_seconds)

    def confirm(self, effect_id: Id, after: Id | None, timeout_seconds: float) -> "Future[RetryAnswer]":
        """See Asking; more than 30 s are 30 s. The future ends 3 s after that at most, and never with an error."""
        seconds = min(max(timeout_seconds, 0.0), LONGEST_CONFIRM_SECONDS)
        asked: dict[str, Any] = {"timeout_seconds": seconds}
        if after is not None:
            asked["after"] = after.hex()
        path = f"/v1/effects/{effect_id.hex()}/confirm"
        return self._ask(effect_id, _Request("POST", path, json.dumps(asked).encode()), seconds + _GRACE_SECONDS)

    def _ask(self, effect_id: Id, request: _Request, seconds: float) -> "Future[RetryAnswer]":
        """One thread asks, another stops waiting for it; neither keeps a process from ending."""
        answer: Future[RetryAnswer] = Future()
        deadline = time.monotonic() + seconds
        too_late = no_answer(f"the console gave none within {seconds:g} s")
        timer = threading.Timer(seconds, _end, [answer, too_late])
        timer.daemon = True

        def ask() -> None:
            try:
                found = self._answer(effect_id, request, deadline)
            except _Refused as error:
                found = no_answer(str(error))
            except TimeoutError:  # of the socket, which may notice it first
                found = too_late
            except (OSError, http.client.HTTPException) as error:
                found = no_answer(f"the console can't be reached ({type(error).__name__})")
            except Exception as error:  # noqa: BLE001  # whoever waits for the future must hear of it
                found = no_answer(f"asking failed ({type(error).__name__})")
            timer.cancel()
            _end(answer, found)

        timer.start()
        threading.Thread(target=ask, name="counterfoil-ask", daemon=True).start()
        return answer

    def _answer(self, effect_id: Id, request: _Request, deadline: float) -> RetryAnswer:
        asked_at = time.monotonic()
        status, body = self._exchange(request, deadline)
        if status != http.client.OK:
            raise _Refused(_meaning(status, body))
        return read_answer(body, effect_id, asked_at)

    def _exchange(self, request: _Request, deadline: float) -> tuple[int, bytes]:
        connection = self._connection(max(0.01, deadline - time.monotonic()))
        headers = {"Authorization": f"Bearer {self._token}", "Accept": "application/json"}
        if request.body is not None:
            headers["Content-Type"] = "application/json"
        try:
            connection.request(request.method, self._base + request.path, request.body, headers)
            response = connection.getresponse()
            return response.status, _read(response, deadline)
        finally:
            connection.close()

    def _connection(self, timeout: float) -> http.client.HTTPConnection:
        if self._tls:
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(self._host, self._port, timeout=timeout, context=context)
        return http.client.HTTPConnection(self._host, self._port, timeout=timeout)


def console_of(settings: RecorderSettings) -> Console | None:
    """The console that the settings name; None where they name none.

    Raises SettingsError.
    """
    own = settings.console
    if own.url is None:
        return None
    token = "" if own.token is None else own.token.get_secret_value().strip()
    if not token.isascii() or not token.isprintable() or not token or " " in token:
        raise SettingsError(
            "COUNTERFOIL_CONSOLE__URL is set, and COUNTERFOIL_CONSOLE__TOKEN (or COUNTERFOIL_CONSOLE__TOKEN_FILE) "
            "holds no token; `counterfoil token create --tenant TENANT` makes one"
        )
    return Console(own.url, token, own.timeout_seconds)


def read_answer(body: bytes, effect_id: Id, asked_at: float) -> RetryAnswer:
    """An answer about this effect; `asked_at` is when it was asked for (monotonic).

    Raises _Refused for everything that is none, contradicts itself, or is of another effect.
    """
    try:
        found = _Body.model_validate_json(json.dumps(json.loads(body, object_pairs_hook=_once)))
    except (ValueError, RecursionError, ValidationError):
        raise _Refused("what came is no answer of a console") from None
    if found.effect_id != effect_id.hex():
        raise _Refused("the answer is about another effect")
    says_yes = found.answer == "yes"
    left = found.seconds_left
    if found.may_retry is not says_yes or (says_yes and found.applied):
        raise _Refused("the answer contradicts itself")
    is_known = found.until is not None and left is not None and math.isfinite(left)
    if says_yes and not (is_known and found.code == "confirmed_absent"):
        raise _Refused("the answer says yes, and not until when or why")
    until_monotonic = asked_at + left if says_yes and left is not None else None
    result = found.result if found.applied else None
    return RetryAnswer(found.applied, says_yes, found.reason, found.code, result, found.until, until_monotonic)


def _read(response: http.client.HTTPResponse, deadline: float) -> bytes:
    """The body; one that comes too slowly, or is too large, is none."""
    pieces, size = [], 0
    while piece := response.read1(_PIECE_BYTES):
        pieces.append(piece)
        size += len(piece)
        if size > _MOST_BODY_BYTES:
            raise _Refused("the answer is too large")
        if time.monotonic() > deadline:
            raise _Refused("the answer came too slowly")
    return b"".join(pieces)


def _meaning(status: int, body: bytes) -> str:
    """A refusal in words; what the console said in detail is taken from its problem (RFC 9457) alone."""
    try:
        problem = json.loads(body)
        detail = str(problem["detail"])[:300] if isinstance(problem, Mapping) else ""
    except (ValueError, KeyError, RecursionError):
        detail = ""
    return f"the console says {status}" + (f": {detail}" if detail else "")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    read = dict(pairs)
    if len(read) != len(pairs):
        raise ValueError("a name stands twice")
    return read


def _end(answer: "Future[RetryAnswer]", found: RetryAnswer) -> None:
    """Whichever of the two threads comes first has the word, if anybody still listens."""
    with suppress(InvalidStateError):
        answer.set_result(found)


def _read_url(url: str) -> tuple[str, int | None, str, bool]:
    """Host, port, path before ours, and whether by TLS."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
        raise SettingsError(
            "COUNTERFOIL_CONSOLE__URL is no address of a console; write https://host or http://host:port"
        )
    return parts.hostname, port, parts.path.rstrip("/"), parts.scheme == "https"
