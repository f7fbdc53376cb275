"""The expression language of contracts: CEL, compiled once, and never trusted to succeed.

This is the only module that knows the library (Google's C++ CEL through `cel_expr_python`: it checks names
when it compiles, and has a budget of iterations when it runs). Numbers are doubles throughout, so that
`before.balance + args.amount` and `old * 2` work on any JSON; integers beyond 2^53 stay exact and can be
compared, not calculated with. A wrong expression is refused when it is compiled; whatever goes wrong later,
on data that somebody else wrote, is `Unevaluable` with a reason, and leaves a field open.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise, takewhile
from typing import Any

from cel_expr_python import cel
from cel_expr_python.ext.ext_bindings import ExtBindings
from cel_expr_python.ext.ext_strings import ExtStrings

from counterfoil_reconcilers.expression_functions import FUNCTIONS, AnyOf
from counterfoil_reconcilers.values import Json

Lookup = Callable[[str, Mapping[str, Json]], Json]

_LONGEST_TEXT = 4_000
_LONGEST_LIST = 2_000  # a macro over more copies quadratically: 9,000 elements took 3.3 s
_TOKEN = re.compile(
    r"""(?P<text>[rR]?(?:'''(?:\\.|.)*?'''|\"\"\"(?:\\.|.)*?\"\"\"|'(?:\\.|[^'\\\n])*'|"(?:\\.|[^"\\\n])*"))
      | (?P<number>(?:0[xX][0-9a-fA-F]+|\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)[uU]?)
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<space>\s+)
      | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_MACROS = frozenset({"map", "filter", "all", "exists", "exists_one", "existsOne"})
_WORDS = frozenset({"true", "false", "null", "in"})
_LOOKUPS = frozenset({"lookup", "exists_row"})
_lookup: ContextVar[Lookup | None] = ContextVar("lookup", default=None)


class ExpressionError(Exception):
    """The expression itself is wrong; the message says what, and carries its text."""


class Unevaluable(Exception):
    """The expression has no value for these data. `reason` is for people; the expression stands in `text`."""

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(f"`{text}`: {reason}")
        self.text = text
        self.reason = reason


@dataclass(frozen=True)
class Expression:
    """One compiled expression.

    `names` are the variables that it mentions, `reads` the paths that it begins to read at, `looked_up` the resources
    that it names; `asks_rows` if it may look up a row at all; `asks_absence` if it may ask whether a field is there,
    which a row known in part cannot answer.
    """

    text: str  # on one line, for messages
    names: frozenset[str]
    reads: tuple[tuple[str, ...], ...]
    looked_up: frozenset[str]
    asks_rows: bool
    asks_absence: bool
    _program: Any
    _path: tuple[str, ...] | None
    _loops: bool
    _constant: list[Json] = field(default_factory=list, compare=False, repr=False)

    def evaluate(self, variables: Mapping[str, Json], lookup: Lookup | None = None) -> Json:
        """The value as plain JSON (numbers are floats); `Unevaluable` on anything else."""
        for name in self.names:
            if name not in variables:
                raise Unevaluable(self.text, f"{name} is not known here")
        if self._path is not None:
            return self._walk(variables)
        if self.names or self.looked_up:
            return self._run(variables, lookup)
        if not self._constant:
            self._constant.append(self._run(variables, lookup))
        return self._constant[0]

    def _run(self, variables: Mapping[str, Json], lookup: Lookup | None) -> Json:
        used = {name: variables[name] for name in self.names}
        if self._loops:
            self._refuse_long(used)
        token = _lookup.set(lookup)
        try:
            value = self._program.eval(data=used)
            if value.type() == cel.Type.ERROR:
                raise Unevaluable(self.text, _reason(str(value.plain_value())))
            return _json(value.plain_value(), self.text)
        except (RuntimeError, ValueError, TypeError) as error:
            raise Unevaluable(self.text, _reason(str(error))) from error
        finally:
            _lookup.reset(token)

    @property
    def is_path(self) -> bool:
        """Whether it only passes a value on."""
        return self._path is not None

    def _walk(self, variables: Mapping[str, Json]) -> Json:
        """`args.order.id` without the machine: most fields are that, and it is ten times as fast."""
        value: Json = None
        for depth, name in enumerate(self._path or ()):
            here: Any = variables if depth == 0 else value
            if not isinstance(here, (dict, Mapping)) or name not in here:  # a dict is told at once
                raise Unevaluable(self.text, f"there is no {'.'.join((self._path or ())[: depth + 1])}")
            value = here[name]
        return value

    def _refuse_long(self, used: Mapping[str, Json]) -> None:
        for name, value in used.items():
            inside = value.values() if isinstance(value, dict) else ()
            if any(isinstance(v, list) and len(v) > _LONGEST_LIST for v in (value, *inside)):
                raise Unevaluable(self.text, f"{name} holds a list of more than {_LONGEST_LIST} elements")


def constant(value: Json) -> Expression:
    """A value that code gave, as an expression that has it."""
    return Expression(
        text="a value of the code", names=frozenset(), reads=(), looked_up=frozenset(), asks_rows=False,
        asks_absence=False, _program=None, _path=None, _loops=False, _constant=[value],
    )  # fmt: skip


def compile_expression(text: str, variables: Iterable[str]) -> Expression:
    """Compile `text`, which may use `variables`; `ExpressionError` says what is wrong with it."""
    if len(text) > _LONGEST_TEXT:
        raise ExpressionError(f"an expression has at most {_LONGEST_TEXT} characters, this one has {len(text)}")
    shown = " ".join(text.split())
    source, tokens = _normalise(text)
    known = frozenset(variables)
    try:
        program = _environment(known).compile(source)
    except (RuntimeError, ValueError, TypeError) as error:
        raise ExpressionError(f"`{shown}`: {_reason(str(error))}") from error
    names = frozenset(
        name
        for index, (kind, name) in enumerate(tokens)
        if kind == "name" and name in known and (index == 0 or tokens[index - 1][1] != ".")
    )
    return Expression(
        text=shown,
        names=names,
        reads=tuple(_reads(tokens, known)),
        looked_up=frozenset(_looked_up(tokens)),
        asks_rows=any(kind == "name" and name in _LOOKUPS for kind, name in tokens),
        asks_absence=_asks_absence(tokens),
        _program=program,
        _path=_plain_path(text, known),
        _loops=any(kind == "name" and name in _MACROS for kind, name in tokens),
    )


def _normalise(text: str) -> tuple[str, list[tuple[str, str]]]:
    """Rewrite whole numbers as doubles and `size(` as `count(`, so that no int meets a double.

    A number that is a position, as in `lines[0]`, stays: the checker knows positions as ints only.
    """
    parts = [(str(match.lastgroup), match.group()) for match in _TOKEN.finditer(text)]
    tokens = [(kind, part) for kind, part in parts if kind != "space"]
    out: list[str] = []
    position = 0
    for kind, part in parts:
        if kind == "space":
            out.append(part)
            continue
        before = tokens[position - 1][1] if position else ""
        if kind == "number" and part.isdigit() and not _is_position(tokens, position):
            out.append(f"{part}.0")
        else:
            out.append("count" if part == "size" and before != "." else part)
        position += 1
    return "".join(out), tokens


def _is_position(tokens: list[tuple[str, str]], position: int) -> bool:
    """Whether the number stands alone in brackets that follow something which can be indexed."""
    if not 1 < position < len(tokens) - 1:
        return False
    kind, part = tokens[position - 2]
    indexed = kind in ("name", "text") or part in (")", "]", "}")
    return indexed and part not in _WORDS and tokens[position - 1][1] == "[" and tokens[position + 1][1] == "]"


def _looked_up(tokens: list[tuple[str, str]]) -> Iterable[str]:
    for index, (kind, name) in enumerate(tokens[:-2]):
        if kind == "name" and name in _LOOKUPS and tokens[index + 2][0] == "text":
            yield tokens[index + 2][1].strip("'\"")


def _reads(tokens: list[tuple[str, str]], known: frozenset[str]) -> Iterable[tuple[str, ...]]:
    """`args.order.id` of `size(args.order.id) > 2`: each variable, with the names that follow it."""
    for index, (kind, name) in enumerate(tokens):
        if kind != "name" or name not in known or (index and tokens[index - 1][1] == "."):
            continue
        rest = tokens[index + 1 :]
        steps = takewhile(
            lambda pair: pair[0][1] == "." and pair[1][0] == "name", zip(rest[::2], rest[1::2], strict=False)
        )
        yield (name, *(step[1] for _, step in steps))


def _asks_absence(tokens: list[tuple[str, str]]) -> bool:
    texts = [text for _, text in tokens] + [""]
    whole = any(text == "before" and after not in (".", "[") for text, after in pairwise(texts))
    return whole or "has" in texts


def _plain_path(text: str, known: frozenset[str]) -> tuple[str, ...] | None:
    if not re.fullmatch(r"\s*[A-Za-z_]\w*(\.[A-Za-z_]\w*)*\s*", text):
        return None
    path = tuple(text.strip().split("."))
    return path if path[0] in known and not _WORDS & set(path) else None


def _lookup_row(resource: str, key: dict[str, Json]) -> Json:
    reader = _lookup.get()
    if reader is None:
        raise ValueError("rows cannot be looked up here")
    return reader(resource, key)


def _row_exists(resource: str, key: dict[str, Json]) -> bool:
    reader = _lookup.get()
    if reader is None:
        raise ValueError("rows cannot be looked up here")
    try:
        reader(resource, key)
    except NoSuchRow:
        return False
    return True


class NoSuchRow(LookupError):
    """A row that was looked up is known not to exist."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else "there is no such row"


@cache
def _environment(variables: frozenset[str]) -> Any:
    functions = [_declare(name, overloads, implementation) for name, (overloads, implementation) in FUNCTIONS.items()]
    functions.append(_declare("lookup", [("text", "map")], _lookup_row))
    functions.append(_declare("exists_row", [("text", "map")], _row_exists))
    return cel.NewEnv(
        variables=dict.fromkeys(variables, cel.Type.DYN),
        functions=functions,
        extensions=[ExtBindings(), ExtStrings()],
    )


def _declare(name: str, overloads: Iterable[tuple[AnyOf, ...]], implementation: Callable[..., Any]) -> Any:
    types = {
        "list": cel.Type.LIST,
        "map": cel.Type.MAP,
        "text": cel.Type.STRING,
        "number": cel.Type.DOUBLE,
        "whole": cel.Type.INT,
        "null": cel.Type.NULL,
        "bool": cel.Type.BOOL,
    }
    return cel.FunctionDecl(
        name,
        [
            cel.Overload(
                id=f"{name}_{'_'.join(parameters)}",
                return_type=cel.Type.DYN,
                parameters=[types[kind] for kind in parameters],
                is_member=False,
                impl=implementation,
            )
            for parameters in overloads
        ],
    )


def _json(value: Any, text: str) -> Json:
    """What the machine gave back, as JSON; times, durations, bytes and types are not JSON."""
    if value is None or isinstance(value, bool | float | str):
        return value
    if isinstance(value, int):
        return float(value) if abs(value) <= 2**53 else value
    if isinstance(value, list):
        return [_json(item, text) for item in value]
    if isinstance(value, dict):
        return {str(name): _json(item, text) for name, item in value.items()}
    raise Unevaluable(text, f"its value is a {type(value).__name__}, which JSON cannot hold: use string(...)")


def _reason(message: str) -> str:
    """The library's message as one line, without its codes and its drawing of the place."""
    line = message.strip().splitlines()[0] if message.strip() else "no reason was given"
    line = re.sub(r"^(?:[A-Z_]+: )+", "", line)
    line = re.sub(r"^<input>:\d+:\d+: |,? expecting \{.*\}$", "", line)
    return re.sub(r" \(in container ''\)| \[[A-Z_]+\]$", "", line).strip('"')
