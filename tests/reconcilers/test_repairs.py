"""What people repair by hand and say so is no unexplained change, and explains nothing that comes later."""

import dataclasses
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString

import pytest

from counterfoil import Event
from counterfoil_console.operations import Decision, OperationDesk, Repaired, checks_begun, find_drift
from counterfoil_console.rows import key_of
from counterfoil_reconcilers.repairs import NO_REPAIRS, Repair, Repairs
from counterfoil_reconcilers.rows import RowKey
from tests.fix_shop import OURS, TENANT, Shop

MEND: LiteralString = "UPDATE shop.orders SET status = 'mended' WHERE id = 'A-1'"
STRAY: LiteralString = "UPDATE shop.orders SET status = 'stray' WHERE id = 'A-1'"


def missed(shop: Shop, reconciler: Any) -> str:
    """A write of A-1 that never landed; the id of what is in drift."""
    effect = shop.act("set_status", "ok", order="A-1", status="mended")
    shop.settle(reconciler)
    assert shop.verdicts(effect) == ["not_applied"]
    return effect.hex


def resolve(shop: Shop, drift_id: str, *, key: str | None = "A-1", ingested: bool = True) -> Event:
    """A person resolves it, and says which order was repaired."""
    about = find_drift(shop.operator, drift_id)
    repaired = None if key is None else Repaired("orders", key_of(key))
    seq = checks_begun(shop.operator, TENANT, "shop")
    desk = OperationDesk(shop.recorder.settings)
    said = desk.say(Decision("resolve", about, "dana", "set by hand", repaired, seq))
    if ingested:
        shop.ingest()
    return said


@pytest.mark.parametrize("writers", ['writers = "exclusive"', OURS])
def test_a_repair_that_was_said_before_the_sweep_sees_it_is_no_change(shop: Shop, writers: str) -> None:
    reconciler = shop.reconciler(shop.contracts(writers))
    reconciler.once()
    drift_id = missed(shop, reconciler)
    shop.sql(MEND)
    resolve(shop, drift_id)
    shop.settle(reconciler)
    for _ in range(3):
        shop.step(reconciler)
    assert (shop.changes(), shop.drift()) == ([], [])


def test_a_repair_that_is_said_between_the_sightings_is_no_change(shop: Shop) -> None:
    reconciler = shop.reconciler()
    reconciler.once()
    drift_id = missed(shop, reconciler)
    shop.sql(MEND)
    assert shop.step(reconciler).open == 1, "one sighting"
    resolve(shop, drift_id)
    shop.settle(reconciler)
    shop.step(reconciler)
    assert (shop.changes(), shop.drift()) == ([], [])


def test_a_change_that_was_said_already_is_closed_by_the_repair_that_explains_it(shop: Shop) -> None:
    reconciler = shop.reconciler()
    reconciler.once()
    drift_id = missed(shop, reconciler)
    shop.sql(MEND)
    shop.settle(reconciler)
    assert shop.changes() == [('orders["A-1"]', "unattributed")]
    assert len(shop.drift()) == 2
    resolve(shop, drift_id)
    assert shop.drift() == []
    [change] = shop.operator.execute("SELECT is_explained, resolved_at FROM counterfoil.change_state").fetchall()
    assert (change["is_explained"], change["resolved_at"]) == (True, None)


def test_a_repair_said_before_its_change_is_ingested_closes_it(shop: Shop) -> None:
    """The change is decided, and waits in the outbox, while the person says it: the folds come in either order."""
    reconciler = shop.reconciler()
    reconciler.once()
    drift_id = missed(shop, reconciler)
    shop.sql(MEND)
    while not reconciler.once().changes:
        shop.recorder.flush()
        shop.ingest()
    resolve(shop, drift_id)
    assert shop.drift() == []
    shop.relay()
    shop.ingest()
    assert shop.changes() == [('orders["A-1"]', "unattributed")]
    assert shop.drift() == []


@pytest.mark.parametrize("is_said_first", [True, False])
def test_one_repair_explains_no_later_change(shop: Shop, is_said_first: bool) -> None:
    reconciler = shop.reconciler()
    reconciler.once()
    drift_id = missed(shop, reconciler)
    shop.sql(MEND)
    if not is_said_first:
        shop.settle(reconciler)
    resolve(shop, drift_id)
    shop.settle(reconciler)
    shop.step(reconciler)
    assert shop.drift() == []
    shop.sql(STRAY)
    shop.settle(reconciler)
    assert shop.drift() == [(None, "unattributed", "nobody said they would")]


