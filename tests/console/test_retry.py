"""May this write be sent again? Asked over HTTP of a real server, by tokens, about a real target."""

import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from counterfoil import AlreadyApplied, Effect, Expected, Recorder, RecorderSettings
from counterfoil.attempts import Attempts
from counterfoil_consumers.ingest import Ingest
from counterfoil_consumers.store import Connection
from counterfoil_reconcilers.contracts import Contracts
from tests.fix_http import Api, Reply, asking, ingesting
from tests.fix_shop import CONTRACTS, Shop

LANDS = "UPDATE shop.orders SET paid = paid + 10 WHERE id = 'A-1'"
DEPOSIT = {"order": "A-1", "amount": "10"}
NewToken = Callable[..., str]
Serve = Callable[..., Api]


def window(contracts: str, seconds: float) -> str:
    """The shop's contracts, with an idempotency window."""
    line = "settle_seconds = %(settle)s\n"
    assert line in contracts
    return contracts.replace(line, f"{line}idempotent_for_seconds = {seconds}\n")


@pytest.fixture
def open_window(shop: Shop) -> Contracts:
    """An hour for each write; the shop's baseline is taken."""
    contracts = shop.contracts(text=window(CONTRACTS, 3600))
    shop.reconciler(contracts).once()
    return contracts


@pytest.fixture
def running(new_ingest: Callable[[], Ingest]) -> Iterator[None]:
    with ingesting(new_ingest):
        yield


def begin(recorder: Recorder, tool: str = "deposit", *, ref: str = "t-1", target: str | None = "shop") -> Effect:
    with recorder.task("work", task_ref=ref) as task:
        task.suspend("the test goes on")
        return task.effect(tool, target=target, args=DEPOSIT)


def lose_reply(effect: Effect, shop: Shop, *, lands: bool) -> None:
    effect.begin()
    if lands:
        shop.sql(LANDS)
    effect.unknown(TimeoutError("no reply"))


def paid(shop: Shop) -> int:
    [[amount]] = shop.target.execute("SELECT paid::int FROM shop.orders WHERE id = 'A-1'").fetchall()
    return int(amount)


def until_stored(api: Api, effect: Effect, token: str) -> None:
    deadline = time.monotonic() + 60
    while api.may_retry(f"{effect.key}", token).status == 404:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def pay(attempts: Attempts, shop: Shop) -> None:
    """What an agent does, and the reply is lost each time."""
    for attempt in attempts:
        with attempt:
            shop.sql(LANDS)
            raise TimeoutError("no reply")


# -- the whole way


@pytest.mark.usefixtures("running")
def test_an_agent_that_loses_the_reply_does_not_pay_twice(
    shop: Shop, open_window: Contracts, recorder_settings: RecorderSettings, serve_api: Serve, new_token: NewToken
) -> None:
    api = serve_api(open_window)
    settings = asking(recorder_settings, api.url, new_token())
    with Recorder(settings) as recorder, recorder.task("pay", task_ref="t-1") as task:
        attempts = task.attempts("deposit", target="shop", args=DEPOSIT, tries=5)
        with pytest.raises(AlreadyApplied, match="shop has it"):
            pay(attempts, shop)
    assert paid(shop) == 10
    assert shop.said() != []  # what the confirmation saw was said as a verdict, through the outbox


@pytest.mark.usefixtures("running")
def test_an_agent_whose_write_never_arrived_sends_it_again_once(
    shop: Shop, open_window: Contracts, recorder_settings: RecorderSettings, serve_api: Serve, new_token: NewToken
) -> None:
    api = serve_api(open_window)
    tries: list[int] = []
    settings = asking(recorder_settings, api.url, new_token())
    with Recorder(settings) as recorder, recorder.task("pay", task_ref="t-1") as task:
        for attempt in task.attempts("deposit", target="shop", args=DEPOSIT, tries=5, timeout_seconds=170):
            with attempt as effect:
                tries.append(effect.attempt)
                if len(tries) == 1:
                    raise TimeoutError("no reply")
                shop.sql(LANDS)
                effect.ok()
    assert tries == [1, 2]
    assert paid(shop) == 10


