"""Contracts: what each tool's write must leave behind at its target, declared by the people who own the tool.

`load` turns files into contracts: every expression compiled, every name checked, every mistake with its line.
"""

import datetime as dt
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from counterfoil_reconcilers.contract_files import (
    ContractError,
    Source,
    Written,
    WrittenContracts,
    WrittenResource,
    WrittenTarget,
    WrittenTool,
    WrittenUndo,
    WrittenWrite,
    did_you_mean,
    read,
    validate,
    validate_options,
)
from counterfoil_reconcilers.contract_kinds import Capabilities, KindDescription, KindMissing, find_kind
from counterfoil_reconcilers.contract_model import (
    UNDO_VARIABLES,
    VARIABLES,
    Change,
    Contracts,
    FieldRule,
    Outcomes,
    Resource,
    Target,
    Tool,
    Undo,
    Write,
)
from counterfoil_reconcilers.expressions import Expression, ExpressionError, compile_expression
from counterfoil_reconcilers.toml_lines import Location

__all__ = [
    "Change",
    "ContractError",
    "Contracts",
    "FieldRule",
    "Outcomes",
    "Resource",
    "Target",
    "Tool",
    "Undo",
    "Write",
    "examine",
    "load",
]


def load(path: Path | str) -> Contracts:
    """The contracts of a *.toml file, or of every one in a folder; ContractError says what is wrong where."""
    contracts, mistakes = examine(path)
    if contracts is None:
        raise mistakes[0]
    return contracts


def examine(path: Path | str) -> tuple[Contracts | None, Sequence[ContractError]]:
    """The contracts, or None and all that is wrong with them, what `load` raises first.

    What hangs on a wrong part (the writes to a resource with a wrong key) is not looked at; while a file can't be read,
    nothing but that is said.
    """
    mistakes: list[ContractError] = []
    tables, source = read(Path(path), mistakes)
    if mistakes:
        return None, mistakes
    written, spoilt = validate(tables, source, mistakes)
    contracts = _Compiler(written, source, tables, spoilt, mistakes).contracts(digest_of(tables))
    return (None if mistakes else contracts), mistakes


