"""A tenant's own SQL shows nothing of another tenant: by rows, counts, errors, plans, statistics or functions.

What is tried is read from pg_catalog, so a table, view or function that a migration adds is covered, or fails here.
"""

import re
from collections.abc import Callable
from contextlib import closing
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.errors import (
    FeatureNotSupported,
    InsufficientPrivilege,
    WrongObjectType,
)

from counterfoil_consumers.outbox import relay_now
from tests.fix_tenants import OTHERS, TENANTS, Login, Relation, hidden_of, relations_of, tenants_in

pytestmark = pytest.mark.oldest_postgres_too

# What a tenant may read that names no tenant.
OF_NOBODY = {
    "drift_rule": "what drift is, the same for all",
    "schema_migration": "which version the store has",
    "retention_policy": "how long events of a class stay, of all tenants",
    "retention_rule": "likewise, what is in force",
    "cross_tenant_suspects": "what two tenants share; a tenant sees one",
}
# Indexes of tables that name a tenant, and don't begin with it.
OTHER_KEYS = {
    "check_state (marks)": "hashes of a tenant's own rows, its name among what is hashed; no tenant reads this table",
    "dead_letter (letter_id)": "a letter of nobody has no tenant",
    "dead_letter (source_id, partition, offset)": "likewise; a place in the log holds one record, whosever",
    "tenant (login_role)": "a login is of one tenant",
    "token (token_id)": "a token is shown before it is known whose it is; no tenant reads this table",
    "event_hash (event_id)": "of dropped events that were astray alone, and looked at by ingest",
    "event_text (words)": "the words of all tenants; a search's time says how frequent one is (decision 0016)",
}
Connect = Callable[[str], Login]
Query = sql.SQL | sql.Composed


@pytest.fixture
def acme(full: Login, login: Connect) -> Login:
    """The tenant that is curious."""
    return login("acme")


@pytest.fixture
def is_silent(full: Login) -> Callable[[object], bool]:
    """Whether nothing that is globex' alone stands in a text: its name, its ids, its words, its bytes."""
    ours, theirs = (words_of(full, tenant) for tenant in TENANTS)
    # Six digits may be the fraction of a second: the catalog tells by itself when a table was last used.
    secrets = {word for word in theirs - ours if len(word) > (6 if word.isdigit() else 5)}
    assert {"globex", hidden_of("globex")} <= secrets
    assert len(secrets) > 20
    return lambda said: "globex" not in str(said) and not secrets & words(str(said))


def words(text: str) -> set[str]:
    """What stands between signs; ids and the digits of bytes are words."""
    return set(re.findall(r"[0-9a-z-]+", text))


def words_of(superuser: Login, tenant: str) -> set[str]:
    """The words of every row of a tenant."""
    found: set[str] = set()
    for relation in relations_of(superuser):
        if relation.kind in "rp" and relation.names_tenant and not relation.is_leaf:
            query = sql.SQL("SELECT t::text FROM {} AS t WHERE tenant = %s").format(relation.sql)
            found.update(*(words(text) for [text] in superuser.execute(query, [tenant])))
    return found


def seen(connection: Login, query: Query) -> list[tuple[object, ...]] | None:
    """The rows of a query; None where the right to it is missing."""
    try:
        return connection.execute(query).fetchall()
    except InsufficientPrivilege:
        return None


def copied(connection: Login, query: Query) -> str | None:
    """What COPY gives out; None where it is refused."""
    try:
        with connection.cursor().copy(query) as copy:
            return b"".join(copy).decode()
    except (InsufficientPrivilege, FeatureNotSupported, WrongObjectType):
        return None


def complaint(connection: Login, query: Query) -> str:
    """What the server says against a query; nothing where it has no error."""
    try:
        connection.execute(query)
    except psycopg.Error as error:
        return f"{error} {error.diag.message_detail} {error.diag.context}"
    return ""


