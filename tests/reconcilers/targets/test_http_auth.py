"""Credentials of HTTP targets: sent as declared, renewed once, taken anew from files, and never shown."""

import base64
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from counterfoil.errors import SettingsError
from counterfoil_reconcilers.targets.opening import open_target
from counterfoil_reconcilers.targets.port import TargetUnavailable, Trouble
from tests.reconcilers.targets.conformance import NAME, SECRET, contracts_of, item
from tests.reconcilers.targets.http_api import CONTRACT, Api, Handler, Reply, opened, row_of, says, sends, serving

CLIENT = {"client_id": "client 1", "client_secret": f"{SECRET}:/+"}


@pytest.fixture
def api() -> Iterator[Api]:
    with serving() as server:
        server.on("/items", says([]))
        server.on("/items/1", says({"id": "1"}))
        yield server


def guarded(*tokens: str, refusal: int = 401) -> Reply:
    """Takes these tokens alone."""

    def reply(handler: Handler) -> None:
        good = handler.headers.get("Authorization") in [f"Bearer {token}" for token in tokens]
        row = {"id": handler.path.rpartition("/")[2]}
        says(row if good else {}, 200 if good else refusal)(handler)

    return reply


def sent(api: Api, path: str = "/items/1") -> list[str | None]:
    return [request.headers.get("authorization") for request in api.requests if request.path == path]


def test_a_token_goes_into_the_header_that_the_contract_names(api: Api, tmp_path: Path) -> None:
    text = CONTRACT.replace("timeout_seconds", 'auth_header = "X-Api-Key"\nauth_scheme = ""\ntimeout_seconds')
    assert row_of(opened(tmp_path, api, text, token=SECRET)) is not None
    assert api.requests[0].headers["x-api-key"] == SECRET
    assert "authorization" not in api.requests[0].headers


def test_user_and_password_go_by_basic(api: Api, tmp_path: Path) -> None:
    assert row_of(opened(tmp_path, api, user="ann@example.com/token", password="pä ss")) is not None
    assert sent(api) == ["Basic " + base64.b64encode("ann@example.com/token:pä ss".encode()).decode()]


@pytest.mark.parametrize("refusal", [401, 403])
def test_a_token_file_that_is_rotated_is_taken_up(api: Api, tmp_path: Path, refusal: int) -> None:
    file = tmp_path / "token"
    file.write_text("old\n")
    api.on("/items/1", guarded("old"))
    with opened(tmp_path, api, token_path=str(file)) as target:
        assert target.read([item("1", None)])[0].row is not None
        api.on("/items/1", guarded("new", refusal=refusal))
        with pytest.raises(TargetUnavailable) as caught:
            target.read([item("1", None)])
        assert caught.value.trouble == "refused"
        file.write_text("new\n")
        assert target.read([item("1", None)])[0].row is not None
        file.write_text("newest\n")
        target.close()
        api.on("/items/1", guarded("newest", refusal=refusal))
        assert target.read([item("1", None)])[0].row is not None
    assert sent(api) == [f"Bearer {token}" for token in ("old", "old", "old", "new", "newest")]


