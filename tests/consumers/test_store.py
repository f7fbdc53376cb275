"""The store's schema, who may do what in it, and what is said when it can't be used."""

import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from counterfoil import Recorder
from counterfoil.codec import encode
from counterfoil_consumers.errors import StoreAway, StoreError
from counterfoil_consumers.ingest import _GROUP, _LIMITS
from counterfoil_consumers.migrations import applied, migrate, pending
from counterfoil_consumers.store import Connection, connect, fetch_one, queries
from counterfoil_schemas import Migration, migrations
from tests.consumers.made import event, intent, key_of
from tests.fix_log import Produce
from tests.fix_store import MIGRATOR

SERVICES = {f"counterfoil_{name}" for name in ("ingester", "reconciler", "auditor", "operator", "eraser")}


@pytest.fixture
def bare_database(admin_dsn: str, empty_database: str) -> Iterator[str]:
    """DSN of the migrator on a database without a store."""
    name = f"bare_{threading.get_ident()}"
    with psycopg.connect(admin_dsn, autocommit=True) as admin:
        admin.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE template0 OWNER {}").format(
                sql.Identifier(name), sql.Identifier(MIGRATOR)
            )
        )
        yield make_conninfo(empty_database, dbname=name)
        admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def test_migrating_twice_changes_nothing(bare_database: str) -> None:
    assert [migration.number for migration in migrate(bare_database)] == [m.number for m in migrations()]
    assert list(migrate(bare_database)) == []
    with psycopg.connect(bare_database) as connection:
        assert applied(connection) == {migration.number: migration.sha256 for migration in migrations()}


def test_two_migrators_at_once_do_the_work_once(bare_database: str) -> None:
    done: list[Migration] = []
    failures: list[Exception] = []

    def work() -> None:
        try:
            done.extend(migrate(bare_database))
        except StoreError as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(done, key=lambda migration: migration.number) == list(migrations())


def test_a_newer_store_is_refused() -> None:
    have = {migration.number: migration.sha256 for migration in migrations()}
    with pytest.raises(StoreError, match=r"has migration 9999.*upgrade counterfoil"):
        pending(have | {9999: "x"})


def test_a_changed_migration_is_refused() -> None:
    with pytest.raises(StoreError, match=r"migration 0001 .* text differs"):
        pending({1: "another digest"})


def test_what_is_pending_comes_in_order() -> None:
    assert pending({}) == list(migrations())


def test_a_failing_migration_changes_nothing(bare_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = Migration(len(migrations()) + 1, "post", "bad", "CREATE TABLE half (); SELECT 1/0", "x")
    monkeypatch.setattr("counterfoil_consumers.migrations.migrations", lambda: (*migrations(), bad))
    with pytest.raises(StoreError, match=f"{bad} failed and changed nothing: division by zero"):
        list(migrate(bare_database))
    with psycopg.connect(bare_database) as connection:
        assert connection.execute("SELECT to_regclass('counterfoil.half')").fetchone() == (None,)
        assert bad.number not in applied(connection)


def test_migrate_without_the_right_to(admin_dsn: str, bare_database: str) -> None:
    with psycopg.connect(admin_dsn, autocommit=True) as admin:
        admin.execute("CREATE ROLE nobody_much LOGIN PASSWORD 'only-on-loopback'")
        try:
            with pytest.raises(StoreError, match="0001_pre_roles failed and changed nothing"):
                list(migrate(make_conninfo(bare_database, user="nobody_much")))
        finally:
            admin.execute("DROP ROLE nobody_much")
    with pytest.raises(StoreAway, match="does not answer"):
        list(migrate("host=127.0.0.1 port=1"))
    with pytest.raises(StoreError, match="can't be read"):
        list(migrate("this is no DSN"))


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"port": "1"}, StoreAway, "does not answer.*COUNTERFOIL_STORE__DSN"),
        ({"dbname": "no_such_database"}, StoreAway, "no_such_database"),
        ({"password": "wrong"}, StoreAway, "password authentication failed"),
        ({"user": "no_such_user"}, StoreAway, "no_such_user"),
    ],
)
def test_a_store_that_can_t_be_reached(
    database: str, change: dict[str, str], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence) as said:
        connect(make_conninfo(database, **change), "ingester", application="test")
    assert "\n" not in str(said.value)
    assert "only-on-loopback" not in str(said.value)


