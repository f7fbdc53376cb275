"""`counterfoil contracts`: mistakes are found before they cost a verdict, coverage is told, one write can be tried."""

import uuid
from pathlib import Path

import psycopg
import pytest

from counterfoil import Recorder, RecorderSettings
from counterfoil_consumers.store import Connection

from .conftest import CONTRACTS, Call, credit, work

LINE_OF_AMOUNT = CONTRACTS.splitlines().index('set.amount = "number(args.amount)"') + 1


def spoil(contracts: Path, old: str, new: str) -> None:
    text = contracts.read_text(encoding="utf-8")
    assert text.count(old) == 1
    contracts.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture
def worked(call: Call, recorder: Recorder, database: str, bank: Path) -> Path:
    """The bank after a first look at it and three credits, which are ingested and not judged yet."""
    assert call("tenant", "add", "acme").code == 0
    assert call("ingest", "--once").code == 0
    assert call("reconcile", "--once").code == 0  # takes the baseline
    work(recorder, database)
    assert call("ingest", "--once").code == 0
    return bank


def judge(call: Call) -> None:
    for _ in range(4):
        assert call("reconcile", "--once", GIVE_UP_AFTER_SECONDS="0").code == 0
        assert call("ingest", "--once").code == 0


def effect_of(operator: Connection, account: str) -> uuid.UUID:
    query = "SELECT effect_id FROM counterfoil.effect WHERE args ->> 'account' = %s AND target IS NOT NULL"
    [row] = operator.execute(query, (account,)).fetchall()
    return uuid.UUID(str(row["effect_id"]))


def test_check_says_every_mistake_with_its_line(bare: Call, tmp_path: Path) -> None:
    contracts = tmp_path / "mine.toml"
    contracts.write_text(CONTRACTS.replace("number(", "numbr(").replace("args.account", "arg.account"))
    said = bare("contracts", "check", str(contracts), "--offline", "--json")
    assert said.code == 1
    assert [(one["grade"], one["file"], one["line"]) for one in said.json["findings"]] == [
        ("bad", "mine.toml", LINE_OF_AMOUNT - 1),
        ("bad", "mine.toml", LINE_OF_AMOUNT),
    ]
    told = bare("contracts", "check", str(contracts), "--offline")
    assert (told.code, told.out.count("BAD"), "2 mistakes" in told.out) == (1, 2, True)


def test_check_offline_asks_nobody(bare: Call, bank: Path) -> None:
    said = bare("contracts", "check", str(bank), "--offline")
    assert (said.code, said.out) == (0, "version 3 with 1 tool: no mistake\n")


def test_check_of_what_is_not_there(bare: Call, tmp_path: Path) -> None:
    said = bare("contracts", "check", str(tmp_path / "nowhere.toml"), "--offline", "--json")
    assert said.code == 1
    assert "cannot be read (No such file or directory)" in said.json["findings"][0]["what"]


def test_check_asks_the_target(call: Call, bank: Path) -> None:
    assert call("contracts", "check").code == 0
    spoil(bank, "set.amount", "set.amuont")
    said = call("contracts", "check", "--json")
    assert (said.code, [one["line"] for one in said.json["findings"]]) == (1, [LINE_OF_AMOUNT])
    assert "did you mean amount?" in said.json["findings"][0]["what"]


def test_a_target_that_gives_no_answer_is_no_good_answer(call: Call, bank: Path) -> None:
    said = call("contracts", "check", "--json", TARGETS__BANK__DSN="postgresql://nobody:secret@127.0.0.1:1/none")
    assert said.code == 1
    [finding] = said.json["findings"]
    assert finding["what"].startswith("target bank was not asked: ")
    assert "or pass --offline" in finding["what"]
    assert "secret" not in said.out
    unset = call("contracts", "check", "--json", TARGETS__BANK__DSN=None)
    assert (unset.code, "COUNTERFOIL_TARGETS__BANK__DSN" in unset.json["findings"][0]["what"]) == (1, True)


def test_check_without_a_store_says_what_it_did_not_do(call: Call, bank: Path) -> None:
    said = call("contracts", "check", "--json", STORE__DSN=None)
    assert (said.code, said.json["good"]) == (0, True)
    assert said.json["notes"][0].startswith("not compared with what was recorded: no store is named")


