"""Standing orders: how one is written on the control topic, and which of them are in force. Pure: no I/O, no clock."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from counterfoil.codec import decode
from counterfoil.errors import DecodeError, UsageError
from counterfoil.ids import Id
from counterfoil.jsontext import to_text
from counterfoil.scope import Acting, Scope

KIND = "control_order"
ACTION_HEADER = "counterfoil-action"
_BREAKER = "breaker:"
_ACTIONS = ("halt", "resume")


class NotAnOrder(ValueError):
    """A record of the control topic that is no order, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One order. `issued_at` is in microseconds since the epoch, by the clock of who gave it.

    `is_unread` says that a newer version wrote its body: what it does is then known from its key and header alone.
    """

    order_id: Id
    scope: str
    action: Literal["halt", "resume"]
    by: str
    reason: str | None = None
    lifts: frozenset[Id] = frozenset()
    issued_at: int = 0
    is_unread: bool = False
    _parsed: Scope = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_parsed", _parsed(self.scope))

    @property
    def is_of_breaker(self) -> bool:
        """Whether a program gave it, and not a person."""
        return is_breaker(self.by)

    def covers(self, acting: Acting) -> bool:
        """Whether its scope means this write; a scope that can't be read here means every one."""
        return self._parsed.covers(acting)

    def concerns(self, tenant: str) -> bool:
        """Whether it may mean writes of `tenant`."""
        return self._parsed.concerns(tenant)

    @property
    def tenant(self) -> str | None:
        """The tenant that its scope is of; None for everything, and for a scope that can't be read here."""
        return self._parsed.tenant

    def may_lift(self, halt: Self) -> bool:
        """Whether this resume takes `halt` away: it names it, has its scope, and is no breaker's on another's order."""
        is_allowed = not self.is_of_breaker or self.by == halt.by
        return halt.order_id in self.lifts and self.scope == halt.scope and is_allowed

    def body(self) -> dict[str, Any]:
        """The fields of the event."""
        return {
            "order_id": self.order_id,
            "scope": self.scope,
            "action": self.action,
            "by": self.by,
            "reason": self.reason,
            "lifts": sorted(self.lifts),
        }

    def standing_keys(self) -> list[bytes]:
        """The keys under which it stands: its own, or those of the halts that it takes the place of."""
        return [key_of(self.scope, order_id) for order_id in sorted(self.lifts) or [self.order_id]]


def _parsed(scope: str) -> Scope:
    """The scope, or everything where this version can't read it: who may be meant, stops."""
    try:
        return Scope.parse(scope)
    except UsageError:
        return Scope("everything")


def is_breaker(by: str) -> bool:
    """Whether `by` names a program that halts and resumes by itself."""
    return by.startswith(_BREAKER)


def breaker_named(name: str) -> str:
    """What the orders of the breaker `name` have as `by`."""
    return _BREAKER + name


def key_of(scope: str, order_id: Id) -> bytes:
    """The key on the control topic: scope, slash, 32 hex digits of the halt."""
    return f"{to_text(scope)}/{order_id.hex()}".encode()


def read_order(key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes | str | None]] = ()) -> Order:
    """The order in one record of the control topic.

    Raises NotAnOrder.
    """
    scope, halt_id = _read_key(key)
    if value is None:
        raise NotAnOrder("it has no value; a halt is lifted by a resume, not by taking it out of the topic")
    try:
        event = decode(value)
    except DecodeError as error:
        raise NotAnOrder(str(error)) from error
    if event.kind != KIND:
        raise NotAnOrder(f"its kind is {event.kind[:60]!r}")
    if event.body is None:
        return _unread(scope, halt_id, event.occurred_at, dict(headers))
    body = event.body
    if body["action"] not in _ACTIONS:
        raise NotAnOrder(f"its action {body['action'][:60]!r} is none of {', '.join(_ACTIONS)}")
    order = Order(
        order_id=body["order_id"],
        scope=body["scope"],
        action=body["action"],
        by=body["by"],
        reason=body["reason"],
        lifts=frozenset(body["lifts"]),
        issued_at=event.occurred_at,
    )
    if (order.action == "halt") == bool(order.lifts):
        raise NotAnOrder(f"a {order.action} that names {len(order.lifts)} halts to lift")
    if key not in order.standing_keys():
        raise NotAnOrder("its key and its body disagree on the scope or the order")
    return order


def _read_key(key: bytes | None) -> tuple[str, Id]:
    try:
        scope, _, digits = (key or b"").decode().rpartition("/")
        order_id = bytes.fromhex(digits)
    except ValueError as error:
        raise NotAnOrder("its key is not scope/order_id") from error
    if len(order_id) != 16 or not scope:
        raise NotAnOrder("its key is not scope/order_id")
    return scope, order_id


def _unread(scope: str, halt_id: Id, issued_at: int, headers: dict[str, bytes | str | None]) -> Order:
    """An order whose body only a newer version reads: a halt unless the header says that it is none."""
    said = headers.get(ACTION_HEADER)
    is_resume = said in (b"resume", "resume")
    return Order(
        order_id=halt_id,
        scope=scope,
        action="resume" if is_resume else "halt",
        by="someone whose version of Counterfoil is newer",
        lifts=frozenset([halt_id]) if is_resume else frozenset(),
        issued_at=issued_at,
        is_unread=True,
    )


class StandingOrders:
    """All orders seen, folded: neither their order nor repetitions matter. Not thread-safe."""

    def __init__(self, orders: Iterable[Order] = ()) -> None:
        self._halts: dict[Id, Order] = {}
        self._resumes: defaultdict[Id, list[Order]] = defaultdict(list)
        for order in orders:
            self.add(order)

    def add(self, order: Order) -> bool:
        """Take up one order; False if it was known, or repeats the id of another."""
        if order.action == "halt":
            return self._halts.setdefault(order.order_id, order) is order
        is_new = False
        for order_id in order.lifts:
            if order not in self._resumes[order_id]:
                self._resumes[order_id].append(order)
                is_new = True
        return is_new

    def in_force(self) -> tuple[Order, ...]:
        """The halts that nobody entitled has lifted, oldest first."""
        standing = (
            halt
            for halt in self._halts.values()
            if not any(resume.may_lift(halt) for resume in self._resumes.get(halt.order_id, ()))
        )
        return tuple(sorted(standing, key=lambda halt: (halt.issued_at, halt.order_id)))
