"""Projections rebuilt from the log, from the stored bytes, or both: as the live ones are, and swapped with them."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing

import psycopg
import pytest
from confluent_kafka import TopicPartition
from psycopg import sql
from psycopg.conninfo import make_conninfo

from counterfoil import Recorder, RecorderSettings
from counterfoil.codec import encode
from counterfoil.framing import SINGLE_OBJECT, fingerprint_of
from counterfoil.ids import new_id, task_id_of
from counterfoil_consumers import metrics
from counterfoil_consumers.digest import PROJECTIONS, Digest, digest
from counterfoil_consumers.errors import BadRecord, RebuildStopped, StoreError
from counterfoil_consumers.ingest import Ingest
from counterfoil_consumers.rebuild import Origin, Rebuild
from counterfoil_consumers.records import Reader, Record, Row
from counterfoil_consumers.shadow import SHADOW, Shadow
from counterfoil_consumers.store import Connection, connect, fetch_one, queries, snapshot
from counterfoil_consumers.topics import admin_client, end_offsets
from counterfoil_consumers.unread import fold_unread
from counterfoil_schemas import avro_schemas, topics
from tests.consumers.made import event, intent, key_of, result
from tests.consumers.past import event_of, keep, months_ago, run_retention
from tests.consumers.test_members import stored
from tests.fix_log import Produce, StartPython
from tests.waiting import wait_until

[REVIEW] = [schema.definition for schema in avro_schemas() if schema.subject == "review"]
Of = Callable[..., Rebuild]
VERDICT = {
    "target": "pay", "verdict": "not_applied", "check_seq": 1, "contract_version": "1", "contract_digest": b"\x01",
    "evidence": "{}", "resources": [{"resource": "refunds", "key": '"1"'}],
}  # fmt: skip
DECISION = {
    "operation": "resolve", "by": "dana", "reason": "by hand", "target": "pay", "check_seq": 1,
    "resources": VERDICT["resources"],
}  # fmt: skip


@pytest.fixture
def rebuild(kafka: dict[str, str], topic_prefix: str, database: str) -> Of:
    """Makes rebuilds of the test's store."""

    def make(origin: Origin = "both", dsn: str = database) -> Rebuild:
        topic = topics("local", topic_prefix)["events"]
        return Rebuild(kafka=kafka, dsn=dsn, topic=topic, framing=SINGLE_OBJECT, origin=origin)

    return make


@pytest.fixture
def digest_now(database: str) -> Iterator[Callable[[], Digest]]:
    """The digest of the live projections."""
    with closing(connect(database, "operator", application="test")) as reader:

        def of() -> Digest:
            with snapshot(reader):
                return digest(reader, "counterfoil")

        yield of


@pytest.fixture
def varied(recorder: Recorder, produce: Produce, ingest_all: Callable[[], None]) -> None:
    """A store with something in every projection, and letters of records beside them."""
    for number in range(20):
        with recorder.task("refunds", task_ref=f"R-{number}") as task:
            task.retrieval("how much", [{"id": f"policy-{number}"}, {"id": "prices", "version": "3"}])
            task.completion("so much", model="m", usage={"input_tokens": number}, cost="0.25", currency="EUR")
            with task.effect("refund", target="pay", args={"number": number}) as one:
                one.ok({"id": number})
    judged = event("verdict", VERDICT, task_id=task.task_id, effect_id=one.effect_id)
    found = event("verdict", VERDICT, task_id=task.task_id)
    decided = event("operation", DECISION | {"verdict_event_id": judged.event_id}, task_id=task.task_id)
    astray = event(retention_class="legal")
    unread = event("dreamt", None, raw_body=b"\xff later", body_schema=b"\x07" * 8)
    clash = intent(event_id=judged.event_id, task_id=task.task_id)
    for made in (judged, judged, found, decided, astray, unread, clash, result("ok", task_id=task.task_id)):
        produce(encode(made), key_of(made))
    produce(b"of nobody", b"key")
    recorder.close()
    ingest_all()


