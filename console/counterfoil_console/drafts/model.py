"""What a draft consists of: a contract's tables, in which each value that was guessed carries why."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


class Guess(NamedTuple):
    """A value (an expression, or true) and what it rests on; `why` empty: it was given, not guessed."""

    value: str | bool
    why: str = ""


@dataclass
class DraftWrite:
    """One `[[tools.NAME.writes]]`. `to_fill`: sentences about what is left to say."""

    resource: Guess
    key: dict[str, Guess] = field(default_factory=dict)
    find: dict[str, Guess] = field(default_factory=dict)
    create: Guess | None = None
    delete: Guess | None = None
    set: dict[str, Guess] = field(default_factory=dict)
    append: dict[str, Guess] = field(default_factory=dict)
    remove: dict[str, Guess] = field(default_factory=dict)
    reply: Guess | None = None
    to_fill: list[str] = field(default_factory=list)

    @property
    def says_something(self) -> bool:
        """Whether a contract may hold it: it names a row, and what becomes of it."""
        names_a_row = bool(self.key) or (self.create is not None and bool(self.find))
        return names_a_row and bool(self.create or self.delete or self.set or self.append or self.remove)


@dataclass
class DraftTool:
    """One `[tools.NAME]`. `notes` say what is known of it, above the table."""

    name: str
    target: str
    writes: list[DraftWrite] = field(default_factory=list)
    irreversible: Guess | None = None
    notes: list[str] = field(default_factory=list)


@dataclass
class DraftResource:
    """One `[targets.NAME.resources.NAME]`: its key, and its kind's own keys in `options`."""

    key: list[str]
    options: dict[str, Guess]
    notes: list[str] = field(default_factory=list)


@dataclass
class DraftTarget:
    """One `[targets.NAME]`; `given` is a table that the contracts on disk have already, written as it is."""

    kind: str = ""
    resources: dict[str, DraftResource] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    given: Mapping[str, Any] | None = None


@dataclass
class Draft:
    """All of it. `left_out`: tools that need no contract, or of which nothing could be guessed, each with why."""

    targets: dict[str, DraftTarget] = field(default_factory=dict)
    tools: dict[str, DraftTool] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def leave_out(self, tools: Iterable[str]) -> None:
        """These have a contract already."""
        for name in tools:
            if self.tools.pop(name, None) is not None:
                self.left_out[name] = ["it has a contract already"]

    def add(self, other: "Draft") -> None:
        """What another source says, too; of a tool that both know the first holds."""
        for name, target in other.targets.items():
            mine = self.targets.setdefault(name, target)
            for key, resource in target.resources.items():
                mine.resources.setdefault(key, resource)
        for name, tool in other.tools.items():
            if name in self.tools:
                self.tools[name].notes.append("another source knows this tool, too: compare")
            else:
                self.tools[name] = tool
                self.left_out.pop(name, None)
        for name, why in other.left_out.items():
            if name not in self.tools:
                self.left_out.setdefault(name, why)
