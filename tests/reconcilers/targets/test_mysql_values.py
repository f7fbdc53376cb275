"""Values of MySQL's types on a real MariaDB: what they are in JSON, and by which texts their rows are found."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from counterfoil_reconcilers.rows import RowKey
from counterfoil_reconcilers.targets.mysql import MySqlTarget
from counterfoil_reconcilers.targets.mysql_session import login_of
from counterfoil_reconcilers.targets.port import Address, TargetUnavailable
from counterfoil_reconcilers.touched import Search
from counterfoil_reconcilers.values import shown
from tests.fix_mariadb import MariaDb
from tests.reconcilers.targets.conformance import contracts_of

PAGE = Path(__file__).parents[3] / "docs" / "targets.md"
SECTION = PAGE.read_text(encoding="utf-8").partition("\n## MySQL and MariaDB\n")[2].partition("\n## ")[0]
ROW = re.compile(r"^\| `(.+?)` \| `(.+?)` \| `(.+?)` \|$", re.MULTILINE)
UUID = "123e4567-e89b-12d3-a456-426655440000"
# A type, what is stored, what names it, what does not.
NAMED: list[tuple[str, list[str], list[str], list[str]]] = [
    ("int", ["0", "1", "-7"], ["1", "01", " 1", "+1", "-7"], ["A-1", "1abc", "1.0", "1e0", "", "٣", "1" * 5_000]),
    ("tinyint unsigned", ["255"], ["255"], ["256", "-1", "99999999999999999999999"]),
    ("bigint unsigned", ["18446744073709551615"], ["18446744073709551615"], ["-1", "18446744073709551616"]),
    ("bigint", ["9007199254740993"], ["9007199254740993"], ["9007199254740992", "9007199254740994"]),
    ("tinyint(1)", ["0", "1", "2"], ["true", "false", "0", "1", "2"], ["True", "yes", "3"]),
    ("bit(1)", ["b'1'"], ["true", "1"], ["false", "2"]),
    ("bit(3)", ["b'101'"], ["101"], ["5", "0101"]),
    ("decimal(12,2)", ["12.50", "0"], ["12.5", "12.50", "1.25e1", "0.00", "-0"], ["12.505", "x", "nan", "1e999"]),
    (
        "decimal(38,10)",
        ["12345678901234567890.0123456789"],
        ["12345678901234567890.0123456789"],
        ["12345678901234567890.0123456788", "12345678901234567890"],
    ),
    ("decimal(20,0)", ["-9007199254740993", "100"], ["-9007199254740993", "100", "1e2"], ["-9007199254740992", "1"]),
    ("float", ["1.1"], ["1.1", "1.10"], ["1.11", "inf", "1e39"]),
    ("double", ["0.1"], ["0.1", "1e-1"], ["0.10000000000000002", "nan", "1e999"]),
    ("year", ["2026"], ["2026"], ["26", "x"]),
    ("date", ["'2026-01-31'"], ["2026-01-31"], ["2026-01-30", "31.1.2026", "2026-02-31", ""]),
    (
        "datetime(3)",
        ["'2026-01-31 12:00:00.5'", "'0000-00-00'"],
        ["2026-01-31T12:00:00.5", "2026-01-31 12:00:00.500", "2026-01-31T12:00:00.5Z"],
        ["2026-01-31T12:00:00", "2026-01-31", "0000-00-00", "x"],
    ),
    (
        "timestamp",
        ["'2026-01-31 12:00:00'"],
        ["2026-01-31T12:00:00+00:00", "2026-01-31T13:00:00+01:00", "2026-01-31 12:00:00"],
        ["2026-01-31T12:00:00+01:00", "0001-01-01T00:00:00+14:00", "x"],
    ),
    ("time(1)", ["'-01:02:03.5'"], ["-01:02:03.5", "-1:02:03.50"], ["01:02:03.5", "-010203.5", "-1:2:3"]),
    ("varchar(8)", ["'Ann'", "'zoë'", "''"], ["Ann", "zoë", ""], ["ann", "Ann ", "zoe", " ", "A" * 9, "Ann\x00"]),
    ("varchar(8) character set latin1", ["'A-?'", "'é'"], ["A-?", "é"], ["A-日", "A-😀", "e"]),
    ("varchar(8) character set utf8mb3", ["'A-?'", "'日'"], ["A-?", "日"], ["A-😀", "\udc80"]),
    ("varchar(8) collate utf8mb4_bin", ["'Ann'"], ["Ann"], ["ann", "Ann "]),
    ("varchar(8) collate uca1400_ai_ci", ["'Ann'"], ["Ann"], ["ann", "Ann "]),
    ("char(8)", ["'Ann'"], ["Ann"], ["ann"]),
    ("varchar(8) character set utf16", ["'日😀'"], ["日😀"], ["日"]),
    ("enum('a','1')", ["'a'"], ["a"], ["1", "0", "A", ""]),
    ("set('a','b')", ["'a,b'"], ["a,b"], ["a", "3"]),
    ("binary(2)", ["x'0a00'"], [r"\x0a00", r"\x0A00"], [r"\x0a", "0a00", "\n\x00", r"\x0a0", r"\x0g"]),
    ("varbinary(4)", ["x'41'"], [r"\x41"], ["A", r"\x61"]),
    ("uuid", [f"'{UUID}'"], [UUID, UUID.upper(), UUID.replace("-", "")], [UUID[:-1] + "1", "x"]),
    ("inet6", ["'::1'"], ["::1", "0:0:0:0:0:0:0:1"], ["::2", "1", "x"]),
]


def target_of(server: MariaDb, folder: Path, options: str = "", key: str = "k") -> MySqlTarget:
    text = f'[targets.x]\nkind = "mysql"\n[targets.x.resources.t]\ntable = "t"\nkey = ["{key}"]\n{options}'
    return MySqlTarget(contracts_of(folder, text), "x", login_of(server.url("values_of")))


@pytest.fixture
def database(mariadb: MariaDb) -> MariaDb:
    mariadb.new_database("values_of")
    return mariadb


def fill(server: MariaDb, column: str, stored: list[str], *, indexed: str = "KEY (k)") -> None:
    rows = ", ".join(f"({number}, {value})" for number, value in enumerate(stored))
    server.run(
        "SET SESSION sql_mode = '', time_zone = '+00:00'",
        f"CREATE TABLE values_of.t (n int PRIMARY KEY, k {column}, {indexed}) CHARACTER SET utf8mb4",
        f"INSERT INTO values_of.t VALUES {rows}",
    )


@pytest.mark.parametrize(("column", "stored", "comes_as"), ROW.findall(SECTION))
def test_the_page_says_what_values_come_as(
    database: MariaDb, tmp_path: Path, column: str, stored: str, comes_as: str
) -> None:
    fill(database, column, [stored], indexed="CHECK (true)")
    with target_of(database, tmp_path, key="n") as target:
        [found] = target.scan("t")
    assert found.row is not None
    assert isinstance(found.row.doc, dict)
    assert json.dumps(shown(found.row.doc["k"])) == json.dumps(json.loads(comes_as))


def test_columns_that_hold_numbers_come_as_numbers(database: MariaDb, tmp_path: Path) -> None:
    database.run(
        "CREATE TABLE values_of.t (n int PRIMARY KEY, k tinyint(1), b bit(5), f bool)",
        "INSERT INTO values_of.t VALUES (0, 1, b'101', 1)",
    )
    with target_of(database, tmp_path, 'numbers = ["k", "b"]') as target:
        [found] = target.scan("t")
        assert found.row is not None
        assert found.row.doc == {"n": 0.0, "k": 1.0, "b": 5.0, "f": True}
        assert target.find(None, [Search("t", (("b", 5.0), ("k", 1.0), ("f", True)))]) == [found]


@pytest.mark.parametrize(("column", "stored", "named", "not_named"), NAMED, ids=[each[0] for each in NAMED])
def test_a_text_names_the_value_that_it_is_and_no_other(
    database: MariaDb, tmp_path: Path, column: str, stored: list[str], named: list[str], not_named: list[str]
) -> None:
    fill(database, column, stored)
    with target_of(database, tmp_path) as target:
        for text in named:
            assert [one.row is not None for one in target.read([address(text)])] == [True], text
            assert len(target.find(None, [Search("t", (("k", text),))])) == 1, text
        for text in not_named:
            assert [one.row for one in target.read([address(text)])] == [None], text
            assert target.find(None, [Search("t", (("k", text),))]) == [], text
        # All at once, among which some are none: the others are found all the same.
        found = target.read([address(text) for text in (*named, *not_named)])
        assert [one.row is not None for one in found] == [True] * len(named) + [False] * len(not_named)
        # What a scan calls a row is what names it, but for dates that are none.
        for one in target.scan("t"):
            if not one.address.row.key[0].startswith("0000"):
                assert target.read([one.address]) == [one]


def test_an_integer_beyond_64_bits_is_the_problem_of_its_row(database: MariaDb, tmp_path: Path) -> None:
    fill(database, "bigint unsigned", [str(2**63 - 1), str(2**63)])
    with target_of(database, tmp_path, key="n") as target:
        first, second = (one.row for one in target.read([address("0"), address("1")]))
    assert first is not None
    assert first.problem is None
    assert second is not None
    assert second.problem == "it holds an integer of more than 64 bits"


def address(text: str) -> Address:
    return Address(None, RowKey("t", (text,)))


def test_texts_that_a_collation_takes_for_the_same_are_rows_of_their_own(database: MariaDb, tmp_path: Path) -> None:
    same = ["A-1", "a-1", "Á-1", "A-1 ", "😀", "😁"]
    fill(database, "varchar(8)", [f"'{text}'" for text in same])
    with target_of(database, tmp_path) as target:
        found = target.read([address(text) for text in reversed(same)])
        assert [fields(one)["n"] for one in found] == [5, 4, 3, 2, 1, 0]
        for number, text in enumerate(same):
            [one] = target.find(None, [Search("t", (("k", text),))], 1)
            assert fields(one)["n"] == number


def fields(found: Any) -> dict[str, Any]:
    assert found.row is not None
    assert isinstance(found.row.doc, dict)
    return found.row.doc


@pytest.mark.parametrize("column", ["json", "point NOT NULL"])
def test_what_cannot_be_compared_names_no_row_and_denies_none(database: MariaDb, tmp_path: Path, column: str) -> None:
    fill(database, column, ["'1'" if column == "json" else "point(1, 2)"], indexed="CHECK (true)")
    with (
        target_of(database, tmp_path) as target,
        pytest.raises(TargetUnavailable, match="values of column k of table t can't be compared"),
    ):
        target.read([address("1")])
    with target_of(database, tmp_path, key="n") as target:
        assert len(target.read([address("0")])) == 1
        with pytest.raises(TargetUnavailable, match="values of column k of table t"):
            target.find(None, [Search("t", (("k", "1"),))])
        with pytest.raises(TargetUnavailable, match="no column gone in table t"):
            target.find(None, [Search("t", (("gone", "1"),))])
