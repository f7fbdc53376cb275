"""Rows of an HTTP target: that one is not there, or gone, or another one, is never believed lightly."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from counterfoil_reconcilers.targets.port import TargetUnavailable, Trouble
from tests.reconcilers.targets.conformance import item
from tests.reconcilers.targets.http_api import CONTRACT, Api, opened, row_of, says, serving


@pytest.fixture
def api() -> Iterator[Api]:
    with serving() as server:
        server.on("/items", says([{"id": "1"}]))
        server.on("/items/1", says({"id": "1"}))
        yield server


def test_not_there_is_believed_once_the_list_answers(api: Api, tmp_path: Path) -> None:
    with opened(tmp_path, api) as target:
        assert [row.row is None for row in target.read([item("7", None), item("8", None), item("1", None)])] == [
            True, True, False,
        ]  # fmt: skip
    assert api.paths().count("/items") == 1
    assert sorted(api.paths()) == ["/items", "/items/1", "/items/7", "/items/8"]


@pytest.mark.parametrize(
    ("status", "trouble"), [(404, "unreadable"), (403, "refused"), (500, "away"), (429, "throttled")]
)
def test_not_there_is_not_believed_while_the_list_does_not_answer(
    api: Api, tmp_path: Path, status: int, trouble: Trouble
) -> None:
    api.on("/items", says({}, status, headers={"Retry-After": "3"}))
    with opened(tmp_path, api) as target, pytest.raises(TargetUnavailable, match="can't be believed") as caught:
        target.read([item("7", None)])
    assert caught.value.trouble == trouble
    assert (caught.value.retry_after is None) == (status == 404)


def test_only_declared_statuses_say_that_a_row_is_not_there(api: Api, tmp_path: Path) -> None:
    api.on("/items/x", says({"error": "not a number"}, 422))
    with opened(tmp_path, api) as target, pytest.raises(TargetUnavailable, match="422"):
        target.read([item("x", None)])
    with opened(tmp_path, api, CONTRACT + "absent = [404, 422]\n") as target:
        assert target.read([item("x", None)])[0].row is None


def test_a_row_that_says_it_was_deleted_is_gone(api: Api, tmp_path: Path) -> None:
    rows = [{"id": str(key), "deleted_at": gone} for key, gone in enumerate([None, "2026-01-01", False, True, ""])]
    for row in rows:
        api.on(f"/items/{row['id']}", says(row))
    api.on("/items", says(rows))
    with opened(tmp_path, api, CONTRACT + 'gone = "deleted_at"\n') as target:
        read = target.read([item(str(key), None) for key in range(5)])
        assert [row.row is None for row in read] == [False, True, False, True, False]
        assert [row.address.row.key[0] for row in target.scan("items")] == ["0", "2", "4"]


def test_a_row_may_be_gone_by_what_a_field_holds(api: Api, tmp_path: Path) -> None:
    rows = [{"id": str(key), "active": held} for key, held in enumerate([True, False, None, 0, "false"])]
    rows.append({"id": "5"})
    for row in rows:
        api.on(f"/items/{row['id']}", says(row))
    api.on("/items", says(rows))
    with opened(tmp_path, api, CONTRACT + 'gone = { at = "active", holds = false }\n') as target:
        read = target.read([item(str(key), None) for key in range(6)])
        assert [row.row is None for row in read] == [False, True, False, False, False, False]
        assert [row.address.row.key[0] for row in target.scan("items")] == ["0", "2", "3", "4", "5"]
    with opened(tmp_path, api, CONTRACT + 'gone = { at = "$.active", holds = "false" }\n') as target:
        assert [row.row is None for row in target.read([item("1", None), item("4", None)])] == [False, True]


@pytest.mark.parametrize(("asked", "held", "is_it"), [("017", 17, True), (" 17", 17, True), ("17.0", 17, False),
                                                      ("017", "17", False), ("AB", "ab", False)])  # fmt: skip
def test_the_row_is_the_one_that_was_asked_for(api: Api, tmp_path: Path, asked: str, held: object, is_it: bool) -> None:
    api.on(f"/items/{asked.replace(' ', '%20')}", says({"id": held}))
    target = opened(tmp_path, api)
    if is_it:
        assert row_of(target, asked) is not None
        return
    with pytest.raises(TargetUnavailable, match="another row"):
        row_of(target, asked)


def test_the_case_of_a_key_may_not_count(api: Api, tmp_path: Path) -> None:
    api.on("/items/AB", says({"id": "ab"}))
    assert row_of(opened(tmp_path, api, CONTRACT + "fields.id = { ignore_case = true }\n"), "AB") is not None


def test_a_key_of_another_form_names_no_row_and_is_not_asked_for(api: Api, tmp_path: Path) -> None:
    target = opened(tmp_path, api, CONTRACT + 'key_form = { id = "[0-9]+" }\n')
    with target:
        found = target.read([item(key, None) for key in ("x", "1\n", "1", "1; DROP")])
    assert [row.row is None for row in found] == [True, True, False, True]
    assert api.paths() == ["/items/1"]
