"""A mailbox by IMAP, only ever looked at: EXAMINE and BODY.PEEK, so that nothing is marked as read.

What is searched for comes from outside. It goes between quotes that it can't leave, or as a literal (RFC 3501, section
4.3); a search may find too much, for servers look for a piece of a header's text, so what it finds is compared again.
"""

import re
import ssl
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, NoReturn

from imapclient import IMAPClient, SocketTimeout
from imapclient.exceptions import CapabilityError, IMAPClientAbortError, IMAPClientError, ProtocolError

from counterfoil_reconcilers.targets.mail_options import MailConnection
from counterfoil_reconcilers.targets.port import TargetUnavailable, Trouble

_HEAD_BYTES: Final = 65_536
_HEADS_AT_ONCE: Final = 500
_BYTES_AT_ONCE: Final = 8_000_000
_NUMBERS_AT_ONCE: Final = 50_000  # the client takes no line of more than 10^6 bytes
_SEARCH_BYTES: Final = 6_000
_WORDS: Final = 4
_WORD_CHARACTERS: Final = 100

# Response codes of RFC 5530 and of large servers, by what they mean for us.
_THROTTLED: Final = re.compile(r"\[(LIMIT|OVERQUOTA|THROTTLED)\b|too many (simultaneous )?connections", re.IGNORECASE)
_AWAY: Final = re.compile(r"\[(UNAVAILABLE|INUSE|SERVERBUG)\b", re.IGNORECASE)
_REFUSED: Final = re.compile(
    r"\[(AUTHENTICATIONFAILED|AUTHORIZATIONFAILED|EXPIRED|PRIVACYREQUIRED|NOPERM)\b", re.IGNORECASE
)
_NONSENSE: Final = re.compile(
    r"unexpected response|unexpected tagged response|got more than \d+ bytes"
)  # imaplib's words
_MISSING: Final = re.compile(r"\[(NONEXISTENT|TRYCREATE)\b|doesn't exist|unknown mailbox", re.IGNORECASE)


# What no header holds once its lines are joined.
_NEVER: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")


@dataclass(frozen=True)
class Head:
    """The size of a message in bytes, and the header lines that were asked for, as far as they are kept."""

    size_bytes: int
    lines: bytes


class MailboxMissing(Exception):  # says what is so
    """There is no such mailbox, or it may not be seen."""


class Mailbox:
    """A mailbox that is being looked at. Its calls raise what the client does: use it inside of `Session.examine`."""

    def __init__(self, client: IMAPClient, validity: int, count: int) -> None:
        self._client = client
        self._count = count
        self.validity = validity

    def search(self, groups: Sequence[Sequence[tuple[str, str]]]) -> list[int]:
        """Numbers (UIDs) of messages that may hold all of a group's texts in their headers, for any of the groups."""
        found: set[int] = set()
        narrow = [[term for term in group if term[1].isascii()] for group in groups]
        with _understood():
            for criteria in _batches([terms for terms in narrow if terms]):
                found.update(self._client.search(criteria))
            for group, terms in zip(groups, narrow, strict=True):
                if not terms:  # not in quotes: what is not ASCII travels as a literal
                    flat = [item for header, word in group for item in ("HEADER", header, word.encode())]
                    found.update(self._client.search(flat, charset="UTF-8"))
        return sorted(found)

    def all(self) -> list[int]:
        """The numbers of all messages."""
        found: list[int] = []
        for first in range(1, self._count + 1, _NUMBERS_AT_ONCE):
            last = min(self._count, first + _NUMBERS_AT_ONCE - 1)
            with _understood():
                found += self._client.search(f"{first}:{last}")
        return found

    def heads(self, numbers: Sequence[int], headers: Iterable[str]) -> dict[int, Head]:
        """Of messages that are still there: their size, and some of their header lines."""
        lines = f"BODY.PEEK[HEADER.FIELDS ({' '.join(headers)})]<0.{_HEAD_BYTES}>"
        found: dict[int, Head] = {}
        for start in range(0, len(numbers), _HEADS_AT_ONCE):
            with _understood():
                fetched = self._client.fetch(numbers[start : start + _HEADS_AT_ONCE], ["RFC822.SIZE", lines])
                for number, data in fetched.items():
                    found[number] = Head(int(data[b"RFC822.SIZE"]), _section(data))
        return found

    def messages(self, sizes: Mapping[int, int]) -> Iterator[tuple[int, bytes]]:
        """Whole messages that are still there, given with their sizes."""
        batch: list[int] = []
        total = 0
        for number, size in sizes.items():
            if batch and total + size > _BYTES_AT_ONCE:
                yield from self._whole(batch)
                batch, total = [], 0
            batch.append(number)
            total += size
        if batch:
            yield from self._whole(batch)

    def _whole(self, numbers: Sequence[int]) -> list[tuple[int, bytes]]:
        with _understood():
            fetched = self._client.fetch(numbers, ["BODY.PEEK[]"])
            return [(number, _section(data)) for number, data in fetched.items()]


