"""What became of every recorded write, and how that compares with labels."""

import json
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from counterfoil_consumers.store import Connection
from counterfoil_reconcilers.contracts import Contracts
from counterfoil_reconcilers.targets.postgresql_tables import options_of
from examples.trajectories.playing import Played
from examples.trajectories.recording import json_lines

_CHANGES = """
    SELECT tenant, target, resource, key, verdict, evidence
    FROM counterfoil.target_change ORDER BY tenant, resource, key
"""
# Labels that are not drift: controls, and a timeout whose write landed (the agent did not know, now it does).
_NO_DRIFT = ("none", "none_rejected", "none_noop", "timeout_applied")


def report_lines(
    store: Connection, writes: Sequence[Played], contracts: Contracts, domains: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """One line per write, then one per row change that no write explains."""
    states = {
        (row["tenant"], row["effect_id"]): row
        for row in store.execute("SELECT tenant, effect_id, verdict, outcome, evidence FROM counterfoil.effect_state")
    }
    rules = {
        (row["outcome"], row["verdict"]): row["drift"]
        for row in store.execute("SELECT outcome, verdict, drift FROM counterfoil.drift_rule")
    }
    for write in writes:
        state = states[write.tenant, uuid.UUID(bytes=write.effect_id)]
        # Drift belongs to the attempt that claimed success or does not know: a refused one beside it agrees.
        decides = write.outcome == state["outcome"]
        yield {
            "trace_id": write.trace_id,
            "step": write.step,
            "tenant_id": write.tenant,
            "tool": write.tool,
            "outcome": write.outcome,
            "verdict": state["verdict"],
            "drift": decides and bool(rules.get((write.outcome, state["verdict"]), False)),
            "evidence": state["evidence"],
        }
    for change in store.execute(_CHANGES):
        table = options_of(contracts.resources[change["target"], change["resource"]]).table
        key = json.loads(change["key"])
        yield {
            "tenant_id": change["tenant"],
            "table": table.split(".")[-1].strip('"').removeprefix(f"{domains[change['tenant']]}_"),
            "key": key[0] if len(key) == 1 else key,
            "verdict": change["verdict"],
            "drift": True,
            "evidence": change["evidence"],
        }


@dataclass
class Score:
    """Of one kind of fault: how many labels, how many of them were called drift, and the verdicts given."""

    labels: int = 0
    found: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)


@dataclass
class Scores:
    """All kinds, and the lines that were called drift without a label that says so."""

    kinds: dict[str, Score] = field(default_factory=lambda: defaultdict(Score))
    true_positives: int = 0
    false_positives: list[Mapping[str, Any]] = field(default_factory=list)
    missed: list[Mapping[str, Any]] = field(default_factory=list)

    @property
    def precision(self) -> float:
        """Of the lines called drift, the share that a label calls so; 1 when none was."""
        called = self.true_positives + len(self.false_positives)
        return 1.0 if called == 0 else self.true_positives / called

    @property
    def recall(self) -> float:
        """Of the labels that are drift, the share that was found; 1 when there is none."""
        faults = self.true_positives + len(self.missed)
        return 1.0 if faults == 0 else self.true_positives / faults


def score(lines: Iterable[Mapping[str, Any]], labels: Path) -> Scores:
    """Hold a report against the labels of its faults."""
    writes: dict[tuple[str, int], Mapping[str, Any]] = {}
    changes: dict[tuple[str, str, str], Mapping[str, Any]] = {}
    for line in lines:
        if "trace_id" in line:
            writes[line["trace_id"], line["step"]] = line
        else:
            changes[line["tenant_id"], line["table"], str(line["key"])] = line
    scores = Scores()
    accounted: set[tuple[str, str, str]] = set()
    for label in json_lines(labels):
        landed_in = (label["detail"] or {}).get("landed_in", label["tenant_id"])
        rows = {(landed_in, change["table"], str(change["key"])) for change in label["actual"] or ()}
        if label["trace_id"] is None:
            line = next((changes[row] for row in rows if row in changes), {"drift": False, "verdict": None})
            accounted |= rows
        else:
            line = writes[label["trace_id"], label["step"]]
            accounted |= rows if landed_in != label["tenant_id"] else set()
        _count(scores, label, line)
    scores.false_positives += [line for row, line in changes.items() if row not in accounted]
    return scores


def _count(scores: Scores, label: Mapping[str, Any], line: Mapping[str, Any]) -> None:
    kind = scores.kinds[label["fault"]]
    kind.labels += 1
    kind.found += bool(line["drift"])
    kind.verdicts[line["verdict"] or "none"] += 1
    is_fault = label["fault"] not in _NO_DRIFT
    if is_fault and line["drift"]:
        scores.true_positives += 1
    elif is_fault:
        scores.missed.append({"fault": label["fault"], "trace_id": label["trace_id"], "step": label["step"]})
    elif line["drift"]:
        scores.false_positives.append(line)


def table(scores: Scores) -> Iterator[str]:
    """Precision and recall per kind of fault, as lines of text."""
    yield f"{'fault':<22}{'labels':>7}{'drift':>7}{'precision':>11}{'recall':>8}  verdicts"
    for kind, one in sorted(scores.kinds.items()):
        words = ", ".join(f"{verdict} {count}" for verdict, count in one.verdicts.most_common())
        if kind in _NO_DRIFT:
            precision, recall = ("1.00" if not one.found else "0.00"), "—"
        else:
            precision, recall = ("1.00" if one.found else "—"), f"{one.found / one.labels:.2f}"
        yield f"{kind:<22}{one.labels:>7}{one.found:>7}{precision:>11}{recall:>8}  {words}"
    called = scores.true_positives + len(scores.false_positives)
    yield f"{'all':<22}{'':>7}{called:>7}{scores.precision:>11.3f}{scores.recall:>8.3f}"
    yield f"false alarms: {len(scores.false_positives)}, missed: {len(scores.missed)}"


def write_report(lines: Sequence[Mapping[str, Any]], path: Path) -> None:
    """One JSON object a line."""
    with path.open("w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")


def count_rows(dsn: str) -> int:
    """Events stored; for the closing line."""
    with psycopg.connect(dsn) as store:
        store.execute("SET ROLE counterfoil_operator")
        row = store.execute("SELECT count(*) FROM counterfoil.event").fetchone()
        return 0 if row is None else int(row[0])
