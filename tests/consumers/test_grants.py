"""Who may do what in the store: pg_catalog held against grants.toml, both ways."""

import re
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from counterfoil_consumers.store import Connection, connect
from counterfoil_consumers.window import open_window
from tests.fix_store import MIGRATOR

pytestmark = pytest.mark.oldest_postgres_too

TABLE = Path(__file__).with_name("grants.toml")
Right = tuple[str, str, str, str]  # section, object, who, what

_ACL = """
WITH given AS (
    SELECT 'schema' AS section, nspname::text AS object, nspowner AS owner,
           coalesce(nspacl, acldefault('n', nspowner)) AS acl
    FROM pg_namespace WHERE nspname = 'counterfoil'
    UNION ALL
    SELECT CASE relkind WHEN 'S' THEN 'sequence' WHEN 'v' THEN 'view' WHEN 'm' THEN 'view' ELSE 'table' END, relname,
           relowner, coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner))
    FROM pg_class WHERE relnamespace = 'counterfoil'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
    UNION ALL
    SELECT CASE WHEN prosecdef THEN 'function_of_the_owner' ELSE 'function' END, proname, proowner,
           coalesce(proacl, acldefault('f', proowner))
    FROM pg_proc WHERE pronamespace = 'counterfoil'::regnamespace
    UNION ALL
    SELECT 'type', typname, typowner, coalesce(typacl, acldefault('T', typowner))
    FROM pg_type AS t WHERE typnamespace = 'counterfoil'::regnamespace AND typelem = 0
      AND (typrelid = 0 OR (SELECT relkind = 'c' FROM pg_class WHERE oid = typrelid))
    UNION ALL
    SELECT 'default', coalesce(nspname, 'everywhere') || ' ' || defaclobjtype::text, defaclrole, defaclacl
    FROM pg_default_acl LEFT JOIN pg_namespace AS n ON n.oid = defaclnamespace
), rights AS (
    SELECT section, object, g.grantee::regrole::text AS grantee,
           g.privilege_type || CASE WHEN g.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END AS what
    FROM given, aclexplode(acl) AS g WHERE g.grantee <> owner
    UNION ALL
    SELECT CASE c.relkind WHEN 'v' THEN 'view' ELSE 'table' END, c.relname, g.grantee::regrole::text,
           format('%s (%s)', g.privilege_type, string_agg(a.attname, ', ' ORDER BY a.attname))
    FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid, aclexplode(a.attacl) AS g
    WHERE c.relnamespace = 'counterfoil'::regnamespace GROUP BY c.oid, c.relkind, c.relname, g.grantee, g.privilege_type
)
SELECT section, object, grantee, what FROM rights
"""
_ROLES = """
WITH ours AS (
    SELECT * FROM pg_roles WHERE rolname LIKE 'counterfoil\\_%%' OR rolname = %s
)
SELECT 'role' AS section, rolname::text AS object, rolname::text AS grantee, p.what
FROM ours, LATERAL (VALUES
    (rolsuper, 'SUPERUSER'), (rolcreaterole, 'CREATEROLE'), (rolcreatedb, 'CREATEDB'), (rolcanlogin, 'LOGIN'),
    (rolreplication, 'REPLICATION'), (rolbypassrls, 'BYPASSRLS')) AS p (has, what)
WHERE p.has
UNION
SELECT 'member', roleid::regrole::text, member::regrole::text, 'SET ROLE'
FROM pg_auth_members WHERE roleid IN (SELECT oid FROM ours) OR member IN (SELECT oid FROM ours)
"""


def given(operator: Connection) -> set[Right]:
    """What pg_catalog says; owners' own rights are left out."""
    rows = [*operator.execute(_ACL).fetchall(), *operator.execute(_ROLES, [MIGRATOR]).fetchall()]
    return {(row["section"], plain(row["object"]), plain(row["grantee"]), row["what"]) for row in rows}


def plain(name: str) -> str:
    """A name without what is not the same everywhere: its month, the prefix of a role, the tests' own migrator."""
    if name in ("-", MIGRATOR):
        return "public" if name == "-" else "migrator"
    return re.sub(r"_20\d\d_\d\d$", "_YYYY_MM", name.removeprefix("counterfoil_"))