def test_check_warns_of_an_argument_that_nobody_ever_gave(call: Call, worked: Path) -> None:
    assert call("contracts", "check", "--json").json["findings"] == []
    spoil(worked, "args.amount", "args.amuont")
    said = call("contracts", "check", "--json")
    assert said.code == 0
    [finding] = said.json["findings"]
    assert (finding["grade"], finding["line"]) == ("warning", LINE_OF_AMOUNT)
    assert finding["what"] == (
        f"contracts.toml line {LINE_OF_AMOUNT}: `number(args.amuont)`: none of the 3 writes of credit that were looked "
        "at has an argument amuont; did you mean amount?"
    )


def test_check_warns_of_one_write_under_several_ids(
    call: Call, worked: Path, recorder_settings: RecorderSettings
) -> None:
    spoil(
        worked, '[tools.credit]\ntarget = "bank"', '[tools.credit]\ntarget = "bank"\nidentity = ["account", "amount"]'
    )
    assert call("contracts", "check", "--json").json["findings"] == []
    with Recorder(recorder_settings) as recorder, recorder.task("again", task_ref="T-7") as task:
        for note in ("first", "second"):
            args = {"account": "a", "amount": "5", "note": note}
            task.effect("credit", target="bank", args=args).__enter__().ok()
        for step in ("1", "2"):
            task.effect("credit", target="bank", args={"account": "c", "amount": "5"}, step=step).__enter__().ok()
    assert call("ingest", "--once").code == 0
    said = call("contracts", "check", "--json")
    [finding] = said.json["findings"]
    assert (said.code, finding["grade"]) == (0, "warning")
    assert finding["line"] == CONTRACTS.splitlines().index("[tools.credit]") + 3
    assert "2 of the latest writes of credit have this identity" in finding["what"]
    assert 'pass identity=["account", "amount"]' in finding["what"]


def test_coverage_of_nothing(call: Call, bank: Path) -> None:
    said = call("contracts", "coverage", "--json")
    assert (said.code, said.json["share"], said.json["never_seen"]) == (0, None, ["credit"])
    assert "no live write was seen" in call("contracts", "coverage", "--at-least", "0").sentence


def test_coverage_by_tool_the_least_covered_first(call: Call, recorder: Recorder, database: str, bank: Path) -> None:
    call("tenant", "add", "acme")
    call("ingest", "--once")
    call("reconcile", "--once")
    with recorder.task("more", task_ref="T-2") as task:
        for number in range(4):
            task.effect("mail", target=None, args={"n": number}).__enter__().ok()
        task.effect("debit", target="bank", args={"account": "a"}).__enter__().ok()
        task.effect("credit", target="elsewhere", args={"account": "a"}).__enter__().ok()
    with recorder.task("trial", task_ref="T-3", mode="shadow") as task:
        task.effect("mail", target=None, args={"n": 9}).__enter__().ok()
    work(recorder, database)
    call("ingest", "--once")
    settling = call("contracts", "coverage", "--json").json
    assert (settling["share"], settling["writes"], settling["uncovered"]) == (0, 9, 4)
    assert {one["tool"]: one["settling"] for one in settling["tools"] if one["contract"] == "judges"} == {"credit": 3}
    judge(call)
    said = call("contracts", "coverage", "--json").json
    assert [(one["tool"], one["target"], one["contract"], one["writes"]) for one in said["tools"]] == [
        ("mail", None, "no target", 4),
        ("credit", "elsewhere", "another target", 1),
        ("debit", "bank", "no contract", 1),
        ("credit", "bank", "judges", 3),
    ]
    assert said["tools"][2]["unknowable"] == [{"reason": "no contract for tool debit", "writes": 1}]
    assert said["tools"][3]["verdicts"] == {"not_applied": 2, "applied": 1}
    assert (said["share"], said["covered"]) == (pytest.approx(3 / 9), 3)


def test_coverage_for_ci(call: Call, worked: Path) -> None:
    judge(call)
    assert call("contracts", "coverage", "--at-least", "1").code == 0
    told = call("contracts", "coverage", "--since", "1h").out
    assert "100 % covered: 3 of 3 writes" in told
    assert call("contracts", "coverage", "--since", "2999-01-01", "--json").json["writes"] == 0
    assert call("contracts", "coverage", "--tenant", "nobody", "--json").json["writes"] == 0
    spoil(worked, "[tools.credit]", "[tools.debit]")
    spoil(worked, "[[tools.credit.writes]]", "[[tools.debit.writes]]")
    said = call("contracts", "coverage", "--json").json
    assert (said["share"], said["never_seen"], said["tools"][0]["contract"]) == (1, ["debit"], "no contract")
    worked.unlink()
    assert "does not exist, so nothing has a contract" in call("contracts", "coverage").out