def test_a_dsn_that_can_t_be_read() -> None:
    with pytest.raises(StoreError, match="COUNTERFOIL_STORE__DSN can't be read") as said:
        connect("this is no DSN", "ingester", application="test")
    assert "\n" not in str(said.value)


def test_a_store_that_is_not_migrated(bare_database: str) -> None:
    with pytest.raises(StoreError, match="run `counterfoil migrate`"):
        connect(bare_database, "ingester", application="test")


def test_a_role_that_does_not_exist(database: str) -> None:
    with pytest.raises(StoreError, match=r"counterfoil_nobody does not exist.*counterfoil migrate"):
        connect(database, "nobody", application="test")


def test_a_user_that_may_not_act_as_the_role(admin_dsn: str, database: str) -> None:
    with psycopg.connect(admin_dsn, autocommit=True) as admin:
        admin.execute("CREATE ROLE stranger LOGIN PASSWORD 'only-on-loopback'")
        try:
            with pytest.raises(StoreError, match="may not act as counterfoil_ingester"):
                connect(make_conninfo(database, user="stranger"), "ingester", application="test")
        finally:
            admin.execute("DROP ROLE stranger")


def test_every_limit_is_below_the_group_s_session_timeout(database: str) -> None:
    session = int(_GROUP["classic"]["session.timeout.ms"])
    with closing(connect(database, "ingester", application="test", **_LIMITS)) as connection:
        for name in ("idle_in_transaction_session_timeout", "lock_timeout", "statement_timeout", "tcp_user_timeout"):
            row = fetch_one(connection, "SELECT setting, unit FROM pg_settings WHERE name = %(name)s", {"name": name})  # type: ignore[arg-type]
            assert row["unit"] == "ms"
            assert 0 < int(row["setting"]) < session, name


def test_nobody_but_the_owner_may_delete_or_truncate(operator: Connection) -> None:
    tables = operator.execute(
        "SELECT c.oid::regclass::text AS name FROM pg_class AS c WHERE c.relnamespace = 'counterfoil'::regnamespace "
        "AND c.relkind IN ('r', 'p', 'v', 'm')"
    ).fetchall()
    assert len(tables) > 15
    rights = operator.execute(
        "SELECT c.oid::regclass::text AS name, coalesce(g.rolname, 'PUBLIC') AS grantee, a.privilege_type AS right "
        "FROM pg_class AS c, aclexplode(c.relacl) AS a LEFT JOIN pg_roles AS g ON g.oid = a.grantee "
        "WHERE c.relnamespace = 'counterfoil'::regnamespace"
    ).fetchall()
    given = {(row["grantee"], row["right"]) for row in rights}
    assert {grantee for grantee, right in given if right in ("DELETE", "TRUNCATE")} == {"counterfoil_owner"}
    assert {grantee for grantee, _ in given} <= SERVICES | {"counterfoil_owner", "PUBLIC"}
    assert {(row["name"], row["right"]) for row in rights if row["grantee"] == "PUBLIC"} == {
        ("schema_migration", "SELECT")
    }
    assert ("counterfoil_auditor", "SELECT") in given
    assert {right for grantee, right in given if grantee == "counterfoil_auditor"} == {"SELECT"}


def test_no_role_is_more_than_it_must_be(operator: Connection) -> None:
    roles = operator.execute("SELECT * FROM pg_roles WHERE rolname LIKE 'counterfoil\\_%'").fetchall()
    assert {row["rolname"] for row in roles} == SERVICES | {"counterfoil_owner"}
    for row in roles:
        powers = ("rolsuper", "rolcreaterole", "rolcreatedb", "rolcanlogin", "rolreplication", "rolbypassrls")
        assert [power for power in powers if row[power]] == []


