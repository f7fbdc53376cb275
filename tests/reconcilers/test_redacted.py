"""Writes whose arguments were redacted: still held against the target, and nothing is said of what was taken out."""

import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from counterfoil import Effect, Recorder, RecorderSettings
from counterfoil.codec import decode
from counterfoil.errors import SealedAway
from counterfoil.redaction import Redaction
from counterfoil.redaction_policy import RedactionPolicy
from counterfoil.sealing import SealedIn, write_new_key
from counterfoil_reconcilers.contracts import Contracts
from counterfoil_reconcilers.disclosure import NotRecoverable, original_args
from tests.fix_shop import EXCLUSIVE, NOBODY, Shop, body

MAIL, OTHER_MAIL = "ann@example.com", "eve@example.org"
PHONE, CARD = "+49 30 1234567", "4111 1111 1111 1111"
POLICY: dict[str, Any] = {
    "personal": ["email", "phone"],
    "fields": [
        {"path": "$.args.pin", "kind": "pin"},
        {"path": "$.args.secret_note", "kind": "note"},
        {"path": "$.args.account", "do": "seal"},
        {"path": "$.args.profile", "do": "seal"},
    ],
}
TABLE = """
CREATE TABLE shop.customers (
    id text PRIMARY KEY, merchant text NOT NULL DEFAULT 'acme', email text, note text, pin numeric, account text,
    profile jsonb, log jsonb NOT NULL DEFAULT '[]', by text NOT NULL DEFAULT 'agent');
INSERT INTO shop.customers (id, email, note, pin, account) VALUES
    ('C-1', 'old@example.com', 'call +49 30 7654321', 1111, 'DE00-1'), ('C-2', 'two@example.com', '', 2222, 'DE00-2');
CREATE TABLE shop.mailboxes (email text PRIMARY KEY, merchant text NOT NULL DEFAULT 'acme', note text);
INSERT INTO shop.mailboxes (email) VALUES ('two@example.com');
"""
CONTRACTS = """
version = "7"
[targets.shop]
kind = "postgresql"
%(writers)s
settle_seconds = %(settle)s
[targets.shop.resources.customers]
table = "shop.customers"
key = ["id"]
tenant = "merchant"
fields.by = { ignore = true }
fields.note = { ignore_case = true }
fields.account = { redact = true }
[targets.shop.resources.mailboxes]
table = "shop.mailboxes"
key = ["email"]
tenant = "merchant"

[tools.update]
target = "shop"
[[tools.update.writes]]
resource = "customers"
key = { id = "args.id" }
set.email = "args.email"
[tools.lower]
target = "shop"
[[tools.lower.writes]]
resource = "customers"
key = { id = "args.id" }
set.email = "args.email.lowerAscii()"
[tools.annotate]
target = "shop"
[[tools.annotate.writes]]
resource = "customers"
key = { id = "args.id" }
set.note = "args.note"
[tools.pin]
target = "shop"
[[tools.pin.writes]]
resource = "customers"
key = { id = "args.id" }
set.pin = "args.pin"
[tools.sealed]
target = "shop"
[[tools.sealed.writes]]
resource = "customers"
key = { id = "args.id" }
set.account = "args.account"
set.profile = "args.profile"
append.log = "'set ' + args.account"
[tools.create]
target = "shop"
[[tools.create.writes]]
resource = "customers"
create = true
key = { id = "args.id" }
set.email = "args.email"
set.pin = "args.pin"
[tools.by_mail]
target = "shop"
[[tools.by_mail.writes]]
resource = "mailboxes"
key = { email = "args.email" }
set.note = "args.text"
"""
SEALED_IN = SealedIn("acme", "tool_intent", "sealed", "args")
SECRETS = (MAIL, OTHER_MAIL, "old@example.com", PHONE, "7654321", CARD, "DE00-1", "DE11-9", "Ann Onym", "98761234")


@pytest.fixture
def settings(recorder_settings: RecorderSettings, tmp_path: Path) -> RecorderSettings:
    write_new_key(tmp_path / "keys", "acme", "2026-01")
    return recorder_settings.model_copy(
        update={"redaction": RedactionPolicy(**POLICY), "key_directory": tmp_path / "keys"}
    )


