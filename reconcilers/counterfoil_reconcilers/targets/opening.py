"""From a contract's target and its settings to an adapter that can be asked."""

from collections.abc import Mapping

import pydantic

from counterfoil.errors import SettingsError
from counterfoil_reconcilers.contract_kinds import find_kind
from counterfoil_reconcilers.contracts import Contracts
from counterfoil_reconcilers.targets.port import Kind, Target

Settings = Mapping[str, Mapping[str, str]]  # by target: the name of each setting, in small letters, and its value


def variable_of(target: str, setting: str = "") -> str:
    """The environment's variable for a setting of a target; a name has neither small letters nor dashes there."""
    return f"COUNTERFOIL_TARGETS__{target.upper().replace('-', '_')}__{setting.upper() or '...'}"


def open_target(contracts: Contracts, name: str, settings: Settings) -> Target:
    """The adapter of a target; it connects when it is first asked.

    Raises SettingsError when a setting is missing or wrong; it never quotes a value.
    """
    kind = find_kind(contracts.targets[name].kind)
    if not isinstance(kind, Kind):
        raise SettingsError(f"targets of kind {kind.name} can't be opened: its entry point names no Kind")
    given = settings.get(name)
    needed = [field for field, info in kind.connection.model_fields.items() if info.is_required()]
    if given is None and needed:
        ways = " and ".join(f"{variable_of(name, field)} or {variable_of(name, field)}_FILE" for field in needed)
        raise SettingsError(f"nothing says how to reach {name}, which the contracts name as a target: set {ways}")
    try:
        connection = kind.connection.model_validate(given or {})
    except pydantic.ValidationError as error:
        raise SettingsError(_sentence(name, kind, error)) from None  # its text would quote what was given
    return kind.open(contracts, name, connection)


def _sentence(name: str, kind: Kind, error: pydantic.ValidationError) -> str:
    mistake = error.errors(include_input=False, include_url=False)[0]
    setting = str(mistake["loc"][0]) if mistake["loc"] else ""
    variable = variable_of(name, setting)
    if mistake["type"] == "missing":
        return f"target {name} lacks a setting: set {variable} or {variable}_FILE"
    if mistake["type"] == "extra_forbidden":
        return (
            f"{variable}: targets of kind {kind.name} know {', '.join(kind.connection.model_fields) or 'no settings'}"
        )
    reason = mistake["ctx"]["error"] if mistake["type"] == "value_error" else mistake["msg"]
    return f"{variable} {reason}" if setting else f"target {name}: {reason}"
