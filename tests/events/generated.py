"""Hypothesis strategies that make events of every kind from their Avro schemas."""

from typing import Any

from hypothesis import strategies as st

from counterfoil.event import Event
from counterfoil_schemas import avro_schemas

_NEWEST = {schema.subject: schema.definition for schema in avro_schemas()}
IDS = st.binary(min_size=16, max_size=16)
LONGS = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
OPTIONAL = st.none() | TEXT


def values(node: Any, named: dict[str, Any] | None = None) -> st.SearchStrategy[Any]:
    """Values of one Avro type."""
    known: dict[str, Any] = {} if named is None else named
    if isinstance(node, list):
        return st.one_of([values(branch, known) for branch in node])
    if isinstance(node, dict):
        return _named_values(node, known)
    if node in known:
        return values(known[node], known)
    return {
        "null": st.none(),
        "boolean": st.booleans(),
        "int": st.integers(-(2**31), 2**31 - 1),
        "long": LONGS,
        "double": st.floats(allow_nan=False),
        "string": TEXT,
        "bytes": st.binary(max_size=40),
    }[node]


def _named_values(node: dict[str, Any], known: dict[str, Any]) -> st.SearchStrategy[Any]:
    if "name" in node:
        known[node["name"]] = node
    match node["type"]:
        case "record":
            return st.fixed_dictionaries({field["name"]: values(field["type"], known) for field in node["fields"]})
        case "fixed":
            return st.binary(min_size=node["size"], max_size=node["size"])
        case "array":
            return st.lists(values(node["items"], known), max_size=3)
        case inner:
            return values(inner, known)


BODIES = {kind: values(definition) for kind, definition in _NEWEST.items() if kind != "event"}


@st.composite
def events(draw: st.DrawFn) -> Event:
    """An event of any kind, every envelope field in play."""
    kind = draw(st.sampled_from(sorted(BODIES)))
    return Event(
        event_id=draw(IDS),
        kind=kind,
        body=draw(BODIES[kind]),
        tenant=draw(TEXT),
        workflow=draw(TEXT),
        task_id=draw(IDS),
        agent=draw(TEXT),
        producer_id=draw(IDS),
        seq=draw(LONGS),
        occurred_at=draw(LONGS),
        retention_class=draw(TEXT),
        environment=draw(TEXT),
        mode=draw(TEXT),
        task_ref=draw(OPTIONAL),
        parent_task_id=draw(st.none() | IDS),
        conversation_id=draw(OPTIONAL),
        subject_ref=draw(OPTIONAL),
        release=draw(OPTIONAL),
        principal=draw(OPTIONAL),
        on_behalf_of=draw(OPTIONAL),
        effect_id=draw(st.none() | IDS),
        attempt=draw(st.none() | st.integers(-(2**31), 2**31 - 1)),
        causation_id=draw(st.none() | IDS),
        trace_id=draw(st.none() | IDS),
        span_id=draw(st.none() | st.binary(min_size=8, max_size=8)),
        redaction=draw(OPTIONAL),
        subject=draw(OPTIONAL),
    )
