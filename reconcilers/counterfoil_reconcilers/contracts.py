"""Contracts: what each tool's write must leave behind at its target, declared by the people who own the tool.

`load` turns files into contracts: every expression compiled, every name checked, every mistake with its line.
"""

import datetime as dt
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from counterfoil_reconcilers.contract_files import (
    ContractError,
    Source,
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
    "load",
]


def load(path: Path | str) -> Contracts:
    """The contracts of a *.toml file, or of every one in a folder; ContractError says what is wrong where."""
    tables, source = read(Path(path))
    written = validate(tables, source)
    return _Compiler(written, source).contracts(digest_of(tables))


def digest_of(tables: Mapping[str, Any]) -> str:
    """SHA-256 (hex) over the content: comments, order and layout do not count."""
    text = json.dumps(tables, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


class _Compiler:
    def __init__(self, written: WrittenContracts, source: Source) -> None:
        self._written = written
        self._source = source

    def contracts(self, digest: str) -> Contracts:
        common = _outcomes(self._written, None)
        targets = {name: self._target(name, target) for name, target in self._written.targets.items()}
        tools = {name: self._tool(name, tool, targets) for name, tool in self._written.tools.items()}
        return Contracts(self._written.version, digest, targets, tools, common, self._source)

    def _target(self, name: str, written: WrittenTarget) -> Target:
        at: Location = ("targets", name)
        try:
            kind = find_kind(written.kind)
        except KindMissing as error:
            raise self._source.error((*at, "kind"), f"targets.{name}: {error}") from error
        options = validate_options(kind.target_options, written, self._source, at)
        resources = {
            key: self._resource((*at, "resources", key), key, resource, written, kind)
            for key, resource in written.resources.items()
        }
        writers = written.writers
        ours = writers.ours if writers is not None and not isinstance(writers, str) else None
        if writers is not None and not kind.capabilities.lists:
            raise self._source.error(
                (*at, "writers"),
                f"targets.{name}: no target of kind {written.kind} can list its rows, so none is swept for changes; "
                "take writers out",
            )
        return Target(
            name=name,
            kind=written.kind,
            capabilities=_capabilities(kind.capabilities, written),
            options=options,
            writers=writers if isinstance(writers, str) or writers is None else "ours",
            ours=ours,
            is_ours=self._is_ours((*at, "writers", "ours"), ours) if ours and kind.ours == "cel" else None,
            settle_seconds=float(written.settle_seconds),
            resources=resources,
            outcomes=_outcomes(self._written, written),
        )

    def _is_ours(self, at: Location, text: str) -> Expression:
        try:
            return compile_expression(text, {"row"})
        except ExpressionError as error:
            raise self._source.error(at, f"{error}; it may use row") from error

    def _resource(
        self, at: Location, name: str, written: WrittenResource, target: WrittenTarget, kind: KindDescription
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
        options = validate_options(kind.resource_options, written, self._source, at)
        return Resource(name, tuple(written.key), written.tenant, default, options, tuple(rules))

    def _tool(self, name: str, written: WrittenTool, targets: Mapping[str, Target]) -> Tool:
        at: Location = ("tools", name)
        target = targets.get(written.target)
        if target is None:
            raise self._source.error(
                (*at, "target"),
                f"tools.{name}: there is no target {written.target}{did_you_mean(written.target, targets)}",
            )
        if not written.writes:
            raise self._source.error(
                at, f"tools.{name} says nothing of what it leaves behind; add [[tools.{name}.writes]], or take it out"
            )
        let, known = self._let((*at, "let"), written.let, VARIABLES, target)
        writes = tuple(
            self._write((*at, "writes", index), index, write, known, target)
            for index, write in enumerate(written.writes)
        )
        for index, write in enumerate(writes):
            if write.find and not target.capabilities.finds:
                raise self._source.error(
                    (*at, "writes", index, "find"),
                    f"no target of kind {target.kind} can be searched for what a row holds; give the row's key instead",
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
            writes=writes,
        )

    def _undo(self, at: Location, name: str, written: WrittenUndo, target: Target) -> Undo:
        tools = self._written.tools
        if tools[name].irreversible:
            raise self._source.error(at, f"tools.{name} is irreversible and has an undo; take one of them out")
        if written.tool not in tools:
            hint = did_you_mean(written.tool, tools)
            raise self._source.error(
                (*at, "tool"), f"tools.{name}: no contract says what {written.tool}, its undo, leaves behind{hint}"
            )
        args = self._named((*at, "args"), written.args, UNDO_VARIABLES, target)
        for key, expression in args:
            if expression.looked_up:
                raise self._source.error(
                    (*at, "args", key),
                    f"`{expression.text}` looks up a row, which an undo can't; use before.RESOURCE.FIELD of a row that "
                    f"{name} writes",
                )
        return Undo(written.tool, args)

    def _write(self, at: Location, index: int, written: WrittenWrite, known: frozenset[str], target: Target) -> Write:
        resource = target.resources.get(written.resource)
        if resource is None:
            hint = did_you_mean(written.resource, target.resources)
            raise self._source.error(
                (*at, "resource"), f"target {target.name} has no resource {written.resource}{hint}"
            )
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

    def _check_write(self, at: Location, written: WrittenWrite, resource: Resource) -> None:
        if written.key is None and not (written.create and written.find):
            raise self._source.error(
                at,
                f"a write to {resource.name} names its row: add key = {{ {resource.key[0]} = ... }}"
                " (or find = {...} with create = true, when the key is not known beforehand)",
            )
        if written.key is not None:
            for name in written.key:
                if name not in resource.key:
                    raise self._source.error(
                        (*at, "key", name), f"{resource.name} has no key {name}{did_you_mean(name, resource.key)}"
                    )
            for name in resource.key:
                if name not in written.key:
                    raise self._source.error((*at, "key"), f"the key of {resource.name} lacks {name}; add it")
        changes = bool(written.set or written.append or written.remove)
        if written.delete and (changes or written.create):
            raise self._source.error(
                (*at, "delete"), "a deleted row can hold nothing; take set, append, remove or create away"
            )
        if not (changes or written.create or written.delete):
            raise self._source.error(at, "this write changes nothing; add set, append, remove, create or delete")

    def _changes(self, at: Location, written: WrittenWrite, known: frozenset[str], target: Target) -> Iterable[Change]:
        kinds: tuple[tuple[Literal["set", "append"], dict[str, Any]], ...] = (
            ("set", written.set),
            ("append", written.append),
        )
        for kind, table in kinds:
            for location, value in _flat(table, (*at, kind)):
                if not isinstance(value, str):
                    raise self._source.error(
                        location, f"{kind}.{location[-1]} is an expression in quotes; write {json.dumps(str(value))}"
                    )
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
            raise self._source.error(at, f"{text!r} is no path to a field; begin with the field's name")
        return tuple(steps)

    def _let(
        self, at: Location, written: Mapping[str, str], known: frozenset[str], target: Target
    ) -> tuple[tuple[tuple[str, Expression], ...], frozenset[str]]:
        let: list[tuple[str, Expression]] = []
        for name, text in written.items():
            if name in VARIABLES | {"item", "index"}:
                raise self._source.error((*at, name), f"let cannot name {name} anew; choose another name")
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
        try:
            expression = compile_expression(text, known)
        except ExpressionError as error:
            raise self._source.error(at, f"{error}; it may use {', '.join(sorted(known))}") from error
        for name in expression.looked_up:
            if name not in target.resources:
                raise self._source.error(
                    at,
                    f"`{expression.text}` looks up {name}, which target {target.name} does not have"
                    f"{did_you_mean(name, target.resources)}",
                )
        return expression


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
