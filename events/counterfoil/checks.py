"""Whether what looks like a secret is one: a second look at a rule's finding, in plain Python.

Rules find by form; these weigh what stands there: a card number adds up, a password is no type's name, no placeholder
and no call that fetches it from elsewhere.
"""

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import NamedTuple

from counterfoil.rules_file import rules_file
from counterfoil.tokens import LOOKALIKE_PATTERN

_MASKS = frozenset("*•·.xX#_-?=…●")
_LEFT_OF_A_MASK = 4  # the last digits of a card may be told
_CLOSING = ("\u201c", "\u201d", "\u00bb", "\u2019", "&")  # quotes that others opened, and &quot;
_MARKS = frozenset("!#$%^&*~+=|@?")
_CODE = frozenset("()[]{}<>|")
_NAMES = re.compile(r"(?i)pass|pwd|secret|token|key|credential|authorization|cookie")
_PASSWORDS = re.compile(r"(?i)pass|pwd|\bpw\b|kennwort|contrase|senha|парол|密|パス|cred")
_NAME_WORD = re.compile("[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
_MOMENT = re.compile(r"\d{4}-\d{2}-\d{2}|\d{1,2}:\d{2}|\d{1,2}[./]\d{1,2}[./]\d{2,4}")
_VERSIONED = re.compile(r"[A-Za-z]+(?:[-_./][A-Za-z]+)*[-_.]?\d{1,3}(?:\.\d{1,3})*(?:[-_.][A-Za-z]+)?")
_UPPER_NAME = re.compile(r"[A-Z][A-Z0-9_]{2,}")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z_][A-Za-z0-9_]*)*")
_NAME_IN_CODE = re.compile(r"[A-Za-z_]+(?:\.[A-Za-z_]+)*")  # without a digit
_WORDLIKE = re.compile(r"[a-z]+(?:[_-][a-z]+)*")
_VARIABLE = re.compile(
    r"\$(?:[A-Z][A-Z0-9_]*|[a-z_]+)|\$?\{[A-Za-z_. ]+\}|\$\([^()]*\)|%[A-Za-z_]+%|%\([a-z_]+\)s|@[a-z_]+"
    r"|(?:env|settings|config|secrets|self|this)\.[A-Za-z_.]+"
)
_IS_VARIABLE = re.compile(r"\$[A-Za-z_]+[-:]?")  # in code, where nothing is quoted
_DEFAULT = re.compile(r"\$\{[A-Za-z0-9_.]+(?::-?([^{}]*))?\}")  # ${NAME:-what stands in}
_TEMPLATE = re.compile(r"\$?\{\{[^{}]*\}\}|#\{[^{}]*\}#?|<%[^<>%]*%>|<[A-Za-z][A-Za-z _./:-]*/?>")
_BRACKETS = ("[]", "<>", "()", "{}", "__")
_OURS = re.compile(LOOKALIKE_PATTERN)
_ESCAPED = re.compile(r"\\+u[0-9a-fA-F]{4}")  # in JSON, what is not ASCII
_BETWEEN_WORDS = re.compile(r"[\s_.:/-]+")


@dataclass(frozen=True, slots=True)
class Found:
    """A finding of a rule: the secret, the name and the quote before it if the rule tells them, and its neighbours."""

    secret: str
    name: str = ""
    quote: str = ""
    before: str = ""  # up to four characters before the secret, or before the name if there is one
    after: str = ""  # the character behind it
    joint: str = ""  # what stands between name and value


Check = Callable[[Found], bool]


def is_placeholder(text: str) -> bool:
    """Whether this stands where a secret would, and is none: all of it, for a part of a password may be any word."""
    text = text.strip().rstrip(".,;:").strip("\"'`")
    if set(text) <= _MASKS or _OURS.fullmatch(text):
        return True
    if (
        text[0] in "*•●xX"
        and sum(character not in _MASKS and character != " " for character in text) <= _LEFT_OF_A_MASK
    ):
        return True
    if (with_default := _DEFAULT.fullmatch(text)) is not None:
        return is_placeholder(with_default[1] or "")
    if _VARIABLE.fullmatch(text) or _TEMPLATE.fullmatch(text) or text.startswith(_placeholders().references):
        return True
    if len(text) > 2 and text[0] + text[-1] in _BRACKETS:
        text = text[1:-1]
    lower = text.lower()
    words = _placeholders().words
    return lower in words or all(word in words for word in _BETWEEN_WORDS.split(lower) if word)


class _Placeholders(NamedTuple):
    """Words that, alone or joined, are no secret, and beginnings of what fetches one from elsewhere."""

    words: frozenset[str]
    references: tuple[str, ...]


@cache
def _placeholders() -> _Placeholders:
    read = rules_file()["placeholders"]
    return _Placeholders(frozenset(read["words"]), tuple(read["references"]))


def is_random(found: Found) -> bool:
    """Letters and digits mixed, as no word is."""
    return _looks_random(found.secret) and not is_placeholder(found.secret)


