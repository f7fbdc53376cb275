"""Presets of vendors' APIs, checked against documented shapes, not against the live services.

Each answer below is written by hand after an example in the vendor's documentation, cut down to what matters. What each
preset is held against besides is in test_http_stripe_mock.py and test_http_recorded.py.
"""

import datetime as dt
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from counterfoil_reconcilers.contracts import ContractError
from counterfoil_reconcilers.rows import RowKey
from counterfoil_reconcilers.targets import http_options
from counterfoil_reconcilers.targets.http_options import HttpDefaults, find_preset, preset_names
from counterfoil_reconcilers.targets.port import Address, TargetUnavailable, Trouble
from counterfoil_reconcilers.touched import Search
from tests.reconcilers.targets.conformance import NAME, contracts_of
from tests.reconcilers.targets.http_api import Api, Handler, Reply, opened, says, sends, serving


@dataclass(frozen=True)
class Vendor:
    """A contract with one resource `rows` on a vendor's preset, what its API answers, and what that means."""

    resource: str
    one: tuple[str, Any]  # the path of a row, and the answer
    key: str
    missing: tuple[int, Any]
    pages: dict[str, list[tuple[dict[str, str], Any]]]  # by path: what the query must hold, and the answer
    listed: list[str]
    throttled: tuple[int, Any, dict[str, str]]
    wait: dt.timedelta | None
    refused: tuple[int, Any]
    window: dt.timedelta | None
    headers: dict[str, str] = field(default_factory=dict)
    gone: Any = None
    search: tuple[str, str, list[str]] | None = None  # a field, a value, and the rows found


CHARGE = {"id": "ch_1", "object": "charge", "amount": 1099, "currency": "usd", "metadata": {}, "paid": True}
ISSUE = {"id": 1, "number": 1347, "state": "open", "title": "Found a bug", "user": {"login": "octocat"}}
JIRA = {"id": "10002", "key": "ED-1", "self": "https://x/rest/api/3/issue/10002",
        "fields": {"summary": "Main order flow broken", "updated": "2026-01-01T09:00:00.000+0000"}}  # fmt: skip
TICKET = {
    "id": 35436,
    "subject": "Help, my printer is on fire!",
    "status": "open",
    "updated_at": "2026-01-01T09:00:00Z",
}
CASE = {"attributes": {"type": "Case", "url": "/services/data/v62.0/sobjects/Case/500D000000PDmXrIAL"},
        "Id": "500D000000PDmXrIAL", "Subject": "Printer", "IsDeleted": False,
        "SystemModstamp": "2026-01-01T09:00:00.000+0000"}  # fmt: skip

