"""Lists, searches and batches of an HTTP target, on a server that pages as APIs do, and as none should."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from counterfoil_reconcilers.rows import RowKey
from counterfoil_reconcilers.targets.port import Address, TargetUnavailable
from counterfoil_reconcilers.touched import Search
from tests.reconcilers.targets.conformance import item
from tests.reconcilers.targets.http_api import CONTRACT, Api, Handler, Reply, opened, says, serving

ROWS = [{"id": number, "status": "paid" if number % 2 else "open"} for number in range(7)]
LISTED = CONTRACT + 'items = "$.items[*]"\n'


@pytest.fixture
def api() -> Iterator[Api]:
    with serving() as server:
        yield server


def query_of(handler: Handler) -> Mapping[str, str]:
    last = handler.api.requests[-1]
    sent = {name: values[0] for name, values in last.query.items()}
    return sent | (json.loads(last.body) if last.body else {})


def paged(style: str, rows: list[dict[str, Any]] = ROWS, cap: int = 3) -> Reply:
    """Pages as such an API has them; never more than `cap` rows in one, whatever was asked for."""

    def reply(handler: Handler) -> None:
        asked = query_of(handler)
        start = {"number": lambda: (int(asked["page"]) - 1) * cap, "offset": lambda: int(asked["skip"]),
                 "cursor": lambda: int(asked.get("after", 0)), "next": lambda: int(asked.get("from", 0)),
                 "link": lambda: int(asked.get("from", 0))}[style]()  # fmt: skip
        following = start + cap if start + cap < len(rows) else None
        said: dict[str, Any] = {"items": rows[start : start + cap], "total": len(rows), "more": following is not None}
        address = f"/items?{urlencode({**asked, 'from': following})}"
        said |= {"cursor": following or 0} if style == "cursor" else {"next": following and address}
        link = {"Link": f'<{address}>; rel="next", </items>; rel="first"'} if following and style == "link" else {}
        says(said, headers=link)(handler)

    return reply


PAGES = {
    "number": 'pages = { style = "number", param = "page", size_param = "size" }',
    "number with a total": 'pages = { style = "number", param = "page", total = "$.total" }',
    "offset": 'pages = { style = "offset", param = "skip" }',
    "offset with a total": 'pages = { style = "offset", param = "skip", total = "$.total" }',
    "cursor": 'pages = { style = "cursor", param = "after", at = "$.cursor", more = "$.more" }',
    "cursor that ends": 'pages = { style = "cursor", param = "after", at = "$.cursor" }',
    "next": 'pages = { style = "next", at = "$.next" }',
    "link": 'pages = { style = "link", size_param = "size", size = 5 }',
}


@pytest.mark.parametrize("pages", PAGES.values(), ids=PAGES)
def test_every_page_is_read_whatever_its_size(api: Api, tmp_path: Path, pages: str) -> None:
    style = pages.split('"')[1]
    api.on("/items", paged(style))
    with opened(tmp_path, api, f"{LISTED}{pages}\n") as target:
        assert [row.address.row.key[0] for row in target.scan("items")] == [str(row["id"]) for row in ROWS]


@pytest.mark.parametrize("pages", PAGES.values(), ids=PAGES)
def test_an_empty_list_is_one(api: Api, tmp_path: Path, pages: str) -> None:
    api.on("/items", paged(pages.split('"')[1], []))
    with opened(tmp_path, api, f"{LISTED}{pages}\n") as target:
        assert list(target.scan("items")) == []


@pytest.mark.parametrize(
    ("pages", "reply", "said"),
    [
        (PAGES["next"], says({"items": [], "next": "/items"}), "read already"),
        (PAGES["cursor"], says({"items": [], "cursor": "x", "more": True}), "read already"),
        (PAGES["cursor"], says({"items": [], "cursor": None, "more": True}), "not where"),
        (PAGES["cursor"], says({"items": [], "cursor": {"a": 1}, "more": True}), "no text"),
        (PAGES["next"], says({"items": [], "next": "http://127.0.0.2:1/items"}), "another host"),
        (PAGES["next"], says({"items": [], "next": "//elsewhere.example/items"}), "another host"),
        (PAGES["next"], says({"items": [], "next": "http://h:x/"}), "is none"),
        (PAGES["next"], lambda handler: says({"items": [], "next": handler.api.url.replace("//", "//a:b@")})(handler),
         "another host"),
        (PAGES["next"], says({"items": [], "next": ["/items"]}), "no text"),
        (PAGES["link"], says({"items": []}, headers={"Link": '<https://other.example/>; rel=next'}), "another host"),
        (PAGES["number with a total"], says({"items": [{"id": 1}], "total": "1"}), "no number"),
        (PAGES["number with a total"], says({"items": [], "total": 5}), "5 rows and showed 0"),
        (PAGES["offset with a total"], says({"items": [{"id": 1}, {"id": 2}], "total": 1}), "1 rows and showed 2"),
        (PAGES["number"], says({"items": [{"id": 1}]}), "twice"),
        (PAGES["next"], says({"rows": []}), "no list at"),
        (PAGES["next"], says({"items": {"id": 1}}), "no list at"),
        (PAGES["next"], says({"items": None}), "no list at"),
        (PAGES["next"], says({"items": [1]}), "other than rows"),
        (PAGES["next"], says({"items": [{"status": "paid"}]}), "without id"),
        (PAGES["next"], says({"items": []}, 404), "404"),
    ],
)  # fmt: skip
def test_a_list_that_is_none_is_no_answer(api: Api, tmp_path: Path, pages: str, reply: Reply, said: str) -> None:
    api.on("/items", reply)
    with opened(tmp_path, api, f"{LISTED}{pages}\n") as target, pytest.raises(TargetUnavailable) as caught:
        list(target.scan("items"))
    assert caught.value.trouble == "unreadable"
    assert said in caught.value.reason


def test_a_list_that_leads_on_for_ever_ends(api: Api, tmp_path: Path) -> None:
    def on_and_on(handler: Handler) -> None:
        number = int(query_of(handler).get("from", 0))
        says({"items": [], "next": f"/items?from={number + 1}"})(handler)

    api.on("/items", on_and_on)
    text = LISTED.replace("timeout_seconds", "sweep_seconds = 1\ntimeout_seconds") + PAGES["next"] + "\n"
    with opened(tmp_path, api, text) as target, pytest.raises(TargetUnavailable) as caught:
        list(target.scan("items"))
    assert caught.value.trouble == "away"


FIND = (
    LISTED
    + """\
