"""What an effect's own code expects of it, in the form of a contract: it stands in place of the tool's.

It holds values alone. Its rows are those of the target's contract, with that one's rules for comparing them.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from counterfoil.expected import MOST_ROWS
from counterfoil.jsontext import as_given
from counterfoil_reconcilers.contract_files import did_you_mean
from counterfoil_reconcilers.contract_model import Change, Contracts, Resource, Target, Tool, Write
from counterfoil_reconcilers.expressions import Expression, constant
from counterfoil_reconcilers.rows import Effect
from counterfoil_reconcilers.values import Unreadable, plain


class NoExpectation(Exception):
    """What the code expects can't be read; says why."""


def tool_of(contracts: Contracts, effect: Effect, target: str) -> Tool | None:
    """What a call must leave behind at a target: what its code says, else the contract of its tool; None without both.

    Raises NoExpectation.
    """
    known = contracts.tools.get(effect.tool)
    if effect.expect is None:
        return known
    at = contracts.targets[target]
    rows = effect.expect
    if not isinstance(rows, list) or not 0 < len(rows) <= MOST_ROWS:
        raise NoExpectation("what its code expects is no list of rows, or was too large for its event")
    try:
        writes = tuple(_write(index, row, at) for index, row in enumerate(rows))
    except Unreadable as error:
        raise NoExpectation(f"what its code expects can't be compared: {error}") from error
    if known is not None and known.target == target:
        return replace(known, let=(), writes=writes)
    return Tool(
        name=effect.tool, target=target, identity=None, let=(), settle_seconds=None, accepted_within_seconds=None,
        irreversible=False, undo=None, writes=writes,
    )  # fmt: skip


def _write(index: int, row: Any, target: Target) -> Write:
    named = str(row.get("resource")) if isinstance(row, Mapping) else "what is no map"
    resource = target.resources.get(named)
    if resource is None:
        hint = did_you_mean(named, target.resources)
        raise NoExpectation(f"its code expects something of {named}, and target {target.name} has none{hint}")
    key = _values(row, "key")
    if (key or not row.get("create")) and {name for name, _ in key} != set(resource.key):
        raise NoExpectation(f"its code names a row of {resource.name} by {_names(key)}, not by {_listed(resource)}")
    return Write(
        index=index, resource=resource, key=key, find=_values(row, "find"), let=(), when=None, each=None,
        create=row.get("create") is True, delete=row.get("delete") is True,
        changes=tuple(Change("set", tuple(name.split(".")), name, value) for name, value in _values(row, "set")),
        reply=None,
    )  # fmt: skip


def _values(row: Mapping[str, Any], part: str) -> tuple[tuple[str, Expression], ...]:
    given = as_given(row.get(part, {}))
    if not isinstance(given, Mapping):
        raise NoExpectation(f"{part} of what its code expects is no map of names and values")
    return tuple((str(name), constant(plain(value))) for name, value in given.items())


def _names(key: tuple[tuple[str, Expression], ...]) -> str:
    return ", ".join(name for name, _ in key) or "nothing"


def _listed(resource: Resource) -> str:
    return ", ".join(resource.key)
