"""The evidence of a verdict in words: which fields of which rows are not what was intended."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from counterfoil.blobs import claim_in
from counterfoil.sealing import sealed_in

_LONGEST_VALUE = 200
_LANDED = {"twice": "landed twice", "half": "landed by half", "no": "did not land", "wrong": "landed otherwise"}


def differences(evidence: Any, limit: int = 12) -> list[str]:
    """At most `limit` lines that say where expected and observed differ, and one that counts the rest."""
    found = list(dict.fromkeys(_found(evidence)))
    more = [f"… and {len(found) - limit} more (see --json)"] if len(found) > limit else []
    return found[:limit] + more


def _found(evidence: Any) -> Iterator[str]:
    if not isinstance(evidence, Mapping):
        return
    for part in _tables(evidence.get("parts")):
        word = _LANDED.get(str(part.get("landed")))
        if word:
            yield f"{_place(part)} {word}: {_both(part)}"
    for difference in _tables(evidence.get("differences")):
        yield f"{_place({**difference, 'resource': evidence.get('resource'), 'key': evidence.get('key')})}: " + _both(
            difference
        )


def _tables(value: Any) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _place(part: Mapping[str, Any]) -> str:
    field = part.get("field")
    return f"{row_name(part)} {field}" if field else row_name(part)


def _both(part: Mapping[str, Any]) -> str:
    expected, observed = part.get("expected"), part.get("observed")
    if part.get("landed") == "twice" or expected == observed:
        return f"the target has {_value(observed)}"
    return f"expected {_value(expected)}, the target has {_value(observed)}"


def _value(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST_VALUE else text[:_LONGEST_VALUE] + "…"


def row_name(row: Mapping[str, Any]) -> str:
    """`orders A-17`: the resource and its key; `a new row` where the key is still unknown."""
    key = row.get("key")
    parts = [compact(part) for part in key] if isinstance(key, list) else [compact(key)]
    return f"{row.get('resource') or 'a row'} {'(a new row)' if parts[:1] == ['?'] else ' '.join(parts)}"


def compact(value: Any) -> str:
    """JSON on one line, without quotes around plain text; what is sealed or kept elsewhere is named, not shown."""
    brief = _brief(value)
    return brief if isinstance(brief, str) else json.dumps(brief, ensure_ascii=False, default=str)


def _brief(value: Any) -> Any:
    claim = claim_in(value)
    if claim is not None:
        return f"({claim.size_bytes} bytes, see `counterfoil blob {claim.sha256}`)"
    if isinstance(value, Mapping):
        sealed = sealed_in(value)
        return f"[sealed:{sealed.token}]" if sealed else {name: _brief(item) for name, item in value.items()}
    return [_brief(item) for item in value] if isinstance(value, list) else value
