"""Plays recorded runs through the Recorder, as if the agents ran now."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from counterfoil import Call, Effect, Recorder, Task
from counterfoil_reconcilers.contracts import Contracts
from examples.trajectories.recording import Run, WrongData


@dataclass(frozen=True)
class Played:
    """A recorded write: where it stands in the recording, and what it became."""

    trace_id: str
    step: int
    tool: str
    tenant: str
    effect_id: bytes
    outcome: str


def play(recorder: Recorder, runs: Iterable[Run], contracts: Contracts) -> list[Played]:
    """Record every step of every run; returns the writes."""
    writes: list[Played] = []
    for run in runs:
        with recorder.task(
            run.trace_id, tenant=run.tenant, workflow=run.domain, agent=f"{run.domain}-agent", task_ref=run.trace_id
        ) as task:
            writes += _Player(task, run, contracts).play()
    return writes


class _Player:
    def __init__(self, task: Task, run: Run, contracts: Contracts) -> None:
        self._task = task
        self._run = run
        self._contracts = contracts
        self._history: list[dict[str, Any]] = []
        self._open: defaultdict[str, list[tuple[int, Call]]] = defaultdict(list)
        self._writes: list[Played] = []

    def play(self) -> list[Played]:
        for step in self._run.steps:
            match step["kind"]:
                case "tool_call":
                    self._open[step["call_id"]].append((step["step"], self._begin(step)))
                case "tool_result":
                    if not self._open[step["call_id"]]:
                        raise WrongData(f"step {step['step']} of {self._run.trace_id} is the result of no call")
                    number, call = self._open[step["call_id"]].pop(0)
                    self._finish(call, step)
                    self._note(number, call)
                case "assistant_message":
                    self._task.prompt(self._history, model="recorded")
                    self._task.completion(step["content"] or "")
                    self._remember(step)
                case _:
                    self._remember(step)
        for calls in self._open.values():  # the recording ends before the result
            for number, call in calls:
                self._note(number, call)
        return self._writes

    def _begin(self, step: Mapping[str, Any]) -> Call:
        tool, args, call_id = step["tool"], step["args"], step["call_id"]
        if step["effect"] != "write":
            return self._task.tool(tool, args, call_id=call_id).begin()
        return self._task.begin_effect(tool, target=self._target(tool), args=args, call_id=call_id)

    def _target(self, tool: str) -> str | None:
        known = self._contracts.tools.get(tool)
        if known is not None:
            return known.target
        # A tool without a contract still wrote somewhere; where there is one target, it was there.
        return next(iter(self._contracts.targets)) if len(self._contracts.targets) == 1 else None

    def _finish(self, call: Call, step: Mapping[str, Any]) -> None:
        output = step["output"]
        if not step["is_error"]:
            call.ok(output)
        elif isinstance(call, Effect) and self._contracts.outcome_of(call.tool, str(output)) == "unknown":
            call.unknown(str(output))
        else:
            call.failed(str(output))

    def _note(self, number: int, call: Call) -> None:
        if isinstance(call, Effect):
            outcome = call.outcome or "unknown"
            run = self._run
            self._writes.append(Played(run.trace_id, number, call.tool, run.tenant, call.effect_id, outcome))

    def _remember(self, step: Mapping[str, Any]) -> None:
        content = step.get("content") or step.get("content_ref")
        self._history.append({"role": step.get("role", "user"), "content": content})
