"""What a verdict rests on, as JSON that fits into an event: part by part what was expected and what was observed."""

import json
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final, Literal

from counterfoil_reconcilers.compare import Difference, agree, differences
from counterfoil_reconcilers.contract_model import Resource
from counterfoil_reconcilers.explain import Explanation, Misfit
from counterfoil_reconcilers.rows import NOT_READ, Effect, Row, RowKey
from counterfoil_reconcilers.values import MISSING, Path, at, overlap, shown
from counterfoil_reconcilers.veil import Veil, key_veiled, path_veiled, veiled
from counterfoil_reconcilers.world import Part, Surroundings, Touch, World, holds

VerdictName = Literal["applied", "not_applied", "partial", "duplicated", "mismatched", "unknowable"]

_MOST_PARTS: Final = 20
_LONGEST_VALUE: Final = 600
_SHORT: Final = 100  # as JSON, a character becomes six at most


class Evidence:
    """Reads the verdict and its evidence for each effect of a group off the explanation that won."""

    def __init__(self, around: Surroundings, effects: Sequence[Effect], best: Explanation) -> None:
        self._around = around
        self._effects = effects
        self._best = best

    def verdict(self, index: int) -> tuple[VerdictName, str | None]:
        """The verdict on one effect, with its reason if it is unknowable."""
        name, reason = self._verdict(index)
        return name, None if reason is None else self._around.veil.over(reason)

    def unsure(self) -> dict[RowKey, str]:
        """Rows that effects may have changed of which nobody knows whether they landed, with the reason."""
        reasons = ((index, self.verdict(index)[1]) for index in range(len(self._effects)))
        return {touch.row: reason for index, reason in reasons if reason for touch in self._touches(index)}

    def _verdict(self, index: int) -> tuple[VerdictName, str | None]:
        parts = self._parts(index)
        way = self._best.ways[index]
        if self._effects[index].outcome in ("failed", "denied") and way == "never":
            return "not_applied", None
        unread = next((reason for part in parts if (reason := self._unread(part.row))), None)
        if unread is not None:
            return "unknowable", unread
        compared = [part for part in parts if not self._is_open(index, part)]
        if not compared and (parts or self._best.world.problems.get(index)):
            return "unknowable", self._why_open(index)
        match way:
            case "once":
                foreign = self._edited(parts)
                return ("applied", None) if foreign is None else ("unknowable", self._written_over(foreign))
            case "never":
                doubt = self._may_have_landed(index, compared)
                return ("not_applied", None) if doubt is None else ("unknowable", doubt)
            case "twice" | "again":
                return ("duplicated" if self._second_counts(index) else "applied"), None
        return self._of_parts(index, compared)

    def _second_counts(self, index: int) -> bool:
        """Whether anything is otherwise because it landed twice; to set a value twice is to set it once."""
        met: set[Part] = set()
        for touch in self._touches(index):
            if touch.part in met and touch.changes(self._around.target.resources[touch.row.resource]):
                return True
            met.add(touch.part)
        return False

    def _of_parts(self, index: int, parts: Sequence[Part]) -> tuple[VerdictName, str | None]:
        states = {part: self._state(index, part) for part in parts}
        wrong = [part for part, state in states.items() if state == "wrong"]
        foreign = next((part for part in wrong if self._has_foreign_writers(part.row)), None)
        if foreign is not None:
            return "unknowable", self._written_over(foreign)
        found = set(states.values())
        if wrong:
            return "mismatched", None
        lost = [part for part, state in states.items() if state == "no"]
        if lost and len(found) > 1 and "half" not in found and all(map(self._may_have_been_undone, lost)):
            return "unknowable", self._half_there(lost[0])
        if "half" in found or ("no" in found and found != {"no"}):
            return "partial", None
        if "no" in found:
            return "not_applied", None
        return ("duplicated", None) if "twice" in found else ("applied", None)

    def _may_have_landed(self, index: int, parts: Sequence[Part]) -> str | None:
        """For an effect that seems absent: why it may not be, where others write.

        They may have written over all of it; or over the rest, where a part stands there and nothing else explains it.
        """
        changed = {
            touch.part: touch
            for touch in self._touches(index)
            if touch.part in parts and touch.changes(self._around.target.resources[touch.row.resource])
        }
        hidden = [part for part in parts if part in changed and self._is_hidden(part)]
        if hidden and len(hidden) == len(changed):
            return self._written_over(hidden[0])
        standing = [part for part, touch in changed.items() if self._stands(index, touch)]
        if not standing or not all(self._has_foreign_writers(changed[p].row) for p in changed if p not in standing):
            return None
        return self._half_there(next((part for part in changed if part not in standing), standing[0]))

    def _may_have_been_undone(self, part: Part) -> bool:
        """Whether others wrote to a row since it was known, so that what is not in it may have been there."""
        before, row = self._around.baseline.get(part.row), self._around.observed.get(part.row)
        if not part.path or not self._has_foreign_writers(part.row):
            return False
        return not (isinstance(before, Row) and isinstance(row, Row) and before.text == row.text)

    def _half_there(self, part: Part) -> str:
        return f"overwritten: it is there but for {self._place(part)}, and others write there"

    def _stands(self, index: int, touch: Touch) -> bool:
        """Whether what a touch would have left stands there, and the explanation can't say why."""
        row = self._around.observed.get(touch.row)
        if not isinstance(row, Row) or not holds(self._around.target.resources[touch.row.resource], touch, row.doc):
            return False
        if self._around.baseline.get(touch.row) is NOT_READ:
            others = (other for other in self._best.world.touches if other.row == touch.row and other.effect != index)
            return not any(overlap(other.path, touch.path) for other in others)
        return any(m.row == touch.row and overlap(m.path, touch.path) for m in self._best.misfits)

    def _edited(self, parts: Sequence[Part]) -> Part | None:
        """A created row which holds what others may have left there."""
        rows = {m.row for m in self._best.misfits if m.path and self._has_foreign_writers(m.row)}
        made = {touch.part: touch.row for touch in self._best.world.touches if touch.part.row.key[:1] == ("?",)}
        return next((part for part in parts if made.get(part) in rows), None)

    def _written_over(self, part: Part) -> str:
        return (
            f"overwritten: {self._place(part)} holds what neither this effect nor the state before explains, "
            "and others write there"
        )

    def _place(self, part: Part) -> str:
        resource = self._around.target.resources[part.row.resource]
        place = path_veiled(self._around.veil, resource, part.path, self._best.world.secret.get(part.row, ()))
        return f"{part.row.resource}.{place}" if place else part.row.resource

    def _is_hidden(self, part: Part) -> bool:
        """Whether others write there, and what stands there now is not simply what stood there before."""
        near = any(m.row == part.row and overlap(m.path, part.path) for m in self._best.misfits)
        before_unknown = self._around.baseline.get(part.row) is NOT_READ
        stands = isinstance(self._around.observed.get(part.row), Row)
        return (near or (before_unknown and stands)) and self._has_foreign_writers(part.row)

    def of(self, index: int) -> dict[str, Any]:
        """The evidence on one effect."""
        parts = self._parts(index)
        states = [self._state(index, part) for part in parts]
        counts = {state: states.count(state) for state in dict.fromkeys(states)}
        # What did not land is what people look for first.
        ordered = sorted(zip(parts, states, strict=True), key=lambda pair: pair[1] in ("yes", "open"))
        return {
            "tool": self._effects[index].tool,
            "contract": {"version": self._around.contracts.version, "digest": self._around.contracts.digest},
            "expected_by": "the contract" if self._effects[index].expect is None else "the code",
            "counts": counts,
            "parts": [self._shown(index, part, state) for part, state in ordered[:_MOST_PARTS]],
            "parts_left_out": max(0, len(parts) - _MOST_PARTS),
            "left_open": list(map(self._around.veil.over, self._best.world.problems.get(index, [])[:_MOST_PARTS])),
            "group": {"effects": len(self._effects), "searched": self._best.searched},
        }

    def _parts(self, index: int) -> list[Part]:
        return list(dict.fromkeys(touch.part for touch in self._touches(index)))

    def _touches(self, index: int) -> list[Touch]:
        """What the effect changed, or would have changed."""
        return self._best.intended[index]

    def _is_open(self, index: int, part: Part) -> bool:
        return all(touch.open for touch in self._touches(index) if touch.part == part)

    def _why_open(self, index: int) -> str:
        reasons = [touch.open for touch in self._touches(index) if touch.open]
        reasons += self._best.world.problems.get(index, [])
        return f"nothing of it could be compared: {reasons[0] if reasons else 'the contract names no field'}"

    def _unread(self, key: RowKey) -> str | None:
        if key.key[:1] == ("?",):
            return None
        row = self._around.observed.get(key)
        if row is NOT_READ:
            problem = "was not read"
        elif isinstance(row, Row) and row.problem:
            problem = f"cannot be compared: {row.problem}"
        else:
            return None
        named = key_veiled(self._around.veil, self._around.target.resources[key.resource], key)
        return f"{key.resource} {', '.join(named)} {problem}"

    def _state(self, index: int, part: Part) -> str:
        """`yes`, `no`, `twice`, `half`, `wrong` or `open`."""
        if self._is_open(index, part):
            return "open"
        way = self._best.ways[index]
        if way == "never":
            return "no"
        times = self._best.times[index](part)
        if (index, part) in self._best.wrong:
            return self._degree_of_wrong(index, part)
        return "twice" if way == "again" else ("no", "yes", "twice")[times]

    def _degree_of_wrong(self, index: int, part: Part) -> str:
        """A part of which every leaf is as before or as intended landed by half; anything else is another value."""
        touches = [touch for touch in self._touches(index) if touch.part == part and not touch.open]
        key = touches[-1].row
        observed = self._observed(key, part.path)
        before, after = self._span(part, touches)
        resource = self._around.target.resources[key.resource]
        if observed is MISSING or observed is None:
            return "no"
        if isinstance(after, list) and isinstance(observed, list) and len(after) != len(observed):
            base = len(before) if isinstance(before, list) else 0
            grown = base < len(observed) < len(after)
            landed = grown and _begins(resource, before if base else [], after, observed, part.path)
            return "half" if landed else "wrong"
        kept = arrived = 0
        for difference in differences(resource, before, after, part.path):
            value = at(observed, difference.path[len(part.path) :])
            if agree(resource, difference.expected, value, difference.path):
                kept += 1
            elif agree(resource, difference.observed, value, difference.path):
                arrived += 1
            else:
                return "wrong"
        stray = any(
            agree(resource, at(before, d.path[len(part.path) :]), d.expected, d.path)
            for d in differences(resource, after, observed, part.path)
        )
        return "wrong" if stray or not kept else ("half" if arrived else "no")

    def _span(self, part: Part, touches: Sequence[Touch]) -> tuple[Any, Any]:
        """The value at the part's path before this effect and after it."""
        first, last = touches[0], touches[-1]
        if first.path == part.path:
            return first.before, last.after
        cell = self._best.world.cells.get(first.row)
        after = at(cell.doc, part.path) if cell else MISSING
        start = first.path[-1]
        before = after[:start] if isinstance(after, list) and isinstance(start, int) else MISSING
        return before, after

    def _shown(self, index: int, part: Part, state: str) -> dict[str, Any]:
        touches = [touch for touch in self._touches(index) if touch.part == part]
        key = touches[-1].row
        row = self._around.observed.get(key)
        before, after = self._span(part, touches)
        resource = self._around.target.resources[key.resource]
        veil, secret = self._around.veil, self._best.world.secret.get(key, ())
        expected, observed = veiled(veil, resource, after, self._observed(key, part.path), part.path, secret)
        shown_key = part.row if key.key[:1] == ("?",) else key
        entry: dict[str, Any] = {
            "resource": key.resource,
            "key": key_veiled(veil, resource, shown_key),
            "field": path_veiled(veil, resource, part.path, secret),
            "landed": state,
            "expected": short(expected),
            "observed": short(observed),
            "version": row.version if isinstance(row, Row) else None,
        }
        reason = next((touch.open for touch in touches if touch.open), None)
        if reason:
            entry["left_open"] = veil.over(reason)
        if state in ("wrong", "half"):
            found = list(differences(resource, after, self._observed(key, part.path), part.path))
            entry.update(capped(found, resource, veil, secret))
        if state in ("wrong", "half") or before is not MISSING:
            entry["before"] = short(veiled(veil, resource, after, before, part.path, secret)[1])
        return entry

    def _observed(self, key: RowKey, path: Path) -> Any:
        row = self._around.observed.get(key)
        return at(row.doc, path) if isinstance(row, Row) else MISSING

    def _has_foreign_writers(self, key: RowKey) -> bool:
        writers = self._around.target.writers
        if writers == "exclusive":
            return False
        row = self._around.observed.get(key)
        return writers is None or not isinstance(row, Row) or row.ours is not True