@pytest.mark.parametrize("content", [None, b"", b" \n", b"two\nlines", b"\xff", b"t\x00k"])
def test_a_token_file_that_holds_no_token_says_so(api: Api, tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(TargetUnavailable) as caught:
        row_of(opened(tmp_path, api, token_path=str(file)))
    assert caught.value.trouble == "refused"
    assert "TOKEN" in caught.value.reason
    assert "lines" not in caught.value.reason
    assert api.requests == []


@pytest.mark.parametrize("way", ["basic", "post"])
def test_a_client_gets_its_token_and_keeps_it(api: Api, tmp_path: Path, way: str) -> None:
    api.on("/token", says({"access_token": "t1", "token_type": "bearer", "expires_in": 3600}))
    api.on("/items/1", guarded("t1"))
    settings = {**CLIENT, "token_url": f"{api.url}/token", "scope": "items:read", "client_auth": way}
    with opened(tmp_path, api, **settings) as target:
        for _ in range(3):
            target.read([item("1", None)])
    [grant] = [request for request in api.requests if request.path == "/token"]
    form = parse_qs(grant.body.decode())
    assert grant.verb == "POST"
    assert (form["grant_type"], form["scope"]) == (["client_credentials"], ["items:read"])
    if way == "post":
        assert (form["client_id"], form["client_secret"]) == ([CLIENT["client_id"]], [CLIENT["client_secret"]])
        assert "authorization" not in grant.headers
    else:  # each form-urlencoded first: RFC 6749, section 2.3.1
        expected = base64.b64encode(f"client+1:{SECRET}%3A%2F%2B".encode()).decode()
        assert grant.headers["authorization"] == f"Basic {expected}"
        assert "client_secret" not in form


def test_a_token_that_is_refused_is_renewed_once(api: Api, tmp_path: Path) -> None:
    api.on("/token", *(says({"access_token": f"t{n}", "expires_in": 3600}) for n in (1, 2)))
    api.on("/items/1", guarded("t1"))
    settings = {**CLIENT, "token_url": f"{api.url}/token"}
    with opened(tmp_path, api, **settings) as target:
        target.read([item("1", None)])
        api.on("/items/1", guarded("t2"))
        assert target.read([item("1", None)])[0].row is not None
        api.on("/items/1", guarded("t3"))
        with pytest.raises(TargetUnavailable) as caught:
            target.read([item("1", None)])
    assert caught.value.trouble == "refused"
    assert sent(api) == ["Bearer t1", "Bearer t1", "Bearer t2", "Bearer t2"]


def test_requests_at_the_same_time_share_one_renewal(api: Api, tmp_path: Path) -> None:
    api.on("/token", *(says({"access_token": f"t{n}", "expires_in": 3600}) for n in range(1, 99)))
    for key in range(30):
        api.on(f"/items/{key}", guarded("t2"))
    with opened(tmp_path, api, **CLIENT, token_url=f"{api.url}/token") as target:
        found = target.read([item(str(key), None) for key in range(30)])
    assert all(one.row is not None for one in found)
    assert api.paths().count("/token") == 2


def test_a_token_is_renewed_before_it_expires(api: Api, tmp_path: Path) -> None:
    api.on("/token", *(says({"access_token": f"t{n}", "expires_in": 1}) for n in (1, 2)))
    with opened(tmp_path, api, **CLIENT, token_url=f"{api.url}/token") as target:
        target.read([item("1", None)])
        time.sleep(1.0)
        target.read([item("1", None)])
    assert sent(api) == ["Bearer t1", "Bearer t2"]


@pytest.mark.parametrize(
    ("reply", "trouble", "said"),
    [
        (says({"error": "invalid_client", "error_description": SECRET}, 401), "refused", "invalid_client"),
        (says({"error": SECRET}, 400), "refused", "(400)"),
        (sends(b"<html>", 403, headers={"Content-Type": "text/html"}), "refused", "(403)"),
        (says({}, 429, headers={"Retry-After": "9"}), "throttled", "fewer"),
        (says({}, 503), "away", "503"),
        (says({}, 302, headers={"Location": "/items/1"}), "unreadable", "redirect"),
        (says({"token": SECRET}), "unreadable", "no access token"),
        (says({"access_token": f"{SECRET}\r\nX: y"}), "unreadable", "no access token"),
        (sends(b"x" * 9_000_000), "unreadable", "no access token"),
    ],
)
def test_a_token_endpoint_without_a_token_is_no_answer(
    api: Api, tmp_path: Path, reply: Reply, trouble: Trouble, said: str
) -> None:
    api.on("/token", reply)
    with pytest.raises(TargetUnavailable) as caught:
        row_of(opened(tmp_path, api, **CLIENT, token_url=f"{api.url}/token"))
    assert caught.value.trouble == trouble
    assert said in caught.value.reason
    assert SECRET not in str(caught.value)
    assert sent(api) == []


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"token": SECRET, "token_path": "/x"}, "TOKEN and TOKEN_PATH"),
        ({"token": SECRET, "user": "a", "password": SECRET}, "several ways"),
        ({"user": "a"}, "USER and PASSWORD"),
        ({"user": "a:b", "password": SECRET}, "colon in USER"),
        ({"password": SECRET}, "USER and PASSWORD"),
        ({"client_id": "a", "client_secret": SECRET}, "TOKEN_URL"),
        ({"url": f"https://ann:{SECRET}@host"}, "COUNTERFOIL_TARGETS__SUBJECT__URL holds more than host and path"),
        ({"url": f"https://host?token={SECRET}"}, "URL holds more than host and path"),
        ({"url": f"ftp://{SECRET}"}, "URL is no address of an API"),
        ({"url": f"https://[{SECRET}"}, "URL is no address of an API"),
        ({"client_auth": SECRET}, "CLIENT_AUTH"),
        ({"dsn": SECRET}, "targets of kind http know url, token"),
    ],
)
def test_settings_that_can_not_be_meant_are_refused(tmp_path: Path, settings: dict[str, str], said: str) -> None:
    contracts = contracts_of(tmp_path, CONTRACT)
    with pytest.raises(SettingsError) as caught:
        open_target(contracts, NAME, {NAME: settings})
    assert said in str(caught.value)
    assert SECRET not in str(caught.value)


def test_an_address_is_needed_and_the_setting_counts(api: Api, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="lacks an address"):
        open_target(contracts_of(tmp_path, CONTRACT), NAME, {})
    based = CONTRACT.replace("timeout_seconds", 'base = "http://127.0.0.1:1/x"\ntimeout_seconds')
    assert row_of(opened(tmp_path, api, based)) is not None


def test_an_authority_of_ones_own_can_be_trusted(authority: Path, tmp_path: Path) -> None:
    with serving(authority) as api:
        api.on("/items/1", says({"id": "1"}))
        assert row_of(opened(tmp_path, api, token=SECRET, ca_path=str(authority / "ca.pem"))) is not None
        for wrong, trouble in (({}, "away"), ({"ca_path": str(tmp_path / "no")}, "refused")):
            with pytest.raises(TargetUnavailable) as caught:
                row_of(opened(tmp_path, api, token=SECRET, **wrong))
            assert caught.value.trouble == trouble
        assert len(api.requests) == 1