def readable(connection: Login) -> list[Relation]:
    """The relations that name a tenant, and that a login may read."""
    return [
        relation
        for relation in relations_of(connection)
        if relation.names_tenant
        and seen(connection, sql.SQL("SELECT FROM {} LIMIT 0").format(relation.sql)) is not None
    ]


def test_every_relation_shows_a_tenant_its_own_rows_or_none(
    acme: Login, full: Login, is_silent: Callable[[object], bool]
) -> None:
    shown = set()
    for relation in relations_of(full):
        rows = seen(acme, sql.SQL("SELECT * FROM {}").format(relation.sql))
        copies = [
            copied(acme, sql.SQL("COPY {} TO STDOUT").format(relation.sql)),
            copied(acme, sql.SQL("COPY (TABLE {}) TO STDOUT").format(relation.sql)),
        ]
        if rows is None:
            assert copies == [None, None], relation.name
            continue
        shown.add(relation.name)
        assert is_silent(rows), relation.name
        assert is_silent(copies), relation.name
        if not relation.names_tenant:
            assert relation.name in OF_NOBODY, f"{relation.name} names no tenant: close it, or say here why not"
            continue
        assert not relation.is_leaf, f"{relation.name} can be read around the policies of its parent"
        everybody = tenants_in(full, relation)
        assert everybody >= set(TENANTS), (
            f"{relation.name} has no rows of {TENANTS}: put some into tests/fix_tenants.py"
        )
        assert tenants_in(acme, relation) == {"acme"}, relation.name
    assert shown >= {"event", "event_astray", "task", "effect", "dead_letter", "drift", "completeness", *OF_NOBODY}


def test_counts_cursors_and_prepared_statements_see_the_same(acme: Login, full: Login) -> None:
    for relation in readable(acme):
        own = sql.SQL("SELECT count(*) FROM {} WHERE tenant = 'acme'").format(relation.sql)
        everything = sql.SQL("SELECT count(*) FROM {}").format(relation.sql)
        [[count]] = full.execute(own).fetchall()
        assert count > 0, relation.name
        assert seen(acme, everything) == [(count,)], relation.name
        assert acme.execute(everything, prepare=True).fetchall() == [(count,)], relation.name
        theirs = sql.SQL("SELECT FROM {} WHERE tenant IS DISTINCT FROM 'acme'").format(relation.sql)
        assert seen(acme, theirs) == [], relation.name
        acme.execute(sql.SQL("DECLARE kept CURSOR WITH HOLD FOR SELECT tenant FROM {}").format(relation.sql))
        assert set(acme.execute("FETCH ALL FROM kept")) == {("acme",)}, relation.name
        acme.execute("CLOSE kept")


@pytest.mark.parametrize("who", OTHERS)
def test_a_login_of_no_tenant_sees_no_row(full: Login, login: Connect, login_roles: dict[str, str], who: str) -> None:
    if who == "removed":
        full.execute("INSERT INTO counterfoil.tenant VALUES ('gone', %s)", [login_roles[who]])
        stays_open = login(who)
        assert seen(stays_open, sql.SQL("SELECT tenant FROM counterfoil.tenant")) == [("gone",)]
        full.execute("DELETE FROM counterfoil.tenant WHERE tenant = 'gone'")
        assert seen(stays_open, sql.SQL("SELECT tenant FROM counterfoil.tenant")) == []
    stranger = login(who)
    found = readable(stranger)
    assert len(found) > 10
    for relation in found:
        assert seen(stranger, sql.SQL("SELECT * FROM {}").format(relation.sql)) == [], relation.name


def test_without_the_role_of_auditors_nothing_can_be_read(full: Login, database: str) -> None:
    full.execute("CREATE ROLE visitor LOGIN PASSWORD 'only-on-loopback'")
    try:
        with closing(psycopg.connect(make_conninfo(database, user="visitor"), autocommit=True)) as visitor:
            for relation in relations_of(full):
                assert seen(visitor, sql.SQL("SELECT FROM {}").format(relation.sql)) is None, relation.name
    finally:
        full.execute("DROP ROLE visitor")


