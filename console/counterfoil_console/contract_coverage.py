"""How much of what agents wrote the contracts can judge: by tool and target, the least covered first.

Covered is a write whose verdict in force is one that says something. What is still settling is not: its target may be
away for good. Nor is what is `unknowable`, what has no contract, and what names no target.
"""

import datetime as dt
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

from counterfoil_consumers.store import Connection, queries
from counterfoil_reconcilers.contracts import Contracts

Judge = Literal["judges", "no contract", "another target", "no target"]

_MOST_REASONS = 10


@dataclass
class Covered:
    """The live writes of one tool at one target (None: they name none). `reasons` of those that are unknowable."""

    tool: str
    target: str | None
    contract: Judge
    writes: int = 0
    intents: int = 0
    settling: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def covered(self) -> int:
        """Writes of which it is known what became of them."""
        return self.verdicts.total() - self.verdicts["unknowable"]

    @property
    def share(self) -> float:
        """From 0 to 1."""
        return self.covered / self.writes


@dataclass(frozen=True)
class Coverage:
    """All of it, and the tools of the contracts that were never seen."""

    tools: tuple[Covered, ...]
    never_seen: tuple[str, ...]

    @property
    def writes(self) -> int:
        """All live writes seen."""
        return sum(one.writes for one in self.tools)

    @property
    def covered(self) -> int:
        """Those that are covered."""
        return sum(one.covered for one in self.tools)

    @property
    def uncovered(self) -> int:
        """Those that name no target."""
        return sum(one.writes for one in self.tools if one.target is None)

    @property
    def share(self) -> float | None:
        """From 0 to 1; None where nothing was seen."""
        return self.covered / self.writes if self.writes else None


def read_coverage(
    store: Connection, contracts: Contracts | None, tenant: str | None = None, since: dt.datetime | None = None
) -> Coverage:
    """The coverage of one tenant or all, of writes that were heard of since then or ever."""
    found: dict[tuple[str, str | None], Covered] = {}
    rows = store.execute(queries("console")["contract_coverage"], {"tenant": tenant, "since": since})
    for row in rows:
        tool, target = row["tool"], row["target"]
        one = found.setdefault((tool, target), Covered(tool, target, _judge_of(contracts, tool, target)))
        one.writes += row["writes"]
        one.intents += row["intents"]
        if row["verdict"] is None:
            one.settling += row["writes"] if one.contract == "judges" else 0
        else:
            one.verdicts[row["verdict"]] += row["writes"]
        if row["verdict"] == "unknowable":
            one.reasons[row["reason"]] += row["writes"]
    ordered = sorted(found.values(), key=lambda one: (one.share, one.covered - one.writes, one.tool, one.target or ""))
    seen = {one.tool for one in ordered}
    return Coverage(tuple(ordered), tuple(sorted(contracts.tools.keys() - seen)) if contracts else ())


def as_json(coverage: Coverage) -> dict[str, Any]:
    """Plain values."""
    return {
        "share": coverage.share,
        "writes": coverage.writes,
        "covered": coverage.covered,
        "uncovered": coverage.uncovered,
        "never_seen": list(coverage.never_seen),
        "tools": [
            {
                "tool": one.tool,
                "target": one.target,
                "contract": one.contract,
                "share": one.share,
                "writes": one.writes,
                "intents": one.intents,
                "settling": one.settling,
                "verdicts": dict(one.verdicts.most_common()),
                "unknowable": [{"reason": reason, "writes": n} for reason, n in one.reasons.most_common(_MOST_REASONS)],
            }
            for one in coverage.tools
        ],
    }


def _judge_of(contracts: Contracts | None, tool: str, target: str | None) -> Judge:
    if target is None:
        return "no target"
    known = contracts.tools.get(tool) if contracts else None
    if known is None:
        return "no contract"
    return "judges" if known.target == target else "another target"
