"""Every fault that a write can meet, caused on real targets through toxiproxy, and three reconcilers that judge.

No false drift, none missed, the right word for each, and no verdict said twice, although one replica freezes before a
commit and wakes when another has its lease. `make soak` runs 10,000 effects with the times of a production.
"""

import itertools
import json
import signal
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial

import psutil
import pytest

from counterfoil import Recorder
from counterfoil_reconcilers.worklist import LEASE_SECONDS
from tests.faults.agents import Agent
from tests.faults.beside import beside
from tests.faults.conftest import World
from tests.faults.plan import IS_LONG, PLAN
from tests.faults.services import busy_server
from tests.faults.truth import Truth
from tests.faults.unheard import Spooling, crash, stray
from tests.fix_log import StartPython
from tests.waiting import wait_until

Said = Mapping[uuid.UUID, Sequence[str]]


@pytest.mark.timeout(7200 if IS_LONG else 900)
def test_every_fault_is_told_as_what_it_is(world: World, start_python: StartPython) -> None:
    started = time.monotonic()
    freezing = start_services(world)
    spooling = Spooling(world)
    spooling.act()
    meanwhile = (partial(freeze_and_wake, freezing), partial(trouble, world), partial(crash, world, start_python))
    with beside(*meanwhile, spooling.come_back):
        stray(world)
        act(world)
    wait_until(lambda: world.is_done, PLAN.patience)
    closed = time.monotonic()
    repaired = repair(world)
    time.sleep(3 * PLAN.sweep_every + PLAN.settle)
    wait_until(lambda: world.is_done, PLAN.patience)
    world.services.end()
    said = said_of_effects(world)
    tell(world, said, closed - started)
    assert_right(world, said, {truth.effect_id for truth in repaired})
    assert_said_once(world, said)
    assert_strays_alone_are_unattributed(world)
    assert world.later.seen > 0  # some writes landed after a look had found nothing


def start_services(world: World) -> int:
    """Ingest and three reconcilers, which have taken their baselines; gives the process that will freeze."""
    world.services.start("ingest")
    for _ in range(2):
        world.services.start("reconcile")
    freezing = world.services.start("reconcile", FAILPOINTS="reconcile.before_commit=stop@12")
    swept = "SELECT count(*) FROM counterfoil.check_lease WHERE swept_at IS NOT NULL"
    wait_until(lambda: world.count(swept) == len(world.shops), PLAN.patience)
    return freezing


def act(world: World) -> None:
    """An agent at each shop, all at once, until everything that was to land has landed."""
    recorders = [Recorder(world.settings) for _ in world.shops]
    agents = [
        Agent(shop, recorder, world.ledger, world.later, PLAN.accept, iter(world.orders))
        for shop, recorder in zip(world.shops, recorders, strict=True)
    ]
    with beside(*(partial(agent.work, PLAN.effects) for agent in agents)):
        pass
    world.later.end()
    for recorder in recorders:
        recorder.close()


def freeze_and_wake(pid: int) -> None:
    """Wait until a replica has stopped at its failpoint, and let it go on when its lease is long over."""
    process = psutil.Process(pid)
    wait_until(lambda: process.status() == psutil.STATUS_STOPPED, PLAN.patience)
    time.sleep(LEASE_SECONDS + 5)
    process.send_signal(signal.SIGCONT)


def trouble(world: World) -> None:
    """The reconcilers' credentials are revoked and restored, then all targets are busy, each for minutes.

    It begins when a late write has landed after a look that found nothing: while nobody can look, none would.
    """
    wait_until(lambda: world.later.seen > 0, PLAN.patience)
    with ExitStack() as revoked:
        for shop in world.shops:
            revoked.enter_context(shop.refusing_credentials())
        time.sleep(PLAN.trouble)
    with busy_server() as port, ExitStack() as busy:
        for shop in world.shops:
            busy.enter_context(shop.busy(port))
        time.sleep(PLAN.trouble)


