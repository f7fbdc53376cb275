"""What is past its time goes, by policy alone; what is held or younger stays, and hashes outlive both."""

import dataclasses
import datetime as dt
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest
from prometheus_client import REGISTRY
from psycopg import sql
from psycopg.conninfo import make_conninfo

from counterfoil.errors import UsageError
from counterfoil.ids import is_retention_class
from counterfoil_consumers.retention import Scope, connect_eraser, place_hold, release_hold, run, set_rule
from counterfoil_consumers.store import Connection, connect, fetch_one
from counterfoil_consumers.window import open_window
from counterfoil_schemas import migrations
from tests.consumers.made import TASK, intent
from tests.consumers.past import event_of, ids, keep, months_ago, run_retention, store, with_other_content


def leaves(operator: Connection, of_class: str = "standard") -> list[str]:
    rows = operator.execute("SELECT leaf FROM event_leaves() WHERE retention_class = %s ORDER BY first_id", [of_class])
    return [row["leaf"] for row in rows]


def name_of(months: int, of_class: str = "standard") -> str:
    return f"event_{of_class}_{months_ago(months):%Y_%m}"


def test_by_default_everything_stays(database: str, operator: Connection) -> None:
    old = [event_of(months_ago(months)) for months in (13, 7, 0)]
    assert store(database, old).stored == 3
    assert run_retention(database) == []
    assert ids(operator, "event") == {one.event_id for one in old}
    [rule] = operator.execute("SELECT * FROM retention_rule").fetchall()
    assert (rule["retention_class"], rule["keep_months"], rule["changed_by"]) == ("standard", None, "counterfoil")


def test_less_than_six_months_must_be_meant(operator: Connection) -> None:
    with pytest.raises(UsageError, match=r"5 months are less than the 6 .*EU AI Act"):
        set_rule(operator, "standard", 5, "short of space", "dana", is_short=False)
    set_rule(operator, "standard", 5, "short of space", "dana", is_short=True)
    for wrong in ("Legal", "a" * 41, "astray", "held_x", "standard_2025_01", "", "x'; --"):
        with pytest.raises(UsageError, match="a class has up to 40"):
            set_rule(operator, wrong, 12, "r", "dana", is_short=False)
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        operator.execute("UPDATE retention_policy SET keep_months = 1")
    with pytest.raises(psycopg.errors.CheckViolation):
        operator.execute(
            "INSERT INTO retention_policy (retention_class, keep_months, reason, changed_by) "
            "VALUES ('standard', 5, 'r', 'd')"
        )
    months = [
        row["keep_months"] for row in operator.execute("SELECT keep_months FROM retention_policy ORDER BY policy_id")
    ]
    assert months == [None, 5]


def test_a_leaf_past_its_time_is_dropped_and_its_hashes_stay(database: str, operator: Connection) -> None:
    old, young = event_of(months_ago(8)), event_of(months_ago(5))
    done = intent(event_id=event_of(months_ago(8)).event_id, occurred_at=old.occurred_at)
    store(database, [old, young, done])
    keep(operator, 6)
    dropped = run_retention(database)
    assert [one.relation for one in dropped] == [name_of(months) for months in range(13, 6, -1)]
    assert {(one.outcome, one.held) for one in dropped} == {("dropped", 0)}
    assert [one.events for one in dropped if one.relation == name_of(8)] == [2]
    assert leaves(operator) == [name_of(months) for months in range(6, -3, -1)]
    assert ids(operator, "every_event") == {young.event_id}
    assert ids(operator, "event_hash") == {old.event_id, done.event_id}
    assert (ids_of_tasks(operator), operator.execute("SELECT FROM effect").rowcount) == ({TASK}, 1)
    [told] = operator.execute("SELECT * FROM retention_drop WHERE events > 0").fetchall()
    assert (told["relation"], told["keep_months"], told["dropped_by"], told["held"]) == (name_of(8), 6, "dana", 0)
    assert run_retention(database) == []


def ids_of_tasks(operator: Connection) -> set[bytes]:
    return {row["task_id"].bytes for row in operator.execute("SELECT task_id FROM task")}


