"""The shop as its client sees it: calls that answer, refuse, or break off."""

from importlib.resources import files
from typing import Any, LiteralString

import psycopg
from psycopg import sql

MERCHANT = "demo"


class Refused(Exception):
    """The shop looked and said no: nothing happened, and that is definite."""


class Shop:
    """Calls the shop's procedures, each over a connection of its own, as an HTTP client would."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    def open(self, orders: dict[str, str]) -> None:
        """Make the shop, with orders of these totals."""
        with psycopg.connect(self._dsn) as connection:
            connection.execute(sql.SQL(files(__package__).joinpath("shop.sql").read_text(encoding="utf-8")))
            with connection.cursor() as cursor:
                cursor.executemany(
                    "INSERT INTO shop.orders (id, merchant, status, address, total) "
                    "VALUES (%s, %s, 'paid', '1 Mill Lane', %s)",
                    [(order, MERCHANT, total) for order, total in orders.items()],
                )

    def refund(self, order: str, amount: str, reference: str, procedure: LiteralString = "refund") -> dict[str, Any]:
        """Refund `amount` on `order`.

        Raises Refused when the shop says no, psycopg.OperationalError when the connection breaks.
        """
        call = sql.SQL("CALL shop.{}(%s, %s, %s)").format(sql.Identifier(procedure))
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            try:
                connection.execute(call, (order, amount, reference))
            except psycopg.errors.CheckViolation as error:
                raise Refused(error.diag.message_primary) from error
        return {"order": order, "refunded": amount, "status": "refunded"}

    def change_address(self, order: str, address: str) -> dict[str, Any]:
        """Change where the order goes."""
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute("UPDATE shop.orders SET address = %s WHERE id = %s", (address, order))
        return {"order": order, "address": address}

    def meddle(self, order: str) -> None:
        """Somebody changes an order by hand, and tells nobody."""
        with psycopg.connect(self._dsn, autocommit=True) as connection:
            connection.execute("UPDATE shop.orders SET total = total * 10 WHERE id = %s", (order,))
