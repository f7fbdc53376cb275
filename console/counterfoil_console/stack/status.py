"""What a stack is doing right now, found out by asking its servers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from counterfoil_console.stack import kafka, postgres
from counterfoil_console.stack.processes import Recognise, is_running
from counterfoil_console.stack.state import ServerName, StackState

Condition = Literal["answering", "silent", "dead", "stopped"]
"""silent: runs and does not answer; dead: should run and does not; stopped: was not started, or taken down."""
Overall = Literal["up", "starting", "broken", "down"]

SERVERS: tuple[ServerName, ...] = ("kafka", "postgres")
_PATIENCE_SECONDS = 3


@dataclass(frozen=True)
class ServerStatus:
    """One server; `pid` and `port` are None when it is not supposed to run."""

    name: ServerName
    condition: Condition
    pid: int | None
    port: int | None


@dataclass(frozen=True)
class StackStatus:
    """The whole stack; `state` is what the state file says, None if there is none."""

    overall: Overall
    kafka: ServerStatus
    postgres: ServerStatus
    state: StackState | None


def recognisers(mark: str) -> Mapping[ServerName, Recognise]:
    """What tells each server's command lines."""
    return {"kafka": kafka.recogniser(mark), "postgres": postgres.recogniser(mark)}


def look(state: StackState | None, mark: str, *, being_changed: bool) -> StackStatus:
    """Ask both servers; takes up to 3 seconds for one that keeps silent.

    `being_changed` tells a stack that is starting from one whose start was killed.
    """
    kafka_status, postgres_status = (_look_at(name, state, recognisers(mark)[name]) for name in SERVERS)
    conditions = {kafka_status.condition, postgres_status.condition}
    overall: Overall = "broken"
    if state is None or state.phase == "down":
        overall = "down"
    elif state.phase == "starting" and being_changed:
        overall = "starting"
    elif state.phase == "up" and conditions == {"answering"}:
        overall = "up"
    return StackStatus(overall, kafka_status, postgres_status, state)


def _look_at(name: ServerName, state: StackState | None, recognise: Recognise) -> ServerStatus:
    record = None if state is None else state.process(name)
    if state is None or record is None:
        return ServerStatus(name, "stopped", None, None)
    port = state.ports(name)[0]
    condition: Condition = "dead"
    if is_running(record, recognise):
        condition = "answering" if _answers(name, state) else "silent"
    return ServerStatus(name, condition, record.pid, port)


def _answers(name: ServerName, state: StackState) -> bool:
    if name == "kafka":
        return kafka.answers(state.kafka_port, _PATIENCE_SECONDS)
    return postgres.answers(state.postgres_dsn, state.postgres_port, _PATIENCE_SECONDS)
