"""What a policy says of single fields, by JSONPath (RFC 9535): redact, seal, keep, or of a tool what alone stays."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from counterfoil.documents import Document
from counterfoil.errors import SettingsError
from counterfoil.redaction_policy import RedactionPolicy

Location = tuple[str | int, ...]
_EXTRA = "rules for single fields need the extra redaction: pip install 'counterfoil[redaction]'"
_ONLY_IN = ("args", "result", "expect")


class PathFailed(Exception):
    """A path could not be followed in a document, so nobody knows what it names there."""


@dataclass(frozen=True)
class Decision:
    """What is done with the value at a place, and under which kind."""

    do: Literal["redact", "seal", "keep"]
    kind: str


_DROP = Decision("redact", "field")


class Plan:
    """Decisions by place in one document."""

    def __init__(self) -> None:
        self._decisions: dict[Location, Decision] = {}
        self._only: frozenset[Location] | None = None
        self._leading: frozenset[Location] = frozenset()  # to what alone stays

    def __bool__(self) -> bool:
        return bool(self._decisions) or self._only is not None

    def decide(self, place: Location, decision: Decision) -> None:
        """The last word on a place counts."""
        self._decisions[place] = decision

    def leave_only(self, places: Iterable[Location]) -> None:
        """Of arguments, result and expectation nothing stays that is at none of these places."""
        self._only = frozenset(places)
        self._leading = frozenset(place[:length] for place in self._only for length in range(1, len(place)))

    def decision(self, place: Location) -> Decision | None:
        """What the policy says of this place. `only` drops whole what holds nothing that stays, names and all."""
        decision = self._decisions.get(place)
        if decision is not None or self._only is None or place[0] not in _ONLY_IN:
            return decision
        if place in self._leading or place == ("args",):  # the arguments stay a map of them
            return None
        return None if any(place[:length] in self._only for length in range(1, len(place) + 1)) else _DROP


class FieldRules:
    """The rules of one policy. Raises SettingsError for a path that is none, or without the library."""

    def __init__(self, policy: RedactionPolicy) -> None:
        self._rules = [(rule, _compiled(rule.path)) for rule in policy.fields]
        self._only = {tool: [_compiled(path) for path in fields.only] for tool, fields in policy.tools.items()}
        self._tools = frozenset(rule.tool for rule in policy.fields) | frozenset(self._only)

    @property
    def seals(self) -> bool:
        """Whether any of them seals."""
        return any(rule.do == "seal" for rule, _ in self._rules)

    def speak_of(self, tool: str | None) -> bool:
        """Whether anything is said of the events of a tool, or of those that have none."""
        return bool(self._tools) and (None in self._tools or tool in self._tools)

    def plan(self, document: Document, tool: str | None) -> Plan:
        """What is to be done with this document.

        Raises PathFailed.
        """
        plan = Plan()
        for rule, path in self._rules:
            if rule.tool in (None, tool):
                for place in _places(path, document):
                    plan.decide(place, Decision(rule.do, rule.kind))
        if tool in self._only:
            plan.leave_only(place for path in self._only[str(tool)] for place in _places(path, document))
        return plan


def _places(path: Any, document: Document) -> Iterator[Location]:
    """Where the path leads in the document. Raises PathFailed."""
    try:
        for match in path.finditer(document.fields):
            if match.parts:
                yield tuple(str(part) if isinstance(part, str) else part for part in match.parts)
    except _jsonpath_error() as error:
        raise PathFailed(str(error).splitlines()[0]) from error


def _compiled(path: str) -> Any:
    try:
        return _environment().compile(path)
    except ImportError as error:
        raise SettingsError(_EXTRA) from error
    except _jsonpath_error() as error:
        said = str(error).strip().splitlines()[0]
        raise SettingsError(f"{path!r} of the redaction policy is no JSONPath: {said}") from error


def _jsonpath_error() -> type[Exception]:
    from jsonpath import JSONPathError  # noqa: PLC0415  # of an extra

    return JSONPathError


@cache
def _environment() -> Any:
    """RFC 9535 and no more, without the functions that match patterns: those are not linear here."""
    from jsonpath import JSONPathEnvironment  # noqa: PLC0415  # of an extra

    environment = JSONPathEnvironment(strict=True)
    for name in ("match", "search"):
        del environment.function_extensions[name]
    return environment
