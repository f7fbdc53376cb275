"""Agents say what they tried: the recorder that an agent installs."""

from counterfoil.call import Call, Effect
from counterfoil.errors import (
    AuditUnavailable,
    CounterfoilError,
    DecodeError,
    EventsUndelivered,
    RegistryError,
    SettingsError,
    UsageError,
)
from counterfoil.event import Event, Mode, Outcome
from counterfoil.recorder import Recorder
from counterfoil.settings import RecorderSettings, ToolPolicy
from counterfoil.task import Task, current_task
from counterfoil.tools import current_effect

__all__ = [
    "AuditUnavailable",
    "Call",
    "CounterfoilError",
    "DecodeError",
    "Effect",
    "Event",
    "EventsUndelivered",
    "Mode",
    "Outcome",
    "Recorder",
    "RecorderSettings",
    "RegistryError",
    "SettingsError",
    "Task",
    "ToolPolicy",
    "UsageError",
    "current_effect",
    "current_task",
]