CATALOGUE = """
    SELECT 'relation' AS what, c.relname AS name,
           concat_ws(' ', c.relkind, c.relrowsecurity, c.relforcerowsecurity, c.relacl, c.reloptions,
                     pg_get_expr(c.relpartbound, c.oid), CASE c.relkind WHEN 'v' THEN pg_get_viewdef(c.oid) END)
               AS as_made
    FROM pg_class AS c WHERE c.relnamespace = 'counterfoil'::regnamespace
    UNION ALL
    SELECT 'column', c.relname || '.' || a.attname,
           concat_ws(' ', format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attacl, a.attstattarget)
    FROM pg_attribute AS a JOIN pg_class AS c ON c.oid = a.attrelid
    WHERE c.relnamespace = 'counterfoil'::regnamespace AND a.attnum > 0
    UNION ALL
    SELECT 'index', indexname, indexdef FROM pg_indexes WHERE schemaname = 'counterfoil'
    UNION ALL
    SELECT 'policy', tablename || '.' || policyname, concat_ws(' ', roles, cmd, qual, with_check)
    FROM pg_policies WHERE schemaname = 'counterfoil'
    UNION ALL
    SELECT 'constraint', c.relname || '.' || k.conname, pg_get_constraintdef(k.oid)
    FROM pg_constraint AS k JOIN pg_class AS c ON c.oid = k.conrelid WHERE c.relnamespace = 'counterfoil'::regnamespace
    UNION ALL
    SELECT 'routine', p.oid::regprocedure::text, concat_ws(' ', pg_get_functiondef(p.oid), p.proacl)
    FROM pg_proc AS p WHERE p.pronamespace = 'counterfoil'::regnamespace
    ORDER BY 1, 2, 3
"""
INTENT = {"tool": "refund", "target": "pay", "write": True, "args": "{}"}
KILLED = """
import sys
from counterfoil.framing import SINGLE_OBJECT, fingerprint_of
from counterfoil_consumers import rebuild
from counterfoil_schemas import avro_schemas, topics

bootstrap, dsn, prefix = sys.argv[1:]
rebuild._BATCH = 10
topic = topics("local", prefix)["events"]
rebuild.Rebuild(kafka={"bootstrap.servers": bootstrap}, dsn=dsn, topic=topic, framing=SINGLE_OBJECT).run()
"""
NOT_DIGESTED = ("drift_rule", "text_waiting")  # constant, and a queue
POINTS = ("rebuild.after_archived", "rebuild.after_logged", "rebuild.before_swap", "rebuild.before_commit")
RECORDS = ("tenant", "log_source", "ingest_offset", "log_gap", "dead_letter", "outbox", "check_state", "check_lease")


def catalogue(operator: Connection) -> list[tuple[str, str, str]]:
    """Everything in the schema, as it was made."""
    return [(row["what"], row["name"], row["as_made"]) for row in operator.execute(CATALOGUE)]


def records(operator: Connection) -> dict[str, list[object]]:
    """All that is not in the log."""
    return {
        name: sorted(operator.execute(sql.SQL("SELECT * FROM {}").format(sql.Identifier(name))), key=str)
        for name in RECORDS
    }


def cut_log(kafka: dict[str, str], topic_prefix: str, keep: int) -> None:
    """Retention removes what was ingested, but for the last `keep` records of each partition."""
    topic, admin = topics("local", topic_prefix)["events"], admin_client(kafka)
    ends = end_offsets(admin, topic.name, topic.partitions)
    places = [TopicPartition(topic.name, number, end - keep) for number, end in enumerate(ends) if end > keep]
    for future in admin.delete_records(places).values():
        future.result()


@pytest.mark.parametrize("origin", ["both", "log", "store"])
def test_what_is_rebuilt_is_what_is_live(
    varied: None, rebuild: Of, origin: Origin, operator: Connection, digest_now: Callable[[], Digest]
) -> None:
    before, kept = digest_now(), records(operator)
    done = rebuild(origin).compare()
    assert done.live == done.rebuilt == before
    assert min(one.rows for one in before.tables.values()) > 0
    stored = before.tables["event"].rows
    assert (done.from_store, done.from_log) == {"store": (stored, 0)}.get(origin, (0, stored + 1))  # one is repeated
    assert operator.execute("SELECT to_regnamespace(%s) AS schema", [SHADOW]).fetchone() == {"schema": None}
    assert records(operator) == kept


