"""The judge: every word that it may say, each brought about by the rows that deserve it."""

import copy
import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterfoil_reconcilers.contracts import Contracts, load
from counterfoil_reconcilers.judge import Effect, Judgement, RowKey, Rows, judge, resources_of, suspects, sweep
from counterfoil_reconcilers.rows import Outcome, Row, row_of

TEXT = """\
version = "7"

[targets.bank]
kind = "postgresql"
writers = "exclusive"
tolerance = 0.005

[targets.bank.resources.accounts]
table = "accounts"
key = ["id"]
fields.tags = { unordered = true }
fields.seen_at = { ignore = true }

[targets.bank.resources.payments]
table = "payments"
key = ["id"]

[targets.bank.resources.owners]
table = "owners"
key = ["country", "number"]

[tools.deposit]
target = "bank"
[[tools.deposit.writes]]
resource = "accounts"
key = { id = "args.account" }
set.balance = "round(old + args.amount, 2)"
append.history = "{'kind': 'deposit', 'amount': args.amount}"
reply = "result"

[tools.rename]
target = "bank"
[[tools.rename.writes]]
resource = "accounts"
key = { id = "args.account" }
set.name = "args.name"
set.tags = "args.tags"

[tools.pay]
target = "bank"
[[tools.pay.writes]]
resource = "accounts"
key = { id = "args.account" }
set.balance = "old - args.amount"
[[tools.pay.writes]]
resource = "payments"
create = true
find = { account = "args.account" }
set.amount = "args.amount"
set.status = "'paid'"

[tools.open]
target = "bank"
[[tools.open.writes]]
resource = "accounts"
create = true
key = { id = "result.id" }
set.name = "args.name"
set.balance = "0"
[[tools.open.writes]]
resource = "owners"
key = { country = "args.country", number = "args.number" }
append.accounts = "keys.accounts.id"

[tools.close]
target = "bank"
[[tools.close.writes]]
resource = "accounts"
key = { id = "args.account" }
delete = true

[tools.unlock]
target = "bank"
[[tools.unlock.writes]]
resource = "accounts"
key = { id = "args.account" }
remove = ["lock"]
set.opened_by = "result.officer"

[tools.tag_all]
target = "bank"
[[tools.tag_all.writes]]
resource = "accounts"
each = "args.accounts"
key = { id = "item" }
set.tags = "sorted(distinct(before.tags + [args.tag]))"

[tools.broken]
target = "bank"
[[tools.broken.writes]]
resource = "accounts"
key = { id = "args.account.id" }
set.name = "'x'"
"""

ACCOUNT: dict[str, Any] = {
    "name": "Ann",
    "balance": 100,
    "tags": ["b", "a"],
    "history": [],
    "lock": "l",
    "seen_at": "1",
}
A, B = RowKey("accounts", ("a",)), RowKey("accounts", ("b",))
OWNER = RowKey("owners", ("de", "5"))
WHOLE = frozenset({"accounts", "payments", "owners"})
NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def contracts(tmp_path_factory: pytest.TempPathFactory) -> Contracts:
    return load_text(tmp_path_factory.mktemp("contracts"), TEXT)


def load_text(folder: Path, text: str) -> Contracts:
    path = folder / "contracts.toml"
    path.write_text(text)
    return load(path)


def effect(tool: str, outcome: Outcome = "ok", reply: Any = None, attempts: int = 1, **args: Any) -> Effect:
    number = next(NUMBERS)
    return Effect(number.to_bytes(16), tool, args, outcome, (number,), reply=reply, attempts=attempts)


def rows(docs: dict[RowKey, Any], whole: frozenset[str] = WHOLE) -> Rows:
    return Rows({key: None if doc is None else row_of(copy.deepcopy(doc), "7") for key, doc in docs.items()}, whole)


def account(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(ACCOUNT), **changes}


def judged(
    contracts: Contracts, effects: list[Effect], before: dict[RowKey, Any], after: dict[RowKey, Any]
) -> tuple[list[str], Judgement]:
    baseline, observed = rows(before), rows(after)
    found = judge(contracts, "bank", effects, baseline, observed)
    swept = sweep(contracts, "bank", baseline, observed, found)
    whole = replace(found, unattributed=(*found.unattributed, *swept))
    return [verdict.verdict for verdict in found.verdicts], whole


