"""All that is wrong with contracts is found in one reading, each with its file and line, and nothing beside it."""

from pathlib import Path

import pytest

from counterfoil_reconcilers.contracts import ContractError, examine, load
from tests.fix_shop import CONTRACTS

SOUND = CONTRACTS % {"writers": 'writers = "exclusive"', "settle": 0}


def mistakes(folder: Path, text: str = "", **files: str) -> list[str]:
    for name, content in ({"contracts": text} | files if text else files).items():
        (folder / f"{name}.toml").write_text(content, encoding="utf-8")
    contracts, found = examine(folder)
    assert (contracts is None) == bool(found)
    if found:
        with pytest.raises(ContractError) as caught:
            load(folder)
        assert str(caught.value) == str(found[0])  # one path: the first is what stops everything else
    return [str(one) for one in found]


def spoilt(*changes: tuple[str, str]) -> str:
    text = SOUND
    for old, new in changes:
        assert text.count(old) >= 1
        text = text.replace(old, new, 1)
    return text


def test_sound_contracts_have_none(tmp_path: Path) -> None:
    assert mistakes(tmp_path, SOUND) == []


def test_mistakes_of_every_part_are_found_at_once(tmp_path: Path) -> None:
    text = spoilt(
        ('set.status = "args.status"', 'set.status = "arg.status"\nset.by = 5'),
        ("before.paid + number(args.amount)", "before.paid +"),
        ('find = { reference = "effect" }', 'find = { reference = "effects" }'),
        ('set.amount = "number(args.amount)"', "set.amount = \"lookup('refund', {'id': args.id}).x\""),
    )
    found = mistakes(tmp_path, text)
    assert [line.split(": ")[0] for line in found] == [
        "contracts.toml line 26",
        "contracts.toml line 27",
        "contracts.toml line 34",
        "contracts.toml line 45",
        "contracts.toml line 47",
    ]
    assert "undeclared reference to 'arg.status'" in found[0]
    assert "looks up refund, which target shop does not have; did you mean refunds?" in found[4]


def test_what_hangs_on_a_wrong_part_is_not_said_to_be_wrong(tmp_path: Path) -> None:
    wrong_resource = spoilt(('table = "shop.orders"', "table = 5"), ("\"'refunded'\"", '"refunded("'))
    [table, expression] = mistakes(tmp_path, wrong_resource)
    assert "contracts.toml line 10" in table
    assert "refunded(" in expression  # of a write to that resource, whose name is known
    [kind] = mistakes(tmp_path, spoilt(('kind = "postgresql"', 'kind = "postgres"')))
    assert "there is no kind postgres" in kind
    found = mistakes(tmp_path, spoilt(('key = ["id"]', "key = []"), ('target = "shop"', 'target = "shopp"')))
    assert ["line 11" in found[0], "did you mean shop?" in found[1], len(found)] == [True, True, 2]


def test_a_name_of_let_that_is_wrong_is_one_mistake(tmp_path: Path) -> None:
    text = spoilt(
        ('[tools.set_status]\ntarget = "shop"', '[tools.set_status]\ntarget = "shop"\nlet.new = "arg.status"'),
        ('set.status = "args.status"', 'set.status = "new"'),
    )
    assert len(mistakes(tmp_path, text)) == 1


def test_what_an_unknown_key_was_meant_to_say_is_not_missed(tmp_path: Path) -> None:
    text = spoilt(
        ('key = { id = "args.order" }\nset.status = "args', 'keyy = { id = "args.order" }\nsett.status = "args'),
        ('[tools.deposit]\ntarget = "shop"', '[tools.deposit]\ntarget = "shop"\nlett.sum = "number(args.amount)"'),
        ("before.paid + number(args.amount)", "before.paid + sum"),
        ("set.status = \"'refunded'\"", "sett.status = \"'refunded'\""),
        ('set.amount = "number(args.amount)"', 'set.amount = "number(arg.amount)"'),
    )
    found = mistakes(tmp_path, text)
    assert sum("has no key" in line for line in found) == 4
    assert sum("undeclared" in line for line in found) == 1
    assert len(found) == 5


def test_unknown_keys_and_expressions_are_found_together(tmp_path: Path) -> None:
    text = spoilt(('set.status = "args.status"', 'sett.status = "args.status"'), ("before.paid", "befor.paid"))
    unknown, undeclared = mistakes(tmp_path, text)
    assert "tools.set_status.writes.0 has no key sett; did you mean set?" in unknown
    assert "'befor.paid'" in undeclared


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ('version = 1\ntools = 5\n"od d" = 2', 3),
        ("targets = 5\ntools.x.target = 'shop'", 2),
        ("targets.shop = 5\ntools.x = 5\nversion = '1'", 2),
        ("targets.shop.kind = 'postgresql'\ntargets.shop.resources = 5\nversion = '1'", 1),
        ("targets.shop.resources.a.key = 5\ntargets.shop.resources.b = 5\nversion = '1'", 3),
    ],
)
def test_tables_of_the_wrong_shape(tmp_path: Path, text: str, sentences: int) -> None:
    found = mistakes(tmp_path, text)
    assert len(found) == sentences, found
    assert all(line.startswith("contracts.toml line ") for line in found)


def test_every_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    found = mistakes(tmp_path, a="version = ", b=SOUND, c="[tools\n")
    assert [line.split(":")[0] for line in found] == ["a.toml line 1", "c.toml line 1"]


def test_what_files_say_twice(tmp_path: Path) -> None:
    found = mistakes(
        tmp_path, a=SOUND, b='version = "8"\n[tools.refund]\ntarget = "shop"\n[targets.shop]\nkind = "x"\n'
    )
    assert found == [
        "b.toml line 1: another file says another version; say it in one file",
        "b.toml line 2: tools.refund is declared twice; keep one of them",
        "b.toml line 4: targets.shop is declared twice; keep one of them",
    ]
    assert "another file says another tools" in mistakes(tmp_path, a="tools = 5", b=SOUND)[0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ('{ column = "seq", late = 5 }', "changes has no key late; there is"),
        ('{ table = "shop.order_changes" }', "changes lacks the key column"),
        ('{ table = "shop.order-changes", column = "seq" }', "is no table name"),
        ('{ column = "seq", late_seconds = 5_000 }', "late_seconds is wrong"),
        ('"updated_at"', "changes is wrong"),
    ],
)
def test_how_changes_are_told_is_refused_where_it_is_wrong(tmp_path: Path, changes: str, said: str) -> None:
    [mistake] = mistakes(tmp_path, spoilt(('table = "shop.orders"', f'table = "shop.orders"\nchanges = {changes}')))
    assert "contracts.toml line 11: " in mistake
    assert said in mistake


def test_changes_of_a_kind_that_can_not_be_asked_and_of_a_target_that_is_not_swept(tmp_path: Path) -> None:
    stored = """
version = "1"
[targets.files]
kind = "s3"
writers = "exclusive"
[targets.files.resources.invoices]
bucket = "invoices"
object = "{number}.json"
key = ["number"]
changes = { column = "last_modified" }
"""
    [mistake] = mistakes(tmp_path, stored)
    assert "line 10: targets.files.resources.invoices: what changed there can't be asked of its kind" in mistake
    nobody = CONTRACTS % {"writers": "", "settle": 0}
    told = nobody.replace('table = "shop.orders"', 'table = "shop.orders"\nchanges = { column = "updated_at" }')
    [mistake] = mistakes(tmp_path, told)
    assert "line 11: resource orders: only targets that declare their writers are swept" in mistake