def test_every_projection_is_digested(operator: Connection, database: str) -> None:
    with closing(Shadow(database)) as shadow:
        shadow.prepare()
        found = operator.execute(
            "SELECT relname AS name FROM pg_class WHERE relnamespace = %s::regnamespace AND relkind IN ('r', 'p') "
            "AND NOT relispartition",
            [SHADOW],
        )
        assert {row["name"] for row in found} == {*PROJECTIONS, "event_astray", *NOT_DIGESTED}
        shadow.drop()


def test_a_rebuild_takes_the_place_of_what_was_spoiled(
    varied: None,
    rebuild: Of,
    operator: Connection,
    database: str,
    digest_now: Callable[[], Digest],
    ingest_all: Callable[[], None],
    produce: Produce,
) -> None:
    """Rows, and what the migrations made: columns, indexes, policies, grants, views."""
    right, made, kept = digest_now(), catalogue(operator), records(operator)
    with closing(connect(database, "ingester", application="test")) as vandal:
        vandal.execute("UPDATE task SET cost = cost + 1")
        vandal.execute("UPDATE effect SET verdict = 'applied'")
        vandal.execute("INSERT INTO effect_resource VALUES ('acme', 'pay', 'x', 'y', %s)", [new_id().hex()])
    found = rebuild().compare()
    assert found.live is not None
    assert found.rebuilt == right
    assert found.live.differing(right) == ["effect", "effect_resource", "task"]

    assert rebuild().run().from_log > 0
    assert digest_now() == right
    assert catalogue(operator) == made
    assert records(operator) == kept
    one = event()
    produce(encode(one), key_of(one))
    ingest_all()
    assert digest_now().tables["event"].rows == right.tables["event"].rows + 1
    done = rebuild("store").compare()
    assert done.live == done.rebuilt


def test_where_the_log_is_cut_the_stored_bytes_serve(
    varied: None,
    rebuild: Of,
    kafka: dict[str, str],
    topic_prefix: str,
    operator: Connection,
    digest_now: Callable[[], Digest],
) -> None:
    before = digest_now()
    cut_log(kafka, topic_prefix, 2)
    done = rebuild().run()
    assert done.from_store > 0
    assert done.from_log > 0
    assert digest_now() == before
    with pytest.raises(RebuildStopped, match=r"log no longer has offset \d+ of partition \d+.*rebuild from both"):
        rebuild("log").run()
    assert digest_now() == before
    assert rebuild("store").run().from_log == 0
    assert digest_now() == before


@pytest.mark.parametrize("point", POINTS)
def test_killed_it_changes_nothing_and_goes_on(
    varied: None,
    rebuild: Of,
    kafka: dict[str, str],
    topic_prefix: str,
    database: str,
    operator: Connection,
    digest_now: Callable[[], Digest],
    start_python: StartPython,
    point: str,
) -> None:
    before, made = digest_now(), catalogue(operator)
    cut_log(kafka, topic_prefix, 2)
    arguments = (kafka["bootstrap.servers"], database, topic_prefix)
    killed = start_python(KILLED, *arguments, COUNTERFOIL_FAILPOINTS=f"{point}=kill")
    _, said = killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL, said
    assert digest_now() == before
    assert catalogue(operator) == made
    wait_until(lambda: nobody_rebuilds(operator))
    rebuild().run()
    assert digest_now() == before
    assert catalogue(operator) == made


def nobody_rebuilds(operator: Connection) -> bool:
    """Postgres has noticed that the process is gone."""
    query = (
        "SELECT FROM pg_stat_activity WHERE application_name = 'counterfoil-rebuild' AND datname = current_database()"
    )
    return operator.execute(query).rowcount == 0