def test_what_came_late_keeps_its_leaf_until_its_own_time(database: str, operator: Connection) -> None:
    late = event_of(months_ago(9))
    store(database, [late, event_of(months_ago(9))], [months_ago(2)])
    keep(operator, 6)
    outcomes = {one.relation: one.outcome for one in run_retention(database)}
    assert outcomes[name_of(9)] == "kept: some of it came later"
    assert REGISTRY.get_sample_value("counterfoil_retention_overdue") == 1
    assert len(ids(operator, "event")) == 2
    assert ids(operator, "event_hash") == set()


def test_what_was_dropped_does_not_come_back(database: str, operator: Connection) -> None:
    old = event_of(months_ago(8))
    store(database, [old])
    keep(operator, 6)
    run_retention(database)
    again = store(database, [old, event_of(months_ago(0))])
    assert (again.stored, again.repeated) == (1, 1)
    other = store(database, [with_other_content(old)])
    assert [refused.reason.letter_class for refused in other.set_aside] == ["conflict"]
    keep(operator, 24)  # the months that were dropped are not made again
    assert store(database, [old]).stored == 0
    assert name_of(8) not in leaves(operator)
    assert old.event_id not in ids(operator, "every_event")
    [task] = operator.execute("SELECT events FROM task").fetchall()
    assert task["events"] == 2


def test_what_is_held_stays_readable_until_it_is_released(database: str, operator: Connection) -> None:
    operator.execute("INSERT INTO tenant (tenant) VALUES ('acme')")
    held, other = event_of(months_ago(8), subject_ref="order-17"), event_of(months_ago(8), subject_ref="order-18")
    store(database, [held, other])
    before = operator.execute("SELECT * FROM every_event WHERE subject_ref = 'order-17'").fetchall()
    keep(operator, 6)
    hold = place_hold(operator, Scope("acme", subject_ref="order-17"), "a claim", "dana")
    [told] = [one for one in run_retention(database) if one.events]
    assert (told.events, told.held) == (2, 1)
    assert operator.execute("SELECT * FROM every_event").fetchall() == before
    [row] = operator.execute("SELECT hold_ids FROM event_held").fetchall()
    assert row["hold_ids"] == [hold]
    assert store(database, [held]).repeated == 1
    assert run_retention(database) == []

    second = place_hold(operator, Scope("acme", agent=held.agent), "another claim", "dana")
    release_hold(operator, hold, "settled", "dana")
    assert run_retention(database) == []
    release_hold(operator, second, "settled", "dana")
    keep(operator, 24)
    assert run_retention(database) == []
    keep(operator, 6)
    [told] = run_retention(database)
    assert (told.relation, told.outcome, told.events) == ("event_held", "dropped", 1)
    assert ids(operator, "every_event") == set()
    assert ids(operator, "event_hash") == {held.event_id, other.event_id}
    with pytest.raises(UsageError, match=rf"no hold {hold} that could be released"):
        release_hold(operator, hold, "again", "dana")


def test_a_hold_covers_what_has_all_that_it_names(database: str, operator: Connection) -> None:
    operator.execute("INSERT INTO tenant (tenant) VALUES ('acme'), ('globex')")
    when = months_ago(8)
    scopes = [
        Scope("acme", workflow="w", agent="a"),
        Scope("acme", task_id=(b"\x05" * 16).hex()),
        Scope("acme", from_at=when, until_at=when + dt.timedelta(hours=1)),
    ]
    for scope in scopes:
        place_hold(operator, scope, "a claim", "dana")
    covered = [
        event_of(months_ago(9), workflow="w", agent="a"),
        event_of(months_ago(9), task_id=b"\x05" * 16),
        event_of(when),
    ]
    left = [
        event_of(months_ago(9), workflow="w", agent="b"),
        event_of(months_ago(9), tenant="globex", workflow="w", agent="a"),
        event_of(when + dt.timedelta(hours=1)),
    ]
    store(database, [*covered, *left])
    keep(operator, 6)
    run_retention(database)
    assert ids(operator, "every_event") == {one.event_id for one in covered}
    with pytest.raises(UsageError, match="no tenant 'acm'"):
        place_hold(operator, Scope("acm"), "mistyped", "dana")
    with pytest.raises(UsageError, match="ends after it begins"):
        place_hold(operator, Scope("acme", from_at=when, until_at=when), "empty", "dana")


