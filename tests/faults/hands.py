"""What agents and people do to a shop's rows, at each kind of target, by a client that tries everything once."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol

import boto3.session
import httpx2
import psycopg
import pymysql
from botocore.config import Config

from bench.pgbouncer import PASSWORD
from counterfoil_console.stack.ports import HOST
from tests.fix_aws import REGION

TENANT = "acme"
AGENT = "agent"
_PATIENCE_SECONDS = 60.0
Where = Mapping[str, Any]  # what a client needs to know besides the port; JSON


class Hands(Protocol):
    """A client with one connection; each of its acts is a transaction, and raises what the client raises."""

    def set_status(self, order: str, status: str, by: str = AGENT) -> None:
        """The order has this status now, and was written by this one."""

    def add_paid(self, order: str, amount: str) -> None:
        """The order's sum is higher by so much."""

    def add_refund(self, reference: str, amount: str) -> None:
        """A new row in the ledger."""

    def status(self, order: str) -> str:
        """The order's status."""

    def paid(self, order: str) -> float:
        """The order's sum."""

    def close(self) -> None:
        """Let go of the connection."""


class PostgresHands:
    """psycopg, in autocommit."""

    def __init__(self, port: int, where: Where) -> None:
        self._connection = psycopg.connect(
            host=HOST, port=port, user="postgres", password=PASSWORD, dbname="postgres", sslmode="disable",
            autocommit=True, options=f"-c search_path={where['schema']}",
        )  # fmt: skip

    def set_status(self, order: str, status: str, by: str = AGENT) -> None:
        self._connection.execute("UPDATE orders SET status = %s, by = %s WHERE id = %s", (status, by, order))

    def add_paid(self, order: str, amount: str) -> None:
        query = "UPDATE orders SET paid = paid + %s::numeric, by = %s WHERE id = %s"
        self._connection.execute(query, (amount, AGENT, order))

    def add_refund(self, reference: str, amount: str) -> None:
        query = "INSERT INTO refunds (reference, amount, by) VALUES (%s, %s, %s)"
        self._connection.execute(query, (reference, amount, AGENT))

    def status(self, order: str) -> str:
        [[status]] = self._connection.execute("SELECT status FROM orders WHERE id = %s", (order,)).fetchall()
        return str(status)

    def paid(self, order: str) -> float:
        [[paid]] = self._connection.execute("SELECT paid FROM orders WHERE id = %s", (order,)).fetchall()
        return float(paid)

    def close(self) -> None:
        self._connection.close()


class MariaDbHands:
    """PyMySQL, in autocommit."""

    def __init__(self, port: int, where: Where) -> None:
        self._connection = pymysql.connect(
            host=HOST, port=port, user="admin", password=PASSWORD, database="shop", charset="utf8mb4", autocommit=True,
            read_timeout=int(_PATIENCE_SECONDS), ssl_disabled=True,
        )  # fmt: skip

    def _run(self, query: str, *values: str) -> Any:
        with self._connection.cursor() as cursor:
            cursor.execute(query, values)
            return cursor.fetchall()

    def set_status(self, order: str, status: str, by: str = AGENT) -> None:
        self._run("UPDATE orders SET status = %s, `by` = %s WHERE id = %s", status, by, order)

    def add_paid(self, order: str, amount: str) -> None:
        self._run("UPDATE orders SET paid = paid + %s, `by` = %s WHERE id = %s", amount, AGENT, order)

    def add_refund(self, reference: str, amount: str) -> None:
        self._run("INSERT INTO refunds (reference, amount, `by`) VALUES (%s, %s, %s)", reference, amount, AGENT)

    def status(self, order: str) -> str:
        [[status]] = self._run("SELECT status FROM orders WHERE id = %s", order)
        return str(status)

    def paid(self, order: str) -> float:
        [[paid]] = self._run("SELECT paid FROM orders WHERE id = %s", order)
        return float(paid)

    def close(self) -> None:
        with suppress(pymysql.err.Error):
            self._connection.close()


