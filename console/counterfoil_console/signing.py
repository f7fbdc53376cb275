"""Whether what this process signs with is what the store takes, as far as an operator may know: by fingerprints."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from counterfoil.signing import VARIABLE, SigningKey, SigningKeys


class KeyFinding(NamedTuple):
    """What was found of one key, or of one that is missing, and what to do about it."""

    grade: Literal["good", "warning", "bad"]
    what: str
    todo: str = ""


def examine_keys(keys: SigningKeys, stored: Sequence[Mapping[str, Any]], tenant: str | None) -> Iterator[KeyFinding]:
    """Hold this process's keys against the rows of `list_tenant_keys`; `tenant` is the one that it records for."""
    for key in keys:
        yield _examine(key, stored)
    needed = [row for row in stored if row["tenant"] == tenant]
    if tenant is not None and needed and keys.signer(tenant) is None:
        first = min(needed, key=lambda row: row["valid_from"])
        is_due = first["valid_from"] <= first["read_at"]
        when = "must be signed" if is_due else f"must be signed from {first['valid_from']:%Y-%m-%d %H:%M} on"
        yield KeyFinding(
            "bad" if is_due else "warning", f"records of {tenant} {when}, and there is no key for it", f"set {VARIABLE}"
        )
    elif not list(keys):
        yield KeyFinding("good", "no key is set, and none is needed here")


def _examine(key: SigningKey, stored: Sequence[Mapping[str, Any]]) -> KeyFinding:
    name = f"the key {key.key_id} of {key.tenant}"
    todo = f"set {VARIABLE} to what `counterfoil tenant rotate {key.tenant}` prints"
    row = next((row for row in stored if (row["tenant"], row["key_id"]) == (key.tenant, key.key_id)), None)
    if row is None:
        return KeyFinding("bad", f"{name} is not one of the store's", todo)
    if bytes(row["fingerprint"]) != hashlib.sha256(key.secret).digest():
        return KeyFinding("bad", f"{name} is not as the store has it", todo)
    if row["retired_at"] is None:
        return KeyFinding("good", f"{name} is taken by the store")
    until = f"{row['retired_at']:%Y-%m-%d %H:%M} UTC"
    if row["retired_at"] <= row["read_at"]:
        return KeyFinding("bad", f"{name} was retired at {until}: what it signs is foreign", todo)
    return KeyFinding("warning", f"{name} is taken until {until} only", f"set {VARIABLE} to the newer one")