@pytest.mark.usefixtures("running")
def test_what_landed_is_said_at_first_sight_and_fast(
    shop: Shop, open_window: Contracts, recorder_settings: RecorderSettings, serve_api: Serve, new_token: NewToken
) -> None:
    api = serve_api(open_window)
    with Recorder(asking(recorder_settings, api.url, new_token())) as recorder:
        effect = begin(recorder)
        lose_reply(effect, shop, lands=True)
        started = time.monotonic()
        answer = effect.confirm()
        took = time.monotonic() - started
        assert (answer.applied, answer.may_retry, answer.code, answer.result) == (True, False, "applied", None)
        print(f"confirmed after {took:.3f} s")
        assert took < 4  # a second, on a machine four times slower
        assert not effect.may_retry()


@pytest.mark.usefixtures("running")
def test_a_resumed_agent_gets_the_result_that_it_missed(
    shop: Shop, open_window: Contracts, recorder_settings: RecorderSettings, serve_api: Serve, new_token: NewToken
) -> None:
    api = serve_api(open_window)
    settings = asking(recorder_settings, api.url, new_token())
    with Recorder(settings) as before, begin(before) as effect:
        shop.sql(LANDS)
        effect.ok({"receipt": 17})
    with Recorder(settings) as resumed:  # another process, that knows the task's name alone
        answer = begin(resumed).confirm()
        assert (answer.applied, answer.result) == (True, {"receipt": 17})
        never = begin(resumed, ref="never begun").confirm(timeout=1)
        assert (never.applied, never.may_retry) == (False, False)
        assert "spool" in never.reason


@pytest.mark.usefixtures("running")
def test_absent_is_waited_for_then_allowed_then_not(
    shop: Shop, recorder_settings: RecorderSettings, serve_api: Serve, new_token: NewToken
) -> None:
    seconds = 40
    contracts = shop.contracts(text=window(CONTRACTS, seconds))
    shop.reconciler(contracts).once()
    api, token = serve_api(contracts), new_token()
    with Recorder(asking(recorder_settings, api.url, token)) as recorder:
        effect = begin(recorder)
        begun = time.monotonic()
        lose_reply(effect, shop, lands=False)
        until_stored(api, effect, token)
        first = api.may_retry(effect.key, token)
        assert (first.status, first.body["answer"], first.body["code"]) == (200, "wait", "settling")
        assert first.body["ask_again_seconds"] >= 1
        assert effect.confirm().may_retry
        told = api.may_retry(effect.key, token).body
        assert (told["answer"], told["code"], told["applied"]) == ("yes", "confirmed_absent", False)
        assert 0 < told["seconds_left"] < seconds - 4  # the margin is a tenth
        assert effect.may_retry()
        time.sleep(max(0.0, begun + seconds - time.monotonic()))
        after = effect.confirm()
        assert (after.may_retry, after.code) == (False, "window_passed")
        assert "a person must decide" in after.reason


@pytest.mark.usefixtures("running")
def test_without_a_window_a_person_decides(
    shop: Shop, recorder_settings: RecorderSettings, serve_api: Serve, new_token: NewToken
) -> None:
    contracts = shop.contracts()
    shop.reconciler(contracts).once()
    api = serve_api(contracts)
    with Recorder(asking(recorder_settings, api.url, new_token())) as recorder:
        effect = begin(recorder)
        lose_reply(effect, shop, lands=False)
        assert effect.confirm().code == "no_window"
        uncovered = begin(recorder, target=None, ref="t-2")
        lose_reply(uncovered, shop, lands=False)
        assert uncovered.confirm().code == "unchecked"
        foreign = begin(recorder, "launch", ref="t-3")
        lose_reply(foreign, shop, lands=False)
        assert foreign.confirm().code == "unchecked"
        with recorder.task("work", task_ref="t-4") as task:
            expected = [Expected(resource="orders", key={"id": "A-1"}, set={"status": "gone"})]
            expecting = task.effect("launch", target="shop", args={}, expect=expected)
            lose_reply(expecting, shop, lands=False)
            assert expecting.confirm().code == "no_window"


