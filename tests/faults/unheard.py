"""Who is not heard of in time: an agent whose brokers are away, some that die, and whoever writes without a word."""

import itertools
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from counterfoil import Recorder
from counterfoil_console.stack.ports import HOST
from tests.faults.conftest import World
from tests.faults.plan import PLAN
from tests.faults.shops import Shop, spec_of
from tests.fix_log import StartPython
from tests.waiting import wait_until

_CRASHING = """
import json, os, signal, sys, threading, time
from counterfoil import Recorder
from tests.faults.hands import open_hands
spec, shop, order, point = json.loads(sys.argv[1]), *sys.argv[2:]
hands = open_hands(spec["kind"], spec["port"], spec["where"])
hands.status("spare")
with Recorder.from_env() as recorder, recorder.task("orders", task_ref="crash-" + order) as task:
    effect = task.begin_effect(shop + "_set_status", target=shop, args={"order": order, "status": "paid"})
    print(effect.key, flush=True)
    if point == "after dispatch":
        threading.Thread(target=hands.set_status, args=(order, "paid"), daemon=True).start()
        time.sleep(0.3)  # the reply takes a second
    os.kill(os.getpid(), signal.SIGKILL)
"""
_REPLY_MS = 1_000
_AT_A_TIME = 2


class Spooling:
    """An agent whose brokers are out of reach: what it does lands at once, and is heard of much later."""

    def __init__(self, world: World) -> None:
        kafka = {**world.settings.kafka, "bootstrap.servers": f"{HOST}:{world.brokers.port}"}
        self._recorder = Recorder(world.settings.model_copy(update={"kafka": kafka, "ack_timeout_seconds": 0.5}))
        self._world = world
        self._away_since = 0.0

    def act(self) -> None:
        """Be heard of once, then act unheard."""
        with self._recorder.task("orders", task_ref="spooling") as task:
            task.suspend("begins later")
        assert self._recorder.flush(60) == 0
        # Who never knew whether somebody halted it does nothing.
        wait_until(lambda: self._recorder.session.control.is_known, 60)
        self._world.brokers.shut()
        self._away_since = time.monotonic()
        for shop, number in itertools.product(self._world.shops, range(PLAN.few)):
            self._write(shop, f"spooled-{number}")
        assert self._recorder.session.delivery.spooled_count > 0

    def come_back(self) -> None:
        """The brokers are back after as long as planned."""
        time.sleep(max(0.0, self._away_since + PLAN.spool - time.monotonic()))
        self._world.brokers.open()
        assert self._recorder.flush(120) == 0
        self._recorder.close()

    def _write(self, shop: Shop, order: str) -> None:
        with self._recorder.task("orders", task_ref=f"{shop.name}-{order}") as task:
            args = {"order": order, "status": "paid"}
            effect = task.begin_effect(f"{shop.name}_set_status", target=shop.name, args=args)
            hands = shop.hands()
            hands.set_status(order, "paid")
            hands.close()
            effect.ok()
        self._world.ledger.note("intent in a spool", shop.name, effect.effect_id, order, ["applied"], is_drift=False)


def crash(world: World, start_python: StartPython) -> None:
    """Agents die between their intent and their result; what landed is asked of the target."""
    points = itertools.cycle(("before dispatch", "after dispatch"))
    plan = [
        (shop, f"crashed-{number}", point)
        for shop in world.shops
        for number, point in zip(range(PLAN.few), points, strict=False)
    ]
    with ExitStack() as slow:
        for shop in world.shops:
            slow.enter_context(shop.doors.slow.toxic("latency", "downstream", latency=_REPLY_MS))
        for first in range(0, len(plan), _AT_A_TIME):
            some = plan[first : first + _AT_A_TIME]
            _see_die(world, some, [_start(start_python, *one) for one in some])


def _start(start_python: StartPython, shop: Shop, order: str, point: str) -> "subprocess.Popen[str]":
    return start_python(_CRASHING, spec_of(shop), shop.name, order, point, PYTHONPATH=str(Path.cwd()))


def _see_die(world: World, plan: Sequence[tuple[Shop, str, str]], processes: Sequence["subprocess.Popen[str]"]) -> None:
    for (shop, order, point), process in zip(plan, processes, strict=True):
        said, errors = process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL, errors
        hands = shop.hands()
        has_landed = hands.status(order) == "paid"
        hands.close()
        assert point == "after dispatch" or not has_landed
        right, key = ["applied" if has_landed else "not_applied"], bytes.fromhex(said.strip())
        world.ledger.note(f"crash {point}", shop.name, key, order, right, is_drift=not has_landed)


def stray(world: World) -> None:
    """Writes that nobody declared, and edits by people where these may write."""
    for shop in world.shops:
        hands = shop.hands()
        for number in range(PLAN.few):
            hands.set_status(f"stray-{number}", "tampered")
            world.ledger.note_stray(shop.name, f"stray-{number}")
            if not shop.is_exclusive:
                hands.set_status(f"edited-{number}", "held", by="person")
        hands.close()
