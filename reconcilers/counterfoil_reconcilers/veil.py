"""What lays tokens over values that may not be said: evidence goes into events, and events stay."""

from typing import Any, Protocol

from counterfoil_reconcilers.contract_model import Resource
from counterfoil_reconcilers.values import Path


class Veil(Protocol):
    """Lays tokens over what may not be said."""

    def over(self, value: Any, path: Path = ()) -> Any:
        """The value as it may be said; `path` is where it stands in a row."""

    def beside(self, expected: Any, value: Any, path: Path = ()) -> Any:
        """A value that stands where `expected` should: all of it is hidden where a part of that is."""

    def whole(self, value: Any, path: Path = ()) -> Any:
        """All of the value hidden."""


class NoVeil:
    """Everything may be said."""

    def over(self, value: Any, _path: Path = ()) -> Any:
        """The value itself."""
        return value

    def beside(self, _expected: Any, value: Any, _path: Path = ()) -> Any:
        """The value itself."""
        return value

    def whole(self, value: Any, _path: Path = ()) -> Any:
        """The value itself."""
        return value


NO_VEIL = NoVeil()


def veiled(veil: Veil, resource: Resource, expected: Any, observed: Any, path: Path) -> tuple[Any, Any]:
    """Both sides of one place of a row, as they may be said: also without what the contract says to redact."""
    expected, observed = (_without(veil, resource, value, path) for value in (expected, observed))
    return veil.over(expected, path), veil.beside(expected, observed, path)


def _without(veil: Veil, resource: Resource, value: Any, path: Path) -> Any:
    if resource.rule(path).redact:
        return veil.whole(value, path)
    if isinstance(value, dict):
        return {name: _without(veil, resource, item, (*path, name)) for name, item in value.items()}
    if isinstance(value, list):
        return [_without(veil, resource, item, (*path, index)) for index, item in enumerate(value)]
    return value