class Session:
    """A login at a server, made when it is first needed. Not for use by several threads at once."""

    def __init__(
        self, target: str, connection: MailConnection, *, connect_seconds: float = 5.0, read_seconds: float = 10.0
    ) -> None:
        self._target = target
        self._connection = connection
        self._timeout = SocketTimeout(connect_seconds, read_seconds)
        self._client: IMAPClient | None = None

    def close(self) -> None:
        """Let go of the connection; without a word, for a server that is away would not answer one."""
        if self._client is not None:
            client, self._client = self._client, None
            client.shutdown()

    @contextmanager
    def examine(self, name: str) -> Iterator[Mailbox]:
        """The mailbox as it is now.

        Raises MailboxMissing, and TargetUnavailable for whatever goes wrong in the block.
        """
        with self._answered():
            client = self._connected()
            try:
                state = client.select_folder(name, readonly=True)
            except IMAPClientError as error:
                if isinstance(error, IMAPClientAbortError) or not _MISSING.search(str(error)):
                    raise
                raise MailboxMissing from error
            if b"UIDVALIDITY" not in state or b"EXISTS" not in state:
                raise ProtocolError(f"mailbox {name} has no UIDVALIDITY, by which its messages are numbered")
            yield Mailbox(client, int(state[b"UIDVALIDITY"]), int(state[b"EXISTS"]))

    def names(self) -> list[str]:
        """The mailboxes that there are.

        Raises TargetUnavailable.
        """
        with self._answered():
            return [str(name) for _, _, name in self._connected().list_folders()]

    @contextmanager
    def _answered(self) -> Iterator[None]:
        """No connection outlives an error: what is still to come on it would be taken for another answer."""
        try:
            yield
        except (IMAPClientError, OSError) as error:
            self.close()
            raise self._unavailable(error) from error

    def _connected(self) -> IMAPClient:
        if self._client is None:
            client = self._new_client()
            try:
                self._log_in(client)
            except BaseException:
                client.shutdown()
                raise
            self._client = client
        return self._client

    def _new_client(self) -> IMAPClient:
        ours = self._connection
        context = ssl.create_default_context(cafile=None if ours.ca_file is None else str(ours.ca_file))
        implicit = ours.tls == "implicit"
        client = IMAPClient(
            ours.host,
            ours.port or (993 if implicit else 143),
            ssl=implicit,
            ssl_context=context if implicit else None,
            timeout=self._timeout,
        )
        if ours.tls == "starttls":
            try:
                client.starttls(context)
            except BaseException:
                client.shutdown()
                raise
        return client

    def _log_in(self, client: IMAPClient) -> None:
        """By SASL where the server has it: LOGIN takes ASCII alone."""
        user, password = self._connection.username, self._connection.password.get_secret_value()
        try:
            if client.has_capability("AUTH=PLAIN"):
                client.plain_login(user, password)
            else:
                client.login(user, password)
        except IMAPClientAbortError:
            raise
        except (IMAPClientError, UnicodeError) as error:
            self._refuse(error)

    def _refuse(self, error: Exception) -> NoReturn:
        """A login that failed; without the error itself, whose arguments may hold what was sent."""
        text = _said(error) if isinstance(error, IMAPClientError) else "the server takes only ASCII in a login"
        trouble = _trouble(text) or "refused"
        raise TargetUnavailable(
            self._target, f"the login failed: {text}; check the username and the password", trouble=trouble
        ) from None

    def _unavailable(self, error: Exception) -> TargetUnavailable:
        if isinstance(error, CapabilityError):
            reason = "the server does not offer STARTTLS, so nothing was sent to it; check the settings port and tls"
            return TargetUnavailable(self._target, reason, trouble="refused")
        if isinstance(error, ProtocolError) or _NONSENSE.search(str(error)):
            reason = f"the server's answer is no IMAP that can be read: {_said(error)}; it is asked again"
            return TargetUnavailable(self._target, reason, trouble="unreadable")
        if isinstance(error, TimeoutError):
            return TargetUnavailable(self._target, "the server did not answer in time; it is asked again")
        return TargetUnavailable(
            self._target, f"{_said(error)}; it is asked again", trouble=_trouble(str(error)) or "away"
        )


@contextmanager
def _understood() -> Iterator[None]:
    """What the client's parser stumbles over is an answer that is none."""
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, AssertionError) as error:
        raise ProtocolError(f"{type(error).__name__} in the client's parser") from error


def words_of(text: str) -> list[str] | None:
    """What is looked for in a header that holds a text: its longest words, in one form each.

    None where no header can hold it: it is empty, or has control characters or half a surrogate pair.
    """
    if not text.strip() or _NEVER.search(text):
        return None
    words = sorted(dict.fromkeys(text.split()), key=len, reverse=True)
    return [word[:_WORD_CHARACTERS] for word in words[:_WORDS]]


def _batches(groups: Sequence[Sequence[tuple[str, str]]]) -> Iterator[str]:
    """Searches for any of the groups, as few as a server's longest line allows."""
    batch: list[str] = []
    for group in groups:
        text = " ".join(f"HEADER {_quoted(header)} {_quoted(word)}" for header, word in group)
        if batch and sum(map(len, batch)) + len(text) > _SEARCH_BYTES:
            yield _any_of(batch)
            batch = []
        batch.append(f"({text})")
    if batch:
        yield _any_of(batch)


def _any_of(searches: Sequence[str]) -> str:
    """OR takes two (RFC 3501, section 6.4.4)."""
    return "".join(f"OR {search} " for search in searches[:-1]) + searches[-1]


def _quoted(text: str) -> str:
    """A quoted string (RFC 3501, section 9): anything of ASCII but line ends and NUL, which no word has."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _section(data: Mapping[bytes, object]) -> bytes:
    """The one section of the message that was asked for."""
    value = next(value for name, value in data.items() if name.startswith(b"BODY["))
    return value if isinstance(value, bytes) else b""


def _trouble(text: str) -> Trouble | None:
    kinds: tuple[tuple[Trouble, re.Pattern[str]], ...] = (
        ("throttled", _THROTTLED), ("away", _AWAY), ("refused", _REFUSED),
    )  # fmt: skip
    return next((trouble for trouble, pattern in kinds if pattern.search(text)), None)


def _said(error: Exception) -> str:
    """The first line of what was said; a server's words, never a password."""
    text = str(error)
    text = text[2:-1] if re.fullmatch(r"b'.*'", text, re.DOTALL) else text
    return (text.splitlines() or [type(error).__name__])[0][:300]
