"""Four shops on real servers, and a fifth that is read through a replica: how each is declared, reached, refused."""

import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, LiteralString

import psycopg

from bench.pgbouncer import PASSWORD
from counterfoil_console.stack.ports import HOST
from tests.faults.hands import TENANT, Hands, Where, open_hands
from tests.fix_aws import REGION, Aws
from tests.fix_mariadb import MariaDb
from tests.fix_pocketbase import PocketBase
from tests.fix_toxiproxy import Door, Toxiproxy
from tests.waiting import wait_until

OURS = "{ ours = \"%s= 'agent'\" }"
EXCLUSIVE = '"exclusive"'
_TARGET = """
[targets.{name}]
kind = "{kind}"
writers = {writers}
settle_seconds = {settle}
{more}
[targets.{name}.resources.orders]
{orders}
key = ["id"]
tenant = "merchant"
fields.by = {{ ignore = true }}
[targets.{name}.resources.refunds]
{refunds}
key = ["id"]
tenant = "merchant"
fields.id = {{ ignore = true }}

[tools.{name}_set_status]
target = "{name}"
[[tools.{name}_set_status.writes]]
resource = "orders"
key = {{ id = "args.order" }}
set.status = "args.status"

[tools.{name}_deposit]
target = "{name}"
[[tools.{name}_deposit.writes]]
resource = "orders"
key = {{ id = "args.order" }}
set.paid = "before.paid + number(args.amount)"

[tools.{name}_refund]
target = "{name}"
[[tools.{name}_refund.writes]]
resource = "orders"
key = {{ id = "args.order" }}
set.status = "'refunded'"
[[tools.{name}_refund.writes]]
resource = "refunds"
create = true
{found_by}
set.amount = "number(args.amount)"
"""
_BY_REFERENCE = 'find = { reference = "effect" }\nset.reference = "effect"'
_BY_KEY = 'key = { id = "effect" }'
_PAGES = """\
auth_scheme = ""
pages = { style = "number", param = "page", size_param = "perPage", size = 500, total = "$.totalItems" }"""
_RECORDS = """\
get = "/api/collections/{name}/records/{{id}}"
items = "$.items[*]"
list = {{ path = "/api/collections/{name}/records", query = {{ sort = "id" }} }}"""
_SEARCH = """
find.path = "/api/collections/refunds/records"
find.query = { filter = "(reference={reference:quoted})", sort = "id" }"""
_MAKE: LiteralString = """
CREATE SCHEMA {schema};
CREATE TABLE {schema}.orders (
    id text PRIMARY KEY, merchant text NOT NULL DEFAULT 'acme', status text NOT NULL DEFAULT 'new',
    paid numeric NOT NULL DEFAULT 0, by text NOT NULL DEFAULT 'agent', updated_at timestamptz DEFAULT now());
CREATE TABLE {schema}.refunds (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, merchant text NOT NULL DEFAULT 'acme', reference text,
    amount numeric, by text NOT NULL DEFAULT 'agent', made_at timestamptz DEFAULT now());
GRANT USAGE ON SCHEMA {schema} TO reader;
GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO reader
"""
_MARIADB = (
    """CREATE TABLE orders (
       id varchar(64) COLLATE utf8mb4_bin PRIMARY KEY, merchant varchar(40) NOT NULL DEFAULT 'acme',
       status varchar(20) NOT NULL DEFAULT 'new', paid decimal(12,2) NOT NULL DEFAULT 0,
       `by` varchar(40) NOT NULL DEFAULT 'agent', updated_at timestamp DEFAULT current_timestamp())""",
    """CREATE TABLE refunds (id bigint AUTO_INCREMENT PRIMARY KEY, merchant varchar(40) NOT NULL DEFAULT 'acme',
       reference varchar(64), amount decimal(12,2), `by` varchar(40) NOT NULL DEFAULT 'agent')""",
)
_ALL_OF = '{"Version": "2012-10-17", "Statement": [{"Effect": "%s", "Action": "*", "Resource": "*"}]}'


@dataclass(frozen=True)
class Doors:
    """`look` is for the reconcilers, `lossy` for a single agent, `slow` for those whose replies take a second."""

    look: Door
    lossy: Door
    slow: Door


