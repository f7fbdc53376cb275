"""From what an API shows of a row to the row: whose it is, which it is, whether it is gone."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import re2
from jsonpath import JSONPathError

from counterfoil_reconcilers.contracts import Resource
from counterfoil_reconcilers.rows import Row
from counterfoil_reconcilers.targets.http_options import Gone, HttpOptions, HttpResource, Listing, Pages, jsonpaths
from counterfoil_reconcilers.targets.http_templates import can_be_sent, names_in
from counterfoil_reconcilers.values import MISSING, Unreadable, key_text, plain

Order = str | float | int  # numbers, or texts that compare as their times do
_WHOLE: Final = re.compile(r"\s*[+-]?\d{1,19}\s*")
# The language of key_form; Perl's own shorthands would let `$` stand before a last line break.
_WHOLE_TEXT: Final = r"\A(?:{})\z"


class Astray(Exception):  # never leaves the adapter
    """An answer shows what it can't show, such as a row without its key; the message says what, without values."""


def says_so(held: Any) -> bool:
    """Whether what stands at a place says yes; no is null, `false`, 0, an empty text or list, or nothing at all."""
    return held is not MISSING and bool(held)


def places(path: str, document: Any) -> list[Any]:
    """What a JSONPath leads to. Raises Astray for what is nested too deeply to be looked through."""
    try:
        return list(jsonpaths().findall(path, document))
    except (JSONPathError, RecursionError):
        raise Astray(f"can't be looked through for {path}") from None


