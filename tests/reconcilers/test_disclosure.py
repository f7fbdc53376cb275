"""Verdicts on redacted writes are those on the writes themselves, or say that it can't be told; evidence tells nothing.

No store and no target: what a recorder would have put into the log, held against rows as they were read.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from counterfoil import RecorderSettings
from counterfoil.jsontext import to_json_text
from counterfoil.redaction import Redaction, Redactor
from counterfoil.redaction_policy import RedactionPolicy
from counterfoil.sealing import KeyRing, SealedIn, write_new_key
from counterfoil_reconcilers.contracts import Contracts, load
from counterfoil_reconcilers.disclosure import Disclosure, NotRecoverable, original_args
from counterfoil_reconcilers.judge import judge, sweep
from counterfoil_reconcilers.rows import Effect, RowKey, Rows, row_of
from counterfoil_reconcilers.veil import NO_VEIL

MAIL, CARD, ACCOUNT = "ann@example.com", "4111 1111 1111 1111", "DE11-SECRET"
PERSONAL = {"personal": ["email", "phone"]}
FIELDS = {
    "personal": ["email"],
    "fields": [
        {"path": "$.args.pin", "kind": "pin"},
        {"path": "$.args.account", "do": "seal"},
        {"path": "$.args.profile", "do": "seal"},
    ],
}
HEAD = """
version = "7"
[targets.shop]
kind = "postgresql"
writers = "exclusive"
[targets.shop.resources.customers]
table = "customers"
key = ["{key}"]
{fields}
[tools.t]
target = "shop"
[[tools.t.writes]]
resource = "customers"
"""
Redactors = Callable[..., Redactor]


@pytest.fixture
def redactors(tmp_path: Path) -> Redactors:
    write_new_key(tmp_path, "acme", "2026-01")

    def make(policy: dict[str, Any] | None = None, *, key: str = "k" * 32, keys: bool = True) -> Redactor:
        given = RecorderSettings(
            identity_key=key, redaction=RedactionPolicy(**(policy or {})), key_directory=tmp_path if keys else None
        )
        return Redaction(given).of_task("acme", "support")

    return make


@pytest.fixture
def contract(tmp_path: Path) -> Callable[..., Contracts]:
    def make(sets: str, *, key: str = "id", value: str = "args.id", fields: str = "", extra: str = "") -> Contracts:
        text = HEAD.format(key=key, fields=fields) + f'key = {{ {key} = "{value}" }}\n{extra}\n{sets}\n'
        (tmp_path / "contracts.toml").write_text(text)
        return load(tmp_path / "contracts.toml")

    return make


class Said:
    """What a pass says of one write, and what it would have said without any redaction."""

    def __init__(
        self,
        contracts: Contracts,
        given: Any,
        before: dict[str, Any],
        after: dict[str, Any],
        agent: Redactor,
        reconciler: Redactor | None = None,
        *,
        reply: Any = None,
        step: str | None = None,
        args: Any = None,
    ) -> None:
        written = {"tool": "t", "args": to_json_text(given), "step": step}
        recorded = agent.body("tool_intent", written)
        result = agent.body("tool_result", {"tool": "t", "result": None if reply is None else to_json_text(reply)})
        self.args = json.loads(recorded["args"]) if args is None else args
        baseline, observed = (
            Rows({RowKey("customers", (key,)): row_of(doc) for key, doc in docs.items()}, frozenset({"customers"}))
            for docs in (before, after)
        )
        disclosure = Disclosure(reconciler or agent)
        text = None if result["result"] is None else json.loads(result["result"])
        effect = Effect(b"e" * 16, "t", self.args, "ok", (1,), text, step=recorded["step"], tenant="acme")
        noted = disclosure.noted(effect, agent.stamp)
        disclosure.learn(baseline.rows.values())
        disclosure.learn(observed.rows.values())
        judged = judge(contracts, "shop", [disclosure.opened(noted)], baseline, observed, disclosure)
        changes = (*judged.unattributed, *sweep(contracts, "shop", baseline, observed, judged, disclosure))
        self.verdict, self.reason = judged.verdicts[0].verdict, judged.verdicts[0].reason
        self.evidence = judged.verdicts[0].evidence
        self.changes = [change.verdict for change in changes]
        self.text = json.dumps([self.reason, self.evidence, [change.evidence for change in changes]], default=str)
        own = Effect(b"e" * 16, "t", json.loads(to_json_text(given)), "ok", (1,), reply, step=step, tenant="acme")
        self.unredacted = judge(contracts, "shop", [own], baseline, observed, NO_VEIL).verdicts[0].verdict


MAILS = "\n".join(f"user{number}@example.com" for number in range(20))
LOOKALIKES = " ".join(f"[email:{number:016x}]" for number in range(20))
NOTES = [
    f"mail {MAIL}",
    f"mail {MAIL} " + "x " * 5200,
    MAILS,
    LOOKALIKES,
    f"{MAIL}{MAIL}",
    'password: "hunter2x9" and token=abcdef123456',
    "-----BEGIN RSA PRIVATE KEY-----\nabc\ndef\n-----END RSA PRIVATE KEY-----",
    "Cookie: session=abcdef123456; x=1",
    '{"password":"hunter2x9"}',
    "login\nbob\npassword\nhunter2x9",
    CARD,
]


@pytest.mark.parametrize("note", NOTES)
@pytest.mark.parametrize("landed", ["yes", "no", "other"])
@pytest.mark.parametrize("same_policy", [True, False])
def test_a_text_with_secrets_in_it(
    redactors: Redactors, contract: Callable[..., Contracts], note: str, landed: str, same_policy: bool
) -> None:
    """The reconciler need not even look for what the agent's recorder looked for."""
    after = {"yes": note, "no": "old", "other": note.replace("a", "b").replace("1", "2")}[landed]
    said = Said(
        contract('set.note = "args.note"'),
        {"id": "C", "note": note},
        {"C": {"id": "C", "note": "old"}},
        {"C": {"id": "C", "note": after}},
        redactors(PERSONAL),
        redactors(PERSONAL if same_policy else {}),
    )
    if note == f"{MAIL}{MAIL}" and said.verdict == "unknowable":
        return  # where one ends and the next begins may be anywhere
    assert said.verdict == said.unredacted, said.reason
    assert said.changes == []