VENDORS = {
    "stripe": Vendor(
        resource='get = "/charges/{id}"\nlist = "/charges"\n'
        "find = { path = \"/charges/search\", query = { query = \"currency:{currency:quoted}\" }, "
        'pages = { style = "cursor", param = "page", at = "$.next_page", more = "$.has_more" } }',
        one=("/v1/charges/ch_1", CHARGE), key="ch_1", gone={"id": "ch_1", "object": "charge", "deleted": True},
        missing=(404, {"error": {"code": "resource_missing", "type": "invalid_request_error", "param": "id"}}),
        pages={
            "/v1/charges": [
                ({}, {"object": "list", "has_more": True, "data": [CHARGE, {**CHARGE, "id": "ch_2"}]}),
                ({"starting_after": "ch_2"}, {"object": "list", "has_more": False, "data": [{**CHARGE, "id": "ch_3"}]}),
            ],
            "/v1/charges/search": [
                ({"query": "currency:'usd'"}, {"object": "search_result", "has_more": True, "next_page": "p2",
                                               "data": [CHARGE]}),
                ({"page": "p2"}, {"object": "search_result", "has_more": False, "next_page": None, "data": []}),
            ],
        },
        listed=["ch_1", "ch_2", "ch_3"], search=("currency", "usd", ["ch_1"]),
        throttled=(429, {"error": {"code": "rate_limit", "type": "invalid_request_error"}}, {}), wait=None,
        refused=(401, {"error": {"type": "invalid_request_error", "message": "Invalid API Key provided"}}),
        window=dt.timedelta(hours=24), headers={"authorization": "Bearer key"},
    ),
    "github": Vendor(
        resource='get = "/repos/octocat/hello/issues/{number}"\n'
        'list = { path = "/repos/octocat/hello/issues", query = { state = "all" } }\n'
        'find = { path = "/search/issues", query = { q = "repo:octocat/hello {title:phrase}" }, items = "$.items[*]", '
        'pages = { style = "link", size_param = "per_page", total = "$.total_count" } }',
        one=("/repos/octocat/hello/issues/1347", ISSUE), key="1347",
        missing=(404, {"message": "Not Found", "documentation_url": "https://docs.github.com/rest", "status": "404"}),
        pages={
            "/repos/octocat/hello/issues": [
                ({"state": "all"}, ([ISSUE], "/repositories/1/issues?per_page=100&page=2")),
            ],
            "/repositories/1/issues": [({"page": "2"}, ([{**ISSUE, "number": 1346}], None))],
            "/search/issues": [
                ({"q": 'repo:octocat/hello "Found a bug"'},
                 {"total_count": 1, "incomplete_results": False, "items": [ISSUE]}),
            ],
        },
        listed=["1347", "1346"], search=("title", "Found a bug", ["1347"]),
        throttled=(403, {"message": "API rate limit exceeded for user ID 1."},
                   {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1767268890",
                    "Date": "Thu, 01 Jan 2026 12:00:00 GMT"}), wait=dt.timedelta(seconds=90),
        refused=(403, {"message": "Resource not accessible by personal access token"}),
        window=None, headers={"accept": "application/vnd.github+json", "x-github-api-version": "2022-11-28"},
    ),
    "jira": Vendor(
        resource='get = "/issue/{id}"\n'
        'list = { path = "/search/jql", query = { jql = "project = ED", fields = "*all" } }\n'
        'find = { path = "/search/jql", query = { jql = "summary ~ {summary:json}", fields = "*all" } }',
        one=("/rest/api/3/issue/10002", JIRA), key="10002",
        missing=(404, {"errorMessages": ["Issue does not exist or you do not have permission to see it."],
                       "errors": {}}),
        pages={
            "/rest/api/3/search/jql": [
                ({"fields": "*all"}, {"issues": [JIRA], "nextPageToken": "t2", "isLast": False}),
                ({"nextPageToken": "t2"}, {"issues": [{**JIRA, "id": "10003"}], "isLast": True}),
            ],
        },
        listed=["10002", "10003"],
        throttled=(429, {"message": "Rate limit exceeded"}, {"Retry-After": "5"}), wait=dt.timedelta(seconds=5),
        refused=(401, {"errorMessages": ["You do not have the permission to see the specified issue."]}),
        window=None,
    ),
    "zendesk": Vendor(
        resource='get = "/tickets/{id}"\nfound = "$.ticket"\nlist = "/tickets"\nitems = "$.tickets[*]"\n'
        'batch = { path = "/tickets/show_many", param = "ids", most = 100, pages = { style = "none" } }\n'
        'find = { path = "/search", query = { query = "type:ticket subject:{subject:phrase}" }, '
        'items = "$.results[*]", pages = { style = "next", at = "$.next_page" } }',
        one=("/api/v2/tickets/35436", {"ticket": TICKET}), key="35436",
        missing=(404, {"error": "RecordNotFound", "description": "Not found"}),
        pages={
            "/api/v2/tickets": [
                ({}, {"tickets": [TICKET], "meta": {"has_more": True, "after_cursor": "xxx"},
                                         "links": {"next": "https://x/api/v2/tickets?page[after]=xxx"}}),
                ({"page[after]": "xxx"}, {"tickets": [{**TICKET, "id": 35437}],
                                          "meta": {"has_more": False, "after_cursor": None}}),
            ],
            "/api/v2/tickets/show_many": [({"ids": "35436"}, {"tickets": [TICKET], "next_page": None, "count": 1})],
            "/api/v2/search": [
                ({"query": 'type:ticket subject:"Help, my printer is on fire!"'},
                 {"results": [TICKET], "next_page": None, "previous_page": None, "count": 1}),
            ],
        },
        listed=["35436", "35437"], search=("subject", "Help, my printer is on fire!", ["35436"]),
        throttled=(429, "Number of allowed API requests per minute exceeded", {"Retry-After": "93"}),
        wait=dt.timedelta(seconds=93), refused=(401, {"error": "Couldn't authenticate you"}),
        window=None,  # its keys are for the creation of tickets alone
    ),
    "salesforce": Vendor(
        resource='get = "/sobjects/Case/{Id}"\nkey_form = { Id = "[A-Za-z0-9]{18}" }\n'
        'list = { path = "/query", query = { q = "SELECT FIELDS(STANDARD) FROM Case" } }\n'
        'find = { path = "/query", query = { q = '
        '"SELECT FIELDS(STANDARD) FROM Case WHERE Subject = {Subject:quoted}" } }',
        one=("/services/data/v62.0/sobjects/Case/500D000000PDmXrIAL", CASE), key="500D000000PDmXrIAL",
        gone={**CASE, "IsDeleted": True},
        missing=(404, [{"errorCode": "NOT_FOUND", "message": "The requested resource does not exist"}]),
        pages={
            "/services/data/v62.0/query": [
                ({}, {"totalSize": 2, "done": False, "records": [CASE],
                      "nextRecordsUrl": "/services/data/v62.0/query/01gD0000002HU6KIAW-2000"}),
            ],
            "/services/data/v62.0/query/01gD0000002HU6KIAW-2000": [
                ({}, {"totalSize": 2, "done": True, "records": [{**CASE, "Id": "500D000000PDmXsIAL"}]}),
            ],
        },
        listed=["500D000000PDmXrIAL", "500D000000PDmXsIAL"],
        throttled=(403, [{"message": "TotalRequests Limit exceeded.", "errorCode": "REQUEST_LIMIT_EXCEEDED"}], {}),
        wait=None, refused=(401, [{"message": "Session expired or invalid", "errorCode": "INVALID_SESSION_ID"}]),
        window=None,
    ),
}  # fmt: skip


