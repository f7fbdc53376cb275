"""What a policy says of single fields, by JSONPath (RFC 9535): redact, seal, keep, or of a tool what alone stays."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from counterfoil.errors import SettingsError
from counterfoil.redaction_policy import FieldRule, RedactionPolicy
from counterfoil_schemas import json_fields

Location = tuple[str | int, ...]
_EXTRA = "rules for single fields need the extra redaction: pip install 'counterfoil[redaction]'"
_ONLY_IN = ("args", "result", "expect")


@dataclass(frozen=True)
class Decision:
    """What is done with the value at a place, and under which kind."""

    do: Literal["redact", "seal", "keep"]
    kind: str


@dataclass
class Plan:
    """Decisions by place in one event's body, whose fields of JSON text are parsed in `document`."""

    document: dict[str, Any]
    decisions: dict[Location, Decision] = field(default_factory=dict)
    only: frozenset[Location] | None = None  # whatever of args and result is at none of these places goes

    def decision(self, place: Location) -> Decision | None:
        """What the policy says of this place."""
        return self.decisions.get(place)

    def is_left(self, place: Location) -> bool:
        """Whether a value at this place may stay under `only`."""
        if self.only is None or place[0] not in _ONLY_IN:
            return True
        return any(place[:length] in self.only for length in range(1, len(place) + 1))


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

    def plan(self, kind: str, body: Mapping[str, Any]) -> Plan | None:
        """What is to be done with this body; None where nothing is said of it."""
        if not self._tools:
            return None
        tool = body.get("tool")
        if None not in self._tools and tool not in self._tools:
            return None
        plan = Plan(parsed(kind, body))
        for rule, path in self._rules:
            if rule.tool in (None, tool):
                self._apply(plan, rule, path)
        if tool in self._only:
            plan.only = frozenset(place for path in self._only[str(tool)] for place in _places(path, plan.document))
        return plan if plan.decisions or plan.only is not None else None

    def _apply(self, plan: Plan, rule: FieldRule, path: Any) -> None:
        for place in _places(path, plan.document):
            plan.decisions[place] = Decision(rule.do, rule.kind)


def parsed(kind: str, body: Mapping[str, Any]) -> dict[str, Any]:
    """The body with its fields of JSON text parsed; what is no JSON stays text."""
    document = dict(body)
    for name in json_fields(kind):
        if isinstance(document.get(name), str):
            try:
                document[name] = json.loads(document[name])
            except (ValueError, RecursionError):
                continue
    return document


def _places(path: Any, document: Mapping[str, Any]) -> Iterable[Location]:
    return [match.parts for match in path.finditer(document) if match.parts]


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
