"""Lists in a body that are longer than an event may be: the sources of a retrieval, the messages of a prompt."""

import json
from collections.abc import Sequence
from typing import Any

OMITTED = "omitted"  # the field that says what was left out
_ITEM_BYTES = 24  # what an item takes besides its texts, about


def weight_of(value: Any) -> int:
    """Characters of a text, or bytes of a list, about."""
    if isinstance(value, str):
        return len(value)
    return sum(map(_item_weight, value)) if isinstance(value, list) else 0


def beginning(items: Sequence[Any], limit: int) -> list[Any]:
    """As many of the first items as weigh at most `limit`."""
    kept: list[Any] = []
    weight = 0
    for item in items:
        weight += _item_weight(item)
        if weight > limit:
            break
        kept.append(item)
    return kept


def list_text(items: Sequence[Any]) -> str:
    """JSON text of a list; bytes as hex."""
    return json.dumps(items, ensure_ascii=False, separators=(",", ":"), default=bytes.hex)


def _item_weight(item: Any) -> int:
    if isinstance(item, dict):
        return _ITEM_BYTES + sum(len(value) for value in item.values() if isinstance(value, (str, bytes)))
    return _ITEM_BYTES + (len(item) if isinstance(item, (str, bytes)) else 0)