def digest_of(tables: Mapping[str, Any]) -> str:
    """SHA-256 (hex) over the content: comments, order and layout do not count."""
    text = json.dumps(tables, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


_ABLE = Capabilities(finds=True, lists=True)


class _Compiler:
    """Compiles what is sound and notes what is wrong; what it gives counts only if nothing was noted."""

    def __init__(
        self,
        written: WrittenContracts,
        source: Source,
        tables: Mapping[str, Any],
        spoilt: Set[Location],
        mistakes: list[ContractError],
    ) -> None:
        self._written = written
        self._source = source
        self._tables = tables
        self._spoilt = spoilt
        self._mistakes = mistakes

    def contracts(self, digest: str) -> Contracts:
        common = _outcomes(self._written, None)
        compiled = ((name, self._target(name, one)) for name, one in self._written.targets.items())
        targets = {name: target for name, target in compiled if target is not None}
        judged = ((name, self._tool(name, one, targets)) for name, one in self._written.tools.items())
        tools = {name: tool for name, tool in judged if tool is not None}
        return Contracts(self._written.version, digest, targets, tools, common, self._source)

    def _note(self, at: Location, sentence: str) -> None:
        self._mistakes.append(self._source.error(at, sentence))

    def _is_declared(self, *at: str) -> bool:
        """Whether a file has this table, though it may be wrong and left out."""
        table: Any = self._tables
        for name in at:
            if not isinstance(table, Mapping):
                return True
            if name not in table:
                return False
            table = table[name]
        return True

    def _target(self, name: str, written: WrittenTarget) -> Target | None:
        at: Location = ("targets", name)
        try:
            kind = find_kind(written.kind)
        except KindMissing as error:
            self._note((*at, "kind"), f"targets.{name}: {error}")
            return None
        options = validate_options(kind.target_options, written, self._source, at, self._mistakes)
        resources = {
            key: self._resource((*at, "resources", key), key, resource, written, kind, options)
            for key, resource in written.resources.items()
        }
        is_sound = not self._mistakes  # what is wrong has no options to go by
        able = kind.capabilities_of(options, [one.options for one in resources.values()]) if is_sound else _ABLE
        writers = written.writers
        ours = writers.ours if writers is not None and not isinstance(writers, str) else None
        if writers is not None and not able.lists:
            who = "this target can't list all" if kind.capabilities.lists else f"no target of kind {kind.name} can list"
            self._note(
                (*at, "writers"),
                f"targets.{name}: {who} its rows, so none is swept for changes; take writers out",
            )
        return Target(
            name=name,
            kind=written.kind,
            capabilities=_capabilities(able, written),
            options=options,
            writers=writers if isinstance(writers, str) or writers is None else "ours",
            ours=ours,
            is_ours=self._compiled((*at, "writers", "ours"), ours, {"row"}) if ours and kind.ours == "cel" else None,
            settle_seconds=float(written.settle_seconds),
            looks_per_second=None if written.looks_per_second is None else float(written.looks_per_second),
            resources=resources,
            outcomes=_outcomes(self._written, written),
        )

    def _resource(
        self,
        at: Location,
        name: str,
        written: WrittenResource,
        target: WrittenTarget,
        kind: KindDescription,
        target_options: Written,
    ) -> Resource:
        default = float(next((t for t in (written.tolerance, target.tolerance) if t is not None), 0.0))
        rules = [
            (
                tuple(path.split(".")),
                FieldRule(
                    float(default if rule.tolerance is None else rule.tolerance),
                    rule.unordered,
                    rule.ignore_case,
                    rule.time,
                    rule.ignore,
                    rule.redact,
                ),
            )
            for path, rule in written.fields.items()
        ]
        options = validate_options(kind.resource_options, written, self._source, at, self._mistakes)
        is_sound = not self._mistakes  # what is wrong has no options to go by
        finds = not is_sound or kind.capabilities_of(target_options, [options]).finds
        resource = Resource(name, tuple(written.key), written.tenant, default, options, tuple(rules), finds)
        if resource.changes is not None and target.writers is None:
            self._note(
                (*at, "changes"),
                f"resource {name}: only targets that declare their writers are swept; do so, or take changes out",
            )
        for objection in kind.objections(target_options, resource) if is_sound else ():
            self._note((*at, *objection.at), f"resource {name}: {objection.sentence}")
        return resource

    def _tool(self, name: str, written: WrittenTool, targets: Mapping[str, Target]) -> Tool | None:
        at: Location = ("tools", name)
        target = targets.get(written.target)
        if target is None:
            if not self._is_declared("targets", written.target):
                hint = did_you_mean(written.target, self._tables.get("targets", ()))
                self._note((*at, "target"), f"tools.{name}: there is no target {written.target}{hint}")
            return None
        if not written.writes and at not in self._spoilt:
            self._note(
                at, f"tools.{name} says nothing of what it leaves behind; add [[tools.{name}.writes]], or take it out"
            )
        let, known_names = self._let((*at, "let"), written.let, VARIABLES, target)
        writes = [
            self._write((*at, "writes", index), index, write, known_names, target)
            for index, write in enumerate(written.writes)
        ]
        for index, write in enumerate(writes):
            if write is not None and write.find and not write.resource.finds:
                self._note(
                    (*at, "writes", index, "find"),
                    f"{write.resource.name} of kind {target.kind} can't be searched for what a row holds; "
                    "give the row's key instead",
                )
        return Tool(
            name=name,
            target=written.target,
            identity=None if written.identity is None else tuple(written.identity),
            let=let,
            settle_seconds=None if written.settle_seconds is None else float(written.settle_seconds),
            accepted_within_seconds=(
                None if written.accepted_within_seconds is None else float(written.accepted_within_seconds)
            ),
            irreversible=written.irreversible,
            undo=None if written.undo is None else self._undo((*at, "undo"), name, written.undo, target),
            writes=tuple(write for write in writes if write is not None),
        )

    def _undo(self, at: Location, name: str, written: WrittenUndo, target: Target) -> Undo:
        tools = self._written.tools
        if tools[name].irreversible:
            self._note(at, f"tools.{name} is irreversible and has an undo; take one of them out")
        if written.tool not in tools and not self._is_declared("tools", written.tool):
            hint = did_you_mean(written.tool, tools)
            self._note(
                (*at, "tool"), f"tools.{name}: no contract says what {written.tool}, its undo, leaves behind{hint}"
            )
        args = self._named((*at, "args"), written.args, UNDO_VARIABLES, target)
        for key, expression in args:
            if expression.looked_up:
                self._note(
                    (*at, "args", key),
                    f"`{expression.text}` looks up a row, which an undo can't; use before.RESOURCE.FIELD of a row that "
                    f"{name} writes",
                )
        return Undo(written.tool, args)

    def _write(
        self, at: Location, index: int, written: WrittenWrite, known: frozenset[str], target: Target
    ) -> Write | None:
        resource = target.resources.get(written.resource)
        if resource is None:
            if not self._is_declared("targets", target.name, "resources", written.resource):
                hint = did_you_mean(written.resource, target.resources)
                self._note((*at, "resource"), f"target {target.name} has no resource {written.resource}{hint}")
            return None
        self._check_key(at, written, resource)
        if at[:2] not in self._spoilt:
            self._check_write(at, written, resource)
        each = self._optional((*at, "each"), written.each, known, target)
        if each is not None:
            known |= {"item", "index"}
        let, known = self._let((*at, "let"), written.let, known, target)
        return Write(
            index=index,
            resource=resource,
            key=self._named((*at, "key"), written.key or {}, known, target),
            find=self._named((*at, "find"), written.find or {}, known, target),
            let=let,
            when=self._optional((*at, "when"), written.when, known, target),
            each=each,
            create=written.create,
            delete=written.delete,
            changes=tuple(self._changes(at, written, known, target)),
            reply=self._optional((*at, "reply"), written.reply, known, target),
        )

    def _check_key(self, at: Location, written: WrittenWrite, resource: Resource) -> None:
        if written.key is None:
            return
        strange = [name for name in written.key if name not in resource.key]
        for name in strange:
            hint = did_you_mean(name, resource.key)
            self._note((*at, "key", name), f"{resource.name} has no key {name}{hint}")
        for name in () if strange else resource.key:
            if name not in written.key:
                self._note((*at, "key"), f"the key of {resource.name} lacks {name}; add it")

    def _check_write(self, at: Location, written: WrittenWrite, resource: Resource) -> None:
        if written.key is None and not (written.create and written.find):
            self._note(
                at,
                f"a write to {resource.name} names its row: add key = {{ {resource.key[0]} = ... }}"
                " (or find = {...} with create = true, when the key is not known beforehand)",
            )
        changes = bool(written.set or written.append or written.remove)
        if written.delete and (changes or written.create):
            self._note((*at, "delete"), "a deleted row can hold nothing; take set, append, remove or create away")
        if not (changes or written.create or written.delete):
            self._note(at, "this write changes nothing; add set, append, remove, create or delete")

    def _changes(self, at: Location, written: WrittenWrite, known: frozenset[str], target: Target) -> Iterable[Change]:
        kinds: tuple[tuple[Literal["set", "append"], dict[str, Any]], ...] = (
            ("set", written.set),
            ("append", written.append),
        )
        for kind, table in kinds:
            for location, value in _flat(table, (*at, kind)):
                if not isinstance(value, str):
                    self._note(
                        location, f"{kind}.{location[-1]} is an expression in quotes; write {json.dumps(str(value))}"
                    )
                    continue
                text = ".".join(str(step) for step in location[len(at) + 1 :])
                path = self._path(location, text, known, target)
                yield Change(kind, path, text, self._expression(location, value, known, target))
        for text in written.remove:
            yield Change("remove", self._path((*at, "remove"), text, known, target), text, None)

    def _path(self, at: Location, text: str, known: frozenset[str], target: Target) -> tuple[str | Expression, ...]:
        """`payment_methods[args.id].balance`: names, and expressions in brackets."""
        steps: list[str | Expression] = []
        for part in _path_parts(text):
            if part.startswith("["):
                steps.append(self._expression(at, part[1:-1], known, target))
            elif part:
                steps.append(part)
        if not steps or isinstance(steps[0], Expression):
            self._note(at, f"{text!r} is no path to a field; begin with the field's name")
        return tuple(steps)

    def _let(
        self, at: Location, written: Mapping[str, str], known: frozenset[str], target: Target
    ) -> tuple[tuple[tuple[str, Expression], ...], frozenset[str]]:
        let: list[tuple[str, Expression]] = []
        for name, text in written.items():
            if name in VARIABLES | {"item", "index"}:
                self._note((*at, name), f"let cannot name {name} anew; choose another name")
            let.append((name, self._expression((*at, name), text, known, target)))
            known |= {name}
        return tuple(let), known

    def _named(
        self, at: Location, written: Mapping[str, str], known: frozenset[str], target: Target
    ) -> tuple[tuple[str, Expression], ...]:
        return tuple((name, self._expression((*at, name), text, known, target)) for name, text in written.items())

    def _optional(self, at: Location, text: str | None, known: frozenset[str], target: Target) -> Expression | None:
        return None if text is None else self._expression(at, text, known, target)

    def _expression(self, at: Location, text: str, known: frozenset[str], target: Target) -> Expression:
        expression = self._compiled(at, text, known)
        for name in expression.looked_up:
            if name not in target.resources and not self._is_declared("targets", target.name, "resources", name):
                self._note(
                    at,
                    f"`{expression.text}` looks up {name}, which target {target.name} does not have"
                    f"{did_you_mean(name, target.resources)}",
                )
        return expression

    def _compiled(self, at: Location, text: str, known: Set[str]) -> Expression:
        """The expression; where it is wrong, one that only stands in its place."""
        try:
            return compile_expression(text, known)
        except ExpressionError as error:
            self._note(at, f"{error}; it may use {', '.join(sorted(known))}")
            return compile_expression("null", ())


def _capabilities(kind: Capabilities, written: WrittenTarget) -> Capabilities:
    """Those of the kind, with the windows that the contract says."""
    window, lag = written.idempotent_for_seconds, written.read_lag_seconds
    return replace(
        kind,
        idempotent_for=kind.idempotent_for if window is None else dt.timedelta(seconds=window),
        read_lag=kind.read_lag if lag is None else dt.timedelta(seconds=lag),
    )


def _outcomes(contracts: WrittenContracts, target: WrittenTarget | None) -> Outcomes:
    written = (target.outcomes if target else None) or contracts.outcomes
    return Outcomes(tuple(written.unknown), tuple(written.failed)) if written else Outcomes()


def _flat(table: Mapping[str, Any], at: Location) -> Iterable[tuple[Location, Any]]:
    """`set.address.city` and `set."address.city"` alike: tables inside are steps of the path."""
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, (*at, name))
        else:
            yield (*at, name), value


def _path_parts(text: str) -> Iterable[str]:
    depth, part = 0, ""
    for character in text:
        if character == "[":
            if depth == 0:
                yield part
                part = ""
            depth += 1
        if character == "." and depth == 0:
            yield part
            part = ""
            continue
        part += character
        if character == "]":
            depth -= 1
            if depth == 0:
                yield part
                part = ""
    yield part