def test_tokens_of_another_identity_key_can_not_be_compared(
    redactors: Redactors, contract: Callable[..., Contracts]
) -> None:
    contracts = contract('set.note = "args.note"')
    agent, reconciler = redactors(PERSONAL), redactors(PERSONAL, key="z" * 32)
    before = {"C": {"id": "C", "note": "old"}}
    for after, verdict in ((f"mail {MAIL}", "unknowable"), ("mail old", "unknowable"), ("old", "not_applied")):
        args = {"id": "C", "note": f"mail {MAIL}"}
        said = Said(contracts, args, before, {"C": {"id": "C", "note": after}}, agent, reconciler)
        assert said.verdict == verdict, after


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (9876, 9876), ("1,5", "1,5"), (1e22, 1e22), (12.345, 12.345), ("1.50", 1.5), ([1, 2], [1, 2]),
        ({"a": 1}, {"a": 1}),
        ("ééé", "ééé"), ("0x10", "0x10"), (9007199254740993, 9007199254740993), ("", ""), (None, None), (9876, 9877),
        ("a", "b"), ("a", None), ("1.500", 1.5), (True, True), (True, False), ({"b": 1, "a": 2}, {"a": 2, "b": 1}),
    ],
)  # fmt: skip
def test_a_field_of_any_kind(redactors: Redactors, contract: Callable[..., Contracts], given: Any, stored: Any) -> None:
    said = Said(
        contract('set.n = "args.pin"'),
        {"id": "C", "pin": given},
        {"C": {"id": "C", "n": "before"}},
        {"C": {"id": "C", "n": stored}},
        redactors(FIELDS),
    )
    assert said.verdict in (said.unredacted, "unknowable"), said.reason