WRITES = (
    "INSERT INTO {} DEFAULT VALUES",
    "MERGE INTO {} USING (SELECT 1) AS s ON true WHEN MATCHED THEN DELETE",
    "DELETE FROM {}",
    "TRUNCATE {}",
    "COPY {} FROM STDIN",
    "LOCK TABLE {} IN EXCLUSIVE MODE",
    "SELECT FROM {} FOR UPDATE",
    "ALTER TABLE {} DISABLE ROW LEVEL SECURITY",
    "CREATE POLICY all_rows ON {} USING (true)",
    "CREATE INDEX ON {} (tenant)",
    "CREATE RULE r AS ON UPDATE TO {} DO INSTEAD NOTHING",
    "COMMENT ON TABLE {} IS 'mine'",
    "DROP TABLE {}",
)


def test_a_tenant_writes_nothing(acme: Login, full: Login) -> None:
    """So no unique key, foreign key or check can answer a question about another's rows."""
    for relation in relations_of(full):
        if relation.kind == "S":
            assert seen(acme, sql.SQL("SELECT nextval({})").format(sql.Literal(relation.sql.as_string()))) is None
            continue
        if relation.kind not in "rp":
            continue
        for write in WRITES:
            with pytest.raises(InsufficientPrivilege), acme.transaction():
                acme.execute(sql.SQL(write).format(relation.sql))


HOSTILE = (
    "SET ROLE counterfoil_operator",
    "SET ROLE counterfoil_owner",
    "SET ROLE test_migrator",
    "SET SESSION AUTHORIZATION test_migrator",
    "SET session_replication_role = replica",
    "GRANT counterfoil_operator TO CURRENT_USER",
    "GRANT counterfoil_auditor TO reader_2",
    "CREATE ROLE mine",
    "ALTER ROLE CURRENT_USER BYPASSRLS",
    "ALTER ROLE reader_0 RENAME TO reader_of_globex",
    "CREATE SCHEMA mine",
    "CREATE TABLE counterfoil.mine ()",
    "CREATE FUNCTION counterfoil.mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE FUNCTION pg_temp.mine(text) RETURNS bool LEAKPROOF LANGUAGE sql AS 'SELECT true'",
    "CREATE EXTENSION postgres_fdw",
    "CREATE EXTENSION dblink",
    "CREATE PUBLICATION mine FOR ALL TABLES",
    "CREATE EVENT TRIGGER mine ON ddl_command_start EXECUTE FUNCTION pg_temp.mine()",
    "COPY (SELECT 1) TO PROGRAM 'cat'",
    "COPY (SELECT 1) TO '/tmp/mine'",
    "SELECT pg_read_file('postgresql.conf')",
    "SELECT pg_ls_dir('.')",
    "SELECT lo_import('/etc/passwd')",
    "SELECT * FROM pg_authid",
    "SELECT * FROM pg_statistic",
    "SELECT * FROM pg_largeobject",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'test_migrator'",
    "SELECT pg_create_logical_replication_slot('mine', 'test_decoding')",
)


def test_what_would_make_a_tenant_more_than_one_is_refused(acme: Login, full: Login) -> None:
    full.execute(
        "CREATE TABLE IF NOT EXISTS public.bait ()"
    )  # a database of before Postgres 15 may have an open `public`
    with pytest.raises(InsufficientPrivilege):
        acme.execute("SELECT FROM public.bait")
    for statement in HOSTILE:
        with pytest.raises((InsufficientPrivilege, FeatureNotSupported)):
            acme.execute(sql.SQL(statement))


def test_no_setting_makes_a_tenant_another(acme: Login) -> None:
    for name, value in (("role", "counterfoil_auditor"), ("counterfoil.tenant", "globex"), ("search_path", "pg_temp")):
        acme.execute("SELECT set_config(%s, %s, false)", [name, value])
        for relation in readable(acme):
            assert tenants_in(acme, relation) == {"acme"}, (name, relation.name)
    acme.execute("SET row_security = off")
    for relation in relations_of(acme):
        if relation.names_tenant and not relation.is_leaf:
            with pytest.raises(InsufficientPrivilege):
                acme.execute(sql.SQL("SELECT * FROM {}").format(relation.sql))