def test_a_repair_explains_its_own_row_alone(shop: Shop) -> None:
    reconciler = shop.reconciler()
    reconciler.once()
    drift_id = missed(shop, reconciler)
    shop.sql(MEND, "UPDATE shop.orders SET status = 'stray' WHERE id = 'A-2'")
    resolve(shop, drift_id)
    shop.settle(reconciler)
    assert shop.changes() == [('orders["A-2"]', "unattributed")]


def test_a_repair_without_a_row_explains_nothing(shop: Shop) -> None:
    reconciler = shop.reconciler()
    reconciler.once()
    drift_id = missed(shop, reconciler)
    shop.sql(MEND)
    resolve(shop, drift_id, key=None)
    shop.settle(reconciler)
    assert shop.drift() == [(None, "unattributed", "nobody said they would")]


def test_a_row_created_by_hand_under_a_key_of_any_letters_is_explained_once(shop: Shop) -> None:
    reconciler = shop.reconciler()
    reconciler.once()
    drift_id = missed(shop, reconciler)
    shop.sql("INSERT INTO shop.orders (id) VALUES ('Ä-\"7')")
    resolve(shop, drift_id, key='Ä-"7')
    shop.settle(reconciler)
    assert shop.drift() == []
    shop.sql("DELETE FROM shop.orders WHERE id = 'Ä-\"7'")
    shop.settle(reconciler)
    assert shop.drift() == [(None, "unattributed", "nobody said they would")]


def test_a_write_of_the_row_that_is_still_open_keeps_what_it_started_from(shop: Shop) -> None:
    """A repair moves the row's fence only past what is ingested: the deposit is judged by the state before it."""
    reconciler = shop.reconciler()
    reconciler.once()
    drift_id = missed(shop, reconciler)
    effect = shop.begin("deposit", order="A-1", amount="5", task="t-2")
    shop.recorder.flush()
    shop.ingest()
    resolve(shop, drift_id)
    shop.step(reconciler)
    shop.sql("UPDATE shop.orders SET paid = 5 WHERE id = 'A-1'")
    effect.ok()
    shop.settle(reconciler)
    [verdict] = shop.operator.execute(
        "SELECT verdict FROM counterfoil.effect WHERE effect_id = %s", [effect.effect_id.hex()]
    ).fetchall()
    assert verdict["verdict"] == "applied"


def test_a_later_verdict_is_drift_again(shop: Shop) -> None:
    reconciler = shop.reconciler()
    reconciler.once()
    refunded: LiteralString = "UPDATE shop.orders SET status = 'refunded' WHERE id = 'A-1'"
    effect_id = shop.act("refund", "ok", refunded, order="A-1", amount="5")
    shop.settle(reconciler)
    assert shop.drift() == [("ok", "partial", "a part of it landed")]
    resolve(shop, effect_id.hex, key=None)
    assert shop.drift() == []
    again = shop.begin("refund", order="A-1", amount="5")
    for _ in range(2):
        shop.target.execute("INSERT INTO shop.refunds (reference, amount) VALUES (%s, 5)", [effect_id.hex])
    again.ok()
    shop.settle(reconciler)
    assert shop.drift() == [("ok", "duplicated", "it landed more than once")]


def test_what_is_no_key_explains_nothing_and_stops_nothing(shop: Shop) -> None:
    reconciler = shop.reconciler()
    reconciler.once()
    drift_id = missed(shop, reconciler)
    about = find_drift(shop.operator, drift_id)
    desk = OperationDesk(shop.recorder.settings)
    for key in ('{"id": 1}', "[1]", "[]", "oops", "[" * 500, f'["{"k" * 1_900}Ä"]'):
        desk.say(Decision("resolve", about, "dana", "by hand", Repaired("orders", key), 99))
    shop.sql(MEND)
    shop.settle(reconciler)
    assert shop.changes() == [('orders["A-1"]', "unattributed")]
    assert dataclasses.asdict(reconciler.once())["skipped"] == {}


def test_before_anything_is_ingested_no_repair_is_old() -> None:
    """Then the log is known up to the beginning of time, from which nothing can be taken away."""
    moment = datetime(2026, 1, 31, tzinfo=UTC)
    repairs = Repairs({RowKey("orders", ("A-1",)): (Repair(0, 5, moment),)})
    beginning = datetime.min.replace(tzinfo=UTC)
    for by in (timedelta(0), timedelta(days=1)):
        assert list(NO_REPAIRS.older_than(beginning, by)) == list(repairs.older_than(beginning, by)) == []
    assert len(list(repairs.older_than(moment + timedelta(days=1), timedelta(days=1)))) == 1
