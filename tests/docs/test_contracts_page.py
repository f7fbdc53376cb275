"""The reference of the contract language says what the code does: its contracts load, its tables come true."""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
import pytest

from counterfoil_reconcilers import contract_files as written
from counterfoil_reconcilers.compare import agree
from counterfoil_reconcilers.contract_kinds import NoOptions
from counterfoil_reconcilers.contract_model import VARIABLES
from counterfoil_reconcilers.contracts import ContractError, Contracts, FieldRule, Resource, load
from counterfoil_reconcilers.expression_functions import FUNCTIONS
from counterfoil_reconcilers.expressions import NoSuchRow, compile_expression
from counterfoil_reconcilers.judge import judge, sweep
from counterfoil_reconcilers.rows import Effect, Outcome, RowKey, Rows, row_of
from counterfoil_reconcilers.targets.postgresql import PostgresTarget
from counterfoil_reconcilers.targets.postgresql_tables import PostgresChanges, PostgresResource
from counterfoil_reconcilers.values import Json, plain, shown

PAGE = (Path(__file__).parents[2] / "docs" / "contracts.md").read_text(encoding="utf-8")

# `<!-- fragment of X -->` before a block says what it lacks; this is put around it.
_TARGET = '[targets.{name}]\nkind = "postgresql"\n'
_RESOURCE = '[targets.{target}.resources.{name}]\ntable = "t"\nkey = ["{key}"]\n'
_LATER = {"stock": "sku", "customers": "id"}


def blocks(language: str) -> Iterator[tuple[str | None, str]]:
    """Code blocks of a language, each with what it is marked to be a fragment of."""
    for found in re.finditer(rf"(?:<!-- fragment of a (\w+) -->\n)?```{language}\n(.*?)```", PAGE, re.DOTALL):
        yield found.group(1), found.group(2)


def completed(kind: str | None, text: str) -> str:
    """A block as a whole contract."""
    match kind:
        case None:
            return text
        case "file":
            tables = tomllib.loads(text)
            targets = {tool["target"] for tool in tables.get("tools", {}).values()} - tables.get("targets", {}).keys()
            resources = {w["resource"] for tool in tables.get("tools", {}).values() for w in tool["writes"]}
            return (
                'version = "1"\n'
                + text
                + "".join(
                    _TARGET.format(name=target)
                    + "".join(
                        _RESOURCE.format(target=target, name=r, key=_LATER.get(r, "id")) for r in sorted(resources)
                    )
                    for target in sorted(targets)
                )
            )
        case "resource":
            head = 'version = "1"\n' + _TARGET.format(name="shop")
            return head + _RESOURCE.format(target="shop", name="orders", key="id") + text
    raise AssertionError(f"nobody knows how to complete a fragment of a {kind}")


def section(title: str) -> str:
    """The text under a heading, up to the next one."""
    found = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^#|\Z)", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None, f"the page has no section {title}"
    return found.group(1)


def table(title: str, head: str) -> list[list[str]]:
    """The rows of the table under a heading whose header line begins with `head`."""
    lines = iter(section(title).splitlines())
    assert any(line.startswith(head) for line in lines), f"{title} has no table {head}"
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows


def code(cell: str) -> list[str]:
    return re.findall(r"`([^`]*)`", cell)


def load_text(folder: Path, text: str) -> Contracts:
    path = folder / "contracts.toml"
    path.write_text(text, encoding="utf-8")
    return load(path)


FIRST = next(text for kind, text in blocks("toml") if kind is None)


@pytest.fixture
def first(tmp_path: Path) -> Contracts:
    """The page's first contract."""
    return load_text(tmp_path, FIRST)


@pytest.mark.parametrize(("kind", "text"), list(blocks("toml")))
def test_every_contract_on_the_page_loads(tmp_path: Path, kind: str | None, text: str) -> None:
    assert load_text(tmp_path, completed(kind, text)).targets


def test_the_first_contract_has_one_row_changed_and_one_created(first: Contracts) -> None:
    changed, created = first.tools["refund"].writes
    assert (changed.resource.name, changed.create) == ("orders", False)
    assert (created.resource.name, created.create) == ("refunds", True)


@pytest.mark.parametrize(
    ("title", "model"),
    [
        ("The file", written.WrittenContracts),
        ("Outcomes", written.WrittenOutcomes),
        ("Targets", written.WrittenTarget),
        ("Resources", written.WrittenResource),
        ("Field rules", written.WrittenFieldRule),
        ("Tools", written.WrittenTool),
        ("Undo", written.WrittenUndo),
        ("Writes", written.WrittenWrite),
    ],
)
def test_the_tables_name_every_key_and_no_other(title: str, model: type[written.Written]) -> None:
    assert {code(row[0])[0] for row in table(title, "| key |")} == set(model.model_fields)


