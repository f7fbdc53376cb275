"""Who signs as a tenant is believed as it, and nobody else: by the brokers' time, whoever reads it and whenever."""

import datetime as dt
import threading
from collections.abc import Callable
from contextlib import closing

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from counterfoil import Recorder, RecorderSettings
from counterfoil.codec import encode
from counterfoil.ids import OPERATORS, new_id, task_id_of
from counterfoil.signing import SigningKey
from counterfoil_consumers.errors import BadRecord
from counterfoil_consumers.ingest import Ingest
from counterfoil_consumers.records import Record
from counterfoil_consumers.signatures import Signatures, TenantKeys
from counterfoil_consumers.store import Connection, connect, fetch_one, queries
from tests.consumers.made import event, key_of, put_key, signature
from tests.fix_log import Produce, RecordsOf

OLD = SigningKey("acme", "old1", b"o" * 32)
NEW = SigningKey("acme", "new1", b"n" * 32)
DESK = SigningKey(OPERATORS, "desk1", b"d" * 32)
NOW = 1_750_000_000_000
MINUTE = 60_000


def row(key: SigningKey, valid_from: int = 0, retired_at: int | None = None) -> dict[str, object]:
    """As `find_tenant_keys` gives it."""
    known = {"tenant": key.tenant, "key_id": key.key_id, "key": key.secret}
    return {**known, "valid_from": valid_from, "retired_at": retired_at}


class Store:
    """Keys as they are read, and how often they were."""

    def __init__(self, *rows: dict[str, object]) -> None:
        self.rows = list(rows)
        self.read_at = NOW
        self.readings = 0

    def read(self) -> TenantKeys:
        self.readings += 1
        none: dict[str, object] = {"tenant": None, "key_id": None, "key": None, "valid_from": None, "retired_at": None}
        return TenantKeys.of_rows([{**one, "read_at": self.read_at} for one in self.rows or [none]])


def a_record(key: SigningKey | None, appended_at: int = NOW, tenant: str = "acme") -> Record:
    one = event(tenant=tenant, task_id=task_id_of(tenant, "T"))
    value = encode(one)
    headers = () if key is None else (("counterfoil-kind", b"review"), signature(key, value))
    return Record("counterfoil.events", 0, 0, appended_at, key_of(one), value, headers)


def verdict(store: Store, record: Record, signatures: Signatures | None = None) -> str:
    """`good`, or what is said against it."""
    try:
        (signatures or Signatures(store.read)).check(record)
    except BadRecord as error:
        is_whole = (error.letter_class, error.tenant) == ("foreign", None)
        return str(error).partition("is foreign: ")[2] if is_whole else f"not foreign: {error}"
    return "good"


def test_a_tenant_without_keys_signs_nothing() -> None:
    assert verdict(Store(), a_record(None)) == "good"
    assert verdict(Store(row(DESK)), a_record(None)) == "good"
    assert verdict(Store(row(OLD)), a_record(None, tenant="globex")) == "good"
    assert verdict(Store(), a_record(NEW)) == "good"  # nobody can say anything about it


def test_it_is_required_from_the_first_key_s_moment_on_exactly() -> None:
    store = Store(row(NEW, valid_from=NOW + 5), row(OLD, valid_from=NOW))
    assert verdict(store, a_record(None, NOW - 1)) == "good"
    assert verdict(store, a_record(None, NOW)).startswith("it is not signed, and its tenant's are from 2025-06-15")
    assert verdict(store, a_record(DESK, NOW - 1)) == "good"  # as if the key were not read yet
    assert verdict(store, a_record(OLD, NOW)) == verdict(store, a_record(NEW, NOW)) == "good"


def test_an_old_key_is_taken_until_its_retirement_exactly() -> None:
    store = Store(row(OLD, retired_at=NOW), row(NEW, valid_from=NOW - MINUTE))
    assert verdict(store, a_record(OLD, NOW - 1)) == "good"
    assert verdict(store, a_record(OLD, NOW)) == "its signature's key 'old1' was retired at 2025-06-15 15:06:40.000"
    assert verdict(store, a_record(NEW, NOW - 2 * MINUTE)) == "good"  # nobody had it before it was made


