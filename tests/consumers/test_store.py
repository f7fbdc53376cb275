"""The store's schema, who may do what in it, and what is said when it can't be used."""

import threading
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from counterfoil_consumers.errors import StoreAway, StoreError
from counterfoil_consumers.ingest import _GROUP, _LIMITS
from counterfoil_consumers.migrations import Applied, applied, migrate, pending
from counterfoil_consumers.store import Connection, connect, fetch_one, queries
from counterfoil_schemas import Migration, migrations
from tests.fix_store import MIGRATOR

HAVE = {migration.number: Applied(migration.phase, migration.sha256) for migration in migrations()}
pytestmark = pytest.mark.oldest_postgres_too


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
        assert applied(connection) == HAVE


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
    with pytest.raises(StoreError, match=r"has migration 9999.*upgrade counterfoil"):
        pending({**HAVE, 9999: Applied("pre", "x")})


def test_a_changed_migration_is_refused() -> None:
    with pytest.raises(StoreError, match=r"migration 0001 .* text differs"):
        pending({1: Applied("pre", "another digest")})


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
        "open_partitions", "current_tenant", "admit_tenants", "skip_offsets", "retire_topics", "add_signed_tenant",
        "rotate_tenant_key", "drop_leaf", "drop_astray", "drop_released", "count_set_apart", "release_hold",
        "index_texts", "find_texts",
    }  # fmt: skip
    assert {row["name"] for row in rows} == functions
    for row in rows:
        assert not row["all"]
        assert any(setting.startswith("search_path=") for setting in row["config"])


def test_partitions_are_opened_once_and_without_holes(bare_database: str) -> None:
    list(migrate(bare_database))
    months = {"months_back": 13, "months_ahead": 2}
    with closing(connect(bare_database, "ingester", application="test")) as connection:
        first = fetch_one(connection, queries("ingest")["open_window"], months)
        again = fetch_one(connection, queries("ingest")["open_window"], months)
    assert (first["made"], again["made"]) == (16, 0)


def test_partitions_are_opened_beside_a_reader_that_does_not_end(database: str, operator: Connection) -> None:
    """It would wait for the reader, and every other reader for it."""
    months = {"months_back": 16, "months_ahead": 2}
    with operator.transaction(), closing(connect(database, "ingester", application="test", lock_timeout="1s")) as own:
        operator.execute("SELECT FROM event")
        assert fetch_one(own, queries("ingest")["open_window"], months)["made"] == 3