def test_the_ingester_writes_what_it_may_not_read(operator: Connection) -> None:
    row = operator.execute(
        "SELECT has_column_privilege('counterfoil_ingester', 'counterfoil.event', 'body', 'SELECT') AS body, "
        "has_column_privilege('counterfoil_ingester', 'counterfoil.event', 'value', 'SELECT') AS value, "
        "has_column_privilege('counterfoil_ingester', 'counterfoil.event', 'value_sha256', 'SELECT') AS digest, "
        "has_table_privilege('counterfoil_ingester', 'counterfoil.event_astray_all', 'INSERT') AS insert, "
        "has_table_privilege('counterfoil_ingester', 'counterfoil.event_astray_all', 'SELECT') AS leaf, "
        "has_table_privilege('counterfoil_ingester', 'counterfoil.event', 'UPDATE') AS update"
    ).fetchone()
    assert row == {"body": False, "value": False, "digest": True, "insert": True, "leaf": False, "update": False}


def test_every_table_that_names_a_tenant_has_row_level_security(operator: Connection) -> None:
    rows = operator.execute(
        "SELECT c.oid::regclass::text AS name, c.relrowsecurity AND c.relforcerowsecurity AS secured "
        "FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attname = 'tenant' "
        "WHERE c.relnamespace = 'counterfoil'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition"
    ).fetchall()
    assert {row["name"] for row in rows} >= {"event", "effect", "task", "dead_letter", "tenant"}
    assert [row["name"] for row in rows if not row["secured"]] == []
    views = operator.execute(
        "SELECT c.oid::regclass::text AS name, coalesce('security_invoker=true' = ANY(c.reloptions), false) AS invoker "
        "FROM pg_class AS c WHERE c.relnamespace = 'counterfoil'::regnamespace AND c.relkind IN ('v', 'm')"
    ).fetchall()
    assert {row["name"] for row in views} >= {"drift", "effect_state"}
    assert [row["name"] for row in views if not row["invoker"]] == []


def test_no_function_with_the_owner_s_rights_is_for_everybody(operator: Connection) -> None:
    rows = operator.execute(
        "SELECT p.proname AS name, p.proconfig AS config, has_function_privilege('public', p.oid, 'EXECUTE') AS all "
        "FROM pg_proc AS p WHERE p.pronamespace = 'counterfoil'::regnamespace AND p.prosecdef"
    ).fetchall()
    functions = {
        "open_partitions",
        "current_tenant",
        "admit_tenants",
        "skip_offsets",
        "retire_topics",
        "index_texts",
        "find_texts",
    }
    assert {row["name"] for row in rows} == functions
    for row in rows:
        assert not row["all"]
        assert any(setting.startswith("search_path=") for setting in row["config"])


TENANTS = ("acme", "globex")


@pytest.fixture
def filled(recorder: Recorder, produce: Produce, ingest_all: Callable[[], None], operator: Connection) -> Connection:
    """A store in which both tenants have rows in every table."""
    for tenant in TENANTS:
        with recorder.task("t", tenant=tenant) as task, task.effect("refund", target="pay", args={"of": tenant}) as one:
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
        for made in (judged, judged, found, stray, clash):
            produce(encode(made), key_of(made))
    produce(b"of nobody", b"key")
    recorder.close()
    ingest_all()
    return operator


VISIBLE = (
    *("event", "event_astray", "effect", "effect_resource", "target_change", "task", "producer", "duplicate"),
    *("dead_letter", "tenant", "effect_state", "drift", "producer_claim", "completeness"),
)


