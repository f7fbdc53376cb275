"""Behind PgBouncer: transaction mode for tenants' logins, session mode for services (docs/tenancy.md)."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from bench.pgbouncer import PASSWORD
from counterfoil import Recorder
from counterfoil_consumers.ingest import Ingest
from counterfoil_consumers.store import Connection, connect, fetch_one
from tests.fix_oldest import NewPgBouncer
from tests.fix_store import MIGRATOR
from tests.fix_tenants import TENANTS, Login

Reach = Callable[[str], Login]


@pytest.fixture
def reach(
    login_roles: dict[str, str], filled: Connection, superuser: Login, database: str, new_pgbouncer: NewPgBouncer
) -> Iterator[Reach]:
    """Connects as a tenant, as docs/tenancy.md says."""
    limits = {"max_user_connections": 2, "idle_transaction_timeout": 1, "query_timeout": 3}
    names = list(login_roles.values())
    secrets = superuser.execute(
        "SELECT rolname, rolpassword FROM pg_authid WHERE rolname = ANY(%s)", [names]
    ).fetchall()
    assert len(secrets) == len(names)
    assert all(secret.startswith("SCRAM-SHA-256$") for _, secret in secrets)
    with new_pgbouncer(dict(secrets), pool_mode="transaction", **limits) as dsn, ExitStack() as opened:
        name = conninfo_to_dict(database)["dbname"]

        def open_one(tenant: str) -> Login:
            to = make_conninfo(dsn, dbname=name, user=login_roles[tenant])
            return opened.enter_context(closing(psycopg.connect(to, autocommit=True, prepare_threshold=None)))

        yield open_one


def test_tenants_share_no_connection_and_see_their_own_rows(reach: Reach) -> None:
    clients = [(tenant, reach(tenant)) for tenant in TENANTS * 4]
    for _ in range(8):
        for tenant, client in clients:
            client.execute("SELECT set_config('search_path', 'counterfoil', false), set_config('role', 'none', false)")
            found = client.execute(
                "SELECT DISTINCT e.tenant, current_tenant() FROM counterfoil.event AS e WHERE e.kind <> %s", ["x"]
            )
            assert found.fetchall() == [(tenant, tenant)]


def test_a_tenant_s_many_connections_leave_the_others_theirs(reach: Reach, filled: Connection) -> None:
    greedy = [reach("acme") for _ in range(12)]
    modest = reach("globex")
    with ThreadPoolExecutor(len(greedy)) as pool:
        sleeping = [pool.submit(one.execute, "SELECT pg_sleep(0.2)") for one in greedy]
        began = time.monotonic()
        assert modest.execute("SELECT count(*) > 0 FROM counterfoil.event").fetchall() == [(True,)]
        assert time.monotonic() - began < 1 < 12 / 2 * 0.2
        backends = "SELECT usename, count(*)::int AS n FROM pg_stat_activity WHERE usename LIKE 'reader%' GROUP BY 1"
        assert {row["n"] for row in filled.execute(backends)} <= {1, 2}
        for one in sleeping:
            one.result()


def test_what_a_tenant_leaves_open_or_lets_run_is_ended(reach: Reach) -> None:
    """Whatever it sets itself: Postgres' own limits are settings that every login may change."""
    idle, long = reach("acme"), reach("acme")
    idle.execute("BEGIN")
    idle.execute("LOCK TABLE counterfoil.event IN ACCESS SHARE MODE")
    long.execute("SET statement_timeout = 0")
    with pytest.raises(psycopg.OperationalError, match="query timeout"):
        long.execute("SELECT pg_sleep(60)")
    with pytest.raises(psycopg.OperationalError, match="idle transaction timeout"):
        idle.execute("SELECT 1")


def test_statements_prepared_by_name_are_not_for_transaction_mode(reach: Reach) -> None:
    first, second = reach("acme"), reach("acme")
    first.prepare_threshold = second.prepare_threshold = 0
    first.execute("SELECT 1")
    with pytest.raises(psycopg.errors.DuplicatePreparedStatement):
        second.execute("SELECT 2")


def test_ingest_works_in_session_mode(
    recorder: Recorder,
    kafka: dict[str, str],
    topic_prefix: str,
    database: str,
    operator: Connection,
    new_pgbouncer: NewPgBouncer,
) -> None:
    with recorder.task("t") as task, task.effect("refund", target="pay", args={"of": 1}) as one:
        one.ok()
    recorder.close()
    with new_pgbouncer({MIGRATOR: PASSWORD}, pool_mode="session") as dsn:
        to = make_conninfo(dsn, dbname=conninfo_to_dict(database)["dbname"], user=MIGRATOR)
        ingest = Ingest(kafka=kafka, dsn=to, profile="local", topic_prefix=topic_prefix, admit_tenants=True)
        ends = ingest.end_offsets()
        ingest.run(threading.Event(), until=ends)
        with closing(connect(to, "operator", application="test")) as after:
            limits = fetch_one(after, "SELECT current_role, current_setting('work_mem') AS memory")  # type: ignore[arg-type]
            assert limits == {"current_role": "counterfoil_operator", "memory": "4MB"}, "what ingest set is left there"
    assert fetch_one(operator, "SELECT count(*)::int AS n FROM event")["n"] == sum(ends)  # type: ignore[arg-type]


def test_services_are_mixed_up_in_transaction_mode(database: str, new_pgbouncer: NewPgBouncer) -> None:
    """Why it is not for them: the role that one takes is the other's, too."""
    with new_pgbouncer({MIGRATOR: PASSWORD}, pool_mode="transaction", default_pool_size=1) as dsn:
        to = make_conninfo(dsn, dbname=conninfo_to_dict(database)["dbname"], user=MIGRATOR)
        ingester = connect(to, "ingester", application="test")
        with closing(ingester), closing(connect(to, "reconciler", application="test")):
            found = fetch_one(ingester, "SELECT current_role")  # type: ignore[arg-type]
            assert found == {"current_role": "counterfoil_reconciler"}