def test_a_class_gets_partitions_once_it_has_a_policy(database: str, operator: Connection) -> None:
    before, after = (event_of(months_ago(0), retention_class="legal-7") for _ in range(2))
    store(database, [before])
    [told] = operator.execute("SELECT reason FROM astray").fetchall()
    assert told["reason"] == "no such class"
    keep(operator, 84, "legal-7")
    store(database, [after])
    assert leaves(operator, "legal-7")[0] == name_of(13, "legal-7")
    assert ids(operator, "event") == {after.event_id}
    assert store(database, [before]).repeated == 1
    assert ids(operator, "event_astray") == {before.event_id}


def test_an_id_that_stands_in_another_class_is_other_content(database: str, operator: Connection) -> None:
    """Each class has leaves of its own, so no unique index sees both."""
    keep(operator, 84, "legal-7")
    store(database, [one := event_of(months_ago(0))])
    written = store(database, [dataclasses.replace(one, retention_class="legal-7"), event_of(months_ago(0))])
    assert (written.stored, [refused.reason.letter_class for refused in written.set_aside]) == (1, ["conflict"])
    assert [row["events"] for row in operator.execute("SELECT events FROM task")] == [2]


OTHER_NAMES = ("9x", "a" * 40, "a" * 41, "A", "", "with space")


@pytest.mark.parametrize(
    "name",
    ["legal-7", "held", "held_2", "heldback", "astray", "hash_x", "leaves", "pay_2026_01", "pay_2026_1", *OTHER_NAMES],
)
def test_the_recorder_takes_what_a_rule_can_be_made_for(operator: Connection, name: str) -> None:
    try:
        keep(operator, 84, name)
        can_be = True
    except UsageError:
        can_be = False
    assert is_retention_class(name) is can_be


def test_what_is_astray_says_why_and_goes_when_its_class_says(database: str, operator: Connection) -> None:
    operator.execute("INSERT INTO tenant (tenant) VALUES ('acme')")
    took = months_ago(8)
    behind, ahead = event_of(months_ago(60)), event_of(months_ago(-600))
    unknown, held = event_of(took, retention_class="nobody"), event_of(months_ago(61), subject_ref="order-17")
    young = event_of(months_ago(60))
    place_hold(operator, Scope("acme", subject_ref="order-17"), "a claim", "dana")
    store(database, [behind, ahead, unknown, held, young], [took, took, took, took, months_ago(1)])
    reasons = {row["event_id"].bytes: row["reason"] for row in operator.execute("SELECT event_id, reason FROM astray")}
    assert reasons[behind.event_id] == reasons[held.event_id] == "below the floor"
    assert (reasons[ahead.event_id], reasons[unknown.event_id]) == ("ahead of the window", "no such class")
    keep(operator, 6)
    [told] = [one for one in run_retention(database) if one.relation == "event_astray"]
    assert (told.events, told.held) == (3, 1)
    for reason in ("no such class", "below the floor"):
        assert REGISTRY.get_sample_value("counterfoil_retention_astray_events", {"reason": reason}) == 1
    held_events = REGISTRY.get_sample_value("counterfoil_retention_held_events", {"retention_class": "standard"})
    assert held_events == 1
    assert ids(operator, "event_astray") == {unknown.event_id, young.event_id}
    assert ids(operator, "event_held") == {held.event_id}
    assert ids(operator, "event_hash") == {behind.event_id, ahead.event_id, held.event_id}
    assert store(database, [behind, ahead, held]).repeated == 3


def test_what_was_astray_and_has_a_leaf_by_now_does_not_come_back(database: str, operator: Connection) -> None:
    one = event_of(months_ago(5))
    with closing(connect(database, "ingester", application="test")) as ingester:
        open_window(ingester)
    astray = event_of(months_ago(5), retention_class="legal")
    store(database, [astray, one], [months_ago(8), months_ago(5)])
    keep(operator, 6, "legal")
    [told] = run_retention(database)
    assert (told.relation, told.events) == ("event_astray", 1)
    again = store(database, [astray])
    assert (again.stored, again.repeated) == (0, 1)
    assert astray.event_id not in ids(operator, "every_event")


