"""The files that drafts are made from: JSON, or YAML where somebody may write that."""

import json
from pathlib import Path
from typing import Any

import yaml

from counterfoil.errors import CounterfoilError

_LARGEST_BYTES = 50_000_000


class DraftError(CounterfoilError):
    """What a draft was to be made from is not what it must be; the sentence says which file, and what to do."""


def read_json(file: Path) -> Any:
    """A JSON file.

    Raises DraftError.
    """
    try:
        return json.loads(_content(file))
    except (ValueError, RecursionError) as error:
        raise DraftError(f"{file} is no JSON ({error}); save what the server answers as it is") from error


def read_yaml(file: Path) -> Any:
    """A JSON or YAML file; tags that would make objects are refused.

    Raises DraftError.
    """
    content = _content(file)
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        pass
    try:
        return yaml.load(content, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506  # a safe loader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise DraftError(f"{file} is neither JSON nor YAML: {' '.join(str(error).split())[:200]}") from error


def _content(file: Path) -> bytes:
    try:
        if file.stat().st_size > _LARGEST_BYTES:
            raise DraftError(f"{file} has more than {_LARGEST_BYTES:,} bytes; give the part that describes the tools")
        return file.read_bytes()
    except OSError as error:
        raise DraftError(f"{file} can't be read: {error.strerror}; name an existing file") from error
