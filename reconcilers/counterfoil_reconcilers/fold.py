"""Effects folded over rows: what a target must hold if each of some effects landed in a given way."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from counterfoil_reconcilers.compare import agree, undecided
from counterfoil_reconcilers.contracts import Change, Resource, Tool, Write
from counterfoil_reconcilers.expressions import Unevaluable
from counterfoil_reconcilers.rows import Effect, Row, RowKey, key_shown, row_key
from counterfoil_reconcilers.scope import WHOLE, Reader, Scope
from counterfoil_reconcilers.values import MISSING, Hidden, Json, Path, Unreadable, at, holds_hidden, put
from counterfoil_reconcilers.world import Cell, Part, Surroundings, TimesOf, Touch, World, candidates, likeness

_MOST_ELEMENTS: Final = 2_000
_UNTOLD: Final = "it was redacted, and can't be told from what the target holds"


class Folder:
    """Applies effects to a world. `times` says how often each part of an effect is taken to have landed."""

    def __init__(self, around: Surroundings) -> None:
        self._around = around
        self.steps = 0

    def cell(self, world: World, key: RowKey) -> Cell:
        """The row's state in the world, taken from the baseline when it is first met."""
        cell = world.cells.get(key)
        if cell is None:
            cell = world.cells[key] = self.before(key)
        return cell

    def before(self, key: RowKey) -> Cell:
        """The row's state in the baseline."""
        row = self._around.baseline.get(key)
        if isinstance(row, Row):
            return Cell({}, partial=True) if row.problem else Cell(row.doc)
        return Cell(None) if row is None else Cell({}, partial=True)

    def apply(self, world: World, index: int, effect: Effect, tool: Tool, times: TimesOf) -> None:
        """Let the effect happen, each part as often as `times` says."""
        try:
            variables = effect.variables
        except Unreadable as error:
            reason = f"its arguments cannot be compared: {error}"
            world.problems.setdefault(index, []).append(reason)
            world.blind.setdefault("*", reason)
            return
        _Pass(self, self._around, world, index, times).run(effect, tool, variables)

    def follows(self, _change: Change) -> bool:
        """Whether to apply a change of a row that is there; a survey needs few of them."""
        return True

    def looked_for(self, resource: Resource, cell: Cell, sure: tuple[str, ...], told: RowKey | None) -> None:
        """Called with each created row that is found by what it holds; a survey overrides it.

        `told` is the row that the reply names.
        """

    def noted(self, reader: Reader) -> None:
        """Called with what was asked for, once an effect is applied; a survey overrides it."""


