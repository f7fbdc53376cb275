"""The recorded agents' runs judged without Kafka, store or database: the judge's own figures, in seconds.

It reads the files of ../shared/trajectories as that folder's README describes them. Labels are read only to count.
"""

import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from counterfoil.jsontext import to_json_text
from counterfoil.redaction import Redaction
from counterfoil_reconcilers.contracts import Contracts
from counterfoil_reconcilers.disclosure import Disclosure
from counterfoil_reconcilers.judge import Effect, Judgement, RowKey, Rows, Unattributed, Verdict, judge, sweep
from counterfoil_reconcilers.rows import Row, row_of
from counterfoil_reconcilers.targets.postgresql_tables import options_of
from counterfoil_reconcilers.veil import NO_VEIL, Veil

DATA = Path(__file__).resolve().parents[3] / "shared" / "trajectories"
CONTRACTS = Path(__file__).resolve().parents[2] / "examples" / "trajectories" / "contracts.toml"
AGREES = {"none", "none_rejected", "none_noop", "timeout_applied"}

Place = tuple[str, int]


@dataclass(frozen=True)
class Judged:
    """Verdicts by (trace, step), and what changed unexplained by tenant."""

    effects: dict[Place, Effect]
    verdicts: dict[Place, Verdict]
    changes: dict[str, tuple[Unattributed, ...]]


def lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a .jsonl or .jsonl.gz file."""
    content = path.read_bytes()
    for line in (gzip.decompress(content) if path.suffix == ".gz" else content).splitlines():
        yield json.loads(line)


def effects_by_tenant(contracts: Contracts, data: Path, events: Path) -> dict[str, dict[Place, Effect]]:
    """Every write of the recorded runs, with the outcome that the agent saw."""
    runs = list(lines(data / "traces.jsonl"))
    tenant_of = {run["trace_id"]: run["tenant_id"] for run in runs}
    number = {run["trace_id"]: index for index, run in enumerate(runs)}
    found: dict[str, dict[Place, Effect]] = defaultdict(dict)
    open_calls: dict[str, dict[str, Any]] = {}
    for event in lines(events):
        trace = event["trace_id"]
        if event["kind"] == "tool_call":
            open_calls[trace] = event
        elif event["kind"] == "tool_result":
            call = open_calls.pop(trace, None)
            if call is not None and call["effect"] == "write":
                found[tenant_of[trace]][trace, call["step"]] = _effect(contracts, call, event, number[trace])
    return found


def _effect(contracts: Contracts, call: dict[str, Any], result: dict[str, Any], run: int) -> Effect:
    failed = bool(result["is_error"])
    return Effect(
        effect_id=f"{call['trace_id']}/{call['step']}".encode(),
        tool=call["tool"],
        args=call["args"],
        outcome=contracts.outcome_of(call["tool"], str(result["output"])) if failed else "ok",
        order=(run, call["step"]),
        reply=None if failed else result["output"],
    )


def judge_all(
    contracts: Contracts, data: Path, events: Path, final: Path, target: str, redaction: Redaction | None = None
) -> Judged:
    """Every tenant judged: the snapshot is the baseline, the final rows on top of it are what is observed.

    With `redaction`, effects are judged as its recorders would have written them down.
    """
    before, finals = rows_of(contracts, data, final, target)
    judged = Judged({}, {}, {})
    for tenant, recorded in effects_by_tenant(contracts, data, events).items():
        effects = recorded
        observed = finals.get(tenant, before)
        veil: Veil = NO_VEIL
        if redaction is not None:
            veil = disclosure = Disclosure(redaction.of_task("acme", tenant))
            noted = {
                place: disclosure.noted(_recorded(effect, redaction), redaction.stamp)
                for place, effect in recorded.items()
            }
            disclosure.learn(observed.rows.values())
            effects = {place: disclosure.opened(effect) for place, effect in noted.items()}
        result = judge(contracts, target, list(effects.values()), before, observed, veil)
        judged.effects.update(effects)
        judged.verdicts.update(zip(effects, result.verdicts, strict=True))
        judged.changes[tenant] = (*result.unattributed, *sweep(contracts, target, before, observed, result, veil))
    return judged


def rows_of(contracts: Contracts, data: Path, final: Path, target: str) -> tuple[Rows, dict[str, Rows]]:
    """The rows of the snapshot, and by tenant those that stand at the end."""
    snapshot: dict[str, dict[RowKey, Row | None]] = {}
    for file in sorted((data / "target_snapshot").glob("*.json.gz")):
        table = file.name.removesuffix(".json.gz")
        resource = next(
            (r.name for r in contracts.targets[target].resources.values() if options_of(r).table == table), None
        )
        if resource is not None:
            with gzip.open(file, "rt") as opened:
                content = json.load(opened)
            snapshot[resource] = {RowKey(resource, (key,)): row_of(doc) for key, doc in content.items()}
    whole = frozenset(snapshot)
    before = Rows({key: row for rows in snapshot.values() for key, row in rows.items()}, whole)
    finals = {
        tenant: Rows({**before.rows, **rows}, whole) for tenant, rows in _final_rows(contracts, final, target).items()
    }
    return before, finals


def _recorded(effect: Effect, redaction: Redaction) -> Effect:
    """The effect as it stands in the store after a recorder with this policy."""
    redactor = redaction.of_task("acme", "default")
    intent = redactor.body("tool_intent", {"tool": effect.tool, "args": to_json_text(effect.args)})
    reply = None if effect.reply is None else to_json_text(effect.reply)
    result = redactor.body("tool_result", {"tool": effect.tool, "result": reply})["result"]
    return replace(effect, args=json.loads(intent["args"]), reply=None if result is None else json.loads(result))


def _final_rows(contracts: Contracts, final: Path, target: str) -> dict[str, dict[RowKey, Row | None]]:
    by_table = {options_of(r).table.partition("_")[2]: r.name for r in contracts.targets[target].resources.values()}
    rows: dict[str, dict[RowKey, Row | None]] = defaultdict(dict)
    for line in lines(final):
        key = RowKey(by_table[line["table"]], (line["key"],))
        doc = line.get("doc", line.get("row", line.get("after")))
        rows[line["tenant_id"]][key] = None if doc is None else row_of(doc)
    return rows


def drifts(effect: Effect, verdict: Verdict) -> bool:
    """DESIGN.md's table: what the agent said against what the target says."""
    if verdict.verdict == "unknowable":
        return False
    if effect.outcome == "partial":
        return True
    agrees = {"failed": "not_applied", "denied": "not_applied"}.get(effect.outcome, "applied")
    return verdict.verdict != agrees