def deposited(*amounts: float, balance: float | None = None) -> dict[str, Any]:
    total = 100 + sum(amounts) if balance is None else balance
    return account(balance=total, history=[{"kind": "deposit", "amount": amount} for amount in amounts])


@pytest.mark.parametrize(
    ("outcome", "after", "verdict"),
    [
        ("ok", deposited(10), "applied"),
        ("ok", deposited(10, balance=110.004), "applied"),
        ("ok", account(), "not_applied"),
        ("ok", deposited(10, balance=100), "partial"),
        ("ok", account(balance=110), "partial"),
        ("ok", deposited(10, 10), "duplicated"),
        ("ok", deposited(10, balance=111), "mismatched"),
        ("ok", deposited(10.5, balance=110), "mismatched"),
        ("accepted", account(), "not_applied"),
        ("unknown", account(), "not_applied"),
        ("unknown", deposited(10), "applied"),
        ("unknown", deposited(10, 10), "duplicated"),
        ("failed", account(), "not_applied"),
        ("failed", deposited(10), "applied"),
        ("denied", deposited(10), "applied"),
        ("partial", account(balance=110), "partial"),
        ("partial", deposited(10), "applied"),
    ],
)
def test_one_effect(contracts: Contracts, outcome: Outcome, after: Any, verdict: str) -> None:
    words, found = judged(contracts, [effect("deposit", outcome, account="a", amount=10)], {A: account()}, {A: after})
    assert words == [verdict]
    assert found.unattributed == ()
    evidence = found.verdicts[0].evidence
    assert evidence["contract"] == {"version": "7", "digest": contracts.digest}
    assert {part["field"] for part in evidence["parts"]} == {"balance", "history"}


def test_evidence_names_each_part(contracts: Contracts) -> None:
    _, found = judged(contracts, [effect("deposit", account="a", amount=10)], {A: account()}, {A: account(balance=110)})
    parts = {part["field"]: part for part in found.verdicts[0].evidence["parts"]}
    assert parts["balance"]["landed"] == "yes"
    assert parts["history"]["landed"] == "no"
    assert (parts["balance"]["expected"], parts["balance"]["observed"]) == (110, 110)
    assert parts["balance"]["version"] == "7"


def test_later_effects_stand_on_earlier_ones(contracts: Contracts) -> None:
    two = [effect("deposit", account="a", amount=10), effect("deposit", account="a", amount=5)]
    assert judged(contracts, two, {A: account()}, {A: deposited(10, 5)})[0] == ["applied", "applied"]
    assert judged(contracts, two, {A: account()}, {A: deposited(5)})[0] == ["not_applied", "applied"]
    assert judged(contracts, two, {A: account()}, {A: deposited(10)})[0] == ["applied", "not_applied"]
    assert judged(contracts, two, {A: account()}, {A: deposited(10, 5, 5)})[0] == ["applied", "duplicated"]
    assert judged(contracts, two, {A: account()}, {A: deposited(10, 10, 5)})[0] == ["duplicated", "applied"]
    renamed = [
        effect("rename", account="a", name="Bea", tags=["b", "a"]),
        effect("rename", account="a", name="Cleo", tags=[]),
    ]
    after = {A: account(name="Cleo", tags=[])}
    assert judged(contracts, renamed, {A: account()}, after)[0] == ["applied", "applied"]


def test_of_two_equal_writes_the_replies_tell_which_is_missing(contracts: Contracts) -> None:
    before = {A: account()}
    first = effect("deposit", account="a", amount=10, reply=deposited(10))
    second = effect("deposit", account="a", amount=10, reply=deposited(10))
    third = effect("deposit", account="a", amount=10, reply=deposited(10, 10))
    assert judged(contracts, [first, third], before, {A: deposited(10, 10)})[0] == ["applied", "applied"]
    assert judged(contracts, [first, second], before, {A: deposited(10)})[0] == ["not_applied", "applied"]


def test_an_unknown_write_that_a_later_one_hides_is_unknowable(contracts: Contracts) -> None:
    lost = effect("rename", "unknown", account="a", name="Bea", tags=["b", "a"])
    words, found = judged(
        contracts,
        [lost, effect("rename", account="a", name="Cleo", tags=["a"])],
        {A: account()},
        {A: account(name="Cleo", tags=["a"])},
    )
    assert words == ["unknowable", "applied"]
    assert "overwritten" in str(found.verdicts[0].reason)