class PocketBaseHands:
    """httpx2, and PocketBase's records API; `field+` adds to a number."""

    def __init__(self, port: int, where: Where) -> None:
        self._http = httpx2.Client(
            base_url=f"http://{HOST}:{port}/api/collections", headers={"Authorization": where["token"]},
            timeout=_PATIENCE_SECONDS, trust_env=False,
        )  # fmt: skip

    def _send(self, verb: str, path: str, fields: Mapping[str, Any] | None = None) -> Any:
        return self._http.request(verb, path, json=fields).raise_for_status().json()

    def set_status(self, order: str, status: str, by: str = AGENT) -> None:
        self._send("PATCH", f"/orders/records/{order}", {"status": status, "by": by})

    def add_paid(self, order: str, amount: str) -> None:
        self._send("PATCH", f"/orders/records/{order}", {"paid+": float(amount), "by": AGENT})

    def add_refund(self, reference: str, amount: str) -> None:
        fields = {"merchant": TENANT, "reference": reference, "amount": float(amount), "by": AGENT}
        self._send("POST", "/refunds/records", fields)

    def status(self, order: str) -> str:
        return str(self._send("GET", f"/orders/records/{order}")["status"])

    def paid(self, order: str) -> float:
        return float(self._send("GET", f"/orders/records/{order}")["paid"])

    def close(self) -> None:
        self._http.close()


class DynamoDbHands:
    """boto3, without its own retries. A refund's key is its reference, so a second one is the first again."""

    def __init__(self, port: int, where: Where) -> None:
        session = boto3.session.Session(where["key_id"], where["secret"], region_name=REGION)
        once = Config(retries={"total_max_attempts": 1}, read_timeout=_PATIENCE_SECONDS)
        self._client = session.client("dynamodb", endpoint_url=f"http://{HOST}:{port}", config=once)
        self._where = where

    def _update(self, order: str, change: str, **values: Mapping[str, str]) -> None:
        self._client.update_item(
            TableName=self._where["orders"],
            Key={"merchant": {"S": TENANT}, "id": {"S": order}},
            UpdateExpression=change,
            ExpressionAttributeNames={name: name[1:] for name in ("#status", "#by", "#paid") if name in change},
            ExpressionAttributeValues={f":{name}": value for name, value in values.items()},
        )

    def set_status(self, order: str, status: str, by: str = AGENT) -> None:
        self._update(order, "SET #status = :status, #by = :by", status={"S": status}, by={"S": by})

    def add_paid(self, order: str, amount: str) -> None:
        self._update(order, "ADD #paid :amount SET #by = :by", amount={"N": amount}, by={"S": AGENT})

    def add_refund(self, reference: str, amount: str) -> None:
        item = {"merchant": {"S": TENANT}, "id": {"S": reference}, "amount": {"N": amount}, "by": {"S": AGENT}}
        self._client.put_item(TableName=self._where["refunds"], Item=item)

    def _item(self, order: str) -> Any:
        key = {"merchant": {"S": TENANT}, "id": {"S": order}}
        return self._client.get_item(TableName=self._where["orders"], Key=key, ConsistentRead=True)["Item"]

    def status(self, order: str) -> str:
        return str(self._item(order)["status"]["S"])

    def paid(self, order: str) -> float:
        return float(self._item(order)["paid"]["N"])

    def close(self) -> None:
        self._client.close()


_KINDS: Mapping[str, Callable[[int, Where], Hands]] = {
    "postgresql": PostgresHands, "mariadb": MariaDbHands, "http": PocketBaseHands, "dynamodb": DynamoDbHands,
}  # fmt: skip


def open_hands(kind: str, port: int, where: Where) -> Hands:
    """A client that reaches a shop of a kind through a port of this host."""
    return _KINDS[kind](port, where)
