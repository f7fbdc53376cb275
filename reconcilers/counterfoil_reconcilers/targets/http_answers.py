"""What an HTTP answer is worth: a row, the word that there is none, or no answer, with its trouble.

The statuses are RFC 9110's, section 15; 429 is RFC 6585's. A reason names the contract's template and never an address:
keys may be secret, and queries hold what was searched for.
"""

import datetime as dt
import json
import re
import zlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Final

import httpx2

from counterfoil_reconcilers.targets.http_options import Sign, Throttled
from counterfoil_reconcilers.targets.http_rows import places
from counterfoil_reconcilers.targets.port import TargetUnavailable, Trouble
from counterfoil_reconcilers.values import TooDeep, Unreadable, decode_json

MOST_BYTES: Final = 8_000_000
_WORTH_DRAINING_BYTES: Final = 64_000
_LONGEST_WAIT: Final = dt.timedelta(days=1)
_JSON: Final = re.compile(r"(application|text)/(json|[\w.!#$&^-]+\+json)", re.IGNORECASE)


class TooLong(Exception):  # never leaves the adapter
    """A body has more than MOST_BYTES, as sent or unpacked."""


@dataclass(frozen=True)
class Answer:
    """An answer with what it says. `document` is JSON as decoded; `problem` is why there is none to compare."""

    url: httpx2.URL
    status: int
    headers: Mapping[str, str]  # names in small letters
    document: Any = None
    problem: str | None = None
    next_link: str | None = None


async def answer_of(response: httpx2.Response, what: str, target: str) -> Answer:
    """The answer of a response with status 200.

    Raises TargetUnavailable where it is none: no JSON, cut off, a field named twice.
    """
    headers = {name.lower(): value for name, value in response.headers.items()}
    kind = headers.get("content-type", "application/json").partition(";")[0].strip()
    if not _JSON.fullmatch(kind):
        raise TargetUnavailable(target, f"{what} answered with no JSON but {_named(kind)}", trouble="unreadable")
    try:
        body = await body_of(response)
        document = decode_json(body.decode("utf-8-sig"))
    except (TooLong, TooDeep) as error:  # a row that somebody wrote so
        problem = f"its answer has more than {MOST_BYTES} bytes" if isinstance(error, TooLong) else str(error)
        return Answer(response.url, response.status_code, headers, problem=problem)
    except (Unreadable, UnicodeDecodeError, zlib.error) as error:
        said = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error
        raise TargetUnavailable(target, f"{what} gave an unreadable answer: {said}", trouble="unreadable") from None
    return Answer(response.url, response.status_code, headers, document, next_link=_next_link(response))


async def body_of(response: httpx2.Response) -> bytes:
    """The body, unpacked piece by piece, so that neither a long one nor a bomb is ever held.

    Raises TooLong, and zlib.error or Unreadable for what can't be unpacked.
    """
    coding = response.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("identity", "gzip", "x-gzip"):
        raise Unreadable("it is packed in a way that was not asked for")
    body = bytearray()
    pieces = response.aiter_raw() if coding == "identity" else _unpacked(response.aiter_raw())
    async for piece in pieces:
        body += piece
        if len(body) > MOST_BYTES:
            raise TooLong
    return bytes(body)


async def _unpacked(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    unpacking = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)  # gzip, RFC 1952
    async for piece in pieces:
        yield unpacking.decompress(piece, MOST_BYTES + 1)
        if unpacking.unconsumed_tail:
            raise TooLong
    if not unpacking.eof:
        raise Unreadable("it is cut off")


async def drain(response: httpx2.Response) -> None:
    """Read what nobody needs, if it is short, so that the connection serves again."""
    size = 0
    async for piece in response.aiter_raw():
        size += len(piece)
        if size > _WORTH_DRAINING_BYTES:
            break


async def trouble_of(response: httpx2.Response, throttled: Throttled, what: str, target: str) -> TargetUnavailable:
    """Why a status is no answer."""
    status, reads = response.status_code, f"{what} answered {response.status_code}"
    wait = _wait(response, throttled)
    if status in throttled.statuses or await _has_sign(response, throttled.also):
        return TargetUnavailable(target, f"{reads}: it wants fewer requests", trouble="throttled", retry_after=wait)
    if 300 <= status < 400:
        advice = f"{reads}, a redirect, which is never followed; say in the contract where it leads"
        return TargetUnavailable(target, advice, trouble="unreadable")
    if status in (401, 403):
        advice = f"{reads}: it does not take our credentials for this; look at the target's settings"
        return TargetUnavailable(target, advice, trouble="refused", retry_after=wait)
    if status in (408, 425) or status >= 500:
        return TargetUnavailable(target, reads, trouble="away", retry_after=wait)
    return TargetUnavailable(target, f"{reads}, which is no answer; look at the contract", trouble="unreadable")


def no_answer(error: Exception, what: str, target: str) -> TargetUnavailable:
    """Why there was no answer at all; the error's own words may quote a header, so its name has to do."""
    trouble: Trouble = "unreadable" if isinstance(error, httpx2.LocalProtocolError | httpx2.InvalidURL) else "away"
    return TargetUnavailable(target, f"{what} got no answer ({type(error).__name__})", trouble=trouble)


def _wait(response: httpx2.Response, throttled: Throttled) -> dt.timedelta | None:
    """How long to wait: Retry-After (RFC 9110, section 10.2.3), or the header that the contract names for it."""
    now = _date(response.headers.get("date")) or dt.datetime.now(dt.UTC)  # its own clock, if it shows it
    said = response.headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}", said):
        return min(dt.timedelta(seconds=int(said)), _LONGEST_WAIT)
    until = _date(said)
    resets = response.headers.get(throttled.resets_at, "").strip() if throttled.resets_at else ""
    if until is None and re.fullmatch(r"\d{1,11}", resets):
        until = dt.datetime.fromtimestamp(int(resets), dt.UTC)
    return None if until is None else max(dt.timedelta(0), min(until - now, _LONGEST_WAIT))


def _date(text: str | None) -> dt.datetime | None:
    try:
        date = parsedate_to_datetime(text or "")
    except (ValueError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=dt.UTC)  # `-0000` says no zone; HTTP's dates are in GMT


async def _has_sign(response: httpx2.Response, signs: list[Sign]) -> bool:
    candidates = [sign for sign in signs if sign.status == response.status_code]
    for sign in candidates:
        held = response.headers.get(sign.header) if sign.header else None
        if held is not None and sign.value in (None, held.strip()):
            return True
    if not any(sign.at for sign in candidates):
        return False
    try:
        document = json.loads(await body_of(response))
    except (ValueError, RecursionError, TooLong, zlib.error, httpx2.HTTPError):
        return False
    held_at = ((sign, place) for sign in candidates if sign.at for place in places(sign.at, document))
    return any(sign.value in (None, place) for sign, place in held_at)


def _next_link(response: httpx2.Response) -> str | None:
    """The target of the Link header's relation `next` (RFC 8288, section 3)."""
    links = response.links.values()
    return next((link.get("url") for link in links if "next" in (link.get("rel") or "").lower().split()), None)


def _named(kind: str) -> str:
    return kind if re.fullmatch(r"[\w.+-]{1,40}/[\w.+-]{1,60}", kind) else "something without a name"
