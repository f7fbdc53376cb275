"""The schema in which projections are rebuilt: made by the migrations, swapped with the live ones in one transaction.

It holds projections alone. Records, and the functions that both use, stay where they are.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import LiteralString

import psycopg
from psycopg import sql

from counterfoil.failpoints import pass_by
from counterfoil_consumers.digest import PROJECTIONS, columns_of
from counterfoil_consumers.errors import RebuildStopped
from counterfoil_consumers.store import connect, fetch_one, queries
from counterfoil_schemas import Migration, migrations

logger = logging.getLogger("counterfoil.rebuild")

LIVE, SHADOW, _FORMER = "counterfoil", "counterfoil_rebuild", "counterfoil_former"
CONSUMER = "counterfoil-rebuild"
# Less than deadlock_timeout (1 s), so that who waits in a circle with us is never the one that is ended.
_LOCKS_WITHIN = "800ms"
_TRIES = 120
_PAUSE_SECONDS = 0.5
_OF_CUT_TASK = "EXISTS (SELECT FROM counterfoil.task_cut AS c WHERE c.tenant = l.tenant AND c.task_id = l.task_id)"
# Which rows of a projection hold what was folded of events that are gone.
_IS_CUT: Mapping[str, LiteralString] = {
    "task": _OF_CUT_TASK,
    "effect": _OF_CUT_TASK,
    "producer": _OF_CUT_TASK,
    "verdict_operation": _OF_CUT_TASK,
    "repair": _OF_CUT_TASK,
    "retrieval_source": _OF_CUT_TASK,
    "task_cost": _OF_CUT_TASK,
    "effect_resource": (
        "EXISTS (SELECT FROM counterfoil.effect AS e JOIN counterfoil.task_cut USING (tenant, task_id) "
        "WHERE e.tenant = l.tenant AND e.effect_id = l.effect_id)"
    ),
    "target_change": (
        "EXISTS (SELECT FROM counterfoil.event_hash AS h WHERE h.tenant = l.tenant AND h.event_id = l.change_id)"
    ),
    "producer_claim": (
        "EXISTS (SELECT FROM counterfoil.producer AS p JOIN counterfoil.task_cut USING (tenant, task_id) "
        "WHERE p.tenant = l.tenant AND p.producer_id = l.producer_id)"
    ),
}
_MOVE = {"v": "VIEW", "m": "MATERIALIZED VIEW", "c": "TYPE"}


class Shadow:
    """The schema, in the hands of a login that may act as the owner (the migrator's)."""

    def __init__(self, dsn: str) -> None:
        self._connection = connect(dsn, "owner", application="rebuild", statement_timeout="0", search_path="")

    def close(self) -> None:
        """Close the connection; what is made stays."""
        self._connection.close()

    def prepare(self) -> None:
        """Make the schema, or go on with one that the same migrations made.

        Raises StoreError.
        """
        note = self._note()
        found = fetch_one(self._connection, _named("read_note"))["note"]
        if found not in (None, note):
            logger.warning("an earlier rebuild was made by other migrations; beginning anew")
        elif found is not None and self._dropped():
            logger.warning("retention dropped partitions since an earlier rebuild read them; beginning anew")
            found = ""
        if found != note:
            self.drop()
            self._make(note)
        self._add_partitions()

    def drop(self) -> None:
        """Remove the schema, and how far it had come."""
        with self._connection.transaction():
            self._connection.execute(_named("drop_schema"))
            self._connection.execute(_named("forget_places"), {"rebuild": CONSUMER})

    def keep_cut(self) -> None:
        """Take rows as they are into which events were folded that retention has dropped since."""
        with self._connection.transaction():
            self._keep_cut()

    def analyze(self) -> None:
        """Tell the planner what the tables hold, before anybody reads them."""
        for row in self._connection.execute(_named("analyze_tables")).fetchall():
            self._connection.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(SHADOW, row["name"])))

    def refuse_dependents(self) -> None:
        """Raises RebuildStopped where something else would go on reading the former projections."""
        found = [row["dependent"] for row in self._connection.execute(_named("find_dependents"))]
        if found:
            raise RebuildStopped(
                f"what follows is made upon the projections and would go on reading the former ones: "
                f"{', '.join(found[:5])}{' and more' if len(found) > 5 else ''}; drop it, rebuild, and make it again"
            )

    def swap(self, catch_up: Callable[[], None]) -> None:
        """Take the live projections' place.

        `catch_up` is called before and then again while nobody can write the live ones, so that it ends at equal
        offsets; readers and ingest wait meanwhile. Raises RebuildStopped when they leave no moment for it.
        """
        for _ in range(_TRIES):
            catch_up()
            try:
                with self._connection.transaction():
                    self._lock_live()
                    catch_up()
                    self._keep_cut()
                    pass_by("rebuild.before_swap")
                    self._exchange()
                    pass_by("rebuild.before_commit")
            except psycopg.errors.QueryCanceled:
                time.sleep(_PAUSE_SECONDS)
            except psycopg.errors.UndefinedTable as error:
                raise _dropped_meanwhile() from error
            else:
                return
        raise RebuildStopped(
            f"the projections were in use all the time: no lock on all of them in {_TRIES} tries; end long queries "
            "(pg_stat_activity), and run it again: what is rebuilt is kept"
        )

    def _keep_cut(self) -> None:
        # Row-level security binds the owner, too; services see everything.
        self._connection.execute("SET LOCAL ROLE counterfoil_ingester")
        if fetch_one(self._connection, _named("has_cut"))["found"]:
            for table, is_cut in _IS_CUT.items():
                columns = columns_of(self._connection, LIVE, table)
                query = _named("keep_cut").format(
                    table=sql.Identifier(table),
                    columns=_listed(columns),
                    live_columns=_listed(columns, "l"),
                    new_columns=_listed(columns, "excluded"),
                    key=_listed(PROJECTIONS[table]),
                    is_cut=sql.SQL(is_cut),
                )
                self._connection.execute(query)
        self._connection.execute("SET LOCAL ROLE counterfoil_owner")

    def _dropped(self) -> bool:
        return bool(self._connection.execute(_named("find_dropped")).fetchall())

    def _note(self) -> str:
        texts = "".join(migration.sha256 for migration in self._migrations())
        return hashlib.sha256(texts.encode()).hexdigest()

    def _migrations(self) -> Iterable[Migration]:
        """Those that made the live projections."""
        applied = {row["number"] for row in self._connection.execute(_named("read_applied"))}
        return [one for one in migrations() if one.number in applied and one.is_of_projections]

    def _as_login(self, statement: sql.SQL) -> None:
        """The owner may not CREATE in the database, the login may."""
        self._connection.execute("RESET ROLE")
        self._connection.execute(statement)
        self._connection.execute("SET ROLE counterfoil_owner")

    def _make(self, note: str) -> None:
        with self._connection.transaction():
            self._as_login(_named("make_schema"))
            self._connection.execute(_named("admit_services"))
            self._connection.execute("SELECT set_config('search_path', %s, true)", [SHADOW])
            for migration in self._migrations():
                # The text is a file of our own package, never a user's.
                self._connection.execute(sql.SQL(migration.sql))
            comment = sql.SQL("COMMENT ON SCHEMA {} IS {}")
            self._connection.execute(comment.format(sql.Identifier(SHADOW), sql.Literal(note)))

    def _add_partitions(self) -> None:
        create = sql.SQL("CREATE TABLE {} PARTITION OF {} {} {}")
        with self._connection.transaction():
            for row in self._connection.execute(_named("list_missing_partitions")).fetchall():
                leaf, parent = (sql.Identifier(SHADOW, row[name]) for name in ("name", "parent"))
                by = sql.SQL(f"PARTITION BY {row['key']}" if row["key"] else "")
                self._connection.execute(create.format(leaf, parent, sql.SQL(row["bound"]), by))
                if not row["key"]:
                    grant = sql.SQL("GRANT INSERT ON {} TO counterfoil_ingester")
                    self._connection.execute(grant.format(leaf))
            self._connection.execute("CALL counterfoil.keep_no_statistics('counterfoil_rebuild.event')")

    def _lock_live(self) -> None:
        """In the order in which ingest comes to them: the partitions, then what is folded."""
        relations = self._connection.execute(_named("list_relations")).fetchall()
        tables = [row["name"] for row in relations if row["kind"] in "rp"]
        tables.sort(key=lambda name: (not name.startswith("event_"), name != "event"))
        each = sql.SQL(", ").join(sql.SQL("ONLY {}").format(sql.Identifier(LIVE, name)) for name in tables)
        self._connection.execute("SELECT set_config('statement_timeout', %s, true)", [_LOCKS_WITHIN])
        self._connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(each))
        self._connection.execute("SELECT set_config('statement_timeout', '0', true)")

    def _exchange(self) -> None:
        if fetch_one(self._connection, _named("read_note"))["note"] != self._note():
            raise RebuildStopped("the store was migrated meanwhile; run it again")
        if self._connection.execute(_named("list_missing_partitions")).fetchall():
            raise RebuildStopped("partitions were made meanwhile; run it again: what is rebuilt is kept")
        if self._dropped():
            raise _dropped_meanwhile()
        self._copy_grants()
        relations = self._connection.execute(_named("list_relations")).fetchall()
        routines = self._connection.execute(_named("list_routines")).fetchall()
        self._as_login(sql.SQL("CREATE SCHEMA counterfoil_former AUTHORIZATION counterfoil_owner"))
        for old, new in ((LIVE, _FORMER), (SHADOW, LIVE)):
            for row in routines:
                arguments = row["arguments"].replace(f"{SHADOW}.", f"{old}.")
                routine = sql.SQL("{}({})").format(sql.Identifier(old, row["name"]), sql.SQL(arguments))
                self._connection.execute(_set_schema("ROUTINE", routine, new))
            for row in relations:
                kind = _MOVE.get(row["kind"], "TABLE")
                self._connection.execute(_set_schema(kind, sql.Identifier(old, row["name"]), new))
        self._connection.execute("DROP SCHEMA counterfoil_former CASCADE")
        self._connection.execute("DROP SCHEMA counterfoil_rebuild RESTRICT")  # refused if anything were left in it
        self._connection.execute(_named("forget_places"), {"rebuild": CONSUMER})

    def _copy_grants(self) -> None:
        for row in self._connection.execute(_named("list_own_grants")).fetchall():
            role = sql.SQL("PUBLIC") if row["is_public"] else sql.SQL(row["role"])  # regrole quotes what needs it
            column = sql.SQL("") if row["column"] is None else sql.SQL(" ({})").format(sql.Identifier(row["column"]))
            grant = sql.SQL("GRANT {}{} ON {} TO {}{}").format(
                sql.SQL(row["privilege"]),
                column,
                sql.Identifier(SHADOW, row["name"]),
                role,
                sql.SQL(" WITH GRANT OPTION" if row["is_grantable"] else ""),
            )
            self._connection.execute(grant)


def _dropped_meanwhile() -> RebuildStopped:
    return RebuildStopped("retention dropped partitions meanwhile; run it again: it begins anew")


def _named(name: str) -> sql.SQL:
    return queries("rebuild")[name]


def _listed(columns: Iterable[str], of: str | None = None) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(*([of] if of else []), column) for column in columns)


def _set_schema(kind: str, what: sql.Composable, schema: str) -> sql.Composed:
    return sql.SQL("ALTER {} {} SET SCHEMA {}").format(sql.SQL(kind), what, sql.Identifier(schema))