def text_of(name: str) -> str:
    key = {"github": "number", "salesforce": "Id"}.get(name, "id")
    target = f'[targets.subject]\nkind = "http"\npreset = "{name}"\n'
    return f'{target}[targets.subject.resources.rows]\nkey = ["{key}"]\n{VENDORS[name].resource}\n'


def paged(pages: list[tuple[dict[str, str], Any]]) -> Reply:
    """Answers the page whose query is asked for: the last that fits."""

    def reply(handler: Handler) -> None:
        asked = {name: values[0] for name, values in handler.api.requests[-1].query.items()}
        fitting = [said for wanted, said in pages if wanted.items() <= asked.items()]
        if not fitting:
            says({}, 400)(handler)
        elif isinstance(fitting[-1], tuple):
            document, following = fitting[-1]
            link = {"Link": f'<{handler.api.url}{following}>; rel="next"'} if following else {}
            says(document, headers=link)(handler)
        else:
            says(fitting[-1])(handler)

    return reply


@pytest.fixture(params=sorted(VENDORS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def vendor(name: str) -> Vendor:
    return VENDORS[name]


@pytest.fixture
def api(vendor: Vendor) -> Iterator[Api]:
    with serving() as server:
        for path, pages in vendor.pages.items():
            server.on(path, paged(pages))
        server.on(vendor.one[0], says(vendor.one[1]))
        yield server


def row(key: str) -> Address:
    return Address(None, RowKey("rows", (key,)))


def test_every_preset_has_a_vendor_here() -> None:
    assert sorted(VENDORS) == preset_names()
    for name in VENDORS:
        HttpDefaults.model_validate(find_preset(name).defaults)


def test_a_row_is_read_and_listed(api: Api, vendor: Vendor, name: str, tmp_path: Path) -> None:
    with opened(tmp_path, api, text_of(name), token="key") as target:
        assert target.check() == []
        [found] = target.read([row(vendor.key)])
        listed = [one.address.row.key[0] for one in target.scan("rows")]
    assert found.row is not None
    assert found.row.problem is None
    assert listed == vendor.listed
    assert vendor.headers.items() <= api.requests[-1].headers.items()
    size = {"stripe": "limit", "github": "per_page", "jira": "maxResults", "zendesk": "page[size]"}.get(name)
    assert size is None or [request.query.get(size) for request in api.requests].count(["100"]) >= 1
    versioned = {"jira": "2026-01-01T09:00:00.000+0000", "zendesk": "2026-01-01T09:00:00Z",
                 "salesforce": "2026-01-01T09:00:00.000+0000"}  # fmt: skip
    assert found.row.version == versioned.get(name)


def test_a_row_that_is_not_there_is_not(api: Api, vendor: Vendor, name: str, tmp_path: Path) -> None:
    for path in (vendor.one[0], "/api/v2/tickets/show_many"):
        api.on(path, says(vendor.missing[1], vendor.missing[0]) if "many" not in path else says({"tickets": []}))
    with opened(tmp_path, api, text_of(name), token="key") as target:
        assert target.read([row(vendor.key)])[0].row is None
        if vendor.gone is not None:
            api.on(vendor.one[0], says(vendor.gone))
            assert target.read([row(vendor.key)])[0].row is None


def test_a_search_finds_what_it_asks_for(api: Api, vendor: Vendor, name: str, tmp_path: Path) -> None:
    column, value, expected = (
        vendor.search
        or {
            "jira": ("summary", "Main order flow broken", vendor.listed),
            "salesforce": ("Subject", "Printer", vendor.listed),
        }[name]
    )
    with opened(tmp_path, api, text_of(name), token="key") as target:
        found = target.find(None, [Search("rows", ((column, value),))], 10)
        assert [one.address.row.key[0] for one in found] == expected


@pytest.mark.parametrize("what", ["throttled", "refused"])
def test_its_troubles_are_told_apart(api: Api, vendor: Vendor, name: str, tmp_path: Path, what: Trouble) -> None:
    status, document, *more = vendor.throttled if what == "throttled" else vendor.refused
    headers = dict(more[0]) if more else {}
    date = headers.pop("Date", None)
    for path in [vendor.one[0], *vendor.pages]:
        api.on(path, with_date(status, document, headers, date))
    with opened(tmp_path, api, text_of(name), token="key") as target, pytest.raises(TargetUnavailable) as caught:
        target.read([row(vendor.key)])
    assert caught.value.trouble == what
    assert caught.value.retry_after == (vendor.wait if what == "throttled" else None)


def with_date(status: int, document: Any, headers: dict[str, str], date: str | None) -> Reply:
    if date is None:
        return says(document, status, headers)

    def reply(handler: Handler) -> None:
        handler.date_time_string = lambda timestamp=None: date  # type: ignore[method-assign]
        says(document, status, headers)(handler)

    return reply


def test_its_windows_are_the_documented_ones(vendor: Vendor, name: str, tmp_path: Path) -> None:
    capabilities = contracts_of(tmp_path, text_of(name)).targets[NAME].capabilities
    assert capabilities.idempotent_for == vendor.window
    searched = "find" in vendor.resource
    assert capabilities.read_lag == dt.timedelta(
        seconds={"stripe": 60, "github": 120, "jira": 60, "zendesk": 300}.get(name, 0) if searched else 0
    )
    own = text_of(name).replace("preset", "idempotent_for_seconds = 60\nread_lag_seconds = 1\npreset")
    capabilities = contracts_of(tmp_path, own).targets[NAME].capabilities
    assert capabilities.idempotent_for == dt.timedelta(seconds=60)
    assert capabilities.read_lag == dt.timedelta(seconds=1)


def test_the_contract_s_own_keys_count(tmp_path: Path) -> None:
    own = 'absent = [410]\nheaders = { X-Github-Api-Version = "2026-01-01", X-Own = "1" }\npreset'
    options = contracts_of(tmp_path, text_of("github").replace("preset", own)).targets[NAME].options
    said = options.model_dump()
    assert said["absent"] == [410]
    assert said["headers"]["Accept"] == "application/vnd.github+json"
    assert said["headers"]["X-Own"] == "1"
    assert said["version_header"] == "ETag"
    with pytest.raises(ContractError, match=r"line 4: .*pages"):
        contracts_of(tmp_path, text_of("github").replace("preset", "pages = 1\npreset"))


def test_every_preset_names_its_sources() -> None:
    folder = Path(http_options.__file__).with_name("presets")
    for file in folder.glob("*.toml"):
        text = file.read_text(encoding="utf-8")
        assert text.startswith("# ")
        assert "after " in text.splitlines()[0]
        assert tomllib.loads(text)["defaults"]


def test_a_plain_text_refusal_is_no_less_one(tmp_path: Path) -> None:
    """Zendesk answers errors of the API's own level in plain text."""
    with serving() as api:
        path = VENDORS["zendesk"].one[0]
        api.on("/api/v2/tickets/show_many", says({"tickets": []}))
        api.on(path, sends(b"Couldn't authenticate you", 401, headers={"Content-Type": "text/plain"}))
        with (
            opened(tmp_path, api, text_of("zendesk"), token="key") as target,
            pytest.raises(TargetUnavailable) as caught,
        ):
            target.read([row("35436")])
    assert caught.value.trouble == "refused"
