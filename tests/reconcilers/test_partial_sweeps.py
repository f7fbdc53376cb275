"""Sweeps that read what changed: they find what a listing finds, but for what their way cannot tell; read few rows."""

import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest

from counterfoil import failpoints
from counterfoil_reconcilers.reconciler import Reconciler
from counterfoil_reconcilers.targets.postgresql import PostgresTarget
from tests.fix_shop import CONTRACTS, EXCLUSIVE, OURS, Shop
from tests.reconcilers.test_repairs import missed, resolve
from tests.waiting import wait_until

COLUMN = 'changes = { column = "updated_at", late_seconds = %s }'
TABLE = 'changes = { table = "shop.order_changes", column = "seq", late_seconds = %s }'
TELLING: LiteralString = """
ALTER TABLE shop.orders ADD updated_at timestamptz NOT NULL DEFAULT now();
CREATE INDEX ON shop.orders (merchant, updated_at);
CREATE TABLE shop.order_changes (seq bigint GENERATED ALWAYS AS IDENTITY, merchant text, id text);
CREATE INDEX ON shop.order_changes (merchant, seq);
CREATE FUNCTION shop.stamp() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.updated_at = now(); RETURN NEW; END';
CREATE FUNCTION shop.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO shop.order_changes (merchant, id) SELECT r.merchant, r.id FROM (SELECT (coalesce(NEW, OLD)).*) AS r;
    RETURN NULL;
END $$;
CREATE TRIGGER stamp BEFORE INSERT OR UPDATE ON shop.orders FOR EACH ROW EXECUTE FUNCTION shop.stamp();
CREATE TRIGGER note AFTER INSERT OR UPDATE OR DELETE ON shop.orders FOR EACH ROW EXECUTE FUNCTION shop.note();
"""
PAGE = (Path(__file__).parents[2] / "docs" / "contracts.md").read_text(encoding="utf-8")
STRAY: LiteralString = "UPDATE shop.orders SET status = 'stray' WHERE id = 'A-2'"
GONE: LiteralString = "DELETE FROM shop.orders WHERE id = 'A-3'"
BOTH_WAYS = pytest.mark.parametrize("way", [COLUMN, TABLE], ids=["column", "table"])


