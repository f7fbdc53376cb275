"""Paths, queries and bodies with `{names}` in them, filled so that no value ever leaves the place it was put in.

Values come from models. In a path each is one segment, percent-encoded (RFC 3986, sections 2.1 and 3.3); in a query it
is one parameter; inside a search language it is written as that language writes texts.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote, unquote

from counterfoil_reconcilers.values import Json, Unreadable, key_text, shown

_PLACE: Final = re.compile(r"\{([A-Za-z_][\w.-]*)(?::([a-z]+))?\}")
_NUMBER: Final = re.compile(r"-?\d+(\.\d+)?([eE][-+]?\d+)?")
FORMS: Final = ("json", "number", "odata", "phrase", "quoted")
# RFC 9110, section 4.1, asks for 8,000 octets of every recipient; nothing that has an address has a longer one.
_LONGEST_PATH_BYTES: Final = 8_000


def names_in(template: Any) -> frozenset[str]:
    """The names that a template, or what a body is made of, has places for."""
    if isinstance(template, Mapping):
        return frozenset[str]().union(*map(names_in, template.values()))
    if isinstance(template, list):
        return frozenset[str]().union(*map(names_in, template))
    return frozenset(found[1] for found in _PLACE.finditer(template)) if isinstance(template, str) else frozenset()


def check_path(path: str) -> str:
    """The path, if it is a template that can be filled safely. Raises ValueError."""
    bare = _PLACE.sub("x", path)
    if not path.startswith("/") or re.search(r"[?#{}\\\s]|//|/\.{1,2}(/|$)", bare):
        raise ValueError(f"{path!r} is no path; write it as /tickets/{{id}}, without a query and without dot segments")
    if any(found[2] for found in _PLACE.finditer(path)):
        raise ValueError(f"{path!r} has a form in a place; in a path every value is percent-encoded, so leave it out")
    return path


def check_value(template: Any) -> Any:
    """The template of a parameter or body, if no value can leave its place in it. Raises ValueError."""
    if isinstance(template, Mapping):
        return {name: check_value(part) for name, part in template.items()}
    if isinstance(template, list):
        return [check_value(part) for part in template]
    if not isinstance(template, str):
        return template
    for found in _PLACE.finditer(template):
        if found[2] and found[2] not in FORMS:
            raise ValueError(f"{template!r}: there is no form {found[2]}; write one of {', '.join(FORMS)}")
        if not found[2] and found[0] != template:
            what = f"{found[0]} stands inside a text of a search language"
            raise ValueError(f"{template!r}: {what}; say how that writes texts, as {{{found[1]}:quoted}}")
    return template


def fill_path(template: str, values: Mapping[str, str]) -> str | None:
    """The path with its values, each one segment; None where one is lacking, or makes no segment and names no row."""
    if not all(name in values and _is_segment(values[name]) for name in names_in(template)):
        return None
    path = _PLACE.sub(lambda found: quote(values[found[1]], safe=""), template)
    return path if len(path) <= _LONGEST_PATH_BYTES else None


def _is_segment(value: str) -> bool:
    """Whether a value can stand in a path without being another place in it, for a server that decodes twice, too."""
    if not can_be_sent(value):
        return False
    pieces = {piece for text in (value, unquote(value)) for piece in re.split(r"[/\\]", text)}
    return pieces.isdisjoint(("", ".", ".."))


def can_be_sent(value: str) -> bool:
    """Whether it is text that any row could hold: JSON that can be compared has no NUL and no half of a surrogate."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in value


def fill_query(templates: Mapping[str, str], values: Mapping[str, Json]) -> list[tuple[str, str]]:
    """The parameters that can be filled: one whose value is not known, or can't be written so, is left out."""
    filled = ((name, fill_text(template, values)) for name, template in templates.items())
    return [(name, text) for name, text in filled if text is not None]


def fill_text(template: str, values: Mapping[str, Json]) -> str | None:
    """One parameter; None if it can't be filled."""
    written = {found[0]: _written(values.get(found[1]), found[2]) for found in _PLACE.finditer(template)}
    if None in written.values():
        return None
    return _PLACE.sub(lambda found: str(written[found[0]]), template)


def fill_body(template: Any, values: Mapping[str, Json]) -> Any:
    """A body to search with: a text that is a place as a whole becomes the value itself; None if it can't be filled."""
    if isinstance(template, Mapping):
        filled = {name: fill_body(part, values) for name, part in template.items()}
        return {name: part for name, part in filled.items() if part is not None} if filled else {}
    if isinstance(template, list):
        return [part for part in (fill_body(part, values) for part in template) if part is not None]
    if not isinstance(template, str):
        return template
    whole = _PLACE.fullmatch(template)
    return shown(values.get(whole[1])) if whole and not whole[2] else fill_text(template, values)


def can_fill(templates: Sequence[Any], fields: Mapping[str, Json], others: Mapping[str, Json]) -> bool:
    """Whether what is asked would say something of the fields: a place for one of them that can be filled."""
    texts = [text for template in templates for text in _texts(template) if names_in(text) & fields.keys()]
    return any(fill_body(text, {**fields, **others}) is not None for text in texts)


def _texts(template: Any) -> list[str]:
    if isinstance(template, Mapping):
        return [text for part in template.values() for text in _texts(part)]
    if isinstance(template, list):
        return [text for part in template for text in _texts(part)]
    return [template] if isinstance(template, str) else []


def _written(value: Json, form: str | None) -> str | None:
    """A value as a search language writes it; None if it has no such way to write it."""
    try:
        text = key_text(value)
    except Unreadable:
        return None
    match form:
        case "quoted":
            return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
        case "odata":
            return "'" + text.replace("'", "''") + "'"
        case "phrase":  # has no way to write a quotation mark; a search by words doesn't read it anyway
            return '"' + re.sub(r'["\\]', " ", text) + '"'
        case "json":
            return json.dumps(shown(value), ensure_ascii=False)
        case "number":
            return text if _NUMBER.fullmatch(text) else None
    return text
