"""Targets that know rows by a name alone, such as objects and keys: named by a template, fetched and listed by name."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice

from counterfoil_reconcilers.rows import Row
from counterfoil_reconcilers.targets.naming import Naming
from counterfoil_reconcilers.targets.port import Address, Closing, TargetRow, TargetUnavailable
from counterfoil_reconcilers.touched import Search

Named = tuple[str, str]  # a resource, and the name of what is in it


class NamedRows(Closing):
    """What such adapters share; each says how names are fetched and listed."""

    def __init__(self, name: str, namings: Mapping[str, Naming], fetched: int) -> None:
        """`fetched`: how many rows of a scan are held at once."""
        self._name = name
        self._namings = namings
        self._fetched = fetched

    def _fetch(self, wanted: Iterable[Named]) -> Mapping[Named, Row | None]:
        """What these names hold; None for nothing."""
        raise NotImplementedError

    def _list(self, naming: Naming, tenant: str | None) -> Iterator[str]:
        """The names that may be those of the tenant's rows."""
        raise NotImplementedError

    def read(self, addresses: Iterable[Address]) -> Sequence[TargetRow]:
        """Every address once, with what its name holds or None."""
        wanted = list(dict.fromkeys(addresses))
        names = {address: self._named(address.row.resource).name_of(address) for address in wanted}
        rows = self._fetch({(a.row.resource, name) for a, name in names.items() if name is not None})
        return [TargetRow(address, self._row_at(address, names[address], rows)) for address in wanted]

    def find(self, tenant: str | None, searches: Sequence[Search], limit: int = 50) -> Sequence[TargetRow]:
        """They can't; no contract gets as far as this."""
        raise NotImplementedError("what is known by name alone has no search by content")

    def scan(self, resource: str, tenant: str | None = None) -> Iterator[TargetRow]:
        """Everything that has a row's name; what goes while it is listed is not there."""
        naming = self._named(resource)
        names = (name for name in self._list(naming, tenant) if naming.address_of(name) is not None)
        while page := list(islice(names, self._fetched)):
            rows = self._fetch({(resource, name) for name in page})
            for name in page:
                row = rows[resource, name]
                address = None if row is None else naming.address_in(name, row)
                if row is not None and address is not None and naming.belongs(row, tenant):
                    yield TargetRow(address, row)

    def _row_at(self, address: Address, name: str | None, rows: Mapping[Named, Row | None]) -> Row | None:
        row = None if name is None else rows[address.row.resource, name]
        naming = self._namings[address.row.resource]
        return row if row is not None and naming.belongs(row, address.tenant) else None

    def _named(self, resource: str) -> Naming:
        naming = self._namings[resource]
        mistake = naming.mistake()
        if mistake is not None:
            raise TargetUnavailable(self._name, f"{mistake}; run the contract check")
        return naming
