"""What names tell: the verb and the noun of a tool, and which argument names a row."""

import re
from collections.abc import Collection, Iterable
from difflib import SequenceMatcher

CREATES = frozenset({"create", "add", "new", "insert", "open", "post", "place", "book", "register", "submit", "issue"})
DELETES = frozenset({"delete", "remove", "drop", "purge", "erase", "destroy"})
CHANGES = frozenset({"update", "change", "set", "modify", "edit", "patch", "put", "rename", "move", "assign", "write"})
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_NAMES_A_ROW = ("id", "key", "uuid", "number", "code", "ref", "name", "slug")


def words(name: str) -> list[str]:
    """`modifyPendingOrder`, `modify_pending-order`: the words in small letters."""
    return [word.lower() for word in _WORD.findall(name)]


def noun_of(tool: str) -> str:
    """What a tool is about: its words without the verb; `row` where there is nothing else."""
    rest = [word for word in words(tool) if word not in CREATES | DELETES | CHANGES]
    return "_".join(rest) or "row"


def singular(noun: str) -> str:
    """Roughly, for comparing names."""
    if noun.endswith("ies"):
        return noun[:-3] + "y"
    return noun[:-1] if noun.endswith("s") and not noun.endswith("ss") else noun


def likeness(argument: str, resource: str, column: str) -> float:
    """From 0 to 1: how much an argument's name is that of a resource's key."""
    name = "_".join(words(argument))
    one = singular("_".join(words(resource)))
    forms = (column, one, f"{one}_{column}", *(f"{one}_{word}" for word in _NAMES_A_ROW))
    return max(SequenceMatcher(None, name, form).ratio() for form in forms)


def row_argument(noun: str, arguments: Iterable[str], required: Collection[str]) -> str | None:
    """The argument that most likely names the row of a tool about `noun`; None where none seems to."""
    best: tuple[float, str] | None = None
    for argument in arguments:
        parts = words(argument)
        if not parts or (parts[-1] not in _NAMES_A_ROW and "_".join(parts) != singular(noun)):
            continue
        mark = likeness(argument, noun, "id") + (argument in required)
        if best is None or mark > best[0]:
            best = (mark, argument)
    return best[1] if best else None


def read(variable: str, *names: str) -> str:
    """The expression that reads a path, such as `args.order.id` or `args['order id']`."""
    text = variable
    for name in names:
        text += f".{name}" if re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) else f"[{quoted(name)}]"
    return text


def quoted(text: str) -> str:
    """A text as expressions write it, on one line."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    visible = "".join(one if one.isprintable() else rf"\U{ord(one):08x}" for one in escaped)
    return f"'{visible}'"


def is_field(name: str) -> bool:
    """Whether a contract can name a field so: dots and brackets are steps of a path there."""
    return bool(name) and not set(name) & set(".[]") and name.isprintable()
