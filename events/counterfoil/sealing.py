"""Values that are encrypted instead of dropped: AES-256-GCM under the tenant's key (NIST SP 800-38D), its id beside.

A key is a file `TENANT.NAME` in the key directory, 32 bytes in base64. Its name is the key's id; files whose names are
none, as those of copies, are no keys. The last name in the order of texts seals; all of them open.
"""

import base64
import binascii
import json
import os
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from counterfoil.documents import json_text
from counterfoil.errors import SealedAway, SettingsError
from counterfoil.ids import is_tenant
from counterfoil.tokens import Tokens

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_SEALED = "$sealed"
_PURPOSE = "counterfoil sealed 1"
_KEY_BYTES = 32
_NONCE_BYTES = 12
_VARIABLE = "COUNTERFOIL_KEY_DIRECTORY"
_KEY_ID = re.compile(r"(?P<tenant>[^.]+)\.(?P<name>[A-Za-z0-9][A-Za-z0-9_-]{0,39})")


class Sealed(NamedTuple):
    """What stands for a sealed value: the key's id, nonce and ciphertext, and the value's token."""

    key_id: str
    content: bytes
    token: str


class SealedIn(NamedTuple):
    """Where a value was sealed, for nowhere else it is opened: a field of an event's body, and the tool, or no text."""

    tenant: str
    kind: str
    tool: str
    field: str


class KeyRing:
    """The keys of all tenants. Read when they are first asked for; a new file is seen by a new process."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory
        self._ciphers: dict[str, AESGCM] = {}
        self._newest: dict[str, str] = {}

    def sealing_key(self, tenant: str) -> str:
        """The id of the key that seals this tenant's values.

        Raises SettingsError when there is none.
        """
        if tenant not in self._newest:
            ids = self.key_ids(tenant)
            if not ids:
                where = (
                    f"{self._directory} holds no key {tenant}.NAME" if self._directory else f"{_VARIABLE} is not set"
                )
                raise SettingsError(
                    f"the redaction policy seals values, and tenant {tenant} has no key: {where}; make one with "
                    f"`counterfoil key new --tenant {tenant}`"
                )
            self._cipher(ids[-1])
            self._newest[tenant] = ids[-1]
        return self._newest[tenant]

    def key_ids(self, tenant: str | None = None) -> list[str]:
        """The ids of a tenant's keys, or of all; in order.

        Raises SettingsError when the directory can't be read.
        """
        if self._directory is None:
            return []
        try:
            names = sorted(path.name for path in self._directory.iterdir() if path.is_file())
        except OSError as error:
            raise SettingsError(f"{_VARIABLE}={self._directory} can't be read: {error.strerror}") from error
        return [name for name in names if is_key_id(name) and tenant in (None, name.partition(".")[0])]

    def seal(self, value: Any, tokens: Tokens, where: SealedIn) -> dict[str, Any]:
        """A JSON value encrypted, as the object that stands in its place.

        Raises SettingsError when the tenant has no key.
        """
        key_id = self.sealing_key(where.tenant)
        token = tokens.of(text_of(value).encode("utf-8", "surrogatepass"))
        nonce = secrets.token_bytes(_NONCE_BYTES)
        written = json_text(value).encode("utf-8", "surrogatepass")
        content = nonce + self._cipher(key_id).encrypt(nonce, written, _bound_to(where, key_id, token))
        return {_SEALED: {"key_id": key_id, "content": base64.b64encode(content).decode(), "token": token}}

    def open(self, sealed: Sealed, where: SealedIn) -> Any:
        """The JSON value.

        Raises SealedAway when its key is not at hand, or the seal was broken, or was made in another place.
        """
        key_id = sealed.key_id
        if not self._has(where.tenant, key_id):
            raise SealedAway(f"the key {key_id} of tenant {where.tenant} is not in {_VARIABLE}")
        from cryptography.exceptions import InvalidTag  # noqa: PLC0415  # of an extra

        nonce, content = sealed.content[:_NONCE_BYTES], sealed.content[_NONCE_BYTES:]
        try:
            written = self._cipher(key_id).decrypt(nonce, content, _bound_to(where, key_id, sealed.token))
            return json.loads(written.decode("utf-8", "surrogatepass"))
        except SettingsError as error:
            raise SealedAway(str(error)) from error
        except (InvalidTag, ValueError) as error:
            raise SealedAway(f"a value sealed with {key_id} was altered, or was sealed in another place") from error

    def _has(self, tenant: str, key_id: str) -> bool:
        try:
            return key_id.partition(".")[0] == tenant and (key_id in self._ciphers or key_id in self.key_ids(tenant))
        except SettingsError as error:
            raise SealedAway(str(error)) from error

    def _cipher(self, key_id: str) -> "AESGCM":
        if key_id not in self._ciphers:
            assert self._directory is not None  # noqa: S101  # the id is of a file in it
            path = self._directory / key_id
            try:
                key = base64.b64decode(path.read_bytes().strip(), validate=True)
            except (OSError, binascii.Error, ValueError) as error:
                raise SettingsError(f"the key {path} can't be read: {error}") from error
            if len(key) != _KEY_BYTES:
                raise SettingsError(f"the key {path} has {len(key)} bytes, and {_KEY_BYTES} in base64 are needed")
            self._ciphers[key_id] = _aes_gcm(key)
        return self._ciphers[key_id]


def write_new_key(directory: Path, tenant: str, name: str) -> Path:
    """A new random key, in a file that only its owner may read.

    Raises SettingsError when it can't be written, or is there already.
    """
    path = directory / f"{tenant}.{name}"
    unfinished = directory / f".{secrets.token_hex(8)}"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(base64.b64encode(secrets.token_bytes(_KEY_BYTES)) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        path.hardlink_to(unfinished)  # whole, and never over another one
    except OSError as error:
        raise SettingsError(f"the key {path} can't be written: {error.strerror}") from error
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def is_key_id(name: str) -> bool:
    """Whether `name` is `TENANT.NAME`, where NAME is at most 40 letters, digits, `-` and `_`."""
    match = _KEY_ID.fullmatch(name)
    return match is not None and is_tenant(match["tenant"])


def sealed_in(value: Any) -> Sealed | None:
    """What is sealed in this place of a JSON document; None for any other value."""
    found = value.get(_SEALED) if isinstance(value, Mapping) and len(value) == 1 else None
    try:
        content = base64.b64decode(found["content"], validate=True)  # type: ignore[index]  # tried
        return Sealed(str(found["key_id"]), content, str(found["token"]))  # type: ignore[index]  # tried
    except (TypeError, KeyError, ValueError, binascii.Error):
        return None


def text_of(value: Any) -> str:
    """What a token is made of: a text itself, any other JSON value as compact JSON."""
    return value if isinstance(value, str) else json_text(value)


def require_cipher() -> None:
    """Raise SettingsError where the library is not installed."""
    _aes_gcm(bytes(_KEY_BYTES))


def _aes_gcm(key: bytes) -> "AESGCM":
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415  # of an extra
    except ImportError as error:
        raise SettingsError("sealed values need the extra redaction: pip install 'counterfoil[redaction]'") from error
    return AESGCM(key)


def _bound_to(where: SealedIn, key_id: str, token: str) -> bytes:
    return json.dumps([_PURPOSE, *where, key_id, token]).encode()