def is_given(found: Found) -> bool:
    """Stands where a secret stands, and is no placeholder."""
    return not is_placeholder(found.secret)


def is_cookie(found: Found) -> bool:
    """Cookies, one of which is long enough for a session's."""
    values = (pair.partition("=")[2] for pair in found.secret.split(";"))
    return any(len(value) >= 6 and not is_placeholder(value) for value in values)


def is_no_mask(found: Found) -> bool:
    """More than the form of a key, filled up with x or zeros."""
    return len(set(found.secret[-8:].lower())) > 2


def is_header(found: Found) -> bool:
    """The value of a header, not the code that makes it."""
    is_quoted = found.before.endswith(("'", '"', "`"))
    is_code = found.after == "(" or (not is_quoted and _NAME_IN_CODE.fullmatch(found.secret) is not None)
    return not is_code and not is_placeholder(found.secret)


def is_basic_auth(found: Found) -> bool:
    """Base64 of `user:password` (RFC 7617)."""
    try:
        text = base64.b64decode(found.secret + "=" * (-len(found.secret) % 4), validate=True).decode()
    except (binascii.Error, ValueError):
        return False
    return ":" in text and text.isprintable()


def is_assigned(found: Found) -> bool:
    """A value given to a name that tells of a secret, in code, files or prose."""
    secret, name = found.secret, found.name
    if _is_harmless(name) or is_placeholder(secret) or _is_in_arn(found):
        return False
    is_password = _PASSWORDS.search(name) is not None
    is_quoted = found.quote != "" and not found.quote.isalpha()
    is_code = any(character in _CODE for character in secret) or found.after in ("(", "[", "{")
    if not found.joint.strip("\\\"'` \t*_"):  # nothing but a space between name and value
        return not is_code and "=" not in secret and _is_strong(secret, 8 if is_password else 16)
    if is_quoted:
        return _is_quoted_secret(found, is_password)
    if (
        is_code
        or _IS_VARIABLE.fullmatch(secret)
        or name.lower() == "pass"
        or ("=" not in found.joint and _NAME_IN_CODE.fullmatch(secret))
    ):
        return False
    if _looks_random(secret, least=6 if is_password else 8):
        return not _is_identifier(secret, found) and not _MOMENT.match(secret)
    if is_password and any(character in _MARKS for character in secret):
        return len(secret) >= 6 and any(character.isascii() and character.isalnum() for character in secret)
    # letters alone: only in a file of settings, NAME=value to the end of the line
    is_line = found.joint == "=" and found.after in ("", "\n", "\r", "\\", "&", ";")
    return is_password and is_line and len(secret) >= 6 and secret.replace("-", "").isalnum()


def _is_in_arn(found: Found) -> bool:
    """`arn:aws:secretsmanager:...:secret:prod/db`."""
    return found.before.endswith(":") and found.joint == ":"


def _is_quoted_secret(found: Found, is_password: bool) -> bool:
    secret = found.secret
    if not found.after.startswith(("\\", found.quote[-1], *_CLOSING)):
        return _looks_random(secret)  # a quoted sentence, not a quoted word
    if "," in found.joint and not _looks_random(secret):
        return False
    if _UPPER_NAME.fullmatch(secret) and "_" in secret:
        return False  # a name of a setting, not its value
    if is_password:
        return not _IDENTIFIER.fullmatch(secret) or not _WORDLIKE.fullmatch(secret) or len(secret) >= 6
    return _looks_random(secret) or (len(secret) >= 16 and not _WORDLIKE.fullmatch(secret.lower()))


def is_told(found: Found) -> bool:
    """What a sentence says that a password, or a key, is."""
    is_password = _PASSWORDS.search(found.name) is not None
    if is_placeholder(found.secret) or _is_in_arn(found) or any(character in _CODE for character in found.secret):
        return False
    if found.name.lower() == "key" and found.joint.rstrip().endswith((":", "=")):
        return False  # a key of many kinds, such as a certificate's
    return _is_strong(found.secret, 8 if is_password else 16)


def is_named(found: Found) -> bool:
    """A value beside its name, where the name tells of a secret."""
    return _NAMES.search(found.name) is not None and is_assigned(found)


def is_in_query(found: Found) -> bool:
    """A value of a URL's query whose name tells of a secret."""
    if _is_harmless(found.name) or is_placeholder(found.secret):
        return False
    if found.name.lower() in ("key", "code"):
        return len(found.secret) >= 16 and _looks_random(found.secret)
    return _looks_random(found.secret) or _PASSWORDS.search(found.name) is not None


@lru_cache(maxsize=4096)
def _is_harmless(name: str) -> bool:
    """`next_page_token`, `primaryKey`, `csrf_token`."""
    words = [word.lower() for word in _NAME_WORD.findall(name[-200:])]
    if any(word in ("csrf", "xsrf", "tokenizer") for word in words):
        return True
    return (
        len(words) > 1 and words[-1].rstrip("s") in ("key", "token") and words[-2] in rules_file()["harmless"]["words"]
    )


