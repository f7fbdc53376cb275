"""What a task meant to leave behind, beside what landed; and for one that is half done, what would take it back.

What landed is read from the evidence of verdicts, part by part. Compensations come from the contracts; they are
proposals, and nothing here makes a call.
"""

import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from counterfoil_console.timeline import plain
from counterfoil_consumers.store import Connection, queries
from counterfoil_reconcilers.contracts import Contracts
from counterfoil_reconcilers.rows import Effect, with_reduced_hidden
from counterfoil_reconcilers.undoing import Proposal, is_call_of, propose, undone_effect

_MOST_GENERATIONS = 10
Landing = Literal["landed", "more than once", "otherwise", "partly", "not", "unknown"]
_LANDINGS: Mapping[str, Landing] = {
    "applied": "landed",
    "duplicated": "more than once",
    "mismatched": "otherwise",
    "partial": "partly",
    "not_applied": "not",
}
_HALF: tuple[Landing, ...] = ("more than once", "otherwise", "partly")
_AT_THE_TARGET = ("landed", *_HALF)


@dataclass(frozen=True)
class Part:
    """One place of a row: what was intended, what the target holds, and whether that landed."""

    resource: str
    key: Any
    field: str
    intended: Any
    observed: Any
    landed: str


@dataclass(frozen=True)
class Write:
    """One effect of the task; `undoes` and `undone_by` are effects, too."""

    effect: Mapping[str, Any]
    parts: tuple[Part, ...]
    parts_left_out: int
    undoes: uuid.UUID | None = None
    undone_by: uuid.UUID | None = None

    @property
    def landing(self) -> Landing:
        """What the target says of it as a whole."""
        return _LANDINGS.get(self.effect["verdict"] or "", "unknown")

    @property
    def is_at_the_target(self) -> bool:
        """Whether something of it is there."""
        return self.landing in _AT_THE_TARGET


@dataclass(frozen=True)
class Compensation:
    """What would undo one write."""

    effect_id: uuid.UUID
    what: str
    proposal: Proposal


@dataclass(frozen=True)
class Matrix:
    """All live writes of a task in order, and how to take back what landed, the last first."""

    writes: tuple[Write, ...]
    compensations: tuple[Compensation, ...]

    @property
    def is_half_done(self) -> bool:
        """Whether some of it is at the target and some is not; what is undone, or a person resolved, counts no more."""
        return is_half_done(self.writes)


def read_matrix(
    store: Connection, task: Mapping[str, Any], contracts: Contracts | None, *, children: bool = False
) -> Matrix:
    """The writes of a task, with those of its child tasks, if asked for. Without contracts nothing is proposed."""
    where = {
        "tenant": task["tenant"],
        "task_id": task["task_id"],
        "generations": _MOST_GENERATIONS if children else 0,
    }
    rows = store.execute(queries("console")["family_writes"], where).fetchall()
    proposals = {row["effect_id"]: _proposal(contracts, task["tenant"], row) for row in rows}
    writes = _with_undoing([_write(row) for row in rows], proposals)
    return Matrix(writes, tuple(_compensations(writes, proposals)))


def total(writes: Sequence[Write]) -> str:
    """`3 of 5 writes landed, 1 partly, 1 is not known`."""
    counts = Counter(write.landing for write in writes)
    told = [f"{counts['landed']} of {len(writes)} write{'' if len(writes) == 1 else 's'} landed"]
    told += [f"{counts[landing]} {landing}" for landing in _HALF if counts[landing]]
    if counts["not"]:
        told.append(f"{counts['not']} did not")
    if counts["unknown"]:
        told.append(f"{counts['unknown']} {'is' if counts['unknown'] == 1 else 'are'} not known")
    return ", ".join(told)


def is_half_done(writes: Sequence[Write]) -> bool:
    """See `Matrix.is_half_done`."""
    standing = _standing(writes)
    missing = any(
        write.landing in ("not", "partly", "otherwise") and write.effect["resolved_at"] is None for write in standing
    )
    return missing and any(write.is_at_the_target for write in standing)


def _standing(writes: Sequence[Write]) -> list[Write]:
    """Those that neither undo another nor are undone."""
    undone = _undone(writes)
    return [write for write in writes if write.undoes is None and write.effect["effect_id"] not in undone]


def as_json(matrix: Matrix) -> dict[str, Any]:
    """Plain values: ids as 32 hex digits."""
    return {
        "total": total(matrix.writes),
        "is_half_done": matrix.is_half_done,
        "writes": [_write_json(write) for write in matrix.writes],
        "compensations": [
            {"effect_id": one.effect_id.hex, "of": one.what, **vars(one.proposal)} for one in matrix.compensations
        ],
    }