def test_ingest_goes_on_while_it_is_rebuilt_and_swapped(
    varied: None,
    recorder_settings: RecorderSettings,
    new_ingest: Callable[[], Ingest],
    rebuild: Of,
    kafka: dict[str, str],
    topic_prefix: str,
    operator: Connection,
    digest_now: Callable[[], Digest],
) -> None:
    """An agent records all the time; three rebuilds are swapped under a running ingest."""
    ended, failures = threading.Event(), []
    retries = metrics.STORE_RETRIES._value.get()

    def work(do: Callable[[], None]) -> None:
        try:
            do()
        except BaseException as error:  # noqa: BLE001  # told below, in the test's own thread
            failures.append(error)

    def record() -> None:
        with Recorder(recorder_settings) as recorder:
            while not ended.wait(0.002):
                with (
                    recorder.task("t") as task,
                    task.effect("refund", target="pay", args={"n": task.task_id.hex()}) as one,
                ):
                    one.ok()

    ingesting = threading.Event()
    threads = [threading.Thread(target=work, args=(do,)) for do in (record, lambda: new_ingest().run(ingesting))]
    for thread in threads:
        thread.start()
    try:
        seen = [0]
        for origin in ("both", "store", "log"):
            wait_until(lambda: stored(operator) > seen[-1] or bool(failures))
            seen.append(stored(operator))
            rebuild(origin).run()
        wait_until(lambda: stored(operator) > seen[-1] or bool(failures))
        ended.set()
        threads[0].join(30)
        end = sum(end_offsets(admin_client(kafka), f"{topic_prefix}counterfoil.events", 24))
        wait_until(lambda: bool(failures) or moved(operator) == end)
    finally:
        ended.set()
        ingesting.set()
        for thread in threads:
            thread.join(30)
    assert failures == []
    assert metrics.STORE_RETRIES._value.get() == retries  # it waited for the swap, and not too long
    assert seen == sorted(set(seen))
    done = rebuild().compare()
    assert done.live == done.rebuilt == digest_now()
    assert done.live.tables["duplicate"].rows == 1


def moved(operator: Connection) -> int:
    """How many offsets are ingested."""
    return int(fetch_one(operator, "SELECT sum(next_offset) AS n FROM ingest_offset")["n"])  # type: ignore[arg-type]


def test_what_is_made_upon_the_projections_is_not_left_behind(
    varied: None, rebuild: Of, database: str, digest_now: Callable[[], Digest]
) -> None:
    with psycopg.connect(database, autocommit=True) as migrator:
        migrator.execute("CREATE SCHEMA reports")
        migrator.execute("GRANT ALL ON SCHEMA reports TO counterfoil_owner")
        migrator.execute("SET ROLE counterfoil_owner")
        migrator.execute("CREATE VIEW reports.costs AS SELECT sum(cost) FROM counterfoil.task")
        with pytest.raises(RebuildStopped, match=r"view reports.costs; drop it"):
            rebuild().run()
        migrator.execute("DROP VIEW reports.costs")
        migrator.execute("GRANT SELECT ON counterfoil.drift TO PUBLIC")
        migrator.execute("GRANT SELECT (cost) ON counterfoil.task TO test_migrator WITH GRANT OPTION")
        rebuild().run()
        row = migrator.execute(
            "SELECT has_table_privilege('public', 'counterfoil.drift', 'SELECT'), "
            "has_column_privilege('test_migrator', 'counterfoil.task', 'cost', 'SELECT WITH GRANT OPTION')"
        ).fetchone()
        assert row == (True, True)