def test_a_call_with_nothing_to_change_is_applied_and_not_the_culprit(contracts: Contracts) -> None:
    idle = effect("rename", account="a", name="Ann", tags=["a", "b"])
    assert judged(contracts, [idle], {A: account()}, {A: account()})[0] == ["applied"]
    words, found = judged(contracts, [idle], {A: account()}, {A: account(name="Eve")})
    assert words == ["applied"]
    assert [change.row for change in found.unattributed] == [A]


def test_a_change_that_no_effect_explains_is_unattributed(contracts: Contracts) -> None:
    before = {A: account(), B: account()}
    after = {A: {**deposited(10), "name": "Eve"}, B: account(balance=1, seen_at="2")}
    words, found = judged(contracts, [effect("deposit", account="a", amount=10)], before, after)
    assert words == ["applied"]
    assert {change.row: [d["field"] for d in change.evidence["differences"]] for change in found.unattributed} == {
        A: ["name"],
        B: ["balance"],
    }
    words, found = judged(contracts, [], before, {A: None, B: account(), RowKey("accounts", ("c",)): account()})
    assert {change.row.key for change in found.unattributed} == {("a",), ("c",)}
    assert judged(contracts, [], before, {A: account(seen_at="9"), B: account()})[1].unattributed == ()


def test_created_rows_without_a_known_key_are_found_by_content(contracts: Contracts) -> None:
    pay = effect("pay", account="a", amount=10)
    before, left = {A: account()}, {A: account(balance=90)}

    def payment(number: str, amount: float = 10, status: str = "paid") -> dict[RowKey, Any]:
        doc = {"id": number, "account": "a", "amount": amount, "status": status, "made": "today"}
        return {RowKey("payments", (number,)): doc}

    assert judged(contracts, [pay], before, {**left, **payment("1")})[0] == ["applied"]
    assert judged(contracts, [pay], before, left)[0] == ["partial"]
    assert judged(contracts, [pay], before, {**before})[0] == ["not_applied"]
    assert judged(contracts, [pay], before, {**before, **payment("1")})[0] == ["partial"]
    assert judged(contracts, [pay], before, {**left, **payment("1"), **payment("2")})[0] == ["duplicated"]
    twice = {A: account(balance=80), **payment("1"), **payment("2")}
    assert judged(contracts, [pay], before, twice)[0] == ["duplicated"]
    assert judged(contracts, [pay, effect("pay", account="a", amount=10)], before, twice)[0] == ["applied", "applied"]
    assert judged(contracts, [pay], before, {**left, **payment("1", amount=11)})[0] == ["mismatched"]
    words, found = judged(
        contracts, [effect("pay", "failed", account="a", amount=10)], before, {**before, **payment("1")}
    )
    assert words != ["not_applied"] or found.unattributed


def test_a_key_that_only_the_lost_reply_held(contracts: Contracts) -> None:
    before = {A: account(), OWNER: {"accounts": ["a"]}}
    new = RowKey("accounts", ("n",))
    after = {A: account(), OWNER: {"accounts": ["a", "n"]}, new: {"name": "Neu", "balance": 0, "tags": []}}
    heard = effect("open", reply='{"id": "n"}', name="Neu", country="de", number=5)
    lost = effect("open", "unknown", name="Neu", country="de", number=5)
    for attempt in (heard, lost):
        assert judged(contracts, [attempt], before, after)[0] == ["applied"]
        assert judged(contracts, [attempt], before, before)[0] == ["not_applied"]
        words, found = judged(contracts, [attempt], before, {**after, OWNER: before[OWNER]})
        assert words == ["partial"]
        assert found.unattributed == ()


def test_deleted_rows_removed_keys_and_what_only_the_reply_tells(contracts: Contracts) -> None:
    close = effect("close", account="a")
    assert judged(contracts, [close], {A: account()}, {A: None})[0] == ["applied"]
    assert judged(contracts, [close], {A: account()}, {A: account()})[0] == ["not_applied"]
    unlocked = {name: value for name, value in account().items() if name != "lock"}
    heard = effect("unlock", reply={"officer": "Kim"}, account="a")
    lost = effect("unlock", "unknown", account="a")
    assert judged(contracts, [heard], {A: account()}, {A: {**unlocked, "opened_by": "Kim"}})[0] == ["applied"]
    assert judged(contracts, [heard], {A: account()}, {A: {**unlocked, "opened_by": "Lee"}})[0] == ["mismatched"]
    assert judged(contracts, [heard], {A: account()}, {A: unlocked})[0] == ["partial"]
    words, found = judged(contracts, [lost], {A: account()}, {A: {**unlocked, "opened_by": "Lee"}})
    assert words == ["applied"]
    assert found.verdicts[0].evidence["counts"] == {"yes": 1, "open": 1}
    assert found.unattributed == ()


