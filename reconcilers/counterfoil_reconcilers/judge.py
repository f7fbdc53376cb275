"""Verdicts: intents held against what was observed. Pure: values in, values out, no clock and no I/O.

`judge` takes the effects of one tenant at one target, in any order and number, finds those that share rows,
explains each such group with the fewest faults, and says what became of every effect; `sweep` says which other rows
changed.
Whatever cannot be told is `unknowable` with its reason; a guess is never a verdict.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import zip_longest
from typing import Any, Literal

from counterfoil_reconcilers.charges import Way
from counterfoil_reconcilers.compare import differences
from counterfoil_reconcilers.contracts import Contracts, Target
from counterfoil_reconcilers.evidence import Evidence, capped, differences_shown
from counterfoil_reconcilers.explain import Explanation, Searcher
from counterfoil_reconcilers.rows import NOT_READ, Effect, Row, RowKey, Rows
from counterfoil_reconcilers.touched import Search, Touched, connected, resources_of
from counterfoil_reconcilers.values import MISSING
from counterfoil_reconcilers.veil import NO_VEIL, Veil, key_veiled
from counterfoil_reconcilers.world import Surroundings

__all__ = [
    "Effect",
    "Judgement",
    "Row",
    "RowKey",
    "Rows",
    "Search",
    "Touched",
    "Unattributed",
    "Verdict",
    "connected",
    "judge",
    "resources_of",
    "suspects",
    "sweep",
]

VerdictName = Literal["applied", "not_applied", "partial", "duplicated", "mismatched", "unknowable"]


@dataclass(frozen=True)
class Verdict:
    """What became of one effect. `reason` is a sentence for an unknowable one.

    `way`: how it landed in the explanation that needs the fewest faults; None where there is none.
    """

    effect_id: bytes
    verdict: VerdictName
    reason: str | None
    _evidence: Callable[[], dict[str, Any]] = field(repr=False, compare=False)
    way: Way | None = None

    @cached_property
    def evidence(self) -> dict[str, Any]:
        """What it rests on, as JSON. Made when it is asked for: most looks find what was said already."""
        return self._evidence()


@dataclass(frozen=True)
class Unattributed:
    """A row that changed although no effect explains it; `unknowable` where an effect that cannot be judged may."""

    row: RowKey
    verdict: Literal["unattributed", "unknowable"]
    reason: str | None
    evidence: dict[str, Any]


@dataclass(frozen=True)
class Judgement:
    """Verdicts in the order of the effects given, changes that nothing explains, and the rows that were explained."""

    verdicts: tuple[Verdict, ...]
    unattributed: tuple[Unattributed, ...]
    explained: frozenset[RowKey] = frozenset()
    group_rows: tuple[frozenset[RowKey], ...] = ()  # by effect, in the same order: the rows that its group explains
    blind: Mapping[str, str] = field(default_factory=dict)  # resource ("*": all) -> why its changes prove nothing


def judge(
    contracts: Contracts,
    target: str,
    effects: Sequence[Effect],
    baseline: Rows,
    observed: Rows,
    veil: Veil = NO_VEIL,
    surveyed: Sequence[Touched] = (),
) -> Judgement:
    """Verdicts on effects of one tenant at one target, given all effects that share their rows.

    `baseline` holds rows as they were last known to be right, before all these effects; rows that it lacks are
    judged from `observed` alone. Evidence is said through `veil`. `surveyed` is what each of them touches, where that
    is known; what rows may change of it is asked again.
    """
    hides = any(effect.hides for effect in effects)
    touched = [
        one if one is not None and one.is_final else resources_of(contracts, effect, target, baseline, observed)
        for effect, one in zip_longest(effects, surveyed)
    ]
    verdicts: dict[int, Verdict] = {}
    unattributed: list[Unattributed] = []
    explained: set[RowKey] = set()
    group_rows: dict[int, frozenset[RowKey]] = {}
    blind: dict[str, str] = {}
    for index, (effect, one) in enumerate(zip(effects, touched, strict=True)):
        known = contracts.tools.get(effect.tool)
        is_elsewhere = effect.expect is None and (known is None or known.target != target)
        if one.reason is not None or is_elsewhere:
            reason = one.reason or f"the contract of {effect.tool} names the target {known.target if known else '?'}"
            verdicts[index] = Verdict(effect.effect_id, "unknowable", reason, partial(_no_evidence, effect.tool))
            if effect.outcome not in ("failed", "denied"):
                blind.setdefault("*", reason)
        elif effect.outcome not in ("failed", "denied"):
            blind.update(one.blind)
    everywhere = frozenset().union(*(one.writes for one in touched)) if touched else frozenset()
    for group in connected(touched):
        members = sorted((i for i in group if i not in verdicts), key=lambda i: effects[i].order)
        if not members:
            continue
        written = frozenset().union(*(touched[i].writes for i in members))
        around = Surroundings(
            contracts, contracts.targets[target], baseline, observed, written, everywhere, hides, veil
        )
        result = _judge_group(around, [effects[i] for i in members], blind)
        verdicts.update(zip(members, result.verdicts, strict=True))
        unattributed += result.unattributed
        explained |= result.explained
        group_rows.update(dict.fromkeys(members, result.explained))
    ordered = tuple(verdicts[index] for index in range(len(effects)))
    rows = tuple(group_rows.get(index, frozenset()) for index in range(len(effects)))
    return Judgement(ordered, tuple(unattributed), frozenset(explained), rows, blind)


def _no_evidence(tool: str) -> dict[str, Any]:
    return {"tool": tool}


def sweep(
    contracts: Contracts, target: str, baseline: Rows, observed: Rows, judged: Judgement, veil: Veil = NO_VEIL
) -> tuple[Unattributed, ...]:
    """Rows that differ from the baseline and that no judged effect reaches; none where writers are not declared."""
    declared = contracts.targets[target]
    if declared.writers is None:
        return ()
    found: list[Unattributed] = []
    for key in dict.fromkeys((*observed.rows, *baseline.rows)):
        before, after = baseline.get(key), observed.get(key)
        if key in judged.explained or before is NOT_READ or after is NOT_READ or key.resource not in declared.resources:
            continue
        change = _change(contracts, declared, key, before, after, veil)
        if change is not None:
            found.append(_with_blindness(change, judged.blind))
    return tuple(found)


def suspects(changes: Iterable[Unattributed], verdicts: Iterable[Verdict]) -> dict[RowKey, tuple[bytes, ...]]:
    """For changes of one tenant: effects of others that did not land, and that would have made exactly this change.

    This looks across tenants, so what it says is for operators only.
    """
    absent: dict[tuple[RowKey, str], list[bytes]] = {}
    for verdict in verdicts:
        for part in verdict.evidence.get("parts", ()) if verdict.verdict == "not_applied" else ():
            key = RowKey(part["resource"], tuple(part["key"]))
            absent.setdefault((key, part["field"]), []).append(verdict.effect_id)
    named: dict[RowKey, tuple[bytes, ...]] = {}
    for change in changes:
        fields = {
            difference["field"].split("[")[0].split(".")[0] for difference in change.evidence.get("differences", ())
        }
        ids = {
            effect_id
            for (key, path), ids in absent.items()
            if key == change.row and path.split("[")[0].split(".")[0] in fields
            for effect_id in ids
        }
        if ids:
            named[change.row] = tuple(sorted(ids))
    return named


def _judge_group(around: Surroundings, effects: Sequence[Effect], blind: Mapping[str, str]) -> Judgement:
    searcher = Searcher(around, effects)
    best = searcher.best()
    evidence = Evidence(searcher.around, effects, best)
    verdicts: list[Verdict] = []
    for index, effect in enumerate(effects):
        name, reason = evidence.verdict(index)
        if best.searched == "cut short" and effect.outcome not in ("failed", "denied"):
            name, reason = "unknowable", f"{len(effects)} effects share rows here, too many to tell what became of each"
        elif name == "applied" and effect.outcome == "unknown" and _could_be_absent(searcher, best, index):
            name, reason = "unknowable", "overwritten: later effects leave the same rows whether this one landed or not"
        verdicts.append(Verdict(effect.effect_id, name, reason, partial(evidence.of, index), best.ways[index]))
    by_row: dict[RowKey, list[Any]] = {}
    for misfit in best.misfits:
        by_row.setdefault(misfit.row, []).append(misfit)
    if best.searched == "cut short":
        blind = {**blind, "*": "the effects that share its rows are too many to tell apart"}
    unsure = evidence.unsure() if best.misfits else {}
    stray = [
        _with_blindness(
            Unattributed(key, "unattributed", None, differences_shown(around, best.world, key, misfits)),
            {**blind, key.resource: unsure[key]} if key in unsure else blind,
        )
        for key, misfits in by_row.items()
        if key.key[:1] != ("?",) and searcher.is_swept(key)
    ]
    rows = {key for key in searcher.rows | set(best.world.cells) if key.key[:1] != ("?",)}
    return Judgement(tuple(verdicts), tuple(stray), frozenset(rows))


def _could_be_absent(searcher: Searcher, best: Explanation, index: int) -> bool:
    """Whether the same rows follow without this effect, although it had something to change."""
    resources = searcher.around.target.resources
    if not any(t.effect == index and t.changes(resources[t.row.resource]) for t in best.world.touches):
        return False
    ways = (*best.ways[:index], "never", *best.ways[index + 1 :])
    other = searcher.explain(ways)
    return other.cost < best.cost + 1 and len(other.misfits) <= len(best.misfits)


def _change(
    contracts: Contracts, target: Target, key: RowKey, before: Row | None, after: Row | None, veil: Veil
) -> Unattributed | None:
    if (before is None and after is None) or (after is not None and after.problem):
        return None
    if target.writers == "ours" and (after is None or after.ours is not True):
        return None
    resource = target.resources[key.resource]
    left = MISSING if before is None else before.doc
    right = MISSING if after is None else after.doc
    found = list(differences(resource, left, right))
    if not found:
        return None
    evidence = {
        "resource": key.resource,
        "key": key_veiled(veil, resource, key),
        "version": after.version if after else None,
        **capped(found, resource, veil),
        "contract": {"version": contracts.version, "digest": contracts.digest},
    }
    return Unattributed(key, "unattributed", None, evidence)


def _with_blindness(change: Unattributed, blind: Mapping[str, str]) -> Unattributed:
    """An effect that cannot be judged may be what changed this row: then nothing is claimed about it."""
    reason = blind.get(change.row.resource) or blind.get("*")
    if reason is None:
        return change
    return Unattributed(
        change.row, "unknowable", f"an effect that cannot be judged may have done this: {reason}", change.evidence
    )