def _begins(resource: Resource, before: list[Any], after: list[Any], observed: list[Any], path: Path) -> bool:
    """Whether a list holds what it held before, and some of what was appended to it: the first, if order counts."""
    if not resource.rule(path).unordered:
        return agree(resource, after[: len(observed)], observed, path)
    left = list(after)
    for value in observed:
        place = next((i for i, other in enumerate(left) if agree(resource, other, value, (*path, 0))), None)
        if place is None:
            return False
        del left[place]
    return all(any(agree(resource, value, other, (*path, 0)) for other in observed) for value in before)


def differences_shown(around: Surroundings, world: World, key: RowKey, misfits: Iterable[Misfit]) -> dict[str, Any]:
    """The evidence on a row that changed although nothing explains it."""
    row = around.observed.get(key)
    resource = around.target.resources[key.resource]
    found = [Difference(m.path, m.expected, m.observed) for m in misfits]
    return {
        "resource": key.resource,
        "key": key_veiled(around.veil, resource, key),
        "version": row.version if isinstance(row, Row) else None,
        **capped(found, resource, around.veil, world.secret.get(key, ())),
        "contract": {"version": around.contracts.version, "digest": around.contracts.digest},
    }


def capped(
    found: Sequence[Difference], resource: Resource, veil: Veil, secret: Collection[Path] = ()
) -> dict[str, Any]:
    """The first differences and their number. `secret`: places of the row that tell of what was redacted."""
    return {
        "differences": [_difference(one, resource, veil, secret) for one in found[:_MOST_PARTS]],
        "difference_count": len(found),
    }


def _difference(one: Difference, resource: Resource, veil: Veil, secret: Collection[Path]) -> dict[str, Any]:
    expected, observed = veiled(veil, resource, one.expected, one.observed, one.path, secret)
    return {
        "field": path_veiled(veil, resource, one.path, secret),
        "expected": short(expected),
        "observed": short(observed),
    }


def short(value: Any) -> Any:
    """A value for evidence; a long one is cut to its first characters, and says so."""
    plain = shown(value)
    if plain is None or isinstance(plain, bool | int | float) or (isinstance(plain, str) and len(plain) < _SHORT):
        return plain
    text = json.dumps(plain, ensure_ascii=False)
    if len(text) <= _LONGEST_VALUE:
        return plain
    return {"$cut": text[:_LONGEST_VALUE], "characters": len(text)}