def test_what_this_version_can_t_read_stops_it(
    varied: None, rebuild: Of, digest_now: Callable[[], Digest], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digest_now()

    def refuse(self: Reader, record: Record) -> Row:
        raise BadRecord("no longer")

    monkeypatch.setattr(Reader, "row", refuse)
    for origin in ("log", "store"):
        with pytest.raises(
            RebuildStopped, match=r"offset \d+ of partition \d+ .* can't store it: no longer; nothing was"
        ):
            rebuild(origin).run()
    assert digest_now() == before


def test_one_at_a_time_and_by_who_may(varied: None, rebuild: Of, database: str, admin_dsn: str) -> None:
    with closing(connect(database, "ingester", application="test")) as other, other.transaction():
        other.execute(queries("rebuild")["take_turn"])
        with pytest.raises(RebuildStopped, match="another rebuild of this store is running"):
            rebuild().run()
    with psycopg.connect(admin_dsn, autocommit=True) as admin:
        admin.execute("CREATE ROLE mere_service LOGIN PASSWORD 'only-on-loopback' IN ROLE counterfoil_ingester")
        try:
            with pytest.raises(StoreError, match="may not act as counterfoil_owner"):
                rebuild(dsn=make_conninfo(database, user="mere_service")).run()
        finally:
            admin.execute("DROP ROLE mere_service")


def test_an_upgrade_reads_what_was_kept_unread(
    recorder: Recorder,
    produce: Produce,
    ingest_all: Callable[[], None],
    rebuild: Of,
    database: str,
    operator: Connection,
    digest_now: Callable[[], Digest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a command, once however often it is run, and by a rebuild: both come to the same."""
    with monkeypatch.context() as older:
        older.setattr("counterfoil_consumers.records._known_kinds", dict)
        with recorder.task("refunds", task_ref="R-1") as task:
            task.completion("done", usage={"input_tokens": 7, "output_tokens": 2}, cost="0.5")
            with task.effect("refund", target="pay", args={"number": 1}) as one:
                one.ok({"id": 1})
        judged = event("verdict", VERDICT, effect_id=one.effect_id, task_id=task.task_id)
        stray = event("review", {"by": "x"}, retention_class="legal")
        broken = event("review", None, raw_body=b"\xff", body_schema=fingerprint_of(REVIEW))
        later = event("dreamt", None, raw_body=b"\xff later", body_schema=b"\x07" * 8)
        for made in (judged, stray, broken, later):
            produce(encode(made), key_of(made))
        recorder.close()
        ingest_all()
    kept = digest_now()
    assert fetch_one(operator, "SELECT bool_and(unread) AS all FROM event")["all"]  # type: ignore[arg-type]
    assert (kept.tables["effect"].rows, kept.tables["producer_claim"].rows) == (0, 0)

    done = fold_unread(database, SINGLE_OBJECT)
    total = kept.tables["event"].rows
    assert (done.read, done.unread) == (total - 2, 2)
    folded = digest_now()
    assert folded.tables["event"].rows == total
    task_row = fetch_one(operator, "SELECT * FROM task WHERE task_ref = 'R-1'")  # type: ignore[arg-type]
    assert (task_row["status"], task_row["input_tokens"], str(task_row["cost"])) == ("completed", 7, "0.5")
    effect_row = fetch_one(operator, "SELECT * FROM effect")  # type: ignore[arg-type]
    assert (effect_row["ok"], effect_row["verdict"]) == (1, "not_applied")
    again = fold_unread(database, SINGLE_OBJECT)
    assert (again.read, again.unread) == (0, 2)
    assert digest_now() == folded
    for origin in ("log", "store"):
        compared = rebuild(origin).compare()
        assert compared.live == compared.rebuilt == folded


def drop_old(operator: Connection, database: str) -> int:
    """Retention, half a year later than the brokers say; returns how many events are gone."""
    leaf = sql.Identifier(f"event_standard_{months_ago(8):%Y_%m}")
    with psycopg.connect(database, autocommit=True, options="-c role=counterfoil_owner") as owner:
        owner.execute(sql.SQL("UPDATE counterfoil.{} SET appended_at = %s").format(leaf), [months_ago(8)])
    keep(operator, 6)
    return sum(one.events for one in run_retention(database) if one.outcome == "dropped")


@pytest.mark.parametrize("origin", ["log", "store"])
def test_what_retention_dropped_stays_folded_and_does_not_come_back(
    produce: Produce,
    ingest_all: Callable[[], None],
    rebuild: Of,
    origin: Origin,
    database: str,
    operator: Connection,
    digest_now: Callable[[], Digest],
) -> None:
    """A task of which the older half is gone, one that is gone whole, and one that is not touched."""
    old, young = months_ago(8), months_ago(1)
    half, whole, fresh = (task_id_of("acme", name) for name in ("half", "whole", "fresh"))
    effects = [bytes([number]) * 16 for number in range(3)]
    sent = []
    for task_id, effect_id, (first, second) in zip(
        (half, whole, fresh), effects, ((old, young), (old, old), (young, young)), strict=True
    ):
        sent += [
            event_of(first, kind="task_started", body={"title": "t"}, task_id=task_id),
            event_of(first, kind="tool_intent", body=INTENT, task_id=task_id, effect_id=effect_id, attempt=1),
            event_of(second, kind="verdict", body=VERDICT, task_id=task_id, effect_id=effect_id),
            event_of(second, kind="verdict", body=VERDICT, task_id=task_id),
            event_of(first, kind="completion", body={"text": "x", "input_tokens": 5}, task_id=task_id),
            event_of(first, kind="operation", body=DECISION | {"verdict_event_id": effect_id}, task_id=task_id),
        ]
    for one in sent:
        produce(encode(one), key_of(one))
    ingest_all()
    before = digest_now()
    assert drop_old(operator, database) == 10
    after = digest_now()
    assert after.differing(before) == ["event"]
    done = rebuild(origin).compare()
    assert done.rebuilt == done.live == after
    rebuild(origin).run()
    assert digest_now() == after
    ingest_all()
    rows = operator.execute("SELECT task_id, events, input_tokens::int AS tokens FROM task ORDER BY task_id").fetchall()
    assert {(row["task_id"].bytes, row["events"], row["tokens"]) for row in rows} == {
        (task_id, 6, 5) for task_id in (half, whole, fresh)
    }
    assert fetch_one(operator, "SELECT count(*)::int AS n FROM every_event")["n"] == 8  # type: ignore[arg-type]


def test_a_class_whose_partitions_ingest_has_not_made_yet(
    varied: None, rebuild: Of, operator: Connection, digest_now: Callable[[], Digest], ingest_all: Callable[[], None]
) -> None:
    """Its events are astray until ingest makes them, in both schemas."""
    keep(operator, None, "legal")
    before, made = digest_now(), catalogue(operator)
    rebuild().run()
    assert (digest_now(), catalogue(operator)) == (before, made)
    ingest_all()
    assert operator.execute("SELECT FROM event_leaves() WHERE retention_class = 'legal'").rowcount > 0


def test_what_begins_a_partition_of_the_log_meanwhile_is_read_from_there(
    produce: Produce,
    ingest_all: Callable[[], None],
    rebuild: Of,
    digest_now: Callable[[], Digest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rebuilt from the store: of a partition that had no event then, all comes from the log, which has it."""
    produce(encode(one := event_of(months_ago(0))), key_of(one))
    ingest_all()
    analyze = Shadow.analyze

    def ingest_first(self: Shadow) -> None:
        for _ in range(50):
            other = event_of(months_ago(0), task_id=new_id())
            produce(encode(other), key_of(other))
        ingest_all()
        analyze(self)

    monkeypatch.setattr(Shadow, "analyze", ingest_first)
    done = rebuild("store").run()
    assert (done.from_store, done.from_log) == (1, 50)
    assert digest_now().tables["event"].rows == 51


def test_partitions_dropped_meanwhile_are_not_swapped_in(
    produce: Produce,
    ingest_all: Callable[[], None],
    rebuild: Of,
    database: str,
    operator: Connection,
    digest_now: Callable[[], Digest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for one in (event_of(months_ago(8)), event_of(months_ago(1))):
        produce(encode(one), key_of(one))
    ingest_all()
    analyze = Shadow.analyze

    def drop_first(self: Shadow) -> None:
        assert drop_old(operator, database) == 1
        analyze(self)

    monkeypatch.setattr(Shadow, "analyze", drop_first)
    with pytest.raises(RebuildStopped, match="retention dropped partitions meanwhile; run it again: it begins anew"):
        rebuild().run()
    monkeypatch.setattr(Shadow, "analyze", analyze)
    after = digest_now()
    assert after.tables["event"].rows == 1
    rebuild().run()
    assert digest_now() == after
