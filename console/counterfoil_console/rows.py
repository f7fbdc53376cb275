"""Rows of a target as people name them."""

import json
from dataclasses import dataclass

from counterfoil.errors import UsageError
from counterfoil_consumers.readable import json_text


@dataclass(frozen=True)
class RowName:
    """One row; `key` is JSON text, a list of texts, as the store has it."""

    target: str
    resource: str
    key: str

    def __str__(self) -> str:
        return f"{self.resource} {self.key} at {self.target}"


def key_of(given: str) -> str:
    """The key of a row as the store has it: given as text, or as a JSON list of texts where it has several columns.

    Raises UsageError.
    """
    try:
        parts = json.loads(given)
    except (ValueError, RecursionError):
        parts = None
    if not isinstance(parts, list):
        parts = [given]
    if not parts or not all(isinstance(part, str) and part for part in parts):
        raise UsageError(
            "a key is a text, or a JSON list of texts where it has several columns, such as "
            f'["A-17", "2"], not {given[:60]!r}'
        )
    return json_text(json.dumps(parts))