def test_the_operators_sign_for_everyone_and_nobody_signs_for_them() -> None:
    store = Store(row(DESK), row(OLD))
    assert verdict(store, a_record(DESK)) == "good"
    assert verdict(store, a_record(DESK, tenant=OPERATORS)) == "good"
    assert "none of its tenant's" in verdict(store, a_record(OLD, tenant=OPERATORS))
    assert "it is not signed" in verdict(store, a_record(None, tenant=OPERATORS))


def test_what_a_new_key_signed_is_good_at_once() -> None:
    store = Store(row(OLD))
    signatures = Signatures(store.read)
    signatures.begin_batch()
    store.rows.append(row(NEW))
    assert verdict(store, a_record(NEW), signatures) == "good"
    assert store.readings == 2


def test_a_flood_of_unknown_keys_reads_them_once_a_batch() -> None:
    store = Store(row(OLD))
    signatures = Signatures(store.read)
    for batch in range(1, 4):
        signatures.begin_batch()
        for number in range(100):
            assert "none of its" in verdict(store, a_record(SigningKey("acme", f"k{number}00", bytes(32))), signatures)
        assert verdict(store, a_record(OLD), signatures) == "good"
        assert store.readings == 1 + batch


def test_keys_are_read_again_before_what_was_appended_long_after_the_last_reading() -> None:
    """What the store is told takes effect a minute later, so nobody who has not read it yet judges by it."""
    store = Store()
    signatures = Signatures(store.read)
    signatures.begin_batch()
    store.rows.append(row(OLD, valid_from=NOW + MINUTE))
    assert verdict(store, a_record(None, NOW + MINUTE // 2 - 1), signatures) == "good"
    assert store.readings == 1
    store.read_at = NOW + MINUTE
    assert "it is not signed" in verdict(store, a_record(None, NOW + MINUTE), signatures)
    assert store.readings == 2


def test_a_moment_beyond_the_calendar() -> None:
    assert "it is not signed" in verdict(Store(row(OLD)), a_record(None, 2**60))


# -- on real brokers and a real store


def test_unsigned_after_a_key_is_foreign_and_signed_is_stored(
    produce: Produce, database: str, operator: Connection, ingest_all: Callable[[], None], records_of: RecordsOf
) -> None:
    put_key(database, NEW)
    forged, good = (event(task_id=task_id_of("acme", str(number)), event_id=new_id()) for number in range(2))
    produce(encode(forged), key_of(forged), [("counterfoil-kind", b"review")])
    produce(encode(good), key_of(good), [signature(NEW, encode(good))])
    free = event(tenant="globex", task_id=task_id_of("globex", "1"))
    produce(encode(free), key_of(free))
    ingest_all()
    stored = {row["event_id"].bytes for row in operator.execute("SELECT event_id FROM event")}
    assert stored == {good.event_id, free.event_id}
    [letter] = operator.execute("SELECT * FROM dead_letter").fetchall()
    assert (letter["tenant"], letter["letter_class"], letter["task_id"]) == (None, "foreign", None)
    assert (bytes(letter["value"]), bytes(letter["key"])) == (encode(forged), key_of(forged))
    assert "it is not signed" in letter["reason"]
    assert operator.execute("SELECT FROM task WHERE task_id = %s", [forged.task_id.hex()]).rowcount == 0
    assert len(records_of("events")) == 3


def test_a_tenant_that_is_met_while_it_is_ingested(
    produce: Produce, database: str, operator: Connection, new_ingest: Callable[[], Ingest]
) -> None:
    """It was registered, as one whose records are signed, after this member read tenants and keys."""
    ingest = new_ingest()
    first = event(tenant="globex", task_id=task_id_of("globex", "1"))
    produce(encode(first), key_of(first))
    stopping = threading.Event()
    running = threading.Thread(target=ingest.run, args=[stopping])
    running.start()
    try:
        _until(operator, "SELECT count(*)::int AS n FROM event", 1)
        made = fetch_one(operator, queries("console")["add_signed_tenant"], {"tenant": "acme"})
        key = SigningKey("acme", made["key_id"], bytes(made["key"]))
        forged, good = (event(task_id=task_id_of("acme", str(number)), event_id=new_id()) for number in range(2))
        produce(encode(forged), key_of(forged))
        produce(encode(good), key_of(good), [signature(key, encode(good))])
        _until(operator, "SELECT count(*)::int AS n FROM event", 2)
        _until(operator, "SELECT count(*)::int AS n FROM dead_letter WHERE letter_class = 'foreign'", 1)
    finally:
        stopping.set()
        running.join()
    assert fetch_one(operator, "SELECT value FROM dead_letter")["value"] == encode(forged)  # type: ignore[arg-type]


def _until(store: Connection, query: str, count: int) -> None:
    for _ in range(300):
        if fetch_one(store, query)["n"] >= count:  # type: ignore[arg-type]
            return
        threading.Event().wait(0.1)
    raise AssertionError(f"{query} does not reach {count}")


def test_nothing_is_lost_while_keys_are_rotated(
    recorder_settings: RecorderSettings, database: str, operator: Connection, new_ingest: Callable[[], Ingest]
) -> None:
    """Recorders with the old and the new key work on while ingest runs; each rotation leaves both of them good."""
    keys = [_new_key(operator, "add_signed_tenant")]
    ingest, stopping = new_ingest(), threading.Event()
    running = threading.Thread(target=ingest.run, args=[stopping])
    running.start()
    recorders: list[Recorder] = []
    try:
        for number in range(4):
            settings = recorder_settings.model_copy(update={"signing_keys": None})
            settings = RecorderSettings(**{**settings.model_dump(), "signing_keys": keys[-1].text()})
            recorders.append(Recorder(settings))
            for recorder in recorders:  # the older ones go on with the keys that they have
                with recorder.task("t", task_ref=f"T-{number}") as task:
                    task.completion("done")
                assert recorder.flush() == 0
            keys.append(_new_key(operator, "rotate_tenant_key", grace=dt.timedelta(hours=1)))
        for recorder in recorders:
            recorder.close()
        ends = ingest.end_offsets()
        for _ in range(300):
            if ingest.has_reached(ends):
                break
            threading.Event().wait(0.1)
    finally:
        stopping.set()
        running.join()
    assert operator.execute("SELECT reason FROM dead_letter").fetchall() == []
    assert fetch_one(operator, "SELECT count(*)::int AS n FROM event WHERE kind = 'completion'")["n"] == 10  # type: ignore[arg-type]
    assert fetch_one(operator, "SELECT sum(missing_count)::int AS n FROM completeness")["n"] == 0  # type: ignore[arg-type]
    states = operator.execute("SELECT retired_at IS NULL AS stands FROM tenant_key ORDER BY made_at").fetchall()
    assert [row["stands"] for row in states] == [False] * 4 + [True]


def _new_key(operator: Connection, query: str, **more: object) -> SigningKey:
    made = fetch_one(operator, queries("console")[query], {"tenant": "acme", **more})
    return SigningKey("acme", made["key_id"], bytes(made["key"]))


def test_whoever_reads_it_later_decides_the_same(
    produce: Produce,
    kafka: dict[str, str],
    topic_prefix: str,
    new_database: Callable[[], str],
    records_of: RecordsOf,
) -> None:
    """Retirement between two records: one group reads them before it has come, another one long after."""
    before, after = (event(task_id=task_id_of("acme", "T"), event_id=new_id(), seq=number) for number in range(2))
    produce(encode(before), key_of(before), [signature(OLD, encode(before))])
    threading.Event().wait(0.05)
    produce(encode(after), key_of(after), [signature(OLD, encode(after))])
    first, second = records_of("events")
    assert first.appended_at < second.appended_at
    moment = dt.datetime.fromtimestamp(second.appended_at / 1000, dt.UTC)
    outcomes = []
    for wait_seconds in (0, 1):
        dsn = new_database()
        put_key(dsn, OLD, retired_at=moment)
        threading.Event().wait(wait_seconds)
        ingest = Ingest(kafka=kafka, dsn=dsn, profile="local", topic_prefix=topic_prefix, consumer=f"g{wait_seconds}")
        ingest.run(threading.Event(), until=ingest.end_offsets())
        with closing(connect(dsn, "operator", application="test")) as store:
            stored = [row["event_id"].bytes for row in store.execute("SELECT event_id FROM event")]
            letters = [bytes(row["value"]) for row in store.execute("SELECT value FROM dead_letter")]
        outcomes.append((stored, letters))
    assert outcomes == [([before.event_id], [encode(after)])] * 2


@pytest.mark.parametrize("role", ["operator", "reconciler", "auditor"])
def test_nobody_but_the_ingester_reads_a_key(database: str, role: str) -> None:
    put_key(database, NEW)
    with closing(connect(database, role, application="test")) as connection:
        for statement in (
            "SELECT key FROM tenant_key",
            "SELECT * FROM tenant_key",
            "SELECT counterfoil.put_tenant_key('acme', now())",
            "UPDATE tenant_key SET retired_at = NULL",
            "UPDATE tenant_key SET key_id = 'x' WHERE sha256(key) IS NOT NULL",
            "INSERT INTO tenant_key (tenant, key_id, key) VALUES ('acme', 'x123', sha256('x'))",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
    with closing(connect(database, "ingester", application="test")) as connection:
        assert fetch_one(connection, "SELECT key FROM tenant_key")["key"] == NEW.secret  # type: ignore[arg-type]
        for statement in ("UPDATE tenant_key SET retired_at = now()", "SELECT rotate_tenant_key('acme', '1 hour')"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)


def test_what_was_taken_is_taken_for_a_minute_at_least(operator: Connection, database: str) -> None:
    none = dt.timedelta(0)
    operator.execute("INSERT INTO tenant (tenant) VALUES ('acme')")
    for _ in range(3):
        _new_key(operator, "rotate_tenant_key", grace=none)
    rows = operator.execute(
        "SELECT valid_from - made_at AS lead, retired_at - now() AS left FROM tenant_key ORDER BY made_at"
    ).fetchall()
    minute = dt.timedelta(minutes=1)
    assert minute - dt.timedelta(seconds=1) < rows[0]["lead"] < 2 * minute
    assert [row["lead"] < dt.timedelta(seconds=1) for row in rows[1:]] == [True, True]
    assert rows[2]["left"] is None
    assert all(dt.timedelta(seconds=50) < row["left"] < 2 * minute for row in rows[:2])
    long = dt.timedelta(days=9)
    _new_key(operator, "rotate_tenant_key", grace=long)
    lefts = operator.execute("SELECT retired_at - now() AS left FROM tenant_key ORDER BY made_at").fetchall()
    assert [row["left"] and row["left"] > dt.timedelta(days=8) for row in lefts] == [False, False, True, None]
    assert operator.execute(queries("console")["rotate_tenant_key"], {"tenant": "nobody", "grace": none}).rowcount == 0
    assert operator.execute(queries("console")["add_signed_tenant"], {"tenant": "acme"}).rowcount == 0


def test_a_tenant_s_own_login_sees_no_key(admin_dsn: str, database: str) -> None:
    put_key(database, NEW)
    with psycopg.connect(admin_dsn, autocommit=True) as admin:
        admin.execute("CREATE ROLE key_reader LOGIN PASSWORD 'only-on-loopback' IN ROLE counterfoil_auditor")
    try:
        with psycopg.connect(make_conninfo(database, user="key_reader"), autocommit=True) as connection:
            for statement in ("SELECT key_id FROM counterfoil.tenant_key", "SELECT FROM counterfoil.tenant_key"):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    connection.execute(statement)
    finally:
        with psycopg.connect(admin_dsn, autocommit=True) as admin:
            admin.execute("DROP ROLE key_reader")
