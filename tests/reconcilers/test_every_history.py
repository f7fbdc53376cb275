"""The judge beside one that tries every history: what it says must be one of those that fit with the fewest faults.

The other one knows nothing of contracts. It plays what may have become of each write, in plain Python, and keeps the
histories that leave the rows as they were found. Where a history fits, nothing else may be said: no write is called
absent, doubled or half done that was not, and none applied that was lost.
"""

import copy
import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterfoil_reconcilers.contracts import Contracts, load
from counterfoil_reconcilers.judge import Effect, RowKey, Rows, judge, sweep
from counterfoil_reconcilers.rows import Outcome, row_of

TEXT = """\
version = "1"
[targets.bank]
kind = "postgresql"
writers = "exclusive"
tolerance = 0.005
[targets.bank.resources.accounts]
table = "accounts"
key = ["id"]
[targets.bank.resources.payments]
table = "payments"
key = ["id"]
fields.id.ignore = true

[tools.deposit]
target = "bank"
[[tools.deposit.writes]]
resource = "accounts"
key = { id = "args.account" }
set.balance = "round(old + args.amount, 2)"
append.history = "args.amount"
reply = "result"

[tools.draw]
target = "bank"
[[tools.draw.writes]]
resource = "accounts"
key = { id = "args.account" }
set.balance = "round(old - args.amount, 2)"

[tools.rename]
target = "bank"
[[tools.rename.writes]]
resource = "accounts"
key = { id = "args.account" }
set.name = "args.name"
set.city = "args.city"

[tools.move]
target = "bank"
[[tools.move.writes]]
resource = "accounts"
key = { id = "args.account" }
set.balance = "round(old - args.amount, 2)"
[[tools.move.writes]]
resource = "accounts"
key = { id = "args.to" }
set.balance = "round(old + args.amount, 2)"

[tools.pay]
target = "bank"
[[tools.pay.writes]]
resource = "accounts"
key = { id = "args.account" }
set.balance = "round(old - args.amount, 2)"
[[tools.pay.writes]]
resource = "payments"
create = true
find = { account = "args.account", amount = "args.amount" }

[tools.open]
target = "bank"
[[tools.open.writes]]
resource = "accounts"
create = true
key = { id = "args.account" }
set.name = "args.name"
set.city = "'Ulm'"
set.balance = "0"
set.history = "[]"

[tools.close]
target = "bank"
[[tools.close.writes]]
resource = "accounts"
key = { id = "args.account" }
delete = true
"""
ACCOUNT: dict[str, Any] = {"name": "Ann", "city": "Ulm", "balance": 1000, "history": []}
WHOLE = frozenset({"accounts", "payments"})
# How often each part of a write landed: all once, none, all twice, or some.
Fate = tuple[int, ...]
PARTS = {"deposit": 2, "draw": 1, "rename": 2, "move": 2, "pay": 2, "open": 1, "close": 1}
IDEMPOTENT = {"rename", "open", "close"}
HISTORIES = int(os.environ.get("COUNTERFOIL_TEST_HISTORIES", "150"))
MOST_FAULTS = 2  # that are told from one other value, whatever the rows hold


@dataclass(frozen=True)
class Call:
    """One write as the agent made it, and what it saw."""

    tool: str
    account: str
    value: Any
    outcome: Outcome
    is_answered: bool = False

    @property
    def args(self) -> dict[str, Any]:
        match self.tool:
            case "rename":
                return {"account": self.account, "name": self.value, "city": self.value[::-1]}
            case "open":
                return {"account": self.account, "name": self.value}
            case "close":
                return {"account": self.account}
            case "move":
                return {"account": self.account, "to": other(self.account), "amount": self.value}
        return {"account": self.account, "amount": self.value}

    def faults(self, fate: Fate) -> int:
        """Whether that is what the agent saw."""
        right = {"ok": {1}, "unknown": {0, 1}, "failed": {0}}[self.outcome]
        return 0 if len(set(fate)) == 1 and fate[0] in right else 1


def other(account: str) -> str:
    return "b" if account == "a" else "a"


def fates(tool: str) -> list[Fate]:
    """All that may have become of a call; to set a value twice is to set it once."""
    return list(itertools.product((0, 1) if tool in IDEMPOTENT else (0, 1, 2), repeat=PARTS[tool]))


@dataclass(frozen=True)
class Played:
    """The rows after a history, what really landed, and what each call may have been told: its row as due, or as is."""

    rows: dict[RowKey, Any]
    landed: tuple[Fate, ...]
    replies: list[tuple[Any, ...]]

    @property
    def seen(self) -> str:
        """What of the rows can be seen: payments have numbers of their own, in an order that tells nothing."""
        payments = sorted(repr(doc) for key, doc in self.rows.items() if key.resource == "payments")
        accounts = sorted((key, repr(doc)) for key, doc in self.rows.items() if key.resource == "accounts")
        return repr([accounts, payments])


