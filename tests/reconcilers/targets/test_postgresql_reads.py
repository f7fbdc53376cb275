"""The PostgreSQL adapter on a real server: one query per resource, nothing written, no answer that is not one."""

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from counterfoil_reconcilers.contracts import Contracts, load
from counterfoil_reconcilers.rows import Row, RowKey
from counterfoil_reconcilers.targets.port import Address, Target, TargetUnavailable
from counterfoil_reconcilers.targets.postgresql import PostgresTarget
from counterfoil_reconcilers.touched import Search

TEXT = """\
version = "1"
[targets.shop]
kind = "postgresql"
writers = { ours = "updated_by LIKE 'agent%'" }
[targets.shop.resources.orders]
table = "public.orders"
key = ["id"]
tenant = "tenant_id"
[targets.shop.resources.documents]
table = '"Documents"'
key = ["region", "number"]
tenant = "tenant"
doc = "body"
[targets.shop.resources.shown]
table = "shown"
key = ["id"]
[tools.refund]
target = "shop"
[[tools.refund.writes]]
resource = "orders"
key = { id = "args.order" }
set.status = "'refunded'"
"""
SCHEMA = """
CREATE TABLE orders (id uuid PRIMARY KEY, tenant_id text NOT NULL, status text, total numeric(12,2),
                     made timestamptz DEFAULT now(), updated_by text);
CREATE TABLE "Documents" (region text, number int, tenant int, body json, updated_by text,
                          PRIMARY KEY (tenant, region, number));
CREATE VIEW shown AS SELECT * FROM orders;
INSERT INTO orders VALUES
  ('00000000-0000-0000-0000-00000000000a', 'acme', 'paid', 12.50, '2024-01-01 00:00:00Z', 'agent-7'),
  ('00000000-0000-0000-0000-00000000000b', 'other', 'paid', 1, '2024-01-01 00:00:00Z', NULL);
INSERT INTO "Documents" VALUES ('eu', 1, 5, '{"a": {"b": 1}}', 'agent'), ('eu', 2, 5, '{"a": 1, "a": 2}', 'person'),
  ('eu', 3, 5, NULL, 'x'), ('us', 1, 6, '[1]', 'x');
"""
ORDER_A, ORDER_B = "00000000-0000-0000-0000-00000000000A", "00000000-0000-0000-0000-00000000000b"


@pytest.fixture
def shop(admin_dsn: str) -> str:
    """A fresh database with a shop in it."""
    with psycopg.connect(admin_dsn, autocommit=True) as admin:
        admin.execute("DROP DATABASE IF EXISTS shop WITH (FORCE)")
        admin.execute("CREATE DATABASE shop")
    dsn = make_conninfo(admin_dsn, dbname="shop")
    with psycopg.connect(dsn) as connection:
        connection.execute(SCHEMA)
    return dsn


def contracts_of(folder: Path, text: str = TEXT) -> Contracts:
    path = folder / "contracts.toml"
    path.write_text(text)
    return load(path)


@pytest.fixture
def target(shop: str, tmp_path: Path) -> Iterator[PostgresTarget]:
    with PostgresTarget(contracts_of(tmp_path), "shop", shop) as adapter:
        yield adapter


def order(key: str, tenant: str | None = "acme") -> Address:
    return Address(tenant, RowKey("orders", (key,)))


def document(region: str, number: str, tenant: str = "5") -> Address:
    return Address(tenant, RowKey("documents", (region, number)))


def test_rows_are_read_in_one_batch_with_their_versions(target: PostgresTarget) -> None:
    port: Target = target
    wanted = [
        order(ORDER_A),
        order(ORDER_B),
        order("no uuid"),
        document("eu", "1"),
        document("eu", "x"),
        document("eu", "9"),
    ]
    found = {row.address: row.row for row in port.read(wanted)}
    assert list(found) == [order(ORDER_A), order(ORDER_B), order("no uuid"), *wanted[3:]]
    row = found[order(ORDER_A)]
    assert isinstance(row, Row)
    assert isinstance(row.doc, dict)
    assert (row.doc["status"], row.doc["total"], row.ours) == ("paid", 12.5, True)
    assert row.version is not None
    assert row.version.isdigit()
    assert [found[address] for address in wanted[1:3]] == [None, None]
    body = found[document("eu", "1")]
    assert isinstance(body, Row)
    assert (body.doc, body.ours) == ({"a": {"b": 1.0}}, True)
    assert [found[address] for address in wanted[4:]] == [None, None]