@pytest.fixture
def shop(shop: Shop, settings: RecorderSettings) -> Shop:
    """The shop with customers, its agents under a policy that takes much out."""
    shop.recorder.close()
    shop.recorder = Recorder(settings)
    shop.settings = type(shop.settings)(**(vars(shop.settings) | {"redaction": Redaction(settings)}))
    shop.target.execute(TABLE)
    return shop


@pytest.fixture(params=[EXCLUSIVE, NOBODY], ids=["swept", "by key"])
def contracts(shop: Shop, request: pytest.FixtureRequest) -> Contracts:
    found: Contracts = shop.contracts(request.param, text=CONTRACTS)
    return found


def judged(shop: Shop, contracts: Contracts, tool: str, landing: str, **args: Any) -> dict[str, Any]:
    """The verdict on one write, whose landing is given as SQL; no secret is in what was recorded or said of it."""
    reconciler = shop.reconciler(contracts)
    shop.step(reconciler)
    effect = shop.begin(tool, **args)
    if landing:
        shop.target.execute(landing.encode())
    effect.ok({"done": True})
    shop.settle(reconciler)
    stored = shop.operator.execute("SELECT value, body::text AS body FROM counterfoil.event").fetchall()
    assert any(event.kind == "verdict" for event in map(_decoded, stored))
    for row in stored:
        for secret in SECRETS:
            assert secret.encode() not in bytes(row["value"]), (secret, row["body"])
    state = dict(shop.state(_uuid(effect)))
    changes = [change for change, _ in shop.changes()]
    return {"verdict": state["verdict"], "drift": state["drift"], "reason": state["verdict_reason"], "changes": changes,
            "evidence": state["evidence"]}  # fmt: skip


def _decoded(row: Any) -> Any:
    return decode(bytes(row["value"]))


def _uuid(effect: Effect) -> Any:
    return uuid.UUID(bytes=effect.effect_id)


WHOLE = {"name": "Ann Onym", "pin": 98761234}
SEALED = {"account": "DE11-9", "profile": WHOLE}
PROFILE = f"account = 'DE11-9', profile = '{json.dumps(WHOLE)}'"
CASES: list[tuple[str, dict[str, Any], str, str]] = [
    ("update", {"email": MAIL}, f"email = '{MAIL}'", "applied"),
    ("update", {"email": MAIL}, "", "not_applied"),
    ("update", {"email": MAIL}, f"email = '{OTHER_MAIL}'", "mismatched"),
    ("annotate", {"note": f"call {PHONE}!"}, f"note = 'call {PHONE}!'", "applied"),
    ("pin", {"pin": 98761234}, "pin = 98761234", "applied"),
    ("pin", {"pin": "98761234.00"}, "pin = 98761234", "applied"),
    ("lower", {"email": MAIL}, f"email = '{MAIL}'", "applied"),
    ("sealed", SEALED, f"{PROFILE}, log = '[\"set DE11-9\"]'", "applied"),
    ("sealed", SEALED, "", "not_applied"),
    ("sealed", SEALED, PROFILE, "partial"),
]


@pytest.mark.parametrize(("tool", "args", "landing", "verdict"), CASES)
def test_a_redacted_write_is_judged(shop: Shop, tool: str, args: dict[str, Any], landing: str, verdict: str) -> None:
    sql = landing and f"UPDATE shop.customers SET {landing} WHERE id = 'C-1'"
    found = judged(shop, shop.contracts(EXCLUSIVE, text=CONTRACTS), tool, sql, id="C-1", **args)
    assert found["verdict"] == verdict, found
    assert found["drift"] == (verdict != "applied")
    assert found["changes"] == []


def test_what_can_not_be_told_is_never_drift(shop: Shop, contracts: Contracts) -> None:
    """A number that was redacted, under no value that is read: it may be the same in another form, or not."""
    found = judged(shop, contracts, "pin", "", id="C-1", pin=98761234)
    assert (found["verdict"], found["drift"]) == ("unknowable", False), found
    assert "redacted" in found["reason"]