class _Pass:
    """One effect on its way through the world: its scopes see the world as it was before it."""

    def __init__(self, folder: Folder, around: Surroundings, world: World, index: int, times: TimesOf) -> None:
        self._folder = folder
        self._around = around
        self._world = world
        self._index = index
        self._times = times
        self._before = dict(world.cells)
        self._replies: dict[RowKey, Json] = {}
        self._secret_replies: set[RowKey] = set()
        self._created = 0
        self._effect_id: Json = None
        self._is_redacted = bool(world.secret)  # whether anything here may tell of what was redacted

    def run(self, effect: Effect, tool: Tool, variables: Mapping[str, Json]) -> None:
        self._is_redacted |= bool(effect.secret)
        self._effect_id = variables["effect"]
        unknown = {} if "result" in variables else {"result": "the reply is not known"}
        secret = _by_variable(effect.secret)
        strict = Scope(variables, Reader(self._around, self._before, careful=True), unknown, secret)
        strict.let(tool.let)
        loose = strict
        if strict.unknown.keys() - unknown.keys():
            loose = Scope(variables, Reader(self._around, self._before, careful=False), unknown, secret)
            loose.let(tool.let)
        keys: dict[str, Json] = {}
        for write in tool.writes:
            for scope in (strict, loose):
                scope.variables["keys"] = keys
            self._write(write, strict, loose, keys)
        self._check_replies()
        self._folder.noted(strict.reader)
        self._folder.noted(loose.reader)

    def _write(self, write: Write, strict: Scope, loose: Scope, keys: dict[str, Json]) -> None:
        try:
            items = self._items(write, strict)
        except Unevaluable as error:
            self._lose(write, f"`{error.text}`: {error.reason}")
            return
        for number, item in items:
            scope = strict.inner()
            finder = scope if loose is strict else loose.inner()
            for inner in (scope, finder) if finder is not scope else (scope,):
                if write.each is not None:
                    inner.variables.update(item=item, index=float(number))
                    inner.secret["item"] = WHOLE if strict.is_secret(write.each) else ()
                inner.let(write.let)
            try:
                key = self._key(write, finder)
                if key is not None:
                    scope.see(self._before_cell(key), self._world.secret.get(key, ()))
                    scope.let(write.let)
                if write.when is not None and scope.evaluate(write.when) is not True:
                    continue
            except (Unevaluable, Unreadable) as error:
                self._lose(write, str(error))
                continue
            is_secret = self._is_redacted and any(scope.is_secret(value) for _, value in (*write.key, *write.find))
            if is_secret:
                for one in (strict, loose):
                    one.secret["keys"] = WHOLE
            if key is not None and (
                is_secret or any(write.resource.rule((name,)).redact for name in write.resource.key)
            ):
                self._around.veil.hide(key.key)
            self._one_row(write, scope, key, keys)

    def _items(self, write: Write, scope: Scope) -> Iterator[tuple[int, Json]]:
        if write.each is None:
            return iter([(0, None)])
        items = scope.evaluate(write.each)
        if not isinstance(items, list) or len(items) > _MOST_ELEMENTS:
            raise Unevaluable(write.each.text, f"it is no list of at most {_MOST_ELEMENTS} elements")
        return iter(enumerate(items))

    def _key(self, write: Write, scope: Scope) -> RowKey | None:
        """The row's key, or None for a created row whose key is not known beforehand."""
        if not write.key:
            return None
        try:
            return row_key(write.resource, {name: scope.evaluate(value) for name, value in write.key})
        except (Unevaluable, Unreadable):
            if write.create:
                return None
            raise

    def _lose(self, write: Write, reason: str) -> None:
        """A write whose row is not known may have touched any row of its resource."""
        self._world.blind.setdefault(write.resource.name, reason)
        self._world.problems.setdefault(self._index, []).append(
            f"write {write.index + 1} ({write.resource.name}): {reason}"
        )

    def _one_row(self, write: Write, scope: Scope, key: RowKey | None, keys: dict[str, Json]) -> None:
        if key is None:
            self._created += 1
            part = Part(RowKey(write.resource.name, ("?", str(self._index), str(self._created))), ())
            for copy in range(self._times(part)):
                bound = self._create_unkeyed(write, scope, part, copy)
                if bound is not None and copy == 0:
                    keys[write.resource.name] = dict(zip(write.resource.key, bound.key, strict=True))
            return
        if write.create:
            keys[write.resource.name] = dict(zip(write.resource.key, key.key, strict=True))
        if write.create or write.delete:
            self._whole_row(write, scope, key)
            return
        self._remember_reply(write, scope, key)
        if not self._is_there(key):
            return
        for change in write.changes:
            if self._folder.follows(change):
                self._change(write.resource, change, scope, key)

    def _is_there(self, key: RowKey) -> bool:
        """Whether there is a row to be changed: one that was known to be gone, and is changed, was made by that."""
        world, part = self._world, Part(key, ())
        cell = self._folder.cell(world, key)
        if key not in world.made and (cell.doc is not None or cell.partial):
            return True
        if not self._times(part):
            return False
        if key not in world.made:
            world.made.add(key)
            world.cells[key] = Cell({}, partial=True, open=cell.open, there=True)
            if any(touch.row == key and touch.path == () and touch.after is None for touch in world.touches):
                world.revived.add(key)
        self._touch(part, (), None, {})
        return True

    def _whole_row(self, write: Write, scope: Scope, key: RowKey) -> None:
        part = Part(key, ())
        before = self._folder.cell(self._world, key)
        if self._times(part) == 0:
            return
        if write.delete:
            self._world.cells[key] = Cell(None)
            self._touch(part, (), before.doc, None)
            return
        doc, open_paths = self._document(write, scope, key)
        self._world.cells[key] = Cell(doc, partial=True, open=open_paths | self._undecided(write.resource, key, doc))
        self._touch(part, (), None if before.partial else before.doc, doc)

    def _create_unkeyed(self, write: Write, scope: Scope, part: Part, copy: int) -> RowKey | None:
        """A created row without a known key: bound to the new observed row that holds most of its content."""
        virtual = RowKey(part.row.resource, (*part.row.key, str(copy)))
        doc, open_paths = self._document(write, scope, virtual)
        found: dict[str, Json] = {}
        for name, expression in write.find:
            try:
                value = scope.evaluate(expression)
            except Unevaluable:
                open_paths |= {(name,)}
                continue
            if holds_hidden(value):
                open_paths |= {(name,)}
            else:
                found[name] = value
        fields = doc if isinstance(doc, dict) else {}
        self._world.searches.append((write.resource.name, found or _texts(fields)))
        doc = {**fields, **found}
        cell = Cell(doc, partial=True, open=open_paths)
        told = _named(write.resource, scope.variables.get("result"))
        self._folder.looked_for(write.resource, cell, tuple(found), told)
        is_gone = told is not None and self._is_gone(told)
        bound = told if is_gone else self._nearest(write.resource, cell, tuple(found), told)
        observed = self._around.observed
        unreadable = next(self._new(observed.unreadable(write.resource.name)), None) if bound is None else None
        if unreadable is not None:
            reason = f"{key_shown(unreadable[0])} may be it, and cannot be compared: {unreadable[1].problem}"
            self._leave_open(part, reason)
            return None
        key = bound or virtual
        self._world.cells[key] = cell._replace(open=open_paths | self._undecided(write.resource, key, doc))
        if virtual in self._world.secret:
            self._world.secret.setdefault(key, set()).update(self._world.secret[virtual])
        self._world.touches.append(Touch(self._index, part, key, (), None, doc))
        return bound

    def _is_gone(self, key: RowKey) -> bool:
        """Whether a row that the reply names is not there any more, and others of these effects write it."""
        around = self._around
        was_there = key in self._world.cells or isinstance(around.baseline.get(key), Row)
        return not was_there and key in around.written and around.observed.get(key) is None

    def _nearest(
        self, resource: Resource, cell: Cell, sure: tuple[str, ...], told: RowKey | None = None
    ) -> RowKey | None:
        """The one that the reply names, else that agrees in most fields, of those that hold all that a row is found by.

        At least half, but for one that bears the effect's id: that one nobody else can have made.
        """
        enough = 0.0 if any(cell.fields[name] == self._effect_id for name in sure) else 0.5
        best: tuple[bool, float, bool, RowKey] | None = None
        for key, row in self._new(candidates(resource, self._around.observed, cell.fields, sure)):
            if row.problem is not None:
                continue
            score = likeness(resource, cell, row.doc, sure)
            # Later effects may have changed the one that the reply names. Of equals: one that surely was not there.
            rank = (key == told, score, self._around.baseline.get(key) is None)
            if score and score >= enough and (best is None or rank > best[:3]):
                best = (*rank, key)
        return best[3] if best else None

    def _new(self, rows: Iterable[tuple[RowKey, Row]]) -> Iterator[tuple[RowKey, Row]]:
        """Those of the observed rows that are new, and that nothing in this world stands for yet."""
        for key, row in rows:
            taken = key in self._world.cells or self._around.is_claimed(key)
            if not taken and not isinstance(self._around.baseline.get(key), Row):
                yield key, row

    def _undecided(self, resource: Resource, key: RowKey, doc: Json) -> frozenset[Path]:
        """The fields of a created row of which nobody knows whether the observed ones are the same."""
        observed = self._around.observed.get(key)
        if not self._around.hides or not isinstance(doc, dict) or not isinstance(observed, Row):
            return frozenset()
        fields = ((name, value) for name, value in doc.items() if holds_hidden(value))
        return frozenset(
            (name,) for name, value in fields if undecided(resource, value, at(observed.doc, (name,)), (name,))
        )

    def _document(self, write: Write, scope: Scope, key: RowKey) -> tuple[Json, frozenset[Path]]:
        doc: Json = {}
        open_paths: set[Path] = set()
        for change in write.changes:
            path: Path = tuple(step for step in change.path if isinstance(step, str))
            try:
                path = _resolved(change, scope)
                value = scope.evaluate(change.value) if change.value else MISSING
                self._note_secret(change, scope, key, path)
                if change.kind == "append" and not isinstance(value, list):
                    value = [value]
                doc = put(doc, path, value)
            except (Unevaluable, Unreadable):
                open_paths.add(path)
        return doc, frozenset(open_paths)

    def _change(self, resource: Resource, change: Change, scope: Scope, key: RowKey) -> None:
        self._folder.steps += 1
        try:
            path = _resolved(change, scope)
        except (Unevaluable, Unreadable) as error:
            head: Path = (change.path[0],) if isinstance(change.path[0], str) else ()
            self._leave_open(Part(key, head), str(error))
            return
        part = Part(key, path)
        times = self._times(part)
        self._note_secret(change, scope, key, path)
        entries: list[Any] | None = None
        for number in range(times):
            try:
                if change.kind == "append":
                    entries = entries if entries is not None else self._entries(change, scope, key)
                    self._append(part, entries)
                else:
                    self._set(part, change, scope, first=number == 0)
            except (Unevaluable, Unreadable) as error:
                self._from_reply(part, str(error))
                return

    def _entries(self, change: Change, scope: Scope, key: RowKey) -> list[Any]:
        value = self._value(change, scope, self._before_cell(key), MISSING)
        return value if isinstance(value, list) else [value]

    def _append(self, part: Part, entries: list[Any]) -> None:
        cell = self._world.cells[part.row]
        held = at(cell.doc, part.path)
        if held is MISSING and (cell.partial or part.path in cell.open):
            raise Unreadable(f"the state of {key_shown(part.row)} before is not known")
        held = [] if held is MISSING or held is None else held
        if not isinstance(held, list):
            raise Unreadable("it is no list, so nothing can be appended")
        self._store(part.row, part.path, [*held, *entries])
        for offset, entry in enumerate(entries):
            self._touch(part, (*part.path, len(held) + offset), MISSING, entry, relative=True)

    def _set(self, part: Part, change: Change, scope: Scope, first: bool) -> None:
        cell = self._world.cells[part.row]
        old = at(cell.doc, part.path)
        value = MISSING
        if change.kind != "remove":
            value = self._value(change, scope, self._before_cell(part.row) if first else cell, old)
        if self._around.hides and holds_hidden(value) and not self._can_tell(part, value):
            raise Unreadable(_UNTOLD)
        self._store(part.row, part.path, value)
        self._touch(part, part.path, old, value, relative=change.builds_on_before)

    def _can_tell(self, part: Part, value: Any) -> bool:
        """Whether a value with Hidden texts in it is surely what was observed, or surely another one."""
        row = self._around.observed.get(part.row)
        if not isinstance(row, Row):
            return True
        resource, observed = self._around.target.resources[part.row.resource], at(row.doc, part.path)
        return not agree(resource, value, observed, part.path) or not undecided(resource, value, observed, part.path)

    def _note_secret(self, change: Change, scope: Scope, key: RowKey, path: Path) -> None:
        """Remember that what a change sets was made of what was redacted, or where it sets it."""
        if not self._is_redacted:
            return
        steps = [step for step in change.path if not isinstance(step, str)]
        if any(map(scope.is_secret, steps)):
            self._around.veil.hide(path)
            self._world.secret.setdefault(key, set()).add(path[:1])
        if change.value is None:
            return
        inherits = "old" in change.value.names and self._world.is_secret(key, path)
        if inherits or scope.is_secret(change.value):
            self._world.secret.setdefault(key, set()).add(path)

    def _before_cell(self, key: RowKey) -> Cell:
        return self._before.get(key) or self._folder.before(key)

    def _value(self, change: Change, scope: Scope, before: Cell, old: Any) -> Any:
        assert change.value is not None  # noqa: S101  # only `remove` has none
        if not change.builds_on_before:
            return scope.evaluate(change.value)
        inner = scope.inner()
        inner.see(before, scope.secret.get("before", ()))
        if old is MISSING:
            inner.unknown["old"] = "there was no value before, or it is not known"
        else:
            inner.variables["old"] = old
        return inner.evaluate(change.value)

    def _remember_reply(self, write: Write, scope: Scope, key: RowKey) -> None:
        if write.reply is None:
            return
        try:
            reply = scope.evaluate(write.reply)
        except Unevaluable:
            return
        if isinstance(reply, dict):
            self._replies[key] = reply
            if scope.is_secret(write.reply):
                self._secret_replies.add(key)

    def _from_reply(self, part: Part, reason: str) -> None:
        """What only the reply can tell is taken from it; without a reply it stays open."""
        value = at(self._replies.get(part.row), part.path) if part.row in self._replies else MISSING
        if value is MISSING:
            self._leave_open(part, reason)
            return
        if part.row in self._secret_replies:
            self._world.secret.setdefault(part.row, set()).add(part.path)
        old = at(self._world.cells[part.row].doc, part.path)
        if self._around.hides and holds_hidden(value) and not self._can_tell(part, value):
            self._leave_open(part, _UNTOLD)
            return
        self._store(part.row, part.path, value)
        self._touch(part, part.path, old, value)

    def _leave_open(self, part: Part, reason: str) -> None:
        cell = self._folder.cell(self._world, part.row)
        try:
            doc = put(cell.doc, part.path, MISSING) if part.path and cell.doc is not None else cell.doc
        except Unreadable:
            doc = cell.doc
        self._world.cells[part.row] = cell._replace(doc=doc, open=cell.open | {part.path})
        self._touch(part, part.path, MISSING, MISSING, reason=reason)

    def _store(self, key: RowKey, path: Path, value: Any) -> None:
        cell = self._world.cells[key]
        created = cell.doc is None
        doc = put({} if created else cell.doc, path, value)
        still_open = frozenset(other for other in cell.open if other[: len(path)] != path)
        self._world.cells[key] = Cell(doc, cell.partial or created, still_open)

    def _touch(
        self, part: Part, path: Path, before: Any, after: Any, *, reason: str | None = None, relative: bool = False
    ) -> None:
        self._world.touches.append(Touch(self._index, part, part.row, path, before, after, reason, relative))

    def _check_replies(self) -> None:
        for key, reply in self._replies.items():
            cell = self._world.cells[key]
            resource = self._around.target.resources[key.resource]
            if not cell.partial and not cell.open and not agree(resource, cell.doc, reply):
                self._world.contradicted.add(self._index)