def wanted() -> Iterator[Right]:
    """What grants.toml says."""
    for section, objects in tomllib.loads(TABLE.read_text("utf-8")).items():
        for name, grantees in objects.items():
            for who, rights in grantees.items():
                for what in re.split(r", (?![^(]*\))", rights):
                    yield section, name, who, what


def lines(rights: Iterable[Right]) -> str:
    """The rights as lines of grants.toml."""
    by_object: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for section, name, who, what in sorted(rights):
        by_object[section, name][who].append(what)
    return "\n".join(
        f"{section}.{name} = {{ " + ", ".join(_one(who, what) for who, what in grantees.items()) + " }"
        for (section, name), grantees in by_object.items()
    )


def _one(who: str, what: list[str]) -> str:
    return f'{who} = "{", ".join(what)}"'


def test_everybody_may_do_what_the_table_says_and_nothing_else(database: str, operator: Connection) -> None:
    with closing(connect(database, "ingester", application="test")) as ingester:
        open_window(ingester)  # the leaves are made by its function
    there, table = given(operator), set(wanted())
    if there != table:
        pytest.fail(
            f"{TABLE.name} and the database differ.\n"
            f"Given by the migrations, and not in the table:\n{lines(there - table)}\n"
            f"In the table, and not given:\n{lines(table - there)}"
        )


def test_all_of_it_is_the_owner_s(operator: Connection) -> None:
    rows = operator.execute(
        "SELECT relname AS name, relowner::regrole::text AS owner FROM pg_class "
        "WHERE relnamespace = 'counterfoil'::regnamespace "
        "UNION ALL SELECT proname, proowner::regrole::text FROM pg_proc "
        "WHERE pronamespace = 'counterfoil'::regnamespace "
        "UNION ALL SELECT nspname, nspowner::regrole::text FROM pg_namespace WHERE nspname = 'counterfoil'"
    ).fetchall()
    assert len(rows) > 40
    assert [row["name"] for row in rows if row["owner"] != "counterfoil_owner"] == []


SERVICES = ("counterfoil_ingester", "counterfoil_operator", "counterfoil_reconciler")
OWN_ROWS = "(tenant = ( SELECT current_tenant() AS current_tenant))"
EVERYWHERE = {("own_rows", "SELECT", ("counterfoil_auditor",), OWN_ROWS), ("services", "ALL", SERVICES, "true")}
# What the owner's functions read or write, for row-level security binds the owner, too.
OWNER = ("counterfoil_owner",)
OWNED = ("tenant", "hold", "event_held", "event_hash", "event_text", "task_cut", "text_waiting")
KEYS = {
    ("tenant_key", "readers", "SELECT", ("counterfoil_ingester", "counterfoil_operator"), "true"),
    ("tenant_key", "owner_rows", "ALL", OWNER, "true"),
}
ELSEWHERE = (
    {(name, "owner_rows", "ALL", OWNER, "true") for name in OWNED}
    | {(name, "owner_rows", "SELECT", OWNER, "true") for name in ("event", "event_astray")}
    | KEYS
)


def test_the_policies_are_the_same_everywhere(operator: Connection) -> None:
    policies = operator.execute(
        "SELECT tablename AS name, policyname AS policy, cmd, permissive, qual, "
        "ARRAY(SELECT r::text FROM unnest(roles) AS r ORDER BY 1) AS roles "
        "FROM pg_policies WHERE schemaname = 'counterfoil'"
    ).fetchall()
    found = {(row["name"], row["policy"], row["cmd"], tuple(row["roles"]), row["qual"]) for row in policies}
    closed = operator.execute(
        "SELECT relname AS name FROM pg_class WHERE relnamespace = 'counterfoil'::regnamespace AND relrowsecurity"
    ).fetchall()
    assert len(closed) > 12
    closed_to_others = {row["name"] for row in closed} - {"tenant_key"}  # nobody reads those but who checks them
    assert found == ELSEWHERE | {(name, *policy) for name in closed_to_others for policy in EVERYWHERE}
    assert {row["permissive"] for row in policies} == {"PERMISSIVE"}
