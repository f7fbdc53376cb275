"""Tokens: shown once, kept as a hash, listed and revoked."""

import datetime as dt
import hashlib
import re

import pytest

from counterfoil_consumers.store import Connection, fetch_one, queries

from .conftest import Call


def test_a_token_is_shown_once_and_kept_as_a_hash(call: Call, operator: Connection) -> None:
    assert call("tenant", "add", "acme").code == 0
    said = call("token", "create", "--tenant", "acme", "--expires", "12h", "--by", "dana")
    assert said.code == 0
    text = said.out.strip()
    found = re.fullmatch(r"cft_([0-9a-f]{16})_([0-9a-f]{64})", text)
    assert found is not None
    assert text not in said.err
    assert "this once" in said.err
    row = fetch_one(operator, queries("http")["find_token"], {"token_id": found[1]})
    assert bytes(row["secret_sha256"]) == hashlib.sha256(found[2].encode()).digest()
    [listed] = call("token", "list", "--json").json
    assert (listed["token_id"], listed["tenant"], listed["role"], listed["created_by"]) == (
        found[1], "acme", "agent", "dana",
    )  # fmt: skip
    lasts = dt.datetime.fromisoformat(listed["expires_at"]) - dt.datetime.fromisoformat(listed["created_at"])
    assert lasts == dt.timedelta(hours=12)
    assert listed["last_used_at"] is None
    shown = call("token", "list").out
    assert shown.startswith(f"{found[1]}  acme  valid, until 20")
    assert "never used, made by dana" in shown
    assert found[2] not in shown + str(listed)
    assert call("token", "list", "--tenant", "globex").out == ""


def test_two_tokens_are_two(call: Call) -> None:
    call("tenant", "add", "acme")
    made = [call("token", "create", "--tenant", "acme", "--json").json for _ in range(2)]
    assert len({one["token"] for one in made}) == len({one["token_id"] for one in made}) == 2


def test_a_revoked_token_stays_revoked_since_then(call: Call) -> None:
    call("tenant", "add", "acme")
    token_id = call("token", "create", "--tenant", "acme").out.split("_")[1]
    first = call("token", "revoke", token_id).out
    assert first.startswith(f"token {token_id} of acme is revoked since 20")
    assert call("token", "revoke", token_id).out == first
    assert f"{token_id}  acme  revoked" in call("token", "list").out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("create", "--tenant", "nobody"), "there is no tenant 'nobody'"),
        (("create", "--tenant", "acme", "--expires", "soon"), "'soon' is no length of time"),
        (("create", "--tenant", "acme", "--expires", "0d"), "a token lasts from 1s"),
        (("create", "--tenant", "acme", "--expires", "999999d"), "a token lasts from 1s"),
        (("revoke", "0123456789abcdef"), "there is no token '0123456789abcdef'"),
    ],
)
def test_mistakes_are_told(call: Call, arguments: tuple[str, ...], sentence: str) -> None:
    call("tenant", "add", "acme")
    assert sentence in call("token", *arguments).sentence