def test_nothing_in_the_way_of_names_is_taken_for_the_store_s(acme: Login, login_roles: dict[str, str]) -> None:
    acme.execute("CREATE TEMP TABLE tenant (tenant text, login_role text)")
    acme.execute("INSERT INTO pg_temp.tenant VALUES ('globex', %s)", [login_roles["acme"]])
    acme.execute("CREATE FUNCTION pg_temp.current_tenant() RETURNS text LANGUAGE sql AS $$ SELECT 'globex' $$")
    acme.execute("CREATE FUNCTION pg_temp.always(text, text) RETURNS bool LANGUAGE sql AS 'SELECT true'")
    acme.execute("CREATE OPERATOR pg_temp.= (LEFTARG = text, RIGHTARG = text, FUNCTION = pg_temp.always)")
    acme.execute("SET search_path = pg_temp, counterfoil, pg_catalog")
    assert acme.execute("SELECT counterfoil.current_tenant()").fetchall() == [("acme",)]
    for relation in readable(acme):
        assert tenants_in(acme, relation) == {"acme"}, relation.name


SPY = """
CREATE FUNCTION pg_temp.spy(text) RETURNS bool COST 0.0000001 LANGUAGE plpgsql AS $$
BEGIN RAISE NOTICE '%', $1; RETURN true; END
$$
"""


def test_no_function_of_a_tenant_is_shown_another_s_rows(acme: Login, is_silent: Callable[[object], bool]) -> None:
    """The classic attack on views: a cheap function in WHERE is run before the view's own condition."""
    acme.execute(SPY)
    said: list[str] = []
    acme.add_notice_handler(lambda notice: said.append(notice.message_primary or ""))
    for relation in readable(acme):
        said.clear()
        acme.execute(sql.SQL("SELECT FROM {} AS r WHERE pg_temp.spy(r::text)").format(relation.sql))
        assert said, relation.name
        assert is_silent(said), relation.name
        for column in map(sql.Identifier, relation.columns):
            said.clear()
            acme.execute(sql.SQL("SELECT FROM {} WHERE pg_temp.spy({}::text)").format(relation.sql, column))
            acme.execute(
                sql.SQL("SELECT max({1}::text) FROM {0} HAVING pg_temp.spy(max({1}::text))").format(
                    relation.sql, column
                )
            )
            assert is_silent(said), relation.name


ERRING: tuple[LiteralString, ...] = (
    "SELECT FROM {0} AS r WHERE r::text::int = 1",
    "SELECT FROM {0} WHERE tenant::int = 1",
    "SELECT FROM {0} WHERE 1 / (length(tenant) - length('globex')) = 1",
    "SELECT r.tenant::int FROM {0} AS r JOIN {0} AS s ON r.tenant::int = s.tenant::int",
    "SELECT max(1 / (length(tenant) - length('globex'))) FROM {0} GROUP BY tenant",
)


def test_an_error_is_of_the_tenant_s_own_rows(acme: Login, is_silent: Callable[[object], bool]) -> None:
    for relation in readable(acme):
        said = [complaint(acme, sql.SQL(statement).format(relation.sql)) for statement in ERRING]
        assert any("acme" in one for one in said), relation.name
        assert is_silent(said), relation.name
        assert not any("division by zero" in one for one in said), f"a row of globex was read: {relation.name}"


def estimate(connection: Login, condition: LiteralString) -> float:
    """How many tasks the planner expects."""
    query = sql.SQL("EXPLAIN (FORMAT json) SELECT FROM counterfoil.task WHERE " + condition)
    [[plan]] = connection.execute(query).fetchall()
    return float(plan[0]["Plan"]["Plan Rows"])