def _looks_random(text: str, least: int = 8) -> bool:
    """Letters and digits mixed; or many letters, in both cases. What is not ASCII is prose."""
    text = text.replace("\ufffd", "")  # what stands for half a character
    if len(text) < least or not text.isascii() or _ESCAPED.search(text):
        return False
    digits = sum(character.isdigit() for character in text)
    letters = sum(character.isalpha() for character in text)
    if digits and letters:
        return True
    upper = sum(character.isupper() for character in text)
    return letters >= 20 and 3 <= upper <= letters - 3 and " " not in text


def _is_strong(text: str, least: int) -> bool:
    """Random beyond a word with a number behind it, as `sha256` or `python3` is; and no date."""
    if not _looks_random(text, least) or _MOMENT.match(text) or _VERSIONED.fullmatch(text):
        return False
    return sum(map(str.isdigit, text)) >= 2 or (sum(map(str.isupper, text)) >= 3 and text.isalnum())


def _is_identifier(text: str, found: Found) -> bool:
    """`sha256`, `user1.password2`: a name in code, which has digits too."""
    is_code = "=" in found.joint and found.after in (",", ")", ".")
    return is_code and sum(map(str.isdigit, text)) < 3 and text.islower() and bool(_IDENTIFIER.fullmatch(text))


# -- card numbers

# First digits and lengths, by brand (ISO/IEC 7812); what a brand does not issue is not looked for.
_BRANDS = (
    (re.compile(r"4"), (16,)),
    (re.compile(r"5[1-5]|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720)"), (16,)),
    (re.compile(r"3[47]"), (15,)),
    (re.compile(r"6(?:011|4[4-9]|5)"), (16,)),
    (re.compile(r"3(?:0[0-5]|095|[68])"), (14, 16)),
    (re.compile(r"35(?:2[89]|[3-8])"), (16,)),
    (re.compile(r"62"), (16, 17, 18, 19)),  # UnionPay
    (re.compile(r"5018|5020|5038|5893|6304|6759|676[1-3]"), (12, 13, 14, 15, 16, 17, 18, 19)),  # Maestro
    (re.compile(r"220[0-4]|9792|60|65|81|82|508"), (16,)),  # Mir, Troy, RuPay
)
_GROUPS = re.compile(r"\d{4}([ \u00a0-])\d{4}\1\d{4}\1\d{4}(?:\1\d{3})?|\d{4}([ \u00a0-])\d{6}\2\d{4,5}|\d{12,19}")


def is_card(found: Found) -> bool:
    """Digits of a brand, in its length and usual groups, whose check digit fits (Luhn, ISO/IEC 7812-1 annex B)."""
    if found.before.endswith((".", "-", "_", "/")) or found.after in ("-", "_"):
        return False
    if not _GROUPS.fullmatch(found.secret):
        return False
    digits = "".join(filter(str.isdigit, found.secret))
    if len(set(digits)) < 2 or not any(p.match(digits) and len(digits) in lengths for p, lengths in _BRANDS):
        return False
    return luhn(digits)


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the others."""
    total = 0
    for position, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + position % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


# -- personal

_PHONE_DIGITS = (7, 15)
_IN_NUMBERS = re.compile(r"[-._/:=#]$|[0-9][ \t]+$")
_DATE = re.compile(r"\d{4}[-./]\d{1,2}[-./]\d{1,2}|\d{1,2}[-./]\d{1,2}[-./]\d{2,4}")


def is_email(found: Found) -> bool:
    """An address of a person or mailbox, not of a repository."""
    local = found.secret.partition("@")[0].lower()
    return local != "git" and not found.before.endswith("/") and not (found.before.endswith(":") and found.after == ":")


def is_phone(found: Found) -> bool:
    """As many digits as a number has (E.164), and no date."""
    digits = sum(character.isdigit() for character in found.secret)
    if not _PHONE_DIGITS[0] <= digits <= _PHONE_DIGITS[1] or _IN_NUMBERS.search(found.before):
        return found.secret.startswith("+") and _PHONE_DIGITS[0] <= digits <= _PHONE_DIGITS[1]
    if found.after in ("-", "_", ":") or _DATE.fullmatch(found.secret):
        return False
    has_mark = found.secret.startswith(("+", "(", "00")) or any(mark in found.secret for mark in " -./\u00a0")
    return has_mark and found.secret.count("(") == found.secret.count(")")


def is_told_phone(found: Found) -> bool:
    """A number where a word says that it is one's phone."""
    digits = sum(character.isdigit() for character in found.secret)
    is_number = all(character.isdigit() or character in "+-(). /\u00a0" for character in found.secret)
    return is_number and _PHONE_DIGITS[0] <= digits <= _PHONE_DIGITS[1] and not _DATE.fullmatch(found.secret)


CHECKS: Mapping[str, Check] = {
    check.__name__: check
    for check in (
        is_random,
        is_given,
        is_no_mask,
        is_header,
        is_cookie,
        is_told,
        is_basic_auth,
        is_assigned,
        is_named,
        is_in_query,
        is_card,
        is_email,
        is_phone,
        is_told_phone,
    )
}
