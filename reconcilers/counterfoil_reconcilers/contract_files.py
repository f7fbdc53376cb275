"""The shape of contracts as they are written: what a file may say, before anything in it is compiled.

pydantic refuses unknown keys and wrong types; this module turns its words into one sentence with file, line and advice.
"""

import difflib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from counterfoil.errors import CounterfoilError
from counterfoil_reconcilers.toml_lines import Location, line_of_keys, nearest_line


class ContractError(CounterfoilError):
    """A contract is wrong. Its sentence says the file, the line, what is wrong and what to do."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


Options = TypeVar("Options", bound="Written")


class Written(BaseModel):
    """A table of a contract file: it knows its keys and refuses any other."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class WrittenFieldRule(Written):
    tolerance: float | int | None = Field(default=None, ge=0)
    unordered: bool = False
    ignore_case: bool = False
    time: bool = False
    ignore: bool = False
    redact: bool = False


class WrittenOurs(Written):
    ours: str


class WrittenOutcomes(Written):
    unknown: list[str] = []
    failed: list[str] = []


class WithOptions(Written):
    """A table that has keys of the target's kind besides its own."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    @property
    def options(self) -> dict[str, Any]:
        """What its kind is to check."""
        return self.model_extra or {}


class WrittenResource(WithOptions):
    key: list[str] = Field(min_length=1)
    tenant: str | None = None
    tolerance: float | int | None = Field(default=None, ge=0)
    fields: dict[str, WrittenFieldRule] = {}


class WrittenTarget(WithOptions):
    kind: str
    writers: Literal["exclusive"] | WrittenOurs | None = None
    settle_seconds: float | int = Field(default=0, ge=0)
    idempotent_for_seconds: float | int | None = Field(default=None, ge=0)
    read_lag_seconds: float | int | None = Field(default=None, ge=0)
    tolerance: float | int | None = Field(default=None, ge=0)
    resources: dict[str, WrittenResource] = {}
    outcomes: WrittenOutcomes | None = None


class WrittenWrite(Written):
    resource: str
    key: dict[str, str] | None = None
    find: dict[str, str] | None = None
    let: dict[str, str] = {}
    when: str | None = None
    each: str | None = None
    create: bool = False
    delete: bool = False
    set: dict[str, Any] = {}
    append: dict[str, Any] = {}
    remove: list[str] = []
    reply: str | None = None


class WrittenUndo(Written):
    tool: str
    args: dict[str, str] = {}


class WrittenTool(Written):
    target: str
    identity: list[str] | None = None
    let: dict[str, str] = {}
    settle_seconds: float | int | None = Field(default=None, ge=0)
    accepted_within_seconds: float | int | None = Field(default=None, ge=0)
    irreversible: bool = False
    undo: WrittenUndo | None = None
    writes: list[WrittenWrite] = []


class WrittenContracts(Written):
    version: str
    outcomes: WrittenOutcomes | None = None
    targets: dict[str, WrittenTarget] = {}
    tools: dict[str, WrittenTool] = {}


@dataclass(frozen=True)
class Source:
    """The files as read: enough to name the line of anything in them."""

    files: tuple[tuple[str, dict[Location, int], dict[str, Any]], ...]

    def error(self, location: Location, sentence: str) -> ContractError:
        """The error of `sentence`, with the file and line where `location` stands."""
        name, line = self.place(location)
        return ContractError(f"{name} line {line}: {sentence}", line)

    def place(self, location: Location) -> tuple[str, int]:
        """File name and line of a location, in the file that comes closest to holding it."""
        best = max(self.files, key=lambda file: _depth(file[1], location))
        return best[0], nearest_line(best[1], location)


def read(path: Path) -> tuple[dict[str, Any], Source]:
    """The merged tables of a file, or of every *.toml in a folder, with their places."""
    paths = sorted(path.glob("*.toml")) if path.is_dir() else [path]
    if not paths:
        raise ContractError(f"{path}: the folder holds no *.toml; write a contracts.toml there")
    files: list[tuple[str, dict[Location, int], dict[str, Any]]] = []
    for file in paths:
        try:
            text = file.read_text(encoding="utf-8")
            files.append((file.name, line_of_keys(text), tomllib.loads(text)))
        except OSError as error:
            raise ContractError(f"{file}: cannot be read ({error.strerror}); name an existing contract file") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            line = _line_in(str(error))
            raise ContractError(f"{file.name} line {line}: not valid TOML: {error}", line) from error
    source = Source(tuple(files))
    return _merged(source), source


def validate(tables: Mapping[str, Any], source: Source) -> WrittenContracts:
    """The tables as models, or a ContractError for the first thing that they may not say."""
    return _validated(WrittenContracts, tables, source, ())


def validate_options(model: type[Options], written: WithOptions, source: Source, at: Location) -> Options:
    """The keys of a target's kind in the table at `at`, or a ContractError for the first that is wrong."""
    return _validated(model, written.options, source, at, type(written).model_fields)


