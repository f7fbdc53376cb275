"""A message as a row: decoded by the standard library, strictly. What can't be decoded is told, and never guessed."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from email import errors, policy
from email.headerregistry import AddressHeader, DateHeader
from email.message import EmailMessage
from email.parser import BytesParser
from typing import Any, Final, cast

from counterfoil_reconcilers.targets.mail_options import MailResource
from counterfoil_reconcilers.values import Json, Unreadable, plain

# What the standard library's parser of headers raises on broken ones, besides what it means to raise.
_BROKEN: Final = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    RecursionError,
    errors.MessageError,
)
_CUT_OFF: Final = (
    errors.StartBoundaryNotFoundDefect,
    errors.CloseBoundaryNotFoundDefect,
    errors.NoBoundaryInMultipartDefect,
    errors.MultipartInvariantViolationDefect,
)
_UNDECODED: Final = (
    errors.InvalidBase64PaddingDefect,
    errors.InvalidBase64CharactersDefect,
    errors.InvalidBase64LengthDefect,
)
_FOLD = re.compile(r"\r?\n(?=[ \t])")
# The parser's time grows with the square of these: 16 KB of quotes in one header take half a minute.
_CONTENT_HEADER = re.compile(rb"^content-[a-z-]+:.*(?:\n[ \t].*)*", re.IGNORECASE | re.MULTILINE)
_BOUNDARY = re.compile(rb"boundary\s*=", re.IGNORECASE)
_LONGEST_CONTENT_HEADER_BYTES: Final = 1_000
_MOST_CONTENT_HEADERS: Final = 1_000
_MOST_BOUNDARIES: Final = 50
_LONGEST_ADDRESSES: Final = 4_000
_MOST_QUOTES: Final = 400


def fields_of_head(head: bytes, options: MailResource) -> dict[str, Json]:
    """The fields that stand in a message's header lines.

    Raises Unreadable.
    """
    with _readable("its header"):
        return cast(dict[str, Json], plain(_fields_of_head(_parsed(head), options)))


def fields_of(message: bytes, options: MailResource, uid: str) -> Json:
    """The row of a whole message; `uid` is its name at the server.

    Raises Unreadable.
    """
    with _readable("it"):
        parsed = _parsed(message)
        fields = {"uid": uid, **_fields_of_head(parsed, options), "headers": _all_headers(parsed)}
        return plain(fields | _content(parsed))


@contextmanager
def _readable(what: str) -> Iterator[None]:
    try:
        yield
    except Unreadable:
        raise
    except _BROKEN as error:
        raise Unreadable(f"{what} is no mail that can be read ({type(error).__name__})") from error


def _parsed(data: bytes) -> EmailMessage:
    for number, found in enumerate(_CONTENT_HEADER.finditer(data)):
        if number > _MOST_CONTENT_HEADERS or len(found.group()) > _LONGEST_CONTENT_HEADER_BYTES:
            raise Unreadable("it has more parts, or longer headers of parts, than mail has")
    if len(_BOUNDARY.findall(data)) > _MOST_BOUNDARIES:
        raise Unreadable(f"it has more than {_MOST_BOUNDARIES} parts within parts")
    return BytesParser(policy=policy.default).parsebytes(data)


def _fields_of_head(message: EmailMessage, options: MailResource) -> dict[str, Any]:
    senders = _addresses(message, "From")
    fields: dict[str, Any] = {
        "message_id": _message_id(message),
        "from": senders[0] if len(senders) == 1 else senders or None,
        "to": _addresses(message, "To"),
        "cc": _addresses(message, "Cc"),
        "subject": _texts(message, "Subject"),
        "date": _date(message),
    }
    return fields | {field: _texts(message, header) for field, header in options.headers.items()}


def _message_id(message: EmailMessage) -> str | list[str] | None:
    """As it was written: the parser of the standard library would mend it."""
    return _once([_FOLD.sub("", value).strip() for value in _raw(message, "Message-ID")])


def _raw(message: EmailMessage, header: str) -> list[str]:
    """A header's values as they were written; what is not ASCII is UTF-8 (RFC 6532)."""
    values = [str(value) for name, value in message.raw_items() if name.lower() == header.lower()]
    return [value.encode("ascii", "surrogateescape").decode() for value in values]