def test_held_events_have_every_column_of_events(operator: Connection) -> None:
    query = (
        "SELECT attname AS name, atttypid::regtype::text AS type FROM pg_attribute "
        "WHERE attrelid = %s::regclass AND attnum > 0 ORDER BY attnum"
    )
    held, plain, view = (
        [(row["name"], row["type"]) for row in operator.execute(query, [table])]
        for table in ("event_held", "event", "every_event")
    )
    assert held[:2] == [("hold_ids", "bigint[]"), ("held_at", "timestamp with time zone")]
    assert [*held[2:], ("is_astray", "boolean")] == [*plain, ("is_astray", "boolean")] == view


@pytest.fixture
def eraser_login(admin_dsn: str, database: str) -> Iterator[str]:
    """DSN of a role that may act as the eraser, and as nobody else."""
    role = sql.Identifier("login_of_eraser")
    with psycopg.connect(admin_dsn, autocommit=True) as admin:
        admin.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'only-on-loopback' IN ROLE counterfoil_eraser").format(role)
        )
        yield make_conninfo(database, user="login_of_eraser")
        admin.execute(sql.SQL("DROP ROLE {}").format(role))


def test_the_eraser_can_do_no_more(eraser_login: str, database: str, operator: Connection) -> None:
    store(database, [event_of(months_ago(8))])
    with closing(connect_eraser(eraser_login)) as eraser:
        for statement in (
            "SELECT * FROM event", "SELECT * FROM event_held", "SELECT * FROM event_hash", "SELECT * FROM hold",
            "SELECT * FROM event_astray", "DELETE FROM event", f"DROP TABLE {name_of(8)}",
            "INSERT INTO retention_policy (retention_class, reason, changed_by) VALUES ('standard', 'r', 'e')",
            "INSERT INTO hold (tenant, reason, placed_by) VALUES ('acme', 'r', 'e')",
            "SELECT release_hold(1, 'r', 'e')", f"SELECT hold_events('{name_of(8)}', now(), 'standard', false)",
            "DELETE FROM retention_drop", "SET ROLE counterfoil_owner",
        ):  # fmt: skip
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                eraser.execute(sql.SQL(statement))
        for relation in (
            name_of(8),
            name_of(0),
            "event_standard",
            "tenant",
            "event_astray_all",
            "x; DROP TABLE tenant",
            "",
        ):
            row = fetch_one(eraser, sql.SQL("SELECT * FROM drop_leaf(%(leaf)s, 'e', false)"), {"leaf": relation})
            assert row == {"outcome": "kept", "events": 0, "held": 0}
        eraser.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        with pytest.raises(psycopg.errors.InvalidTransactionState, match="READ COMMITTED alone"):
            eraser.execute(sql.SQL("SELECT drop_leaf({}, 'e', false)").format(sql.Literal(name_of(8))))
        eraser.execute("ROLLBACK")
    assert len(ids(operator, "event")) == 1


def test_a_tenant_sees_its_own_holds_and_what_is_left_of_its_own_events(
    admin_dsn: str, database: str, operator: Connection
) -> None:
    operator.execute("INSERT INTO tenant (tenant, login_role) VALUES ('acme', 'reader_of_acme'), ('globex', NULL)")
    for tenant in ("acme", "globex"):
        old = [event_of(months_ago(months), tenant=tenant) for months in (8, 0, 60)]
        store(database, old, [months_ago(8), months_ago(0), months_ago(0)])
        place_hold(operator, Scope(tenant), "a claim", "dana")
    keep(operator, 6)
    run_retention(database)
    tables = ("event_held", "event_hash", "hold", "every_event", "astray")
    with psycopg.connect(admin_dsn, autocommit=True) as admin:
        admin.execute("CREATE ROLE reader_of_acme LOGIN PASSWORD 'only-on-loopback' IN ROLE counterfoil_auditor")
        try:
            with psycopg.connect(make_conninfo(database, user="reader_of_acme"), autocommit=True) as reader:
                for table in tables:
                    query = sql.SQL("SELECT DISTINCT tenant FROM counterfoil.{} ORDER BY tenant").format(
                        sql.Identifier(table)
                    )
                    assert reader.execute(query).fetchall() == [("acme",)], table
                    assert len(operator.execute(query).fetchall()) == 2, table
                for hidden in (
                    "SELECT * FROM counterfoil.retention_drop",
                    "SELECT * FROM counterfoil.count_set_apart()",
                ):
                    with pytest.raises(psycopg.errors.InsufficientPrivilege):
                        reader.execute(sql.SQL(hidden))
        finally:
            admin.execute("DROP ROLE reader_of_acme")


