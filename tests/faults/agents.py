"""Agents at work, each at one shop: most of what they do goes well, and every fault of a write is among it."""

import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from counterfoil import Effect, Recorder
from tests.faults.hands import Hands
from tests.faults.later import Later
from tests.faults.shops import Shop
from tests.faults.truth import Ledger
from tests.fix_toxiproxy import Door
from tests.waiting import wait_until

_CUT_AFTER_MS = 100


@dataclass
class Agent:
    """One agent at one shop. `accept_seconds`: by when a queue applies what it took."""

    shop: Shop
    recorder: Recorder
    ledger: Ledger
    later: Later
    accept_seconds: float
    orders: Iterator[str]
    hands: Hands = field(init=False)
    _acted: int = 0

    def work(self, effects: int) -> None:
        """Meet each fault in its turn until there were so many effects."""
        plan = itertools.cycle(_schedule())
        self.hands = self.shop.hands()
        try:
            while self._acted < effects:
                next(plan)(self)
        finally:
            self.hands.close()

    @contextmanager
    def intent(
        self, tool: str, fault: str, order: str, right: str, *, drift: bool = False, **args: str
    ) -> Iterator[Effect]:
        """An effect whose intent is durable; the block acts and ends it."""
        self._acted += 1
        with self.recorder.task("orders", task_ref=f"{self.shop.name}-{self._acted}") as task:
            effect = task.begin_effect(f"{self.shop.name}_{tool}", target=self.shop.name, args={"order": order, **args})
            yield effect
        self.ledger.note(fault, self.shop.name, effect.effect_id, order, right.split(), is_drift=drift)

    def lose_reply(self, act: Callable[[Hands], None], has_landed: Callable[[], bool]) -> None:
        """Act through a door that swallows replies, and is shut once the target has it."""
        door = self.shop.doors.lossy
        with self._behind(door) as hands, door.toxic("timeout", "downstream", timeout=0):
            acting = threading.Thread(target=_in_vain, args=[act, hands])
            acting.start()
            wait_until(has_landed)
            door.shut()
            acting.join()
        door.open()

    def lose_request(self, act: Callable[[Hands], None]) -> None:
        """Act through a door that swallows requests, and cuts."""
        door = self.shop.doors.lossy
        with self._behind(door) as hands, door.toxic("timeout", "upstream", timeout=_CUT_AFTER_MS):
            _in_vain(act, hands)

    @contextmanager
    def _behind(self, door: Door) -> Iterator[Hands]:
        hands = self.shop.hands(door)
        try:
            hands.status("spare")  # it is connected, and its request was answered
            yield hands
        finally:
            hands.close()


def _in_vain(act: Callable[[Hands], None], hands: Hands) -> None:
    try:
        act(hands)
    except Exception:  # noqa: BLE001  # each client has its own words for it
        return
    raise AssertionError("a reply came through a door that swallows it")


def overwritten(agent: Agent) -> None:
    """Two writes of one field: the first is gone, and landed all the same."""
    order = next(agent.orders)
    for status in ("packed", "shipped"):
        with agent.intent("set_status", "none", order, "applied", status=status) as effect:
            agent.hands.set_status(order, status)
            effect.ok()


def added_up(agent: Agent) -> None:
    """Two sums on one order."""
    order = next(agent.orders)
    for amount in ("12.50", "7.25"):
        with agent.intent("deposit", "none", order, "applied", amount=amount) as effect:
            agent.hands.add_paid(order, amount)
            effect.ok()


def refunded(agent: Agent) -> None:
    """Two rows by one write."""
    order = next(agent.orders)
    with agent.intent("refund", "none", order, "applied", amount="3.10") as effect:
        agent.hands.set_status(order, "refunded")
        agent.hands.add_refund(effect.key, "3.10")
        effect.ok()


def reply_lost(agent: Agent) -> None:
    """The target committed, and its reply did not arrive."""
    order = next(agent.orders)
    with agent.intent("deposit", "reply lost", order, "applied", amount="5") as effect:
        agent.lose_reply(lambda hands: hands.add_paid(order, "5"), lambda: agent.hands.paid(order) == 5)
        effect.unknown()


def never_sent(agent: Agent) -> None:
    """The request did not arrive; the agent can't tell that from a lost reply."""
    order = next(agent.orders)
    with agent.intent("deposit", "request never sent", order, "not_applied", drift=True, amount="5") as effect:
        agent.lose_request(lambda hands: hands.add_paid(order, "5"))
        effect.unknown()


def dropped(agent: Agent) -> None:
    """The target said yes and did nothing."""
    order = next(agent.orders)
    with agent.intent("set_status", "said ok, did nothing", order, "not_applied", drift=True, status="paid") as effect:
        effect.ok()


