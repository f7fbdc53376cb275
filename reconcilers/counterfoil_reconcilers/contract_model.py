"""The parts of a contract, compiled: what the judge and the adapters read.

A contract is data plus small expressions, compiled when it is loaded, so that a mistake is a refusal with its line and
never a verdict. Its version and digest go into every verdict that it led to.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from counterfoil_reconcilers.contract_files import ContractError, Source, Written, WrittenChanges
from counterfoil_reconcilers.contract_kinds import Capabilities
from counterfoil_reconcilers.expressions import Expression
from counterfoil_reconcilers.toml_lines import Location
from counterfoil_reconcilers.values import Path

_MOST_RULES = 10_000  # paths whose rule is remembered; rows may have any names
# What an expression may use besides the names of its own `let`.
VARIABLES = frozenset({"args", "result", "before", "old", "effect", "step", "tenant", "keys"})
# What an undo may use. Its `before` holds rows by resource: `before.orders.status`.
UNDO_VARIABLES = frozenset({"args", "result", "before", "effect", "step", "tenant"})


@dataclass(frozen=True)
class FieldRule:
    """How one field is compared, and shown. `tolerance` is absolute and in the field's own unit."""

    tolerance: float = 0.0
    unordered: bool = False
    ignore_case: bool = False
    time: bool = False
    ignore: bool = False
    redact: bool = False


@dataclass(frozen=True)
class Resource:
    """One kind of row. `key` are its fields that name a row, `tenant` the one that says whose it is.

    `options` is where such rows are found, in the words of the target's kind. `finds`: its rows can be searched for
    what they hold.
    """

    name: str
    key: tuple[str, ...]
    tenant: str | None
    tolerance: float
    options: Written
    fields: tuple[tuple[tuple[str, ...], FieldRule], ...] = ()
    finds: bool = True
    _rules: dict[Path, FieldRule] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def changes(self) -> WrittenChanges | None:
        """How it tells what changed there, if it does."""
        found = getattr(self.options, "changes", None)
        return found if isinstance(found, WrittenChanges) else None

    def rule(self, path: Path) -> FieldRule:
        """The rule of the nearest declared field around `path`; list positions do not count."""
        rule = self._rules.get(path)  # most paths are names alone
        return rule if rule is not None else self._rule_of(tuple([step for step in path if isinstance(step, str)]))

    def _rule_of(self, names: tuple[str, ...]) -> FieldRule:
        rule = self._rules.get(names)
        if rule is None:
            rule = self._nearest(names)
            if len(self._rules) < _MOST_RULES:
                self._rules[names] = rule
        return rule

    def _nearest(self, names: tuple[str, ...]) -> FieldRule:
        best: tuple[str, ...] | None = None
        rule = FieldRule(self.tolerance)
        for declared, candidate in self.fields:
            fits = names[: len(declared)] == declared and (best is None or len(declared) > len(best))
            if fits:
                best, rule = declared, candidate
        return rule


@dataclass(frozen=True)
class Outcomes:
    """Patterns in a recorded error that tell `unknown` from the definite `failed`."""

    unknown: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()

    def of_error(self, text: str) -> Literal["unknown", "failed"]:
        """The outcome that a recorded error text stands for; what matches nothing is `failed`."""
        low = text.lower()
        return "unknown" if any(pattern.lower() in low for pattern in self.unknown) else "failed"


@dataclass(frozen=True)
class Target:
    """A system written to. `writers` None: others write there too, and nobody said which rows are ours.

    `ours` is the predicate that says it, in the language of the kind; `is_ours` compiled, where that is CEL.
    `looks_per_second`: at how many effects a second all reconcilers together may look there.
    """

    name: str
    kind: str
    capabilities: Capabilities
    options: Written
    writers: Literal["exclusive", "ours"] | None
    ours: str | None
    is_ours: Expression | None
    settle_seconds: float
    looks_per_second: float | None
    resources: Mapping[str, Resource]
    outcomes: Outcomes


@dataclass(frozen=True)
class Change:
    """One field that a write changes. A step of `path` is a name, or an expression that gives a name or an index."""

    kind: Literal["set", "append", "remove"]
    path: tuple[str | Expression, ...]
    text: str
    value: Expression | None

    @cached_property
    def fixed_path(self) -> Path | None:
        """The path, where no step of it is an expression."""
        names = tuple([step for step in self.path if isinstance(step, str)])
        return names if len(names) == len(self.path) else None

    @cached_property
    def builds_on_before(self) -> bool:
        """Whether its value is made of what was there."""
        return self.value is not None and not self.value.names.isdisjoint(("old", "before"))

    @cached_property
    def asks_rows(self) -> bool:
        """Whether rows may be looked up for it."""
        return any(isinstance(one, Expression) and one.asks_rows for one in (*self.path, self.value))


@dataclass(frozen=True)
class Write:
    """One row, or one row per element of `each`, that a tool's call creates, changes or deletes.

    `each` sees the tool's `let`; everything else, the write's own `let` too, sees `item` and `index` besides.
    """

    index: int
    resource: Resource
    key: tuple[tuple[str, Expression], ...]
    find: tuple[tuple[str, Expression], ...]
    let: tuple[tuple[str, Expression], ...]
    when: Expression | None
    each: Expression | None
    create: bool
    delete: bool
    changes: tuple[Change, ...]
    reply: Expression | None


@dataclass(frozen=True)
class Undo:
    """The call that takes back what a call of a tool left behind. It is proposed to people, and never made."""

    tool: str
    args: tuple[tuple[str, Expression], ...]


@dataclass(frozen=True)
class Tool:
    """What a call of this tool must leave behind."""

    name: str
    target: str
    identity: tuple[str, ...] | None
    let: tuple[tuple[str, Expression], ...]
    settle_seconds: float | None
    accepted_within_seconds: float | None
    irreversible: bool
    undo: Undo | None
    writes: tuple[Write, ...]


@dataclass(frozen=True)
class Contracts:
    """All contracts of a file or folder. `digest` is SHA-256 (hex) over their canonical content."""

    version: str
    digest: str
    targets: Mapping[str, Target] = field(repr=False)
    tools: Mapping[str, Tool] = field(repr=False)
    outcomes: Outcomes = field(default_factory=Outcomes, repr=False)
    source: Source = field(default_factory=lambda: Source(()), repr=False, compare=False)

    @cached_property
    def resources(self) -> Mapping[tuple[str, str], Resource]:
        """Every resource by (target, name)."""
        return {(t.name, r.name): r for t in self.targets.values() for r in t.resources.values()}

    def outcome_of(self, tool: str, error_text: str) -> Literal["unknown", "failed"]:
        """What a recorded error text of `tool` stands for."""
        declared = self.tools.get(tool)
        outcomes = self.targets[declared.target].outcomes if declared else self.outcomes
        return outcomes.of_error(error_text)

    def error_at(self, location: Location, sentence: str) -> ContractError:
        """A ContractError that names the file and line of a part of these contracts."""
        return self.source.error(location, sentence)