def test_the_same_write_under_another_id_is_not_sent_again(shop: Shop, serve_api: Serve, new_token: NewToken) -> None:
    """An argument that is no part of the contract's identity changed between the attempts; the first one landed."""
    text = window(CONTRACTS, 3600).replace("[tools.deposit]", '[tools.deposit]\nidentity = ["order", "amount"]')
    contracts = shop.contracts(text=text)
    reconciler = shop.reconciler(contracts)
    reconciler.once()
    api, token = serve_api(contracts), new_token()
    begun = [shop.begin("deposit", order="A-1", amount="10", note=note) for note in ("for Ann", "for Ann, again")]
    other = shop.begin("deposit", order="A-1", amount="11", note="for Ann")  # this is another write
    shop.sql(LANDS)
    for effect in (*begun, other):
        effect.unknown()
    shop.settle(reconciler)
    answers = [api.may_retry(effect.key, token).body for effect in (*begun, other)]
    assert sorted(answer["code"] for answer in answers[:2]) == ["another_effect", "applied"]
    assert answers[2]["code"] == "confirmed_absent"


def test_an_old_absence_allows_no_attempt_after_a_newer_one(
    shop: Shop, open_window: Contracts, serve_api: Serve, new_token: NewToken
) -> None:
    """The second attempt may have landed; neither before nor after it is stored does the first one's absence count."""
    api, token = serve_api(open_window), new_token()
    reconciler = shop.reconciler(open_window)
    first = shop.begin("set_status", order="A-1", status="sent")
    first.unknown()
    for _ in range(40):
        shop.step(reconciler)
        if api.may_retry(first.key, token).body["answer"] == "yes":
            break
    assert api.may_retry(first.key, token).body["answer"] == "yes"
    second = shop.begin("set_status", order="A-1", status="sent")
    shop.sql("UPDATE shop.orders SET status = 'sent' WHERE id = 'A-1'")
    second.unknown()
    shop.recorder.flush()
    path = f"/v1/effects/{first.key}/may-retry"
    named = api.ask("GET", f"{path}?after={second.intent_id.hex()}", token).body
    assert (named["answer"], named["code"]) == ("wait", "not_stored")  # its own intent is not ingested
    unnamed = api.may_retry(first.key, token).body
    assert (unnamed["answer"], unnamed["code"]) == ("wait", "not_stored")  # nor is all that is in the log
    shop.ingest()
    stored = api.ask("GET", f"{path}?after={second.intent_id.hex()}", token).body
    assert (stored["answer"], stored["code"]) == ("wait", "settling")
    landed = api.confirm(first.key, token, timeout_seconds=10, after=second.intent_id.hex())
    assert landed.body["applied"], landed


def test_a_target_that_is_away_is_waited_for(
    shop: Shop, open_window: Contracts, serve_api: Serve, new_token: NewToken
) -> None:
    api, token = serve_api(open_window, targets={"shop": {"dsn": "host=127.0.0.1 port=1 dbname=x"}}), new_token()
    effect = shop.begin("deposit", **DEPOSIT)
    effect.unknown()
    shop.recorder.flush()
    shop.ingest()
    told = api.confirm(effect.key, token, timeout_seconds=1)
    assert (told.status, told.body["answer"], told.body["code"]) == (200, "wait", "settling")


# -- who may ask


def assert_problem(reply: Reply, status: int) -> None:
    assert reply.status == status, reply
    assert reply.headers["content-type"] == "application/problem+json"
    assert reply.headers["cache-control"] == "no-store"
    assert reply.body["status"] == status
    assert {"type", "title", "detail"} <= reply.body.keys()


def test_another_tenant_s_effect_is_nowhere(
    shop: Shop, open_window: Contracts, serve_api: Serve, new_token: NewToken, operator: Connection
) -> None:
    operator.execute("INSERT INTO counterfoil.tenant VALUES ('globex')")
    api, ours, theirs = serve_api(open_window), new_token("acme"), new_token("globex")
    effect = uuid.UUID(bytes=shop.begin("deposit", **DEPOSIT).effect_id).hex
    shop.recorder.flush()
    shop.ingest()
    assert api.may_retry(effect, ours).status == 200
    nowhere = uuid.uuid4().hex
    for ask in (api.may_retry, lambda *named: api.confirm(*named, timeout_seconds=0.3)):
        there, nothing = ask(effect, theirs), ask(nowhere, theirs)
        assert_problem(there, 404)
        assert (there.body["answer"], there.body["may_retry"]) == ("wait", False)
        assert there.body | {"effect_id": nowhere} == nothing.body
        varying = {"date", "content-length"}
        assert {k: v for k, v in there.headers.items() if k not in varying} == {
            k: v for k, v in nothing.headers.items() if k not in varying
        }
    assert operator.execute("SELECT FROM check_lease WHERE tenant = 'globex'").fetchall() == []