def to_be_repaired(agent: Agent) -> None:
    """The same; a person mends it later by hand."""
    order = next(agent.orders)
    with agent.intent("set_status", "manual repair", order, "not_applied applied", drift=True, status="paid") as effect:
        effect.ok()


def applied_twice(agent: Agent) -> None:
    """A retry below the agent."""
    order = next(agent.orders)
    with agent.intent("deposit", "applied twice", order, "duplicated", drift=True, amount="5") as effect:
        agent.hands.add_paid(order, "5")
        agent.hands.add_paid(order, "5")
        effect.ok()


def half_refunded(agent: Agent) -> None:
    """The first of two writes, and not the second."""
    order = next(agent.orders)
    with agent.intent("refund", "applied in part", order, "partial", drift=True, amount="4") as effect:
        agent.hands.set_status(order, "refunded")
        effect.unknown()


def half_booked(agent: Agent) -> None:
    """The second of two writes, and not the first."""
    order = next(agent.orders)
    with agent.intent("refund", "applied in part", order, "partial", drift=True, amount="4") as effect:
        agent.hands.add_refund(effect.key, "4")
        effect.ok()


def late(agent: Agent) -> None:
    """It lands after a reconciler has looked, and found nothing."""
    order = next(agent.orders)
    with agent.intent("deposit", "applied late", order, "applied", amount="5") as effect:
        effect.unknown()
        agent.later.once_seen(effect.effect_id, agent.shop, lambda hands: hands.add_paid(order, "5"))


def queued(agent: Agent) -> None:
    """Accepted, and applied by a queue before its deadline."""
    order = next(agent.orders)
    with agent.intent("set_status", "applied by a queue", order, "applied", status="booked") as effect:
        effect.accepted(deadline=timedelta(seconds=agent.accept_seconds))
        agent.later.after(agent.accept_seconds / 2, agent.shop, lambda hands: hands.set_status(order, "booked"))


def lost_in_queue(agent: Agent) -> None:
    """Accepted, and never applied."""
    order = next(agent.orders)
    with agent.intent("set_status", "lost by a queue", order, "not_applied", drift=True, status="booked") as effect:
        effect.accepted(deadline=timedelta(seconds=agent.accept_seconds))


def edited_before(agent: Agent) -> None:
    """A person changed the row, then the agent did."""
    order = next(agent.orders)
    if not agent.shop.is_exclusive:
        agent.hands.set_status(order, "held", by="person")
    with agent.intent("set_status", "edited before", order, "applied", status="paid") as effect:
        agent.hands.set_status(order, "paid")
        effect.ok()


def edited_after(agent: Agent) -> None:
    """The agent changed the row, then a person did, before anybody looked."""
    order = next(agent.orders)
    with agent.intent("set_status", "edited after", order, "applied unknowable", status="paid") as effect:
        agent.hands.set_status(order, "paid")
        if not agent.shop.is_exclusive:
            agent.hands.set_status(order, "held", by="person")
        effect.ok()


def other_value(agent: Agent) -> None:
    """Something else was written than was asked for."""
    order = next(agent.orders)
    with agent.intent("set_status", "another value", order, "mismatched", drift=True, status="paid") as effect:
        agent.hands.set_status(order, "pending")
        effect.ok()


def refused(agent: Agent) -> None:
    """A definite no, and nothing happened."""
    order = next(agent.orders)
    with agent.intent("set_status", "refused", order, "not_applied", status="paid") as effect:
        effect.failed()


def refused_and_landed(agent: Agent) -> None:
    """A no from something in between, while the target did it."""
    order = next(agent.orders)
    with agent.intent("deposit", "refused, and applied", order, "applied", drift=True, amount="5") as effect:
        agent.hands.add_paid(order, "5")
        effect.failed()


_IN_A_HUNDRED: tuple[tuple[Callable[[Agent], None], int], ...] = (
    (overwritten, 11), (added_up, 10), (refunded, 20), (reply_lost, 6), (never_sent, 4), (dropped, 3),
    (to_be_repaired, 1), (applied_twice, 3), (half_refunded, 2), (half_booked, 1), (late, 4), (queued, 3),
    (lost_in_queue, 1), (edited_before, 2), (edited_after, 2), (other_value, 2), (refused, 2), (refused_and_landed, 2),
)  # fmt: skip


def _schedule() -> list[Callable[[Agent], None]]:
    """A hundred effects, their faults spread among them."""
    waiting = [[act] * many for act, many in _IN_A_HUNDRED]
    rounds = itertools.zip_longest(*waiting)
    return [act for some in rounds for act in some if act is not None]
