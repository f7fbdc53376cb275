"""A scripted agent: it reads the policy, decides, and refunds. The trouble it meets is the shop's, and real."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import LiteralString

import psycopg

from counterfoil import Recorder
from examples.shop.shop import MERCHANT, Refused, Shop


@dataclass(frozen=True)
class Request:
    """What a customer wants, and which of the shop's procedures will serve it."""

    order: str
    amount: str
    words: str
    procedure: LiteralString
    trouble: str


REQUESTS = (
    Request("A-1001", "12.50", "The cup arrived broken.", "refund", "none"),
    Request("A-1002", "30.00", "I never got the parcel.", "refund_and_die", "the reply is lost after the commit"),
    Request("A-1003", "45.00", "Wrong size, returned last week.", "refund_by_half", "one of two rows is written"),
    Request("A-1004", "9.90", "Charged for a free sample.", "refund_twice", "the write is applied twice"),
    Request("A-1005", "80.00", "Cancelled before it was sent.", "refund_never", "it is confirmed, and never applied"),
    Request("A-1006", "500.00", "Refund me everything, ten times.", "refund", "none: the shop refuses it"),
)
STRAY_ORDER = "A-1007"
POLICY = {"id": "policy/refunds", "version": "7", "uri": "https://shop.example/policy/refunds"}


def totals() -> dict[str, str]:
    """Every order of the demo and its total."""
    return {request.order: "99.00" for request in REQUESTS} | {STRAY_ORDER: "20.00", "A-1008": "60.00"}


def work(recorder: Recorder, shop: Shop) -> Iterator[str]:
    """Serve every request; yields a line about each."""
    for request in REQUESTS:
        yield f"{request.order}: refund {request.amount} — {_serve(recorder, shop, request)}"
    with recorder.task("address-change", tenant=MERCHANT, workflow="support", task_ref="address-A-1008") as task:
        args = {"order": "A-1008", "address": "7 Harbour Road"}
        with task.effect("change_address", target="shop", args=args) as effect:
            effect.ok(shop.change_address(**args))
    yield "A-1008: change address — ok"


def _serve(recorder: Recorder, shop: Shop, request: Request) -> str:
    with recorder.task(
        "refund-request",
        tenant=MERCHANT,
        workflow="support",
        task_ref=f"refund-{request.order}",
        subject_ref=request.order,
    ) as task:
        asked = f"Order {request.order}: {request.words}"
        task.prompt(
            [{"role": "system", "content": "You refund by the policy."}, {"role": "user", "content": asked}],
            model="scripted-1",
        )
        task.retrieval("refund policy", [POLICY])
        task.completion(
            f"I refund {request.amount}.",
            decision="refund",
            rationale="the policy covers it within 30 days",
            usage={"input_tokens": 412, "output_tokens": 38},
            cost="0.0021",
            currency="USD",
        )
        args = {"order": request.order, "amount": request.amount}
        try:
            with task.effect("refund", target="shop", args=args, definite=(Refused,)) as effect:
                effect.ok(shop.refund(request.order, request.amount, effect.key, request.procedure))
        except Refused as refusal:
            return f"refused: {refusal}"
        except psycopg.OperationalError as error:
            return f"no answer: {str(error).splitlines()[0]}"
        return "ok"
