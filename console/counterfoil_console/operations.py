"""What people decide on drift: somebody has seen it, or it is settled.

A decision is an event in the log, of kind `operation`, about the very verdict that was in force; ingest folds it, and a
later verdict is drift again. Nothing is written to the store from here.
"""

import json
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from counterfoil.codec import encode
from counterfoil.confirming import ConfirmedSender, Headers
from counterfoil.errors import CounterfoilError, UsageError
from counterfoil.event import Event
from counterfoil.ids import Id, new_id, partition_key, task_id_of
from counterfoil.issuing import redaction_of_a_person
from counterfoil.jsontext import to_text
from counterfoil.settings import RecorderSettings
from counterfoil.signing import VARIABLE, SigningKeys, signing_keys_of
from counterfoil_consumers.store import Connection, fetch_one, queries
from counterfoil_schemas import topics

KIND = "operation"
Operation = Literal["acknowledge", "resolve"]

_TIMEOUT_SECONDS = 10.0
_AGENT = "counterfoil-console"
_MAX_TEXT_CHARACTERS = 2_000
_FEWEST_DIGITS = 4
_ID_DIGITS = 32
_DIGITS = frozenset("0123456789abcdef")


class DriftNotFound(CounterfoilError):
    """Nothing, or more than one thing, in drift has this id."""


class OperationUnconfirmed(CounterfoilError):
    """The brokers did not confirm an operation, so whether it is in the log is not known."""


class Repaired(NamedTuple):
    """A row that a person repaired by hand; `key` is JSON text, as the store has it."""

    resource: str
    key: str


@dataclass(frozen=True)
class Decision:
    """What a person says of one verdict: a row of `find_drift`.

    `check_seq` is of the latest check of the target that may have begun: it bounds what a repair explains.
    """

    operation: Operation
    about: Mapping[str, Any]
    by: str
    reason: str
    repaired: Repaired | None = None
    check_seq: int | None = None


def find_drift(store: Connection, given: str, tenant: str | None = None) -> dict[str, Any]:
    """What is in drift under an id, or under its first digits.

    Raises UsageError for what is no id, and DriftNotFound, which says why.
    """
    digits = given.replace("-", "").lower()
    if not _FEWEST_DIGITS <= len(digits) <= _ID_DIGITS or not _DIGITS.issuperset(digits):
        raise UsageError(
            f"{given[:60]!r} is no id; give {_FEWEST_DIGITS} to {_ID_DIGITS} hex digits, as `counterfoil drift` does"
        )
    first, last = (uuid.UUID(digits.ljust(_ID_DIGITS, filler)) for filler in "0f")
    where = {"tenant": tenant, "first": first, "last": last}
    found = store.execute(queries("console")["find_drift"], where).fetchall()
    standing = [row for row in found if row["drift"]]
    if len(standing) == 1:
        return standing[0]
    if not found:
        raise DriftNotFound(f"the store has neither an effect nor a change {given!r}; see `counterfoil drift`")
    if len(standing) > 1 or len(found) > 1:
        named = ", ".join(f"{row['drift_id'].hex} of {row['tenant']}" for row in (standing or found)[:5])
        raise DriftNotFound(f"{given!r} means several: {named}; give more digits, or --tenant")
    raise DriftNotFound(_why_not(found[0]))


def _why_not(row: Mapping[str, Any]) -> str:
    name = row["drift_id"].hex
    if row["resolved_at"] is not None:
        when = f"{row['resolved_at']:%Y-%m-%d %H:%M} UTC"
        return f"{name} was resolved already, {when} by {row['resolved_by']}: {row['resolve_reason']}"
    if row["is_explained"]:
        return f"{name} is explained by a repair of its row, and so no drift; see `counterfoil history`"
    if row["verdict"] is None:
        return f"{name} is not in drift: nothing was judged of it yet"
    return f"{name} is not in drift: the agent said {row['outcome']}, {row['target']} says {row['verdict']}"


def checks_begun(store: Connection, tenant: str, target: str) -> int:
    """The latest check of a target that may have begun by now: one may begin before what is said now is in the log."""
    row = fetch_one(store, queries("console")["read_check_seq"], {"tenant": tenant, "target": target})
    return int(row["check_seq"]) + 1


