"""Whose turn it is and what is due: shared by any number of reconcilers, some effects at a time, flat as it grows."""

import datetime as dt
import hashlib
import itertools
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from datetime import timedelta
from typing import Any, LiteralString

import pytest

from counterfoil import Recorder
from counterfoil_consumers.store import Connection, connect, queries
from counterfoil_reconcilers import observing
from counterfoil_reconcilers.concluding import Policy
from counterfoil_reconcilers.judge import judge
from counterfoil_reconcilers.reconciler import Reconciler
from counterfoil_reconcilers.settling import Pace, pause_after
from counterfoil_reconcilers.targets.port import Address, TargetRow, TargetUnavailable
from counterfoil_reconcilers.targets.postgresql import PostgresTarget
from counterfoil_reconcilers.worklist import Pair, Selection, add_leases, release, take_lease, take_looks
from tests.fix_shop import CONTRACTS, NOBODY, Shop, body

PAY: LiteralString = "UPDATE shop.orders SET status = 'paid' WHERE id = 'A-1'"
PAY_2: LiteralString = "UPDATE shop.orders SET status = 'paid' WHERE id = 'A-2'"
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def policy(**changed: Any) -> Policy:
    return Policy(**{"sweep_every": timedelta(0), "give_up_after": timedelta(0)} | changed)


@pytest.fixture
def reconciler_store(database: str) -> Iterator[Connection]:
    """A connection as the reconciler has it."""
    with closing(connect(database, "reconciler", application="test")) as connection:
        yield connection


@contextmanager
def away(monkeypatch: pytest.MonkeyPatch, **how: Any) -> Iterator[list[str]]:
    """The target gives no answer for the length of a block; yields what was asked."""
    asked: list[str] = []

    def no_answer(name: str) -> Any:
        def ask(*_arguments: Any) -> Sequence[TargetRow]:
            asked.append(name)
            raise TargetUnavailable("shop", "it hangs", **how)

        return ask

    with monkeypatch.context() as patched:
        for name in ("read", "find", "scan"):
            patched.setattr(PostgresTarget, name, no_answer(name))
        yield asked


# -- some at a time ----------------------------------------------------------------------------------------------


def test_what_shares_a_row_is_judged_together_however_few_are_taken_at_a_time(shop: Shop) -> None:
    """The last of five deposits did not land: only all of them together show which."""
    reconciler = shop.reconciler(policy=policy(effects_at_a_time=1))
    reconciler.once()
    deposit = "UPDATE shop.orders SET paid = paid + 5 WHERE id = 'A-1'"
    landed = [shop.act("deposit", "ok", deposit, order="A-1", amount="5", step=f"s{n}") for n in range(4)]
    lost = shop.act("deposit", "unknown", order="A-1", amount="7", step="last")
    elsewhere = shop.act("set_status", "ok", order="A-2", status="paid")
    shop.recorder.close()
    shop.settle(reconciler)
    assert [shop.verdicts(one) for one in landed] == [["applied"]] * 4
    assert (shop.verdicts(lost), shop.verdicts(elsewhere)) == (["not_applied"], ["not_applied"])


def test_a_created_row_and_a_later_write_to_it_are_judged_together(shop: Shop) -> None:
    text = CONTRACTS + (
        '[tools.settle_refund]\ntarget = "shop"\n[[tools.settle_refund.writes]]\nresource = "refunds"\n'
        'key = { id = "args.refund" }\nset.amount = "before.amount + 1"\n'
    )
    reconciler = shop.reconciler(shop.contracts(text=text), policy=policy(effects_at_a_time=1))
    reconciler.once()
    effect = shop.begin("refund", order="A-1", amount="9")
    shop.target.execute("INSERT INTO shop.refunds (reference, amount) VALUES (%s, 9)", (effect.key,))
    shop.sql("UPDATE shop.orders SET status = 'refunded' WHERE id = 'A-1'")
    effect.ok()
    later = shop.act("settle_refund", "ok", "UPDATE shop.refunds SET amount = amount + 1", refund=1)
    shop.recorder.close()
    shop.settle(reconciler)
    assert shop.verdicts(uuid.UUID(bytes=effect.effect_id)) == ["applied"]
    assert (shop.verdicts(later), shop.changes()) == (["applied"], [])


