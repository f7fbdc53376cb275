"""Tokens by which a tenant's programs are let in over HTTP: `cft_<id>_<secret>`, in hex.

The store has SHA-256 of the secret alone. A plain hash is enough for 256 random bits: nobody can guess them.
"""

import datetime as dt
import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from typing import Any

from counterfoil_consumers.store import Connection, queries

_TEXT = re.compile(r"cft_([0-9a-f]{16})_([0-9a-f]{64})")
_NOBODY = bytes(32)


@dataclass(frozen=True)
class Caller:
    """Who was let in."""

    token_id: str
    tenant: str
    role: str


def create(store: Connection, tenant: str, lasts: dt.timedelta, by: str) -> tuple[str, dict[str, Any]] | None:
    """A new token's text, which can't be had again, and its row; None where there is no such tenant."""
    token_id, secret = secrets.token_hex(8), secrets.token_hex(32)
    params = {"token_id": token_id, "tenant": tenant, "secret_sha256": _digest(secret), "lasts": lasts, "by": by}
    row = store.execute(queries("http")["add_token"], params).fetchone()
    return None if row is None else (f"cft_{token_id}_{secret}", row)


def caller_of(store: Connection, text: str) -> Caller | None:
    """Whose token this is; None where it is none, or no longer one. The secret is compared in constant time."""
    found = _TEXT.fullmatch(text)
    if found is None:
        return None
    row = store.execute(queries("http")["find_token"], {"token_id": found[1]}).fetchone()
    kept = _NOBODY if row is None else bytes(row["secret_sha256"])
    if not hmac.compare_digest(_digest(found[2]), kept) or row is None or not row["is_valid"]:
        return None
    if row["is_long_unused"]:
        store.execute(queries("http")["use_token"], {"token_id": found[1]})
    return Caller(found[1], row["tenant"], row["role"])


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