@dataclass(frozen=True)
class Shop:
    """One target: where agents write (`port` is the server's), how reconcilers reach it, and who may write there."""

    name: str
    kind: str
    port: int
    where: Where
    contract: str
    settings: Mapping[str, str]
    doors: Doors
    is_exclusive: bool
    make_orders: Callable[[Iterable[str]], None]
    revoke: Callable[[], None]
    restore: Callable[[], None]
    says_busy_by_http: bool = False

    def hands(self, door: Door | None = None) -> Hands:
        """A client, through a door or straight."""
        return open_hands(self.kind, self.port if door is None else door.port, self.where)

    @contextmanager
    def refusing_credentials(self) -> Iterator[None]:
        """The reconcilers' credentials are revoked for the length of a block."""
        self.revoke()
        try:
            yield
        finally:
            self.restore()

    @contextmanager
    def busy(self, busy_port: int) -> Iterator[None]:
        """For the length of a block reconcilers get 429 and 503, or no connection where there are no such words."""
        if self.says_busy_by_http:
            self.doors.look.lead_to(busy_port)
        else:
            self.doors.look.shut()
        try:
            yield
        finally:
            if self.says_busy_by_http:
                self.doors.look.lead_to(self.port)
            else:
                self.doors.look.open()


def _doors(proxy: Toxiproxy, name: str, port: int, read_port: int) -> Doors:
    return Doors(
        proxy.door(f"{name}-look", read_port), proxy.door(f"{name}-lossy", port), proxy.door(f"{name}-slow", port)
    )


def _contract(name: str, kind: str, settle: float, **given: str) -> str:
    defaults = {"more": "", "found_by": _BY_REFERENCE}
    return _TARGET.format(name=name, kind=kind, settle=settle, **defaults | given)


def port_of(dsn: str) -> int:
    """Where a server of PostgreSQL listens."""
    return int(str(psycopg.conninfo.conninfo_to_dict(dsn)["port"]))


