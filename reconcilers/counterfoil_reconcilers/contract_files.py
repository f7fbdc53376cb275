"""The shape of contracts as they are written: what a file may say, before anything in it is compiled.

pydantic refuses unknown keys and wrong types; this module turns its words into one sentence with file, line and advice.
"""

import copy
import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from counterfoil.errors import CounterfoilError
from counterfoil_reconcilers.toml_lines import Location, line_of_keys, nearest_line


class ContractError(CounterfoilError):
    """A contract is wrong. Its sentence says the file, the line, what is wrong and what to do."""

    def __init__(self, message: str, line: int | None = None, file: str | None = None) -> None:
        super().__init__(message)
        self.line = line
        self.file = file


Options = TypeVar("Options", bound="Written")

_DEPTH_OF_A_RESOURCE = 4  # targets, its name, resources, its name
_GIVES_NAMES = ("let", "each")  # without these, expressions beside them seem to be wrong


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


class WrittenChanges(Written):
    """How a resource tells what changed there; each kind that can be asked for it has keys of its own besides.

    `late_seconds`: how much later than its place among the changes one may become visible, in a transaction that
    stays open.
    """

    late_seconds: float | int = Field(default=60, ge=0, le=3_600)

    @property
    def sees_deletions(self) -> bool:
        """Whether rows that are gone are told, too."""
        return False

    @property
    def way(self) -> str:
        """What positions hang on: under another one they mean nothing."""
        return json.dumps(self.model_dump(mode="json", exclude={"late_seconds"}), sort_keys=True)


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
    looks_per_second: float | int | None = Field(default=None, gt=0)
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
        return ContractError(f"{name} line {line}: {sentence}", line, name)

    def place(self, location: Location) -> tuple[str, int]:
        """File name and line of a location, in the file that comes closest to holding it."""
        best = max(self.files, key=lambda file: _depth(file[1], location))
        return best[0], nearest_line(best[1], location)


def read(path: Path, mistakes: list[ContractError]) -> tuple[dict[str, Any], Source]:
    """The merged tables of a file, or of every *.toml in a folder, with their places; what is wrong is noted."""
    paths = sorted(path.glob("*.toml")) if path.is_dir() else [path]
    if not paths:
        mistakes.append(ContractError(f"{path}: the folder holds no *.toml; write a contracts.toml there"))
    files: list[tuple[str, dict[Location, int], dict[str, Any]]] = []
    for file in paths:
        try:
            text = file.read_text(encoding="utf-8")
            files.append((file.name, line_of_keys(text), tomllib.loads(text)))
        except OSError as error:
            sentence = f"{file}: cannot be read ({error.strerror}); name an existing contract file"
            mistakes.append(ContractError(sentence, file=file.name))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            line = _line_in(str(error))
            mistakes.append(ContractError(f"{file.name} line {line}: not valid TOML: {error}", line, file.name))
    source = Source(tuple(files))
    return _merged(source, mistakes), source


def validate(
    tables: Mapping[str, Any], source: Source, mistakes: list[ContractError]
) -> tuple[WrittenContracts, frozenset[Location]]:
    """The tables as models, without what they may not say, and the tools and targets of which something is left out.

    Each mistake is noted. A key that nobody knows is left out alone; of any other the tool or resource around it is.
    """
    spoilt: set[Location] = set()
    while True:
        try:
            return WrittenContracts.model_validate(tables), frozenset(spoilt)
        except pydantic.ValidationError as error:
            mistakes += _mistakes_in(error, source, ())
            wrong = [_left_out(found["type"], _real(found["loc"])) for found in error.errors()]
            spoilt |= {location[:2] for location in wrong}
            tables = _without(tables, wrong)


def validate_options(
    model: type[Options], written: WithOptions, source: Source, at: Location, mistakes: list[ContractError]
) -> Options:
    """The keys of a target's kind in the table at `at`; those that are wrong are noted, and then it has none."""
    try:
        return model.model_validate(written.options)
    except pydantic.ValidationError as error:
        own = [field.alias or name for name, field in model.model_fields.items()]
        mistakes += _mistakes_in(error, source, at, [*type(written).model_fields, *own])
        return cast("Options", model.model_construct())


def _mistakes_in(
    error: pydantic.ValidationError, source: Source, at: Location, known: Iterable[str] = ()
) -> Iterable[ContractError]:
    """Each mistake once, by line. A key that is written wrong is lacking, too: that comes last."""
    found = sorted(
        error.errors(),
        key=lambda one: (one["type"] == "missing", source.place((*at, *_real(one["loc"])))[1]),
    )
    said: dict[str, ContractError] = {}
    for one in found:
        inside = _real(one["loc"])
        location = (*at, *inside)
        names = _keys_at(location[:-1]) if not at else known if len(inside) == 1 else ()
        mistake = source.error(location, _sentence(one, location, names))
        said.setdefault(str(mistake), mistake)
    return said.values()


def _left_out(kind: str, location: Location) -> Location:
    """What of the tables a mistake makes useless."""
    name = str(location[-1])
    if kind == "extra_forbidden" and not difflib.get_close_matches(name, _GIVES_NAMES):
        return location
    if len(location) >= _DEPTH_OF_A_RESOURCE and location[0::2][:2] == ("targets", "resources"):
        return location[:_DEPTH_OF_A_RESOURCE]
    return location[: 2 if location[0] in ("targets", "tools") else 1]


def _without(tables: Mapping[str, Any], wrong: Iterable[Location]) -> dict[str, Any]:
    sound: dict[str, Any] = copy.deepcopy(dict(tables))
    for location in sorted(wrong, key=len, reverse=True):
        *around, name = location
        table: Any = sound
        for step in around:
            table = table[step]
        if location == ("version",):
            table["version"] = ""
        else:
            table.pop(name, None)
    return sound


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean x?`, or the names that there are."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]}?"
    return f"; there is {', '.join(names[:12])}" if names else "; there is none"


def _merged(source: Source, mistakes: list[ContractError]) -> dict[str, Any]:
    """Files of a folder side by side: tools and targets add up, and nothing is said twice."""
    merged: dict[str, Any] = {}

    def note(name: str, line: int, sentence: str) -> None:
        mistakes.append(ContractError(f"{name} line {line}: {sentence}", line, name))

    for name, lines, tables in source.files:
        for key, value in tables.items():
            if key in ("tools", "targets") and isinstance(value, dict) and isinstance(merged.get(key, {}), dict):
                for entry, body in value.items():
                    if entry in merged.setdefault(key, {}):
                        line = nearest_line(lines, (key, entry))
                        note(name, line, f"{key}.{entry} is declared twice; keep one of them")
                    merged[key].setdefault(entry, body)
            elif key in merged and merged[key] != value:
                note(name, nearest_line(lines, (key,)), f"another file says another {key}; say it in one file")
            else:
                merged[key] = value
    return merged


def _real(location: Location) -> Location:
    """pydantic's place without the names of the union's branches that it adds."""
    return tuple(step for step in location if step not in ("WrittenOurs", "literal['exclusive']"))


def _sentence(error: Any, location: Location, known: Iterable[str]) -> str:
    name = str(location[-1]) if location else "the file"
    where = ".".join(str(step) for step in location[:-1]) or "the top level"
    if error["type"] == "extra_forbidden" and name == "changes" and len(location) == _DEPTH_OF_A_RESOURCE + 1:
        return f"{where}: what changed there can't be asked of its kind; take changes out, and all rows are listed"
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
