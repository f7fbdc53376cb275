"""Contracts: read strictly, refused with file, line and advice, and known by a digest of what they say."""

from pathlib import Path

import pytest

from counterfoil_reconcilers.contracts import ContractError, load
from tests.reconcilers.trajectories_offline import CONTRACTS

GOOD = """\
version = "1"

[outcomes]
unknown = ["timeout"]

[targets.shop]
kind = "postgresql"
writers = { ours = "updated_by = 'agent'" }
settle_seconds = 5

[targets.shop.resources.orders]
table = "public.orders"
key = ["id"]
tenant = "tenant_id"
tolerance = 0.005
fields.note = { ignore_case = true }
fields.total = { tolerance = 1 }

[tools.refund]
target = "shop"
identity = ["order"]
let.order = "lookup('orders', {'id': args.order})"

[[tools.refund.writes]]
resource = "orders"
key = { id = "args.order" }
when = "args.amount > 0"
set.status = "'refunded'"
set.payment.amount = '''
  before.refunded
  + args.amount'''
append.history = "{'amount': args.amount}"
remove = ["hold[args.order].reason"]

[[tools.refund.writes]]
resource = "orders"
create = true
find = { parent = "args.order" }
set.amount = "args.amount"
"""


def write(folder: Path, text: str, name: str = "contracts.toml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_contract_is_read_and_compiled(tmp_path: Path) -> None:
    contracts = load(write(tmp_path, GOOD))
    target, tool = contracts.targets["shop"], contracts.tools["refund"]
    assert (contracts.version, target.writers, target.ours) == ("1", "ours", "updated_by = 'agent'")
    orders = target.resources["orders"]
    assert (orders.key, orders.tenant) == (("id",), "tenant_id")
    assert orders.options.model_dump() == {"table": "public.orders", "doc": None, "changes": None}
    assert orders.rule(("lines", 3, "price")).tolerance == 0.005
    assert orders.rule(("total", "net")).tolerance == 1
    assert orders.rule(("note",)).ignore_case
    assert [change.text for change in tool.writes[0].changes] == [
        "status",
        "payment.amount",
        "history",
        "hold[args.order].reason",
    ]
    assert tool.writes[1].create
    assert tool.identity == ("order",)
    assert contracts.outcome_of("refund", "upstream TIMEOUT") == "unknown"
    assert contracts.outcome_of("refund", "no such order") == "failed"


def test_the_digest_is_of_what_a_contract_says_not_of_how_it_is_laid_out(tmp_path: Path) -> None:
    first = load(write(tmp_path, GOOD)).digest
    assert len(first) == 64
    assert (
        load(write(tmp_path, "# a comment\n" + GOOD.replace("settle_seconds = 5\n", "settle_seconds   =   5\n"))).digest
        == first
    )
    assert load(write(tmp_path, GOOD.replace("settle_seconds = 5", "settle_seconds = 6"))).digest != first


@pytest.mark.parametrize(
    ("old", "new", "up", "words"),
    [
        ("set.status =", "sett.status =", 0, "no key sett; did you mean set?"),
        ('resource = "orders"\nkey', 'resource = "ordes"\nkey', 0, "no resource ordes; did you mean orders?"),
        ('target = "shop"', 'target = "shopp"', 0, "no target shopp; did you mean shop?"),
        ("args.amount > 0", "arg.amount > 0", 0, "undeclared reference to 'arg.amount'"),
        ("+ args.amount'''", "+ args.amount +'''", 2, "Syntax error"),
        (
            "lookup('orders'",
            "lookup('order'",
            0,
            "looks up order, which target shop does not have; did you mean orders?",
        ),
        ('kind = "postgresql"', 'kind = "postgres"', 0, "no kind postgres"),
        ('table = "public.orders"', 'tabel = "public.orders"', 0, "no key tabel; did you mean table?"),
        ('table = "public.orders"\n', "", 1, "lacks the key table"),
        ("settle_seconds = 5", "settle_second = 5", 0, "no key settle_second; did you mean settle_seconds?"),
        ("{ ours = \"updated_by = 'agent'\" }", '"everyone"', 0, '"exclusive" or { ours ='),
        ("settle_seconds = 5", "settle_seconds = -5", 0, "greater than or equal to 0"),
        ("settle_seconds = 5", 'settle_seconds = "5"', 0, "valid number"),
        ('table = "public.orders"', 'table = "orders; DROP TABLE x"', 0, "is no table name"),
        ('key = ["id"]', "key = []", 0, "at least 1 item"),
        ("key = { id =", "key = { idd =", 0, "orders has no key idd; did you mean id?"),
        ("set.status = \"'refunded'\"", "set.status = true", 0, "is an expression in quotes"),
        ("tolerance = 1 }", "tolerrance = 1 }", 0, "no key tolerrance; did you mean tolerance?"),
        ('version = "1"\n', "", 0, "lacks the key version"),
        ("let.order", "let.args", 0, "let cannot name args anew"),
        ("create = true\n", "", 2, "names its row"),
        ('find = { parent = "args.order" }', 'delete = true\nkey = { id = "args.order" }', 0, "can hold nothing"),
        ("hold[args.order", "hold[args.", 0, "Syntax error"),
        ("[outcomes]", "[outcomes", 0, "not valid TOML"),
        ('remove = ["hold[args.order].reason"]', 'remove = ["[args.order]"]', 0, "is no path"),
    ],
)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, old: str, new: str, up: int, words: str) -> None:
    line = GOOD[: GOOD.index(old)].count("\n") + 1 - up
    with pytest.raises(ContractError) as caught:
        load(write(tmp_path, GOOD.replace(old, new, 1)))
    message = str(caught.value)
    assert f"contracts.toml line {line}: " in message
    assert words in message
    assert "\n" not in message.strip()
    assert caught.value.line == line


def test_a_folder_is_read_as_one(tmp_path: Path) -> None:
    head, tool = GOOD.split("[tools.refund]", 1)
    write(tmp_path, head, "a_targets.toml")
    write(tmp_path, "[tools.refund]" + tool, "b_tools.toml")
    assert set(load(tmp_path).tools) == {"refund"}
    write(tmp_path, "[tools.refund]\ntarget = 'shop'\n", "c_again.toml")
    with pytest.raises(ContractError, match=r"c_again.toml line 1: tools.refund is declared twice"):
        load(tmp_path)
    write(tmp_path, "[tools.other]\ntarget = 'nowhere'\n", "c_again.toml")
    with pytest.raises(ContractError, match=r"c_again.toml line 2: .*no target nowhere"):
        load(tmp_path)


def test_a_missing_file_or_an_empty_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="name an existing contract file"):
        load(tmp_path / "nowhere.toml")
    with pytest.raises(ContractError, match=r"holds no \*.toml"):
        load(tmp_path)


def test_the_contracts_of_the_recorded_runs_load() -> None:
    assert len(load(CONTRACTS).tools) == 7