class OperationDesk:
    """Says what people decide. Not thread-safe.

    `timeout_seconds` is how long the brokers may take for one decision.
    """

    def __init__(self, settings: RecorderSettings, *, timeout_seconds: float | None = None) -> None:
        self._environment = settings.environment
        self._topic = topics(settings.profile, settings.topic_prefix)["events"].name
        self._sender = ConfirmedSender(settings.kafka, "counterfoil-operations", timeout_seconds or _TIMEOUT_SECONDS)
        self._redaction = redaction_of_a_person(settings)
        self._signing = signing_keys_of(settings)
        self._producer_id = new_id()
        self._seqs: dict[tuple[str, Id], int] = {}

    def say(self, decision: Decision) -> Event:
        """Put a decision into the log.

        Raises UsageError without a name or a reason, and OperationUnconfirmed.
        """
        refuse_unsaid(decision.by, decision.reason)
        event = self._event(decision)
        value = encode(event)
        headers: Headers = [("counterfoil-kind", KIND)]
        signer = self._signing.signer(event.tenant)
        if signer is not None:
            headers.append(signer.header(value))
        problem = self._sender.send([(self._topic, partition_key(event.tenant, event.task_id), value)], headers)
        if problem is not None:
            raise OperationUnconfirmed(
                f"the brokers did not confirm it for {decision.about['drift_id'].hex} ({problem}), so whether it is "
                "said is not known; look with `counterfoil drift`, and say it again"
            )
        return event

    def _event(self, decision: Decision) -> Event:
        about = decision.about
        tenant, workflow, task_id = about["tenant"], about["workflow"], _task_of(about)
        redactor = self._redaction.of_task(tenant, workflow)
        seq = self._seqs.get((tenant, task_id), 0)
        self._seqs[tenant, task_id] = seq + 1
        return Event(
            event_id=new_id(),
            kind=KIND,
            body=redactor.body(KIND, _body(decision), ours=True),
            tenant=tenant,
            workflow=workflow,
            task_id=task_id,
            task_ref=None if about["task_id"] is not None else f"target:{about['target']}",
            agent=_AGENT,
            environment=self._environment,
            producer_id=self._producer_id,
            seq=seq,
            occurred_at=time.time_ns() // 1000,
            effect_id=None if about["effect_id"] is None else about["effect_id"].bytes,
            causation_id=about["verdict_event_id"].bytes,
            redaction=redactor.stamp,
        )


def refuse_unsaid(by: str, reason: str) -> None:
    """Raise UsageError where a decision has no name or no reason, or one that is too long."""
    for what, text in (("a name", by), ("a reason", reason)):
        if not text.strip():
            raise UsageError(f"a decision has {what}; give it with --{'by' if what == 'a name' else 'reason'}")
        if len(text) > _MAX_TEXT_CHARACTERS:
            raise UsageError(f"{what} has at most {_MAX_TEXT_CHARACTERS} characters, and this one has {len(text)}")


def refuse_unsigned(store: Connection, keys: SigningKeys, tenants: Iterable[str]) -> None:
    """Raise UsageError where a tenant's records must be signed and no key is here: ingest would not believe them."""
    rows = store.execute(queries("console")["list_tenant_keys"]).fetchall()
    signed = {row["tenant"] for row in rows if row["valid_from"] <= row["read_at"]}
    for tenant in sorted(signed & set(tenants)):
        if keys.signer(tenant) is None:
            raise UsageError(f"records of {tenant} must be signed, and there is no key for it here; set {VARIABLE}")


def _task_of(about: Mapping[str, Any]) -> Id:
    """The effect's task, or the reserved one of what happens at a target without any."""
    task_id: uuid.UUID | None = about["task_id"]
    return task_id_of(about["tenant"], f"target:{about['target']}") if task_id is None else task_id.bytes


def _body(decision: Decision) -> dict[str, Any]:
    about, repaired = decision.about, decision.repaired
    before = {name: about[name] for name in ("outcome", "verdict", "check_seq", "acked_by") if about[name] is not None}
    after = {"acknowledge": "acknowledged", "resolve": "resolved"}[decision.operation]
    return {
        "operation": decision.operation,
        "by": to_text(decision.by),
        "reason": to_text(decision.reason),
        "before": json.dumps(before),
        "after": json.dumps({"drift": after}),
        "verdict_event_id": about["verdict_event_id"].bytes,
        "target": about["target"],
        "check_seq": decision.check_seq,
        "resources": [] if repaired is None else [{"resource": repaired.resource, "key": repaired.key}],
    }


def decisions_on(
    store: Connection,
    operation: Operation,
    ids: Iterable[str],
    tenant: str | None,
    by: str,
    reason: str,
    repaired: Repaired | None = None,
) -> Sequence[Decision]:
    """One decision for each of the ids, all of them in drift.

    Raises UsageError and DriftNotFound: then nothing is to be said of any.
    """
    refuse_unsaid(by, reason)
    found = [find_drift(store, given, tenant) for given in ids]
    rows = list({(row["tenant"], row["drift_id"]): row for row in found}.values())
    if repaired is None:
        return [Decision(operation, row, by, reason) for row in rows]
    places = sorted({(row["tenant"], row["target"]) for row in rows})
    if len(places) > 1:
        told = " and ".join(f"{target} of {tenant}" for tenant, target in places)
        raise UsageError(f"a row is repaired at one target, and these are of {told}; resolve them one by one")
    seq = checks_begun(store, *places[0])
    return [Decision(operation, row, by, reason, repaired, seq) for row in rows]