def test_only_a_valid_token_lets_in(
    shop: Shop, open_window: Contracts, serve_api: Serve, new_token: NewToken, operator: Connection
) -> None:
    api, good = serve_api(open_window), new_token()
    revoked, expired = new_token(), new_token(lasts=timedelta(0))
    operator.execute("UPDATE token SET revoked_at = now() WHERE token_id = %s", [revoked.split("_")[1]])
    other = new_token()
    mixed = "_".join([*good.split("_")[:2], other.split("_")[2]])
    path = f"/v1/effects/{uuid.uuid4().hex}/may-retry"
    assert api.ask("GET", path, good).status == 404
    for token in (None, "", "x", good[:-1], good + "0", good.upper(), mixed, revoked, expired, "é", "a" * 5000):
        reply = api.ask("GET", path, token)
        assert_problem(reply, 401)
        assert reply.headers["www-authenticate"] == "Bearer"
        assert_problem(api.ask("POST", path.replace("may-retry", "confirm"), token, b"{}"), 401)
    rows = operator.execute("SELECT token_id, last_used_at FROM token").fetchall()
    used = {row["token_id"]: row["last_used_at"] for row in rows}
    assert used.pop(good.split("_")[1]) is not None
    assert set(used.values()) == {None}


def test_what_is_no_question_is_refused(
    shop: Shop, open_window: Contracts, serve_api: Serve, new_token: NewToken
) -> None:
    api, token = serve_api(open_window), new_token()
    effect = uuid.uuid4().hex
    for path in (f"/v1/effects/{effect}", "/v1", "/", f"/v2/effects/{effect}/may-retry", "/docs"):
        assert_problem(api.ask("GET", path, token), 404)
    wrong = api.ask("DELETE", f"/v1/effects/{effect}/may-retry", token)
    assert_problem(wrong, 405)
    assert "GET" in wrong.headers["allow"]
    assert_problem(api.may_retry("no-id", token), 400)
    assert_problem(api.ask("GET", f"/v1/effects/{effect}/may-retry?after=x", token), 400)
    bodies = (b"x", b"[]", b'{"timeout_seconds": -1}', b'{"timeout_seconds": "1"}', b'{"timeout_seconds": NaN}',
              b'{"timeout_seconds": Infinity}', b'{"after": "x"}', b'{"other": 1}', b"\xff")  # fmt: skip
    for body in bodies:
        assert_problem(api.ask("POST", f"/v1/effects/{effect}/confirm", token, body), 400)
    assert_problem(api.ask("POST", f"/v1/effects/{effect}/confirm", token, b" " * 5000), 413)
    assert api.ask("GET", "/livez", None).status == 200
    assert api.ask("GET", "/readyz", None).status == 200


def test_who_asks_too_often_is_told_when_to_come_back(
    shop: Shop, open_window: Contracts, serve_api: Serve, new_token: NewToken
) -> None:
    api = serve_api(open_window, http_requests_per_second=0.2)
    busy, calm = new_token(), new_token()
    effect = uuid.uuid4().hex
    replies = [api.may_retry(effect, busy) for _ in range(6)]
    assert {reply.status for reply in replies[:2]} == {404}
    assert_problem(replies[-1], 429)
    assert 1 <= int(replies[-1].headers["retry-after"]) <= 5
    assert api.may_retry(effect, calm).status == 404


def test_confirmations_beyond_the_bound_are_refused_and_others_are_answered(
    shop: Shop, open_window: Contracts, serve_api: Serve, new_token: NewToken
) -> None:
    api, token = serve_api(open_window, http_confirms=2), new_token()
    effect = uuid.uuid4().hex
    with ThreadPoolExecutor(6) as pool:
        replies = list(pool.map(lambda _: api.confirm(effect, token, timeout_seconds=5), range(6)))
        assert api.may_retry(effect, token).status == 404
    refused = [reply for reply in replies if reply.status == 429]
    assert len(refused) >= 1
    assert sum(reply.status == 404 for reply in replies) == 6 - len(refused) >= 2
    assert all(reply.headers["retry-after"] for reply in refused)
    assert api.confirm(effect, token, timeout_seconds=0).status == 404  # they are let go of