def test_a_write_per_element(contracts: Contracts) -> None:
    tag = effect("tag_all", accounts=["a", "b"], tag="c")
    before = {A: account(), B: account()}
    tagged = account(tags=["c", "b", "a"])
    assert judged(contracts, [tag], before, {A: tagged, B: tagged})[0] == ["applied"]
    assert judged(contracts, [tag], before, {A: tagged, B: account()})[0] == ["partial"]
    assert judged(contracts, [tag], before, before)[0] == ["not_applied"]


def test_without_a_baseline_only_what_is_certain_is_compared(contracts: Contracts) -> None:
    nothing = Rows()
    rename = effect("rename", account="a", name="Bea", tags=["x"])
    deposit = effect("deposit", account="a", amount=10)

    def words(one: Effect, after: dict[RowKey, Any]) -> list[str]:
        found = judge(contracts, "bank", [one], nothing, rows(after))
        assert found.unattributed == ()
        return [verdict.verdict for verdict in found.verdicts]

    assert words(rename, {A: account(name="Bea", tags=["x"])}) == ["applied"]
    assert words(rename, {A: account()}) == ["not_applied"]
    assert words(rename, {A: account(name="Bea")}) == ["mismatched"]
    assert words(rename, {A: {"name": "Bea"}}) == ["partial"]
    assert words(deposit, {A: account()}) == ["unknowable"]
    assert words(effect("close", account="a"), {A: None}) == ["applied"]
    replied = effect("deposit", account="a", amount=10, reply=deposited(10))
    assert words(replied, {A: deposited(10)}) == ["applied"]
    assert words(replied, {A: deposited(10, balance=7)}) == ["mismatched"]


def test_other_writers_are_never_a_mismatch(tmp_path: Path) -> None:
    undeclared = load_text(tmp_path, TEXT.replace('writers = "exclusive"\n', ""))
    shared = load_text(tmp_path, TEXT.replace('"exclusive"', '{ ours = "by = 1" }'))
    rename = effect("rename", account="a", name="Bea", tags=["b", "a"])
    before = rows({A: account()})

    def verdict(contracts: Contracts, doc: Any, ours: bool | None) -> tuple[str, int]:
        after = Rows({A: Row(row_of(doc).doc, "1", ours)}, WHOLE)
        found = judge(contracts, "bank", [rename], before, after)
        strays = (*found.unattributed, *sweep(contracts, "bank", before, after, found))
        return found.verdicts[0].verdict, len(strays)

    foreign = account(name="Eve", balance=3)
    assert verdict(undeclared, foreign, None) == ("unknowable", 0)
    assert verdict(shared, foreign, False) == ("unknowable", 0)
    assert verdict(shared, account(name="Eve"), True) == ("mismatched", 0)
    assert verdict(undeclared, account(name="Bea", balance=3), None) == ("applied", 0)
    assert verdict(shared, account(name="Bea", balance=3), False) == ("applied", 0)
    assert verdict(shared, account(name="Bea", balance=3), True) == ("applied", 1)
    assert verdict(undeclared, account(), None) == ("not_applied", 0)


def test_what_cannot_be_judged_says_so_and_blames_nobody(contracts: Contracts) -> None:
    before, after = {A: account(), B: account()}, {A: account(name="Eve"), B: account()}
    for strange in (effect("nosuch", account="a"), effect("broken", account="a")):
        words, found = judged(contracts, [strange], before, after)
        assert words == ["unknowable"]
        assert found.verdicts[0].reason
        assert [change.verdict for change in found.unattributed] == ["unknowable"]
    assert judged(contracts, [effect("nosuch", "failed")], before, after)[1].unattributed[0].verdict == "unattributed"
    assert "no contract for tool nosuch" in str(
        judged(contracts, [effect("nosuch")], before, after)[1].verdicts[0].reason
    )
    for args in (
        {"account": "a", "amount": float("nan")},
        {"account": None, "amount": 1},
        {"account": "a", "amount": "\0"},
    ):
        words, _ = judged(contracts, [effect("deposit", **args)], before, before)
        assert words == ["unknowable"]
    unread = judge(contracts, "bank", [effect("deposit", account="a", amount=1)], rows(before), Rows())
    assert unread.verdicts[0].verdict == "unknowable"
    bad = judge(
        contracts,
        "bank",
        [effect("deposit", account="a", amount=1)],
        rows(before),
        Rows({A: Row(None, problem="broken")}),
    )
    assert "broken" in str(bad.verdicts[0].reason)
    refused = effect("broken", "failed", account="a")
    assert judged(contracts, [refused], before, before)[0] == ["not_applied"]


