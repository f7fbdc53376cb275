"""What a draft from recorded writes is made from: the latest of each tool, and the rows that they may have touched."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from counterfoil.blobs import BlobReader
from counterfoil.redaction import Redaction
from counterfoil_console.drafts.leaves import Variables, arguments_of
from counterfoil_console.drafts.model import Draft, DraftTarget, DraftTool
from counterfoil_console.drafts.observed import key_guesses, propose
from counterfoil_consumers.store import Connection, queries
from counterfoil_reconcilers.baseline import Past
from counterfoil_reconcilers.contracts import Contracts
from counterfoil_reconcilers.contracts import Target as Declared
from counterfoil_reconcilers.disclosure import Disclosure
from counterfoil_reconcilers.looking import read_rows
from counterfoil_reconcilers.recorded import effect_of, opened
from counterfoil_reconcilers.rows import Effect, Row, RowKey, Rows
from counterfoil_reconcilers.targets.opening import Settings, open_target
from counterfoil_reconcilers.targets.port import Target
from counterfoil_reconcilers.values import Unreadable

_MOST_WRITES = 200  # of one tool
_PROBED = 5  # of these, to see which guesses of a key name rows at all
_READ_AT_ONCE = 1_000


@dataclass(frozen=True)
class Sources:
    """Where recorded writes and rows are read: the store, read only, and the targets that the contracts declare."""

    store: Connection
    contracts: Contracts | None
    target_settings: Settings
    redaction: Redaction
    blobs: BlobReader

    def draft(self, tenant: str, target: str | None = None) -> Draft:
        """A draft of every tool of a tenant that wrote and has no contract, at one target or all.

        Raises TargetUnavailable, SettingsError.
        """
        draft = Draft()
        params = {"tenant": tenant, "target": target, "limit": _MOST_WRITES}
        found = self.store.execute(queries("console")["sampled_writes"], params).fetchall()
        tools = self.contracts.tools if self.contracts else {}
        rows = [row for row in found if row["tool"] not in tools]
        for name, of_target in groupby(sorted(rows, key=_target_of), key=_target_of):
            self._draft_at(draft, tenant, name, list(of_target))
        return draft

    def _draft_at(self, draft: Draft, tenant: str, target: str, rows: list[dict[str, Any]]) -> None:
        declared = self.contracts.targets.get(target) if self.contracts else None
        if declared is None or self.contracts is None:
            why = f"the contracts do not declare its target {target or '(none is named)'} with its resources"
            for tool, of_tool in _by_tool(rows):
                noted = [one for row in of_tool if (one := _variables(_plain_effect(row, tenant))) is not None]
                draft.left_out[tool] = [why, f"arguments: {arguments_of(noted)}"]
            return
        with open_target(self.contracts, target, self.target_settings) as adapter:
            sample = _Sample(self, adapter, declared, tenant)
            for tool, of_tool in _by_tool(rows):
                made = sample.propose(tool, of_tool)
                if tool in draft.tools:
                    draft.tools[tool].notes.append(f"it writes to {target}, too; a contract names one target")
                elif made.writes:
                    draft.tools[tool] = made
                else:
                    draft.left_out[tool] = [f"no argument names a row of {target} that it changed", *made.notes]
        draft.targets[target] = DraftTarget(given=_given(self.contracts, target))


class _Sample:
    """The writes of one tenant at one target."""

    def __init__(self, sources: Sources, adapter: Target, declared: Declared, tenant: str) -> None:
        self._sources = sources
        self._adapter = adapter
        self._declared = declared
        self._tenant = tenant
        where = {"tenant": tenant, "target": declared.name}
        first = sources.store.execute(queries("reconcile")["read_first_fence"], where).fetchone()
        fence = first["baseline_fence"] if first is not None and declared.writers is not None else None
        self._past = Past(sources.store, tenant, declared, None if fence is None else tuple(fence))

    def propose(self, tool: str, rows: Sequence[Mapping[str, Any]]) -> DraftTool:
        """A draft of one tool.

        Raises TargetUnavailable.
        """
        disclosure = Disclosure(self._sources.redaction.of_task(self._tenant, self._declared.name))
        full = [opened(row, self._tenant, self._declared.name, self._sources.blobs) for row in rows]
        noted = [effect_of(row, self._tenant, disclosure) for row in full]
        now = self._read([one for effect in noted if (one := _variables(effect)) is not None])
        disclosure.learn(self._past.rows.rows.values())
        disclosure.learn(now.rows.values())
        kept = [
            (row, one)
            for row, effect in zip(full, noted, strict=True)
            if (one := _variables(disclosure.opened(effect))) is not None
        ]
        before = self._before(kept)
        resources = list(self._declared.resources.values())
        return propose(tool, self._declared.name, resources, [one for _, one in kept], before, now)

    def _read(self, writes: Sequence[Variables]) -> Rows:
        """The rows that the writes may name: of a few all guesses are tried, then of all those that named a row."""
        probes = writes[-_PROBED:]
        rows: dict[RowKey, Row | None] = {}
        for resource in self._declared.resources.values():
            guesses = key_guesses(resource, writes)
            self._add(rows, (guess.of(one) for guess in guesses for one in probes))
            likely = [guess for guess in guesses if any(self._is_known(guess.of(one), rows) for one in probes)]
            self._add(rows, (guess.of(one) for guess in likely for one in writes))
        return Rows(rows)

    def _is_known(self, key: RowKey | None, rows: Mapping[RowKey, Row | None]) -> bool:
        """Whether there is such a row, or was."""
        return key is not None and (rows.get(key) is not None or self._past.rows.rows.get(key) is not None)

    def _add(self, rows: dict[RowKey, Row | None], keys: Iterable[RowKey | None]) -> None:
        wanted = [key for key in dict.fromkeys(keys) if key is not None and key not in rows]
        for start in range(0, len(wanted), _READ_AT_ONCE):
            part = wanted[start : start + _READ_AT_ONCE]
            self._past.load(part)
            rows.update(read_rows(self._adapter, self._declared, self._tenant, part))

    def _before(self, kept: Sequence[tuple[Mapping[str, Any], Variables]]) -> Rows:
        """The rows that none of these writes can have changed already."""
        resources = self._declared.resources
        writes = [one for _, one in kept]
        needed = {
            (key, row["intent_partition"], row["intent_offset"])
            for resource in resources.values()
            for guess in key_guesses(resource, writes)
            for row, one in kept
            if (key := guess.of(one)) is not None
        }
        return self._past.baseline.usable_for(resources, needed)


def _variables(effect: Effect) -> Variables | None:
    """None where the arguments are not at hand, or can't be compared."""
    try:
        found = dict(effect.variables)
    except Unreadable:
        return None
    return found if isinstance(found["args"], dict) else None


def _plain_effect(row: Mapping[str, Any], tenant: str) -> Effect:
    return Effect(row["effect_id"].bytes, row["tool"], row["args"], row["outcome"], (), row["reply"], tenant=tenant)


def _given(contracts: Contracts, target: str) -> Mapping[str, Any]:
    """The target's table as the contracts on disk have it."""
    tables = (tables["targets"] for _, _, tables in contracts.source.files if target in tables.get("targets", {}))
    table: Mapping[str, Any] = next(tables)[target]
    return table


def _target_of(row: Mapping[str, Any]) -> str:
    return row["target"] or ""


def _by_tool(rows: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    """By tool, each in the order of the log."""
    ordered = sorted(
        rows, key=lambda row: (row["tool"], row["intent_at"], row["intent_partition"], row["intent_offset"])
    )
    for tool, of_tool in groupby(ordered, key=lambda row: str(row["tool"])):
        yield tool, list(of_tool)
