"""A store in which every table has rows of two tenants, and the logins by which such tenants read it with SQL.

The logins' names say nothing of whose they are: names of roles are shown to everybody who may log in.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from counterfoil import Recorder
from counterfoil.codec import encode
from counterfoil.ids import new_id
from counterfoil_consumers.store import Connection
from counterfoil_consumers.texts import index_texts_now
from tests.consumers.made import event, intent, key_of
from tests.fix_log import Produce

TENANTS = ("acme", "globex")
OTHERS = ("nobody", "removed")  # a login of no tenant, and one of a tenant that was taken out of the list
SchemaRow = tuple[Any, ...]
Login = psycopg.Connection[SchemaRow]


def hidden_of(tenant: str) -> str:
    """The word that stands in a tenant's texts."""
    return f"hidden-of-{tenant}"


@dataclass(frozen=True, slots=True)
class Relation:
    """A table, leaf, view or sequence of the store; `kind` is that of pg_class."""

    name: str
    kind: str
    is_leaf: bool
    columns: tuple[str, ...]

    @property
    def names_tenant(self) -> bool:
        return "tenant" in self.columns

    @property
    def sql(self) -> sql.Identifier:
        return sql.Identifier("counterfoil", self.name)


def relations_of(connection: psycopg.Connection[Any]) -> list[Relation]:
    """Every relation of the store, as pg_catalog has them now."""
    with connection.cursor(row_factory=psycopg.rows.tuple_row) as cursor:
        cursor.execute(
            "SELECT c.relname, c.relkind::text, c.relispartition, ARRAY(SELECT a.attname::text FROM pg_attribute AS a "
            "WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum) FROM pg_class AS c "
            "WHERE c.relnamespace = 'counterfoil'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') "
            "ORDER BY c.relname"
        )
        return [Relation(name, kind, leaf, tuple(columns)) for name, kind, leaf, columns in cursor]


@pytest.fixture
def login_roles(store_template: str) -> Iterator[dict[str, str]]:
    """A login role for each tenant, as its own SQL would use, and one for each of OTHERS; made by the migrator.

    To be asked for before the database: what a role left there keeps it from being dropped.
    """
    roles = {tenant: f"reader_{number}" for number, tenant in enumerate((*TENANTS, *OTHERS))}
    elsewhere = make_conninfo(store_template, dbname="postgres")  # a template with a session on it can't be cloned
    with psycopg.connect(elsewhere, autocommit=True) as migrator:
        for role in map(sql.Identifier, roles.values()):
            migrator.execute(
                sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'only-on-loopback' IN ROLE counterfoil_auditor").format(role)
            )
        yield roles
        for role in map(sql.Identifier, roles.values()):
            migrator.execute(sql.SQL("DROP ROLE {}").format(role))


@pytest.fixture
def filled(
    login_roles: dict[str, str],
    operator: Connection,
    recorder: Recorder,
    produce: Produce,
    ingest_all: Callable[[], None],
    database: str,
) -> Connection:
    """A store in which both tenants have what ingest makes of events; read as the operator."""
    for tenant in TENANTS:
        args = {"of": hidden_of(tenant)}
        with recorder.task("t", tenant=tenant) as task, task.effect("refund", target="pay", args=args) as one:
            task.retrieval(hidden_of(tenant), [{"id": f"document of {tenant}"}])
            task.completion(hidden_of(tenant), model="m", usage={"input_tokens": 1}, cost="1", currency="EUR")
            task.denial(by=tenant, about="refund", reason=hidden_of(tenant))
            one.ok()
        verdict = {
            "target": "pay",
            "verdict": "not_applied",
            "check_seq": 1,
            "contract_version": "1",
            "contract_digest": b"\x01",
            "evidence": "{}",
            "resources": [{"resource": "refunds", "key": f'"{tenant}"'}],
        }
        judged = event("verdict", verdict, tenant=tenant, task_id=task.task_id, effect_id=one.effect_id)
        found = event("verdict", verdict, tenant=tenant, task_id=task.task_id)
        stray = event(tenant=tenant, retention_class="legal")
        clash = intent(tenant=tenant, event_id=judged.event_id, task_id=task.task_id)
        storm = [
            intent(tenant=tenant, task_id=task.task_id, attempt=attempt, effect_id=new_id()) for attempt in range(2, 12)
        ]
        for made in (judged, judged, found, stray, clash, *storm):
            produce(encode(made), key_of(made))
    produce(b"of nobody", b"key")
    recorder.close()
    ingest_all()
    index_texts_now(database)
    for tenant in TENANTS:
        operator.execute("UPDATE tenant SET login_role = %s WHERE tenant = %s", [login_roles[tenant], tenant])
    return operator