def test_which_rows_an_effect_needs(contracts: Contracts) -> None:
    pay = effect("pay", account="a", amount=10)
    touched = resources_of(contracts, pay, "bank", Rows(), Rows())
    assert touched.writes == {A}
    assert touched.missing == {A}
    assert [(search.resource, search.fields) for search in touched.searches] == [("payments", (("account", "a"),))]
    assert resources_of(contracts, pay, "bank", rows({A: account()}), Rows()).missing == frozenset()
    assert resources_of(contracts, effect("nosuch"), "bank", Rows(), Rows()).reason == "no contract for tool nosuch"


def test_a_write_in_another_tenants_row_names_its_suspect(contracts: Contracts) -> None:
    deposit = effect("deposit", account="a", amount=10)
    _, ours = judged(contracts, [deposit], {A: account()}, {A: account()})
    _, theirs = judged(contracts, [], {A: account()}, {A: deposited(10)})
    assert suspects(theirs.unattributed, ours.verdicts) == {A: (deposit.effect_id,)}


@pytest.mark.parametrize(
    ("left", "words"),
    [
        (deposited(*[10] * 3), {"applied": 3, "not_applied": 5}),
        (deposited(*[10] * 16), {"duplicated": 8}),
        (deposited(*[10] * 7), {"applied": 7, "not_applied": 1}),
        (deposited(*[10] * 8, balance=-3), {"applied": 7, "mismatched": 1}),
    ],
)
def test_eight_deposits(contracts: Contracts, left: Any, words: dict[str, int]) -> None:
    """The table in docs/contracts.md."""
    found, _ = judged(
        contracts, [effect("deposit", account="a", amount=10) for _ in range(8)], {A: account()}, {A: left}
    )
    assert Counter(found) == words


def test_a_crowded_row_is_judged_in_bounded_time(contracts: Contracts) -> None:
    many = [effect("deposit", account="a", amount=float(n)) for n in range(1, 41)]
    amounts = [float(n) for n in range(1, 41)]
    assert set(judged(contracts, many, {A: account()}, {A: deposited(*amounts)})[0]) == {"applied"}
    words, _ = judged(contracts, many, {A: account()}, {A: deposited(*amounts[:20], *amounts[21:])})
    assert [index for index, word in enumerate(words) if word != "applied"] == [20]
    garbled = {A: account(balance=-1, history=[{"kind": "x", "amount": 0}] * 35)}
    assert len(judged(contracts, many, {A: account()}, garbled)[0]) == 40


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("deposit"), st.sampled_from("ab"), st.integers(1, 500)),
        st.tuples(st.just("rename"), st.sampled_from("ab"), st.sampled_from(["Bea", "Cleo", "Dora"])),
    ),
    min_size=1,
    max_size=6,
)


def play(docs: dict[RowKey, Any], tool: str, name: str, value: Any) -> None:
    doc = docs[RowKey("accounts", (name,))]
    if tool == "deposit":
        doc["balance"] = round(doc["balance"] + value, 2)
        doc["history"].append({"kind": "deposit", "amount": value})
    else:
        doc.update(name=value, tags=["x"])


def as_effect(tool: str, name: str, value: Any) -> Effect:
    if tool == "deposit":
        return effect(tool, account=name, amount=value)
    return effect(tool, account=name, name=value, tags=["x"])