@dataclass(frozen=True)
class Shape:
    """How one resource's rows are shown, its own words before those of its target."""

    resource: Resource
    target: HttpOptions
    options: HttpResource

    @cached_property
    def found(self) -> str:
        """Where the row is in the answer to its key."""
        return self.options.found or self.target.found

    @cached_property
    def items(self) -> str:
        """Where the rows are in a list."""
        return self.options.items or self.target.items or "$[*]"

    @cached_property
    def pages(self) -> Pages:
        """How its lists go on."""
        return self.options.pages or self.target.pages

    def pages_of(self, listing: Listing) -> Pages:
        """How one of its lists goes on."""
        return listing.pages or self.pages

    def needs_values(self, template: str) -> bool:
        """Whether a path has places."""
        return bool(names_in(template))

    @cached_property
    def absent(self) -> frozenset[int]:
        """The statuses that say that a row is not there."""
        return frozenset(self.target.absent if self.options.absent is None else self.options.absent)

    def may_name(self, key: tuple[str, ...]) -> bool:
        """Whether a key has the form that this resource's keys have."""
        forms = (self.options.key_form.get(name) for name in self.resource.key)
        return all(
            can_be_sent(part) and (form is None or re2.search(_WHOLE_TEXT.format(form), part) is not None)
            for part, form in zip(key, forms, strict=True)
        )

    def one(self, document: Any) -> Mapping[str, Any]:
        """The row in the answer to its key. Raises Astray."""
        found = places(self.found, document)
        if len(found) != 1 or not isinstance(found[0], dict):
            raise Astray(f"shows no row at {self.found}")
        return found[0]

    def many(self, document: Any, items: str | None) -> Iterator[Mapping[str, Any]]:
        """The rows in a list. Raises Astray where there is no list, which is not the same as an empty one."""
        path = items or self.items
        parent = path.removesuffix("[*]")
        if parent != path and not any(isinstance(found, list) for found in places(parent, document)):
            raise Astray(f"shows no list at {path}")
        for found in places(path, document):
            if not isinstance(found, dict):
                raise Astray(f"shows something other than rows at {path}")
            yield found

    def key_of(self, item: Mapping[str, Any]) -> tuple[str, ...] | None:
        """The key of a row in a list; None for a key that nothing can name. Raises Astray."""
        parts = [self._part(item, name) for name in self.resource.key]
        return tuple(parts) if all(map(can_be_sent, parts)) else None

    def is_named(self, item: Mapping[str, Any], key: tuple[str, ...]) -> bool:
        """Whether this is the row that was asked for, as far as rows show their keys. Raises Astray."""
        return all(
            self._is_same(name, asked, self._place(item, name))
            for name, asked in zip(self.resource.key, key, strict=True)
            if name not in self.options.unheld
        )

    def belongs_to(self, item: Mapping[str, Any], tenant: str | None) -> bool:
        """Whether it is a row of the tenant; of any, if that is None. Raises Astray."""
        name = self.resource.tenant
        if name is None or name in self.options.unheld or tenant is None:
            return True
        return self.tenant_of(item) == tenant

    def tenant_of(self, item: Mapping[str, Any]) -> str | None:
        """Who stands in the row as its tenant; None for nobody. Raises Astray."""
        name = self.resource.tenant
        held = None if name is None or name in self.options.unheld else self._place(item, name)
        return None if held is None else self._text(str(name), held)

    def is_gone(self, item: Mapping[str, Any]) -> bool:
        """Whether it says of itself that it was deleted."""
        said = self.options.gone or self.target.gone
        if isinstance(said, Gone):
            held = _at(item, said.at)
            return type(held) is type(said.holds) and held == said.holds
        return said is not None and says_so(_at(item, said))

    def is_incomplete(self, document: Any) -> bool:
        """Whether an answer with rows says that it does not show all that there are. Raises Astray."""
        place = self.options.incomplete or self.target.incomplete
        return place is not None and any(map(says_so, places(place, document)))

    def row(self, item: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> Row:
        """The row itself; what can't be compared is its problem. Raises Astray."""
        path = self.options.doc or self.target.doc
        found = places(path, item) if path else [item]
        if len(found) != 1:
            raise Astray(f"shows a row without {path}")
        try:
            return Row(plain(found[0]), self._version(item, headers or {}))
        except Unreadable as error:
            return Row(None, self._version(item, headers or {}), problem=str(error))

    def order_of(self, item: Mapping[str, Any], place: str) -> Order | None:
        """Where a row stands among the changes; None where it shows no time and no number there."""
        held = _at(item, place)
        return held if isinstance(held, str | float | int) and not isinstance(held, bool) else None

    def lacking(self, item: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """The key of the contract and the name, for what a row in a list should show and does not."""
        named = [("key", name) for name in self.resource.key]
        named += [("tenant", self.resource.tenant)] if self.resource.tenant else []
        for what, name in named:
            if name not in self.options.unheld and self._held(item, name) is MISSING:
                yield what, name

    def _version(self, item: Mapping[str, Any], headers: Mapping[str, str]) -> str | None:
        header = self.options.version_header or self.target.version_header
        place = self.options.version_field or self.target.version_field
        held = _at(item, place) if place else headers.get(header.lower()) if header else None
        try:
            return None if held is None or held is MISSING else key_text(plain(held))
        except Unreadable:
            return None

    def _part(self, item: Mapping[str, Any], name: str) -> str:
        return self._text(name, self._place(item, name))

    def _text(self, name: str, held: Any) -> str:
        try:
            return held if isinstance(held, str) else key_text(plain(held))
        except Unreadable:
            raise Astray(f"shows a row whose {name} is no text and no number") from None

    def _place(self, item: Mapping[str, Any], name: str) -> Any:
        held = self._held(item, name)
        if held is MISSING:
            raise Astray(f"shows a row without {name}")
        return held

    def _held(self, item: Mapping[str, Any], name: str) -> Any:
        return _at(item, self.options.held.get(name, name))

    def _is_same(self, name: str, asked: str, held: Any) -> bool:
        text = self._text(name, held)
        if asked == text:
            return True
        if isinstance(held, int) and not isinstance(held, bool):  # " 017" is 17 to whoever reads it as a number
            return _WHOLE.fullmatch(asked) is not None and int(asked) == held
        return self.resource.rule((name,)).ignore_case and asked.casefold() == text.casefold()


def _at(item: Mapping[str, Any], place: str) -> Any:
    """What stands under a field's name, or at a JSONPath that leads to one place."""
    if not place.startswith("$"):
        return item.get(place, MISSING)
    found = places(place, item)
    return found[0] if len(found) == 1 else MISSING
