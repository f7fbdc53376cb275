"""A draft as a file that loads: what this installation can't take in is put in comments, with the reason."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomlkit

from counterfoil_console.drafts.model import Draft, DraftResource, DraftTarget, DraftTool, DraftWrite, Guess
from counterfoil_console.hostile import shown
from counterfoil_reconcilers.contracts import examine

_HEAD = (
    "A draft by `counterfoil contracts draft`. Nobody has said that any of it is right: go through every guess,",
    "fill in what is marked, and take these comments out.",
)
_LONGEST_COMMENT = 300
_FILE = "draft.toml"


@dataclass
class _Block:
    """Lines that stand or fall together. `wrong`: why they stand in comments."""

    lines: list[str]
    wrong: list[str] = field(default_factory=list)

    @property
    def written(self) -> list[str]:
        """As they go into the file."""
        if not self.wrong:
            return self.lines
        reasons = [_comment(f"left in comments, for it does not load here: {one}") for one in self.wrong]
        return [*reasons, *(line if line.startswith("#") else f"# {line}".rstrip() for line in self.lines)]


def text_of(draft: Draft, version: str = "draft") -> str:
    """The draft as TOML which `contracts check --offline` passes."""
    head = [*map(_comment, _HEAD), f"version = {_toml(version)}"]
    blocks = [_Block(head), *(_Block(list(lines)) for lines in _tables(draft))]
    # Each round puts one block more in comments at least; of a target that is out, its tools are wrong next.
    while wrong := [(block, mistakes) for block, mistakes in _mistakes(blocks) if not block.wrong]:
        for block, mistakes in wrong:
            block.wrong = mistakes
    left_out = [
        line
        for name, why in sorted(draft.left_out.items())
        for line in (
            "",
            *(_comment(one) for one in [f"not drafted: {name}: {why[0]}", *(f"  {one}" for one in why[1:])]),
        )
    ]
    return _text(blocks) + "\n".join(left_out) + ("\n" if left_out else "")


def _text(blocks: Iterable[_Block]) -> str:
    return "\n\n".join("\n".join(block.written) for block in blocks) + "\n"


def _mistakes(blocks: list[_Block]) -> list[tuple[_Block, list[str]]]:
    """The blocks that do not load, each with what is wrong with it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, _FILE)
        path.write_text(_text(blocks), encoding="utf-8")
        _, mistakes = examine(path)
    found: dict[int, list[str]] = {}
    ends: list[int] = []
    for block in blocks:
        ends.append((ends[-1] if ends else 0) + len(block.written) + 1)
    for mistake in mistakes:
        place = next((index for index, end in enumerate(ends) if (mistake.line or 1) <= end), len(blocks) - 1)
        sentence = str(mistake).partition(f"{_FILE} line {mistake.line}: ")
        found.setdefault(place, []).append(sentence[2] or sentence[0])
    return [(blocks[place], sentences) for place, sentences in found.items()]


def _tables(draft: Draft) -> Iterator[Iterator[str]]:
    for name, target in draft.targets.items():
        yield _target(name, target)
    for tool in draft.tools.values():
        yield _tool(tool)


def _target(name: str, target: DraftTarget) -> Iterator[str]:
    yield from map(_comment, target.notes)
    if target.given is not None:
        yield from _visible(tomlkit.dumps({"targets": {name: _plain(target.given)}})).strip().split("\n")
        return
    yield f"[{_path('targets', name)}]"
    yield f"kind = {_toml(target.kind)}"
    for key, resource in target.resources.items():
        yield from _resource(_path("targets", name, "resources", key), resource)


def _resource(header: str, resource: DraftResource) -> Iterator[str]:
    yield ""
    yield from map(_comment, resource.notes)
    yield f"[{header}]"
    for name, guess in resource.options.items():
        yield _line(name, guess)
    yield f"key = [{', '.join(map(_toml, resource.key))}]"


def _tool(tool: DraftTool) -> Iterator[str]:
    yield from map(_comment, tool.notes)
    yield f"[{_path('tools', tool.name)}]"
    yield f"target = {_toml(tool.target)}"
    if tool.irreversible is not None:
        yield _line("irreversible", tool.irreversible)
    for write in tool.writes:
        yield ""
        yield f"[[{_path('tools', tool.name, 'writes')}]]"
        yield from _write(write)


def _write(write: DraftWrite) -> Iterator[str]:
    yield _line("resource", write.resource)
    for word, given in (("create", write.create), ("delete", write.delete)):
        if given is not None:
            yield _line(word, given)
    for word, row in (("key", write.key), ("find", write.find)):
        if row:
            inside = ", ".join(f"{_path(name)} = {_toml(guess.value)}" for name, guess in row.items())
            yield _commented(f"{word} = {{ {inside} }}", "; ".join(dict.fromkeys(g.why for g in row.values() if g.why)))
    for word, fields in (("set", write.set), ("append", write.append)):
        for name, guess in fields.items():
            yield _line(_path(word, *name.split(".")), guess)
    if write.remove:
        names = ", ".join(map(_toml, write.remove))
        yield _commented(f"remove = [{names}]", "; ".join(dict.fromkeys(g.why for g in write.remove.values())))
    if write.reply is not None:
        yield _line("reply", write.reply)
    yield from (_comment(f"fill in: {one}") for one in write.to_fill)


def _line(path: str, guess: Guess) -> str:
    return _commented(f"{path} = {_toml(guess.value)}", guess.why)


def _commented(line: str, why: str) -> str:
    return f"{line}  {_comment(f'guess: {why}')}" if why else line


def _comment(text: str) -> str:
    """One line that acts nowhere, whatever stands in the names and texts that it repeats."""
    return f"# {shown(text, _LONGEST_COMMENT)}"


def _toml(value: Any) -> str:
    return _visible(tomlkit.item(value).as_string())


def _path(*names: str) -> str:
    return ".".join(_visible(tomlkit.key(name).as_string()) for name in names)


def _visible(text: str) -> str:
    """With what acts or hides in a terminal as TOML's own escape; such a character only stands inside quotes."""
    return "".join(
        character if character.isprintable() or character == "\n" else rf"\U{ord(character):08x}" for character in text
    )


def _plain(value: Any) -> Any:
    """Tables of plain dicts, as tomlkit wants them."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value