def test_an_effect_is_marked_without_a_look_at_its_row(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it touches stands in its arguments, so its row is read once: when it is looked at itself."""
    reconciler = shop.reconciler(shop.contracts(NOBODY), policy=policy(effects_at_a_time=1))
    for order in ("A-1", "A-2"):
        shop.act("set_status", "ok", order=order, status="paid")
    shop.recorder.close()
    shop.ingest()
    keys: list[tuple[str, ...]] = []
    read = PostgresTarget.read

    def noted(target: PostgresTarget, addresses: Iterable[Address]) -> Sequence[TargetRow]:
        wanted = list(addresses)
        keys.extend(address.row.key for address in wanted)
        return read(target, wanted)

    monkeypatch.setattr(PostgresTarget, "read", noted)
    assert reconciler.once().effects == 2
    assert sorted(keys) == [("A-1",), ("A-2",)]


def test_what_is_told_in_the_midst_of_a_judgement_is_judged_anew(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last attempt comes in while the ones before it are judged: they are not closed without it."""
    reconciler = shop.reconciler(shop.contracts(NOBODY))
    effect = shop.act("set_status", "ok", PAY, order="A-1", status="paid")
    shop.recorder.flush()
    shop.ingest()
    asked = itertools.count()

    def judge_while_more_comes(*arguments: Any) -> Any:
        if next(asked) == 1:
            shop.act("set_status", "failed", order="A-1", status="paid")
            shop.recorder.flush()
            shop.ingest()
        return judge(*arguments)

    monkeypatch.setattr(observing, "judge", judge_while_more_comes)
    reconciler.once()
    reconciler.once()
    assert next(asked) == 3, "once, once in vain, and at once again"
    [row] = shop.operator.execute("SELECT told, sightings FROM counterfoil.check_state").fetchall()
    assert (row["told"], row["sightings"]) == (2, 1), "neither the one in vain counts, nor those before the attempt"
    shop.recorder.close()
    shop.settle(reconciler)
    assert shop.verdicts(effect) == ["applied"]


# -- whose turn it is --------------------------------------------------------------------------------------------


def test_a_lease_goes_to_one_and_the_next_one_to_another(reconciler_store: Connection, database: str) -> None:
    pairs = [Pair(tenant, "shop", None) for tenant in ("acme", "bolt", "zeta")]
    add_leases(reconciler_store, pairs)
    with closing(connect(database, "reconciler", application="test")) as other:
        first = take_lease(reconciler_store, "one", pairs, everything=True)
        second = take_lease(other, "two", pairs, everything=True)
        third = take_lease(reconciler_store, "one", pairs, everything=True)
        assert first
        assert second
        assert third
        assert {first.tenant, second.tenant, third.tenant} == {"acme", "bolt", "zeta"}
        assert take_lease(other, "two", pairs, everything=True) is None
        release(reconciler_store, first)
        again = take_lease(other, "two", pairs, everything=True)
        assert again is not None
        assert (again.tenant, again.epoch, again.check_seq) == (first.tenant, 2, 2)


def test_whoever_takes_a_lease_waits_for_nobody_else_who_does(reconciler_store: Connection, database: str) -> None:
    pairs = [Pair(tenant, "shop", None) for tenant in ("acme", "bolt")]
    add_leases(reconciler_store, pairs)
    with closing(connect(database, "reconciler", application="test")) as other, reconciler_store.transaction():
        first = take_lease(reconciler_store, "one", pairs, everything=True)  # and its transaction hangs
        second = take_lease(other, "two", pairs, everything=True)
        assert first
        assert second
        assert {first.tenant, second.tenant} == {"acme", "bolt"}


def test_many_reconcilers_share_the_tenants_and_no_verdict_counts_twice(shop: Shop) -> None:
    reconcilers = [shop.reconciler(shop.contracts(NOBODY), interval=timedelta(milliseconds=20)) for _ in range(3)]
    for number in range(6):
        write_as(shop, f"t{number}", 5)
    shop.recorder.close()
    shop.ingest()
    run_until_closed(shop, reconcilers)
    verdicts = [(event.tenant, event.effect_id, body(event)["verdict"]) for event in shop.said()]
    assert len(verdicts) == len(set(verdicts)) == 30
    assert {verdict for _, _, verdict in verdicts} == {"applied"}


def write_as(shop: Shop, tenant: str, many: int) -> None:
    """So many writes of a new tenant's agent to one order, all of which land."""
    order = f"{tenant}-1"
    shop.operator.execute("INSERT INTO counterfoil.tenant VALUES (%s)", (tenant,))
    shop.target.execute("INSERT INTO shop.orders (id, merchant) VALUES (%s, %s)", (order, tenant))
    settings = shop.recorder.settings.model_copy(update={"tenant": tenant})
    with Recorder(settings) as recorder, recorder.task("t") as task:
        for number in range(many):
            args = {"order": order, "status": f"s{number}"}
            with task.effect("set_status", target="shop", step=str(number), args=args) as effect:
                shop.target.execute("UPDATE shop.orders SET status = %s WHERE id = %s", (args["status"], order))
                effect.ok()


def run_until_closed(shop: Shop, reconcilers: Sequence[Reconciler]) -> None:
    stopping = threading.Event()
    services = [threading.Thread(target=one.run, args=(stopping,)) for one in reconcilers]
    for service in services:
        service.start()
    try:
        deadline = dt.datetime.now(dt.UTC) + timedelta(seconds=60)
        open_ones = "SELECT count(*) AS open FROM counterfoil.check_state WHERE closed_at IS NULL"
        while shop.operator.execute(open_ones).fetchall()[0]["open"]:
            assert dt.datetime.now(dt.UTC) < deadline
            stopping.wait(0.1)
    finally:
        stopping.set()
        for service in services:
            service.join(30)


# -- a target in trouble -----------------------------------------------------------------------------------------


def test_a_target_in_trouble_is_left_alone_for_longer_each_time(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    reconciler = shop.reconciler(shop.contracts(NOBODY))
    effect = shop.act("set_status", "ok", PAY, order="A-1", status="paid")
    shop.recorder.close()
    shop.ingest()
    with away(monkeypatch) as asked:
        reconciler.tick()
        assert len(asked) == 1
        for _ in range(5):
            reconciler.tick()
        assert len(asked) == 1, "it is not asked again so soon"
        pauses = []
        for _ in range(4):
            reconciler.once()  # a person may ask at once
            [lease] = shop.operator.execute(
                "SELECT *, retry_at - now() AS pause FROM counterfoil.check_lease"
            ).fetchall()
            pauses.append(lease["pause"].total_seconds())
        assert (lease["failures"], lease["trouble"]) == (5, "away")
        assert pauses[-1] > 3 * pauses[0]
    assert shop.said() == []
    reconciler.once()
    [lease] = shop.operator.execute("SELECT * FROM counterfoil.check_lease").fetchall()
    assert (lease["failures"], lease["trouble"], lease["troubled_since"]) == (0, None, None)
    assert shop.verdicts(effect) == ["applied"]


def test_who_asks_to_be_left_alone_is(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    reconciler, other = (shop.reconciler(shop.contracts(NOBODY)) for _ in range(2))
    shop.act("set_status", "ok", order="A-1", status="paid")
    shop.recorder.close()
    shop.ingest()
    with away(monkeypatch, trouble="throttled", retry_after=timedelta(hours=1)) as asked:
        reconciler.once()
        for one in (reconciler, other):
            one.once()
            one.tick()
        assert len(asked) == 1
    [lease] = shop.operator.execute("SELECT retry_at - now() AS pause FROM counterfoil.check_lease").fetchall()
    assert timedelta(minutes=59) < lease["pause"] <= timedelta(hours=1)


def test_what_no_answer_came_for_is_unknowable_in_the_end_and_no_drift(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    reconciler = shop.reconciler(policy=policy(unknowable_after=timedelta(0)))
    reconciler.once()
    effect = shop.act("set_status", "ok", order="A-1", status="paid")
    shop.recorder.flush()
    shop.ingest()
    with away(monkeypatch, trouble="refused"):
        for _ in range(3):
            reconciler.once()
    [verdict] = shop.said()
    assert body(verdict)["verdict"] == "unknowable"
    assert "has given no answer since" in body(verdict)["reason"]
    assert "it hangs" in body(verdict)["reason"]
    shop.relay()
    shop.ingest()
    assert (shop.state(effect)["verdict"], shop.drift()) == ("unknowable", [])
    shop.recorder.close()
    shop.settle(reconciler)
    assert shop.verdicts(effect) == ["unknowable", "not_applied"], "it answers again, and the last word counts"
    assert shop.state(effect)["verdict"] == "not_applied"


def test_pauses_grow_and_keep_what_was_asked() -> None:
    pauses = [pause_after(failures, None, 0.5).total_seconds() for failures in range(12)]
    assert pauses[:4] == [1, 2, 4, 8]
    assert pauses == sorted(pauses)
    assert pauses[-1] == 300
    assert pause_after(0, timedelta(hours=2), 0.0) == timedelta(hours=2)
    assert pause_after(1_000_000, None, 1.0) <= timedelta(seconds=375)


def test_the_older_an_effect_the_rarer_it_is_looked_at() -> None:
    pace = Pace(share=0.25, least=timedelta(seconds=1), most=timedelta(seconds=60))
    looks = [pace.next_look(NOW, NOW - timedelta(seconds=age), None, 0.5) - NOW for age in (0, 1, 40, 10_000)]
    assert looks == [timedelta(seconds=one) for one in (1, 1, 10, 60)]
    soon = NOW + timedelta(seconds=5)
    assert pace.next_look(NOW, NOW - timedelta(hours=1), soon, 0.5) == soon, "a deadline is kept"
    assert pace.next_look(NOW, NOW, None, 0.0) < pace.next_look(NOW, NOW, None, 1.0)


# -- budgets -----------------------------------------------------------------------------------------------------


def test_a_budget_is_shared_by_all_who_look(reconciler_store: Connection, database: str) -> None:
    with closing(connect(database, "reconciler", application="test")) as other:
        granted = [take_looks(store, "shop", 1.0, 10) for store in (reconciler_store, other, reconciler_store, other)]
    assert sum(granted) <= 3, "two seconds' worth at most, and what came in meanwhile"
    assert granted[0] >= 1
    assert take_looks(reconciler_store, "another", 1000.0, 10) == 10


def test_no_more_is_looked_at_than_the_contract_allows(shop: Shop) -> None:
    text = CONTRACTS.replace("settle_seconds = %(settle)s", "settle_seconds = %(settle)s\nlooks_per_second = 1")
    reconciler = shop.reconciler(shop.contracts(NOBODY, text=text))
    for number in range(12):
        shop.act("set_status", "ok", order=f"A-{number}", status="paid")
    shop.recorder.close()
    shop.ingest()
    assert 1 <= reconciler.once().effects <= 4


# -- growth ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", [100_000])
def test_what_is_due_is_found_among_any_number_of_closed_ones(
    reconciler_store: Connection, database: str, closed: int
) -> None:
    """The plans of the queries of a turn read the open effects, and no closed one."""
    reconciler_store.execute(
        "INSERT INTO counterfoil.check_state (tenant, effect_id, target, is_urgent, closed_at)"
        " SELECT 't' || n %% 3, gen_random_uuid(), 'shop', n %% 2 = 0, now() FROM generate_series(1, %s) AS n",
        (closed,),
    )
    reconciler_store.execute(
        "INSERT INTO counterfoil.check_state (tenant, effect_id, target, is_urgent, marks)"
        " SELECT 't1', gen_random_uuid(), 'shop', n % 2 = 0, ARRAY[n] FROM generate_series(1, 50) AS n"
    )
    where = {"tenant": "t1", "target": "shop", "until": NOW + timedelta(days=10_000), "check_seq": 9, "most": 100}
    named = queries("reconcile")
    parts = {"columns": named["effect_columns"], "sources": named["effect_sources"]}
    asked: dict[str, dict[str, Any]] = {
        "find_due": where,
        "find_unmarked": where | {"besides": []},
        "find_connected": where | {"besides": [], "marks": [7, 8]},
        "find_pairs": {"targets": ["shop"]},
        "measure_oldest": {},
    }
    for name, params in asked.items():
        query = named[name].format(**parts) if "{columns}" in named[name].as_string() else named[name]
        [plan] = reconciler_store.execute("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + query.as_string(), params)
        root = plan["QUERY PLAN"][0]["Plan"]
        assert root["Shared Hit Blocks"] + root["Shared Read Blocks"] < 400, (name, root)


def test_what_a_part_of_a_turn_reads_goes_by_that_part_alone(reconciler_store: Connection) -> None:
    """No statistics are kept (decision 0019): a plan that reads all that a tenant has looks as cheap as one by key."""
    reconciler_store.execute(
        "INSERT INTO counterfoil.check_state (tenant, effect_id, target, is_urgent, marks, closed_at)"
        " SELECT 't1', md5(n::text)::uuid, 'shop', false, CASE WHEN n % 2 = 0 THEN ARRAY[n] END,"
        " CASE WHEN n % 2 = 1 THEN now() END FROM generate_series(1, 40000) AS n"
    )
    reconciler_store.execute(
        "INSERT INTO counterfoil.target_baseline (tenant, target, resource, key, fence, read_at)"
        " SELECT 't1', 'shop', 'orders', n::text, '{}', now() FROM generate_series(1, 20000) AS n"
    )
    ids = [uuid.UUID(hashlib.md5(str(n).encode(), usedforsecurity=False).hexdigest()) for n in range(2, 202, 2)]
    many, nothing = len(ids), [None] * len(ids)
    where = {"tenant": "t1", "target": "shop", "effect_ids": ids, "check_seq": 9, "due_ats": [NOW] * many}
    asked: dict[str, dict[str, Any]] = {
        "read_baseline": where | {"resources": ["orders"] * many, "keys": list(map(str, range(many)))},
        "find_connected": where | {"besides": ids, "marks": list(range(3 * many)), "most": 100},
        "lock_checks": where,
        "set_marks": where | {"tolds": [1] * many, "marks": ["{1}"] * many},
        "put_off": where | {"emitted": nothing},
        "set_check_states": where
        | dict.fromkeys(("verdicts", "digests", "emitted", "settled_ats", "absent_fences"), nothing)
        | {"sightings": [1] * many, "fences": ["{1}"] * many, "first_sighted_ats": [NOW] * many}
        | {"marks": ["{1}"] * many, "are_closed": [False] * many},
    }
    named = queries("reconcile")
    parts = {"columns": named["effect_columns"], "sources": named["effect_sources"]}
    for name, params in asked.items():
        query = named[name].format(**parts) if "{columns}" in named[name].as_string() else named[name]
        [plan] = reconciler_store.execute("EXPLAIN (ANALYZE, FORMAT JSON) " + query.as_string(), params)
        assert _rows_read(plan["QUERY PLAN"][0]["Plan"]) < 20 * many, (name, plan)


def _rows_read(plan: Mapping[str, Any]) -> float:
    """All rows that the nodes of a plan gave or threw away."""
    kept = plan["Actual Rows"] + sum(number for name, number in plan.items() if name.startswith("Rows Removed"))
    return float(kept * plan["Actual Loops"]) + sum(map(_rows_read, plan.get("Plans", ())))


# -- what is asked for -------------------------------------------------------------------------------------------


def test_judged_anew_by_another_contract_the_last_word_counts_and_nothing_is_lost(shop: Shop) -> None:
    """The first contract forgot a field; the second one knows it, and says that it never came."""
    reconciler = shop.reconciler()
    reconciler.once()
    effect = shop.act("set_status", "ok", PAY, order="A-1", status="paid")
    other = shop.act("set_status", "ok", PAY_2, order="A-2", status="paid")
    shop.recorder.close()
    shop.settle(reconciler)
    assert (shop.verdicts(effect), shop.step(reconciler).effects) == (["applied"], 0)
    stricter = CONTRACTS.replace('set.status = "args.status"', 'set.status = "args.status"\nset.paid = "77"')
    anew = shop.reconciler(shop.contracts(text=stricter), selection=Selection(effect_id=effect))
    assert anew.rejudge() == 1
    shop.settle(anew)
    assert shop.verdicts(effect)[0] == "applied"
    assert shop.verdicts(effect)[-1] in ("partial", "mismatched")
    assert shop.state(effect)["verdict"] == shop.verdicts(effect)[-1]
    assert shop.verdicts(other) == ["applied"]


def test_one_effect_can_be_looked_at_now(shop: Shop) -> None:
    reconciler = shop.reconciler()
    reconciler.once()
    effect = shop.act("set_status", "ok", PAY, order="A-1", status="paid")
    other = shop.act("set_status", "ok", PAY_2, order="A-2", status="paid")
    shop.recorder.flush()
    shop.ingest()
    alone = shop.reconciler(selection=Selection(effect_id=effect)).once()
    assert (alone.effects, alone.said) == (1, 1)
    assert (shop.verdicts(effect), shop.verdicts(other)) == (["applied"], [])
    assert shop.reconciler(selection=Selection(effect_id=uuid.uuid4())).once().effects == 0


def test_only_the_selected_targets_and_tenants_are_looked_at(shop: Shop) -> None:
    write_as(shop, "bolt", 2)
    shop.recorder.close()
    shop.ingest()
    contracts = shop.contracts(NOBODY)
    assert shop.reconciler(contracts, selection=Selection(tenant="acme")).once().effects == 0
    assert shop.reconciler(contracts, selection=Selection(targets=["elsewhere"])).once().effects == 0
    assert shop.reconciler(contracts, selection=Selection(targets=["shop"], tenant="bolt")).once().effects == 2