@settings(deadline=None, max_examples=60)
@given(STEPS, st.randoms(use_true_random=False))
def test_a_clean_history_is_all_applied_whatever_the_order_of_the_lists(
    contracts: Contracts, steps: list[Any], random: Any
) -> None:
    before = {A: account(), B: account()}
    after = copy.deepcopy(before)
    effects = [as_effect(*step) for step in steps]
    for step in steps:
        play(after, *step)
    first = judge(contracts, "bank", effects, rows(before), rows(after))
    assert {verdict.verdict for verdict in first.verdicts} == {"applied"}
    assert first.unattributed == ()
    shuffled = random.sample(effects, len(effects))
    shuffled_rows = dict(random.sample(list(after.items()), len(after)))
    second = judge(contracts, "bank", shuffled, rows(before), rows(shuffled_rows))
    assert {v.effect_id: v for v in first.verdicts} == {v.effect_id: v for v in second.verdicts}


@settings(deadline=None, max_examples=60)
@given(STEPS, st.data())
def test_one_fault_always_shows(contracts: Contracts, steps: list[Any], data: Any) -> None:
    before = {A: account(), B: account()}
    after = copy.deepcopy(before)
    effects = [as_effect(*step) for step in steps]
    deposits = [index for index, step in enumerate(steps) if step[0] == "deposit"]
    if not deposits:
        return
    faulty = data.draw(st.sampled_from(deposits))
    fault = data.draw(st.sampled_from(["missing", "doubled", "half", "other"]))
    for index, step in enumerate(steps):
        if index != faulty:
            play(after, *step)
        elif fault == "doubled":
            play(after, *step)
            play(after, *step)
        elif fault == "half":
            after[RowKey("accounts", (step[1],))]["balance"] += step[2]
        elif fault == "other":
            play(after, step[0], step[1], step[2] + 1_000)
    found = judge(contracts, "bank", effects, rows(before), rows(after))
    drifting = [verdict.verdict for verdict in found.verdicts if verdict.verdict != "applied"]
    assert len(drifting) == 1
    assert found.unattributed == ()
    word = {"missing": "not_applied", "doubled": "duplicated", "half": "partial", "other": "mismatched"}[fault]
    same_amounts = len({step[2] for step in steps if step[0] == "deposit"}) < len(deposits)
    assert drifting == [word] or same_amounts


MAIL = """
version = "1"
[targets.mail]
kind = "postgresql"
[targets.mail.resources.sent]
table = "sent"
key = ["id"]
[tools.send]
target = "mail"
[[tools.send.writes]]
resource = "sent"
create = true
find = { reference = "effect" }
set.subject = "args.subject"
"""


def sent(number: str, one: Effect, **changes: Any) -> dict[RowKey, Any]:
    return {RowKey("sent", (number,)): {"reference": one.effect_id.hex(), "subject": "Invoice", **changes}}


def test_two_rows_that_bear_an_effect_s_id_are_its_own_also_where_nobody_sweeps(tmp_path: Path) -> None:
    """Who else writes there was not declared; but nobody else knows that id."""
    contracts = load_text(tmp_path, MAIL)
    send, other = effect("send", subject="Invoice"), effect("send", subject="Invoice")

    def words(after: dict[RowKey, Any], *effects: Effect) -> list[str]:
        return [one.verdict for one in judge(contracts, "mail", effects, Rows(), rows(after, frozenset())).verdicts]

    assert words(sent("1", send), send) == ["applied"]
    assert words(sent("1", send) | sent("2", send), send) == ["duplicated"]
    assert words(sent("1", send) | sent("2", other), send, other) == ["applied", "applied"]
    assert words(sent("1", send) | sent("2", send) | sent("3", other), send, other) == ["duplicated", "applied"]
    foreign = {RowKey("sent", ("9",)): {"reference": "theirs", "subject": "Invoice"}}
    assert words(sent("1", send) | foreign, send) == ["applied"]


def test_a_row_that_can_t_be_read_may_be_the_one_that_was_created(tmp_path: Path) -> None:
    """To call it absent would have it sent again."""
    contracts = load_text(tmp_path, MAIL)
    send = effect("send", subject="Invoice")
    unreadable = Rows({RowKey("sent", ("1",)): Row(None, problem="it has 9000000 bytes, more than 4000000")})
    [verdict] = judge(contracts, "mail", [send], Rows(), unreadable).verdicts
    assert verdict.verdict == "unknowable"
    assert "9000000 bytes" in (verdict.reason or "")
    [verdict] = judge(contracts, "mail", [send], Rows(), Rows()).verdicts
    assert verdict.verdict == "not_applied"
    both = Rows({**unreadable.rows, **rows(sent("2", send)).rows})
    assert [one.verdict for one in judge(contracts, "mail", [send], Rows(), both).verdicts] == ["applied"]