def _named(resource: Resource, reply: Json) -> RowKey | None:
    """The row that a reply names by all fields of its key."""
    if not isinstance(reply, dict):
        return None
    try:
        return row_key(resource, {name: reply[name] for name in resource.key if name in reply})
    except Unreadable:
        return None


def _by_variable(secret: Iterable[Path]) -> dict[str, list[Path]]:
    """Places in variables, by the variable's name."""
    places: dict[str, list[Path]] = {}
    for path in secret:
        places.setdefault(str(path[0]), []).append(path[1:])
    return places


def _texts(fields: Mapping[str, Json]) -> dict[str, Json]:
    """The fields that a target can look for without a tolerance."""
    return {
        name: value for name, value in fields.items() if isinstance(value, str | bool) and not isinstance(value, Hidden)
    }


def _resolved(change: Change, scope: Scope) -> Path:
    """The path with its bracketed steps evaluated: a text is a field's name, a whole number a position."""
    if change.fixed_path is not None:
        return change.fixed_path
    path: list[str | int] = []
    for step in change.path:
        value = step if isinstance(step, str) else scope.evaluate(step)
        if isinstance(value, float) and value.is_integer():
            path.append(int(value))
        elif isinstance(value, str):
            path.append(value)
        else:
            raise Unreadable(f"{change.text}: a step of a path is a name or a position")
    return tuple(path)
