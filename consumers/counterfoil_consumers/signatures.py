"""Whether a record is of whom it says: its signature, checked before anything else of it is believed.

Which keys count is decided by the brokers' time of the record, so that whoever reads it, whenever, decides the same.
What the store is told of keys takes effect a minute later or more; they are read again before a record is judged that
was appended half a minute or more after the last reading. So it is exact while no broker's clock is a minute ahead.
"""

import datetime as dt
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from hmac import compare_digest
from typing import Any

from counterfoil.ids import OPERATORS
from counterfoil.signing import HEADER, Mac
from counterfoil_consumers.errors import BadRecord
from counterfoil_consumers.records import Record

_HORIZON_MILLIS = 30_000
_MAC_CHARACTERS = 44
_NEVER = 2**63
_OPERATORS = OPERATORS.encode()


@dataclass(frozen=True, slots=True)
class _Key:
    """One key; records appended at or past `retired_at` (milliseconds) are not signed with it."""

    mac: Mac
    retired_at: int


@dataclass(slots=True)
class _Tenant:
    """The keys that sign for a tenant by their ids, and from when (milliseconds) its records must be signed."""

    required_from: int
    keys: dict[bytes, _Key]


@dataclass(frozen=True, slots=True)
class TenantKeys:
    """The keys of all tenants, as they were at `read_at`: milliseconds by the store's clock."""

    read_at: int
    tenants: Mapping[bytes, _Tenant]

    @classmethod
    def of_rows(cls, rows: Iterable[Mapping[str, Any]]) -> "TenantKeys":
        """From the rows of `find_tenant_keys`, of which there is always one. The operators' keys sign for everyone."""
        tenants: dict[bytes, _Tenant] = {}
        read_at = 0
        for row in rows:
            read_at = row["read_at"]
            if row["tenant"] is None:
                continue
            tenant = tenants.setdefault(row["tenant"].encode(), _Tenant(row["valid_from"], {}))
            tenant.required_from = min(tenant.required_from, row["valid_from"])
            retired_at = _NEVER if row["retired_at"] is None else row["retired_at"]
            tenant.keys[row["key_id"].encode()] = _Key(Mac(bytes(row["key"])), retired_at)
        if _OPERATORS in tenants:
            for tenant in tenants.values():
                tenant.keys = tenants[_OPERATORS].keys | tenant.keys
        return cls(read_at, tenants)


class Signatures:
    """Checks the signatures of records. Not to be shared by threads.

    `read` reads the keys; it is called at once, and then at most once a batch, whatever the records hold.
    """

    def __init__(self, read: Callable[[], TenantKeys]) -> None:
        self._read = read
        self.read_again()

    def read_again(self) -> None:
        """Read the keys now; what was appended before is then judged by all that were made before."""
        keys = self._read()
        self._tenants = keys.tenants
        self._known_until = keys.read_at + _HORIZON_MILLIS
        self._is_fresh = True

    def begin_batch(self) -> None:
        """Other records come, which may be signed with keys made since."""
        self._is_fresh = False

    def check(self, record: Record) -> None:
        """Nothing, if the record is signed as its tenant's must be at its time, or need not be signed.

        The tenant is that of the record's key; that the envelope names the same one is for the reader to check. Raises
        BadRecord, class foreign, and what reading keys raises.
        """
        _, _, _, appended_at, key, value, headers = record
        if appended_at >= self._known_until and not self._is_fresh:
            self.read_again()
        name = (key or b"").partition(b"/")[0]
        tenant = self._tenants.get(name)
        if tenant is None or appended_at < tenant.required_from:
            return
        signature = None
        for header, content in headers:
            if header == HEADER:
                if signature is not None:
                    raise _foreign(record, "it has more than one signature")
                signature = content or b""
        if signature is None:
            raise _foreign(record, f"it is not signed, and its tenant's are from {_moment(tenant.required_from)} on")
        key_id, _, mac = signature.partition(b":")
        found = tenant.keys.get(key_id)
        if found is None and not self._is_fresh:
            self.read_again()
            found = self._tenants[name].keys.get(key_id)
        if found is None or appended_at >= found.retired_at or not compare_digest(found.mac.of(value or b""), mac):
            raise _foreign(record, _complaint(key_id, mac, found, appended_at))


def _complaint(key_id: bytes, mac: bytes, found: _Key | None, appended_at: int) -> str:
    shown = repr(key_id[:40].decode("utf-8", "replace"))
    if len(mac) != _MAC_CHARACTERS:
        return f"its signature is not a key's id, a colon and {_MAC_CHARACTERS} characters"
    if found is None:
        return f"its signature names the key {shown}, which is none of its tenant's"
    if appended_at >= found.retired_at:
        return f"its signature's key {shown} was retired at {_moment(found.retired_at)}"
    return f"its signature with the key {shown} is not of this value"


def _foreign(record: Record, what: str) -> BadRecord:
    return BadRecord(f"the record, appended at {_moment(record.appended_at)}, is foreign: {what}", "foreign")


def _moment(millis: int) -> str:
    try:
        return f"{dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(milliseconds=millis):%Y-%m-%d %H:%M:%S.%f}"[:-3]
    except OverflowError:
        return f"{millis} ms"