@pytest.fixture
def listed(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The resources that were listed, from the baseline on; the shop's orders tell what changed, in either way."""
    shop.target.execute(TELLING)
    shop.sql("INSERT INTO shop.orders (id) VALUES ('A-0')")  # alone at the newest place
    resources: list[str] = []
    scan = PostgresTarget.scan

    def noted(target: PostgresTarget, resource: str, tenant: str | None = None) -> Any:
        resources.append(resource)
        return scan(target, resource, tenant)

    monkeypatch.setattr(PostgresTarget, "scan", noted)
    return resources


def telling(
    shop: Shop, way: str, writers: str = EXCLUSIVE, *, late: float = 0, text: str = CONTRACTS, **changed: Any
) -> Reconciler:
    """A reconciler whose contract says how the orders tell their changes."""
    own = f"[targets.shop.resources.orders]\n{way % late}\nfields.updated_at = {{ ignore = true }}"
    text = text.replace("[targets.shop.resources.orders]", own)
    return shop.reconciler(shop.contracts(writers, text=text), **changed)


def begun(shop: Shop, way: str, listed: list[str], **how: Any) -> Reconciler:
    """One that has taken its baseline, and forgets that this listed the orders."""
    reconciler = telling(shop, way, **how)
    reconciler.once()
    assert listed == ["orders", "refunds"]
    listed.clear()
    return reconciler


@contextmanager
def as_reconciler(shop: Shop) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    shop.target.execute("SET ROLE counterfoil_reconciler")
    yield shop.target
    shop.target.execute("RESET ROLE")


def let_a_day_pass(shop: Shop) -> None:
    """As if the last full sweep were older than the interval between two."""
    with as_reconciler(shop) as store:
        store.execute("UPDATE counterfoil.check_lease SET fully_swept_at = fully_swept_at - interval '2 days'")


def steps(shop: Shop, reconciler: Reconciler, number: int = 4) -> None:
    for _ in range(number):
        assert not shop.step(reconciler).skipped
    shop.relay()
    shop.ingest()


@BOTH_WAYS
def test_an_undeclared_write_is_found_and_said_once_without_a_listing(shop: Shop, listed: list[str], way: str) -> None:
    reconciler = begun(shop, way, listed)
    shop.sql(STRAY)
    assert shop.step(reconciler).changes == 0, "one sighting"
    shop.settle(reconciler)
    steps(shop, reconciler)
    assert shop.changes() == [('orders["A-2"]', "unattributed")]
    shop.sql("INSERT INTO shop.orders (id) VALUES ('A-4')")
    shop.settle(reconciler)
    assert shop.changes()[1:] == [('orders["A-4"]', "unattributed")]
    assert set(listed) == {"refunds"}, "those do not tell what changed"


@BOTH_WAYS
def test_declared_writes_are_no_changes(shop: Shop, listed: list[str], way: str) -> None:
    reconciler = begun(shop, way, listed)
    pay: LiteralString = "UPDATE shop.orders SET paid = paid + 5 WHERE id = 'A-1'"
    for number in range(3):
        effect = shop.act("deposit", "ok", pay, order="A-1", amount="5", step=str(number))
        shop.settle(reconciler)
        assert shop.verdicts(effect) == ["applied"]
    assert (shop.changes(), set(listed)) == ([], {"refunds"})


def test_a_change_table_tells_what_is_gone_at_once(shop: Shop, listed: list[str]) -> None:
    reconciler = begun(shop, TABLE, listed)
    shop.sql(GONE)
    shop.settle(reconciler)
    assert shop.changes() == [('orders["A-3"]', "unattributed")]
    assert "orders" not in listed


def test_a_column_leaves_what_is_gone_to_the_full_sweep(shop: Shop, listed: list[str]) -> None:
    """Its second sighting is by its key: what waits to settle is looked at in each sweep."""
    reconciler = begun(shop, COLUMN, listed)
    shop.sql(GONE)
    steps(shop, reconciler)
    assert (shop.changes(), "orders" in listed) == ([], False)
    let_a_day_pass(shop)
    steps(shop, reconciler)
    assert shop.changes() == [('orders["A-3"]', "unattributed")]
    assert listed.count("orders") == 1


@BOTH_WAYS
def test_what_a_long_transaction_did_is_found_when_it_ends(
    shop: Shop, listed: list[str], database: str, way: str
) -> None:
    """It takes its place in the order of changes when it writes, and others come after it and are seen before."""
    reconciler = begun(shop, way, listed, late=60)
    steps(shop, reconciler, 1)
    assert "orders" in listed, "no position was old enough to begin at"
    listed.clear()
    with as_reconciler(shop) as store:
        store.execute("UPDATE counterfoil.sweep_position SET read_ats[1] = read_ats[1] - interval '1 minute'")
    with psycopg.connect(database) as slow:
        slow.execute(STRAY)
        for status in ("x", "y"):
            shop.target.execute("UPDATE shop.orders SET by = %s WHERE id = 'A-1'", [status])  # which is ignored
            steps(shop, reconciler, 1)
    assert shop.changes() == []
    steps(shop, reconciler)
    assert shop.changes() == [('orders["A-2"]', "unattributed")]
    assert "orders" not in listed


def test_what_changes_while_the_baseline_is_taken_is_found(
    shop: Shop, listed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = PostgresTarget.scan

    def changed_after(target: PostgresTarget, resource: str, tenant: str | None = None) -> Any:
        yield from scan(target, resource, tenant)
        if resource == "orders":
            shop.sql(STRAY, "UPDATE shop.orders SET by = 'x' WHERE id = 'A-0'")

    with monkeypatch.context() as patched:
        patched.setattr(PostgresTarget, "scan", changed_after)
        reconciler = begun(shop, TABLE, listed)
    shop.settle(reconciler)
    assert shop.changes() == [('orders["A-2"]', "unattributed")]
    assert "orders" not in listed


def test_a_sweep_that_was_not_written_down_moves_nothing(
    shop: Shop, listed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reconciler = begun(shop, TABLE, listed)
    known = "SELECT * FROM counterfoil.sweep_position"
    before = shop.operator.execute(known).fetchall()
    shop.sql(STRAY)
    monkeypatch.setitem(failpoints._points, "reconcile.before_commit", failpoints._Point("raise"))
    assert reconciler.once().skipped
    assert shop.operator.execute(known).fetchall() == before
    with as_reconciler(shop) as store:
        store.execute("UPDATE counterfoil.check_lease SET retry_at = 'epoch'")
    shop.settle(reconciler)
    assert shop.changes() == [('orders["A-2"]', "unattributed")]
    assert shop.operator.execute(known).fetchall() != before


@pytest.mark.parametrize("writers", [EXCLUSIVE, OURS])
def test_a_repair_is_not_used_up_by_a_sweep_that_was_not_told_of_it(
    shop: Shop, listed: list[str], writers: str
) -> None:
    """The row is looked at by its key, or it would count for one that is as it was, and its change for unexplained."""
    reconciler = begun(shop, COLUMN, listed, writers=writers)
    drift_id = missed(shop, reconciler)
    shop.sql("ALTER TABLE shop.orders DISABLE TRIGGER stamp")
    shop.sql("UPDATE shop.orders SET status = 'mended' WHERE id = 'A-1'")
    resolve(shop, drift_id)
    steps(shop, reconciler)
    assert "orders" not in listed
    let_a_day_pass(shop)
    steps(shop, reconciler)
    assert (shop.changes(), shop.drift()) == ([], [])


@BOTH_WAYS
def test_what_others_change_in_shared_rows_is_adopted(shop: Shop, listed: list[str], way: str) -> None:
    reconciler = begun(shop, way, listed, writers=OURS)
    shop.sql("UPDATE shop.orders SET paid = 7, by = 'clerk' WHERE id = 'A-1'")
    steps(shop, reconciler)
    deposit: LiteralString = "UPDATE shop.orders SET paid = 12, by = 'agent' WHERE id = 'A-1'"
    effect = shop.act("deposit", "ok", deposit, order="A-1", amount="5")
    shop.settle(reconciler)
    assert shop.verdicts(effect) == ["applied"], "what the clerk did is what our write started from"
    assert (shop.changes(), set(listed)) == ([], {"refunds"})


# -- what nobody can name --------------------------------------------------------------------------------------------


def is_closed(shop: Shop, effect: uuid.UUID) -> bool:
    query = "SELECT FROM counterfoil.check_state WHERE effect_id = %s AND closed_at IS NOT NULL"
    return bool(shop.operator.execute(query, [effect]).fetchall())


def test_a_sweep_that_is_not_told_what_is_gone_closes_nothing_that_may_have_taken_it(
    shop: Shop, listed: list[str]
) -> None:
    """A tool without a contract deleted a row. Closed before two sweeps could see that, it would be unattributed."""
    reconciler = begun(shop, COLUMN, listed, policy=replace(shop.settings.policy, full_sweep_share=0))
    effect = shop.act("paint", "ok", GONE)
    steps(shop, reconciler, 6)
    assert shop.verdicts(effect) == ["unknowable"]
    assert not is_closed(shop, effect)
    let_a_day_pass(shop)
    steps(shop, reconciler)
    assert not is_closed(shop, effect), "one sweep saw all"
    let_a_day_pass(shop)
    steps(shop, reconciler)
    assert is_closed(shop, effect)
    assert (shop.changes(), listed.count("orders")) == ([], 2)


def test_sweeps_that_are_told_what_is_gone_close_it(shop: Shop, listed: list[str]) -> None:
    reconciler = begun(shop, TABLE, listed)
    effect = shop.act("paint", "ok", GONE, STRAY)
    shop.settle(reconciler)
    assert is_closed(shop, effect)
    assert (shop.changes(), "orders" in listed) == ([], False)
    shop.sql("UPDATE shop.orders SET status = 'again' WHERE id = 'A-2'")
    shop.settle(reconciler)
    assert shop.changes() == [('orders["A-2"]', "unattributed")]


def test_full_sweeps_are_made_for_an_effect_that_waits_in_a_share_of_the_time(shop: Shop, listed: list[str]) -> None:
    reconciler = begun(shop, COLUMN, listed)
    with as_reconciler(shop) as store:
        store.execute("UPDATE counterfoil.check_lease SET full_sweep_seconds = 60")  # the next is due after 20 minutes
    effect = shop.act("paint", "ok", GONE)
    steps(shop, reconciler, 4)
    assert (is_closed(shop, effect), "orders" in listed) == (False, False)
    with as_reconciler(shop) as store:
        store.execute("UPDATE counterfoil.check_lease SET fully_swept_at = fully_swept_at - interval '20 minutes'")
    shop.settle(reconciler)
    assert is_closed(shop, effect)
    assert shop.changes() == []
    assert "orders" in listed
    listed.clear()
    shop.sql(STRAY)
    shop.settle(reconciler)
    assert (shop.changes(), "orders" in listed) == ([('orders["A-2"]', "unattributed")], False), "nothing waits now"


def test_it_need_not_be_looked_at_in_the_very_turn_of_a_full_sweep(shop: Shop, listed: list[str]) -> None:
    reconciler = begun(shop, COLUMN, listed, policy=replace(shop.settings.policy, full_sweep_share=0))
    effect = shop.act("paint", "ok", GONE)
    steps(shop, reconciler)
    put_off(shop)
    for _ in range(2):
        let_a_day_pass(shop)
        reconciler.tick()
    assert listed.count("orders") == 2
    assert not is_closed(shop, effect)
    put_off(shop, "- ")
    steps(shop, reconciler)
    assert is_closed(shop, effect)
    assert (shop.changes(), listed.count("orders")) == ([], 2)


def put_off(shop: Shop, sign: str = "+ ") -> None:
    """Have effects looked at an hour later, or be due for long."""
    hour = "interval '1 hour'"
    with as_reconciler(shop) as store:
        store.execute(f"UPDATE counterfoil.check_state SET due_at = now() {sign}{hour}".encode())


# -- from one way to another -----------------------------------------------------------------------------------------


def test_a_way_that_is_new_in_the_contract_begins_with_a_listing_and_loses_nothing(
    shop: Shop, listed: list[str]
) -> None:
    reconciler = shop.reconciler()
    reconciler.once()
    shop.sql(STRAY)
    reconciler.close()
    for way in (COLUMN, TABLE):
        listed.clear()
        reconciler = telling(shop, way)
        steps(shop, reconciler, 1)
        assert "orders" in listed
        listed.clear()
        shop.settle(reconciler)
        assert "orders" not in listed
        reconciler.close()
    assert shop.changes() == [('orders["A-2"]', "unattributed")]


def test_a_baseline_that_is_taken_anew_takes_its_own_position(shop: Shop, listed: list[str]) -> None:
    begun(shop, TABLE, listed).close()
    shop.sql("UPDATE shop.orders SET by = 'x' WHERE id = 'A-0'")
    renamed = CONTRACTS.replace('table = "shop.orders"', "table = 'shop.\"orders\"'")  # for the store another table
    reconciler = telling(shop, TABLE, text=renamed)
    steps(shop, reconciler, 1)
    assert listed.count("orders") == 2, "for what was redacted, and for the baseline"
    [known] = shop.operator.execute("SELECT places FROM counterfoil.sweep_position").fetchall()
    assert known["places"] == ["2"]
    listed.clear()
    shop.sql(STRAY)
    shop.settle(reconciler)
    assert shop.changes() == [('orders["A-2"]', "unattributed")]
    assert "orders" not in listed


def test_a_position_that_the_column_takes_no_more_is_before_everything(shop: Shop, listed: list[str]) -> None:
    reconciler = begun(shop, TABLE, listed)
    with as_reconciler(shop) as store:
        store.execute("UPDATE counterfoil.sweep_position SET places = '{no number}'")
    shop.sql(STRAY)
    shop.settle(reconciler)
    assert shop.changes() == [('orders["A-2"]', "unattributed")]
    assert "orders" not in listed


def test_the_change_table_of_the_page_tells_all(shop: Shop, listed: list[str]) -> None:
    """With one for each resource nothing is listed, not even where an effect may have changed any row."""
    [statements] = re.findall(r"```sql\n(CREATE TABLE shop\.refund_changes.*?)```", PAGE, re.DOTALL)
    shop.target.execute(statements.encode())
    told = 'changes = { table = "shop.refund_changes", column = "seq", late_seconds = 0 }'
    text = CONTRACTS.replace('table = "shop.refunds"', f'table = "shop.refunds"\n{told}')
    reconciler = begun(shop, TABLE, listed, text=text)
    effect = shop.act("paint", "ok", GONE)
    shop.settle(reconciler)
    assert is_closed(shop, effect)
    insert: LiteralString = "INSERT INTO shop.refunds (reference, amount) VALUES ('nobody', 3)"
    for change in (insert, "UPDATE shop.refunds SET amount = 4", "DELETE FROM shop.refunds"):
        shop.sql(change)
        shop.settle(reconciler)
    assert (shop.changes(), listed) == ([('refunds["1"]', "unattributed")] * 3, [])


# -- what is read ----------------------------------------------------------------------------------------------------

ROWS = 100_000
READ: LiteralString = """
    SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables WHERE relid = 'shop.orders'::regclass
"""


@BOTH_WAYS
def test_a_sweep_reads_what_changed_and_not_the_table(shop: Shop, listed: list[str], way: str) -> None:
    shop.target.execute("INSERT INTO shop.orders (id) SELECT 'W-' || n FROM generate_series(1, %s) AS n", [ROWS])
    shop.sql("UPDATE shop.orders SET by = 'agent' WHERE id = 'A-0'")  # alone at the newest place again
    shop.target.execute("ANALYZE shop.orders, shop.order_changes")
    reconciler = begun(shop, way, listed)
    shop.sql("UPDATE shop.orders SET status = 'stray' WHERE id IN ('W-17', 'W-5000', 'W-99999')")
    before = read_so_far(shop, reconciler, at_least=ROWS)
    started = time.perf_counter()
    shop.settle(reconciler)
    seconds = time.perf_counter() - started
    assert len(shop.changes()) == 3
    rows = read_so_far(shop, reconciler, at_least=before + 6) - before
    print(f"{rows} rows of {ROWS:,} were read in {seconds:.2f} s")
    assert rows < 100


def read_so_far(shop: Shop, reconciler: Reconciler, *, at_least: int) -> int:
    """Rows of the orders that the server read for anybody; a session tells what it read when it ends."""
    reconciler.close()
    shop.target.execute("SELECT pg_stat_force_next_flush()")

    def read() -> int:
        [[rows]] = shop.target.execute(READ).fetchall()
        return int(rows)

    wait_until(lambda: read() >= at_least)
    return read()