def postgres_shop(
    proxy: Toxiproxy, admin: str, settle: float, *, name: str = "postgres", standby: int | None = None, lag: float = 0
) -> Shop:
    """A schema of a PostgreSQL; with `standby` (its port) the reconcilers look there, `lag` seconds later."""
    port = port_of(admin)
    doors = _doors(proxy, name, port, standby or port)
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute(psycopg.sql.SQL(_MAKE).format(schema=psycopg.sql.Identifier(name)))
    is_exclusive = standby is not None
    contract = _contract(
        name, "postgresql", settle,
        writers=EXCLUSIVE if is_exclusive else OURS % "by ",
        more=f"read_lag_seconds = {lag}" if standby else "",
        orders=f'table = "{name}.orders"\nfields.updated_at = {{ ignore = true }}',
        refunds=f'table = "{name}.refunds"\nfields.made_at = {{ ignore = true }}',
    )  # fmt: skip
    to = f"postgresql://reader:{PASSWORD}@{HOST}:{doors.look.port}/postgres?sslmode=disable"

    def run(*statements: LiteralString) -> None:
        with psycopg.connect(admin, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    def make_orders(ids: Iterable[str]) -> None:
        with psycopg.connect(admin) as connection, connection.cursor() as cursor:
            copy = psycopg.sql.SQL("COPY {}.orders (id) FROM STDIN").format(psycopg.sql.Identifier(name))
            with cursor.copy(copy) as rows:
                for each in ids:
                    rows.write_row((each,))
        if standby is not None:  # what nobody declared is part of the baseline only if it can be seen by then
            wait_until(lambda: _has_rows(admin, standby, name))

    ended: LiteralString = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'reader'"
    return Shop(
        name=name, kind="postgresql", port=port, where={"schema": name}, contract=contract,
        settings={"dsn": to}, doors=doors, is_exclusive=is_exclusive, make_orders=make_orders,
        revoke=partial(run, "ALTER ROLE reader NOLOGIN", ended), restore=partial(run, "ALTER ROLE reader LOGIN"),
    )  # fmt: skip


def _has_rows(admin: str, port: int, schema: str) -> bool:
    """Whether the replica has the shop's orders, which came in one transaction."""
    query = psycopg.sql.SQL("SELECT FROM {}.orders LIMIT 1").format(psycopg.sql.Identifier(schema))
    with psycopg.connect(admin, port=port, autocommit=True) as replica:
        try:
            return replica.execute(query).rowcount == 1
        except psycopg.errors.UndefinedTable:
            return False


def mariadb_shop(proxy: Toxiproxy, server: MariaDb, settle: float) -> Shop:
    """A database of a MariaDB that is the agents' alone."""
    server.new_database("shop", *_MARIADB)
    doors = _doors(proxy, "mariadb", server.port, server.port)
    contract = _contract(
        "mariadb", "mariadb", settle, writers=EXCLUSIVE,
        orders='table = "orders"\nfields.updated_at = { ignore = true }', refunds='table = "refunds"',
    )  # fmt: skip

    def make_orders(ids: Iterable[str]) -> None:
        with server.connect("shop") as connection, connection.cursor() as cursor:
            cursor.executemany("INSERT INTO orders (id) VALUES (%s)", [(each,) for each in ids])

    def revoke() -> None:
        server.run("ALTER USER reader ACCOUNT LOCK")
        with server.connect() as connection, connection.cursor() as cursor:
            cursor.execute("SELECT id FROM information_schema.processlist WHERE user = 'reader'")
            for [process] in cursor.fetchall():
                cursor.execute(f"KILL {int(process)}")

    url = server.url("shop", query="?ssl_mode=disabled").replace(f":{server.port}/", f":{doors.look.port}/")
    return Shop(
        name="mariadb", kind="mariadb", port=server.port, where={}, contract=contract, settings={"url": url},
        doors=doors, is_exclusive=True, make_orders=make_orders, revoke=revoke,
        restore=partial(server.run, "ALTER USER reader ACCOUNT UNLOCK"),
    )  # fmt: skip


def pocketbase_shop(proxy: Toxiproxy, server: PocketBase, settle: float, folder: Path) -> Shop:
    """Two collections of a PocketBase, where people write, too."""
    text = {"merchant": "text", "by": "text"}
    server.make_collection("orders", {**text, "status": "text", "paid": "number"})
    server.make_collection("refunds", {**text, "reference": "text", "amount": "number"})
    port = int(server.url.rpartition(":")[2])
    doors = _doors(proxy, "pocketbase", port, port)
    contract = _contract(
        "pocketbase", "http", settle, writers=OURS % "row.by =",
        more=_PAGES, orders=_RECORDS.format(name="orders"), refunds=_RECORDS.format(name="refunds") + _SEARCH,
    )  # fmt: skip
    token = folder / "token"

    def make_orders(ids: Iterable[str]) -> None:
        for each in ids:
            fields = {"merchant": TENANT, "by": "agent", "status": "new", "paid": 0}
            server.add("orders", each, fields)

    def restore() -> None:
        token.write_text(server.fresh_token("reader@example.com"))

    def revoke() -> None:
        server.fresh_token("reader@example.com")

    restore()
    return Shop(
        name="pocketbase", kind="http", port=port, where={"token": server.token}, contract=contract,
        settings={"url": f"http://{HOST}:{doors.look.port}", "token_path": str(token)}, doors=doors,
        is_exclusive=False, make_orders=make_orders, restore=restore, says_busy_by_http=True,
        revoke=revoke,
    )  # fmt: skip


def dynamodb_shop(proxy: Toxiproxy, server: Aws, settle: float) -> Shop:
    """Two tables on moto's server, which looks at signatures and policies, and are the agents' alone."""
    tables, client, iam = {}, server.client("dynamodb"), server.client("iam")
    for name in ("orders", "refunds"):
        tables[name] = f"{name}{secrets.token_hex(6)}"
        client.create_table(
            TableName=tables[name], BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": each, "AttributeType": "S"} for each in ("merchant", "id")],
            KeySchema=[
                {"AttributeName": "merchant", "KeyType": "HASH"}, {"AttributeName": "id", "KeyType": "RANGE"}],
        )  # fmt: skip
    port = int(server.url.rpartition(":")[2])
    doors = _doors(proxy, "dynamodb", port, port)
    contract = _contract(
        "dynamodb", "dynamodb", settle, writers=EXCLUSIVE, found_by=_BY_KEY,
        orders=f'table = "{tables["orders"]}"', refunds=f'table = "{tables["refunds"]}"',
    )  # fmt: skip
    iam.create_user(UserName="reader")
    key = iam.create_access_key(UserName="reader")["AccessKey"]

    def may(effect: str) -> None:
        iam.put_user_policy(UserName="reader", PolicyName="its", PolicyDocument=_ALL_OF % effect)

    def make_orders(ids: Iterable[str]) -> None:
        for each in ids:
            item: dict[str, Any] = {
                "merchant": {"S": TENANT}, "id": {"S": each}, "status": {"S": "new"}, "paid": {"N": "0"},
                "by": {"S": "agent"},
            }  # fmt: skip
            client.put_item(TableName=tables["orders"], Item=item)

    may("Allow")
    settings = {
        "endpoint_url": f"http://{HOST}:{doors.look.port}", "region": REGION,
        "access_key_id": key["AccessKeyId"], "secret_access_key": key["SecretAccessKey"], "timeout_seconds": "10",
    }  # fmt: skip
    agents = {"key_id": server.connection["access_key_id"], "secret": server.connection["secret_access_key"]}
    return Shop(
        name="dynamodb", kind="dynamodb", port=port, where={**tables, **agents}, contract=contract, settings=settings,
        doors=doors, is_exclusive=True, make_orders=make_orders, revoke=partial(may, "Deny"),
        restore=partial(may, "Allow"), says_busy_by_http=True,
    )  # fmt: skip


def spec_of(shop: Shop) -> str:
    """What another process needs to write there by the slow door."""
    return json.dumps({"kind": shop.kind, "port": shop.doors.slow.port, "where": dict(shop.where)})
