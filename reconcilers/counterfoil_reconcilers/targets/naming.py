"""Names of objects and keys at a target that knows no columns: a template, filled in and read back.

Whoever names a row has it from a model. So a key names an object only if that object's name, read back through the
template, gives the same key: no value can lead into the name of another row, and what is listed is read the same way.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from string import Formatter
from typing import Any

import re2

from counterfoil_reconcilers.contract_files import did_you_mean
from counterfoil_reconcilers.contracts import Resource
from counterfoil_reconcilers.rows import Row, RowKey
from counterfoil_reconcilers.targets.port import Address
from counterfoil_reconcilers.values import Unreadable, key_text

_EXAMPLE = 'write it as "orders/{id}.json"'
_FIELD = re.compile(r"[\w.-]+")
_MOST_FIELDS = 8


@dataclass(frozen=True)
class _Part:
    """A piece of a template: text as it stands, or a field. `whole`: its value may hold the separator."""

    text: str
    is_field: bool = False
    whole: bool = False


class NameTemplate:
    """`orders/{id}.json`, filled in and read back. Braces that are meant are doubled: `{{` and `}}`.

    A value that is empty or holds the separator names nothing; `{+id}` takes one that holds it (RFC 6570, section
    3.2.3, writes it so). NUL and half of a surrogate pair stand in no name.
    """

    def __init__(self, text: str, separator: str, field: str | None = None) -> None:
        """`field`: the name is the value of this one, whatever that is called, and the text only shows it.

        Raises ValueError, whose sentence says what is wrong with the text.
        """
        self.text = text
        self._separator = separator
        self._parts = tuple(_parts_of(text)) if field is None else (_Part(field, is_field=True, whole=True),)
        self._pattern = self._compiled()

    @property
    def fields(self) -> frozenset[str]:
        """What it is filled in with."""
        return frozenset(part.text for part in self._parts if part.is_field)

    def name_of(self, values: Mapping[str, str]) -> str | None:
        """The name for these values; None where it would not lead back to them."""
        name = "".join(values[part.text] if part.is_field else part.text for part in self._parts)
        return name if self._read(name) == {field: values[field] for field in self.fields} else None

    def values_of(self, name: str) -> Mapping[str, str] | None:
        """The values that a name was made of; None for a name that is none of this template's."""
        values = self._read(name)
        return values if values is not None and self.name_of(values) == name else None

    def pieces(self, known: Mapping[str, str]) -> Iterator[str | None]:
        """Its text, with the fields that are known filled in, and None for each that is not."""
        for part in self._parts:
            yield known.get(part.text) if part.is_field else part.text

    def _read(self, name: str) -> dict[str, str] | None:
        try:
            found = self._pattern.fullmatch(name)
        except UnicodeEncodeError:
            return None
        if found is None or "\0" in name:
            return None
        names = [part.text for part in self._parts if part.is_field]
        return dict(zip(names, found.groups(), strict=True))

    def _compiled(self) -> Any:
        """RE2's, which takes no longer for a name that was made to take long."""
        within = f"([^{re2.escape(self._separator)}]+?)"
        pieces = [
            ("(.+?)" if part.whole else within) if part.is_field else re2.escape(part.text) for part in self._parts
        ]
        return re2.compile("(?s)" + "".join(pieces))


def _parts_of(text: str) -> Iterator[_Part]:
    follows_field, count = False, 0
    try:
        parsed = list(Formatter().parse(text))
    except ValueError as error:
        raise ValueError(f"{text!r} is no template ({error}); {_EXAMPLE}") from None
    for literal, field, spec, conversion in parsed:
        if literal:
            yield _Part(literal)
        if field is None:
            continue
        name = field.removeprefix("+")
        if not _FIELD.fullmatch(name) or spec or conversion:
            raise ValueError(f"{text!r} has {{{field}}}, which is no field's name; {_EXAMPLE}")
        if follows_field and not literal:
            raise ValueError(f"in {text!r} nothing stands between two fields, so nobody could tell them apart")
        yield _Part(name, is_field=True, whole=field.startswith("+"))
        follows_field, count = True, count + 1
    if count > _MOST_FIELDS:
        raise ValueError(f"{text!r} has {count} fields; {_MOST_FIELDS} are the most")


@dataclass(frozen=True)
class Naming:
    """How the rows of one resource are named. Their tenant stands in the name, or in the row."""

    resource: Resource
    template: NameTemplate

    rows_tell: bool  # whether a row has fields that could say whose it is

    @property
    def has_tenant(self) -> bool:
        """Whether a name says whose it is."""
        return self.resource.tenant in self.template.fields

    def mistake(self) -> str | None:
        """What the template names and the resource does not have, or has and the template lacks."""
        if self.resource.tenant is not None and not self.has_tenant and not self.rows_tell:
            tenant = self.resource.tenant
            return f"nothing says whose a row of {self.resource.name} is; write {{{tenant}}} into {self.template.text}"
        return mistake_in(self.resource, self.template.text, self.template.fields)

    def name_of(self, address: Address) -> str | None:
        """The name of a row; None where the address can't be one of a row."""
        values = dict(zip(self.resource.key, address.row.key, strict=True))
        if self.has_tenant:
            values[self.resource.tenant or ""] = address.tenant or ""
        return self.template.name_of(values)

    def address_of(self, name: str) -> Address | None:
        """The row that has a name, without its tenant where only the row tells; None for a name that is no row's."""
        values = self.template.values_of(name)
        if values is None:
            return None
        key = RowKey(self.resource.name, tuple(values[field] for field in self.resource.key))
        return Address(values[self.resource.tenant or ""] if self.has_tenant else None, key)

    def known_of(self, tenant: str | None) -> Mapping[str, str]:
        """What is known of every name of a tenant's rows."""
        return {self.resource.tenant or "": tenant} if self.has_tenant and tenant is not None else {}

    def address_in(self, name: str, row: Row) -> Address | None:
        """Likewise, with the tenant from whichever tells it."""
        address = self.address_of(name)
        if address is None or self.has_tenant:
            return address
        return Address(tenant_in(self.resource, row), address.row)

    def belongs(self, row: Row, tenant: str | None) -> bool:
        """Whether a row that has a name of a tenant's is that tenant's."""
        return self.has_tenant or belongs(self.resource, row, tenant)


def mistake_in(resource: Resource, text: str, fields: frozenset[str]) -> str | None:
    """What templates name and a resource does not have, or has and they lack."""
    known = {*resource.key, *([resource.tenant] if resource.tenant else [])}
    for field in sorted(fields - known):
        hint = did_you_mean(field, known)
        return f"{text} names {field}, which is neither in the key of {resource.name} nor its tenant{hint}"
    for field in resource.key:
        if field not in fields:
            return f"{text} lacks {field}, which is in the key of {resource.name}; add {{{field}}}"
    return None


def belongs(resource: Resource, row: Row, tenant: str | None) -> bool:
    """Whether a row is a tenant's, by its own field. One that can't be read is whoever's asks: nobody can say whose."""
    if resource.tenant is None or tenant is None or row.problem is not None:
        return True
    return tenant_in(resource, row) == tenant


def tenant_in(resource: Resource, row: Row) -> str | None:
    """Who stands in the tenant's field of a row, if somebody does."""
    if resource.tenant is None or not isinstance(row.doc, dict):
        return None
    try:
        return key_text(row.doc.get(resource.tenant))
    except Unreadable:
        return None