MANY = """
INSERT INTO counterfoil.task (tenant, task_id, task_ref, workflow, agent, first_event_id, first_at, last_at)
SELECT t, gen_random_uuid(), t || n % 7, 'w', 'a', gen_random_uuid(), now(), now()
FROM unnest(ARRAY['acme', 'globex']) AS t, generate_series(1, 5000) AS n
"""


def test_a_plan_is_the_same_whosever_rows_are_asked_for(acme: Login, full: Login) -> None:
    """Where an operator can't leak by an error, estimates are made from the statistics of all rows."""
    full.execute(MANY)
    full.execute("ANALYZE counterfoil.task")
    assert estimate(acme, "tenant = 'globex'") == estimate(acme, "tenant = 'nobody'")
    assert estimate(acme, "task_ref = 'globex1'") == estimate(acme, "task_ref = 'globex8'")
    assert estimate(acme, "task_ref < 'glob'") == estimate(acme, "task_ref < 'h'")
    full.execute("ALTER TABLE counterfoil.task ALTER tenant SET STATISTICS 100")
    full.execute("ANALYZE counterfoil.task")
    assert estimate(acme, "tenant = 'globex'") > 1000 > estimate(acme, "tenant = 'nobody'"), "this shows nothing"


def test_no_table_that_names_a_tenant_has_statistics_of_its_columns(full: Login) -> None:
    named = [relation.name for relation in relations_of(full) if relation.kind in "rp" and relation.names_tenant]
    assert {"event", "event_standard", "event_astray_all", "task", "dead_letter"} < set(named)
    assert len(named) > 30
    kept = full.execute(
        "SELECT DISTINCT c.relname FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid "
        "LEFT JOIN pg_statistic AS s ON s.starelid = c.oid AND s.staattnum = a.attnum WHERE c.relname = ANY(%s) "
        "AND c.relnamespace = 'counterfoil'::regnamespace AND a.attnum > 0 AND NOT a.attisdropped "
        "AND (a.attstattarget IS DISTINCT FROM 0 OR s.starelid IS NOT NULL)",
        [named],
    ).fetchall()
    assert kept == [], "CALL counterfoil.keep_no_statistics('...')"


INDEXES = """
SELECT c.relname, ARRAY(SELECT a.attname::text FROM unnest(i.indkey) WITH ORDINALITY AS k (number, at)
                        JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = k.number ORDER BY k.at)
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indrelid
WHERE c.relnamespace = 'counterfoil'::regnamespace
  AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = c.oid AND attname = 'tenant')
"""


def test_every_index_begins_with_the_tenant(full: Login) -> None:
    """So no time that an index takes, and no count of what a plan removed, is of another tenant's keys."""
    indexes = full.execute(INDEXES).fetchall()
    assert len(indexes) > 50
    other = {f"{table} ({', '.join(columns)})" for table, columns in indexes if columns[0] != "tenant"}
    assert other == set(OTHER_KEYS)


ARGUMENTS = """
SELECT p.oid::regprocedure::text, p.prosecdef, has_function_privilege(p.oid, 'EXECUTE'), p.provolatile = 'i',
       format('%s counterfoil.%I(%s)', CASE p.prokind WHEN 'p' THEN 'CALL' ELSE 'SELECT' END, p.proname,
              (SELECT string_agg(CASE WHEN t.typcategory = 'A' AND t.typelem = 'text'::regtype THEN 'ARRAY[''globex'']'
                                      WHEN t.typcategory = 'S' THEN quote_literal('globex')
                                      WHEN t.typcategory = 'N' THEN '1' WHEN t.typcategory = 'D' THEN 'now()'
                                      ELSE 'NULL' END || '::' || t.oid::regtype, ', ' ORDER BY a.at)
               FROM unnest(p.proargtypes) WITH ORDINALITY AS a (type, at) JOIN pg_type AS t ON t.oid = a.type))
FROM pg_proc AS p WHERE p.pronamespace = 'counterfoil'::regnamespace AND p.prorettype <> 'trigger'::regtype
ORDER BY 1
"""
FOR_TENANTS = {"counterfoil.current_tenant()", "counterfoil.find_texts(text,text,integer)"}


