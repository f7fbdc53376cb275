"""The keys of a DynamoDB table, held against the key that a contract gives its rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from counterfoil_reconcilers.contract_files import did_you_mean
from counterfoil_reconcilers.contracts import Resource
from counterfoil_reconcilers.rows import RowKey
from counterfoil_reconcilers.targets.dynamodb_values import Attribute, key_of, text_of_key
from counterfoil_reconcilers.targets.naming import NameTemplate, mistake_in
from counterfoil_reconcilers.targets.port import Address

SEPARATOR: Final = "#"
Item = Mapping[str, Attribute]


@dataclass(frozen=True)
class KeyAttribute:
    """One of the one or two attributes of a table's key. `role`: HASH or RANGE; `kind`: S, N or B."""

    name: str
    role: str
    kind: str


@dataclass(frozen=True)
class Keys:
    """How the items of one resource are found: what each key attribute holds, made of a row's key and its tenant."""

    resource: Resource
    attributes: tuple[KeyAttribute, ...]
    templates: Mapping[str, NameTemplate]

    @property
    def fields(self) -> frozenset[str]:
        """What the templates are filled in with."""
        return frozenset(field for template in self.templates.values() for field in template.fields)

    @property
    def has_tenant(self) -> bool:
        """Whether a key says whose the item is."""
        return self.resource.tenant in self.fields

    def mistakes(self, table: str) -> list[str]:
        """Where the contract's key and the table's are two."""
        names = [attribute.name for attribute in self.attributes]
        found = [
            f"the key of table {table} has no attribute {name}{did_you_mean(name, names)}"
            for name in self.templates
            if name not in names
        ]
        found += [
            f"the key of table {table} has {name}, too, and nothing says what it holds"
            for name in names
            if name not in self.templates
        ]
        text = ", ".join(template.text for template in self.templates.values())
        mistake = mistake_in(self.resource, text, self.fields)
        return [*found, *([mistake] if mistake else [])]

    def key_of(self, address: Address) -> Item | None:
        """The key attributes of a row; None where none can be those of this row."""
        values = dict(zip(self.resource.key, address.row.key, strict=True))
        if self.has_tenant:
            values[self.resource.tenant or ""] = address.tenant or ""
        key: dict[str, Attribute] = {}
        for attribute in self.attributes:
            text = self.templates[attribute.name].name_of(values)
            value = None if text is None else key_of(attribute.kind, text, attribute.role)
            if value is None:
                return None
            key[attribute.name] = value
        return key

    def address_of(self, item: Item) -> Address | None:
        """The row that an item is, without its tenant where only its attributes tell; None if it is another's."""
        values: dict[str, str] = {}
        for name, text in zip(self.templates, self.texts_of(item), strict=True):
            read = self.templates[name].values_of(text)
            if read is None or any(values.get(field, value) != value for field, value in read.items()):
                return None
            values.update(read)
        key = RowKey(self.resource.name, tuple(values[field] for field in self.resource.key))
        return Address(values[self.resource.tenant or ""] if self.has_tenant else None, key)

    def texts_of(self, item: Item) -> tuple[str, ...]:
        """The key of an item as texts, by which items are told apart."""
        return tuple(text_of_key(item[name]) for name in self.templates)

    def known_of(self, tenant: str | None) -> Mapping[str, str]:
        """What is known of every key of a tenant's rows."""
        return {self.resource.tenant or "": tenant or ""} if self.has_tenant and tenant is not None else {}

    def partition_of(self, tenant: str | None) -> tuple[str, Attribute] | None:
        """The one partition that holds all rows of a tenant, as the attribute and its value; None if there is none."""
        [partition] = [attribute for attribute in self.attributes if attribute.role == "HASH"]
        template, known = self.templates[partition.name], self.known_of(tenant)
        if not template.fields <= known.keys():
            return None
        text = template.name_of(known)
        value = None if text is None else key_of(partition.kind, text, partition.role)
        return None if value is None else (partition.name, value)


def keys_of(resource: Resource, written: Mapping[str, str] | None, table: Mapping[str, Any]) -> Keys:
    """From a contract's resource and what DescribeTable says of its table.

    Without templates an attribute of the key holds what the field of its name does.
    """
    kinds = {one["AttributeName"]: one["AttributeType"] for one in table["AttributeDefinitions"]}
    attributes = tuple(
        KeyAttribute(one["AttributeName"], one["KeyType"], kinds[one["AttributeName"]]) for one in table["KeySchema"]
    )
    if written is None:
        names = {attribute.name for attribute in attributes}
        tenant = [resource.tenant] if resource.tenant in names else []
        templates = {name: NameTemplate(name, SEPARATOR, field=name) for name in (*resource.key, *tenant)}
    else:
        templates = {name: NameTemplate(text, SEPARATOR) for name, text in written.items()}
    return Keys(resource, attributes, templates)
