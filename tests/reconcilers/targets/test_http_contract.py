"""What a contract may say of an HTTP target: what can't be meant is refused when it is loaded, or by the check."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from counterfoil_reconcilers.contracts import ContractError
from counterfoil_reconcilers.targets.http_auth import HttpConnection
from counterfoil_reconcilers.targets.http_options import HttpOptions, HttpResource, Listing, Pages, preset_names
from counterfoil_reconcilers.targets.http_templates import FORMS, fill_text
from tests.reconcilers.targets.conformance import contracts_of
from tests.reconcilers.targets.http_api import CONTRACT, Api, opened, says, serving

_DOCUMENT = (Path(__file__).parents[3] / "docs" / "targets.md").read_text(encoding="utf-8")
PAGE = _DOCUMENT.split("\n## HTTP\n")[1].split("\n## ")[0]
EXAMPLES = re.findall(r"(?:<!-- fragment of a (\w+) -->\n)?```toml\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def api() -> Iterator[Api]:
    with serving() as server:
        yield server


BAD = {
    'get = "/items"': "get has no place for id",
    'get = "/items/{idd}"': "place for idd, which nothing can fill",
    'get = "items/{id}"': "is no path",
    'get = "/items/../{id}"': "is no path",
    'get = "/items?id={id}"': "is no path",
    'get = "/items/{id:quoted}"': "leave it out",
    'get = "/items/{id}"\nfound = "ticket"': "no JSONPath",
    'get = "/items/{id}"\nfound = "$[?match(@.a, \'x\')]"': "no JSONPath",
    'get = "/items/{id}"\nunheld = ["id"]': "shows nothing of its key",
    'get = "/items/{id}"\nunheld = ["repo"]': "no place for repo",
    'get = "/items/{id}"\nheld = { x = "$.y" }': "neither a key nor the tenant",
    'get = "/items/{id}"\nkey_form = { x = "y" }': "x is no key",
    'get = "/items/{id}"\nkey_form = { id = "(" }': "no regular expression",
    'get = "/items/{id}"\nlsit = "/x"': "did you mean list?",
    'get = "/items/{id}"\npages = { style = "next" }': "lack the key at",
    'get = "/items/{id}"\npages = { style = "cursor", at = "$.x" }': "lack the key param",
    'get = "/items/{id}"\nfind = { path = "/s", query = { q = "a:{a}" } }': "say how that writes texts",
    'get = "/items/{id}"\nfind = { path = "/s", query = { q = "a:{a:sql}" } }': "there is no form sql",
    'get = "/items/{id}"\nfind = { path = "/s/{a}" }': "nothing can fill",
    'get = "/items/{id}"\nfind = { path = "/s", post = {}, pages = { style = "link" } }': "search by POST",
    'get = "/items/{id}"\nbatch = { path = "/many/{x}", param = "i" }': "nothing can fill",
}


@pytest.mark.parametrize(("line", "said"), BAD.items())
def test_what_can_not_be_meant_is_refused_with_its_line(tmp_path: Path, line: str, said: str) -> None:
    text = CONTRACT.replace('get = "/items/{id}"', line)
    with pytest.raises(ContractError) as caught:
        contracts_of(tmp_path, text)
    assert said in str(caught.value)
    assert caught.value.line == text[: text.index(line)].count("\n") + 2 + line.count("\n")


@pytest.mark.parametrize(
    ("was", "now", "said"),
    [
        ('list = "/items"', "", "404 alone does not say"),
        ("timeout_seconds = 20", "timeout_seconds = 0", "timeout_seconds is wrong"),
        ("timeout_seconds = 20", 'base = "issues.example"', "base is no address of an API"),
        ("timeout_seconds = 20", 'base = "https://a:b@issues.example"', "base holds more than host and path"),
        ("timeout_seconds = 20", 'auth_header = "X\\r\\nY"', "auth_header is wrong"),
        ("timeout_seconds = 20", 'headers = { Authorization = "x" }', "secrets are settings"),
        ("timeout_seconds = 20", 'preset = "strype"', "write github, jira, salesforce, stripe, zendesk"),
        ("timeout_seconds = 20", "throttled = { also = [{ status = 403 }] }", "a sign of throttling"),
    ],
)
def test_a_target_that_can_not_be_meant_is_refused(tmp_path: Path, was: str, now: str, said: str) -> None:
    with pytest.raises(ContractError, match=said):
        contracts_of(tmp_path, CONTRACT.replace(was, now))


WRITES = """\
[tools.open]
target = "subject"
[[tools.open.writes]]
resource = "items"
create = true
find = { ref = "effect" }
set.status = "'open'"
"""


def test_what_a_contract_can_do_depends_on_what_it_declares(tmp_path: Path) -> None:
    probed = CONTRACT.replace('list = "/items"', 'probe = "/"')
    assert contracts_of(tmp_path, CONTRACT + WRITES).tools
    with pytest.raises(ContractError, match="items of kind http can't be searched"):
        contracts_of(tmp_path, probed + WRITES)
    with pytest.raises(ContractError, match="this target can't list all its rows"):
        contracts_of(tmp_path, probed.replace("timeout_seconds", 'writers = "exclusive"\ntimeout_seconds'))


def test_the_check_finds_what_is_not_there(api: Api, tmp_path: Path) -> None:
    api.on("/items", says([{"key": 1}]))
    cases = {
        CONTRACT: "line 6: rows of items at target subject show no id",
        CONTRACT.replace('"/items"', '"/itemz"'): "has nothing at /itemz",
        CONTRACT.replace('list = "/items"', 'probe = "/alive"'): "has nothing at /alive",
        CONTRACT.replace('list = "/items"', 'probe = "/items"\nfind = { path = "/s", query = { a = "{a}" } }')
        + WRITES: "find of items has no place for ref",
    }
    for text, said in cases.items():
        with opened(tmp_path, api, text) as target:
            assert [said in str(error) for error in target.check()] == [True], (text, target.check())


@pytest.mark.parametrize(("kind", "text"), EXAMPLES)
def test_every_contract_on_the_page_loads(tmp_path: Path, kind: str, text: str) -> None:
    head = {"": "", "file": "", "target": '[targets.crm]\nkind = "http"\n'}[kind]
    assert contracts_of(tmp_path, head + text.replace('version = "1"\n', "")).targets


def named(title: str) -> set[str]:
    """What the first columns of the tables under a heading name."""
    text = PAGE[PAGE.index(f"### {title}\n") :].split("\n### ")[0]
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return {name for cell in cells for name in re.findall(r"`([^`]*)`", cell)}


@pytest.mark.parametrize(("title", "model"), [("An HTTP target", HttpOptions), ("An HTTP resource", HttpResource)])
def test_the_page_names_every_key_and_no_other(title: str, model: type[BaseModel]) -> None:
    assert named(title) == {field.alias or name for name, field in model.model_fields.items()}


def test_the_page_names_settings_styles_forms_and_presets() -> None:
    assert named("Settings of an HTTP target") == {name.upper() for name in HttpConnection.model_fields}
    assert named("Lists and searches") == set(Listing.model_fields) | {f"{{name:{form}}}" for form in FORMS}
    assert named("Pages") == set(get_args(Pages.model_fields["style"].annotation))
    assert named("Presets") == set(preset_names())


@pytest.mark.parametrize("form", FORMS)
def test_texts_are_written_as_the_page_says(form: str) -> None:
    [line] = [line for line in PAGE.splitlines() if line.startswith(f"| `{{name:{form}}}`")]
    shown = re.findall(r"`([^`]*)`", line.split("|")[2])
    assert fill_text(f"{{name:{form}}}", {"name": 'it\'s "A"'}) == (shown[0] if shown else None)
