"""One effect judged by the contracts on disk, against the target as it is now; nothing is written anywhere."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from counterfoil.blobs import BlobReader
from counterfoil.errors import UsageError
from counterfoil.redaction import Redaction
from counterfoil_console.evidence import compact, differences, row_name
from counterfoil_console.settings import Settings
from counterfoil_console.timeline import plain
from counterfoil_consumers.store import Connection, queries
from counterfoil_reconcilers.charges import is_fault
from counterfoil_reconcilers.contracts import Contracts
from counterfoil_reconcilers.targets.opening import open_target
from counterfoil_reconcilers.trial import Bench, Judged, NoSuchEffect, Trial

_LARGEST_TEXT_BYTES = 32 * 1024**2
_FEWEST_DIGITS = 8
_IN_FORCE = ("verdict", "verdict_reason", "verdict_at", "drift", "means", "contract_version", "contract_digest")
_WAYS = {
    "once": "landed once",
    "never": "never landed",
    "twice": "landed twice",
    "again": "ran once more",
    "parts": "landed in part, or with other values",
}
_STATES = {"yes": "landed", "no": "did not land", "twice": "landed twice", "half": "landed by half",
           "wrong": "holds something else", "open": "not compared"}  # fmt: skip


def find_effect(store: Connection, name: str, tenant: str | None, contracts: Contracts) -> Mapping[str, Any]:
    """The row of the effect of this id, or of the first 8 or more digits of it: a live write at a target we know.

    Raises UsageError, NoSuchEffect.
    """
    digits = name.replace("-", "").lower()
    if not _FEWEST_DIGITS <= len(digits) <= 32 or set(digits) - set("0123456789abcdef"):
        raise UsageError(
            f"{name[:40]!r} is no effect's id: 32 hex digits, or the first {_FEWEST_DIGITS} of them or more"
        )
    found = store.execute(queries("console")["find_effects"], {"tenant": tenant, "digits": digits}).fetchall()
    if not found:
        whose = f" of tenant {tenant}" if tenant else ""
        raise NoSuchEffect(
            f"the store has no effect {digits}{whose}; see `counterfoil timeline` for the ids of its writes"
        )
    if len(found) > 1:
        several = ", ".join(f"{row['effect_id'].hex} of {row['tenant']}" for row in found)
        raise UsageError(f"{digits} means several effects: {several}; give more digits, or --tenant")
    row = found[0]
    if row["mode"] != "live":
        raise NoSuchEffect(
            f"effect {row['effect_id'].hex} was made in mode {row['mode']}, and only live ones are judged"
        )
    if row["target"] not in contracts.targets:
        named = f"names the target {row['target']}, which" if row["target"] else "names no target, and so"
        known = ", ".join(contracts.targets) or "none"
        raise NoSuchEffect(f"effect {row['effect_id'].hex} {named} the contracts can't judge; they declare {known}")
    return row


@contextmanager
def bench_of(settings: Settings, store: Connection, contracts: Contracts, tenant: str, target: str) -> Iterator[Bench]:
    """A bench with the target's adapter open for the length of a block.

    Raises SettingsError.
    """
    with open_target(contracts, target, settings.target_settings([target])) as adapter:
        blobs = BlobReader.from_settings(settings, limit_bytes=_LARGEST_TEXT_BYTES)
        yield Bench(store, contracts, adapter, tenant, target, Redaction(settings), blobs)


def as_json(trial: Trial, bench: Bench) -> dict[str, Any]:
    """Plain values."""
    about, row = trial.about, trial.about.row
    in_force = None if row["verdict"] is None else plain({name: row[name] for name in _IN_FORCE})
    return {
        "effect_id": about.effect.effect_id.hex(),
        "tenant": bench.tenant,
        "target": bench.target,
        "contract": {"version": bench.contracts.version, "digest": bench.contracts.digest},
        **_told(about),
        "evidence": about.verdict.evidence,
        "knows_before": trial.knows_before,
        "closed": row["closed_at"] is not None,
        "in_force": in_force,
        "beside": [{"effect_id": one.effect.effect_id.hex(), **_told(one)} for one in trial.others],
        "unexplained": [{"verdict": one.verdict, "reason": one.reason, **one.evidence} for one in trial.changes],
    }


def _told(one: Judged) -> dict[str, Any]:
    return {
        "tool": one.effect.tool,
        "agent_said": one.effect.outcome,
        "verdict": one.verdict.verdict,
        "reason": one.verdict.reason,
        "way": one.verdict.way,
        "fault": _is_fault(one),
    }


def _is_fault(one: Judged) -> bool:
    return one.verdict.way is not None and is_fault(one.effect.outcome, one.verdict.way)


def lines(trial: Trial, bench: Bench) -> Iterator[str]:
    """The same for people: the verdict, part by part what it rests on, the explanation, the verdict in force."""
    about = trial.about
    effect, verdict, row = about.effect, about.verdict, about.row
    yield f"{effect.tool} → {bench.target}  {effect.effect_id.hex()} of {bench.tenant}"
    reason = f": {verdict.reason}" if verdict.reason else ""
    yield f"the agent said {effect.outcome}, these contracts say {verdict.verdict}{reason}"
    yield f"in force: {_in_force(row, bench.contracts)}"
    if not trial.knows_before:
        why = ", for the effect is closed and they are what later ones start from" if row["closed_at"] else ""
        yield f"rows as they were before are not known{why}: what is calculated from them is not compared"
    yield from _parts(verdict.evidence)
    yield from _explanation(trial)
    for change in trial.changes:
        yield f"nobody explains {row_name(change.evidence)} ({change.verdict})"
        yield from (f"  {line}" for line in differences(change.evidence))


def _in_force(row: Mapping[str, Any], contracts: Contracts) -> str:
    if row["verdict"] is None:
        return "nothing is said yet"
    reason = f": {row['verdict_reason']}" if row["verdict_reason"] else ""
    same = "the same contracts" if row["contract_digest"] == contracts.digest else "other contracts"
    drift = ", which is drift" if row["drift"] else ""
    return f"{row['verdict']}{drift}, by {same} (version {row['contract_version']}){reason}"


def _parts(evidence: Mapping[str, Any]) -> Iterator[str]:
    for part in evidence.get("parts", ()):
        state = _STATES[part["landed"]]
        yield f"  {' '.join(filter(None, (row_name(part), part['field'])))}: {state}"
        if part["landed"] == "open":
            yield f"    {part.get('left_open', 'no value')}"
        else:
            yield f"    intended {_value(part['expected'])}, the target has {_value(part['observed'])}"
    if evidence.get("parts_left_out"):
        yield f"  … and {evidence['parts_left_out']} parts more"
    for reason in evidence.get("left_open", ()):
        yield f"  left open: {reason}"


def _value(value: Any) -> str:
    return "nothing" if value is None else repr(value) if isinstance(value, str) else compact(value)


def _explanation(trial: Trial) -> Iterator[str]:
    judged = sorted((trial.about, *trial.others), key=lambda one: one.effect.order)
    if trial.about.verdict.way is None:
        return
    faults = sum(map(_is_fault, judged))
    yield f"what fits with the fewest faults ({faults} here):"
    for one in judged:
        way = _WAYS[one.verdict.way] if one.verdict.way is not None else "can't be judged"
        marks = "  ← this one" if one is trial.about and trial.others else ""
        fault = ", a fault" if _is_fault(one) else ""
        yield f"  {one.effect.tool} {one.effect.effect_id.hex()[:8]} ({one.effect.outcome}) {way}{fault}{marks}"
