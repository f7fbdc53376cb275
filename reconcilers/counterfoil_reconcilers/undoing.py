"""Compensations: the calls that would take back what effects left at a target. They are proposed, and never made.

`before` is what the evidence of the verdict shows of the rows as they were, by resource; a resource of which the
effect wrote several rows has none, for nobody could tell which is meant.
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from counterfoil.ids import Id
from counterfoil.sealing import sealed_in
from counterfoil.tokens import tokens_in
from counterfoil_reconcilers.contract_model import Contracts, Tool
from counterfoil_reconcilers.expressions import Unevaluable
from counterfoil_reconcilers.rows import Effect
from counterfoil_reconcilers.values import Json, Unreadable, canonical, plain, put, shown

_DEEPEST = 64
_NO_BEFORE = "what the target held before is not known"


@dataclass(frozen=True)
class Proposal:
    """A call of `tool` that would undo an effect; `args` is None where it can't be said, and `problem` says why."""

    tool: str | None
    args: Mapping[str, Any] | None
    problem: str | None = None
    irreversible: bool = False


def propose(contracts: Contracts, effect: Effect, evidence: Any) -> Proposal:
    """What would undo an effect that is at its target, in whole or in part."""
    tool = contracts.tools.get(effect.tool)
    if tool is None:
        return Proposal(None, None, f"no contract of {effect.tool} is at hand")
    if tool.irreversible:
        return Proposal(None, None, f"{effect.tool} is irreversible, says its contract", irreversible=True)
    if tool.undo is None:
        return Proposal(None, None, f"the contract of {effect.tool} says no undo")
    try:
        args = _arguments(tool, effect, evidence)
    except (Unevaluable, Unreadable) as error:
        return Proposal(tool.undo.tool, None, str(error))
    hidden = sorted(name for name, value in args.items() if _is_hidden(value))
    if hidden:
        return Proposal(tool.undo.tool, args, f"{', '.join(hidden)} was redacted, so look it up before the call")
    return Proposal(tool.undo.tool, args)


def undone_effect(args: Any) -> Id | None:
    """The effect that a call says that it undoes: `undoes` in its arguments, 32 hex digits."""
    said = args.get("undoes") if isinstance(args, Mapping) else None
    try:
        effect_id = bytes.fromhex(said) if isinstance(said, str) else b""
    except ValueError:
        return None
    return effect_id if len(effect_id) == 16 else None


def is_call_of(proposal: Proposal, tool: str, args: Any) -> bool:
    """Whether a call is the one proposed: it has its arguments, and may have others besides."""
    if proposal.args is None or tool != proposal.tool or not isinstance(args, Mapping):
        return False
    try:
        return all(
            name in args and canonical(plain(args[name])) == canonical(plain(value))
            for name, value in proposal.args.items()
        )
    except Unreadable:
        return False


def _arguments(tool: Tool, effect: Effect, evidence: Any) -> dict[str, Any]:
    assert tool.undo is not None  # noqa: S101  # asked before
    variables = dict(effect.variables)
    variables.pop("keys")
    variables["before"] = _before(evidence)
    args = {}
    for name, expression in tool.undo.args:
        try:
            value = expression.evaluate(variables)
        except Unevaluable as error:
            if "before" in expression.names:
                raise Unevaluable(expression.text, f"{_NO_BEFORE} ({error.reason})") from error
            raise
        args[name] = shown(value)
    return args


def _before(evidence: Any) -> Json:
    """Rows as they were, by resource, as far as the parts of the evidence show them."""
    rows: dict[str, Json] = {}
    keys: dict[str, set[str]] = {}
    for resource, key, field, value in _parts(evidence):
        keys.setdefault(resource, set()).add(key)
        names = field.split(".") if field else []
        if len(names) <= _DEEPEST and all(name.isidentifier() for name in names):  # no places in lists
            with suppress(Unreadable):
                rows[resource] = put(rows.get(resource, {}), tuple(names), value)
    return {resource: row for resource, row in rows.items() if row is not None and len(keys[resource]) == 1}


def _parts(evidence: Any) -> Iterator[tuple[str, str, str, Any]]:
    parts = evidence.get("parts") if isinstance(evidence, Mapping) else None
    for part in parts if isinstance(parts, list) else ():
        if not isinstance(part, Mapping) or "before" not in part:
            continue
        try:
            value = plain(part["before"])
        except Unreadable:
            continue
        if not (isinstance(value, dict) and "$cut" in value):
            yield str(part.get("resource")), str(part.get("key")), str(part.get("field") or ""), value


def _is_hidden(value: Any) -> bool:
    """Whether a value holds a token in a secret's place, or a sealed one."""
    if isinstance(value, Mapping):
        return sealed_in(value) is not None or any(map(_is_hidden, value.values()))
    if isinstance(value, list):
        return any(map(_is_hidden, value))
    return isinstance(value, str) and any(tokens_in(value))
