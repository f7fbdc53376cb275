"""Drafts from recorded writes and the rows of their target: which arguments name rows and explain what is there.

Pure: the writes, the rows as they were before (as far as that is known) and as they are now, in; a draft out. A
proposal is no more than a count: it explains so many of the writes that were looked at.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from typing import Any, Literal

from counterfoil_console.drafts.leaves import (
    Leaf,
    Variables,
    arguments_of,
    is_number,
    is_scalar,
    leaves_of,
    many,
    paths_in,
)
from counterfoil_console.drafts.model import DraftTool, DraftWrite, Guess
from counterfoil_console.drafts.naming import is_field, likeness, quoted
from counterfoil_reconcilers.compare import agree
from counterfoil_reconcilers.contracts import Resource
from counterfoil_reconcilers.rows import NOT_READ, Row, RowKey, Rows, row_key
from counterfoil_reconcilers.values import MISSING, Hidden, Unreadable, at

_LEAST_SHARE = 0.75  # of the writes that a proposal must explain
_MOST_CANDIDATES = 8  # arguments that are tried for one column of a key
_MOST_KEYS = 16  # combinations of these, where a key has several columns
_MOST_FIELDS = 300
_PROBED = 8  # rows for which an argument must explain a field in half, before all are looked at
_FEW = 3  # writes that coincide by chance
_MOST_TO_FILL = 8
_LONGEST_CONSTANT = 60


@dataclass(frozen=True)
class KeyGuess:
    """Places that give the key of a resource's row, column by column."""

    resource: Resource
    leaves: tuple[Leaf, ...]

    @property
    def likeness(self) -> float:
        """How much the places' names are those of the key's columns; a reply is the second choice."""
        marks = [
            likeness(leaf.names[-1], self.resource.name, column) - (leaf.variable == "result")
            for leaf, column in zip(self.leaves, self.resource.key, strict=True)
        ]
        return sum(marks) / len(marks)

    def of(self, variables: Variables) -> RowKey | None:
        """The row of one write; None where a place holds nothing that could be a key."""
        values = {column: leaf.of(variables) for column, leaf in zip(self.resource.key, self.leaves, strict=True)}
        if any(not isinstance(value, str | int | float) or isinstance(value, bool) for value in values.values()):
            return None
        try:
            return row_key(self.resource, values)
        except Unreadable:
            return None


def key_guesses(resource: Resource, writes: Sequence[Variables]) -> list[KeyGuess]:
    """What may name a row of the resource in these writes of one tool, the likeliest first."""
    leaves = [leaf for leaf in leaves_of(writes) if any(is_scalar(leaf.of(one)) for one in writes)]
    columns = [
        sorted(leaves, key=lambda leaf: -KeyGuess(_only(resource, column), (leaf,)).likeness)[:_MOST_CANDIDATES]
        for column in resource.key
    ]
    if len(columns) == 1:
        return [KeyGuess(resource, (leaf,)) for leaf in columns[0]]
    return [KeyGuess(resource, leaves) for leaves in islice(product(*columns), _MOST_KEYS)]


def propose(
    tool: str,
    target: str,
    resources: Sequence[Resource],
    writes: Sequence[Variables],
    before: Rows,
    now: Rows,
) -> DraftTool:
    """A draft of one tool from its writes, in the order in which they were made; rows of `before` are from before all.

    It has no writes where nothing that the target has fits.
    """
    draft = DraftTool(
        tool, target, notes=[f"{many(len(writes), 'write')} looked at; arguments: {arguments_of(writes)}"]
    )
    for resource in resources:
        guesses = key_guesses(resource, writes)
        ranked = sorted(guesses, key=lambda guess: (-_hits(guess, writes, before, now), -guess.likeness))
        if ranked and _hits(ranked[0], writes, before, now) >= _LEAST_SHARE * len(writes):
            write = _Rows(ranked[0], writes, before, now).draft()
            if write is not None:
                draft.writes.append(write)
    return draft


def _hits(guess: KeyGuess, writes: Sequence[Variables], before: Rows, now: Rows) -> int:
    """In how many writes the guess names a row that is there, or was."""
    keys = [guess.of(one) for one in writes]
    return sum(key is not None and any(isinstance(rows.get(key), Row) for rows in (now, before)) for key in keys)


@dataclass(frozen=True)
class _Change:
    """One row and the writes that named it, in order; `before`: MISSING where it is not known, None where none was."""

    writes: Sequence[Variables]
    before: Any
    after: Any


