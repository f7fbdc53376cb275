"""Rows that writes created and later ones changed or deleted: what the judge says of histories that are known.

A target gives the rows their keys, so a write's own row is found by what it holds: by the effect's id, or by its
content alone. Where all went as the agents saw it, nothing may be said against any of it; a write that was lost or
doubled shows.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from counterfoil_reconcilers.contracts import Contracts, load
from counterfoil_reconcilers.judge import Effect, Row, RowKey, Rows, judge, sweep
from counterfoil_reconcilers.rows import row_of

TEXT = """\
version = "1"
[targets.bank]
kind = "postgresql"
%s
[targets.bank.resources.payments]
table = "payments"
key = ["id"]

[tools.pay]
target = "bank"
[[tools.pay.writes]]
resource = "payments"
create = true
find = { account = "args.account", amount = "args.amount" }
set.state = "'new'"

[tools.charge]
target = "bank"
[[tools.charge.writes]]
resource = "payments"
create = true
find = { reference = "effect" }
set.amount = "args.amount"
set.state = "'new'"

[tools.mark]
target = "bank"
[[tools.mark.writes]]
resource = "payments"
key = { id = "args.id" }
set.state = "args.state"

[tools.cancel]
target = "bank"
[[tools.cancel.writes]]
resource = "payments"
key = { id = "args.id" }
delete = true
"""
EXCLUSIVE, NOBODY = 'writers = "exclusive"', ""
Tool = Literal["pay", "charge", "mark", "cancel"]


@dataclass(frozen=True)
class Step:
    """A call: a payment of an amount, or what is done to the payment that an earlier step made first."""

    tool: Tool
    value: int  # the amount, or which of the payments made so far


class Bank:
    """Plays steps; `fates` says how often each landed."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, Any]] = {}
        self.effects: list[Effect] = []
        self.gone: set[str] = set()
        self._told: list[str] = []
        self._keys = itertools.count(1)

    def play(self, step: Step, fate: int) -> None:
        number = len(self.effects) + 1
        effect_id = number.to_bytes(16)
        args: dict[str, Any]
        reply = None
        if step.tool in ("pay", "charge"):
            args = {"account": "a", "amount": step.value}
            own = {"account": "a"} if step.tool == "pay" else {"reference": effect_id.hex()}
            made = [str(next(self._keys)) for _ in range(fate)]
            self.rows |= {key: {"id": key, "amount": step.value, "state": "new", **own} for key in made}
            if made:
                reply = {"id": made[0]}
                self._told.append(made[0])
        else:
            if not self._told:
                return
            key = self._told[step.value % len(self._told)]
            args = {"id": key, "state": f"marked {number}"}
            if fate and step.tool == "cancel":
                self.rows.pop(key, None)
            elif fate and key in self.rows:
                self.rows[key]["state"] = args["state"]
            elif key not in self.rows and step.tool == "mark":
                return  # nothing is there any more, and the agent would have been told
            self.gone |= {key}
        self.effects.append(Effect(effect_id, step.tool, args, "ok", (number,), reply=reply))

    def said(self, contracts: Contracts) -> tuple[list[str], int]:
        whole = frozenset({"payments"}) if contracts.targets["bank"].writers else frozenset[str]()
        found: dict[RowKey, Row | None] = {RowKey("payments", (key,)): None for key in self.gone}
        observed = Rows(found | {RowKey("payments", (key,)): row_of(doc) for key, doc in self.rows.items()}, whole)
        before = Rows({}, whole)
        judged = judge(contracts, "bank", self.effects, before, observed)
        swept = sweep(contracts, "bank", before, observed, judged)
        return [one.verdict for one in judged.verdicts], len((*judged.unattributed, *swept))


@pytest.fixture(scope="module")
def contracts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Contracts]:
    folder = tmp_path_factory.mktemp("contracts")
    loaded = {}
    for name, writers in (("exclusive", EXCLUSIVE), ("nobody", NOBODY)):
        path = folder / f"{name}.toml"
        path.write_text(TEXT % writers)
        loaded[name] = load(path)
    return loaded


STEPS = st.lists(
    st.builds(Step, st.sampled_from(["pay", "charge", "charge", "mark", "cancel"]), st.integers(1, 3)),
    min_size=1, max_size=7,
)  # fmt: skip


def played(steps: Sequence[Step], faulty: int = -1, fate: int = 1) -> Bank:
    bank = Bank()
    for step in steps:
        bank.play(step, fate if len(bank.effects) == faulty else 1)
    return bank


@pytest.mark.parametrize("writers", ["exclusive", "nobody"])
@settings(deadline=None, max_examples=150, derandomize=True)
@given(steps=STEPS)
def test_what_was_made_and_then_changed_or_deleted_is_applied(
    contracts: dict[str, Contracts], writers: str, steps: list[Step]
) -> None:
    bank = played(steps)
    words, strays = bank.said(contracts[writers])
    assert set(words) <= {"applied"}, (words, bank.effects, bank.rows)
    assert strays == 0


@pytest.mark.parametrize("writers", ["exclusive", "nobody"])
@settings(deadline=None, max_examples=150, derandomize=True)
@given(steps=STEPS, data=st.data())
def test_a_doubled_creation_shows_whatever_became_of_its_rows(
    contracts: dict[str, Contracts], writers: str, steps: list[Step], data: st.DataObject
) -> None:
    """By the effect's id also where nobody said who else writes; by content alone others may have made the second."""
    made = [i for i, one in enumerate(played(steps).effects) if one.tool == "charge"]
    if not made:
        return
    doubled = data.draw(st.sampled_from(made))
    bank = played(steps, doubled, 2)
    words, strays = bank.said(contracts[writers])
    assert words[doubled] == "duplicated", (words, bank.effects, bank.rows)
    assert set(words[:doubled] + words[doubled + 1 :]) <= {"applied"}
    assert strays == 0


@settings(deadline=None, max_examples=150, derandomize=True)
@given(steps=STEPS, data=st.data())
def test_a_creation_that_was_lost_shows(
    contracts: dict[str, Contracts], steps: list[Step], data: st.DataObject
) -> None:
    made = [i for i, one in enumerate(played(steps).effects) if one.tool in ("pay", "charge")]
    if not made:
        return
    bank = played(steps, data.draw(st.sampled_from(made)), 0)
    words, strays = bank.said(contracts["exclusive"])
    assert words.count("not_applied") == 1, (words, bank.effects, bank.rows)
    assert strays == 0
