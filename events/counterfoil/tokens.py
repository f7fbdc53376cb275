"""What stands in a secret's place: `[kind:token]`, the token a keyed hash, so that equal secrets stay joinable.

The key is derived from the identity key and the tenant (HMAC as a KDF, NIST SP 800-108), so no two tenants' tokens can
be compared, and nobody without the key can test a guess, which for card numbers would be easy.
"""

import hashlib
import hmac
import re
from collections.abc import Iterator
from typing import NamedTuple

_PURPOSE = b"counterfoil token 1\x00"
_KEY_PURPOSE = b"counterfoil key id 1"
_TOKEN_BYTES = 8
_KEY_ID_BYTES = 4
LOOKALIKE_PATTERN = r"\[[a-z][a-z0-9_]{0,39}:[0-9a-f]{16}\]"
_TOKEN = re.compile(LOOKALIKE_PATTERN)


class Shown(NamedTuple):
    """A token in a text: where it begins and ends, the kind beside it, and its 16 hex digits."""

    start: int
    end: int
    kind: str
    token: str


def key_id(identity_key: bytes) -> str:
    """8 hex digits that tell identity keys apart: tokens of one mean nothing beside those of another."""
    return hmac.digest(identity_key, _KEY_PURPOSE, hashlib.sha256)[:_KEY_ID_BYTES].hex()


def stamped(label: str | None, identity_key: bytes) -> str | None:
    """What every event bears: a policy's label and the id of the key of its tokens, `label/key_id`."""
    return None if label is None else f"{label}/{key_id(identity_key)}"


def key_id_of(stamp: str) -> str:
    """The key's id in what an event bears."""
    return stamp.rpartition("/")[2]


class Tokens:
    """Makes the tokens of one tenant."""

    def __init__(self, identity_key: bytes, tenant: str) -> None:
        self._key = hmac.digest(identity_key, _PURPOSE + tenant.encode(), hashlib.sha256)

    def of(self, secret: bytes) -> str:
        """16 hex digits: the first 8 bytes of HMAC-SHA-256 over the secret as UTF-8."""
        return hmac.digest(self._key, secret, hashlib.sha256)[:_TOKEN_BYTES].hex()

    def shown(self, kind: str, secret: bytes) -> str:
        """`[kind:token]`."""
        return f"[{kind}:{self.of(secret)}]"


def tokens_in(text: str) -> Iterator[Shown]:
    """What looks like a token in a text."""
    for match in _TOKEN.finditer(text):
        kind, _, token = match[0][1:-1].partition(":")
        yield Shown(match.start(), match.end(), kind, token)
