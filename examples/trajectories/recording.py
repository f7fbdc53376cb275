"""Reads a directory of recorded runs; the format is told in that directory's README. Nothing here knows a domain."""

import gzip
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class WrongData(Exception):
    """The directory or a file is not in that format; the message says where."""


# What a step of each kind must say besides.
_PARTS = {
    "tool_call": ("call_id", "tool", "effect", "args"),
    "tool_result": ("call_id", "output", "is_error"),
    "assistant_message": ("role", "content"),
}


@dataclass(frozen=True)
class Run:
    """One recorded run, its steps in order."""

    trace_id: str
    tenant: str
    domain: str
    steps: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Recording:
    """All runs, and which domains each tenant's runs are of."""

    runs: Sequence[Run]
    domains: Mapping[str, str]


def read_recording(data: Path, events: Path) -> Recording:
    """The runs of `events`, with their tenants from `tenants.json` in `data`.

    Raises WrongData.
    """
    tenant_of: dict[str, str] = {}
    domains: dict[str, str] = {}
    tenants = data / "tenants.json"
    for entry in _json(tenants):
        _need(entry, ("tenant_id", "domain", "traces"), tenants)
        domains[entry["tenant_id"]] = entry["domain"]
        tenant_of.update(dict.fromkeys(entry["traces"], entry["tenant_id"]))
    steps: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for number, line in enumerate(json_lines(events), 1):
        _need(line, ("trace_id", "step", "kind"), f"{events} line {number}")
        _need(line, _PARTS.get(line["kind"], ()), f"{events} line {number}")
        steps[line["trace_id"]].append(line)
    strangers = sorted(set(steps) - set(tenant_of))
    if strangers:
        raise WrongData(f"{events}: the run {strangers[0]} belongs to no tenant of {tenants}")
    runs = [
        Run(trace, tenant_of[trace], domains[tenant_of[trace]], sorted(lines, key=lambda line: line["step"]))
        for trace, lines in steps.items()
    ]
    return Recording(runs, domains)


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file, gzipped or not.

    Raises WrongData with the line.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise WrongData(f"{path} line {number} is not JSON: {error}") from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error


def read_json(path: Path) -> Any:
    """One JSON document, gzipped or not.

    Raises WrongData.
    """
    return _json(path)


def _json(path: Path) -> Any:
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            return json.load(file)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise _unreadable(path, error) from error
    except ValueError as error:
        raise WrongData(f"{path} is not JSON: {error}") from error


def _need(found: Any, names: Sequence[str], where: Path | str) -> None:
    lacking = next((name for name in names if not isinstance(found, dict) or name not in found), None)
    if lacking is not None:
        raise WrongData(f"{where} has no {lacking}; the README beside the data tells the format")


def _unreadable(path: Path, error: Exception) -> WrongData:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return WrongData(f"{path} can't be read: {reason}")