def _texts(message: EmailMessage, header: str) -> str | list[str] | None:
    texts = [str(value).strip() for value in message.get_all(header, [])]
    if any("\ufffd" in text for text in texts):
        raise Unreadable(f"its header {header} holds bytes that are no text in the charset that it names")
    return _once(texts)


def _once(texts: list[str]) -> str | list[str] | None:
    """A header's text; a list where it is repeated with other texts, None where it is not there."""
    distinct = list(dict.fromkeys(texts))
    return distinct[0] if len(distinct) == 1 else distinct or None


def _addresses(message: EmailMessage, header: str) -> list[str]:
    written = "".join(map(str, (value for name, value in message.raw_items() if name.lower() == header.lower())))
    if len(written) > _LONGEST_ADDRESSES or written.count('"') > _MOST_QUOTES:
        raise Unreadable(f"its header {header} is longer than any that is read")
    values = cast(list[AddressHeader], message.get_all(header, []))
    return [address.addr_spec for value in values for address in value.addresses]


def _date(message: EmailMessage) -> str | None:
    value = cast(DateHeader | None, message["Date"])
    return None if value is None or value.datetime is None else value.datetime.isoformat()


def _all_headers(message: EmailMessage) -> dict[str, Any]:
    """Every header by its name in small letters; a repeated one is a list."""
    held: dict[str, list[str]] = {}
    for name, value in message.items():
        held.setdefault(name.lower(), []).append(str(value).strip())
    return {name: values[0] if len(values) == 1 else values for name, values in held.items()}


def _content(message: EmailMessage) -> dict[str, Any]:
    bodies = {kind: cast(EmailMessage | None, message.get_body((kind,))) for kind in ("plain", "html")}
    parts = list(_leaves(message))
    shown = [body for body in bodies.values() if body is not None]
    return {
        "text": None if bodies["plain"] is None else _text(bodies["plain"]),
        "html": None if bodies["html"] is None else _text(bodies["html"]),
        "attachments": [_attachment(part) for part in parts if not any(part is body for body in shown)],
    }


def _leaves(part: EmailMessage) -> Iterator[EmailMessage]:
    """The parts that hold content; a message within the message is one."""
    if any(isinstance(defect, _CUT_OFF) for defect in part.defects):
        raise Unreadable("its parts are not bounded as it says, so it may be cut off")
    if part.get_content_maintype() != "multipart":
        yield part
        return
    for inner in part.iter_parts():
        yield from _leaves(cast(EmailMessage, inner))


def _text(part: EmailMessage) -> str:
    """Lines end with a line feed, and none stand empty at the end."""
    charset = part.get_content_charset("us-ascii")
    try:
        text = _bytes(part).decode("utf-8" if charset == "us-ascii" else charset)
    except LookupError:
        raise Unreadable(f"its text is in the charset {charset[:40]}, which nobody here knows") from None
    except UnicodeDecodeError:
        raise Unreadable(f"its text is not in the charset {charset[:40]}, as it says") from None
    return text.replace("\r\n", "\n").rstrip("\n")


def _attachment(part: EmailMessage) -> dict[str, Any]:
    """A message that is attached has no bytes of its own: they would be others once written again."""
    data = None if part.get_content_maintype() == "message" else _bytes(part)
    return {
        "name": part.get_filename(),
        "size": None if data is None else len(data),
        "sha256": None if data is None else hashlib.sha256(data).hexdigest(),
    }


def _bytes(part: EmailMessage) -> bytes:
    data = part.get_payload(decode=True)
    if any(isinstance(defect, _UNDECODED) for defect in part.defects):
        raise Unreadable("a part of it is no Base64, as it says")
    return data if isinstance(data, bytes) else b""
