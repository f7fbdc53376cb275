"""Who may speak, when it is over, and what happens when something is away."""

import dataclasses
import threading
import time
import uuid
from collections import Counter
from datetime import timedelta
from functools import partial
from typing import Any, LiteralString

import pytest
from psycopg.conninfo import make_conninfo

from counterfoil import Recorder, RecorderSettings, RegistryError, SettingsError, failpoints
from counterfoil.codec import decode
from counterfoil.wire_format import framing_of
from counterfoil_consumers.ingest import Ingest
from counterfoil_reconcilers import checking, concluding, looking, observing, worklist
from counterfoil_reconcilers.concluding import Policy
from counterfoil_reconcilers.judge import judge
from counterfoil_reconcilers.reconciler import PassResult, ReconcilerSettings
from counterfoil_reconcilers.targets.postgresql import PostgresTarget
from counterfoil_reconcilers.worklist import Lease
from tests.fix_log import RecordsOf
from tests.fix_shop import CONTRACTS, NOBODY, Shop, body, finish

PAY: LiteralString = "UPDATE shop.orders SET status = 'paid' WHERE id = 'A-1'"
DEPOSIT: LiteralString = "UPDATE shop.orders SET paid = paid + 5 WHERE id = 'A-1'"
EXPIRE: LiteralString = "UPDATE counterfoil.check_lease SET held_until = now() - interval '1 second'"


def expire_leases(shop: Shop) -> None:
    shop.target.execute("SET ROLE counterfoil_reconciler")
    shop.target.execute(EXPIRE)
    shop.target.execute("RESET ROLE")


def letters(shop: Shop) -> list[dict[str, Any]]:
    return shop.operator.execute("SELECT * FROM counterfoil.dead_letter ORDER BY placed_at").fetchall()


# -- giving up ---------------------------------------------------------------------------------------------------


def test_drift_that_persists_becomes_a_dead_letter_exactly_once(shop: Shop, records_of: RecordsOf) -> None:
    policy = Policy(sweep_every=timedelta(0), give_up_after=timedelta(seconds=2))
    reconciler = shop.reconciler(policy=policy)
    reconciler.once()
    effect = shop.act("set_status", "ok", order="A-1", status="paid")
    shop.recorder.close()
    while not shop.verdicts(effect):
        shop.step(reconciler)
    assert letters(shop) == [], "it has settled, but only just"
    reconciler.close()  # and another process goes on
    successor = shop.reconciler(policy=policy)
    passes = shop.settle(successor, at_most=400)
    assert sum(one.given_up for one in passes) == 1
    third = shop.reconciler(policy=policy)
    successor.close()
    for _ in range(2):
        assert shop.step(third).effects == 0
    [letter] = letters(shop)
    assert (letter["tenant"], letter["letter_kind"], letter["letter_class"]) == ("acme", "effect", "not_applied")
    assert letter["reason"] == "the agent said ok, shop says not_applied, and that persisted"
    assert (letter["effect_id"], letter["status"]) == (effect, "open")
    assert letter["attempts"] >= 2
    [event] = shop.said("dead_lettered")
    assert body(event)["letter_id"] == letter["letter_id"].bytes
    shop.relay()
    [record] = records_of("dead_letters")
    assert record.value == bytes(letter["value"])
    assert decode(record.value or b"") == event
    assert dict(record.headers)["counterfoil-letter-class"] == b"not_applied"
    assert (shop.state(effect)["given_up"], shop.verdicts(effect)) == (1, ["not_applied"])


def test_drift_that_heals_in_time_is_not_given_up(shop: Shop) -> None:
    policy = Policy(sweep_every=timedelta(0), give_up_after=timedelta(hours=1))
    reconciler = shop.reconciler(policy=policy)
    reconciler.once()
    effect = shop.act("set_status", "ok", order="A-1", status="paid")
    shop.recorder.close()
    while not shop.verdicts(effect):
        shop.step(reconciler)
    shop.relay()
    shop.ingest()
    assert shop.drift() == [("ok", "not_applied", "it never landed")]
    shop.sql(PAY)
    shop.settle(reconciler)
    assert shop.verdicts(effect) == ["not_applied", "applied"]
    assert (shop.drift(), letters(shop)) == ([], [])