[targets.subject.resources.items.find]
path = "/search"
"""
)


@pytest.mark.parametrize(
    ("query", "value", "sent"),
    [
        ('{ status = "{status}" }', "it's & <b>?", "it's & <b>?"),
        ('{ status = "s:{status:quoted}" }', "it's \\", "s:'it\\'s \\\\'"),
        ('{ status = "s eq {status:odata}" }', "it's", "s eq 'it''s'"),
        ('{ status = "s eq {status:json}" }', 'a "b"\n', 's eq "a \\"b\\"\\n"'),
        ('{ status = "s:{status:phrase}" }', 'a" OR s:"b', 's:"a  OR s: b"'),
        ('{ status = "s={status:number}" }', 12.0, "s=12"),
        ('{ status = "s={status:json}" }', 12.5, "s=12.5"),
        ('{ status = "s={status:json}" }', True, "s=true"),
    ],
)
def test_a_search_says_what_it_looks_for_and_believes_only_what_it_sees(
    api: Api, tmp_path: Path, query: str, value: Any, sent: str
) -> None:
    api.on("/search", says({"items": [{"id": 1, "status": value}, {"id": 2, "status": "else"}, {"id": 3}]}))
    with opened(tmp_path, api, f"{FIND}query = {query}\n") as target:
        found = target.find(None, [Search("items", (("status", value),))], 10)
    assert [row.address.row.key for row in found] == [("1",)]
    assert [request.query["status"] for request in api.requests] == [[sent]]


@pytest.mark.parametrize("value", [None, ["a"], {"a": 1}, "no number"])
def test_what_a_search_can_not_say_is_looked_for_in_the_whole_list(api: Api, tmp_path: Path, value: Any) -> None:
    api.on("/items", says({"items": [{"id": 1, "status": value}, {"id": 2, "status": 5}]}))
    with opened(tmp_path, api, f'{FIND}query = {{ status = "s={{status:number}}" }}\n') as target:
        found = target.find(None, [Search("items", (("status", value),))], 10)
    assert [row.address.row.key for row in found] == [("1",)]
    assert api.paths() == ["/items"]


def test_without_a_list_such_a_search_is_no_answer(api: Api, tmp_path: Path) -> None:
    text = FIND.replace('list = "/items"', 'probe = "/"') + 'query = { ref = "{ref}" }\n'
    with opened(tmp_path, api, text) as target, pytest.raises(TargetUnavailable, match="can't be searched by status"):
        target.find(None, [Search("items", (("status", "paid"),))], 10)
    assert api.requests == []


@pytest.mark.parametrize("value", ["\ud800", "a\0b"])
def test_what_no_row_can_hold_is_not_looked_for(api: Api, tmp_path: Path, value: str) -> None:
    with opened(tmp_path, api, f'{FIND}query = {{ status = "{{status}}" }}\n') as target:
        assert target.find(None, [Search("items", (("status", value),))], 10) == []
    assert api.requests == []


def test_a_declared_search_may_go_by_post_page_by_page(api: Api, tmp_path: Path) -> None:
    text = f"""{FIND}{PAGES["cursor"]}
