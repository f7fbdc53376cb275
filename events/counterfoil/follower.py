"""A session's eye on the control topic: what stops a write now, and who is told that we know it.

One thread reads, keeps the halts in force as a tuple that any thread may look at without a lock, and acknowledges each
order once per tenant, on the producer's reserved task.
"""

import asyncio
import contextlib
import logging
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Protocol

from counterfoil.control import ControlLog, now
from counterfoil.errors import ControlStale, Halted
from counterfoil.ids import Id
from counterfoil.jsontext import to_json_text
from counterfoil.orders import Order, StandingOrders
from counterfoil.scope import Acting
from counterfoil.settings import WhenStale

logger = logging.getLogger("counterfoil")

_POLL_SECONDS = 0.1
_WAIT_SECONDS = 0.01
_RETRY_SECONDS = 1.0
_ASKS_PER_STALENESS = 4  # a state is at most half as old as it may be while the brokers answer
_MAX_ASK_SECONDS = 2.0
CLIENT = f"counterfoil-python/{version('counterfoil')}"


class Acknowledging(Protocol):
    """Records that this client knows an order."""

    def greeted(self) -> Collection[str]:
        """The tenants for which it has recorded anything."""

    def acknowledge(self, tenant: str, body: Mapping[str, Any], /) -> None:
        """Record one control_ack on the producer's own task at `tenant`."""


@dataclass(frozen=True, slots=True)
class Knowledge:
    """The halts in force, and the moment (by `control.now`) of which that is certain; None if of none."""

    in_force: tuple[Order, ...] = ()
    checked_at: float | None = None


NOTHING_KNOWN = Knowledge()


class Follower:
    """Follows the control topic in a thread of its own. What other threads call takes no lock.

    `stale_after_seconds` is how old its knowledge may be, `control_timeout_seconds` how long the first write of the
    process may wait for it. `inherited` is what a parent before its fork, or an earlier session, knew.
    """

    def __init__(
        self,
        log: ControlLog,
        acknowledging: Acknowledging,
        *,
        stale_after_seconds: float,
        control_timeout_seconds: float,
        inherited: Knowledge = NOTHING_KNOWN,
    ) -> None:
        self._log = log
        self._acknowledging = acknowledging
        self._stale_after_seconds = stale_after_seconds
        self._started_at = now()
        self._wait_until = self._started_at + control_timeout_seconds
        self._ask_every = stale_after_seconds / _ASKS_PER_STALENESS
        self._ask_timeout_seconds = min(_MAX_ASK_SECONDS, max(1.0, self._ask_every))
        self._orders = StandingOrders(inherited.in_force)
        self._known = inherited  # replaced whole, so that it is read without a lock
        self._acknowledged: set[tuple[Id, str]] = set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="counterfoil-control", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def stop(self) -> None:
        """Have the thread end."""
        self._stopping.set()

    def join(self, timeout_seconds: float) -> None:
        """Wait for its end a while; it never keeps the process alive."""
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_seconds)

    @property
    def known(self) -> Knowledge:
        """What it knows now."""
        return self._known

    @property
    def is_known(self) -> bool:
        """Whether the topic was read to its end once, by this session or one before."""
        return self._known.checked_at is not None

    def wait(self) -> None:
        """Wait until the orders are known; no longer than `control_timeout_seconds` after the start."""
        while self._is_to_wait():
            self._stopping.wait(_WAIT_SECONDS)

    async def wait_async(self) -> None:
        """As `wait`, without blocking the event loop."""
        while self._is_to_wait():
            await asyncio.sleep(_WAIT_SECONDS)

    def _is_to_wait(self) -> bool:
        return not self.is_known and now() < self._wait_until and not self._stopping.is_set()

    def refusal(self, acting: Acting, when_stale: WhenStale) -> Halted | None:
        """What stops this write now, if anything."""
        known = self._known
        for halt in known.in_force:
            if halt.covers(acting):
                return _halted(acting, halt)
        if when_stale == "stop" and (known.checked_at is None or now() - known.checked_at > self._stale_after_seconds):
            return self._stale(acting, known.checked_at)
        return None

    def _stale(self, acting: Acting, checked_at: float | None) -> ControlStale:
        age = f"for {now() - (self._started_at if checked_at is None else checked_at):.1f} s"
        since = "since this process began, " + age if checked_at is None else age
        return ControlStale(
            f"{acting.tool} did not run: {since} nobody could have halted it ({self._log.problem or 'no answer'}), and "
            f"{self._stale_after_seconds:g} s are allowed; check the brokers and the topic, or set "
            "when_stale = 'go_on' for tools that may run without",
            order_id=None,
            scope="everything",
            by="policy:when_stale",
            reason="the standing orders are not known",
        )

    # -- the thread

    def _follow(self) -> None:
        while not self._stopping.is_set():
            try:
                self._log.start(self._ask_timeout_seconds)
                self._read()
            except Exception as error:  # noqa: BLE001  # a follower that ends would leave writes to a stale state
                logger.error("following the control topic failed, and goes on: %r", error)  # noqa: TRY400  # no secrets
                self._stopping.wait(_RETRY_SECONDS)
        with contextlib.suppress(Exception):
            self._log.close()

    def _read(self) -> None:
        ask_at = now() + min(_RETRY_SECONDS, self._ask_every)
        while not self._stopping.is_set():
            order = self._log.next_order(_POLL_SECONDS)
            # Only when no order is at hand: one that was just read would wait with its acknowledgement.
            if order is None and now() >= ask_at:
                self._log.ask(self._ask_timeout_seconds)
                failed = self._log.problem is not None or not self.is_known
                ask_at = now() + (min(_RETRY_SECONDS, self._ask_every) if failed else self._ask_every)
            self._take_up(order)

    def _take_up(self, order: Order | None) -> None:
        is_new = order is not None and self._orders.add(order)
        self._publish(is_new)
        if self.is_known:
            self._acknowledge(self._known.in_force)
        if is_new and order is not None and order.action == "resume" and self._log.checked_at is not None:
            self._acknowledge([order])

    def _publish(self, is_changed: bool) -> None:
        in_force = self._orders.in_force() if is_changed else self._known.in_force
        checked_at = self._log.checked_at if self._log.checked_at is not None else self._known.checked_at
        if is_changed or checked_at != self._known.checked_at:
            self._known = Knowledge(in_force, checked_at)

    def _acknowledge(self, orders: Collection[Order]) -> None:
        if not orders:
            return
        for tenant in self._acknowledging.greeted():
            for order in orders:
                if order.concerns(tenant) and (order.order_id, tenant) not in self._acknowledged:
                    self._acknowledging.acknowledge(tenant, {"order_id": order.order_id, "client": CLIENT})
                    self._acknowledged.add((order.order_id, tenant))


def _halted(acting: Acting, halt: Order) -> Halted:
    return Halted(
        f"{acting.tool} did not run: {halt.by} halted {halt.scope} ({halt.reason or 'no reason given'}); try again "
        f"once order {halt.order_id.hex()} is lifted by `counterfoil resume`",
        order_id=halt.order_id,
        scope=halt.scope,
        by=halt.by,
        reason=halt.reason,
    )


def denial_body(refusal: Halted, tool: str, effect: str) -> dict[str, Any]:
    """The body of the denial that a refused write leaves."""
    order = None if refusal.order_id is None else refusal.order_id.hex()
    return {
        "about": tool,
        "by": refusal.by,
        "reason": refusal.reason,
        "details": to_json_text({"order": order, "scope": refusal.scope, "effect": effect}),
    }