def test_given_up_again_it_is_still_one_open_letter(shop: Shop) -> None:
    reconciler = shop.reconciler()
    reconciler.once()
    for _ in range(2):
        shop.act("set_status", "ok", order="A-1", status="paid")
        assert shop.settle(reconciler)[-1].open == 0
    assert len(letters(shop)) == len(shop.said("dead_lettered")) == 1


# -- attempts after the first ------------------------------------------------------------------------------------


def test_an_effect_retried_after_it_was_closed_is_looked_at_again(shop: Shop) -> None:
    reconciler = shop.reconciler()
    reconciler.once()
    effect = shop.act("set_status", "failed", order="A-1", status="paid")
    shop.settle(reconciler)
    assert shop.verdicts(effect) == ["not_applied"]
    assert shop.step(reconciler).effects == 0
    assert shop.act("set_status", "ok", PAY, order="A-1", status="paid") == effect
    shop.settle(reconciler)
    assert shop.verdicts(effect) == ["not_applied", "applied"]
    assert (shop.state(effect)["intents"], shop.drift(), shop.changes()) == (2, [], [])


def test_an_increment_that_was_found_absent_and_sent_again_starts_from_there(shop: Shop) -> None:
    """What was there when it was found absent is its `before`, although its first intent is older than that."""
    reconciler = shop.reconciler()
    reconciler.once()
    effect = shop.act("deposit", "unknown", order="A-1", amount="5")
    shop.settle(reconciler)
    assert shop.verdicts(effect) == ["not_applied"]
    assert shop.act("deposit", "ok", DEPOSIT, order="A-1", amount="5") == effect
    shop.settle(reconciler)
    assert (shop.verdicts(effect), shop.drift(), shop.changes()) == (["not_applied", "applied"], [], [])


def test_a_retry_that_was_in_the_log_when_the_effect_was_closed_is_not_overlooked(shop: Shop) -> None:
    """Closing goes by what was known, not by the clock: the retry is older than the closing, but was not ingested."""
    reconciler = shop.reconciler()
    reconciler.once()
    effect = shop.act("set_status", "failed", order="A-1", status="paid")
    shop.settle(reconciler)
    shop.target.execute("SET ROLE counterfoil_reconciler")
    shop.target.execute("UPDATE counterfoil.check_state SET closed_at = now() + interval '1 hour'")
    shop.target.execute("RESET ROLE")
    shop.act("set_status", "ok", PAY, order="A-1", status="paid")
    shop.settle(reconciler)
    assert shop.verdicts(effect) == ["not_applied", "applied"]


def test_it_stays_open_while_an_attempt_is_under_way(shop: Shop) -> None:
    """The first attempt landed, the second may land too: only the rows as they were before both can show that."""
    reconciler = shop.reconciler()
    reconciler.once()
    effect = shop.act("deposit", "unknown", DEPOSIT, order="A-1", amount="5")
    retry = shop.begin("deposit", order="A-1", amount="5")
    for _ in range(4):
        assert shop.step(reconciler).open == 1
    assert shop.verdicts(effect) == ["applied"]
    shop.sql(DEPOSIT)
    finish(retry, "ok")
    shop.recorder.close()
    shop.settle(reconciler)
    assert shop.verdicts(effect) == ["applied", "duplicated"]
    assert shop.changes() == []


# -- what is away ------------------------------------------------------------------------------------------------


def test_a_target_that_does_not_answer_is_skipped_and_says_nothing(shop: Shop) -> None:
    away = make_conninfo(shop.settings.dsn, port=1)
    cut_off = shop.reconciler(target_settings={"shop": {"dsn": away}})
    effect = shop.act("set_status", "ok", order="A-1", status="paid")
    shop.recorder.close()
    for _ in range(3):
        result = shop.step(cut_off)
        assert (result.said, result.effects) == (0, 0)
        assert result.skipped["shop"].startswith("target shop: ")
    cut_off.close()
    shop.settle(shop.reconciler())
    assert shop.verdicts(effect) == ["not_applied"]