[targets.subject.resources.items.find.post]
filter = {{ property = "status", is = "{{status}}", also = ["{{other}}", 1] }}
"""
    api.on("/search", paged("cursor"))
    with opened(tmp_path, api, text) as target:
        found = target.find(None, [Search("items", (("status", 'pa"id'),))], 10)
        assert found == []
        found = target.find(None, [Search("items", (("status", "paid"),))], 2)
    assert [row.address.row.key for row in found] == [("1",), ("3",)]
    assert {request.verb for request in api.requests} == {"POST"}
    assert json.loads(api.requests[0].body) == {"filter": {"property": "status", "is": 'pa"id', "also": [1]}}
    assert [json.loads(request.body).get("after") for request in api.requests] == [None, 3, 6, None, 3]


def test_no_more_rows_than_the_limit_and_no_more_pages_than_they_take(api: Api, tmp_path: Path) -> None:
    api.on("/items", paged("next"))
    with opened(tmp_path, api, f"{LISTED}{PAGES['next']}\n") as target:
        found = target.find(None, [Search("items", (("status", "paid"),))], 1)
    assert [row.address.row.key for row in found] == [("1",)]
    assert len(api.requests) == 1


@pytest.mark.parametrize("said", [True, 1, "timed out", ["shard 3"]])
def test_an_answer_that_says_that_it_is_not_all_is_none(api: Api, tmp_path: Path, said: object) -> None:
    text = f'{FIND}query = {{ status = "{{status}}" }}\n'.replace(
        "[targets.subject]", "[targets.subject]\nincomplete = '$.cut'"
    )
    search = [Search("items", (("status", "paid"),))]
    for path in ("/search", "/items"):
        api.on(path, says({"items": [{"id": 1, "status": "paid"}], "cut": said}))
    with opened(tmp_path, api, text) as target:
        with pytest.raises(TargetUnavailable, match="did not look through all") as caught:
            target.find(None, search, 10)
        assert caught.value.trouble == "away"
        with pytest.raises(TargetUnavailable, match="did not look through all"):
            list(target.scan("items"))
        nothings: list[Any] = [False, None, 0, "", []]
        for nothing in nothings:
            api.on("/search", says({"items": [{"id": 1, "status": "paid"}], "cut": nothing}))
            assert len(target.find(None, search, 10)) == 1


def test_rows_that_a_list_does_not_show_whole_are_read_by_key(api: Api, tmp_path: Path) -> None:
    api.on("/items", says({"items": [{"id": 1}, {"id": 2}, {"id": 3}]}))
    for row in ROWS[1:3]:
        api.on(f"/items/{row['id']}", says(row))
    text = LISTED.replace('list = "/items"', 'list = { path = "/items", keys_only = true }')
    with opened(tmp_path, api, text) as target:
        listed = list(target.scan("items"))
        found = target.find(None, [Search("items", (("status", "open"),))], 10)
    assert [row.row and row.row.doc for row in listed] == [{"id": 1.0, "status": "paid"}, {"id": 2.0, "status": "open"}]
    assert [row.address.row.key for row in found] == [("2",)]


BATCH = LISTED + 'batch = { path = "/many", param = "ids", most = 3 }\n'


def many(handler: Handler) -> None:
    """Brings what it has, and a row that nobody asked for."""
    ids = handler.api.requests[-1].query["ids"][0].split(",")
    says({"items": [row for row in ROWS if str(row["id"]) in ids] + [{"id": 99, "status": "paid"}]})(handler)


def test_many_keys_are_read_at_once_and_what_is_lacking_by_itself(api: Api, tmp_path: Path) -> None:
    api.on("/many", many)
    api.on("/items", says({"items": []}))
    wanted = [item(key, None) for key in ("0", "1", "2", "3", "77", "4,5", "", "5")]
    with opened(tmp_path, api, BATCH) as target:
        found = target.read(wanted)
    assert [row.address for row in found] == wanted
    assert [row.row is not None for row in found] == [True, True, True, True, False, False, False, True]
    assert [request.query["ids"] for request in api.requests if request.path.startswith("/many")] == [
        ["0,1,2"], ["3,77,5"],
    ]  # fmt: skip
    assert sorted(path for path in api.paths() if "many" not in path) == ["/items", "/items/4%2C5", "/items/77"]


def test_a_batch_may_repeat_its_parameter(api: Api, tmp_path: Path) -> None:
    api.on("/many", says({"items": ROWS}))
    with opened(tmp_path, api, BATCH.replace('"ids"', '"id[]", separator = ""')) as target:
        assert all(row.row for row in target.read([item("1", None), item("2", None)]))
    assert api.paths() == ["/many?id%5B%5D=1&id%5B%5D=2"]


TENANTS = """\
[targets.subject]
kind = "http"
[targets.subject.resources.items]
key = ["id"]
tenant = "account"
unheld = ["account"]
get = "/{account}/items/{id}"
list = "/{account}/items"
"""


def test_a_tenant_may_stand_in_the_path_alone(api: Api, tmp_path: Path) -> None:
    for name in ("acme", "bolt"):
        api.on(f"/{name}/items", says([{"id": name}]))
        api.on(f"/{name}/items/{name}", says({"id": name}))
    with opened(tmp_path, api, TENANTS) as target:
        assert target.check() == []
        found = target.read([item("acme", "acme"), item("bolt", "acme"), item("bolt", "bolt")])
        assert [row.row is not None for row in found] == [True, False, True]
        assert [(row.address.tenant, row.address.row.key) for row in target.scan("items", "bolt")] == [
            ("bolt", ("bolt",))
        ]
        with pytest.raises(TargetUnavailable, match="all tenants together"):
            list(target.scan("items"))
        with pytest.raises(TargetUnavailable, match="needs a tenant"):
            target.read([item("acme", None)])
        with pytest.raises(TargetUnavailable, match="for this tenant"):
            target.find(None, [Search("items", (("id", "acme"),))], 10)


def test_a_tenant_stands_in_its_field_and_nobody_owns_a_row_without_one(api: Api, tmp_path: Path) -> None:
    text = CONTRACT + 'tenant = "account"\nheld = { account = "$.owner.name" }\n'
    rows = [{"id": n, "owner": {"name": name}} for n, name in enumerate(["acme", "bolt", None])]
    api.on("/items", says(rows))
    for row in rows:
        api.on(f"/items/{row['id']}", says(row))
    api.on("/items/3", says({"id": 3}))
    with opened(tmp_path, api, text) as target:
        assert [row.row is not None for row in target.read([item(key, "acme") for key in "012"])] == [
            True,
            False,
            False,
        ]
        assert [row.address.row.key for row in target.scan("items", "acme")] == [("0",)]
        assert [row.address.tenant for row in target.scan("items")] == ["acme", "bolt", None]
        with pytest.raises(TargetUnavailable, match="without account"):
            target.read([item("3", "acme")])


def test_a_part_of_a_key_may_stand_in_the_path_alone(api: Api, tmp_path: Path) -> None:
    text = """\