def test_no_function_says_anything_of_another(acme: Login, is_silent: Callable[[object], bool]) -> None:
    functions = acme.execute(ARGUMENTS).fetchall()
    assert len(functions) > 7
    for name, as_owner, allowed, is_pure, call in functions:
        assert not (allowed and as_owner) or name in FOR_TENANTS, f"{name} runs with the owner's rights for any tenant"
        if not allowed:
            with pytest.raises(InsufficientPrivilege):
                acme.execute(sql.SQL(call))
            continue
        if is_pure and not as_owner:  # of what it is given, and with no right but the caller's
            continue
        said = complaint(acme, sql.SQL(call))
        assert is_silent(said), name
        if not said:
            assert is_silent(acme.execute(sql.SQL(call)).fetchall()), name


def test_a_tenant_holds_nobody_up(acme: Login, kafka: dict[str, str], database: str, full: Login) -> None:
    """Neither by locks that any login may take, nor by reading and not ending."""
    full.execute("UPDATE counterfoil.outbox SET relayed_at = NULL")
    [[waiting]] = full.execute("SELECT count(*)::int FROM counterfoil.outbox").fetchall()
    its_own = readable(acme)
    with acme.transaction():
        for name in ("relay", "outbox", "open_partitions", "retention", "tenant_key", "rebuild"):
            acme.execute("SELECT pg_advisory_xact_lock(hashtext('counterfoil.' || %s))", [name])
        for relation in its_own:
            acme.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(relation.sql))
        full.execute("SET lock_timeout = '1s'")
        assert full.execute("SELECT counterfoil.open_partitions('standard', 20, 3)").fetchall() == [(8,)]
        assert relay_now(database, "ingester", kafka) == waiting > 0


def test_nothing_of_another_is_in_the_catalog(acme: Login, login: Connect, is_silent: Callable[[object], bool]) -> None:
    """Statistics, what others run, their locks, cursors, large objects and settings."""
    theirs = login("globex")
    secret = hidden_of("globex")
    theirs.execute("SELECT lo_from_bytea(0, %s)", [secret.encode()])
    theirs.execute("CREATE TEMP TABLE mine AS SELECT %s AS mine", [secret])
    theirs.execute(sql.SQL("ALTER ROLE CURRENT_USER SET search_path = {}").format(sql.Literal("counterfoil")))
    with theirs.transaction():
        theirs.execute("SELECT pg_advisory_xact_lock(1), %s", [secret])
        theirs.execute(sql.SQL("DECLARE open CURSOR FOR SELECT {}").format(sql.Literal(secret)))
        theirs.execute(sql.SQL("PREPARE prepared AS SELECT {}").format(sql.Literal(secret)))
        for [name] in acme.execute(
            "SELECT relname FROM pg_class WHERE relkind IN ('r', 'v') AND relnamespace = 'pg_catalog'::regnamespace"
        ).fetchall():
            try:
                rows = seen(acme, sql.SQL("SELECT * FROM {}").format(sql.Identifier("pg_catalog", name)))
            except psycopg.errors.ObjectNotInPrerequisiteState:  # pg_stat_wal_receiver and such
                continue
            assert is_silent(rows), name
    assert is_silent(acme.execute("SELECT r, r::text FROM pg_stat_activity AS r").fetchall())
    with pytest.raises(InsufficientPrivilege):
        acme.execute("SELECT lo_get(oid) FROM pg_largeobject_metadata")
    for view in ("pg_stats", "pg_stats_ext", "pg_stats_ext_exprs"):
        query = sql.SQL("SELECT FROM {} WHERE schemaname = 'counterfoil' AND tablename <> ALL(%s)")
        assert acme.execute(query.format(sql.Identifier(view)), [list(OF_NOBODY)]).fetchall() == [], view