def figures(judged: Judged, labels: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Per fault kind: how many, how many found, and the verdicts given."""
    table: dict[str, dict[str, Any]] = {}
    changed = {
        (tenant, c.row.key[0]) for tenant, cs in judged.changes.items() for c in cs if c.verdict == "unattributed"
    }
    for label in labels:
        row = table.setdefault(label["fault"], {"count": 0, "found": 0, "verdicts": Counter()})
        row["count"] += 1
        if label["trace_id"] is None:
            found = all((label["tenant_id"], change["key"]) in changed for change in label["actual"])
            row["verdicts"]["unattributed" if found else "-"] += 1
        else:
            place = (label["trace_id"], label["step"])
            verdict = judged.verdicts[place]
            found = drifts(judged.effects[place], verdict)
            row["verdicts"][verdict.verdict] += 1
        row["found"] += found
    return table


def explained_changes(judged: Judged, labels: Iterable[dict[str, Any]]) -> tuple[int, int]:
    """Of the rows called unattributed: how many a label stands for, and how many there are."""
    labels = list(labels)
    true = {(label["tenant_id"], c["key"]) for label in labels if label["trace_id"] is None for c in label["actual"]}
    for label in labels:
        if label["fault"] == "wrong_tenant":
            true |= {(label["detail"]["landed_in"], change["key"]) for change in label["expected"]}
    said = [
        (tenant, change.row.key[0])
        for tenant, changes in judged.changes.items()
        for change in changes
        if change.verdict == "unattributed"
    ]
    return sum(change in true for change in said), len(said)


__all__ = [
    "AGREES",
    "CONTRACTS",
    "DATA",
    "Judged",
    "Judgement",
    "drifts",
    "explained_changes",
    "figures",
    "judge_all",
    "lines",
    "rows_of",
]
