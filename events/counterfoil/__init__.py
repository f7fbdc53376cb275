"""Agents say what they tried: the recorder that an agent installs."""

from counterfoil.asking import RetryAnswer
from counterfoil.call import Call, Effect
from counterfoil.errors import (
    AlreadyApplied,
    AuditUnavailable,
    ControlAway,
    ControlStale,
    CounterfoilError,
    DecodeError,
    EventsUndelivered,
    Halted,
    RegistryError,
    SettingsError,
    UsageError,
)
from counterfoil.event import Event, Mode, Outcome
from counterfoil.expected import Expected
from counterfoil.recorder import Recorder
from counterfoil.settings import RecorderSettings, ToolPolicy
from counterfoil.task import Task, current_task
from counterfoil.tools import current_effect

__all__ = [
    "AlreadyApplied",
    "AuditUnavailable",
    "Call",
    "ControlAway",
    "ControlStale",
    "CounterfoilError",
    "DecodeError",
    "Effect",
    "Event",
    "EventsUndelivered",
    "Expected",
    "Halted",
    "Mode",
    "Outcome",
    "Recorder",
    "RecorderSettings",
    "RegistryError",
    "RetryAnswer",
    "SettingsError",
    "Task",
    "ToolPolicy",
    "UsageError",
    "current_effect",
    "current_task",
]