def played(calls: Sequence[Call], history: Sequence[Fate]) -> Played:
    """Play a history. What changes an account that is not there changes nothing."""
    accounts: dict[str, Any] = {"a": copy.deepcopy(ACCOUNT), "b": copy.deepcopy(ACCOUNT), "c": None}
    payments: list[dict[str, Any]] = []
    replies, landed = [], []
    for call, drawn in zip(calls, history, strict=True):
        doc, value, fate = accounts[call.account], call.value, list(drawn)
        told: tuple[Any, ...] = ()
        if doc is None and call.tool not in ("open", "close"):
            fate = [0, *fate[1:]] if call.tool in ("move", "pay") else [0] * len(fate)
        match call.tool:
            case "deposit" if doc is not None:
                due = {**doc, "balance": round(doc["balance"] + value, 2), "history": [*doc["history"], value]}
                doc["balance"] = round(doc["balance"] + fate[0] * value, 2)
                doc["history"] = [*doc["history"], *[value] * fate[1]]
                told = (due, dict(doc))
            case "rename" if doc is not None:
                doc["name"] = value if fate[0] else doc["name"]
                doc["city"] = value[::-1] if fate[1] else doc["city"]
            case "draw" | "move" | "pay" if doc is not None:
                doc["balance"] = round(doc["balance"] - fate[0] * value, 2)
            case "open" if fate[0]:
                accounts[call.account] = {"name": value, "city": "Ulm", "balance": 0.0, "history": []}
            case "close" if fate[0]:
                accounts[call.account] = None
        if call.tool == "move":
            to = accounts[other(call.account)]
            fate[1] = 0 if to is None else fate[1]
            if to is not None:
                to["balance"] = round(to["balance"] + fate[1] * value, 2)
        elif call.tool == "pay":
            payments += [{"account": call.account, "amount": value}] * fate[1]
        landed.append(tuple(fate))
        replies.append(told if call.outcome == "ok" and call.is_answered else ())
    made = {RowKey("payments", (str(number),)): doc for number, doc in enumerate(payments)}
    there = {RowKey("accounts", (name,)): doc for name, doc in accounts.items() if doc is not None}
    return Played({**there, **made}, tuple(landed), replies)


def fitting(calls: Sequence[Call], found: Played) -> Iterator[tuple[tuple[Fate, ...], bool]]:
    """Every history that leaves these rows, and whether every call could be told in it what it was told."""
    for history in itertools.product(*(fates(call.tool) for call in calls)):
        played_so = played(calls, history)
        if played_so.seen == found.seen and played_so.landed == history:
            told = zip(found.replies, played_so.replies, strict=True)
            yield history, all(not heard or heard[0] in possible for heard, possible in told)


def faults(calls: Sequence[Call], history: Sequence[Fate]) -> float:
    """How many writes went otherwise than their agents saw; a target that lost the last ones did so at one stroke."""
    faulty = [number for number, (call, fate) in enumerate(zip(calls, history, strict=True)) if call.faults(fate)]
    for all_of_them, since in ((0, faulty[0] if faulty else 0), (2, 0)):
        rest = [number for number in range(since, len(calls)) if calls[number].outcome != "failed"]
        if len(faulty) > 1 and all(set(history[number]) == {all_of_them} for number in (*faulty, *rest)):
            return 1.5
    return len(faulty)


def fits(word: str, fate: Fate) -> bool:
    """Whether a verdict may be said of this fate."""
    match word:
        case "applied":
            return set(fate) == {1}
        case "not_applied":
            return set(fate) == {0}
        case "duplicated":
            return 2 in fate and 0 not in fate
        case "partial":
            return 0 in fate and set(fate) != {0}
    return word == "unknowable"


@cache
def contracts_in(folder: Path) -> Contracts:
    path = folder / "contracts.toml"
    path.write_text(TEXT)
    return load(path)


@pytest.fixture(scope="module")
def contracts(tmp_path_factory: pytest.TempPathFactory) -> Contracts:
    return contracts_in(tmp_path_factory.mktemp("contracts"))


