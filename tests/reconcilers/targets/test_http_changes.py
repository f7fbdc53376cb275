"""What an HTTP API tells of changes, as the contract declares it; a server that tells no order is no answer."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from counterfoil_reconcilers.contracts import ContractError
from counterfoil_reconcilers.targets import http
from counterfoil_reconcilers.targets.port import Target, TargetUnavailable
from tests.reconcilers.targets.conformance import contracts_of
from tests.reconcilers.targets.http_api import CONTRACT, Api, Handler, opened, says, serving
from tests.reconcilers.targets.watching import changed, watched

SWEPT = CONTRACT.replace("timeout_seconds", 'writers = "exclusive"\ntimeout_seconds')
TELLING = SWEPT + 'changes = { path = "/changes", query = { since = "{since}" }, at = "at" }\n'


@pytest.fixture
def api() -> Iterator[Api]:
    with serving() as server:
        yield server


def position(target: Target, since: str | None = None) -> str | None:
    return watched(target).position("items", None, since)


def told(*places: Any, **more: Any) -> Any:
    return says([{"id": str(number), "status": "paid", "at": place} | more for number, place in enumerate(places)])


@pytest.mark.parametrize(
    ("places", "highest", "asked"),
    [
        ([3, 12, 7], 12, "since=12"),
        ([1.5, 1], 1.5, "since=1.5"),
        (["2026-01-31 12:00:00Z", "2026-01-30 13:00:00Z"], "2026-01-31 12:00:00Z", "since=2026-01-31%2012%3A00%3A00Z"),
    ],
)
def test_the_highest_place_is_where_changes_are_asked_from(
    api: Api, tmp_path: Path, places: list[Any], highest: Any, asked: str
) -> None:
    api.on("/changes", told(*places))
    with opened(tmp_path, api, TELLING) as target:
        first = position(target)
        assert api.paths() == ["/changes"], "of what is not known yet, all"
        assert len(changed(target, first)) == len(places)
        assert api.paths()[1:] == [f"/changes?{asked}"]
        api.on("/changes", told())
        assert position(target, first) == first, "nothing newer is there"
        api.on("/changes", told(*places[:1]))
        assert position(target, first) == first, "what is newest may go"
        assert position(target, "[]") == position(target), "and its kind may change"
        assert highest in places


@pytest.mark.parametrize(
    ("places", "said"),
    [([1, "2"], "both texts and numbers"), ([None], "without a time or number at at"), ([True], "without a time")],
)
def test_places_without_an_order_are_no_answer(api: Api, tmp_path: Path, places: list[Any], said: str) -> None:
    api.on("/changes", told(*places))
    with opened(tmp_path, api, TELLING) as target, pytest.raises(TargetUnavailable, match=said) as caught:
        position(target)
    assert caught.value.trouble == "unreadable"


def test_a_row_that_says_it_is_gone_is_told_as_gone(api: Api, tmp_path: Path) -> None:
    api.on("/changes", told(1, 2, deleted=True))
    with opened(tmp_path, api, TELLING + 'gone = "deleted"\n') as target:
        assert changed(target, None) == {"0": None, "1": None}


def test_rows_that_a_list_shows_in_part_are_read_by_their_keys(api: Api, tmp_path: Path) -> None:
    api.on("/changes", told(1, 2))
    api.on("/items/0", says({"id": "0", "status": "open"}))
    api.on("/items", says([]))
    with opened(tmp_path, api, TELLING.replace(" }\n", ", keys_only = true }\n")) as target:
        assert changed(target, None) == {"0": "open", "1": None}


def test_nothing_that_changed_is_believed_once_the_probe_answers(api: Api, tmp_path: Path) -> None:
    api.on("/changes", told())
    with opened(tmp_path, api, TELLING + 'probe = "/alive"\n') as target:
        with pytest.raises(TargetUnavailable, match="can't be believed"):
            changed(target, None)
        api.on("/alive", says({}))
        assert changed(target, None) == {}


def test_a_list_that_takes_long_gives_what_came_by_then(
    api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any place that was seen will do for a beginning: what changes later stands no earlier."""

    def on_and_on(handler: Handler) -> None:
        number = int(handler.api.requests[-1].query.get("from", ["0"])[0])
        says([{"id": str(number), "at": number}], headers={"Link": f'</changes?from={number + 1}>; rel="next"'})(
            handler
        )

    api.on("/changes", on_and_on)
    monkeypatch.setattr(http, "_NEWEST_SECONDS", 0.5)
    with opened(tmp_path, api, TELLING + 'pages = { style = "link" }\n') as target:
        assert int(position(target) or 0) > 0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('changes = { path = "/changes", at = "at" }', "no place for since"),
        ('changes = { path = "/c/{since}", query = { a = "{since}" }, at = "at" }', "since, which nothing can fill"),
        ('changes = { path = "/c", query = { a = "{since}", b = "{ref}" }, at = "at" }', "ref, which nothing can fill"),
        ('changes = { path = "/c", query = { a = "after {since}" }, at = "at" }', "say how that writes texts"),
        ('changes = { path = "/c", query = { a = "{since}" } }', "lacks the key at"),
        ('changes = { path = "/c", query = { a = "{since}" }, at = "at", late_seconds = -1 }', "late_seconds is wrong"),
        ('changes = { column = "updated_at" }', "has no key column"),
    ],
)
def test_what_can_not_be_meant_is_refused_with_its_line(tmp_path: Path, line: str, said: str) -> None:
    with pytest.raises(ContractError, match=said) as caught:
        contracts_of(tmp_path, f"{SWEPT}{line}\n")
    assert caught.value.line == SWEPT.count("\n") + 2


def test_the_check_looks_at_what_the_list_of_changes_shows(api: Api, tmp_path: Path) -> None:
    api.on("/items", told(1))
    for text, said in (
        (TELLING, "nothing at /changes"),
        (TELLING.replace('"at"', '"when"'), "no time or number at when"),
    ):
        with opened(tmp_path, api, text) as target:
            [mistake] = target.check()
        assert said in str(mistake)
        assert mistake.line == SWEPT.count("\n") + 2
        api.on("/changes", told(1))
