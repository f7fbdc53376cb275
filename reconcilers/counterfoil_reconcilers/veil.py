"""What lays tokens over values that may not be said: evidence goes into events, and events stay."""

from collections.abc import Collection, Iterable
from typing import Any, Protocol

from counterfoil_reconcilers.contract_model import Resource
from counterfoil_reconcilers.rows import RowKey
from counterfoil_reconcilers.values import Path, path_text


class Veil(Protocol):
    """Lays tokens over what may not be said."""

    def over(self, value: Any, path: Path = ()) -> Any:
        """The value as it may be said; `path` is where it stands in a row."""

    def beside(self, said: Any, value: Any, path: Path = ()) -> Any:
        """A value that stands where another should, which `said` is as it may be said: hidden where a part of it is."""

    def whole(self, value: Any, path: Path = ()) -> Any:
        """All of the value hidden, in one token; that there is none may be said."""

    def hide(self, values: Iterable[Any]) -> None:
        """From now on, `over` hides these values."""


class NoVeil:
    """Everything may be said."""

    def over(self, value: Any, _path: Path = ()) -> Any:
        """The value itself."""
        return value

    def beside(self, _said: Any, value: Any, _path: Path = ()) -> Any:
        """The value itself."""
        return value

    def whole(self, value: Any, _path: Path = ()) -> Any:
        """The value itself."""
        return value

    def hide(self, _values: Iterable[Any]) -> None:
        """Nothing is hidden."""


NO_VEIL = NoVeil()


def veiled(
    veil: Veil, resource: Resource, expected: Any, observed: Any, path: Path, secret: Collection[Path] = ()
) -> tuple[Any, Any]:
    """Both sides of one place of a row, as they may be said.

    Whole places go that the contract says to redact, and those in `secret`: what stands there was made of what was
    redacted.
    """
    expected, observed = (_without(veil, resource, value, path, secret) for value in (expected, observed))
    said = veil.over(expected, path)
    return said, veil.beside(said, observed, path)


def key_veiled(veil: Veil, resource: Resource, key: RowKey) -> list[Any]:
    """The key of a row as it may be said."""
    names = resource.key if len(resource.key) == len(key.key) else [""] * len(key.key)
    return [
        veil.whole(part, (name,)) if name and resource.rule((name,)).redact else veil.over(part, (name,))
        for name, part in zip(names, key.key, strict=True)
    ]


def path_veiled(veil: Veil, resource: Resource, path: Path, secret: Collection[Path] = ()) -> str:
    """The path of a place as it may be said: it ends where something begins that may not be."""
    for length in range(1, len(path)):
        if _is_secret(resource, path[:length], secret):
            path = path[:length]
            break
    said: str = veil.over(path_text(path))
    return said


def _is_secret(resource: Resource, path: Path, secret: Collection[Path]) -> bool:
    return resource.rule(path).redact or any(place == path[: len(place)] for place in secret)


def _without(veil: Veil, resource: Resource, value: Any, path: Path, secret: Collection[Path]) -> Any:
    if _is_secret(resource, path, secret):
        return veil.whole(value, path)
    if isinstance(value, dict):
        return {name: _without(veil, resource, item, (*path, name), secret) for name, item in value.items()}
    if isinstance(value, list):
        return [_without(veil, resource, item, (*path, index), secret) for index, item in enumerate(value)]
    return value
