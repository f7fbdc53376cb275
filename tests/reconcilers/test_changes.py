"""Changes that no intent explains: found, said once, and never said of what is merely late."""

import threading
import uuid
from datetime import timedelta
from typing import Any, LiteralString

import pytest

from counterfoil import Recorder
from counterfoil_reconcilers.concluding import Policy
from counterfoil_reconcilers.targets.postgresql import PostgresTarget
from tests.fix_shop import CONTRACTS, OURS, Shop, body
from tests.waiting import wait_until

STRAY: LiteralString = "UPDATE shop.orders SET status = 'stray' WHERE id = 'A-2'"
PAY: LiteralString = "UPDATE shop.orders SET status = 'paid' WHERE id = 'A-1'"


def slow(shop: Shop) -> None:
    """From now on its producer beats once an hour, so that the test says when it is heard."""
    shop.recorder.close()
    shop.recorder = Recorder(shop.recorder.settings.model_copy(update={"beat_interval_seconds": 3600.0}))


def test_a_change_is_said_once_and_another_one_again(shop: Shop) -> None:
    reconciler = shop.reconciler()
    reconciler.once()
    shop.sql(STRAY)
    assert shop.step(reconciler).changes == 0, "one sighting"
    shop.settle(reconciler)
    assert shop.changes() == [('orders["A-2"]', "unattributed")]
    [said] = shop.said()
    assert (said.task_ref, said.effect_id, body(said)["tool"]) == ("target:shop", None, None)
    for _ in range(3):
        shop.step(reconciler)
    assert len(shop.changes()) == 1
    shop.sql("UPDATE shop.orders SET status = 'again' WHERE id = 'A-2'")
    shop.settle(reconciler)
    assert shop.changes() == [('orders["A-2"]', "unattributed")] * 2
    assert shop.drift() == [(None, "unattributed", "nobody said they would")] * 2
    differences: Any = [one["evidence"]["differences"] for one in evidence(shop)]
    assert [(d[0]["expected"], d[0]["observed"]) for d in differences] == [("new", "stray"), ("stray", "again")]


def evidence(shop: Shop) -> list[Any]:
    return shop.operator.execute("SELECT evidence FROM counterfoil.target_change ORDER BY check_seq").fetchall()


@pytest.mark.parametrize(
    ("statement", "row"),
    [
        ("INSERT INTO shop.orders (id) VALUES ('A-4')", 'orders["A-4"]'),
        ("DELETE FROM shop.orders WHERE id = 'A-3'", 'orders["A-3"]'),
        ("INSERT INTO shop.refunds (reference, amount) VALUES ('nobody', 3)", 'refunds["1"]'),
    ],
)
def test_rows_that_come_and_go_are_changes_too(shop: Shop, statement: LiteralString, row: str) -> None:
    reconciler = shop.reconciler()
    reconciler.once()
    shop.sql(statement)
    shop.settle(reconciler)
    shop.step(reconciler)
    assert shop.changes() == [(row, "unattributed")]


def test_a_change_taken_back_before_it_settles_is_never_said(shop: Shop) -> None:
    reconciler = shop.reconciler()
    reconciler.once()
    shop.sql(STRAY)
    assert shop.step(reconciler).open == 1
    shop.sql("UPDATE shop.orders SET status = 'new' WHERE id = 'A-2'")
    shop.settle(reconciler)
    shop.sql(STRAY)
    assert shop.step(reconciler).changes == 0, "its sightings begin anew"
    shop.sql("UPDATE shop.orders SET status = 'new' WHERE id = 'A-2'")
    shop.settle(reconciler)
    assert shop.changes() == []


def test_a_change_on_a_row_that_an_effect_wrote_is_said_beside_its_verdict(shop: Shop) -> None:
    reconciler = shop.reconciler()
    reconciler.once()
    effect = shop.act("set_status", "ok", PAY, order="A-1", status="paid")
    shop.sql("UPDATE shop.orders SET paid = 99 WHERE id = 'A-1'")
    shop.settle(reconciler)
    shop.step(reconciler)
    assert (shop.verdicts(effect), shop.changes()) == (["applied"], [('orders["A-1"]', "unattributed")])