def test_nor_is_what_is_calculated_from_it(shop: Shop, contracts: Contracts) -> None:
    found = judged(shop, contracts, "lower", "", id="C-1", email=MAIL)
    assert (found["verdict"], found["drift"]) == ("unknowable", False), found
    assert "calculates with a redacted value" in found["reason"]


def test_nor_is_what_a_looser_rule_might_take_for_the_same(shop: Shop, contracts: Contracts) -> None:
    found = judged(shop, contracts, "annotate", "", id="C-1", note=f"call {PHONE}")
    assert (found["verdict"], found["drift"]) == ("unknowable", False), found


def test_a_created_row(shop: Shop, contracts: Contracts) -> None:
    landing = f"INSERT INTO shop.customers (id, email, pin) VALUES ('C-9', '{MAIL}', 98761234)"
    found = judged(shop, contracts, "create", landing, id="C-9", email=MAIL, pin=98761234)
    assert (found["verdict"], found["changes"]) == ("applied", []), found


def test_a_created_row_that_is_not_there(shop: Shop, contracts: Contracts) -> None:
    assert judged(shop, contracts, "create", "", id="C-9", email=MAIL, pin=98761234)["verdict"] == "not_applied"


def test_a_row_named_by_what_was_redacted(shop: Shop) -> None:
    """Where all rows are read, it is found among them; where rows are asked for by key, it can't be asked for."""
    landing = "UPDATE shop.mailboxes SET note = 'hello' WHERE email = 'two@example.com'"
    contracts = shop.contracts(EXCLUSIVE, text=CONTRACTS)
    swept = judged(shop, contracts, "by_mail", landing, email="two@example.com", text="hello")
    assert (swept["verdict"], swept["drift"]) == ("applied", False), swept


def test_a_row_named_by_what_was_redacted_is_found_in_each_sweep_once_one_was_told_of_it(shop: Shop) -> None:
    """Sweeps that read what changed look again at what an open effect explains, or it could be told of it but once."""
    shop.target.execute("CREATE TABLE shop.mailbox_changes (seq bigint, email text, merchant text)")
    shop.target.execute("INSERT INTO shop.mailboxes VALUES ('three@example.com')")
    shop.target.execute("INSERT INTO shop.mailbox_changes VALUES (1, 'one@example.com', 'acme')")
    told = 'table = "shop.mailboxes"\nchanges = { table = "shop.mailbox_changes", column = "seq", late_seconds = 0 }'
    contracts = shop.contracts(EXCLUSIVE, settle=5, text=CONTRACTS.replace('table = "shop.mailboxes"', told))
    reconciler = shop.reconciler(contracts)
    shop.step(reconciler)
    effect = shop.begin("by_mail", email="three@example.com", text="hello")
    shop.target.execute("UPDATE shop.mailboxes SET note = 'hello' WHERE email = 'three@example.com'")
    shop.target.execute("INSERT INTO shop.mailbox_changes VALUES (2, 'three@example.com', 'acme')")
    effect.ok({"done": True})
    shop.step(reconciler)
    shop.target.execute("INSERT INTO shop.mailbox_changes VALUES (3, 'one@example.com', 'acme')")
    shop.step(reconciler)  # from now on sweeps begin behind it
    shop.settle(reconciler)
    assert (shop.verdicts(_uuid(effect)), shop.changes()) == (["applied"], [])


def test_a_row_that_can_not_be_asked_for(shop: Shop) -> None:
    contracts = shop.contracts(NOBODY, text=CONTRACTS)
    by_key = judged(shop, contracts, "by_mail", "", email="two@example.com", text="hello")
    assert (by_key["verdict"], by_key["drift"]) == ("unknowable", False), by_key
    assert "named by a redacted value" in by_key["reason"]


def test_without_the_key_a_seal_is_compared_by_its_token(
    shop: Shop, settings: RecorderSettings, tmp_path: Path
) -> None:
    policy = RedactionPolicy(personal=["email", "phone"])
    keyless = settings.model_copy(update={"key_directory": tmp_path, "redaction": policy})
    shop.settings = type(shop.settings)(**(vars(shop.settings) | {"redaction": Redaction(keyless)}))
    text = CONTRACTS.replace("append.log = \"'set ' + args.account\"\n", "")
    contracts = shop.contracts(EXCLUSIVE, text=text)
    landing = "UPDATE shop.customers SET account = 'DE11-9', profile = '\"Ann Onym\"' WHERE id = 'C-1'"
    found = judged(shop, contracts, "sealed", landing, id="C-1", account="DE11-9", profile="Ann Onym")
    assert found["verdict"] == "applied", found