@pytest.fixture
def logins(admin_dsn: str, filled: Connection) -> Iterator[dict[str, str]]:
    """A login role for each tenant, as its own SQL would use, and one that belongs to none."""
    roles = {tenant: f"reader_{tenant}" for tenant in (*TENANTS, "nobody")}
    with psycopg.connect(admin_dsn, autocommit=True) as admin:
        for role in roles.values():
            admin.execute(
                sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'only-on-loopback' IN ROLE counterfoil_auditor").format(
                    sql.Identifier(role)
                )
            )
        for tenant in TENANTS:
            filled.execute("UPDATE tenant SET login_role = %s WHERE tenant = %s", [roles[tenant], tenant])
        yield roles
        for role in roles.values():
            admin.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def tenants_seen(connection: psycopg.Connection[tuple[str]], table: str) -> set[str]:
    query = sql.SQL("SELECT DISTINCT tenant FROM counterfoil.{}").format(sql.Identifier(table))
    return {row[0] for row in connection.execute(query)}


def test_a_tenant_sees_its_own_rows_alone(logins: dict[str, str], database: str, filled: Connection) -> None:
    for table in VISIBLE:
        everything = {row["tenant"] for row in filled.execute(f"SELECT DISTINCT tenant FROM {table}")}
        assert everything - {None} == set(TENANTS), table
    for tenant in TENANTS:
        with psycopg.connect(make_conninfo(database, user=logins[tenant]), autocommit=True) as connection:
            for table in VISIBLE:
                assert tenants_seen(connection, table) == {tenant}, table
            connection.execute("SET ROLE counterfoil_auditor")
            assert tenants_seen(connection, "event") == {tenant}
            connection.execute("RESET ROLE")
            for statement in HOSTILE:
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(statement)
    with psycopg.connect(make_conninfo(database, user=logins["nobody"]), autocommit=True) as connection:
        for table in VISIBLE:
            assert tenants_seen(connection, table) == set(), table


HOSTILE = (
    sql.SQL("SELECT * FROM counterfoil.event_standard"),
    sql.SQL("SELECT * FROM counterfoil.outbox"),
    sql.SQL("SELECT * FROM counterfoil.ingest_offset"),
    sql.SQL("SELECT * FROM counterfoil.check_state"),
    sql.SQL("INSERT INTO counterfoil.tenant (tenant) VALUES ('x')"),
    sql.SQL("UPDATE counterfoil.tenant SET login_role = 'reader_acme'"),
    sql.SQL("DELETE FROM counterfoil.event"),
    sql.SQL("TRUNCATE counterfoil.task"),
    sql.SQL("SELECT counterfoil.admit_tenants(ARRAY['x'])"),
    sql.SQL("SELECT counterfoil.open_partitions('standard', 1, 1)"),
    sql.SQL("SET ROLE counterfoil_operator"),
    sql.SQL("SET ROLE counterfoil_owner"),
    sql.SQL("SET SESSION AUTHORIZATION test_migrator"),
    sql.SQL("ALTER TABLE counterfoil.event DISABLE ROW LEVEL SECURITY"),
    sql.SQL("CREATE TABLE counterfoil.mine ()"),
)


def test_no_leaf_can_be_read_around_its_parent(logins: dict[str, str], database: str, filled: Connection) -> None:
    leaves = filled.execute(
        "SELECT c.relname AS name FROM pg_class AS c WHERE c.relispartition AND c.relkind = 'r' "
        "AND c.relnamespace = 'counterfoil'::regnamespace"
    ).fetchall()
    assert len(leaves) == 16 + 1  # the months, and those astray
    with psycopg.connect(make_conninfo(database, user=logins["acme"]), autocommit=True) as connection:
        for leaf in leaves:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(sql.SQL("SELECT FROM counterfoil.{}").format(sql.Identifier(leaf["name"])))


def test_partitions_are_opened_once_and_without_holes(database: str) -> None:
    months = {"months_back": 13, "months_ahead": 2}
    with closing(connect(database, "ingester", application="test")) as connection:
        first = fetch_one(connection, queries("ingest")["open_window"], months)
        again = fetch_one(connection, queries("ingest")["open_window"], months)
    assert (first["made"], again["made"]) == (16, 0)