def test_of_shared_rows_only_ours_are_swept(shop: Shop) -> None:
    reconciler = shop.reconciler(shop.contracts(OURS))
    reconciler.once()
    shop.sql(
        "UPDATE shop.orders SET status = 'sorted', by = 'clerk' WHERE id = 'A-1'",
        "INSERT INTO shop.orders (id, by) VALUES ('A-9', 'clerk')",
        "UPDATE shop.orders SET status = 'stray' WHERE id = 'A-2'",
    )
    shop.settle(reconciler)
    shop.step(reconciler)
    assert shop.changes() == [('orders["A-2"]', "unattributed")]
    effect = shop.act(
        "deposit", "ok", "UPDATE shop.orders SET paid = 5, by = 'agent' WHERE id = 'A-1'", order="A-1", amount="5"
    )
    shop.settle(reconciler)
    assert shop.verdicts(effect) == ["applied"], "what the clerk did is what our write started from"
    assert len(shop.changes()) == 1


def test_a_write_whose_intent_waits_to_be_ingested_is_never_unattributed(shop: Shop) -> None:
    reconciler = shop.reconciler()
    reconciler.once()
    shop.ingest()
    effect = shop.act("set_status", "ok", PAY, order="A-1", status="paid")
    shop.recorder.close()
    for _ in range(4):
        assert reconciler.once().open == 1, "the sweep saw it, ingest did not"
    shop.settle(reconciler)
    assert (shop.verdicts(effect), shop.changes()) == (["applied"], [])


