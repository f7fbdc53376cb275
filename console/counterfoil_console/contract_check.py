"""What is wrong with contracts: in the files, at the targets, and beside what agents have recorded."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from counterfoil.errors import SettingsError
from counterfoil_console.settings import Settings
from counterfoil_consumers.store import Connection, fetch_one, queries
from counterfoil_reconcilers.contract_files import did_you_mean
from counterfoil_reconcilers.contract_names import arguments_read
from counterfoil_reconcilers.contracts import ContractError, Contracts, Tool, examine
from counterfoil_reconcilers.targets.opening import open_target, variable_of
from counterfoil_reconcilers.targets.port import TargetUnavailable

_WRITES_LOOKED_AT = 1_000


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong (`bad`), or may be (`warning`): where, and in one sentence what and what to do."""

    grade: Literal["warning", "bad"]
    file: str | None
    line: int | None
    what: str


def examine_files(path: Path) -> tuple[Contracts | None, list[Finding]]:
    """The contracts, or None and every mistake in their files, in the order of the lines."""
    contracts, mistakes = examine(path)
    return contracts, _in_order(mistakes)


def examine_targets(contracts: Contracts, settings: Settings) -> Iterator[Finding]:
    """What the contracts name and the targets do not have; a target that gives no answer is a finding, too."""
    reached = settings.target_settings(contracts.targets)
    for name in contracts.targets:
        try:
            with open_target(contracts, name, reached) as target:
                mistakes = target.check()
        except SettingsError as error:
            yield Finding("bad", None, None, f"{error}, or pass --offline")
        except TargetUnavailable as error:
            advice = f"check {variable_of(name)} and that it runs, or pass --offline"
            yield Finding("bad", None, None, f"target {name} was not asked: {error.reason}; {advice}")
        else:
            yield from _in_order(mistakes)


def compare_with_store(contracts: Contracts, store: Connection) -> Iterator[Finding]:
    """Arguments that a contract reads, and that no recorded write of its tool has; and writes with several ids."""
    params = {"tools": list(contracts.tools), "limit": _WRITES_LOOKED_AT}
    recorded: dict[str, set[str]] = {}
    writes: Counter[str] = Counter()
    for row in store.execute(queries("console")["recorded_arguments"], params):
        recorded.setdefault(row["tool"], set()).update(row["names"])
        writes[row["tool"]] += row["writes"]
    for tool, names in recorded.items():
        yield from _never_recorded(contracts, contracts.tools[tool], names, writes[tool])
    for known in contracts.tools.values():
        yield from _under_several_ids(contracts, known, store)


def _under_several_ids(contracts: Contracts, tool: Tool, store: Connection) -> Iterator[Finding]:
    if tool.identity is None:
        return
    params = {"tool": tool.name, "identity": list(tool.identity), "limit": _WRITES_LOOKED_AT}
    writes = fetch_one(store, queries("console")["recorded_under_several_ids"], params)["writes"]
    if writes:
        names = ", ".join(f'"{name}"' for name in tool.identity)
        mistake = contracts.error_at(
            ("tools", tool.name, "identity"),
            f"{writes} of the latest writes of {tool.name} have this identity in common with another one of their task "
            f"and ids of their own; pass identity=[{names}] where they are recorded, or step= to mean several",
        )
        yield Finding("warning", mistake.file, mistake.line, str(mistake))


def _never_recorded(contracts: Contracts, tool: Tool, recorded: set[str], writes: int) -> Iterator[Finding]:
    # Names that only recorders give have one more `$` when they are an agent's own.
    known = recorded | {name[1:] for name in recorded if name.startswith("$")}
    said: set[str] = set()
    for name, location, expression in arguments_read(tool):
        if name in known or name in said:
            continue
        said.add(name)
        looked = f"the {writes} writes of {tool.name}" if writes > 1 else f"the one write of {tool.name}"
        hint = did_you_mean(name, recorded)
        mistake = contracts.error_at(
            location, f"`{expression.text}`: none of {looked} that were looked at has an argument {name}{hint}"
        )
        yield Finding("warning", mistake.file, mistake.line, str(mistake))


def _in_order(mistakes: Iterable[ContractError]) -> list[Finding]:
    ordered = sorted(mistakes, key=lambda one: (one.file or "", one.line or 0))
    return [Finding("bad", one.file, one.line, str(one)) for one in ordered]