def test_a_login_that_was_locked_is_refused(shop: str, tmp_path: Path) -> None:
    with psycopg.connect(shop, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS locked")
        connection.execute("CREATE ROLE locked NOLOGIN PASSWORD 'only-on-loopback'")
    locked = make_conninfo(shop, user="locked", password="only-on-loopback")
    with PostgresTarget(contracts_of(tmp_path), "shop", locked) as target, pytest.raises(TargetUnavailable) as caught:
        target.read([order(ORDER_A)])
    assert caught.value.trouble == "refused"


def test_a_large_batch_with_refused_keys_finds_the_rest(target: PostgresTarget) -> None:
    wanted = [order(f"bad {n}") for n in range(5)] + [order(ORDER_A)] + [order(f"{n:032x}") for n in range(2_000)]
    found = {row.address: row.row for row in target.read(wanted)}
    assert len(found) == len(wanted)
    assert [address for address, row in found.items() if row is not None] == [order(ORDER_A), order(f"{10:032x}")]


def test_a_document_that_cannot_be_compared_says_why(target: PostgresTarget) -> None:
    found = {row.address: row.row for row in target.read([document("eu", "2"), document("eu", "3")])}
    twice, empty = found[document("eu", "2")], found[document("eu", "3")]
    assert isinstance(twice, Row)
    assert "named twice" in str(twice.problem)
    assert isinstance(empty, Row)
    assert (empty.doc, empty.problem) == (None, None)


def test_scan_and_find_keep_tenants_apart(target: PostgresTarget) -> None:
    assert {row.address.tenant for row in target.scan("orders")} == {"acme", "other"}
    assert [row.address.row.key for row in target.scan("orders", "acme")] == [(ORDER_A.lower(),)]
    assert [row.address.row.key for row in target.scan("documents", "6")] == [("us", "1")]
    paid = Search("orders", (("status", "paid"), ("total", 12.5)))
    assert [row.address.tenant for row in target.find("acme", [paid])] == ["acme"]
    assert target.find("acme", [Search("orders", (("total", "much"),))]) == []
    assert len(target.find(None, [Search("orders", (("status", "paid"),))])) == 2
    assert target.find("acme", [Search("orders", (("status", ["paid"]),))]) == []
    with pytest.raises(TargetUnavailable, match=r"no column colour in table public\.orders"):
        target.find("acme", [Search("orders", (("status", "paid"), ("colour", "red")))])


def test_many_searches_are_one_query_and_refused_values_hide_nobody_else_s_rows(
    target: PostgresTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Mock(wraps=target._search)
    monkeypatch.setattr(target, "_search", asked)
    many = [Search("orders", (("status", "paid"), ("total", float(n)))) for n in range(200)]
    right = Search("orders", (("status", "paid"), ("total", 12.5)))
    assert [row.address.tenant for row in target.find("acme", [*many, right])] == ["acme"]
    assert asked.call_count == 1
    odd = [
        Search("orders", (("status", "paid"), ("total", "much"))),
        Search("orders", (("status", "\ud800"), ("total", 1))),
    ]
    assert [row.address.tenant for row in target.find("acme", [*odd, right, *many])] == ["acme"]
    by_status = Search("orders", (("status", "paid"),))
    assert {row.address.tenant for row in target.find(None, [by_status, right])} == {"acme", "other"}
    assert len(target.find(None, [by_status], limit=1)) == 1


def test_a_view_has_no_version(target: PostgresTarget) -> None:
    found = target.read([Address(None, RowKey("shown", (ORDER_A,)))])
    assert isinstance(found[0].row, Row)
    assert found[0].row.version is None


def test_nothing_can_be_written_not_even_by_the_contract(shop: str, tmp_path: Path) -> None:
    with psycopg.connect(shop) as connection:
        connection.execute(
            "CREATE FUNCTION mark() RETURNS bool LANGUAGE sql AS $$ UPDATE orders SET status = 'x' RETURNING true $$"
        )
    text = TEXT.replace("updated_by LIKE 'agent%'", "mark()")
    with (
        PostgresTarget(contracts_of(tmp_path, text), "shop", shop) as target,
        pytest.raises(TargetUnavailable, match="read-only"),
    ):
        target.read([order(ORDER_A)])


def test_the_contract_is_checked_against_the_catalogue(shop: str, tmp_path: Path) -> None:
    with PostgresTarget(contracts_of(tmp_path), "shop", shop) as target:
        assert target.check() == []
    text = TEXT.replace('"public.orders"', '"public.ordes"').replace('doc = "body"', 'doc = "boddy"')
    with PostgresTarget(contracts_of(tmp_path, text), "shop", shop) as target:
        assert [str(error) for error in target.check()] == [
            "contracts.toml line 6: table public.ordes does not exist in target shop; did you mean public.orders?",
            'contracts.toml line 13: table "Documents" of target shop has no column boddy; did you mean body?',
        ]
        with pytest.raises(TargetUnavailable, match=r"there is no table public\.ordes"):
            target.read([order(ORDER_A)])
    text = TEXT.replace("set.status", "set.statuss").replace('tenant = "tenant_id"', 'tenant = "tenantid"')
    with PostgresTarget(contracts_of(tmp_path, text), "shop", shop) as target:
        assert [str(error) for error in target.check()] == [
            "contracts.toml line 22: table public.orders of target shop has no column statuss; did you mean status?",
            "contracts.toml line 8: table public.orders of target shop has no column tenantid; did you mean tenant_id?",
        ]


def test_any_error_is_target_unavailable_and_the_next_call_recovers(shop: str, admin_dsn: str, tmp_path: Path) -> None:
    contracts = contracts_of(tmp_path)
    nobody = make_conninfo(shop, user="nobody", password="hunter2")
    with PostgresTarget(contracts, "shop", nobody) as target, pytest.raises(TargetUnavailable) as caught:
        target.read([order(ORDER_A)])
    assert "hunter2" not in str(caught.value)
    with (
        PostgresTarget(contracts, "shop", "host=127.0.0.1 port=1 dbname=x") as target,
        pytest.raises(TargetUnavailable),
    ):
        target.check()
    with PostgresTarget(contracts, "shop", shop) as target:
        target.read([order(ORDER_A)])
        with psycopg.connect(admin_dsn, autocommit=True) as admin:
            admin.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'counterfoil reconcile'"
            )
        with pytest.raises(TargetUnavailable):
            target.read([order(ORDER_A)])
        assert target.read([order(ORDER_A)])[0].row is not None


def test_a_locked_table_does_not_hold_the_reconciler(shop: str, tmp_path: Path) -> None:
    with (
        psycopg.connect(shop) as other,
        PostgresTarget(contracts_of(tmp_path), "shop", shop, lock_timeout_millis=100) as target,
    ):
        other.execute("LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(TargetUnavailable, match="lock timeout"):
            target.read([order(ORDER_A)])
