"""Writes to a MariaDB, recorded by a real agent and judged by the real reconciler."""

import uuid
from collections.abc import Mapping
from typing import Any

import pytest

from counterfoil_reconcilers.contracts import Contracts
from counterfoil_reconcilers.reconciler import Reconciler
from tests.fix_mariadb import MariaDb
from tests.fix_shop import CONTRACTS, EXCLUSIVE, OURS, Shop, finish

SCHEMA = (
    """CREATE TABLE orders (id varchar(64) COLLATE utf8mb4_bin PRIMARY KEY,
       merchant varchar(40) NOT NULL DEFAULT 'acme', status varchar(20) NOT NULL DEFAULT 'new',
       paid decimal(12,2) NOT NULL DEFAULT 0,
       `by` varchar(40) NOT NULL DEFAULT 'agent')""",
    """CREATE TABLE refunds (id bigint AUTO_INCREMENT PRIMARY KEY, merchant varchar(40) NOT NULL DEFAULT 'acme',
       reference char(32), amount decimal(12,2), `by` varchar(40) NOT NULL DEFAULT 'agent')""",
    "INSERT INTO orders (id) VALUES ('A-1'), ('a-2'), ('A-3'), ('A-4'), ('A-5')",
)
SET_PAID = "UPDATE orders SET status = 'paid' WHERE id = '{order}'"
DEPOSIT = "UPDATE orders SET paid = paid + {amount} WHERE id = '{order}'"
REFUNDED = "UPDATE orders SET status = 'refunded' WHERE id = '{order}'"
ROW = "INSERT INTO refunds (reference, amount) VALUES ('{effect}', {amount})"


class MariaDbShop:
    """The shop's reconciler and recorder, with the orders in a MariaDB."""

    def __init__(self, shop: Shop, server: MariaDb) -> None:
        server.new_database("shop", *SCHEMA)
        self.shop = shop
        self._server = server

    def contracts(self, writers: str = EXCLUSIVE) -> Contracts:
        return self.shop.contracts(writers, text=CONTRACTS.replace('"postgresql"', '"mariadb"'))

    def reconciler(self, writers: str = EXCLUSIVE) -> Reconciler:
        settings: Mapping[str, Mapping[str, str]] = {"shop": {"url": self._server.url("shop")}}
        return self.shop.reconciler(self.contracts(writers), target_settings=settings)

    def sql(self, *statements: str) -> None:
        self._server.run(*statements, database="shop")

    def act(self, tool: str, outcome: str, *landing: str, **args: Any) -> uuid.UUID:
        """An attempt, and what it did to MariaDB on its way."""
        effect = self.shop.begin(tool, **args)
        self.sql(*(statement.format(effect=effect.key, **args) for statement in landing))
        finish(effect, outcome)
        return uuid.UUID(bytes=effect.effect_id)


@pytest.fixture
def orders(shop: Shop, mariadb: MariaDb) -> MariaDbShop:
    return MariaDbShop(shop, mariadb)


def test_what_agents_did_to_mariadb_is_judged(orders: MariaDbShop) -> None:
    reconciler = orders.reconciler(OURS.replace("by =", "`by` ="))
    reconciler.once()
    acted = {
        orders.act("set_status", "ok", SET_PAID, order="A-1", status="paid"): "applied",
        orders.act("set_status", "ok", order="a-2", status="paid"): "not_applied",
        orders.act("set_status", "failed", order="A-2", status="paid"): "not_applied",  # a-2 is another order
        orders.act("deposit", "unknown", DEPOSIT, DEPOSIT, order="A-3", amount="12.50"): "duplicated",
        orders.act("refund", "ok", REFUNDED, ROW, order="A-4", amount="3.10"): "applied",
        orders.act("refund", "ok", ROW, order="A-5", amount="3.20"): "partial",
    }
    orders.shop.recorder.close()
    orders.shop.settle(reconciler)
    assert {effect: orders.shop.verdicts(effect) for effect in acted} == {e: [said] for e, said in acted.items()}
    assert orders.shop.changes() == []


def test_a_change_that_no_intent_explains_is_found(orders: MariaDbShop) -> None:
    reconciler = orders.reconciler(EXCLUSIVE)
    reconciler.once()
    applied = orders.act("set_status", "ok", SET_PAID, order="A-1", status="paid")
    orders.sql("UPDATE orders SET paid = 1 WHERE id = 'A-3'", "INSERT INTO orders (id) VALUES ('a-1')")
    orders.shop.recorder.close()
    orders.shop.settle(reconciler)
    assert orders.shop.verdicts(applied) == ["applied"]
    assert sorted(orders.shop.changes()) == [('orders["A-3"]', "unattributed"), ('orders["a-1"]', "unattributed")]


def test_a_target_that_is_away_settles_nothing(orders: MariaDbShop, mariadb: MariaDb) -> None:
    reconciler = orders.reconciler(EXCLUSIVE)
    reconciler.once()
    absent = orders.act("set_status", "ok", order="A-1", status="paid")
    orders.shop.recorder.close()
    with mariadb.away():
        assert [orders.shop.step(reconciler).said for _ in range(4)] == [0] * 4
    assert orders.shop.verdicts(absent) == []
    orders.shop.settle(reconciler)
    assert orders.shop.verdicts(absent) == ["not_applied"]
