"""`contracts draft --openapi | --mcp`: what a description tells becomes a file that loads, whatever it holds."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from counterfoil_console.drafts import mcp, openapi
from counterfoil_console.drafts.sources import DraftError
from counterfoil_console.drafts.writing import text_of
from counterfoil_reconcilers import contract_kinds
from counterfoil_reconcilers.contracts import Contracts, load

from .conftest import Call

API = """
openapi: 3.1.0
info: {title: Help Desk, version: "1"}
servers: [{url: https://desk.example/api}]
paths:
  /tickets:
    get: {responses: {200: {description: all}}}
    post:
      operationId: open_ticket
      summary: Open a ticket
      requestBody: {$ref: '#/components/requestBodies/Ticket'}
      responses:
        201: {content: {application/json: {schema: {$ref: '#/components/schemas/Ticket'}}}}
  /tickets/{ticket-id}:
    get: {responses: {200: {description: one}}}
    patch:
      operationId: change_ticket
      requestBody: {content: {application/merge-patch+json: {schema: {$ref: '#/components/schemas/Ticket'}}}}
      responses: {200: {description: changed}}
    delete: {responses: {204: {description: gone}}}
  /tickets/{ticket-id}/close:
    post: {operationId: close_ticket, deprecated: true, responses: {200: {description: closed}}}
  /users/{user}/tickets/{ticket}:
    get: {responses: {200: {description: one}}}
    put:
      operationId: assign
      requestBody: {content: {application/x-www-form-urlencoded: {schema: {properties: {role: {type: string}}}}}}
      responses: {200: {description: changed}}
components:
  requestBodies:
    Ticket: {content: {application/json: {schema: {$ref: '#/components/schemas/Ticket'}}}}
  schemas:
    Base: {properties: {id: {type: string, readOnly: true}, title: {type: string}}}
    Ticket:
      allOf:
        - {$ref: '#/components/schemas/Base'}
        - {properties: {"odd.name": {type: string}, tags: {type: array}}}
"""
TOOLS = {
    "jsonrpc": "2.0",
    "id": 1,
    "result": {
        "tools": [
            {"name": "search_orders", "inputSchema": {}, "annotations": {"readOnlyHint": True}},
            {
                "name": "update_order",
                "description": "Changes an order.\nReally.",
                "inputSchema": {
                    "type": "object",
                    "properties": {
                        "order_id": {"type": "string"},
                        "status": {"type": "string"},
                        "note": {"type": ["string", "null"]},
                    },
                    "required": ["order_id"],
                },
                "annotations": {"destructiveHint": True, "idempotentHint": True},
            },
            {
                "name": "createRefund",
                "inputSchema": {
                    "properties": {
                        "reference": {"type": "string"},
                        "amount": {"type": "number"},
                        "lines": {"type": "array"},
                    },
                    "required": ["reference", "amount", "lines"],
                },
                "annotations": {"destructiveHint": False},
            },
            {"name": "delete_order", "inputSchema": {"properties": {"id": {"type": "integer"}}}},
            {"name": "restart"},
        ]
    },
}


def loaded(text: str, folder: Path) -> Contracts:
    (folder / "draft.toml").write_text(text, encoding="utf-8")
    return load(folder / "draft.toml")


def test_operations_become_tools(tmp_path: Path) -> None:
    text = text_of(openapi.draft_of(yaml.safe_load(API), None))
    found = loaded(text, tmp_path)
    tables = tomllib.loads(text)
    assert tables["targets"]["help_desk"]["kind"] == "http"
    assert tables["targets"]["help_desk"]["resources"] == {
        "tickets": {"get": "/tickets/{ticket-id}", "list": "/tickets", "key": ["ticket-id"]},
        "users_tickets": {"get": "/users/{user}/tickets/{ticket}", "probe": "/tickets", "key": ["user", "ticket"]},
    }
    assert set(found.tools) == {"open_ticket", "change_ticket", "delete_tickets_ticket_id", "assign"}
    [opened] = tables["tools"]["open_ticket"]["writes"]
    assert opened == {
        "resource": "tickets",
        "create": True,
        "key": {"ticket-id": "result.id"},
        "set": {"title": "args.title", "tags": "args.tags"},
    }
    [changed] = tables["tools"]["change_ticket"]["writes"]
    assert changed["key"] == {"ticket-id": "args['ticket-id']"}
    assert tables["tools"]["delete_tickets_ticket_id"]["writes"][0]["delete"] is True
    assert tables["tools"]["assign"]["writes"][0] == {
        "resource": "users_tickets",
        "key": {"user": "args.user", "ticket": "args.ticket"},
        "set": {"role": "args.role"},
    }
    assert "# fill in: the field odd.name, whose name no path can hold" in text
    assert "# not drafted: close_ticket: no GET reads the row that it writes" in text
    assert "https://desk.example/api" in text
    assert all("# guess: " in line for line in text.splitlines() if line.startswith(("set.", "key =  {", "create")))


def test_what_this_installation_can_not_load_stands_in_comments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {name: one for name, one in contract_kinds.entry_points_of_kinds().items() if name != "http"}
    monkeypatch.setattr(contract_kinds, "entry_points_of_kinds", lambda: known)
    contract_kinds.find_kind.cache_clear()
    text = text_of(openapi.draft_of(yaml.safe_load(API), "desk"))
    assert not loaded(text, tmp_path).tools
    assert "# left in comments, for it does not load here: targets.desk: there is no kind http" in text
    assert '# set.title = "args.title"' in text
    contract_kinds.find_kind.cache_clear()


def test_tools_of_mcp(tmp_path: Path) -> None:
    text = text_of(mcp.draft_of(TOOLS, "desk"))
    found = loaded(text, tmp_path)
    tables = tomllib.loads(text)["tools"]
    assert {name: tool.irreversible for name, tool in found.tools.items()} == {
        "update_order": True,
        "createRefund": False,
        "delete_order": True,
    }
    assert tables["update_order"]["writes"] == [
        {"resource": "order", "key": {"id": "args.order_id"}, "set": {"status": "args.status", "note": "args.note"}}
    ]
    assert tables["createRefund"]["writes"] == [
        {
            "resource": "refund",
            "create": True,
            "find": {"reference": "args.reference", "amount": "args.amount"},
            "set": {"reference": "args.reference", "amount": "args.amount", "lines": "args.lines"},
        }
    ]
    assert tables["delete_order"]["writes"] == [{"resource": "order", "delete": True, "key": {"id": "args.id"}}]
    for line in (
        "# not drafted: search_orders: it only reads (readOnlyHint)",
        "# not drafted: restart: no argument seems to name a row, or what becomes of it; write its contract by hand",
        "irreversible = true  # guess: destructiveHint is true",
        "irreversible = true  # guess: destructiveHint is not given, and is true by default",
        "# arguments: note (string or null), order_id (string, required), status (string)",
        "# Changes an order.",
    ):
        assert line in text.splitlines()


@pytest.mark.parametrize("document", [{}, "x", None, {"tools": 5}, {"tools": [5]}, {"tools": [{"name": 5}]}])
def test_what_is_no_list_of_tools(document: Any) -> None:
    with pytest.raises(DraftError, match="tools/list"):
        mcp.draft_of(document, "desk")


@pytest.mark.parametrize("document", [[], {"result": []}, {"tools": []}])
def test_no_tools(document: Any, tmp_path: Path) -> None:
    assert not loaded(text_of(mcp.draft_of(document, "desk")), tmp_path).tools


@pytest.mark.parametrize("document", [{}, [], "x", None, {"openapi": 2}, {"swagger": "2.0"}])
def test_what_is_no_description(document: Any) -> None:
    with pytest.raises(DraftError, match="no OpenAPI 3 description"):
        openapi.draft_of(document, None)


_NAMES = st.sampled_from(
    ["id", "a b", "x.y", "x[0]", "'", '"', "\\", "\n", "]", "#", "é", "\u202e", "\x7f", "\0", "", "null", "in", "args"]
)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just("#/components/schemas/A"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(_NAMES | st.sampled_from(["$ref", "properties", "allOf"]), inner, max_size=3)
    ),
    max_leaves=8,
)
_often = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)


@_often
@given(names=st.lists(_NAMES, min_size=1, max_size=4, unique=True), schema=_json, title=_NAMES, hint=_json)
def test_hostile_tools_make_a_file_that_loads(
    tmp_path: Path, names: list[str], schema: Any, title: str, hint: Any
) -> None:
    tools = [
        {
            "name": f"{verb}{name}",
            "description": title,
            "inputSchema": {"properties": {**dict.fromkeys(names, schema), "thing_id": schema}, "required": names},
            "annotations": {"destructiveHint": hint, "title": title},
        }
        for name in names
        if name
        for verb in ("create_", "update_", "delete_", "")
    ]
    text = text_of(mcp.draft_of({"tools": [*tools, {"name": "x", "inputSchema": schema, "annotations": hint}]}, "desk"))
    loaded(text, tmp_path)
    assert not set(text) & set("\x7f\0\u202e")


@_often
@given(names=st.lists(_NAMES, min_size=1, max_size=4, unique=True), schema=_json, anything=_json)
def test_hostile_descriptions_make_a_file_that_loads(
    tmp_path: Path, names: list[str], schema: Any, anything: Any
) -> None:
    body = {"content": {"application/json": {"schema": {"properties": dict.fromkeys(names, schema)}}}}
    operation = {"operationId": names[0], "summary": names[-1], "requestBody": body, "responses": {201: anything}}
    paths = {f"/{name}/{{{name}}}": {"get": {}, "put": operation, "post": {"responses": anything}} for name in names}
    document = {
        "openapi": "3.0.3", "info": {"title": names[0]}, "servers": anything, "components": {"schemas": {"A": schema}},
        "paths": {**paths, "/things": {"post": operation}, "/things/{id}": {"get": {}}, "/x": anything},
    }  # fmt: skip
    loaded(text_of(openapi.draft_of(document, None)), tmp_path)


def test_references_that_lead_nowhere_or_in_circles(tmp_path: Path) -> None:
    schemas = {"A": {"$ref": "#/components/schemas/B"}, "B": {"$ref": "#/components/schemas/A"}}
    for reference in (
        "#/components/schemas/A",
        "#/nowhere",
        "other.yaml#/X",
        "https://example.com/x",
        "%",
        "#/paths/~1x/~0",
    ):
        operation = {"requestBody": {"content": {"application/json": {"schema": {"$ref": reference}}}}}
        document = {
            "openapi": "3.0.0",
            "paths": {"/x/{id}": {"get": {}, "put": operation}},
            "components": {"schemas": schemas},
        }
        text = text_of(openapi.draft_of(document, None))
        assert "# not drafted: put_x_id: its body tells no field that it changes" in text
        loaded(text, tmp_path)


def test_the_command_writes_and_never_overwrites(bare: Call, tmp_path: Path) -> None:
    (tmp_path / "tools.json").write_text(json.dumps(TOOLS))
    said = bare("contracts", "draft", "--mcp", "tools.json", "--target", "desk", "--output", "draft.toml")
    assert (said.code, said.out) == (0, "3 tools drafted, 2 left out, in draft.toml\n")
    assert bare("contracts", "check", "draft.toml", "--offline").code == 0
    before = (tmp_path / "draft.toml").read_bytes()
    again = bare("contracts", "draft", "--mcp", "tools.json", "--output", "draft.toml")
    assert again.sentence == "draft.toml can't be written: File exists"
    assert (tmp_path / "draft.toml").read_bytes() == before
    assert bare("contracts", "draft", "--mcp", "tools.json", "--target", "desk").out.encode() == before


def test_tools_with_a_contract_are_left_out(bare: Call, tmp_path: Path) -> None:
    (tmp_path / "tools.json").write_text(json.dumps(TOOLS))
    bare("contracts", "draft", "--mcp", "tools.json", "--output", "contracts.toml")
    text = bare("contracts", "draft", "--mcp", "tools.json").out
    assert "tools" not in tomllib.loads(text)
    assert "# not drafted: update_order: it has a contract already" in text.splitlines()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "from what? pass --observed, --openapi FILE or --mcp FILE"),
        (["--mcp", "nowhere.json"], "nowhere.json can't be read: No such file or directory; name an existing file"),
        (["--mcp", "bad"], "bad is no JSON"),
        (["--openapi", "bad"], "bad is neither JSON nor YAML"),
        (["--openapi", "tagged"], "tagged is neither JSON nor YAML"),
        (["--mcp", "."], ". can't be read: Is a directory"),
    ],
)
def test_files_that_tell_nothing(bare: Call, tmp_path: Path, arguments: list[str], sentence: str) -> None:
    (tmp_path / "bad").write_text("{[")
    (tmp_path / "tagged").write_text("x: !!python/object/apply:os.getcwd []")
    assert bare("contracts", "draft", *arguments).sentence.startswith(sentence)
