"""What the views and named queries of forensics say of events that went the whole way, to operators and to tenants."""

import datetime as dt
import hashlib
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from counterfoil import Event, Recorder
from counterfoil.codec import encode
from counterfoil.ids import new_id, task_id_of
from counterfoil_consumers.projection import write_batch
from counterfoil_consumers.store import Connection, connect, fetch_one, queries
from counterfoil_consumers.texts import index_batch, index_texts_now
from tests.consumers.made import event, intent, key_of, reader, record, result, source_of
from tests.fix_log import Produce

LONG_AGO = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
TENANTS = ("acme", "globex")
Ask = Callable[..., list[dict[str, Any]]]
Store = Callable[..., None]


@pytest.fixture
def tenants_login(admin_dsn: str, database: str, operator: Connection) -> Iterator[Callable[[str], Connection]]:
    """Logs in as a tenant's own role, made for the test."""
    with psycopg.connect(admin_dsn, autocommit=True) as admin, ExitStack() as stack:

        def log_in(tenant: str) -> Connection:
            role = f"views_{tenant}_{uuid.uuid4().hex[:8]}"
            name = sql.Identifier(role)
            made = sql.SQL("CREATE ROLE {} LOGIN PASSWORD 'only-on-loopback' IN ROLE counterfoil_auditor").format(name)
            admin.execute(made)
            stack.callback(admin.execute, sql.SQL("DROP ROLE {}").format(name))
            operator.execute(
                "INSERT INTO tenant (tenant, login_role) VALUES (%s, %s) "
                "ON CONFLICT (tenant) DO UPDATE SET login_role = excluded.login_role",
                [tenant, role],
            )
            own = make_conninfo(database, user=role)
            return stack.enter_context(psycopg.connect(own, autocommit=True, row_factory=dict_row))

        yield log_in


