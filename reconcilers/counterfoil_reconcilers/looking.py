"""Reads from a target what the effects in hand touch: by key in a few rounds, or all of it for a sweep."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from counterfoil_reconcilers.contracts import Contracts
from counterfoil_reconcilers.contracts import Target as Declared
from counterfoil_reconcilers.disclosure import Disclosure
from counterfoil_reconcilers.expressions import Unevaluable
from counterfoil_reconcilers.rows import Effect, Row, RowKey, Rows
from counterfoil_reconcilers.targets.port import Address, Target, TargetRow
from counterfoil_reconcilers.touched import Touched, resources_of

# A row found through a row found through a row: deeper joins stay unread, and so unknowable.
_ROUNDS = 5
_MOST_FOUND = 200
_NOTHING = Touched(frozenset(), frozenset(), (), frozenset(), {}, ())


def look(
    adapter: Target,
    contracts: Contracts,
    declared: Declared,
    disclosure: Disclosure,
    noted: Sequence[Effect],
    baseline: Rows,
) -> tuple[Rows, list[Touched], list[Effect]]:
    """The rows that the effects write or refer to, what each of them touches, and the effects as these rows tell them.

    Raises TargetUnavailable.
    """
    rows: dict[RowKey, Row | None] = {}
    for _ in range(_ROUNDS):
        effects = [disclosure.opened(effect) for effect in noted]
        touched = touch(contracts, declared, effects, baseline, Rows(rows))
        wanted = {key for one in touched for key in (*one.writes, *one.reads, *one.missing)} - set(rows)
        if not wanted:
            break
        found = read_rows(adapter, declared, disclosure.tenant, wanted)
        rows.update(found)
        disclosure.learn(found.values())
    for search in [search for one in touched for search in one.searches]:
        tenant = _tenant(declared, search.resource, disclosure.tenant)
        found = _by_key(declared, adapter.find(tenant, [search], _MOST_FOUND))
        rows.update(found)
        disclosure.learn(found.values())
    effects = [disclosure.opened(effect) for effect in noted]
    return Rows(rows), touch(contracts, declared, effects, baseline, Rows(rows)), effects


def read_rows(adapter: Target, declared: Declared, tenant: str, keys: Iterable[RowKey]) -> Mapping[RowKey, Row | None]:
    """Rows of the tenant by their keys.

    Raises TargetUnavailable.
    """
    return _by_key(declared, adapter.read(Address(_tenant(declared, key.resource, tenant), key) for key in keys))


def look_at_all(adapter: Target, declared: Declared, tenant: str) -> Rows:
    """Every row of the tenant at the target.

    Raises TargetUnavailable.
    """
    rows: dict[RowKey, Row | None] = {}
    for name in declared.resources:
        rows.update(_by_key(declared, adapter.scan(name, _tenant(declared, name, tenant))))
    return Rows(rows, frozenset(declared.resources))


def touch(
    contracts: Contracts, declared: Declared, effects: Sequence[Effect], baseline: Rows, observed: Rows
) -> list[Touched]:
    """What each effect touches at the target, as far as the rows known so far tell."""
    return [
        _NOTHING if _is_elsewhere(contracts, declared, effect) else resources_of(contracts, effect, baseline, observed)
        for effect in effects
    ]


def _is_elsewhere(contracts: Contracts, declared: Declared, effect: Effect) -> bool:
    """Whether the tool's contract names another target than the effect: its rows are not looked for here."""
    tool = contracts.tools.get(effect.tool)
    return tool is not None and tool.target != declared.name


def _by_key(declared: Declared, found: Iterable[TargetRow]) -> Mapping[RowKey, Row | None]:
    return {one.address.row: _with_ours(declared, one.row) for one in found}


def _with_ours(declared: Declared, row: Row | None) -> Row | None:
    """Whether a row is ours, where the target itself can't be asked."""
    if declared.is_ours is None or row is None:
        return row
    try:
        return replace(row, ours=declared.is_ours.evaluate({"row": row.doc}) is True)
    except Unevaluable:
        return replace(row, ours=False)


def _tenant(declared: Declared, resource: str, tenant: str) -> str | None:
    return tenant if declared.resources[resource].tenant is not None else None