@pytest.mark.parametrize("landed", [True, False])
def test_names_bytes_steps_and_replies(redactors: Redactors, contract: Callable[..., Contracts], landed: bool) -> None:
    agent = redactors(PERSONAL)
    raw = f"contact {MAIL}".encode()
    [encoded] = json.loads(to_json_text({"f": raw}))["f"].values()
    cases: list[tuple[str, dict[str, Any], Any, Any, dict[str, Any]]] = [
        ("args.contacts", {"contacts": {MAIL: "first", "n": 1}}, {}, {MAIL: "first", "n": 1}, {}),
        ("args.contacts", {"contacts": [{MAIL: 1}]}, [], [{MAIL: 1}], {}),
        ('args.f["$bytes"]', {"f": raw}, "", encoded, {}),
        ("args.f", {"f": raw}, None, {"$bytes": encoded}, {}),
        ("step", {}, "old", f"for {MAIL}", {"step": f"for {MAIL}"}),
        ("result", {}, "old", "true", {"reply": "true"}),
        ("result.to", {}, "old", MAIL, {"reply": {"to": MAIL}}),
        ('args.x["$bytes"]', {"x": {"$bytes": "mine"}}, "", "mine", {}),
        ('"to " + args.mail', {"mail": MAIL}, "old", f"to {MAIL}", {}),
    ]
    for expression, args, before, after, more in cases:
        said = Said(
            contract(f"set.n = '{expression}'"),
            {"id": "C", **args},
            {"C": {"id": "C", "n": before}},
            {"C": {"id": "C", "n": after if landed else before}},
            agent,
            **more,
        )
        allowed = {said.unredacted} if landed else {said.unredacted, "unknowable"}
        assert said.verdict in allowed, (expression, said.verdict, said.unredacted, said.reason)
        assert said.changes == []


def test_a_row_named_by_a_step(redactors: Redactors, contract: Callable[..., Contracts]) -> None:
    said = Said(
        contract('set.note = "args.note"', value="step"), {"note": "n"}, {MAIL: {"id": MAIL, "note": "o"}},
        {MAIL: {"id": MAIL, "note": "n"}}, redactors(PERSONAL), step=MAIL,
    )  # fmt: skip
    assert said.verdict == said.unredacted == "applied"
    assert MAIL not in said.text


def test_a_created_row_with_a_field_that_can_not_be_told(
    redactors: Redactors, contract: Callable[..., Contracts]
) -> None:
    contracts = contract('create = true\nset.n = "args.pin"\nset.name = "args.name"')
    agent = redactors(FIELDS)
    args = {"id": "C", "pin": True, "name": "Bo"}
    for stored, verdict in ((True, "applied"), (False, "applied")):
        said = Said(contracts, args, {}, {"C": {"id": "C", "n": stored, "name": "Bo"}}, agent)
        assert said.verdict == verdict  # by what can be told
    assert Said(contracts, args, {}, {}, agent).verdict == "not_applied"
    other = Said(contracts, args, {}, {"C": {"id": "C", "n": True, "name": "Al"}}, agent)
    assert other.verdict == other.unredacted == "mismatched"


@pytest.mark.parametrize(
    "args",
    [
        "[all:0123456789abcdef]", [1], 7, True,
        {"$sealed": {"key_id": "acme.x", "content": "", "token": "0" * 16}},
        {"$blob": {"sha256": "0" * 64, "bytes": 1, "media_type": "x"}}, {"$reduced": "x"},
    ],
)  # fmt: skip
def test_arguments_that_are_no_map_leave_it_open(
    redactors: Redactors, contract: Callable[..., Contracts], args: Any
) -> None:
    before, after = {"C": {"id": "C", "note": "old"}}, {"C": {"id": "C", "note": "new"}}
    contracts = contract('set.note = "args.note"')
    said = Said(contracts, {"id": "C", "note": "new"}, before, after, redactors(), args=args)
    assert said.verdict == "unknowable"