def test_a_rehearsal_changes_nothing(database: str, operator: Connection) -> None:
    operator.execute("INSERT INTO tenant (tenant) VALUES ('acme')")
    place_hold(operator, Scope("acme", subject_ref="order-17"), "a claim", "dana")
    store(
        database, [event_of(months_ago(8)), event_of(months_ago(8), subject_ref="order-17"), event_of(months_ago(60))]
    )
    keep(operator, 6)
    with closing(connect_eraser(database)) as eraser:
        told = {one.relation: one for one in run(eraser, "dana", is_rehearsal=True)}
    assert (told[name_of(8)].outcome, told[name_of(8)].events, told[name_of(8)].held) == ("would be dropped", 2, 1)
    assert (told["event_astray"].outcome, told["event_astray"].events) == ("would be dropped", 1)
    assert len(ids(operator, "event")) == 2
    for table in ("event_hash", "event_held", "retention_drop"):
        assert operator.execute(sql.SQL("SELECT FROM {}").format(sql.Identifier(table))).rowcount == 0


def test_after_months_without_ingest_nothing_is_astray(database: str, operator: Connection) -> None:
    """As if the last run of ingest had been three months ago."""
    with closing(connect(database, "ingester", application="test")) as ingester:
        open_window(ingester)
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute("SET ROLE counterfoil_owner")
        for months in (0, -1, -2):
            owner.execute(sql.SQL("DROP TABLE counterfoil.{}").format(sql.Identifier(name_of(months))))
    events = [event_of(months_ago(months, 1)) for months in (3, 2, 1, 0)]
    assert store(database, events).stored == 4
    assert ids(operator, "event") == {one.event_id for one in events}


def test_partitions_are_made_while_somebody_reads(database: str, operator: Connection) -> None:
    with operator.transaction():
        operator.execute("SELECT count(*) FROM event")
        keep_in = connect(database, "operator", application="test")
        with closing(keep_in):
            keep(keep_in, 12, "legal")
        with closing(connect(database, "ingester", application="test", lock_timeout="1s", timezone="Asia/Tokyo")) as it:
            assert set(open_window(it).leaves) == {"standard", "legal"}
    starts = operator.execute("SELECT DISTINCT id_time(first_id)::text AS at FROM event_leaves()").fetchall()
    assert {row["at"][8:] for row in starts} == {"01 00:00:00+00"}


def test_the_same_partitions_in_the_schema_of_a_rebuild(database: str, operator: Connection) -> None:
    keep(operator, 12, "legal")
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute("CREATE SCHEMA counterfoil_rebuild AUTHORIZATION counterfoil_owner")
        owner.execute("SET ROLE counterfoil_owner")
        owner.execute("GRANT USAGE ON SCHEMA counterfoil_rebuild TO counterfoil_ingester")
        owner.execute("SET search_path TO counterfoil_rebuild, counterfoil")
        for migration in migrations():
            if migration.is_of_projections:
                owner.execute(sql.SQL(migration.sql))
    with closing(connect(database, "ingester", application="test")) as ingester:
        here = open_window(ingester)
        ingester.execute("SET search_path TO counterfoil_rebuild, counterfoil")
        assert open_window(ingester) == here
        assert open_window(ingester) == here
        for schema in ("public", "counterfoil_rebuild; DROP TABLE x", "pg_catalog"):
            with pytest.raises(psycopg.errors.InvalidParameterValue, match="no partition is made in the schema"):
                ingester.execute("SELECT counterfoil.open_partitions('standard', 1, 1, %s)", [schema])
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="the retention class other has no policy"):
            ingester.execute("SELECT counterfoil.open_partitions('other', 1, 1)")
