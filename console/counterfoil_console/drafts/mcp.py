"""Drafts from what an MCP server says of its tools: the result of `tools/list`.

Source: Model Context Protocol, specification 2025-06-18, Server Features, Tools, and `ToolAnnotations` in its schema
(`readOnlyHint` false, `destructiveHint` true and `idempotentHint` false by default). Annotations are hints, which a
client must not trust; nor does a draft.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from counterfoil_console.drafts.model import Draft, DraftResource, DraftTarget, DraftTool, DraftWrite, Guess
from counterfoil_console.drafts.naming import CREATES, DELETES, is_field, noun_of, read, row_argument, words
from counterfoil_console.drafts.sources import DraftError

_SCALARS = {"string", "integer", "number", "boolean"}
_MOST_SEARCHED = 3


def draft_of(document: Any, target: str) -> Draft:
    """A draft of every tool that may write, at a target of this name, which MCP tells nothing of.

    Raises DraftError where the document is no list of tools.
    """
    draft = Draft()
    resources: dict[str, DraftResource] = {}
    for tool in _tools(document):
        _take_in(draft, tool, target, resources)
    if draft.tools:
        notes = ["fill in: which kind of target this is, and where its rows are; MCP does not tell"]
        draft.targets[target] = DraftTarget("postgresql", resources, notes)
    return draft


def _tools(document: Any) -> Iterator[Mapping[str, Any]]:
    found = document.get("result", document) if isinstance(document, dict) else document
    found = found.get("tools") if isinstance(found, dict) else found
    if not isinstance(found, list):
        raise DraftError(
            "this is no result of MCP's tools/list: it has no list of tools; save the server's answer as JSON"
        )
    for index, tool in enumerate(found):
        if not isinstance(tool, dict) or not isinstance(tool.get("name"), str) or not tool["name"]:
            raise DraftError(f"tool {index} of the list has no name; save the server's answer to tools/list as JSON")
        yield tool


def _take_in(draft: Draft, tool: Mapping[str, Any], target: str, resources: dict[str, DraftResource]) -> None:
    name, hints = tool["name"], _table(tool.get("annotations"))
    if hints.get("readOnlyHint") is True:
        draft.left_out[name] = ["it only reads (readOnlyHint)"]
        return
    schema = _table(tool.get("inputSchema"))
    arguments = {str(key): _table(value) for key, value in _table(schema.get("properties")).items()}
    required = [str(one) for one in schema.get("required") or () if isinstance(one, str)]
    notes = list(_notes(tool, hints, arguments, required))
    noun = noun_of(name)
    write = _write(name, noun, arguments, required)
    if not write.says_something:
        draft.left_out[name] = [
            "no argument seems to name a row, or what becomes of it; write its contract by hand",
            *notes,
        ]
        return
    draft.tools[name] = DraftTool(name, target, [write], _irreversible(hints), notes)
    resources.setdefault(noun, _placeholder(noun))


def _write(tool: str, noun: str, arguments: Mapping[str, Mapping[str, Any]], required: list[str]) -> DraftWrite:
    write = DraftWrite(Guess(noun, "the tool's name without its verb"))
    verb = next((word for word in words(tool) if word in CREATES | DELETES), "")
    row = row_argument(noun, arguments, required)
    fields = [name for name in arguments if is_field(name)]
    if verb in CREATES:
        write.create = Guess(True, f"the tool's name says {verb}")
        searched = [name for name in fields if name in required and arguments[name].get("type") in _SCALARS]
        write.find = {
            name: Guess(read("args", name), "required, and the row's key is not known beforehand")
            for name in searched[:_MOST_SEARCHED]
        }
    else:
        fields = [name for name in fields if name != row]
        write.key = (
            {} if row is None else {"id": Guess(read("args", row), "the argument that most likely names the row")}
        )
    if verb in DELETES:
        write.delete = Guess(True, f"the tool's name says {verb}")
        return write
    write.set = {name: Guess(read("args", name), "the field has the argument's name") for name in fields}
    return write


def _notes(
    tool: Mapping[str, Any], hints: Mapping[str, Any], arguments: Mapping[str, Mapping[str, Any]], required: list[str]
) -> Iterator[str]:
    title = tool.get("title") or hints.get("title") or tool.get("description")
    if isinstance(title, str) and title.strip():
        yield title.strip().splitlines()[0]
    told = [
        f"{name} ({_type(schema)}{', required' if name in required else ''})"
        for name, schema in sorted(arguments.items())
    ]
    yield f"arguments: {', '.join(told) or 'none'}"
    if hints.get("idempotentHint") is True:
        yield "idempotentHint: the server says that a repetition changes nothing"


def _irreversible(hints: Mapping[str, Any]) -> Guess | None:
    if hints.get("destructiveHint") is False:
        return None
    given = "destructiveHint" in hints
    return Guess(True, "destructiveHint is true" if given else "destructiveHint is not given, and is true by default")


def _placeholder(noun: str) -> DraftResource:
    return DraftResource(
        ["id"],
        {"table": Guess(f"public.{noun}", "the tool's name without its verb")},
        ["fill in: the table, and its key"],
    )


def _type(schema: Mapping[str, Any]) -> str:
    found = schema.get("type", "any")
    return " or ".join(map(str, found)) if isinstance(found, list) else str(found)


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