def test_a_target_that_stalls_or_drops_us_is_asked_again(shop: Shop) -> None:
    reconciler = shop.reconciler()
    reconciler.once()
    effect = shop.act("set_status", "ok", order="A-1", status="paid")
    shop.recorder.close()
    with shop.target.transaction():
        shop.target.execute("LOCK TABLE shop.orders IN ACCESS EXCLUSIVE MODE")
        assert "LockNotAvailable" in shop.step(reconciler).skipped["shop"]
    dropped = shop.target.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'counterfoil reconcile' AND datname = current_database()"
    ).fetchall()
    shop.step(reconciler)
    assert len(dropped) <= 1
    shop.settle(reconciler)
    assert shop.verdicts(effect) == ["not_applied"]


def test_a_store_that_drops_us_is_connected_to_again(shop: Shop) -> None:
    reconciler = shop.reconciler()
    reconciler.once()
    dropped = shop.target.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'counterfoil-reconcile' AND datname = current_database()"
    ).fetchall()
    assert dropped == [(True,)]
    assert list(reconciler.once().skipped) == ["store"]
    effect = shop.act("set_status", "ok", PAY, order="A-1", status="paid")
    shop.settle(reconciler)
    assert shop.verdicts(effect) == ["applied"]


def test_judging_keeps_no_transaction_waiting(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long it takes: the server ends sessions that idle in a transaction."""
    reconciler = shop.reconciler()
    reconciler.once()
    assert reconciler._store is not None
    reconciler._store.execute("SET idle_in_transaction_session_timeout = '300ms'")
    effect = shop.act("set_status", "ok", PAY, order="A-1", status="paid")

    def judge_slowly(*arguments: Any) -> Any:
        time.sleep(1)
        return judge(*arguments)

    monkeypatch.setattr(observing, "judge", judge_slowly)
    assert shop.step(reconciler).skipped == {}
    assert shop.verdicts(effect) == ["applied"]


@pytest.mark.parametrize(
    ("from_text", "to_text", "sentence"),
    [
        ('key = ["id"]', 'key = ["number"]', "target shop: there is no column number in table shop.orders"),
        ('"shop.orders"', '"shop.order"', "target shop: there is no table shop.order"),
    ],
)
def test_a_contract_that_names_what_is_not_there_ends_in_a_sentence(
    shop: Shop, from_text: str, to_text: str, sentence: str
) -> None:
    text = CONTRACTS.replace(from_text, to_text, 1).replace(
        "key = { id = ", "key = { number = " if "number" in to_text else "key = { id = "
    )
    reconciler = shop.reconciler(shop.contracts(text=text))
    effect = shop.act("set_status", "ok", order="A-1", status="paid")
    shop.recorder.close()
    for _ in range(2):
        assert shop.step(reconciler).skipped["shop"].startswith(sentence)
    assert shop.verdicts(effect) == []


def test_a_target_without_a_connection_string_is_refused_at_the_start(shop: Shop) -> None:
    with pytest.raises(SettingsError, match="COUNTERFOIL_TARGETS__SHOP__DSN"):
        shop.reconciler(target_settings={})


# -- leases ------------------------------------------------------------------------------------------------------


def test_only_who_holds_the_lease_acts(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = shop.reconciler(), shop.reconciler()
    first.once()
    effect = shop.act("set_status", "ok", PAY, order="A-1", status="paid")
    scan = PostgresTarget.scan
    meanwhile: list[PassResult] = []

    def scan_while_another_tries(*arguments: Any) -> Any:
        if not meanwhile:
            meanwhile.append(PassResult())
            meanwhile.append(second.once())
        return scan(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(PostgresTarget, "scan", scan_while_another_tries)
        assert shop.step(first).said == 1
    assert meanwhile == [PassResult(), PassResult()], "the lease was taken"
    assert shop.step(second).effects == 1, "the turn is over, and with it the lease"
    assert shop.verdicts(effect) == ["applied"], "and what was said is not said again"


def test_a_frozen_reconciler_that_wakes_writes_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    frozen, successor = shop.reconciler(), shop.reconciler()
    frozen.once()
    effect = shop.act("set_status", "ok", PAY, order="A-1", status="paid")
    scan = PostgresTarget.scan
    seen: list[int] = []

    def freeze(*arguments: Any) -> Any:
        if not seen:
            seen.append(0)
            expire_leases(shop)
            seen[0] = successor.once().said
        return scan(*arguments)

    shop.recorder.flush()
    shop.ingest()
    monkeypatch.setattr(PostgresTarget, "scan", freeze)
    woken = frozen.once()
    assert (seen, woken.said) == ([1], 0)
    assert woken.skipped == {"shop": "another reconciler took over shop of acme"}
    assert shop.verdicts(effect) == ["applied"]
    shop.settle(successor)
    seqs = [body(event)["check_seq"] for event in shop.said()]
    assert len(seqs) == len(set(seqs)) == 1


def test_a_target_that_is_slower_than_a_lease_is_looked_at_to_the_end(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row by row it takes longer than a lease lasts; the lease is held on to, and nobody else gets it."""
    reconciler, other = shop.reconciler(shop.contracts(NOBODY)), shop.reconciler(shop.contracts(NOBODY))
    pay: tuple[LiteralString, ...] = tuple(PAY.replace("A-1", order) for order in ("A-1", "A-2", "A-3"))
    acted = [shop.act("set_status", "ok", one, order=f"A-{n}", status="paid") for n, one in enumerate(pay, 1)]
    shop.recorder.flush()
    shop.ingest()
    monkeypatch.setattr(worklist, "LEASE_SECONDS", 2.0)
    monkeypatch.setattr(checking, "_HOLD_SECONDS", 0.2)
    monkeypatch.setattr(looking, "_READ_AT_A_TIME", 1)
    read = PostgresTarget.read
    met: list[int] = []

    def read_slowly(*arguments: Any) -> Any:
        time.sleep(1)
        if not met:
            met.append(1)
            met[0] = other.once().effects
        return read(*arguments)

    monkeypatch.setattr(PostgresTarget, "read", read_slowly)
    looked = reconciler.once()
    assert (looked.effects, looked.skipped, met) == (3, {}, [0])
    assert [shop.verdicts(effect) for effect in acted] == [["applied"]] * 3


def test_an_expired_lease_is_worth_nothing_even_if_nobody_took_it(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    reconciler = shop.reconciler()
    reconciler.once()
    effect = shop.act("set_status", "ok", PAY, order="A-1", status="paid")
    scan = PostgresTarget.scan

    def freeze(*arguments: Any) -> Any:
        expire_leases(shop)
        return scan(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(PostgresTarget, "scan", freeze)
        assert "shop" in shop.step(reconciler).skipped
    assert shop.verdicts(effect) == []
    shop.settle(reconciler)
    assert shop.verdicts(effect) == ["applied"]


def test_a_failure_before_the_commit_says_nothing_and_leaves_no_hole(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    reconciler = shop.reconciler()
    reconciler.once()
    effects = [
        shop.act("set_status", "ok", PAY, order="A-1", status="paid"),
        shop.act("set_status", "ok", order="A-2", status="paid"),
    ]
    shop.recorder.close()
    for at in (1, 2):
        monkeypatch.setitem(failpoints._points, "reconcile.before_commit", failpoints._Point("raise"))
        result = shop.step(reconciler)
        assert "acme can't be checked: Broken" in result.skipped["shop"]
        assert shop.said() == [], at
    shop.settle(reconciler)
    assert [shop.verdicts(effect) for effect in effects] == [["applied"], ["not_applied"]]
    assert gaps(shop) == []


def gaps(shop: Shop) -> list[tuple[bytes, bytes]]:
    """Numbers that a producer of the outbox left out or used twice, per task."""
    rows = shop.operator.execute("SELECT value FROM counterfoil.outbox WHERE topic LIKE '%events' ORDER BY outbox_id")
    seqs: dict[tuple[bytes, bytes], list[int]] = {}
    for row in rows:
        event = decode(bytes(row["value"]))
        seqs.setdefault((event.producer_id, event.task_id), []).append(event.seq)
    return [which for which, found in seqs.items() if found != list(range(len(found)))]


def test_what_is_said_is_relayed_once_and_counts_once(shop: Shop) -> None:
    reconciler = shop.reconciler()
    reconciler.once()
    for number in range(1, 4):
        shop.act("set_status", "ok", order=f"A-{number}", status="paid", task=f"t-{number}")
    shop.recorder.close()
    shop.settle(reconciler)
    kinds = Counter(event.kind for kind in ("observation", "verdict", "dead_lettered") for event in shop.said(kind))
    assert kinds == {"observation": 3, "verdict": 3, "dead_lettered": 3}
    assert gaps(shop) == []
    stored = shop.operator.execute(
        "SELECT count(*) AS n FROM counterfoil.event WHERE agent = 'counterfoil-reconciler'"
    ).fetchall()
    assert stored[0]["n"] == 9
    causes = {event.event_id: event.effect_id for event in shop.said("observation")}
    assert all(causes[event.causation_id or b""] == event.effect_id for event in shop.said())
    assert len({uuid.UUID(bytes=event.effect_id or b"") for event in shop.said()}) == 3


# -- a Schema Registry -------------------------------------------------------------------------------------------


def test_what_is_said_is_framed_by_the_registry_s_id(shop: Shop, registry_settings: RecorderSettings) -> None:
    shop.settings = dataclasses.replace(shop.settings, framing=framing_of(registry_settings))
    shop.ingest = partial(ingest_to_the_end, shop.settings)
    reconciler = shop.reconciler(policy=Policy(sweep_every=timedelta(0), give_up_after=timedelta(0)))
    reconciler.once()
    effect = shop.act("set_status", "ok", order="A-1", status="paid")
    shop.settle(reconciler)
    [letter] = letters(shop)
    values = [bytes(row["value"]) for row in shop.operator.execute("SELECT value FROM counterfoil.outbox")]
    assert {value[:5] for value in (*values, bytes(letter["value"]))} == {shop.settings.framing.prefix(b"")}
    assert shop.state(effect)["given_up"] == 1  # it came back through the log
    shop.settings.framing.close()


def test_without_the_registry_a_reconciler_does_not_start(shop: Shop, registry_settings: RecorderSettings) -> None:
    nobody = {"url": "http://127.0.0.1:1", "max.retries": "0"}
    away = framing_of(registry_settings.model_copy(update={"schema_registry": nobody}))
    with pytest.raises(RegistryError, match="does not answer"):
        shop.reconciler(framing=away)


def ingest_to_the_end(settings: ReconcilerSettings) -> None:
    ingest = Ingest(
        kafka=settings.kafka,
        dsn=settings.dsn,
        profile=settings.profile,
        topic_prefix=settings.topic_prefix,
        framing=settings.framing,
    )
    ingest.run(threading.Event(), until=ingest.end_offsets())


def test_what_one_tenant_does_to_a_pass_does_not_stop_the_others(
    shop: Shop, recorder_settings: RecorderSettings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A defect met in the effects of one tenant is logged by where it was, and not by what it was about."""
    shop.operator.execute("INSERT INTO counterfoil.tenant VALUES ('zeta')")
    shop.target.execute("INSERT INTO shop.orders (id, merchant, status) VALUES ('Z-1', 'zeta', 'open')")
    check, value = checking.Checker.check, "4111 1111 1111 1111"

    def breaks(checker: checking.Checker, lease: Lease, **how: Any) -> concluding.Checked:
        if lease.tenant == "acme":
            raise ValueError(value)
        return check(checker, lease, **how)

    monkeypatch.setattr(checking.Checker, "check", breaks)
    reconciler = shop.reconciler(shop.contracts(NOBODY))
    shop.act("set_status", "ok", PAY, order="A-1", status="paid")
    theirs = Recorder(recorder_settings.model_copy(update={"tenant": "zeta"}))
    with (
        theirs.task("t") as task,
        task.effect("set_status", target="shop", args={"order": "Z-1", "status": "x"}) as one,
    ):
        shop.sql("UPDATE shop.orders SET status = 'x' WHERE id = 'Z-1'")
        one.ok()
    theirs.close()
    for _ in range(3):
        result = shop.step(reconciler)
    assert result.skipped == {"shop": "acme can't be checked: ValueError, see the log"}
    assert "in breaks" in caplog.text
    assert "4111" not in caplog.text
    assert shop.verdicts(uuid.UUID(bytes=one.effect_id)) == ["applied"]