def test_the_keys_of_the_kind_that_the_page_uses_are_named_too() -> None:
    assert {code(row[0])[0] for row in table("Resources", "| of `postgresql`")} == set(PostgresResource.model_fields)
    assert {code(row[0])[0] for row in table("Changes", "| key of `changes` |")} == set(PostgresChanges.model_fields)


def test_no_table_of_a_contract_is_left_out() -> None:
    own = [one for one in _subclasses(written.Written) if one.__module__ == written.__name__]
    assert len(own) == 11  # the seven above, `ours`, `undo`, and what has keys of its kind: there, and in `changes`
    assert "`{ ours = " in section("Targets")


def _subclasses(model: type[written.Written]) -> Iterator[type[written.Written]]:
    for found in model.__subclasses__():
        yield found
        yield from _subclasses(found)


def test_the_variables_are_these() -> None:
    rows = table("Expressions", "| variable |")
    assert {name for row in rows for name in code(row[0])} == VARIABLES | {"item", "index"}


def _rows(resource: str, key: Mapping[str, Json]) -> Json:
    if (resource, dict(key)) != ("orders", {"id": "A-17"}):
        raise NoSuchRow("it does not exist")
    return {"id": "A-17", "status": "paid"}


def value_of(text: str) -> Any:
    return shown(compile_expression(text.replace("\\|", "|"), ()).evaluate({}, _rows))


def test_every_function_has_its_row() -> None:
    rows = table("Expressions", "| function |")
    named = {signature.partition("(")[0] for row in rows for signature in code(row[0])}
    assert named == {*FUNCTIONS, "lookup", "exists_row"}
    for row in rows:
        assert code(row[0])[0].partition("(")[0] + "(" in code(row[2])[0]


@pytest.mark.parametrize("row", table("Expressions", "| function |"), ids=lambda row: row[0])
def test_every_function_gives_what_its_row_says(row: list[str]) -> None:
    assert value_of(code(row[2])[0]) == json.loads(code(row[3])[0])


@pytest.mark.parametrize("row", table("Expressions", "| | example |"), ids=lambda row: row[0])
def test_the_language_gives_what_its_row_says(row: list[str]) -> None:
    assert value_of(code(row[1])[0]) == json.loads(code(row[2])[0])


@pytest.mark.parametrize("row", table("How values compare", "| intended |"), ids=lambda row: f"{row[0]} {row[2]}")
def test_values_compare_as_the_page_says(row: list[str]) -> None:
    intended, observed = (plain(json.loads(code(cell)[0])) for cell in row[:2])
    rule = FieldRule(**tomllib.loads(code(row[2])[0] if row[2] else ""))
    resource = Resource("r", ("id",), None, 0.0, NoOptions(), ((("f",), rule),))
    assert agree(resource, intended, observed, ("f",)) is row[3].startswith("yes")


ORDER = RowKey("orders", ("A-17",))
PAID = {"id": "A-17", "status": "paid", "refunded": 0, "address": "here", "updated_at": "1"}
WHOLE = frozenset({"orders", "refunds"})


def effect(number: int, tool: str, outcome: Outcome = "ok", **args: Any) -> Effect:
    return Effect(number.to_bytes(16), tool, args, outcome, (number,))


def ledger(number: int, by: Effect, amount: float) -> tuple[RowKey, dict[str, Any]]:
    row = {"id": number, "order_id": "A-17", "amount": amount, "reference": by.effect_id.hex()}
    return RowKey("refunds", (str(number),)), row


def words(
    contracts: Contracts, effects: list[Effect], after: Mapping[RowKey, Any], before: Mapping[RowKey, Any] | None
) -> tuple[list[str], set[RowKey]]:
    """Verdicts, and the rows that changed although nothing explains it; `before` None: there is no baseline."""
    observed = Rows({key: row_of(doc) for key, doc in after.items()}, WHOLE)
    baseline = Rows() if before is None else Rows({key: row_of(doc) for key, doc in before.items()}, WHOLE)
    found = judge(contracts, "shop", effects, baseline, observed)
    strays = (*found.unattributed, *sweep(contracts, "shop", baseline, observed, found))
    return [verdict.verdict for verdict in found.verdicts], {s.row for s in strays if s.verdict == "unattributed"}


@pytest.mark.parametrize("row", table("From rows to verdicts", "| order A-17 now |"), ids=" ".join)
def test_a_refund_is_judged_as_the_page_says(first: Contracts, row: list[str]) -> None:
    refund = effect(1, "refund", order="A-17", amount="12.50")
    order, amounts = PAID | json.loads(code(row[0])[0]), json.loads(code(row[1])[0])
    rows = {ORDER: order | {"updated_at": "2"}, **dict(ledger(n, refund, a) for n, a in enumerate(amounts, 1))}
    verdict, *others = code(row[2])
    assert words(first, [refund], rows, {ORDER: PAID}) == ([verdict], {ORDER} if others == ["unattributed"] else set())


