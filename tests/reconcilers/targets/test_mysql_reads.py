"""The MySQL adapter on a real MariaDB: few queries that use the index, one snapshot, nothing written."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import Mock

import pytest

from counterfoil_reconcilers.contracts import ContractError
from counterfoil_reconcilers.rows import Row, RowKey
from counterfoil_reconcilers.targets.mysql import MySqlTarget
from counterfoil_reconcilers.targets.mysql_session import login_of
from counterfoil_reconcilers.targets.port import Address, TargetUnavailable
from counterfoil_reconcilers.touched import Search
from counterfoil_reconcilers.values import Json
from tests.fix_mariadb import READER, MariaDb
from tests.reconcilers.targets.conformance import contracts_of
from tests.waiting import wait_until

TEXT = """\
[targets.shop]
kind = "mariadb"
writers = { ours = "updated_by LIKE 'agent%'" }
[targets.shop.resources.orders]
table = "shop.orders"
key = ["id"]
tenant = "merchant"
version = "revision"
[targets.shop.resources.documents]
table = "`Documents of %s`"
key = ["region", "number"]
tenant = "tenant"
doc = "body"
[tools.refund]
target = "shop"
[[tools.refund.writes]]
resource = "orders"
key = { id = "args.order" }
set.status = "'refunded'"
"""
SCHEMA = (
    """CREATE TABLE orders (id varchar(64), merchant varchar(40), status varchar(20), total decimal(12,2),
       updated_by varchar(40), revision int, PRIMARY KEY (merchant, id))""",
    """CREATE TABLE `Documents of %s` (region varchar(8), number int, tenant int, body longtext, updated_by varchar(40),
       PRIMARY KEY (tenant, region, number))""",
    """INSERT INTO orders VALUES ('A-1', 'acme', 'paid', 12.50, 'agent-7', 3), ('A-2', 'acme', 'Paid', 1, NULL, 1),
       ('A-1', 'bolt', 'paid', 1, 'person', 1)""",
    """INSERT INTO `Documents of %s` VALUES ('eu', 1, 5, '{"a": {"b": 1}}', 'agent'),
       ('eu', 2, 5, '{"a": 1, "a": 2}', 'person'), ('eu', 3, 5, NULL, 'x'), ('us', 1, 6, '[1]', 'x')""",
)


@pytest.fixture
def shop(mariadb: MariaDb) -> MariaDb:
    mariadb.new_database("shop", *SCHEMA)
    return mariadb


def target_of(server: MariaDb, folder: Path, text: str = TEXT) -> MySqlTarget:
    return MySqlTarget(contracts_of(folder, text), "shop", login_of(server.url("shop")))


@pytest.fixture
def target(shop: MariaDb, tmp_path: Path) -> Iterator[MySqlTarget]:
    with target_of(shop, tmp_path) as adapter:
        yield adapter


def order(key: str, tenant: str | None = "acme") -> Address:
    return Address(tenant, RowKey("orders", (key,)))


def document(region: str, number: str, tenant: str = "5") -> Address:
    return Address(tenant, RowKey("documents", (region, number)))


def row_of(target: MySqlTarget, address: Address) -> Row:
    [found] = target.read([address])
    assert found.row is not None
    return found.row


def test_rows_come_with_their_versions_and_whose_they_are(target: MySqlTarget) -> None:
    wanted = [order("A-1"), order("A-9"), document("eu", "1"), document("eu", "x"), document("us", "1")]
    found = {one.address: one.row for one in target.read(wanted)}
    assert list(found) == wanted
    assert [row is not None for row in found.values()] == [True, False, True, False, False]
    whole = {"id": "A-1", "merchant": "acme", "status": "paid", "total": 12.5, "updated_by": "agent-7", "revision": 3.0}
    assert found[order("A-1")] == Row(whole, "3", ours=True)
    assert found[document("eu", "1")] == Row({"a": {"b": 1.0}}, ours=True)
    assert row_of(target, order("A-2")).ours is False  # NULL is not ours


def test_a_row_that_cannot_be_compared_says_why(shop: MariaDb, target: MySqlTarget) -> None:
    shop.run(
        "UPDATE `Documents of %s` SET body = REPEAT('x', 4000001) WHERE number = 1 AND region = 'eu'",
        "INSERT INTO `Documents of %s` VALUES ('eu', 4, 5, '', 'x'), ('eu', 5, 5, '{\"a\": \"\\\\u0000\"}', 'x')",
        database="shop",
    )
    assert "4000001 bytes" in str(row_of(target, document("eu", "1")).problem)
    assert "named twice" in str(row_of(target, document("eu", "2")).problem)
    assert row_of(target, document("eu", "3")) == Row(None, ours=False)
    assert "not JSON" in str(row_of(target, document("eu", "4")).problem)
    assert "NUL" in str(row_of(target, document("eu", "5")).problem)


def test_large_columns_count_together(shop: MariaDb, tmp_path: Path) -> None:
    shop.run(
        "ALTER TABLE shop.orders ADD note longtext, ADD picture longblob",
        "UPDATE shop.orders SET note = REPEAT('é', 1000000), picture = REPEAT('x', 2000001) WHERE id = 'A-1'",
    )
    with target_of(shop, tmp_path) as target, shop.connect() as connection, connection.cursor() as cursor:

        def sent() -> int:
            cursor.execute("SHOW GLOBAL STATUS LIKE 'Bytes_sent'")
            return int(cursor.fetchall()[0][1])

        before = sent()
        assert row_of(target, order("A-1")).problem == "it has 4000001 bytes, more than 4000000"
        assert sent() - before < 1_000_000, "and they did not travel"
        assert row_of(target, order("A-2")).problem is None


def test_scan_and_find_keep_tenants_apart(target: MySqlTarget) -> None:
    assert {one.address.tenant for one in target.scan("orders")} == {"acme", "bolt"}
    assert [one.address for one in target.scan("orders", "bolt")] == [order("A-1", "bolt")]
    assert [one.address for one in target.scan("documents", "6")] == [document("us", "1", "6")]
    assert list(target.scan("documents", "six")) == []
    paid = Search("orders", (("status", "paid"), ("total", 12.5)))
    assert [one.address for one in target.find("acme", [paid])] == [order("A-1")]
    assert target.find("acme", [Search("orders", (("total", "much"),))]) == []
    assert target.find("acme", [Search("orders", (("updated_by", None),))]) == []
    assert len(target.find(None, [Search("orders", (("status", "paid"),))])) == 2


def test_many_searches_are_one_query_and_one_that_finds_too_many_hides_nobody_else_s_rows(
    target: MySqlTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Mock(wraps=target._search)
    monkeypatch.setattr(target, "_search", asked)
    many = [Search("orders", (("status", "paid"), ("total", float(n)))) for n in range(60)]
    odd = [Search("orders", (("total", "much"),)), Search("orders", (("updated_by", None),))]
    right = Search("orders", (("status", "paid"), ("total", 12.5)))
    assert [one.address for one in target.find("acme", [*odd, *many, right])] == [order("A-1")]
    assert asked.call_count == 1
    of_all = {one.address for one in target.find(None, [Search("orders", (("status", "paid"),)), right], limit=1)}
    assert order("A-1") in of_all
    assert asked.call_count == 4, "two at once found two, so each was asked for"


def test_documents_are_found_by_text_and_number(shop: MariaDb, target: MySqlTarget) -> None:
    odd: dict[str, Json] = {
        'a"b.c\\d': "x",
        "price": 12.5,
        "big": 9007199254740993,
        "flag": True,
        "none": None,
        "smile": "😀 Ä",
    }
    text = json.dumps(odd).replace("12.5", "12.50")
    with shop.connect("shop") as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE `Documents of %%s` SET body = %s WHERE region = 'us'", (text,))

    def is_found(name: str, value: Json) -> bool:
        found = target.find("6", [Search("documents", ((name, value),))])
        return [one.address for one in found] == [document("us", "1", "6")]

    for name, value in {**odd, "none": "x"}.items():
        assert is_found(name, value) is (name != "none"), name
    assert is_found("price", "12.50")
    others: list[tuple[str, Json]] = [
        ("price", 12.51),
        ("price", {"a": 1}),
        ("big", 9007199254740992),
        ("flag", "True"),
    ]
    for name, value in (*others, ("none", "null"), ("smile", ""), ("smile", "😀 ä")):
        assert not is_found(name, value), name


@contextmanager
def queries_of_reader(server: MariaDb) -> Iterator[list[str]]:
    """Every statement that the reader sends for the length of a block, as the server logs them."""
    server.run("SET GLOBAL log_output = 'TABLE'", "TRUNCATE mysql.general_log", "SET GLOBAL general_log = ON")
    queries: list[str] = []
    try:
        yield queries
    finally:
        server.run("SET GLOBAL general_log = OFF")
    with server.connect() as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT argument FROM mysql.general_log WHERE command_type = 'Query' AND user_host LIKE 'reader%%'", ()
        )
        queries += [row[0].decode() if isinstance(row[0], bytes) else str(row[0]) for row in cursor.fetchall()]


def test_a_thousand_keys_are_two_queries_that_use_the_index(shop: MariaDb, target: MySqlTarget) -> None:
    with shop.connect("shop") as connection, connection.cursor() as cursor:
        many = [(f"B-{number}", "acme" if number % 2 else "bolt") for number in range(20_000)]
        cursor.executemany("INSERT INTO orders (id, merchant) VALUES (%s, %s)", many)
        cursor.execute("ANALYZE TABLE orders")
    with queries_of_reader(shop) as queries:
        found = target.read([order(f"B-{number}") for number in range(1_000)])
    assert sum(one.row is not None for one in found) == 500
    selects = [query for query in queries if "FROM `shop`.`orders`" in query and query.startswith("SELECT")]
    assert len(selects) == 2
    with shop.connect("shop") as connection, connection.cursor() as cursor:
        for query in selects:
            cursor.execute(f"EXPLAIN {query}")
            [(_, _, table, access, _, index, _, _, rows, _)] = cursor.fetchall()
            assert (table, access, index) == ("t", "range", "PRIMARY")
            assert int(rows) <= 500
    with queries_of_reader(shop) as queries:
        target.find("acme", [Search("orders", (("id", "B-1"),))])
    [select] = [query for query in queries if query.startswith("SELECT")]
    with shop.connect("shop") as connection, connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN {select}")
        assert [(row[3], row[5]) for row in cursor.fetchall()] == [("const", "PRIMARY")]


def test_keys_too_long_for_one_query_are_several(shop: MariaDb, target: MySqlTarget) -> None:
    shop.run("ALTER TABLE shop.orders DROP PRIMARY KEY, MODIFY id text, ADD KEY (merchant, id(64))")
    wanted = [order(f"{'x' * 60_000}{number}") for number in range(400)]  # 24 MB, and a query may have 16
    found = target.read([*wanted, order("A-1")])
    assert [one.address for one in found if one.row is not None] == [order("A-1")]


def test_a_read_sees_one_moment(shop: MariaDb, tmp_path: Path) -> None:
    """What lands between its first and its last query is not seen, nor half of it."""
    slow = TEXT.replace("updated_by LIKE 'agent%'", "SLEEP(1) = 0 AND updated_by IS NOT NULL")
    with target_of(shop, tmp_path, slow) as target, ThreadPoolExecutor(1) as pool:
        reading = pool.submit(target.read, [order("A-1"), document("eu", "1")])
        with shop.connect("shop") as connection, connection.cursor() as cursor:
            asked = "SELECT 1 FROM information_schema.processlist WHERE user = 'reader' AND state = 'User sleep'"
            wait_until(lambda: cursor.execute(asked))
            cursor.execute("UPDATE orders SET status = 'late'")
            cursor.execute("UPDATE `Documents of %s` SET body = '\"late\"'")
        paid, body = (one.row for one in reading.result())
        assert fields_of(paid)["status"] == "paid"
        assert fields_of(body) == {"a": {"b": 1.0}}
        assert row_of(target, document("eu", "1")).doc == "late"


def test_a_scan_sees_one_moment_and_others_read_beside_it(shop: MariaDb, target: MySqlTarget) -> None:
    with shop.connect("shop") as connection, connection.cursor() as cursor:
        many = [(f"B-{number}", "acme", "x" * 20) for number in range(50_000)]
        cursor.executemany("INSERT INTO orders (id, merchant, status) VALUES (%s, %s, %s)", many)
    scanned = target.scan("orders")
    next(scanned)
    shop.run("UPDATE shop.orders SET status = 'late'")
    assert fields_of(row_of(target, order("A-1")))["status"] == "late"
    statuses = {fields_of(one.row)["status"] for one in scanned}
    assert statuses == {"paid", "Paid", "x" * 20}
    for one in target.scan("orders"):  # one that is left early costs nothing, and breaks nothing
        assert one.row is not None
        break
    assert sum(1 for _ in target.scan("orders")) == 50_003


def test_a_scan_that_breaks_off_is_no_answer(shop: MariaDb, target: MySqlTarget) -> None:
    with shop.connect("shop") as connection, connection.cursor() as cursor:
        many = [(f"B-{number}", "acme", "x" * 20) for number in range(50_000)]
        cursor.executemany("INSERT INTO orders (id, merchant, status) VALUES (%s, %s, %s)", many)
    scanned = target.scan("orders")
    next(scanned)
    shop.run(f"KILL USER {READER}")
    with pytest.raises(TargetUnavailable) as caught:
        list(scanned)
    assert caught.value.trouble == "away"
    assert row_of(target, order("A-1")).problem is None


def fields_of(row: Row | None) -> dict[str, object]:
    assert row is not None
    assert isinstance(row.doc, dict)
    return row.doc


def test_columns_come_and_go(shop: MariaDb, target: MySqlTarget) -> None:
    assert "note" not in fields_of(row_of(target, order("A-1")))
    shop.run("ALTER TABLE shop.orders ADD note varchar(10) DEFAULT 'n'")
    assert fields_of(row_of(target, order("A-1")))["note"] == "n"
    shop.run("ALTER TABLE shop.orders DROP note, DROP total")
    assert fields_of(row_of(target, order("A-1"))).keys() & {"note", "total"} == set()


def test_a_view_is_read_as_a_table_is(shop: MariaDb, tmp_path: Path) -> None:
    shop.run("CREATE VIEW shop.shown AS SELECT * FROM shop.orders WHERE merchant = 'acme'")
    with target_of(shop, tmp_path, TEXT.replace('"shop.orders"', '"shown"')) as target:
        assert [one.row is not None for one in target.read([order("A-1"), order("A-1", "bolt")])] == [True, False]


def test_nothing_can_be_written_not_even_by_the_contract(shop: MariaDb, tmp_path: Path) -> None:
    shop.run(
        """CREATE FUNCTION shop.mark() RETURNS int MODIFIES SQL DATA
           BEGIN UPDATE shop.orders SET status = 'marked'; RETURN 1; END""",
        "GRANT INSERT, UPDATE, DELETE ON shop.* TO reader@'%'",
    )
    try:
        text = TEXT.replace("updated_by LIKE 'agent%'", "mark()")
        with target_of(shop, tmp_path, text) as target, pytest.raises(TargetUnavailable, match="READ ONLY transaction"):
            target.read([order("A-1")])
    finally:
        shop.run("REVOKE INSERT, UPDATE, DELETE ON shop.* FROM reader@'%'")
    with target_of(shop, tmp_path) as target:
        assert fields_of(row_of(target, order("A-1")))["status"] == "paid"


def test_what_the_server_is_set_to_changes_no_row(shop: MariaDb, tmp_path: Path) -> None:
    """Backslashes, quotes, time zones and limits as others like them."""
    key = "A\\'\"\n%s"
    with shop.connect("shop") as connection, connection.cursor() as cursor:
        cursor.execute("SET time_zone = '+00:00'")
        cursor.execute(
            "ALTER TABLE orders ADD made timestamp DEFAULT '2026-01-31 12:00:00', ADD code char(8) DEFAULT 'c'"
        )
        cursor.execute("INSERT INTO orders (id, merchant) VALUES (%s, 'acme')", (key,))
        cursor.execute("SELECT @@GLOBAL.sql_mode")
        [(mode,)] = cursor.fetchall()
    others = "SET GLOBAL sql_mode = 'ANSI,NO_BACKSLASH_ESCAPES,PAD_CHAR_TO_FULL_LENGTH'"
    shop.run(others, "SET GLOBAL time_zone = '+09:00'", "SET GLOBAL sql_select_limit = 1")
    try:
        with target_of(shop, tmp_path) as target:
            assert [one.row is not None for one in target.read([order(key), order("A-1"), order("A-2")])] == [True] * 3
            rows = [fields_of(one.row) for one in target.scan("orders")]
            assert [(row["made"], row["code"]) for row in rows] == [("2026-01-31T12:00:00+00:00", "c")] * 4
    finally:
        theirs = f"SET GLOBAL sql_mode = '{mode}'"
        shop.run(theirs, "SET GLOBAL time_zone = SYSTEM", "SET GLOBAL sql_select_limit = DEFAULT")


def checked(server: MariaDb, folder: Path, *changes: tuple[str, str]) -> list[str]:
    text = TEXT
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    with target_of(server, folder, text) as target:
        return [str(error) for error in target.check()]


def test_the_contract_is_checked_against_the_catalogue(shop: MariaDb, tmp_path: Path) -> None:
    assert checked(shop, tmp_path) == []
    assert checked(shop, tmp_path, ('"shop.orders"', '"shop.ordes"'), ('doc = "body"', 'doc = "boddy"')) == [
        "contracts.toml line 6: table shop.ordes does not exist in target shop; did you mean shop.orders?",
        "contracts.toml line 14: table `Documents of %s` of target shop has no column boddy; did you mean body?",
    ]
    assert checked(shop, tmp_path, ("set.status", "set.statuss"), ('"merchant"', '"Merchant"')) == [
        "contracts.toml line 20: table shop.orders of target shop has no column statuss; did you mean status?",
        "contracts.toml line 8: table shop.orders of target shop has no column Merchant; did you mean merchant?",
    ]
    assert checked(shop, tmp_path, ('version = "revision"', 'version = "rev"\nnumbers = ["state"]')) == [
        "contracts.toml line 9: table shop.orders of target shop has no column rev; did you mean revision?",
        "contracts.toml line 10: table shop.orders of target shop has no column state; did you mean status?",
    ]


def test_what_the_contract_names_in_vain_is_no_answer(shop: MariaDb, tmp_path: Path) -> None:
    for old, new in (('"shop.orders"', '"shop.gone"'), ('"revision"', '"gone"'), ('"merchant"', '"gone"')):
        with (
            target_of(shop, tmp_path, TEXT.replace(old, new)) as target,
            pytest.raises(TargetUnavailable, match=r"there is no .*gone"),
        ):
            target.read([order("A-1")])


@pytest.mark.parametrize("table", ["", "a.b.c", "a b", "`a", "a``", '"a"', "a;b", "1a"])
def test_what_is_no_table_name_is_refused_at_load(tmp_path: Path, table: str) -> None:
    with pytest.raises(ContractError, match=r"is no table name; write it as schema\.table, quoted parts in backticks"):
        contracts_of(tmp_path, TEXT.replace('"shop.orders"', f"'{table}'"))


def test_the_contract_of_the_page_loads(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "targets.md").read_text(encoding="utf-8")
    block = page.partition("## MySQL and MariaDB")[2].partition("```toml\n")[2].partition("```")[0]
    loaded = contracts_of(tmp_path, block.replace('version = "1"\n', "", 1))
    assert loaded.targets["shop"].kind == "mariadb"