@pytest.mark.parametrize("share", ["nan", "-1", "2", "x"])
def test_a_share_that_is_none(call: Call, bank: Path, share: str) -> None:
    assert call("contracts", "coverage", f"--at-least={share}").code != 0


def test_coverage_below_what_is_asked_for(call: Call, worked: Path) -> None:
    sentence = call("contracts", "coverage", "--at-least", "0.95").sentence
    assert sentence.startswith("0 % of the writes are covered, and 95 % are asked for")


def test_since_when_is_a_moment_or_a_length_of_time(call: Call, bank: Path) -> None:
    assert "is no length of time" in call("contracts", "coverage", "--since", "yesterday").sentence
    assert "there was no calendar" in call("contracts", "coverage", "--since", "999999d").sentence
    for good in ("2026-01-31", "2026-01-31T12:00:00+02:00", "30m"):
        assert call("contracts", "coverage", "--since", good).code == 0


def untouched(database: str) -> list[object]:
    """All that a reconciler writes."""
    tables = ("check_lease", "check_state", "target_baseline", "outbox", "dead_letter", "effect")
    with psycopg.connect(database) as connection:
        return [
            connection.execute(f"SELECT t::text FROM counterfoil.{one} AS t ORDER BY 1").fetchall() for one in tables
        ]


def test_a_write_is_tried_and_nothing_is_written(call: Call, worked: Path, operator: Connection, database: str) -> None:
    before = untouched(database)
    said = call("contracts", "test", "--effect", effect_of(operator, "b").hex[:12], "--json").json
    assert (said["verdict"], said["agent_said"], said["in_force"]) == ("not_applied", "ok", None)
    assert (said["way"], said["fault"], said["knows_before"], said["closed"]) == ("never", True, True, False)
    [part] = said["evidence"]["parts"]
    assert (part["field"], part["expected"], part["observed"], part["landed"]) == ("amount", 7, 0, "no")
    told = call("contracts", "test", "--effect", str(effect_of(operator, "a"))).out
    assert "the agent said ok, these contracts say applied" in told
    assert "in force: nothing is said yet" in told
    assert "intended 5, the target has 5" in told
    assert untouched(database) == before


def test_contracts_on_disk_are_held_beside_the_verdict_in_force(
    call: Call, worked: Path, operator: Connection, database: str
) -> None:
    judge(call)
    effect = effect_of(operator, "b")
    credit(database, "b", "8")
    spoil(worked, '"number(args.amount)"', '"number(args.amount) + 1"')
    before = untouched(database)
    said = call("contracts", "test", "--effect", effect.hex, "--json").json
    assert (said["verdict"], said["in_force"]["verdict"], said["in_force"]["drift"]) == ("applied", "not_applied", True)
    assert (said["closed"], said["knows_before"]) == (True, True)  # it was found absent, so the row is as before it
    landed = call("contracts", "test", "--effect", effect_of(operator, "a").hex, "--json").json
    assert (landed["closed"], landed["knows_before"]) == (True, False)  # the row as it is known has it in already
    told = call("contracts", "test", "--effect", effect.hex).out
    assert "in force: not_applied, which is drift, by other contracts (version 3)" in told
    assert untouched(database) == before


def test_writes_that_share_a_row_are_explained_together(
    call: Call, worked: Path, recorder_settings: RecorderSettings, operator: Connection, database: str
) -> None:
    judge(call)
    with Recorder(recorder_settings) as recorder, recorder.task("again", task_ref="T-5") as task:
        task.effect("credit", target="bank", args={"account": "a", "amount": "6"}).__enter__().ok()
    credit(database, "a", "6")
    call("ingest", "--once")
    query = "SELECT effect_id FROM counterfoil.effect WHERE args ->> 'amount' = '6'"
    [row] = operator.execute(query).fetchall()
    later = uuid.UUID(str(row["effect_id"]))
    first = next(
        uuid.UUID(str(row["effect_id"]))
        for row in operator.execute("SELECT effect_id FROM counterfoil.effect WHERE args ->> 'amount' = '5'")
    )
    said = call("contracts", "test", "--effect", first.hex, "--json").json
    assert (said["verdict"], [one["effect_id"] for one in said["beside"]]) == ("applied", [later.hex])
    told = call("contracts", "test", "--effect", first.hex).out
    assert "what fits with the fewest faults (0 here):" in told
    assert "← this one" in told