@pytest.mark.parametrize(("outcome", "verdict"), [("ok", "applied"), ("unknown", "unknowable")])
def test_a_write_that_a_later_one_wrote_over(first: Contracts, outcome: Outcome, verdict: str) -> None:
    lost = effect(1, "change_address", outcome, order="A-17", address="there")
    later = effect(2, "change_address", order="A-17", address="elsewhere")
    after = {ORDER: PAID | {"address": "elsewhere"}}
    assert words(first, [lost, later], after, {ORDER: PAID}) == ([verdict, "applied"], set())


def test_of_two_that_add_to_a_wrong_sum_the_last_is_blamed(first: Contracts) -> None:
    two = [effect(1, "refund", order="A-17", amount="10"), effect(2, "refund", order="A-17", amount="5")]
    order = PAID | {"status": "refunded", "refunded": 14}
    after = {ORDER: order, **dict([ledger(1, two[0], 10), ledger(2, two[1], 5)])}
    assert words(first, two, after, {ORDER: PAID}) == (["applied", "mismatched"], set())


@pytest.mark.parametrize(
    ("outcomes", "verdicts"),
    [
        (("ok", "ok"), ["not_applied", "applied"]),
        (("ok", "unknown"), ["applied", "not_applied"]),
        (("unknown", "ok"), ["not_applied", "applied"]),
        (("unknown", "unknown"), ["not_applied", "applied"]),
    ],
)
def test_of_two_equal_amounts_one_is_missing(
    tmp_path: Path, outcomes: tuple[Outcome, Outcome], verdicts: list[str]
) -> None:
    added = FIRST + '\n[tools.add]\ntarget = "shop"\n[[tools.add.writes]]\nresource = "orders"\n'
    contracts = load_text(tmp_path, added + 'key = { id = "args.order" }\nset.refunded = "old + args.amount"\n')
    two = [effect(number, "add", outcome, order="A-17", amount=5) for number, outcome in enumerate(outcomes)]
    assert words(contracts, two, {ORDER: PAID | {"refunded": 5}}, {ORDER: PAID}) == (verdicts, set())


def test_without_a_baseline(tmp_path: Path, first: Contracts) -> None:
    moved = effect(1, "change_address", order="A-17", address="there")
    assert words(first, [moved], {ORDER: PAID | {"address": "there"}}, None)[0] == ["applied"]
    assert words(first, [moved], {ORDER: PAID}, None)[0] == ["not_applied"]
    both = FIRST + "set.status = \"'moved'\"\n"
    half = {ORDER: PAID | {"address": "there"}}
    assert words(load_text(tmp_path, both), [moved], half, None)[0] == ["mismatched"]
    undeclared = re.sub(r"^writers.*\n", "", both, flags=re.MULTILINE)
    assert words(load_text(tmp_path, undeclared), [moved], half, None)[0] == ["unknowable"]
    assert words(load_text(tmp_path, undeclared), [moved], {ORDER: PAID}, None)[0] == ["unknowable"]


def test_an_effect_without_a_contract_explains_away_every_change(first: Contracts) -> None:
    after = {ORDER: PAID | {"address": "there"}}
    assert words(first, [effect(1, "nosuch")], after, {ORDER: PAID}) == (["unknowable"], set())
    assert words(first, [effect(1, "nosuch", "failed")], after, {ORDER: PAID}) == (["unknowable"], {ORDER})


SPOILT = [
    ('version = "1"\n', "\n"),
    ('"postgresql"', '"postgres"'),
    ('"exclusive"', '"everybody"'),
    ('target = "shop"', 'target = "shopp"'),
    ('resource = "orders"', 'resource = "order"'),
    ("key = { id =", "key = { order ="),
    ("\"'refunded'\"", "5"),
    ("set.status", "sett.status"),
    ("number(args.amount)", "number(arg.amount)"),
    ("number(args.amount)", "number(args.amount"),
    ("find = {", "search = {"),
    ('find = { reference = "effect" }\n', ""),
]


def test_the_sentences_of_errors_are_the_real_ones(tmp_path: Path) -> None:
    said = []
    for old, new in SPOILT:
        with pytest.raises(ContractError) as caught:
            load_text(tmp_path, FIRST.replace(old, new, 1))
        said.append(str(caught.value))
    told, _ = (text for _, text in blocks("text"))
    assert told.splitlines() == said


def test_the_sentence_about_a_column_is_the_real_one(tmp_path: Path, database: str) -> None:
    with psycopg.connect(database, autocommit=True) as target:
        target.execute(
            "CREATE SCHEMA shop;"
            "CREATE TABLE shop.orders (id text, merchant text, status text, refunded numeric, address text,"
            " updated_at timestamptz);"
            "CREATE TABLE shop.refunds (id bigint, merchant text, order_id text, amount numeric, reference text)"
        )
    contracts = load_text(tmp_path, FIRST.replace("set.status", "set.state"))
    with PostgresTarget(contracts, "shop", database) as shop:
        [mistake] = shop.check()
    _, told = (text for _, text in blocks("text"))
    assert told.splitlines() == [str(mistake)]
