"""Signatures: who holds a tenant's key says so of every value, and ingest believes nobody else in that tenant's name.

A header beside the value holds the key's id and HMAC-SHA-256 (RFC 2104) over the exact bytes. It is made once, where
the bytes are final, and stays with them through window, spool, outbox and heirs.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from counterfoil.errors import SettingsError
from counterfoil.folder import TenantOrigin
from counterfoil.ids import OPERATORS, is_tenant
from counterfoil.settings import RecorderSettings

HEADER = "counterfoil-signature"
VARIABLE = "COUNTERFOIL_SIGNING_KEYS"
_PREFIX = "cfsk"
_KEY_ID = re.compile(r"[a-z0-9]{4,40}")
_LEAST_BYTES = 32
_BLOCK_BYTES = 64  # of SHA-256
_INNER_PAD, _OUTER_PAD = (bytes(byte ^ pad for byte in range(256)) for pad in (0x36, 0x5C))
_BETWEEN_KEYS = re.compile(r"[\s,]+")


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A tenant's key: at least 32 random bytes, and the id that signatures name it by."""

    tenant: str
    key_id: str
    secret: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> "SigningKey":
        """The key in a text as `counterfoil tenant rotate` prints it.

        Raises ValueError, whose message quotes nothing secret.
        """
        prefix, *parts = text.split(".")
        if prefix != _PREFIX or len(parts) != 3:
            raise ValueError(f"it is not of the form {_PREFIX}.TENANT.ID.SECRET")
        tenant, key_id, encoded = parts
        if not (is_tenant(tenant) or tenant == OPERATORS) or not _KEY_ID.fullmatch(key_id):
            raise ValueError("its second part is no tenant's name, or its third no key's id")
        try:
            secret = base64.b64decode(encoded + "=" * (-len(encoded) % 4), b"-_", validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("its secret is not base64url, so a part of it is missing or wrong") from None
        if len(secret) < _LEAST_BYTES:
            raise ValueError(f"its secret has {len(secret)} bytes, and {_LEAST_BYTES} are the least")
        return cls(tenant, key_id, secret)

    def text(self) -> str:
        """The reverse of `parse`."""
        secret = base64.urlsafe_b64encode(self.secret).decode().rstrip("=")
        return f"{_PREFIX}.{self.tenant}.{self.key_id}.{secret}"


class Mac:
    """HMAC-SHA-256 under one key, both of its halves begun beforehand: `hmac.digest` takes twice as long.

    The same in every thread, and in a forked child.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, secret: bytes) -> None:
        key = hashlib.sha256(secret).digest() if len(secret) > _BLOCK_BYTES else secret
        padded = key.ljust(_BLOCK_BYTES, b"\x00")
        self._inner = hashlib.sha256(padded.translate(_INNER_PAD)).copy
        self._outer = hashlib.sha256(padded.translate(_OUTER_PAD)).copy

    def of(self, value: bytes) -> bytes:
        """The 44 characters of base64 that stand in a signature of `value`."""
        inner = self._inner()
        inner.update(value)
        outer = self._outer()
        outer.update(inner.digest())
        return binascii.b2a_base64(outer.digest(), newline=False)


class Signer:
    """Signs with one key."""

    __slots__ = ("_begin", "_mac")

    def __init__(self, key: SigningKey) -> None:
        self._begin = f"{key.key_id}:"
        self._mac = Mac(key.secret)

    def header(self, value: bytes) -> tuple[str, str]:
        """The Kafka header that goes with `value`."""
        return HEADER, self._begin + self._mac.of(value).decode()


class SigningKeys:
    """The keys of this process, at most one a tenant. That of the operators signs for every tenant without one here."""

    def __init__(self, keys: Iterable[SigningKey] = ()) -> None:
        self._keys = {key.tenant: key for key in keys}
        self._signers = {tenant: Signer(key) for tenant, key in self._keys.items()}

    def __iter__(self) -> Iterator[SigningKey]:
        return iter(self._keys.values())

    def signer(self, tenant: str) -> Signer | None:
        """What signs this tenant's values; None where this process has no key for it."""
        return self._signers.get(tenant) or self._signers.get(OPERATORS)

    def may_speak(self, spoken_to: TenantOrigin) -> bool:
        """Whether this process can go on speaking to a tenant for a producer: not unsigned, where that one signed."""
        return not spoken_to.is_signed or self.signer(spoken_to.tenant) is not None


NO_KEYS = SigningKeys()


def signing_keys_of(settings: RecorderSettings) -> SigningKeys:
    """The keys that are set.

    Raises SettingsError when one can't be read, or a tenant has two.
    """
    given = "" if settings.signing_keys is None else settings.signing_keys.get_secret_value()
    found: dict[str, SigningKey] = {}
    for number, text in enumerate(filter(None, _BETWEEN_KEYS.split(given)), 1):
        try:
            key = SigningKey.parse(text)
        except ValueError as error:
            raise SettingsError(
                f"key {number} of {VARIABLE} can't be read: {error}; set it as `counterfoil tenant rotate` printed it"
            ) from None
        if key.tenant in found:
            raise SettingsError(
                f"{VARIABLE} holds two keys of {key.tenant}, {found[key.tenant].key_id} and {key.key_id}; "
                "leave the newer one"
            )
        found[key.tenant] = key
    return SigningKeys(found.values())
