"""Drafts from an OpenAPI description, 3.0 or 3.1: each operation that writes is a tool, each path with a GET a row.

Source: OpenAPI Specification 3.1.1, Path Item Object, Operation Object, Request Body Object, Responses Object. Only
references within the file are followed.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from referencing import Registry, Resource
from referencing.exceptions import Unresolvable

from counterfoil_console.drafts.model import Draft, DraftResource, DraftTarget, DraftTool, DraftWrite, Guess
from counterfoil_console.drafts.naming import is_field, likeness, read, words
from counterfoil_console.drafts.sources import DraftError

KIND = "http"
_METHODS = ("post", "put", "patch", "delete")
_LONGEST_CHAIN = 20  # of references to references

# What a resource of the kind says of where its rows are; the only words of that kind that drafts know.


def draft_of(document: Any, target: str | None) -> Draft:
    """A draft of every operation that writes; the target is named after the API where no name is given.

    Raises DraftError where the document is no OpenAPI 3 description.
    """
    version = document.get("openapi") if isinstance(document, dict) else None
    if not str(version).startswith("3."):
        raise DraftError("this is no OpenAPI 3 description: it has no `openapi: 3.…`; convert a Swagger 2.0 file first")
    return _Api(document).draft(target)


class _Api:
    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document
        self._resolver = Registry().with_resource("", Resource.opaque(document)).resolver()
        self._names: dict[str, str] = {}  # of resources, by path
        self._paths = {str(path): self._table(item) for path, item in self._table(document.get("paths")).items()}

    def draft(self, target: str | None) -> Draft:
        name = target or "_".join(words(str(self._table(self._document.get("info")).get("title", "")))) or "api"
        draft = Draft()
        resources: dict[str, DraftResource] = {}
        for path, item in self._paths.items():
            for method in _METHODS:
                if isinstance(item.get(method), dict):
                    self._take_in(draft, name, path, method, resources)
        if draft.tools:
            draft.targets[name] = DraftTarget(KIND, resources, list(self._servers()))
        return draft

    def _servers(self) -> Iterator[str]:
        servers = self._document.get("servers")
        for server in servers if isinstance(servers, list) else ():
            if isinstance(server, dict) and isinstance(server.get("url"), str):
                yield f"the description names the server {server['url']}"
        yield "fill in, as settings: where the API is, with credentials that can only read"

    def _take_in(self, draft: Draft, target: str, path: str, method: str, resources: dict[str, DraftResource]) -> None:
        operation = self._table(self._paths[path][method])
        given = operation.get("operationId")
        name = given if isinstance(given, str) and given else "_".join([method, *words(path)])
        notes = [f"{method.upper()} {path}{self._summary(operation)}"]
        if operation.get("deprecated") is True:
            notes.append("the description calls it deprecated")
        row = self._row_path(path, method)
        if row is None:
            draft.left_out[name] = ["no GET reads the row that it writes; say by hand what can be read instead", *notes]
            return
        resource = self._names.setdefault(row, self._name_of(row))
        write = self._write(resource, row, path, method, operation)
        if not write.says_something:
            draft.left_out[name] = [
                "its body tells no field that it changes; say by hand what it leaves behind",
                *notes,
            ]
            return
        arguments = ", ".join(dict.fromkeys([*_parameters(path), *self._properties(operation)]))
        notes.append(f"arguments: {arguments or 'none'}")
        draft.tools[name] = DraftTool(name, target, [write], notes=notes)
        resources.setdefault(resource, DraftResource(_parameters(row), self._options(row)))

    def _options(self, row: str) -> dict[str, Guess]:
        """How a row of the kind http is read, and what tells a missing one from an API that is away."""
        options = {"get": Guess(row, "the path of its GET")}
        around = row.rsplit("/", 1)[0]
        plain = [path for path in self._paths if self._reads(path) and not _parameters(path)]
        if around in plain:
            options["list"] = Guess(around, "the path around it has a GET; say its pages, and where its items are")
        elif plain:
            options["probe"] = Guess(min(plain, key=len), "a GET that answers while the API does")
        return options

    def _row_path(self, path: str, method: str) -> str | None:
        """The path that reads the row: its own, or for a POST to a collection that of its elements."""
        if method == "post" and self._creates(path):
            inside = [other for other in self._paths if _is_element(path, other) and self._reads(other)]
            return inside[0] if inside else None
        return path if _parameters(path) and self._reads(path) else None

    def _name_of(self, row: str) -> str:
        """The last word of a path that is no parameter; all of them, where another path ends in the same."""
        fixed = ["_".join(words(step)) for step in row.split("/") if step and not step.startswith("{")]
        last = (fixed or ["rows"])[-1] or "rows"
        return last if last not in self._names.values() else "_".join(fixed)

    def _reads(self, path: str) -> bool:
        return isinstance(self._paths[path].get("get"), dict)

    def _creates(self, path: str) -> bool:
        operation = self._table(self._paths[path].get("post"))
        return "201" in {str(status) for status in self._table(operation.get("responses"))}

    def _write(self, resource: str, row: str, path: str, method: str, operation: Mapping[str, Any]) -> DraftWrite:
        write = DraftWrite(Guess(resource, "the last word of the path"))
        write.key = {
            name: Guess(read("args", name), "the path's parameter, as an argument") for name in _parameters(row)
        }
        if method == "delete":
            write.delete = Guess(True, "DELETE")
            return write
        if row != path:
            own = _parameters(row)[-1]
            write.create = Guess(True, "POST that answers 201")
            write.key[own] = self._created_key(own, resource, operation)
        for name, schema in self._properties(operation).items():
            if self._table(schema).get("readOnly") is True:
                continue
            if is_field(name):
                write.set[name] = Guess(read("args", name), "a property of the request's body, as an argument")
            else:
                write.to_fill.append(f"the field {name}, whose name no path can hold")
        return write

    def _created_key(self, parameter: str, resource: str, operation: Mapping[str, Any]) -> Guess:
        """The reply's property that most likely is the key of what was created."""
        responses = {str(status): answer for status, answer in self._table(operation.get("responses")).items()}
        schema = self._json_schema(self._table(responses.get("201")))
        ranked = sorted(self._properties_of(schema), key=lambda name: -likeness(name, resource, "id"))
        for name in (parameter, "id", *ranked[:1]):
            if name in ranked:
                return Guess(read("result", name), f"the answer 201 has the property {name}")
        return Guess(read("result", parameter), "the answer 201 does not tell where the new key is")

    def _properties(self, operation: Mapping[str, Any]) -> dict[str, Any]:
        return self._properties_of(self._json_schema(self._table(operation.get("requestBody"))))

    def _json_schema(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        """The schema of a request's or an answer's content, JSON before forms."""
        content = self._table(message.get("content"))
        for media in sorted(map(str, content), key=lambda name: "json" not in name):
            if "json" in media or "form" in media:
                return self._table(self._table(content[media]).get("schema"))
        return {}

    def _properties_of(self, schema: Mapping[str, Any], depth: int = 0) -> dict[str, Any]:
        """By name, those of `allOf` too."""
        found = {str(name): one for name, one in self._table(schema.get("properties")).items()}
        parts = schema.get("allOf")
        if isinstance(parts, list) and depth < _LONGEST_CHAIN:
            for part in parts:
                found = self._properties_of(self._table(part), depth + 1) | found
        return found

    def _table(self, value: Any) -> Mapping[str, Any]:
        """A map, be it referred to; what can't be followed is an empty one."""
        for _ in range(_LONGEST_CHAIN):
            if not isinstance(value, dict):
                return {}
            reference = value.get("$ref")
            if not isinstance(reference, str):
                return value
            try:
                value = self._resolver.lookup(reference).contents
            except (Unresolvable, ValueError):
                return {}
        return {}

    def _summary(self, operation: Mapping[str, Any]) -> str:
        summary = operation.get("summary")
        return f": {summary}" if isinstance(summary, str) and summary else ""


def _parameters(path: str) -> list[str]:
    """The names in braces, in order."""
    return re.findall(r"\{([^{}]+)\}", path)


def _is_element(collection: str, path: str) -> bool:
    """Whether a path is the collection's and one parameter more."""
    head, _, last = path.rstrip("/").rpartition("/")
    return head == collection.rstrip("/") and last.startswith("{") and last.endswith("}")