def test_what_cannot_be_compared_says_why(call: Call, worked: Path, operator: Connection) -> None:
    spoil(worked, '"number(args.amount)"', '"number(args.sum)"')
    said = call("contracts", "test", "--effect", effect_of(operator, "a").hex, "--json").json
    assert said["verdict"] == "unknowable"
    [part] = said["evidence"]["parts"]
    assert part["landed"] == "open"
    assert part["left_open"].startswith("`number(args.sum)`: ")
    assert "not compared" in call("contracts", "test", "--effect", effect_of(operator, "a").hex).out


def test_a_call_that_nobody_made(call: Call, worked: Path, tmp_path: Path, database: str) -> None:
    before = untouched(database)
    (tmp_path / "args.json").write_text('{"account": "a", "amount": "5"}')
    made_up = ("contracts", "test", "--tool", "credit", "--args", "args.json", "--json")
    assert call(*made_up).json["verdict"] == "applied"
    (tmp_path / "args.json").write_text('{"account": "b", "amount": "9"}')
    said = call(*made_up, "--outcome", "failed").json
    assert (said["verdict"], said["in_force"], said["fault"]) == ("not_applied", None, False)
    assert untouched(database) == before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "say which write: --effect ID, or --tool NAME with --args FILE"),
        (["--effect", "12345678", "--args", "good.json"], "a recorded write has its own arguments and reply"),
        (["--effect", "xyz"], "'xyz' is no effect's id: 32 hex digits, or the first 8 of them or more"),
        (["--effect", "0" * 32], f"the store has no effect {'0' * 32}; see `counterfoil timeline`"),
        (["--tool", "nosuch"], "there is no contract for tool nosuch; there is credit"),
        (["--tool", "credit", "--outcome", "fine"], "'fine' is no outcome; write one of ok, "),
        (["--tool", "credit", "--args", "nowhere.json"], "nowhere.json can't be read: No such file"),
        (["--tool", "credit", "--args", "list.json"], "list.json holds no arguments"),
        (["--tool", "credit", "--args", "bad.json"], "bad.json is no JSON: "),
        (["--tool", "credit", "--args", "good.json"], "whose writes? pass --tenant"),
    ],
)
def test_tries_that_cannot_be(call: Call, bank: Path, tmp_path: Path, arguments: list[str], sentence: str) -> None:
    for name, text in {"list": "[1]", "bad": "{", "good": "{}"}.items():
        (tmp_path / f"{name}.json").write_text(text)
    assert call("contracts", "test", *arguments).sentence.startswith(sentence)


def test_a_write_whose_contract_names_another_target(
    call: Call, worked: Path, operator: Connection, database: str
) -> None:
    elsewhere = """
[targets.vault]
kind = "postgresql"
[targets.vault.resources.chests]
table = "bank.accounts"
key = ["id"]
"""
    spoil(worked, 'target = "bank"', 'target = "vault"')
    spoil(worked, 'resource = "accounts"', 'resource = "chests"')
    spoil(worked, "[tools.credit]", f"{elsewhere}[tools.credit]")
    reach = {"TARGETS__VAULT__DSN": database}
    said = call("contracts", "test", "--effect", effect_of(operator, "a").hex, "--json", **reach).json
    assert (said["verdict"], said["reason"]) == ("unknowable", "the contract of credit names the target vault")
    passed = call("reconcile", "--once", **reach)
    assert (passed.code, passed.err) == (0, "")
    coverage = call("contracts", "coverage", "--json").json
    assert {(one["tool"], one["contract"]) for one in coverage["tools"]} == {("credit", "another target")}


def test_a_write_at_a_target_that_no_contract_declares(call: Call, worked: Path, operator: Connection) -> None:
    spoil(worked, "[targets.bank]\n", "[targets.banks]\n")
    spoil(worked, "[targets.bank.resources.accounts]", "[targets.banks.resources.accounts]")
    spoil(worked, 'target = "bank"', 'target = "banks"')
    sentence = call("contracts", "test", "--effect", effect_of(operator, "a").hex).sentence
    assert "names the target bank, which the contracts can't judge; they declare banks" in sentence