@pytest.fixture
def store(database: str) -> Iterator[Store]:
    """Stores events made by hand, and puts down their words."""
    with closing(connect(database, "ingester", application="test")) as ingester:
        source = source_of(ingester)
        read = reader(ingester, source)
        offsets = iter(range(10_000))

        def write(*events: Event) -> None:
            rows = [read.row(record(one, 0, next(offsets), time.time_ns() // 1_000_000)) for one in events]
            assert write_batch(ingester, source, rows, (), {}).stored == len(rows)
            index_texts_now(database)

        yield write


def asked(connection: Connection, name: str, **params: Any) -> list[dict[str, Any]]:
    """The rows of a named query of forensics."""
    given = {"tenant": None, "target": None, "tool": None, "outcome": None, "version": None, "since": LONG_AGO} | params
    return connection.execute(queries("forensic")[name], {"limit": 100, **given}).fetchall()


VERDICT = {
    "target": "payments", "verdict": "applied", "check_seq": 1, "contract_version": "1", "contract_digest": b"\x01",
    "evidence": "{}", "resources": [{"resource": "refunds", "key": '"A-17"'}],
}  # fmt: skip


@pytest.fixture
def lived(
    recorder: Recorder, produce: Produce, ingest_all: Callable[[], None], database: str, operator: Connection
) -> Connection:
    """Both tenants have a task that read, wrote, was refused and paid; a write of its child has not landed."""
    for tenant in TENANTS:
        with recorder.task("a refund", task_ref="T-9", tenant=tenant, agent="support-7", workflow="support") as task:
            task.prompt([{"role": "user", "content": f"Where is the parcel of {tenant}?"}], model="m")
            task.retrieval("refund policy", [{"id": "kb/7", "version": "3", "digest": b"\xab"}, {"id": "kb/8"}])
            task.completion("I will refund it.", model="m", usage={"input_tokens": 7, "output_tokens": 5}, cost="0.25")
            task.completion("Done.", model="m", usage={"cached_tokens": 2}, cost="much", currency="USD")
            with task.tool("lookup", {"order": "A-17"}, call_id="call_1") as call:
                call.ok({"status": "paid"})
            with task.effect("refund", target="payments", args={"of": tenant}) as landed:
                landed.ok({"id": 1})
            with task.effect("ship", target="post", args={"of": tenant}) as refused:
                refused.denied("not allowed to ship")
            task.denial(by="policy:limits", about="ship", reason="above the limit", details={"limit": 5})
            with task.child("ask the post", agent="post-1", task_ref="T-9/post") as child:
                child.begin_effect("label", target="post", args={"of": tenant})
        judged = event("verdict", VERDICT, tenant=tenant, task_id=task.task_id, effect_id=landed.effect_id)
        produce(encode(judged), key_of(judged))
    recorder.close()
    ingest_all()
    index_texts_now(database)
    return operator


@pytest.fixture(params=["operator", "tenant"])
def ask(
    request: pytest.FixtureRequest, lived: Connection, tenants_login: Callable[[str], Connection]
) -> Callable[..., list[dict[str, Any]]]:
    """Asks for the rows of acme: as an operator that says so, and as the tenant's login that need not."""
    if request.param == "operator":
        return lambda name, **params: asked(lived, name, **({"tenant": "acme"} | params))
    own = tenants_login("acme")
    return lambda name, **params: asked(own, name, **params)


TASK_ID = uuid.UUID(bytes=task_id_of("acme", "T-9"))
CHILD_ID = uuid.UUID(bytes=task_id_of("acme", "T-9/post"))


def test_a_timeline_has_every_event_of_the_task_in_order(ask: Ask) -> None:
    rows = ask("timeline", tenant="acme", task_id=TASK_ID)
    assert [row["place"] for row in rows] == list(range(1, len(rows) + 1))
    assert [row["kind"] for row in rows if row["kind"] != "verdict"] == [
        "task_started", "message", "prompt", "retrieval", "completion", "completion", "tool_intent", "tool_result",
        "tool_intent", "tool_result", "tool_intent", "tool_result", "denial", "task_ended",
    ]  # fmt: skip
    assert {(row["tenant"], row["task_id"], row["unread"], row["is_astray"]) for row in rows} == {
        ("acme", TASK_ID, False, False)
    }
    assert rows[0]["body"]["title"] == "a refund"
    assert [row["seq"] for row in rows if row["kind"] != "verdict"] == list(range(14))


def test_open_effects_say_why_they_are_open(ask: Ask) -> None:
    rows = {row["tool"]: row for row in ask("effects_open")}
    assert {(tool, row["open_because"], row["outcome"], row["task_ref"]) for tool, row in rows.items()} == {
        ("label", "no result yet", "unknown", "T-9/post"),
        ("ship", "settling", "denied", "T-9"),
    }
    label = rows["label"]
    assert (label["tenant"], label["target"], label["args"]) == ("acme", "post", {"of": "acme"})
    assert (label["attempts"], label["attempts_without_result"], label["verdict"]) == (1, 1, None)
    assert 0 < label["silent_seconds"] < 600
    assert [row["tool"] for row in ask("effects_open", target="payments")] == []


def test_a_call_stands_beside_its_result(ask: Ask) -> None:
    calls = ask("task_tool_calls", tenant="acme", task_id=TASK_ID)
    assert [(row["tool"], row["is_write"], row["outcome"], row["result"]) for row in calls] == [
        ("lookup", False, "ok", {"status": "paid"}),
        ("refund", True, "ok", {"id": 1}),
        ("ship", True, "denied", None),
    ]
    assert (calls[0]["call_id"], calls[0]["effect_id"], calls[0]["attempt"]) == ("call_1", None, None)
    assert calls[0]["duration_micros"] >= 0
    assert calls[0]["begun_at"] <= calls[0]["ended_at"]
    [waiting] = ask("tool_calls", tool="label")
    assert (waiting["task_id"], waiting["outcome"], waiting["result_event_id"]) == (CHILD_ID, None, None)
    assert [row["tool"] for row in ask("tool_calls", outcome="denied")] == ["ship"]
    assert ask("tool_calls", since=dt.datetime.now(dt.UTC) + dt.timedelta(days=1)) == []


def test_a_document_leads_to_the_tasks_and_writes_that_it_reached(ask: Ask) -> None:
    [row] = ask("retrievals_by_source", source="kb/7")
    assert (row["tenant"], row["task_ref"], row["version"], row["digest"]) == ("acme", "T-9", "3", "ab")
    assert (row["retrievals"], row["best_place"], row["oldest_as_of"]) == (1, 1, None)
    assert (row["writes"], row["landed"], row["not_landed"], row["not_known"], row["drift"]) == (2, 1, 0, 1, 0)
    assert ask("retrievals_by_source", source="kb/8")[0]["best_place"] == 2
    assert ask("retrievals_by_source", source="kb/9") == []
    reached = ask("source_reach", tenant="acme", source="kb/7")
    assert [(row["task_ref"], row["hops"], row["tool"], row["outcome"], row["landed"]) for row in reached] == [
        ("T-9", 0, "refund", "ok", True),
        ("T-9", 0, "ship", "denied", None),
        ("T-9/post", 1, "label", "unknown", None),
    ]
    assert ask("source_reach", tenant="acme", source="kb/7", version="4") == []


def test_denials_are_those_of_persons_and_those_that_results_tell_of(ask: Ask) -> None:
    said, told = ask("denials")
    assert (said["kind"], said["denied_by"], said["about"], said["reason"], said["details"]) == (
        "denial", "policy:limits", "ship", "above the limit", {"limit": 5},
    )  # fmt: skip
    assert (told["kind"], told["tool"], told["target"], told["reason"]) == (
        "tool_result", "ship", "post", "not allowed to ship",
    )  # fmt: skip
    assert ask("denials", since=dt.datetime.now(dt.UTC) + dt.timedelta(days=1)) == []


def test_costs_are_apart_by_model_and_currency(ask: Ask) -> None:
    rows = {row["currency"]: row for row in ask("cost_by_task")}
    assert rows.keys() == {None, "USD"}
    plain, dollars = rows[None], rows["USD"]
    assert (plain["tenant"], plain["task_ref"], plain["model"], plain["status"]) == ("acme", "T-9", "m", "completed")
    assert (float(plain["cost"]), plain["completions"], plain["unpriced"]) == (0.25, 1, 0)
    assert (plain["input_tokens"], plain["output_tokens"], plain["cached_tokens"]) == (7, 5, 0)
    assert (float(dollars["cost"]), dollars["completions"], dollars["unpriced"]) == (0, 1, 1)
    assert dollars["cached_tokens"] == 2


def test_texts_are_found_by_their_words(ask: Ask) -> None:
    [found] = ask("search_texts", words='"the parcel"')
    assert (found["tenant"], found["task_ref"], found["kind"], found["agent"]) == (
        "acme",
        "T-9",
        "message",
        "support-7",
    )
    assert found["excerpt"] == "Where is «the» «parcel» of acme"
    assert [row["kind"] for row in ask("search_texts", words="refund -will")] == ["task_started"]
    assert [row["kind"] for row in ask("search_texts", words="REFUND")] == ["completion", "task_started"]
    assert ask("search_texts", words="globex") == []
    assert ask("search_texts", words="refunds") == []  # as they stand: no stemming


def test_no_words_are_an_error(ask: Ask) -> None:
    for words in ("", "'", '"', "zz & | ! (", "\\", ":*", "<->", "%s", "a" * 5_000, "zz_" * 1_000):
        assert ask("search_texts", words=words) == [], words


VIEWS = (
    *("every_event", "timeline", "effects_open", "tool_calls", "retrievals_by_source", "denials", "cost_by_task"),
    *("retrieval_source", "task_cost", "event_text"),
)


def test_a_tenant_sees_no_other_s_rows(lived: Connection, tenants_login: Callable[[str], Connection]) -> None:
    own, nobody = tenants_login("acme"), tenants_login("nobody")
    for view in VIEWS:
        query = sql.SQL("SELECT DISTINCT tenant FROM counterfoil.{}").format(sql.Identifier(view))
        assert {row["tenant"] for row in lived.execute(query)} >= set(TENANTS), view
        assert {row["tenant"] for row in own.execute(query)} == {"acme"}, view
        assert list(nobody.execute(query)) == [], view
    assert {row["tenant"] for row in asked(lived, "search_texts", words="refund")} == set(TENANTS)
    assert asked(own, "search_texts", words="refund", tenant="globex") == []
    assert asked(nobody, "search_texts", words="refund") == []
    for statement in ("SELECT counterfoil.index_texts(1)", "SELECT * FROM counterfoil.text_waiting"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            own.execute(statement)


def test_a_login_without_a_tenant_finds_no_texts(lived: Connection, admin_dsn: str, database: str) -> None:
    assert asked(lived, "search_texts", words="refund") != []
    with psycopg.connect(admin_dsn, autocommit=True) as admin:
        admin.execute("CREATE ROLE views_stray LOGIN PASSWORD 'only-on-loopback' IN ROLE counterfoil_auditor")
        try:
            stray = make_conninfo(database, user="views_stray")
            with psycopg.connect(stray, autocommit=True, row_factory=dict_row) as connection:
                assert asked(connection, "search_texts", words="refund") == []
        finally:
            admin.execute("DROP ROLE views_stray")


def test_a_tenant_s_search_uses_the_index_of_words(
    lived: Connection, database: str, tenants_login: Callable[[str], Connection]
) -> None:
    own = tenants_login("acme")
    direct = "EXPLAIN SELECT * FROM counterfoil.event_text WHERE words @@ websearch_to_tsquery('simple', 'refund')"
    with psycopg.connect(database, autocommit=True) as owner:
        owner.execute("SET ROLE counterfoil_owner")
        # 20,000 texts more, so that the planner has reason to look for an index.
        owner.execute(
            "INSERT INTO counterfoil.event_text SELECT 'globex', gen_random_uuid(), gen_random_uuid(), 'message', "
            "now(), to_tsvector('simple', 'word' || n) FROM generate_series(1, 20000) AS n"
        )
        owner.execute("ANALYZE counterfoil.event_text")
        inside = "\n".join(str(row[0]) for row in owner.execute(direct))
    refused = "\n".join(str(row["QUERY PLAN"]) for row in own.execute(direct))
    assert "event_text_words" in inside  # as find_texts does, with the owner's rights
    assert "event_text_words" not in refused  # row-level security would have to look at other tenants' words first
    assert [row["kind"] for row in asked(own, "search_texts", words="refund")] == ["completion", "task_started"]


def test_what_is_astray_or_unread_stands_in_the_timeline(store: Store, operator: Connection) -> None:
    first, second = new_id(), new_id()
    store(
        event("task_started", {"title": "t"}, event_id=first, seq=0, occurred_at=5_000_000),
        event("review", event_id=second, seq=1, retention_class="legal", occurred_at=6_000_000),
        event("from_the_future", None, body_schema=b"\x09" * 8, seq=2, occurred_at=7_000_000, raw_body=b"?"),
    )
    rows = asked(operator, "timeline", tenant="acme", task_id=uuid.UUID(bytes=task_id_of("acme", "T-9")))
    assert [(row["kind"], row["is_astray"], row["unread"], row["body"] is None) for row in rows] == [
        ("task_started", False, False, False),
        ("review", True, False, False),
        ("from_the_future", False, True, True),
    ]


def test_a_cause_comes_first_whatever_the_clocks_say(store: Store, operator: Connection) -> None:
    ids = [new_id() for _ in range(4)]
    producers = [new_id() for _ in range(3)]
    store(
        event(event_id=ids[0], producer_id=producers[0], occurred_at=9_000_000),
        event(event_id=ids[1], producer_id=producers[1], occurred_at=5_000_000, causation_id=ids[0]),
        event(event_id=ids[2], producer_id=producers[2], occurred_at=1_000_000, causation_id=ids[1]),
        event(event_id=ids[3], producer_id=producers[2], occurred_at=2_000_000, seq=1),
    )
    rows = asked(operator, "timeline", tenant="acme", task_id=uuid.UUID(bytes=task_id_of("acme", "T-9")))
    assert [row["event_id"].bytes for row in rows] == ids


def test_a_storm_is_five_retries_in_a_minute(
    store: Store, operator: Connection, tenants_login: Callable[[str], Connection]
) -> None:
    minute = 1_750_000_020_000_000
    calls = [
        one
        for attempt in range(1, 7)
        for one in (
            intent(attempt=attempt, seq=2 * attempt, occurred_at=minute + attempt),
            result("unknown", attempt=attempt, seq=2 * attempt + 1, occurred_at=minute + attempt),
        )
    ]
    calm = [
        intent(effect_id=b"\x02" * 16, attempt=attempt, seq=20 + attempt, occurred_at=minute + attempt * 60_000_000)
        for attempt in range(1, 7)
    ]
    others = [
        intent(tenant="globex", attempt=attempt, seq=attempt, occurred_at=minute + attempt) for attempt in range(1, 6)
    ]
    store(*calls, *calm, *others)
    [storm] = asked(operator, "retry_storms")
    assert (storm["tenant"], storm["tool"], storm["target"], storm["minute"].timestamp()) == (
        "acme", "refund", "payments", minute / 1e6,
    )  # fmt: skip
    assert (storm["retries"], storm["highest_attempt"], storm["effects"], storm["tasks"]) == (5, 6, 1, 1)
    assert (storm["agents"], storm["modes"]) == (["support-7"], ["live"])
    assert (storm["effects_claimed"], storm["effects_duplicated"]) == (0, 0)
    assert len(asked(tenants_login("acme"), "retry_storms")) == 1
    assert asked(tenants_login("globex"), "retry_storms") == []


def crossed(tenant: str) -> list[Event]:
    """What nobody but an intruder, or a mistake, makes stand under two tenants."""
    task = task_id_of(tenant, "T-1")
    verdict = VERDICT | {"resources": [{"resource": "refunds", "key": '"A-17"'}]}
    started = event("task_started", {"title": "t"}, tenant=tenant, task_id=task, trace_id=b"\x07" * 16)
    return [
        started,
        intent(tenant=tenant, task_id=task, seq=1),
        event("verdict", verdict, tenant=tenant, task_id=task, effect_id=b"\x01" * 16, seq=2),
    ]


def test_what_crosses_tenants_is_for_operators_alone(
    store: Store, operator: Connection, tenants_login: Callable[[str], Connection]
) -> None:
    child = event(
        "task_started", {"title": "child"}, tenant="globex", task_id=task_id_of("globex", "T-2"),
        parent_task_id=task_id_of("acme", "T-1"),
    )  # fmt: skip
    at_home = event("task_started", {"title": "c"}, task_id=new_id(), parent_task_id=task_id_of("acme", "T-1"))
    store(*crossed("acme"), *crossed("globex"), child, at_home)
    rows = {row["suspicion"]: row for row in asked(operator, "cross_tenant_suspects")}
    assert {name: (row["shared"], row["tenants"], row["sightings"]) for name, row in rows.items()} == {
        "effect": (str(uuid.UUID(bytes=b"\x01" * 16)), list(TENANTS), 2),
        "trace": (str(uuid.UUID(bytes=b"\x07" * 16)), list(TENANTS), 2),
        "parent": (str(uuid.UUID(bytes=task_id_of("acme", "T-1"))), list(TENANTS), 1),
        "resource": ("payments refunds A-17", list(TENANTS), 2),
    }
    for tenant in TENANTS:
        assert asked(tenants_login(tenant), "cross_tenant_suspects") == []


def test_a_foreign_record_is_a_suspect(
    produce: Produce, ingest_all: Callable[[], None], operator: Connection, tenants_login: Callable[[str], Connection]
) -> None:
    produce(encode(event(tenant="acme")), b"globex/" + event().task_id.hex().encode())
    ingest_all()
    [letter] = asked(operator, "cross_tenant_suspects")
    assert (letter["suspicion"], letter["shared"], letter["tenants"], letter["sightings"]) == (
        "letter", "key and envelope disagree on the tenant or the task", [], 1,
    )  # fmt: skip
    assert asked(tenants_login("acme"), "cross_tenant_suspects") == []


def message(content: str, **changes: Any) -> Event:
    body = {"digest": hashlib.sha256(content.encode()).digest(), "role": "user", "content": content}
    return event("message", body, **({"event_id": new_id()} | changes))


def test_texts_of_every_size_and_shape_are_stored_and_found(store: Store, operator: Connection) -> None:
    words = " ".join(f"w{number}" for number in range(135_000))  # more than a tsvector holds
    store(
        message(f'"needle-1 {words} lost"'),
        message('[{"type": "text", "text": "needle-2 in parts"}, {"type": "image", "data": 1e400}]', seq=1),
        message('"needle-3 \\u0000 \\ud800 <b>bold</b> \\u202e"', seq=2),
        message("needle-4 is no JSON", seq=3),
        message(f'"needle-5 {"x" * 100_000}"', seq=4),
        message("17", seq=5),
        event("completion", {"text": "needle-6", "partial": False}, seq=6),
    )
    for number in range(1, 7):
        assert len(asked(operator, "search_texts", words=f'"needle-{number}"')) == 1, number
    assert asked(operator, "search_texts", words="lost") == []  # behind the first 50,000 characters
    assert asked(operator, "texts_waiting") == [{"texts": 0, "oldest_seconds": 0}]


@pytest.mark.parametrize("pattern", ["a_", "./", "~/", "aae@1", "e@11", "a-", "1.", "<a ", "&#", "漢"])
def test_no_text_keeps_the_others_waiting(store: Store, operator: Connection, pattern: str) -> None:
    started = time.monotonic()
    store(message(f'"{pattern * (50_000 // len(pattern))}"'), message('"needle"', seq=1))
    assert time.monotonic() - started < 15
    assert len(asked(operator, "search_texts", words="needle")) == 1


def test_several_put_down_words_at_once(store: Store, database: str, operator: Connection) -> None:
    with ExitStack() as stack:
        one, other = (stack.enter_context(connect(database, "ingester", application="test")) for _ in range(2))
        with closing(connect(database, "ingester", application="test")) as writer:
            source = source_of(writer)
            read = reader(writer, source)
            rows = [read.row(record(message(f'"needle {n}"', seq=n), 0, n)) for n in range(150)]
            write_batch(writer, source, rows, (), {})
        with one.transaction():
            assert index_batch(one) == 100
            assert index_batch(other) == 50
        assert index_batch(one) == 0
    assert fetch_one(operator, sql.SQL("SELECT count(*) AS texts FROM event_text"))["texts"] == 150


def test_a_long_name_of_a_document_or_model_stops_nothing(store: Store, operator: Connection) -> None:
    name = "😀" * 3_000
    store(
        event("retrieval", {"query": "q", "sources": [{"id": name, "as_of": 2**62}], "omitted": None}),
        event("completion", {"text": "t", "model": name, "currency": name, "cost": "1", "partial": False}, seq=1),
    )
    [row] = asked(operator, "retrievals_by_source", source=name[:500])
    assert row["oldest_as_of"].year == 9987
    [cost] = asked(operator, "cost_by_task")
    assert (cost["model"], cost["currency"], float(cost["cost"])) == (name[:200], name[:200], 1)


ROW = {"target": "payments", "resource": "refunds", "key": '["A-17"]'}


def lived_row(store: Store, tenant: str, effects: int, *, key: str = '["A-17"]') -> None:
    """So many writes to a row, each declared, answered and judged; then a stray change, and what a person did."""
    row = [{"resource": "refunds", "key": key}]
    task = task_id_of(tenant, "T-9")
    own: dict[str, Any] = {"tenant": tenant, "task_id": task, "principal": "svc-1", "on_behalf_of": "ann"}
    ids = [new_id() for _ in range(effects)]
    for number, effect_id in enumerate(ids):
        at = 1_000_000 * (10 * number + 1)
        asked_for = intent(effect_id=effect_id, seq=3 * number, occurred_at=at, **own)
        answer = result(
            "ok", effect_id=effect_id, seq=3 * number + 1, occurred_at=at + 1, causation_id=asked_for.event_id, **own
        )
        verdict = event(
            "verdict", VERDICT | {"resources": row}, effect_id=effect_id, seq=3 * number + 2, occurred_at=at + 2, **own
        )
        store(asked_for, answer, verdict)
    late: dict[str, Any] = {"tenant": tenant, "task_id": task_id_of(tenant, "target:payments"), "producer_id": new_id()}
    change = event(
        "verdict", VERDICT | {"verdict": "unattributed", "check_seq": 7, "resources": row}, seq=0,
        occurred_at=2 * 10**12, **late,
    )  # fmt: skip
    said = {"operation": "resolve", "by": "dana", "reason": "by hand", "verdict_event_id": change.event_id}
    settled = event("operation", said, seq=1, occurred_at=2 * 10**12 + 1, causation_id=change.event_id, **late)
    other = new_id()
    said |= {"verdict_event_id": other, "target": "payments", "resources": row}
    repaired = event("operation", said, seq=2, occurred_at=2 * 10**12 + 2, causation_id=other, **late)
    store(settled, repaired, change)


def test_a_row_s_history_has_all_that_happened_to_it_in_order(
    store: Store, operator: Connection, tenants_login: Callable[[str], Connection]
) -> None:
    for tenant in TENANTS:
        lived_row(store, tenant, 2)
        lived_row(store, tenant, 1, key='["B-1"]')
    for connection in (operator, tenants_login("acme")):
        rows = asked(connection, "history", tenant="acme", before=None, **ROW)
        assert [row["place"] for row in rows] == list(range(9, 0, -1))
        assert [row["kind"] for row in reversed(rows)] == [
            *("tool_intent", "tool_result", "verdict") * 2, "verdict", "operation", "operation",
        ]  # fmt: skip
        assert {row["tenant"] for row in rows} == {"acme"}
        assert (rows[-1]["agent"], rows[-1]["principal"], rows[-1]["on_behalf_of"]) == ("support-7", "svc-1", "ann")
    assert asked(tenants_login("acme"), "history", tenant="globex", before=None, **ROW) == []


def test_pages_of_a_history_fit_together(store: Store, operator: Connection) -> None:
    lived_row(store, "acme", 3)
    whole = [row["event_id"] for row in asked(operator, "history", tenant="acme", before=None, **ROW)]
    pages: list[uuid.UUID] = []
    while page := asked(operator, "history", tenant="acme", before=pages[-1] if pages else None, **ROW | {"limit": 5}):
        pages += [row["event_id"] for row in page]
    assert pages == whole
    assert len(whole) == 12
    assert asked(operator, "history", tenant="acme", before=uuid.UUID(int=7), **ROW) == []


def test_a_history_comes_in_the_order_of_causes_whatever_the_clocks_say(store: Store, operator: Connection) -> None:
    effect_id = new_id()
    asked_for = intent(effect_id=effect_id, occurred_at=9_000_000)
    answer = result(
        "ok", effect_id=effect_id, occurred_at=1_000_000, causation_id=asked_for.event_id, producer_id=new_id()
    )
    store(
        answer, asked_for,
        event("verdict", VERDICT | {"resources": [{"resource": "refunds", "key": '["A-17"]'}]}, effect_id=effect_id,
              occurred_at=2_000_000, seq=1, producer_id=answer.producer_id),
    )  # fmt: skip
    rows = asked(operator, "history", tenant="acme", before=None, **ROW)
    assert [row["kind"] for row in reversed(rows)] == ["tool_intent", "tool_result", "verdict"]


def test_numbers_of_one_producer_count_within_their_task(store: Store, operator: Connection) -> None:
    """The fifth event of a task may come before the first of the producer's next one."""
    producer, row = new_id(), [{"resource": "refunds", "key": '["A-17"]'}]
    for number, seq in ((1, 50), (2, 3)):
        own: dict[str, Any] = {
            "effect_id": new_id(), "task_id": task_id_of("acme", f"T-{number}"), "producer_id": producer,
        }  # fmt: skip
        store(
            intent(seq=seq, occurred_at=number * 1_000_000, **own),
            event("verdict", VERDICT | {"resources": row}, seq=seq + 1, occurred_at=number * 1_000_000 + 1, **own),
        )
    rows = asked(operator, "history", tenant="acme", before=None, **ROW)
    assert [row["seq"] for row in reversed(rows)] == [50, 51, 3, 4]


def test_a_row_with_a_long_life_comes_in_whole_pages(store: Store, operator: Connection) -> None:
    """By more processes, one write each, than are put in order at a time."""
    body = VERDICT | {"resources": [{"resource": "refunds", "key": '["A-17"]'}]}
    ids = [new_id() for _ in range(1_300)]
    store(
        *(
            event(
                "verdict", body, event_id=one, effect_id=new_id(), producer_id=new_id(), occurred_at=(n + 1) * 1_000_000
            )
            for n, one in enumerate(ids)
        )
    )
    seen: list[bytes] = []
    before = None
    while page := asked(operator, "history", tenant="acme", before=before, **ROW | {"limit": 500}):
        seen += [one["event_id"].bytes for one in page]
        before = page[-1]["event_id"]
    assert seen == ids[::-1]
    assert len(asked(operator, "history", tenant="acme", before=None, **ROW | {"limit": 1_001})) == 1_001


@pytest.mark.parametrize("login", ["operator", "tenant"])
def test_a_history_reads_its_own_row_s_events_and_no_others(
    store: Store, operator: Connection, database: str, tenants_login: Callable[[str], Connection], login: str
) -> None:
    lived_row(store, "acme", 3)
    store(*(intent(effect_id=new_id(), seq=100 + n, task_id=task_id_of("acme", f"T-{n % 50}")) for n in range(2_000)))
    fill: tuple[LiteralString, ...] = (
        "INSERT INTO effect_resource SELECT 'acme', 'payments', 'refunds', '[' || n || ']', gen_random_uuid() ",
        "INSERT INTO target_change SELECT 'acme', gen_random_uuid(), 'payments', 'refunds', '[' || n || ']', 1, "
        "'unattributed', NULL, now(), '1', '{}' ",
        "INSERT INTO repair SELECT 'acme', 'payments', 'refunds', '[' || n || ']', gen_random_uuid(), "
        "gen_random_uuid(), gen_random_uuid(), 1, 'ann', NULL, 0, n, now() ",
    )
    with closing(connect(database, "ingester", application="test")) as ingester:
        for statement in fill:  # so many other rows that to read one of these tables whole would show
            ingester.execute(statement + "FROM generate_series(1, 20000) AS n")
    with closing(connect(database, "owner", application="test")) as owner:
        owner.execute("ANALYZE event, effect_resource, target_change, repair")
    connection = operator if login == "operator" else tenants_login("acme")
    params = {"tenant": "acme", "before": None, "limit": 100, **ROW}
    explained = sql.SQL("EXPLAIN (ANALYZE, FORMAT JSON) {}").format(queries("forensic")["history"])
    [[plan]] = [list(row.values()) for row in connection.execute(explained, params)]
    assert sum(rows_read(plan[0]["Plan"])) < 200, plan


def rows_read(node: dict[str, Any]) -> Iterator[float]:
    """How many rows each scan of a table or an index gave out or threw away, over all of its loops."""
    if "Scan" in node["Node Type"] and "Relation Name" in node:
        thrown_away = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
        yield (node["Actual Rows"] + thrown_away) * node["Actual Loops"]
    for inner in node.get("Plans", ()):
        yield from rows_read(inner)
