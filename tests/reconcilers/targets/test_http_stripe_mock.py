"""The preset `stripe`, held against stripe-mock: do its requests fit Stripe's OpenAPI document, and does it read what
that document says is answered? Which keys are there, how a list goes on and what a window is worth it can't tell.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from counterfoil_reconcilers.rows import RowKey
from counterfoil_reconcilers.targets.opening import open_target
from counterfoil_reconcilers.targets.port import Address, Target, TargetUnavailable
from counterfoil_reconcilers.touched import Search
from tests.fix_stripe_mock import KEY
from tests.reconcilers.targets.conformance import NAME, SECRET, contracts_of
from tests.reconcilers.targets.http_api import Api, Handler, Reply, fields_of, opened, serving
from tests.reconcilers.targets.shown import shows

RESOURCES = ("charges", "customers", "payment_intents", "refunds")
SEARCHED = ("charges", "customers", "payment_intents")


def text_of(name: str) -> str:
    find = f"""\
[targets.subject.resources.{name}.find]
path = "/{name}/search"
query = {{ query = "currency:{{currency:quoted}}" }}
pages = {{ style = "cursor", param = "page", at = "$.next_page", more = "$.has_more", size_param = "limit" }}
"""
    return f"""\
[targets.subject.resources.{name}]
key = ["id"]
get = "/{name}/{{id}}"
list = "/{name}"
{find if name in SEARCHED else ""}"""


TEXT = '[targets.subject]\nkind = "http"\npreset = "stripe"\n' + "".join(map(text_of, RESOURCES))


def row(resource: str, key: str) -> Address:
    return Address(None, RowKey(resource, (key,)))


@pytest.fixture
def target(stripe_mock: str, tmp_path: Path) -> Iterator[Target]:
    settings = {"url": stripe_mock, "token": KEY}
    with open_target(contracts_of(tmp_path, TEXT), NAME, {NAME: settings}) as adapter:
        yield adapter


@pytest.fixture
def ask(stripe_mock: str) -> Callable[..., Any]:
    """Asks stripe-mock around the adapter."""

    def asked(verb: str, path: str) -> Any:
        headers = {"Authorization": f"Bearer {KEY}"}
        return (
            httpx2.request(verb, f"{stripe_mock}/v1{path}", headers=headers, trust_env=False).raise_for_status().json()
        )

    return asked


@pytest.fixture
def api() -> Iterator[Api]:
    with serving() as server:
        yield server


@shows("stripe", "row", "pages", by="stripe-mock")
def test_contracts_check_finds_nothing_wrong(target: Target) -> None:
    assert target.check() == []


def test_contracts_check_finds_a_path_that_stripe_does_not_have(stripe_mock: str, tmp_path: Path) -> None:
    text = '[targets.subject]\nkind = "http"\npreset = "stripe"\n' + text_of("refundz")
    with open_target(contracts_of(tmp_path, text), NAME, {NAME: {"url": stripe_mock, "token": KEY}}) as target:
        [error] = target.check()
        assert "nothing at /refundz" in str(error)
        with pytest.raises(TargetUnavailable, match="can't be believed") as caught:
            target.read([row("refundz", "re_1")])
    assert caught.value.trouble == "unreadable"


@shows("stripe", "row", by="stripe-mock")
@pytest.mark.parametrize("name", RESOURCES)
def test_a_row_is_read_by_its_key(target: Target, ask: Callable[..., Any], name: str) -> None:
    [found] = target.read([row(name, "any_1")])
    assert fields_of(found) == json.loads(json.dumps(ask("GET", f"/{name}/any_1")), parse_int=float)
    assert fields_of(found)["object"] == name.removesuffix("s")


@shows("stripe", "pages", by="stripe-mock")
@pytest.mark.parametrize("name", RESOURCES)
def test_a_list_shows_whole_rows(target: Target, ask: Callable[..., Any], name: str) -> None:
    [listed] = target.scan(name)
    [shown] = ask("GET", f"/{name}")["data"]
    assert listed.address == row(name, shown["id"])
    assert fields_of(listed).keys() == shown.keys()


def passing_on(url: str, *changes: dict[str, Any]) -> Reply:
    """Answers as stripe-mock does to the same request, page by page with what is changed in each."""
    waiting = list(changes)

    def reply(handler: Handler) -> None:
        asked = handler.api.requests[-1]
        headers = {"Authorization": asked.headers["authorization"]}
        answer = httpx2.get(f"{url}{asked.path}", headers=headers, trust_env=False)
        handler.send(answer.status_code, json.dumps(answer.json() | waiting.pop(0)).encode())

    return reply


@shows("stripe", "pages", by="stripe-mock")
@pytest.mark.parametrize("name", RESOURCES)
def test_it_goes_on_by_a_parameter_that_stripe_has(stripe_mock: str, api: Api, tmp_path: Path, name: str) -> None:
    """That there is more it never says by itself."""
    pages: list[dict[str, Any]] = [{"has_more": True, "data": [{"id": "a"}, {"id": "b"}]}, {"data": [{"id": "c"}]}]
    api.on(f"/v1/{name}", passing_on(stripe_mock, *pages))
    with opened(tmp_path, api, TEXT, token=KEY) as target:
        assert [one.address.row.key[0] for one in target.scan(name)] == ["a", "b", "c"]
    assert [request.query.get("starting_after") for request in api.requests] == [None, ["b"]]


@shows("stripe", "search", by="stripe-mock")
@pytest.mark.parametrize("name", SEARCHED)
def test_a_search_finds_and_goes_on(stripe_mock: str, api: Api, tmp_path: Path, name: str) -> None:
    api.on(f"/v1/{name}/search", passing_on(stripe_mock, {"has_more": True, "next_page": "p2"}, {"has_more": False}))
    with opened(tmp_path, api, TEXT, token=KEY) as target:
        found = target.find(None, [Search(name, (("currency", "usd"),))], 10)
    assert len(found) == 1  # the second page shows the same row again
    assert [request.query["query"] for request in api.requests] == [["currency:'usd'"]] * 2
    assert [request.query.get("page") for request in api.requests] == [None, ["p2"]]


def test_a_parameter_that_stripe_does_not_have_is_no_answer(stripe_mock: str, tmp_path: Path) -> None:
    """So the tests above can fail."""
    text = TEXT.replace('list = "/refunds"', 'list = { path = "/refunds", query = { after = "re_1" } }')
    settings = {NAME: {"url": stripe_mock, "token": KEY}}
    with (
        open_target(contracts_of(tmp_path, text), NAME, settings) as target,
        pytest.raises(TargetUnavailable) as caught,
    ):
        list(target.scan("refunds"))
    assert caught.value.trouble == "unreadable"
    assert "400" in str(caught.value)


@shows("stripe", "absence", by="stripe-mock")
@pytest.mark.parametrize("name", ["coupons", "customers", "invoiceitems", "products", "webhook_endpoints"])
def test_what_was_deleted_is_gone(api: Api, ask: Callable[..., Any], tmp_path: Path, name: str) -> None:
    """What Stripe says as it deletes one it shows from then on (docs.stripe.com/api/customers/delete)."""
    deleted = ask("DELETE", f"/{name}/any_1")
    api.on(f"/v1/{name}/any_1", lambda handler: handler.send(200, json.dumps(deleted).encode()))
    text = '[targets.subject]\nkind = "http"\npreset = "stripe"\n' + text_of(name)
    with opened(tmp_path, api, text, token=KEY) as target:
        assert target.read([row(name, "any_1")])[0].row is None
    assert deleted["deleted"] is True


def test_a_key_that_is_another_path_names_no_row(target: Target, stripe_mock: str, tmp_path: Path) -> None:
    """stripe-mock reads `%2F` as a slash; the form of a key keeps such keys away from it."""
    odd = [row("customers", key) for key in ("cus_1/tax_ids", "search")]
    for one in odd:
        with pytest.raises(TargetUnavailable) as caught:
            target.read([one])
        assert caught.value.trouble == "unreadable"
    text = TEXT.replace('get = "/customers/{id}"', 'get = "/customers/{id}"\nkey_form = { id = "cus_[A-Za-z0-9]+" }')
    with open_target(contracts_of(tmp_path, text), NAME, {NAME: {"url": stripe_mock, "token": KEY}}) as careful:
        assert [found.row is None for found in careful.read([*odd, row("customers", "cus_1")])] == [True, True, False]


@shows("stripe", "throttling", by="stripe-mock")
@pytest.mark.parametrize("token", [SECRET, "sk_live_1", "pk_test_1"])
def test_other_keys_are_refused(stripe_mock: str, tmp_path: Path, token: str) -> None:
    settings = {NAME: {"url": stripe_mock, "token": token}}
    with (
        open_target(contracts_of(tmp_path, TEXT), NAME, settings) as target,
        pytest.raises(TargetUnavailable) as caught,
    ):
        target.read([row("charges", "ch_1")])
    assert caught.value.trouble == "refused"
    assert token not in str(caught.value)