def test_evidence_shows_both_sides_as_tokens(shop: Shop, settings: RecorderSettings) -> None:
    landing = f"UPDATE shop.customers SET email = '{OTHER_MAIL}' WHERE id = 'C-1'"
    found = judged(shop, shop.contracts(EXCLUSIVE, text=CONTRACTS), "update", landing, id="C-1", email=MAIL)
    [part] = found["evidence"]["parts"]
    tokens = Redaction(settings).tokens_of("acme")
    assert part["expected"] == tokens.shown("email", MAIL.encode())
    assert part["observed"] == tokens.shown("email", OTHER_MAIL.encode())
    assert part["before"] == tokens.shown("email", b"old@example.com")


def test_a_change_that_nobody_said_shows_as_tokens(shop: Shop) -> None:
    reconciler = shop.reconciler(shop.contracts(EXCLUSIVE, text=CONTRACTS))
    shop.step(reconciler)
    changed = f"UPDATE shop.customers SET email = '{MAIL}', note = 'pay {CARD}', account = 'DE11-9' WHERE id = 'C-2'"
    shop.target.execute(changed.encode())
    shop.settle(reconciler)
    [said] = [body(event) for event in shop.said() if event.effect_id is None]
    assert said["verdict"] == "unattributed"
    assert "[email:" in said["evidence"]
    assert "pay [card:" in said["evidence"]
    assert said["evidence"].count("[account:") == 2
    for secret in SECRETS:
        assert secret not in json.dumps(dict(said), default=str)


def test_an_effect_with_a_sealed_field_is_redriven(shop: Shop, settings: RecorderSettings) -> None:
    """What the log holds is enough to do it again, with the same key; nothing but the key ring is asked."""
    reconciler = shop.reconciler(shop.contracts(EXCLUSIVE, text=CONTRACTS))
    shop.step(reconciler)
    profile = {"name": "Ann Onym", "pin": 98761234}
    lost = shop.begin("sealed", id="C-1", account="DE11-9", profile=profile)
    lost.unknown(TimeoutError("no answer"))
    shop.settle(reconciler)
    state = shop.state(_uuid(lost))
    assert (state["verdict"], state["given_up"]) == ("not_applied", 1)

    args = original_args(state["args"], Redaction(settings).keys, SEALED_IN, state["redaction"])
    assert args == {"id": "C-1", "account": "DE11-9", "profile": profile}
    with shop.recorder.task("work", task_ref="t-1") as task:
        again = task.effect("sealed", target="shop", args=args)
        assert again.effect_id == lost.effect_id
        with again:
            shop.target.execute(
                "UPDATE shop.customers SET account = %s, profile = %s, log = '[\"set DE11-9\"]' WHERE id = %s",
                (args["account"], json.dumps(args["profile"]), args["id"]),
            )
            again.ok()
        task.suspend("the test goes on")
    shop.settle(reconciler)
    assert shop.verdicts(_uuid(lost))[-1] == "applied"


def test_what_was_dropped_can_not_be_redriven(shop: Shop, settings: RecorderSettings, tmp_path: Path) -> None:
    shop.begin("sealed", id="C-1", account="DE11-9", profile=CARD, text=f"mail {MAIL}").ok()
    shop.recorder.flush()
    shop.ingest()
    [row] = shop.operator.execute("SELECT args, redaction FROM counterfoil.effect").fetchall()
    with pytest.raises(NotRecoverable, match=r"args\.text was redacted, not sealed"):
        original_args(row["args"], Redaction(settings).keys, SEALED_IN, row["redaction"])
    elsewhere = Redaction(settings.model_copy(update={"key_directory": tmp_path})).keys
    with pytest.raises(SealedAway, match=r"the key acme\.2026-01"):
        original_args(row["args"], elsewhere, SEALED_IN, row["redaction"])
