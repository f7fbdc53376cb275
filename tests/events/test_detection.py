"""Secrets in text: found in all their forms, in time linear in its length, and nothing else called one.

The corpus was written by somebody who had not seen the rules. The long form: COUNTERFOIL_TEST_PLANTED=40000.
"""

import json
import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from detect_secrets.core.scan import scan_file
from detect_secrets.settings import default_settings

from counterfoil import RecorderSettings, SettingsError
from counterfoil.checks import CHECKS, Found, is_card, luhn
from counterfoil.detection import Detector, compiled, kinds
from counterfoil.redaction import Redaction, Redactor
from counterfoil.redaction_policy import RedactionPolicy
from counterfoil.rules_file import rules_file
from tests.events.planted_secrets import Case, clean, planted
from tests.fix_recorder import IDENTITY_KEY

COUNT = int(os.environ.get("COUNTERFOIL_TEST_PLANTED", "4000"))
SEED = 2026
PERSONAL = ("email", "phone")
RECALL, FALSE_POSITIVES = 0.95, 0.01


def redactor(**policy: Any) -> Redactor:
    given = RedactionPolicy(**policy)
    return Redaction(RecorderSettings(identity_key=IDENTITY_KEY, redaction=given)).of_task("acme", "default")


def texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, item in value.items():
            yield name
            yield from texts_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts_in(item)


def recorded(by: Redactor, value: Any) -> Any:
    """A text as a completion, anything else as arguments: what an event would hold."""
    if isinstance(value, str):
        return by.body("completion", {"text": value, "rationale": None})["text"]
    args = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return json.loads(by.body("tool_intent", {"tool": "t", "args": args})["args"])


def found_by_detect_secrets(case: Case, folder: Path) -> set[str]:
    """It reads files, with its defaults."""
    path = folder / ("case.txt" if isinstance(case.value, str) else "case.json")
    path.write_text(case.value if isinstance(case.value, str) else json.dumps(case.value, indent=1, ensure_ascii=False))
    with default_settings():
        return {secret.secret_value or "" for secret in scan_file(str(path))}


def measured(
    cases: Sequence[Case], survives: Callable[[Case], Callable[[str], bool]]
) -> tuple[float, dict[str, float]]:
    """The share of secrets that did not survive, of all and by kind."""
    all_of, gone = Counter[str](), Counter[str]()
    for case in cases:
        is_left = survives(case)
        for secret in case.secrets:
            all_of[case.kind] += 1
            gone[case.kind] += not is_left(secret)
    return gone.total() / all_of.total(), {kind: gone[kind] / all_of[kind] for kind in sorted(all_of)}