def test_all_arguments_sealed_or_dropped(redactors: Redactors, contract: Callable[..., Contracts]) -> None:
    before, after = {"C": {"id": "C", "note": "old", "n": 1}}, {"C": {"id": "C", "note": "new", "n": 1}}
    contracts = contract('set.note = "args.note"')
    agent = redactors({"fields": [{"path": "$.args", "do": "seal"}]})
    given = {"id": "C", "note": "new"}
    assert Said(contracts, given, before, after, agent).verdict == "applied"
    assert Said(contracts, given, before, after, agent, redactors(keys=False)).verdict == "unknowable"
    dropped = redactors({"fields": [{"path": "$.args"}]})
    assert Said(contracts, given, before, after, dropped).verdict == "unknowable"


def test_an_agent_can_make_up_neither_seals_nor_tokens_nor_claims(
    redactors: Redactors, contract: Callable[..., Contracts], tmp_path: Path
) -> None:
    """What it copies from the log, or writes by itself, is what it passed, and nothing of another's."""
    agent = redactors(FIELDS)
    seal = json.loads(agent.body("tool_intent", {"tool": "open", "args": to_json_text({"account": ACCOUNT})})["args"])
    contracts = contract("set.note = 'args.note'")
    for name, value in (
        ("note", seal["account"]), ("note", {"$sealed": {"key_id": "x", "content": "", "token": "0" * 16}}),
        ("$blob", {"sha256": "0" * 64, "bytes": 1, "media_type": "x"}), ("$reduced", 1),
    ):  # fmt: skip
        given = {"id": "C", "note": "new", name: value}
        said = Said(contracts, given, {"C": {"id": "C", "note": "a"}}, {"C": {"id": "C", "note": "a"}}, agent)
        assert said.verdict == "not_applied", name
        assert ACCOUNT not in said.text
        if name != "note":
            assert original_args(said.args, KeyRing(tmp_path), WHERE, agent.stamp)[name] == value
    token = agent.tokens.of(b"4471")
    forged = Said(
        contracts, {"id": "C", "note": f"[pin:{token}]"}, {"C": {"id": "C", "note": "a"}},
        {"C": {"id": "C", "note": "4471"}}, agent,
    )  # fmt: skip
    assert forged.verdict == "mismatched"  # it wrote a text that looks like a token, and the target holds 4471


WHERE = SealedIn("acme", "tool_intent", "t", "args")


def test_what_was_passed_comes_back(redactors: Redactors, tmp_path: Path) -> None:
    agent = redactors(FIELDS)
    given = {"account": {"$bytes": 1, "n": [ACCOUNT]}, "id": "C", "$$blob": 2}
    recorded = json.loads(agent.body("tool_intent", {"tool": "t", "args": to_json_text(given)})["args"])
    assert ACCOUNT not in json.dumps(recorded)
    assert original_args(recorded, KeyRing(tmp_path), WHERE, agent.stamp) == given
    assert original_args({"a": "[pin:0123456789abcdef]"}, KeyRing(tmp_path), WHERE, None) == {
        "a": "[pin:0123456789abcdef]"
    }
    for dropped in ({"mail": MAIL}, {MAIL: 1}, {"pin": 4711}):
        recorded = json.loads(agent.body("tool_intent", {"tool": "t", "args": to_json_text({"x": [dropped]})})["args"])
        if "pin" in dropped:
            recorded = json.loads(agent.body("tool_intent", {"tool": "t", "args": to_json_text(dropped)})["args"])
        with pytest.raises(NotRecoverable, match="args"):
            original_args(recorded, KeyRing(tmp_path), WHERE, agent.stamp)