def _write_json(write: Write) -> dict[str, Any]:
    left_out = ("args", "reply", "evidence", "intent_partition", "intent_offset")
    return {
        **plain({name: value for name, value in write.effect.items() if name not in left_out}),
        "landing": write.landing,
        "undoes": None if write.undoes is None else write.undoes.hex,
        "undone_by": None if write.undone_by is None else write.undone_by.hex,
        "parts": [vars(part) for part in write.parts],
        "parts_left_out": write.parts_left_out,
    }


def _write(row: Mapping[str, Any]) -> Write:
    evidence = row["evidence"] if isinstance(row["evidence"], Mapping) else {}
    parts = evidence.get("parts")
    left_out = evidence.get("parts_left_out")
    return Write(
        row,
        tuple(_part(part) for part in (parts if isinstance(parts, list) else ()) if isinstance(part, Mapping)),
        left_out if isinstance(left_out, int) else 0,
    )


def _part(part: Mapping[str, Any]) -> Part:
    return Part(
        str(part.get("resource")),
        part.get("key"),
        str(part.get("field") or ""),
        part.get("expected"),
        part.get("observed"),
        str(part.get("landed")),
    )


def _proposal(contracts: Contracts | None, tenant: str, row: Mapping[str, Any]) -> Proposal:
    if contracts is None:
        return Proposal(None, None, "no contracts are at hand")
    effect = Effect(
        effect_id=row["effect_id"].bytes,
        tool=row["tool"],
        args=with_reduced_hidden(row["args"]),
        outcome=row["outcome"],
        order=(),
        reply=with_reduced_hidden(row["reply"]),
        step=row["step"],
        tenant=tenant,
    )
    return propose(contracts, effect, row["evidence"])


def _with_undoing(writes: Sequence[Write], proposals: Mapping[uuid.UUID, Proposal]) -> tuple[Write, ...]:
    """Each write with what it undoes: what its arguments say, or the latest before it whose undo is this very call.

    Of several that undo one, the first that landed is who undid it.
    """
    undoing: dict[uuid.UUID, uuid.UUID] = {}
    undone: dict[uuid.UUID, Write] = {}
    by_id = {write.effect["effect_id"]: write for write in writes}
    undo_tools = {proposal.tool for proposal in proposals.values()}
    for place, write in enumerate(writes):
        found = _named_by(write, by_id, proposals)
        if found is None and write.effect["tool"] in undo_tools:
            standing = (
                other
                for other in reversed(writes[:place])
                if other.effect["effect_id"] not in undoing and not _has_landed(undone.get(other.effect["effect_id"]))
            )
            found = _proposed_before(write, standing, proposals)
        if found is not None:
            undoing[write.effect["effect_id"]] = found
            if not _has_landed(undone.get(found)):
                undone[found] = write
    return tuple(
        replace(
            write,
            undoes=undoing.get(write.effect["effect_id"]),
            undone_by=undone[effect_id].effect["effect_id"] if effect_id in undone else None,
        )
        for effect_id, write in by_id.items()
    )


def _has_landed(write: Write | None) -> bool:
    return write is not None and write.landing in ("landed", "more than once")


def _named_by(
    write: Write, by_id: Mapping[uuid.UUID, Write], proposals: Mapping[uuid.UUID, Proposal]
) -> uuid.UUID | None:
    """The effect that the arguments name, if its contract says no other tool."""
    said = undone_effect(write.effect["args"])
    named = None if said is None else uuid.UUID(bytes=said)
    if named is None or named not in by_id or named == write.effect["effect_id"]:
        return None
    return named if proposals[named].tool in (None, write.effect["tool"]) else None


def _proposed_before(
    write: Write, standing: Iterable[Write], proposals: Mapping[uuid.UUID, Proposal]
) -> uuid.UUID | None:
    for other in standing:
        effect_id: uuid.UUID = other.effect["effect_id"]
        if is_call_of(proposals[effect_id], write.effect["tool"], write.effect["args"]):
            return effect_id
    return None


def _compensations(writes: Sequence[Write], proposals: Mapping[uuid.UUID, Proposal]) -> Iterator[Compensation]:
    """Of what is at the target and neither undoes nor is undone; the last first. None where nothing is half done."""
    if not is_half_done(writes):
        return
    for write in reversed(_standing(writes)):
        if write.is_at_the_target:
            effect_id = write.effect["effect_id"]
            yield Compensation(effect_id, f"{write.effect['tool']} → {write.effect['target']}", proposals[effect_id])


def _undone(writes: Sequence[Write]) -> frozenset[uuid.UUID]:
    """The writes that another took back; one that did not land took nothing back."""
    return frozenset(write.undoes for write in writes if write.undoes is not None and _has_landed(write))