def test_planted_secrets_are_found_and_clean_texts_are_left(tmp_path: Path) -> None:
    by = redactor(personal=PERSONAL)
    secrets, others = planted(SEED, COUNT), clean(SEED, COUNT)

    def ours(case: Case) -> Callable[[str], bool]:
        left = "\n".join(texts_in(recorded(by, case.value)))
        return lambda secret: secret in left

    def theirs(case: Case) -> Callable[[str], bool]:
        found = found_by_detect_secrets(case, tmp_path)
        return lambda secret: not any(secret in one or (one and one in secret) for one in found)

    few = secrets[: COUNT // 10]
    recall, by_kind = measured(secrets, ours)
    peer, peer_by_kind = measured(few, theirs)
    touched = [case.label for case in others if recorded(by, case.value) != case.value]
    theirs_touched = sum(1 for case in others[: COUNT // 10] if found_by_detect_secrets(case, tmp_path))
    print(f"recall {recall:.4f}, false positives {len(touched) / COUNT:.4f} of {COUNT} each")
    print({kind: round(share, 3) for kind, share in by_kind.items()})
    print(f"detect-secrets: recall {peer:.4f}, false positives {theirs_touched / (COUNT // 10):.4f}")
    print({kind: round(share, 3) for kind, share in peer_by_kind.items()})
    assert recall >= RECALL
    assert all(share >= 0.9 for share in by_kind.values())
    assert len(touched) / COUNT <= FALSE_POSITIVES, Counter(touched).most_common(5)
    assert recall > peer
    assert len(touched) / COUNT < theirs_touched / (COUNT // 10)


def test_nothing_passes_a_gate_that_its_pattern_would_find() -> None:
    """The gates look at JSON text, the patterns at the strings in it."""
    detector = Detector(personal=PERSONAL)
    everything = range(len(rules_file()["rules"]))
    for case in planted(SEED + 1, 1500):
        written = json.dumps(case.value, ensure_ascii=False, separators=(",", ":")).encode()
        suspects = set(detector.suspects(written))
        for text in texts_in(case.value):
            content = text.encode()
            assert detector.findings(content, everything) == detector.findings(content, sorted(suspects)), case.label


def test_texts_laid_side_by_side_hide_nothing_from_each_other() -> None:
    by = redactor(personal=PERSONAL)
    chosen = random.Random(SEED)
    cases = [case.value for case in (*planted(SEED + 2, 600), *clean(SEED + 2, 200))]
    chosen.shuffle(cases)
    for start in range(0, len(cases), 8):
        together = cases[start : start + 8]
        assert by.value(json.loads(json.dumps(together))) == [by.value(json.loads(json.dumps(one))) for one in together]


HOSTILE = [
    "token:", "password=", "a@", "a.", "://", "x://a:", "-----BEGIN PRIVATE KEY-----", "eyJ", "1", "1 ", "+1 ", "\\",
    '"', "secret = ", "Authorization: ", "--password ", "<password>", "curl -u ", "?token=", "a", "é", "\U00012345",
    "[card:", "1-", "password is ", "login a password ", "Cookie: a=", '"name":"key","value":"', "mysql -p", "0 ", "(0",
    "%40", "sk-", ".", "\x00", "\n", "\n\x00\n", "secret ", "key: a1b2c3d4",
]  # fmt: skip


@pytest.mark.alone
@pytest.mark.parametrize("piece", HOSTILE)
def test_hostile_text_takes_linear_time(piece: str) -> None:
    """Eight times the text takes about eight times as long; what is quadratic takes 64 times."""
    by = redactor(personal=PERSONAL)

    def seconds(size: int) -> float:
        text = piece * (size // len(piece))
        took = []
        for _ in range(3):
            started = time.perf_counter()
            by.text(text)
            took.append(time.perf_counter() - started)
        return min(took)

    by.text(piece * 100)
    small, large = seconds(25_000), seconds(200_000)
    assert large < 0.02 or large < 30 * small, (small, large)
    assert large < 2


def test_the_rules_own_rules() -> None:
    rules = rules_file()["rules"]
    for rule in rules:
        assert set(rule) <= {"kind", "gate", "pattern", "check", "class"}
        compiled(rule["pattern"])
        compiled(rule.get("gate", rule["pattern"]))
        assert rule.get("check", "is_random") in CHECKS
        assert not re.search("@[a-z]", rule["pattern"] + rule.get("gate", "")), "a macro that is none"
    secret, personal = kinds()
    assert personal == set(PERSONAL)
    assert not secret & personal
    assert {"password", "card", "jwt", "private_key", "github_token", "credential"} <= secret


GHP = "gh" + "p_" + "a1B2" * 9


def test_of_two_that_overlap_the_earlier_rule_names_and_both_are_gone() -> None:
    by = redactor()
    token = by.tokens.shown("github_token", GHP.encode())
    assert by.text(f"Authorization: Bearer {GHP}") == f"Authorization: Bearer {token}"
    longer = f"password={GHP}-and-more"
    assert by.text(longer) == f"password={by.tokens.shown('github_token', longer.removeprefix('password=').encode())}"


def test_personal_kinds_are_left_until_the_policy_names_them() -> None:
    text = "write to bob@example.com or call +49 30 1234567"
    assert redactor().text(text) == text
    by = redactor(personal=["email"])
    assert by.text(text) == text.replace("bob@example.com", by.tokens.shown("email", b"bob@example.com"))
    both = redactor(personal=PERSONAL)
    assert both.value({"phone": "2125550143"}) == {"phone": both.tokens.shown("phone", b"2125550143")}


def test_what_a_policy_allows_skips_and_adds() -> None:
    text = f"4111 1111 1111 1111, E-123456, {GHP}"
    by = redactor(rules=[{"kind": "employee", "pattern": "E-([0-9]{6})"}], allow=["4111*1111"], skip=["github_token"])
    assert by.text(text) == text.replace("123456", by.tokens.shown("employee", b"123456"))


@pytest.mark.parametrize(
    ("policy", "sentence"),
    [
        ({"personal": ["emial"]}, "COUNTERFOIL_REDACTION__PERSONAL names 'emial'; there are email, phone"),
        ({"skip": ["nosuch"]}, "COUNTERFOIL_REDACTION__SKIP names 'nosuch'; there are age_key, "),
        (
            {"rules": [{"kind": "x", "pattern": "(?=a)"}]},
            r"the pattern '\(\?=a\)' of a redaction rule is none of RE2's",
        ),
        ({"rules": [{"kind": "x", "pattern": "a{2000}"}]}, "is none of RE2's"),
    ],
)
def test_a_policy_that_can_not_be(policy: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        redactor(**policy)


def test_what_looks_like_a_token_is_made_one() -> None:
    """Else whoever reads it would take it for a secret's, and an agent could write what it likes into a comparison."""
    by = redactor()
    fake = "[card:0123456789abcdef]"
    assert by.text(f"see {fake}") == f"see {by.tokens.shown('lookalike', fake.encode())}"
    assert by.value(f"see {fake}", ours=True) == f"see {fake}"


def test_cards() -> None:
    assert luhn("4111111111111111")
    assert not luhn("4111111111111112")
    for card in (
        "4111111111111111",
        "4111 1111 1111 1111",
        "3782-822463-10005",
        "5555555555554444",
        "2223003122003222",
    ):
        assert is_card(Found(card)), card
    for other in ("4111111111111112", "1234567812345670", "4111 11111111 1111", "0000000000000000", "411111111111111"):
        assert not is_card(Found(other)), other
    assert not is_card(Found("4111111111111111", before="0."))


@pytest.mark.alone
def test_a_large_text_is_searched_as_fast_as_it_is_read() -> None:
    by = redactor(personal=PERSONAL)
    body = {"tool": "t", "args": json.dumps({"note": "The customer asks for a refund. " * 300_000, "n": [1] * 1000})}
    started = time.perf_counter()
    assert by.body("tool_intent", body) is body
    assert time.perf_counter() - started < 2