ROW = {"a": "x", "b": "y"}
LEAKS: list[tuple[str, dict[str, Any], dict[str, Any], list[str]]] = [
    ('set.a = "args.account.lowerAscii()"', {"account": ACCOUNT}, {"a": "zzz"}, ["de11-secret"]),
    ("set.a = \"args.account.replace('-', '')\"", {"account": ACCOUNT}, {"a": "zzz"}, ["DE11SECRET"]),
    ('set.a = "\'pin is \' + args.pin"\nset.b = "args.pin"', {"pin": "9876"}, {"a": "zz", "b": "9876"}, ["9876"]),
    ("set.a = \"'acct ' + args.account\"", {"account": "D-771"}, {"a": "zz"}, ["D-771"]),
    ('set.a = "args.account"', {"account": ACCOUNT}, {"a": "[x:0123456789abcdef] DE99-OTHER"}, ["DE99-OTHER"]),
    ('set.a = "args.account"', {"account": ACCOUNT}, {"a": "x", "b": "y for de11-secret"}, ["de11-secret"]),
    ("set.a = \"first(args.l, {'k': args.account})\"", {"l": [], "account": "D-771"}, {"a": "q"}, ["D-771"]),
    ("set.a = \"first(args.l, {'k': args.account})\"", {"l": [], "account": "one\ntwo"}, {"a": "q"}, ["one", "two"]),
    ('set.a = "number(args.account)"', {"account": "D-771"}, {"a": "q"}, ["D-771"]),
    ("set.a = \"{'x': 1.0}[args.account]\"", {"account": "D-771"}, {"a": "q"}, ["D-771"]),
    ('set.a = "args.account + 1.0"', {"account": 5000.0}, {"a": 7.0}, ["5001"]),
    ('set.a = "args.account"', {"account": True}, {"a": False}, ['"expected": true', '"observed": false']),
    ('set.a = "args.profile"', {"profile": {"Ann Onym": {"owes": True}}}, {"a": {}}, ["Ann Onym", "owes"]),
    ('let.x = "args.account.lowerAscii()"\nset.a = "x"', {"account": ACCOUNT}, {"a": "zzz"}, ["de11-secret"]),
    ('let.x = "args.account"\nset."b[x]" = "1"', {"account": ACCOUNT}, {"b": {}}, [ACCOUNT]),
]


@pytest.mark.parametrize(("sets", "args", "observed", "secrets"), LEAKS)
def test_evidence_tells_nothing_that_was_redacted(
    redactors: Redactors,
    contract: Callable[..., Contracts],
    sets: str,
    args: dict[str, Any],
    observed: dict[str, Any],
    secrets: list[str],
) -> None:
    said = Said(
        contract("" if sets.startswith("let") else sets, extra=sets if sets.startswith("let") else ""),
        {"id": "C", **args},
        {"C": {"id": "C", **ROW, **({"b": {}} if "b[x]" in sets else {})}},
        {"C": {"id": "C", **ROW, **observed}},
        redactors(FIELDS),
    )
    assert said.verdict in (said.unredacted, "unknowable")
    for secret in secrets:
        assert secret not in said.text, said.text


@pytest.mark.parametrize(
    ("sets", "args", "observed", "secrets"),
    [
        ('set.a = "args.x"', {"x": "v"}, {"a": "Ann Onym [note:0123456789abcdef] diary"}, ["Ann", "diary"]),
        ('set.a = "args.x"', {"x": {"k": 1}}, {"a": {"Ann Onym owes": 1}}, ["Ann Onym"]),
        ('set.a = "args.x"', {"x": True}, {"a": False}, ['"expected": true', '"observed": false']),
        ('set.b = "args.x"', {"x": "v"}, {"a": {"Ann Onym owes": 1}}, ["Ann Onym"]),
    ],
)
def test_nor_what_a_contract_says_to_redact(
    redactors: Redactors,
    contract: Callable[..., Contracts],
    sets: str,
    args: dict[str, Any],
    observed: dict[str, Any],
    secrets: list[str],
) -> None:
    said = Said(
        contract(sets, fields="fields.a = { redact = true }"),
        {"id": "C", **args},
        {"C": {"id": "C", **ROW}},
        {"C": {"id": "C", **ROW, **observed}},
        redactors(),
    )
    for secret in secrets:
        assert secret not in said.text, said.text