class _Rows:
    """The rows that a guess of the key names, and what the writes made of them."""

    def __init__(self, guess: KeyGuess, writes: Sequence[Variables], before: Rows, now: Rows) -> None:
        self._guess = guess
        self._resource = guess.resource
        self._leaves = [leaf for leaf in leaves_of(writes) if leaf.variable == "args"]
        self._hits = _hits(guess, writes, before, now)
        self._writes = len(writes)
        by_row: dict[RowKey, list[Variables]] = {}
        for one in writes:
            key = guess.of(one)
            if key is not None:
                by_row.setdefault(key, []).append(one)
        self._changes = [_Change(of_row, _doc(before.get(key)), _doc(now.get(key))) for key, of_row in by_row.items()]
        self._known = [one for one in self._changes if one.before is not MISSING]

    def draft(self) -> DraftWrite | None:
        """What becomes of the row; None where nothing of it seems to come from the writes."""
        write = DraftWrite(Guess(self._resource.name), self._key())
        gone = sum(isinstance(one.before, dict) and one.after is None for one in self._known)
        if self._known and gone >= _LEAST_SHARE * len(self._known):
            write.delete = Guess(True, f"{gone} of {many(len(self._known), 'row')} are gone")
            return write
        made = sum(one.before is None and isinstance(one.after, dict) for one in self._known)
        if self._known and made >= _LEAST_SHARE * len(self._known):
            write.create = Guess(True, f"{made} of {many(len(self._known), 'row')} were not there before")
        paths = list(self._paths())
        explained = {path: found for path in paths if (found := self._explain(path)) is not None}
        if not explained and write.create is None:
            return None
        for path in paths:
            if path in explained:
                word, guess = explained[path]
                (write.append if word == "append" else write.set)[".".join(path)] = guess
            elif not self._changed(path) and (named := self._set_by_name(path)) is not None:
                write.set[".".join(path)] = named
        write.reply = self._reply()
        write.to_fill = list(self._unexplained([path for path in paths if path not in explained]))
        return write

    def _key(self) -> dict[str, Guess]:
        why = f"names a row in {self._hits} of {many(self._writes, 'write')}"
        return {
            column: Guess(leaf.expression, why)
            for column, leaf in zip(self._resource.key, self._guess.leaves, strict=True)
        }

    def _paths(self) -> Iterator[tuple[str, ...]]:
        """The fields of the rows that a contract can name, but for the key and what it ignores."""
        paths: dict[tuple[str, ...], None] = {}
        for one in self._changes:
            if isinstance(one.after, dict):
                paths.update(dict.fromkeys(names for names, _ in paths_in(one.after)))
        # A field that is a value here and a map there can't be named both ways.
        maps = {path[:depth] for path in paths for depth in range(1, len(path))}
        for path in islice(paths, _MOST_FIELDS):
            is_fixed = path[0] in (*self._resource.key, self._resource.tenant) or self._resource.rule(path).ignore
            if not is_fixed and path not in maps and all(map(is_field, path)):
                yield path

    def _changed(self, path: tuple[str, ...]) -> list[_Change]:
        """The rows in which the field is not what it was."""
        found = []
        for one in self._known:
            old, new = at(one.before or {}, path), at(one.after, path)
            is_same = old is new is MISSING or self._agree(old, new, path)
            if isinstance(one.after, dict) and not is_same:
                found.append(one)
        return found

    def _explain(self, path: tuple[str, ...]) -> tuple[Literal["set", "append"], Guess] | None:
        """The first kind of explanation of a change that holds often enough."""
        if self._known and not self._changed(path):
            return None
        guess = self._set(path)
        if guess is None and (appended := self._appended(path)) is not None:
            return "append", appended
        guess = guess or self._added(path) or self._constant(path)
        return None if guess is None else ("set", guess)

    def _unexplained(self, paths: Sequence[tuple[str, ...]]) -> Iterator[str]:
        counts = {path: len(self._changed(path)) for path in paths}
        ranked = sorted((path for path in paths if counts[path]), key=lambda path: -counts[path])
        for path in ranked[:_MOST_TO_FILL]:
            where = f"{counts[path]} of {many(len(self._known), 'row')}"
            yield f"set.{'.'.join(path)}: it changed in {where}, and no argument explains it"
        if len(ranked) > _MOST_TO_FILL:
            yield f"{len(ranked) - _MOST_TO_FILL} fields more that changed, and that no argument explains"

    def _set_by_name(self, path: tuple[str, ...]) -> Guess | None:
        """An argument that has the field's name, and its value in every row, though that was the same before."""
        leaves = [leaf for leaf in self._leaves if leaf.names[-1] == path[-1] and leaf not in self._guess.leaves]
        rows = [one for one in self._known if isinstance(one.after, dict)]
        for leaf in leaves:
            if all(self._agree(leaf.of(one.writes[-1]), at(one.after, path), path) for one in rows):
                return Guess(leaf.expression, f"has its name, and its value in {many(len(rows), 'row')}, as before")
        return None

    def _set(self, path: tuple[str, ...]) -> Guess | None:
        """An argument that equals the field after the last write."""
        return self._best(path, "{}", lambda one, leaf, after: self._agree(leaf.of(one.writes[-1]), after, path))

    def _appended(self, path: tuple[str, ...]) -> Guess | None:
        """An argument, or the elements of one, with which the list ends, one write after the other."""

        def ends_with(one: _Change, leaf: Leaf, after: Any) -> bool:
            values = [leaf.of(each) for each in one.writes]
            if MISSING in values or not isinstance(after, list):
                return False
            tail = [item for value in values for item in (value if isinstance(value, list) else [value])]
            old = at(one.before or {}, path) if one.before is not MISSING else after[: len(after) - len(tail)]
            head = old if isinstance(old, list) else []
            return bool(tail) and self._agree([*head, *tail], after, path)

        return self._best(path, "{}", ends_with)

    def _added(self, path: tuple[str, ...]) -> Guess | None:
        """An argument that was added to the number, or taken from it, by every write."""
        for sign, form in ((1, "old + number({})"), (-1, "old - number({})")):

            def adds_up(one: _Change, leaf: Leaf, after: Any, sign: int = sign) -> bool:
                old = at(one.before or {}, path) if one.before is not MISSING else MISSING
                values = [_number(leaf.of(each)) for each in one.writes]
                if not is_number(old) or not is_number(after) or None in values or not any(values):
                    return False
                return self._agree(old + sign * sum(value for value in values if value is not None), after, path)

            guess = self._best(path, form, adds_up)
            if guess is not None:
                return guess
        return None

    def _constant(self, path: tuple[str, ...]) -> Guess | None:
        """A value that the field holds after every write, and that it did not hold before."""
        changed = self._changed(path)
        values = [at(one.after, path) for one in changed]
        first = values[0] if values else None
        is_plain = isinstance(first, str) and 0 < len(first) <= _LONGEST_CONSTANT and not isinstance(first, Hidden)
        same = sum(value == first for value in values)
        if not is_plain or len(values) < _FEW or same < _LEAST_SHARE * len(values) or self._resource.rule(path).redact:
            return None
        return Guess(quoted(str(first)), f"{same} of {many(len(values), 'row')} that changed there hold it")

    def _best(self, path: tuple[str, ...], form: str, holds: Callable[[_Change, Leaf, Any], bool]) -> Guess | None:
        """The argument for which it holds most often, those with the field's name first; None if that is too seldom."""
        looked_at = [one for one in (self._known or self._changes) if isinstance(one.after, dict)]
        best: tuple[int, bool, Leaf, int] | None = None
        for leaf in self._leaves:
            if not self._known and leaf in self._guess.leaves:
                continue  # a row that repeats its key
            having = [one for one in looked_at if leaf.of(one.writes[-1]) is not MISSING]
            probed = sum(holds(one, leaf, at(one.after, path)) for one in having[:_PROBED])
            if 2 * probed < min(_PROBED, len(having)):
                continue
            held = probed + sum(holds(one, leaf, at(one.after, path)) for one in having[_PROBED:])
            is_named_so = leaf.names[-1] == path[-1]
            is_enough = held >= _LEAST_SHARE * len(having) and held > 0
            if not is_enough or (not self._known and not is_named_so and held < _FEW):
                continue
            if best is None or (held, is_named_so) > best[:2]:
                best = (held, is_named_so, leaf, len(having))
        if best is None:
            return None
        held, _, leaf, having_it = best
        return Guess(form.format(leaf.expression), f"explains {held} of {many(having_it, 'row')} with that argument")

    def _reply(self) -> Guess | None:
        """Whether the reply shows the row as the write left it."""
        replies = [(one.writes[-1]["result"], one.after) for one in self._changes if "result" in one.writes[-1]]
        shows = sum(
            isinstance(reply, dict) and isinstance(row, dict) and len(reply) > 1 and self._alike(reply, row)
            for reply, row in replies
        )
        if not replies or shows < _LEAST_SHARE * len(replies):
            return None
        return Guess("result", f"the reply has the row's fields in {shows} of {many(len(replies), 'row')}")

    def _alike(self, reply: Mapping[str, Any], row: Mapping[str, Any]) -> bool:
        common = reply.keys() & row.keys()
        same = sum(self._agree(reply[name], row[name], (name,)) for name in common)
        return len(common) >= _LEAST_SHARE * len(row) and same >= _LEAST_SHARE * len(common)

    def _agree(self, left: Any, right: Any, path: tuple[str, ...]) -> bool:
        return left is not MISSING and right is not MISSING and bool(agree(self._resource, left, right, path))


def _only(resource: Resource, column: str) -> Resource:
    return Resource(resource.name, (column,), None, resource.tolerance, resource.options)


def _doc(row: Any) -> Any:
    """A row's fields, None where there is no row, MISSING where nobody knows."""
    if row is NOT_READ or (isinstance(row, Row) and (row.problem or not isinstance(row.doc, dict))):
        return MISSING
    return row.doc if isinstance(row, Row) else None


def _number(value: Any) -> float | None:
    """A number, be it as text."""
    if is_number(value):
        return float(value)
    try:
        return float(value) if isinstance(value, str) else None
    except ValueError:
        return None