def repair(world: World) -> Sequence[Truth]:
    """A person writes what should have been there, and says so."""
    truths = [truth for truth in world.ledger.truths if truth.fault == "manual repair"]
    by_name = {shop.name: shop for shop in world.shops}
    for truth in truths:
        hands = by_name[truth.shop].hands()
        hands.set_status(truth.order, "paid")
        hands.close()
        world.services.run(
            "drift", "resolve", truth.effect_id.hex, "--reason", "paid by hand", "--by", "dana",
            "--repaired", "orders", truth.order,
        )  # fmt: skip
    return truths


def said_of_effects(world: World) -> Said:
    """The verdicts said of each effect, in order."""
    said: dict[uuid.UUID, list[str]] = {}
    for row in world.operator.execute(
        "SELECT effect_id, body ->> 'verdict' AS verdict FROM counterfoil.event "
        "WHERE kind = 'verdict' AND effect_id IS NOT NULL ORDER BY event_id"
    ):
        said.setdefault(row["effect_id"], []).append(str(row["verdict"]))
    return said


def tell(world: World, said: Said, seconds: float) -> None:
    """The table that docs/reliability.md shows."""
    truths = world.ledger.truths
    found = Counter((truth.fault, " then ".join(said.get(truth.effect_id, ["nothing"]))) for truth in truths)
    print(f"\n{len(truths)} effects, all closed after {seconds:.0f} s, {sum(map(len, said.values()))} verdicts said;")
    print(f"{world.later.seen} of {world.later.late} late writes landed after a look")
    for (fault, verdicts), many in sorted(found.items()):
        print(f"  {fault:24} {many:6}  {verdicts}")


def assert_right(world: World, said: Said, repaired: set[uuid.UUID]) -> None:
    """The last verdict is the right one; none that was ever said is drift where nothing is."""
    state = {row["effect_id"]: row for row in world.operator.execute("SELECT * FROM counterfoil.effect_state")}
    rules = {
        (row["outcome"], row["verdict"]): row["drift"]
        for row in world.operator.execute("SELECT * FROM counterfoil.drift_rule")
    }
    wrong = []
    for truth in world.ledger.truths:
        row, words = state[truth.effect_id], said.get(truth.effect_id, [])
        drifts = [rules[row["outcome"], word] for word in words]
        is_right = bool(words) and row["verdict"] == words[-1] and row["verdict"] in truth.right
        if truth.effect_id in repaired:
            is_right = is_right and words[0] == "not_applied" and not row["drift"]  # somebody has resolved it
        else:
            # What is drift in the end may have looked applied at first sight: once, or the first part of a replica's.
            is_right = is_right and (truth.is_drift or not any(drifts)) and row["drift"] == truth.is_drift
        if not is_right:
            wrong.append((truth, row["outcome"], words, row["verdict_reason"]))
    assert wrong == []
    assert set(state) == {truth.effect_id for truth in world.ledger.truths}


def assert_said_once(world: World, said: Said) -> None:
    """No verdict is counted twice, and what was given up was given up once."""
    assert not [words for words in said.values() if any(one == two for one, two in itertools.pairwise(words))]
    given_up = Counter(
        row["effect_id"]
        for row in world.operator.execute(
            "SELECT effect_id FROM counterfoil.event WHERE kind = 'dead_lettered' AND effect_id IS NOT NULL"
        )
    )
    assert set(given_up.values()) <= {1}
    assert set(given_up) == {truth.effect_id for truth in world.ledger.truths if truth.is_drift}


def assert_strays_alone_are_unattributed(world: World) -> None:
    """Each write that nobody declared, once, and nothing else."""
    changes = world.operator.execute("SELECT target, key FROM counterfoil.change_state").fetchall()
    assert Counter((row["target"], json.loads(row["key"])[0]) for row in changes) == Counter(world.ledger.strays)