AMOUNTS = st.sampled_from([1.25, 10, 20, 40, 17.5])
OUTCOMES = st.sampled_from(["ok", "ok", "unknown", "failed"])
CALLS = st.lists(
    st.one_of(
        st.builds(Call, st.sampled_from(["deposit", "draw", "move", "pay"]), st.sampled_from("abc"), AMOUNTS,
                  OUTCOMES, st.booleans()),
        st.builds(Call, st.just("close"), st.sampled_from("abc"), st.none(), OUTCOMES),
        st.builds(Call, st.just("open"), st.just("c"), st.sampled_from(["Bea", "Cleo"]), OUTCOMES),
        st.builds(Call, st.just("rename"), st.sampled_from("ab"), st.sampled_from(["Bea", "Cleo", "Dora"]),
                  OUTCOMES, st.booleans()),
    ),
    min_size=1, max_size=3,
)  # fmt: skip


@settings(deadline=None, max_examples=HISTORIES, derandomize=True)
@given(CALLS, st.data())
def test_a_history_that_fits_with_the_fewest_faults_is_said(
    contracts: Contracts, calls: list[Call], data: st.DataObject
) -> None:
    truth = tuple(data.draw(st.sampled_from(fates(call.tool))) for call in calls)
    assert_said(contracts, calls, truth)


def test_what_a_change_does_not_name_did_not_come_with_the_row_that_it_is_said_to_have_made(
    contracts: Contracts,
) -> None:
    """A refused creation had landed. That the moves made the account explains its balance, and not its owner's name."""
    moves = [Call("move", "c", 1.25, "ok"), Call("move", "c", 1.25, "ok")]
    assert_said(contracts, [Call("open", "c", "Bea", "failed"), *moves], [(1,), (2, 0), (2, 2)])


MEDDLED: list[tuple[str, str, Any]] = [
    ("a", "balance", 3.33),
    ("b", "balance", 1_000_000.01),
    ("a", "name", "Eve"),
    ("b", "history", [99]),
    ("a", "history", []),
    ("b", "city", None),
]


@settings(deadline=None, max_examples=HISTORIES, derandomize=True)
@given(CALLS, st.data(), st.sampled_from(MEDDLED))
def test_what_no_history_explains_never_passes(
    contracts: Contracts, calls: list[Call], data: st.DataObject, meddled: tuple[str, str, Any]
) -> None:
    """Somebody set a field besides: either a history explains that too, or it shows."""
    after = played(calls, [data.draw(st.sampled_from(fates(call.tool))) for call in calls])
    account, field, value = meddled
    after.rows.get(RowKey("accounts", (account,)), {})[field] = value
    if any(is_told for _, is_told in fitting(calls, after)):
        assert_best(contracts, calls, after)
        return
    words, strays = said(contracts, calls, after)
    assert shows(calls, words, strays), words


def shows(calls: Sequence[Call], words: Sequence[str], strays: int) -> bool:
    """Whether anything was said but that all is as the agents saw it."""
    agrees = {"ok": "applied", "unknown": "applied", "failed": "not_applied"}
    return strays > 0 or any(word != agrees[call.outcome] for word, call in zip(words, calls, strict=True))


def assert_said(contracts: Contracts, calls: Sequence[Call], truth: Sequence[Fate]) -> None:
    assert_best(contracts, calls, played(calls, truth))


def said(contracts: Contracts, calls: Sequence[Call], after: Played) -> tuple[list[str], int]:
    """The verdicts, and how many changes were called unattributed."""
    effects = [
        Effect(number.to_bytes(16), call.tool, call.args, call.outcome, (number,), reply=told[0] if told else None)
        for number, (call, told) in enumerate(zip(calls, after.replies, strict=True), 1)
    ]
    before, observed = shown(played((), ()).rows), shown(after.rows)
    found = judge(contracts, "bank", effects, before, observed)
    swept = sweep(contracts, "bank", before, observed, found)
    return [verdict.verdict for verdict in found.verdicts], len(found.unattributed) + len(swept)


def assert_best(contracts: Contracts, calls: Sequence[Call], after: Played) -> None:
    words, strays = said(contracts, calls, after)
    histories = dict(fitting(calls, after))
    count = {history: faults(calls, history) for history in histories}
    fewest = min((count[history] for history, is_told in histories.items() if is_told), default=MOST_FAULTS + 1)
    # One in which a reply is wrong is as good if it has fewer faults.
    best = [history for history, is_told in histories.items() if count[history] < fewest + (1 if is_told else 0)]
    if fewest > MOST_FAULTS:
        assert shows(calls, words, strays), (words, best[:3])
        return
    assert "mismatched" not in words, (words, best[:3])
    assert not strays, (words, best[:3])
    assert any(all(map(fits, words, history)) for history in best), (words, best[:3])
    for word, possible in zip(words, zip(*best, strict=True), strict=True):
        assert word != "unknowable" or len(set(possible)) > 1, (words, best[:3])


def shown(docs: dict[RowKey, Any]) -> Rows:
    return Rows({key: row_of(doc, "1") for key, doc in docs.items()}, WHOLE)