def _validated(
    model: type[Options], values: Mapping[str, Any], source: Source, at: Location, besides: Iterable[str] = ()
) -> Options:
    try:
        return model.model_validate(values)
    except pydantic.ValidationError as error:
        # A key that is written wrong is lacking, too.
        first = min(
            error.errors(),
            key=lambda found: (found["type"] == "missing", source.place((*at, *_real(found["loc"])))[1]),
        )
        inside = _real(first["loc"])
        location = (*at, *inside)
        known = _keys_at(location[:-1]) if not at else [*besides, *model.model_fields] if len(inside) == 1 else ()
        raise source.error(location, _sentence(first, location, known)) from error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean x?`, or the names that there are."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; there is {', '.join(names[:12])}" if names else "; there is none"


def _merged(source: Source) -> dict[str, Any]:
    """Files of a folder side by side: tools and targets add up, and nothing is said twice."""
    merged: dict[str, Any] = {}
    for name, lines, tables in source.files:
        for key, value in tables.items():
            if key in ("tools", "targets") and isinstance(value, dict):
                for entry, body in value.items():
                    if entry in merged.setdefault(key, {}):
                        line = nearest_line(lines, (key, entry))
                        raise ContractError(
                            f"{name} line {line}: {key}.{entry} is declared twice; keep one of them", line
                        )
                    merged[key][entry] = body
            elif key in merged and merged[key] != value:
                line = nearest_line(lines, (key,))
                raise ContractError(f"{name} line {line}: another file says another {key}; say it in one file", line)
            else:
                merged[key] = value
    return merged


def _real(location: Location) -> Location:
    """pydantic's place without the names of the union's branches that it adds."""
    return tuple(step for step in location if step not in ("WrittenOurs", "literal['exclusive']"))


def _sentence(error: Any, location: Location, known: Iterable[str]) -> str:
    name = str(location[-1]) if location else "the file"
    where = ".".join(str(step) for step in location[:-1]) or "the top level"
    if error["type"] == "extra_forbidden":
        return f"{where} has no key {name}{did_you_mean(name, known)}"
    if error["type"] == "missing":
        return f"{where} lacks the key {name}; add it"
    if location and location[-1] == "writers":
        return f'writers of {where} is "exclusive" or {{ ours = "SQL predicate on the row" }}'
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    return f"{where}: {name} is wrong: {error['msg'].lower()}; write {name} as the contract reference shows it"


def _keys_at(location: Location) -> Iterable[str]:
    names = [step for step in location if isinstance(step, str)]
    shapes: dict[tuple[int, str], type[Written]] = {
        (0, ""): WrittenContracts,
        (2, "targets"): WrittenTarget,
        (2, "tools"): WrittenTool,
        (3, "tools"): WrittenWrite,
        (4, "targets"): WrittenResource,
        (6, "targets"): WrittenFieldRule,
        (3, "targets"): WrittenOutcomes,
        (1, "outcomes"): WrittenOutcomes,
    }
    shape = shapes.get((len(names), names[0] if names else ""))
    if shape is WrittenWrite and names[2] == "undo":
        shape = WrittenUndo
    return list(shape.model_fields) if shape else []


def _depth(lines: dict[Location, int], location: Location) -> int:
    return max((length for length in range(len(location) + 1) if location[:length] in lines), default=0)


def _line_in(message: str) -> int:
    _, _, rest = message.partition("(at line ")
    digits = rest.split(",")[0]
    return int(digits) if digits.isdigit() else 1
