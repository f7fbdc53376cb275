"""Gives standing orders, with nothing but the brokers: whoever halts in an incident depends on no store and no spool.

The order is one event, written twice: first to the control topic, where every client reads it, then to the log of
record, on the reserved task `control` of the scope's tenant. What is for everything is no tenant's to see: its task is
that of the reserved tenant `_operators`. No Schema Registry is asked either: an order names its schema by fingerprint.
"""

import logging
import secrets
import time
from collections.abc import Iterable

from pydantic import SecretStr

from counterfoil.codec import encode
from counterfoil.confirming import ConfirmedSender, Headers
from counterfoil.control import read_standing_orders
from counterfoil.errors import ControlAway, UsageError
from counterfoil.event import Event
from counterfoil.ids import OPERATORS, new_id, partition_key, task_id_of
from counterfoil.jsontext import to_text
from counterfoil.orders import ACTION_HEADER, KIND, Order, StandingOrders, breaker_named, is_breaker
from counterfoil.redaction import Redaction
from counterfoil.scope import Scope
from counterfoil.settings import RecorderSettings
from counterfoil.signing import signing_keys_of
from counterfoil_schemas import topics

logger = logging.getLogger("counterfoil")

CONTROL_TASK = "control"
_MAX_REASON_CHARACTERS = 2_000


class OrderDesk:
    """Gives orders on the brokers of `settings`. Not thread-safe.

    `timeout_seconds` is how long the brokers may take for each step.
    """

    def __init__(self, settings: RecorderSettings, *, timeout_seconds: float = 10) -> None:
        self._settings = settings
        self._timeout_seconds = timeout_seconds
        declared = topics(settings.profile, settings.topic_prefix)
        self._control, self._events = declared["control"].name, declared["events"].name
        self._producer_id = new_id()
        self._seqs: dict[str, int] = {}
        self._sender = ConfirmedSender(settings.kafka, "counterfoil-orders", timeout_seconds)
        self._redaction = redaction_of_a_person(settings)
        self._signing = signing_keys_of(settings)

    def standing(self) -> StandingOrders:
        """All orders there are now.

        Raises ControlAway.
        """
        return read_standing_orders(self._settings.kafka, self._control, self._timeout_seconds)

    def halt(self, scope: Scope, *, by: str, reason: str) -> Order:
        """Stop the writes of a scope, until the halt is lifted.

        Raises UsageError without a reason or a name, and ControlAway when the brokers do not take the order.
        """
        order = Order(order_id=new_id(), scope=str(scope), action="halt", by=by, reason=reason, issued_at=_micros())
        self._give(order)
        return order

    def resume(self, halts: Iterable[Order], *, by: str, reason: str) -> Order:
        """Lift halts, all of one scope, in one order.

        Raises UsageError when a breaker would lift another's order, and ControlAway.
        """
        lifted = list(halts)
        if len({halt.scope for halt in lifted}) != 1:
            raise UsageError("a resume lifts at least one halt, and all of one scope")
        order = Order(
            order_id=new_id(),
            scope=lifted[0].scope,
            action="resume",
            by=by,
            reason=reason,
            lifts=frozenset(halt.order_id for halt in lifted),
            issued_at=_micros(),
        )
        others = [halt for halt in lifted if not order.may_lift(halt)]
        if others:
            raise UsageError(
                f"{by} may not lift order {others[0].order_id.hex()} by {others[0].by}: a breaker lifts its own only"
            )
        self._give(order)
        return order

    def _give(self, order: Order) -> None:
        for what, text in (("a name", order.by), ("a reason", order.reason)):
            if not text or not text.strip():
                raise UsageError(f"an order has {what}")
            if len(text) > _MAX_REASON_CHARACTERS:
                raise UsageError(
                    f"{what} has at most {_MAX_REASON_CHARACTERS} characters, and this one has {len(text)}"
                )
        event = self._event(order)
        value = encode(event)
        headers: Headers = [("counterfoil-kind", KIND), (ACTION_HEADER, order.action)]
        signer = self._signing.signer(event.tenant)
        if signer is not None:
            headers.append(signer.header(value))
        problem = self._sender.send([(self._control, key, value) for key in order.standing_keys()], headers)
        if problem is not None:
            raise ControlAway(
                f"the brokers did not confirm the {order.action} of {order.scope} within {self._timeout_seconds:g} s "
                f"({problem}), so whether it stands is not known; look with `counterfoil halts`, and give it again"
            )
        problem = self._sender.send([(self._events, partition_key(event.tenant, event.task_id), value)], headers)
        if problem is not None:
            logger.warning("order %s stands, but is not in the log of record: %s", order.order_id.hex(), problem)

    def _event(self, order: Order) -> Event:
        tenant = order.tenant or OPERATORS
        redactor = self._redaction.of_task(tenant, CONTROL_TASK)
        seq = self._seqs.get(tenant, 0)
        self._seqs[tenant] = seq + 1
        return Event(
            event_id=new_id(),
            kind=KIND,
            body=order.body() | {"by": to_text(order.by), "reason": redactor.text(to_text(order.reason or ""))},
            tenant=tenant,
            workflow=CONTROL_TASK,
            task_id=task_id_of(tenant, CONTROL_TASK),
            task_ref=CONTROL_TASK,
            agent="counterfoil-control",
            environment=self._settings.environment,
            producer_id=self._producer_id,
            seq=seq,
            occurred_at=order.issued_at,
            redaction=redactor.stamp,
        )


class Breaker:
    """A program that halts by itself, and lifts what it halted; never what a person or another breaker did.

    Several processes may be one breaker: what one of them halted, each may lift.
    """

    def __init__(self, name: str, desk: OrderDesk) -> None:
        self.by = breaker_named(name)
        self._desk = desk

    def trip(self, scope: Scope, *, reason: str) -> Order:
        """Halt a scope.

        Raises ControlAway.
        """
        return self._desk.halt(scope, by=self.by, reason=reason)

    def release(self, scope: Scope, *, reason: str) -> Order | None:
        """Lift this breaker's own halts of exactly this scope; None if there are none.

        Raises ControlAway.
        """
        own = [halt for halt in self._desk.standing().in_force() if halt.scope == str(scope) and halt.by == self.by]
        return self._desk.resume(own, by=self.by, reason=reason) if own else None


def refuse_breaker(by: str) -> str:
    """`by`, if it is a person's.

    Raises UsageError: a person whose orders looked like a breaker's would lose them to it.
    """
    if is_breaker(by):
        raise UsageError(f"{by!r} is the name of a breaker; give a person's with --by")
    return by


def halts_of_people(halts: Iterable[Order], scope: Scope) -> list[Order]:
    """Those of exactly this scope that people gave."""
    return [halt for halt in halts if halt.scope == str(scope) and not halt.is_of_breaker]


def redaction_of_a_person(settings: RecorderSettings) -> Redaction:
    """The policy. Whoever halts needs no identity key; without it, tokens of secrets in reasons join to nothing."""
    if settings.identity_key is None:
        settings = settings.model_copy(update={"identity_key": SecretStr(secrets.token_hex())})
    return Redaction(settings)


def _micros() -> int:
    return time.time_ns() // 1000