def test_an_intent_ingested_in_the_midst_of_a_pass_is_never_missed(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ingest overtakes the pass after it read the effects: what it then knows of the log, it must not take for old."""
    reconciler = shop.reconciler()
    reconciler.once()
    shop.ingest()
    effect = shop.act("set_status", "ok", PAY, order="A-1", status="paid")
    shop.recorder.close()
    assert reconciler.once().open == 1
    scan = PostgresTarget.scan

    def scan_late(*arguments: Any) -> Any:
        shop.ingest()
        return scan(*arguments)

    monkeypatch.setattr(PostgresTarget, "scan", scan_late)
    reconciler.once()
    monkeypatch.undo()
    shop.settle(reconciler)
    assert (shop.verdicts(effect), shop.changes()) == (["applied"], [])


def test_the_log_is_read_after_the_target(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process yet unheard of declares and does in the midst of a look is not held to be unexplained."""
    reconciler = shop.reconciler()
    reconciler.once()
    settings = shop.recorder.settings
    shop.recorder.close()
    shop.ingest()
    scan = PostgresTarget.scan
    acted: list[uuid.UUID] = []

    def scan_after_a_write(*arguments: Any) -> Any:
        if not acted:
            shop.recorder = Recorder(settings)
            acted.append(shop.act("set_status", "ok", PAY, order="A-1", status="paid"))
            shop.recorder.close()
        return scan(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(PostgresTarget, "scan", scan_after_a_write)
        reconciler.once()
    for _ in range(3):
        assert reconciler.once().open == 1
    shop.settle(reconciler)
    assert (shop.verdicts(acted[0]), shop.changes()) == (["applied"], [])


def test_a_silent_producer_keeps_changes_back_until_it_closes(shop: Shop) -> None:
    slow(shop)
    reconciler = shop.reconciler()
    reconciler.once()
    shop.act("set_status", "ok", PAY, order="A-1", status="paid")
    shop.sql(STRAY)
    for _ in range(4):
        shop.step(reconciler)
    assert shop.changes() == []
    shop.recorder.close()
    shop.settle(reconciler)
    assert shop.changes() == [('orders["A-2"]', "unattributed")]


def test_a_lost_producer_keeps_nothing_back(shop: Shop) -> None:
    slow(shop)
    reconciler = shop.reconciler()
    reconciler.once()
    effect = shop.act("set_status", "ok", order="A-1", status="paid")
    shop.sql(STRAY)
    for _ in range(3):
        shop.step(reconciler)
    assert (shop.verdicts(effect), shop.changes()) == ([], [])
    # As if it had been silent for twenty minutes: the store's owner moves what it heard last.
    shop.target.execute("SET ROLE counterfoil_ingester")
    shop.target.execute(
        "UPDATE counterfoil.producer SET last_at = last_at - interval '20 minutes', beat_interval = 200000"
    )
    shop.target.execute("RESET ROLE")
    shop.settle(reconciler)
    assert (shop.verdicts(effect), shop.changes()) == (["not_applied"], [('orders["A-2"]', "unattributed")])


def test_between_sweeps_only_the_rows_of_effects_are_read(shop: Shop) -> None:
    policy = Policy(sweep_every=timedelta(hours=1), give_up_after=timedelta(0))
    reconciler = shop.reconciler(policy=policy)
    reconciler.once()
    effect = shop.act("set_status", "ok", PAY, order="A-1", status="paid")
    shop.sql(STRAY)
    shop.settle(reconciler)
    assert (shop.verdicts(effect), shop.changes()) == (["applied"], [])
    assert shop.step(reconciler).effects == 0


@pytest.mark.parametrize("column", ["jsonb", "text"])
def test_documents_that_are_null_or_unreadable_are_no_change(shop: Shop, column: LiteralString) -> None:
    shop.target.execute("DROP TABLE shop.orders")
    shop.target.execute(
        "CREATE TABLE shop.orders (id text PRIMARY KEY, merchant text DEFAULT 'acme', doc " + column + ")"
    )
    shop.sql("INSERT INTO shop.orders (id, doc) VALUES ('A-1', NULL), ('A-2', '{\"status\": 1e999}'), ('A-3', '{}')")
    with_doc = CONTRACTS.replace('table = "shop.orders"', 'table = "shop.orders"\ndoc = "doc"')
    reconciler = shop.reconciler(shop.contracts(text=with_doc))
    for _ in range(4):
        shop.step(reconciler)
    assert shop.changes() == []
    shop.sql("UPDATE shop.orders SET doc = '{\"status\": 1}' WHERE id = 'A-2'")
    for _ in range(4):
        shop.step(reconciler)
    assert shop.changes() == [], "what it was before is not known"
    shop.sql("UPDATE shop.orders SET doc = '{}' WHERE id = 'A-1'")
    shop.settle(reconciler)
    shop.step(reconciler)
    assert shop.changes() == [('orders["A-1"]', "unattributed")]


def test_two_tenants_of_one_table_are_swept_apart(shop: Shop) -> None:
    shop.operator.execute("INSERT INTO counterfoil.tenant VALUES ('globex')")
    shop.sql("INSERT INTO shop.orders (id, merchant) VALUES ('G-1', 'globex')")
    reconciler = shop.reconciler()
    reconciler.once()
    shop.sql("UPDATE shop.orders SET status = 'stray' WHERE id = 'G-1'")
    shop.settle(reconciler)
    shop.step(reconciler)
    assert [(event.tenant, body(event)["verdict"]) for event in shop.said()] == [("globex", "unattributed")]


def test_the_service_passes_until_it_is_stopped(shop: Shop) -> None:
    reconciler = shop.reconciler(interval=timedelta(milliseconds=50))
    stopping, beats = threading.Event(), threading.Semaphore(0)
    service = threading.Thread(target=reconciler.run, args=(stopping, beats.release))
    service.start()
    try:
        for _ in range(3):
            assert beats.acquire(timeout=20)
        shop.sql(STRAY)
        wait_until(lambda: shop.changes() == [('orders["A-2"]', "unattributed")], seconds=30)
        assert beats.acquire(timeout=20)
    finally:
        stopping.set()
        service.join(20)
    assert not service.is_alive()