def test_keys_are_not_said_either(redactors: Redactors, contract: Callable[..., Contracts]) -> None:
    agent = redactors(FIELDS)
    sets = 'set.note = "args.x"'
    redacts = {"key": "email", "value": "args.email", "fields": "fields.email = { redact = true }"}
    there, changed = ({"ann.o": {"email": "ann.o", "note": note}} for note in ("o", "z"))
    said = Said(contract(sets, **redacts), {"email": "ann.o", "x": "n"}, there, changed, agent)
    assert said.verdict == "mismatched"
    assert "ann.o" not in said.text
    missing = Said(contract(sets, **redacts), {"email": "ann.o", "x": "n"}, {}, {}, agent)
    assert "ann.o" not in missing.text
    for value, key in (("args.account", "D-771"), ("'acct-' + args.account", "acct-D-771")):
        before, after = ({key: {"id": key, "note": note}} for note in ("o", "z"))
        for one, other in ((before, after), ({}, {})):
            said = Said(contract(sets, value=value), {"account": "D-771", "x": "n"}, one, other, agent)
            assert said.verdict in ("mismatched", said.unredacted)
            assert "D-771" not in said.text, said.text


def test_small_secrets_leave_the_rest_of_the_evidence_as_it_is(
    redactors: Redactors, contract: Callable[..., Contracts]
) -> None:
    given = {"id": "C", "x": "v", "profile": {"n": "parts", "i": 1, "z": 0, "y": "wrong", "field": "a"}}
    said = Said(
        contract('set.a = "args.x"'), given, {"C": {"id": "C", **ROW}}, {"C": {"id": "C", "a": "other", "b": "y"}},
        redactors(FIELDS),
    )  # fmt: skip
    [part] = said.evidence["parts"]
    assert (part["field"], part["landed"], part["expected"], part["observed"]) == ("a", "wrong", "v", "other")
    assert said.evidence["counts"] == {"wrong": 1}


def test_a_name_that_is_a_secret_does_not_stop_what_is_said(
    redactors: Redactors, contract: Callable[..., Contracts]
) -> None:
    disclosure = Disclosure(redactors(PERSONAL))
    assert disclosure.over("x", ("profile", MAIL)) == "x"
    said = Said(
        contract('set.note = "args.note"'), {"id": "C", "note": "n"},
        {"C": {"id": "C", "note": "o"}, "D": {"id": "D", "p": {MAIL: 1}}},
        {"C": {"id": "C", "note": "n"}, "D": {"id": "D", "p": {MAIL: 2}}}, redactors(PERSONAL),
    )  # fmt: skip
    assert said.changes == ["unattributed"]
    assert MAIL not in said.text


@pytest.mark.alone
@pytest.mark.parametrize("piece", ["[a:{:016x}]", "[a:{:016x}] ", "a{}@b.co ", "x[a:{:016x}]\n"])
def test_many_tokens_take_linear_time(redactors: Redactors, contract: Callable[..., Contracts], piece: str) -> None:
    contracts = contract('set.note = "args.note"')

    def seconds(count: int) -> float:
        note = "".join(piece.format(number) for number in range(count))
        docs = {str(number): {"id": str(number), "note": f"{'word ' * 40}{number}"} for number in range(50)}
        started = time.perf_counter()
        Said(contracts, {"id": "1", "note": note}, docs, docs, redactors(PERSONAL), redactors())
        return time.perf_counter() - started

    seconds(10)
    small, large = seconds(200), seconds(1600)
    assert large < 30 * small + 0.5, (small, large)