@pytest.fixture
def superuser(admin_dsn: str, database: str) -> Iterator[Login]:
    """The test's store as its server's administrator, whom row-level security does not bind."""
    name = psycopg.conninfo.conninfo_to_dict(database)["dbname"]
    with closing(psycopg.connect(make_conninfo(admin_dsn, dbname=name), autocommit=True)) as connection:
        yield connection


@pytest.fixture
def full(filled: Connection, superuser: Login) -> Login:
    """The same store, with a row of each tenant in every other table that names one; read as the administrator."""
    superuser.execute("SET session_replication_role = replica")  # a made-up row refers to nothing
    for relation in relations_of(superuser):
        if relation.kind in "rp" and relation.names_tenant and not relation.is_leaf:
            there = tenants_in(superuser, relation)
            for tenant in TENANTS:
                if tenant not in there:
                    make_up_row(superuser, relation.name, tenant)
    superuser.execute("ANALYZE")
    return superuser


def tenants_in(connection: Login, relation: Relation) -> set[str | None]:
    """Whose rows a connection sees in a relation."""
    query = sql.SQL("SELECT DISTINCT tenant FROM {}").format(relation.sql)
    return {row[0] for row in connection.execute(query)}


_MADE_UP = """
SELECT a.attname, CASE
    WHEN a.attname = 'tenant' THEN quote_literal(%(tenant)s)
    WHEN t.typtype = 'e' THEN quote_literal((SELECT min(enumlabel) FROM pg_enum WHERE enumtypid = t.oid))
    WHEN t.typcategory = 'A' OR t.typtype IN ('r', 'm') THEN quote_literal('{}')
    WHEN t.typname IN ('json', 'jsonb') THEN quote_literal(json_build_object('of', %(hidden)s::text))
    WHEN t.typname = 'uuid' THEN quote_literal(gen_random_uuid())
    WHEN t.typname = 'bytea' THEN quote_literal(convert_to(%(hidden)s, 'UTF8'))
    WHEN t.typcategory = 'B' THEN 'true'
    WHEN t.typcategory = 'N' THEN '1'
    WHEN t.typcategory = 'D' THEN 'now()'
    WHEN t.typcategory = 'T' THEN quote_literal('1 day')
    ELSE quote_literal(%(hidden)s)
END
FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
WHERE a.attrelid = format('counterfoil.%%I', %(name)s::text)::regclass
  AND a.attnum > 0 AND NOT a.attisdropped AND a.attidentity = '' AND a.attgenerated = ''
"""


def make_up_row(superuser: Login, name: str, tenant: str) -> None:
    """Put a row of a tenant into a table whatever its columns are, past all checks but those of its types."""
    table = sql.Identifier("counterfoil", name)
    checks = superuser.execute(
        "SELECT conname FROM pg_constraint WHERE contype = 'c' AND conrelid = %s::regclass", [table.as_string()]
    ).fetchall()
    for [check] in checks:
        superuser.execute(sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(table, sql.Identifier(check)))
    values = superuser.execute(_MADE_UP, {"tenant": tenant, "hidden": hidden_of(tenant), "name": name}).fetchall()
    columns = sql.SQL(", ").join(sql.Identifier(column) for column, _ in values)
    literals = sql.SQL(", ").join(sql.SQL(value) for _, value in values)  # quoted by the server
    superuser.execute(sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(table, columns, literals))


@pytest.fixture
def login(login_roles: dict[str, str], database: str) -> Iterator[Callable[[str], Login]]:
    """Logs in as a tenant's own role, or as one of OTHERS."""
    with ExitStack() as opened:

        def connect(tenant: str) -> Login:
            dsn = make_conninfo(database, user=login_roles[tenant], application_name="sql")
            return opened.enter_context(closing(psycopg.connect(dsn, autocommit=True)))

        yield connect