[targets.subject]
kind = "http"
[targets.subject.resources.items]
key = ["repo", "id"]
get = "/repos/{repo}/items/{id}"
probe = "/repos/{repo}"
unheld = ["repo"]
"""
    api.on("/repos/a%2Fb", says({}))
    api.on("/repos/a%2Fb/items/1", says({"id": 1}))
    with opened(tmp_path, api, text) as target:
        wanted = [Address(None, RowKey("items", key)) for key in (("a/b", "1"), ("a/b", "2"))]
        assert [row.row is not None for row in target.read(wanted)] == [True, False]
        with pytest.raises(TargetUnavailable, match=r"can't be believed.*/repos/\{repo\} answered 404"):
            target.read([Address(None, RowKey("items", ("other", "1")))])


def test_that_nothing_is_there_is_held_against_the_probe(api: Api, tmp_path: Path) -> None:
    """An API may show an empty list to whom it does not know."""
    api.on("/items", says({"items": []}))
    api.on("/me", says({"name": "counterfoil"}), says({}, 403), says({}, 403))
    with opened(tmp_path, api, LISTED + 'probe = "/me"\n') as target:
        assert list(target.scan("items")) == []
        with pytest.raises(TargetUnavailable, match="can't be believed") as caught:
            list(target.scan("items"))
        assert caught.value.trouble == "refused"
        with pytest.raises(TargetUnavailable, match="can't be believed"):
            target.find(None, [Search("items", (("status", "paid"),))], 10)


def test_a_search_by_pages_that_shift_is_no_answer_either(api: Api, tmp_path: Path) -> None:
    api.on("/items", says({"items": ROWS[:2]}), says({"items": ROWS[1:3]}), says({"items": []}))
    with (
        opened(tmp_path, api, f"{LISTED}{PAGES['number']}\n") as target,
        pytest.raises(TargetUnavailable, match="twice") as caught,
    ):
        target.find(None, [Search("items", (("status", "none"),))], 10)
    assert caught.value.trouble == "unreadable"


def test_versions_come_from_a_header_or_a_field(api: Api, tmp_path: Path) -> None:
    api.on("/items/1", says({"id": 1, "rev": 7, "meta": {"at": "noon"}}, headers={"ETag": 'W/"x"'}))
    for key, expected in (('version_header = "ETag"', 'W/"x"'), ('version_field = "rev"', "7"),
                          ('version_field = "$.meta.at"', "noon"), ('version_field = "none"', None)):  # fmt: skip
        with opened(tmp_path, api, f"{CONTRACT}{key}\n") as target:
            row = target.read([item("1", None)])[0].row
            assert row is not None
            assert row.version == expected
