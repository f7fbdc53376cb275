"""What the reconciler says, as events: final bytes into the outbox, in the transaction of the decision."""

import datetime as dt
import json
import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from counterfoil.codec import encode
from counterfoil.event import Event
from counterfoil.framing import Framing
from counterfoil.ids import Id, new_id, partition_key, task_id_of
from counterfoil.redaction import Redaction, Redactor
from counterfoil.signing import SigningKeys
from counterfoil_consumers import outbox
from counterfoil_consumers.store import Connection, queries
from counterfoil_reconcilers.rows import RowKey

_AGENT = "counterfoil-reconciler"
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICRO = dt.timedelta(microseconds=1)


@dataclass(frozen=True)
class About:
    """What an event is about: a task, and the effect if it is about one."""

    tenant: str
    workflow: str
    task_id: Id
    task_ref: str | None = None
    effect_id: Id | None = None
    causation_id: Id | None = None


@dataclass(frozen=True)
class Ruling:
    """A verdict to be said, with what it rests on."""

    target: str
    tool: str | None
    verdict: str
    reason: str | None
    check_seq: int
    contract_version: str
    contract_digest: str
    rows: Sequence[tuple[RowKey, str | None]]
    evidence: Mapping[str, Any]


def about_target(tenant: str, target: str) -> About:
    """The reserved task of what happens at a target without any task."""
    name = f"target:{target}"
    return About(tenant, "reconcile", task_id_of(tenant, name), name)


class Emitter:
    """Numbers and encodes this process's events. One transaction at a time; `keep` its numbers, or `forget` them."""

    def __init__(
        self,
        events_topic: str,
        dead_letters_topic: str,
        environment: str,
        framing: Framing,
        redaction: Redaction,
        signing: SigningKeys,
    ) -> None:
        self._topic = events_topic
        self._dead_letters_topic = dead_letters_topic
        self._environment = environment
        self._framing = framing
        self._redaction = redaction
        self._signing = signing
        self._producer_id = new_id()
        self._seqs: defaultdict[tuple[str, Id], int] = defaultdict(int)
        self._taken: defaultdict[tuple[str, Id], int] = defaultdict(int)
        self._waiting: list[outbox.Outgoing] = []
        self._redactors: dict[tuple[str, str], Redactor] = {}  # by tenant and workflow, while a transaction lasts

    def put_all(self, store: Connection) -> None:
        """Into the outbox with all that was said; to be called in the transaction of the decisions."""
        outbox.put(store, self._waiting)
        self._waiting.clear()

    def keep(self) -> None:
        """The transaction was committed."""
        for task, count in self._taken.items():
            self._seqs[task] += count
        self._taken.clear()
        self._redactors.clear()

    def forget(self) -> None:
        """It was not."""
        self._taken.clear()
        self._waiting.clear()
        self._redactors.clear()

    def rule(self, about: About, ruling: Ruling, now: dt.datetime) -> None:
        """Say what was observed, and the verdict that follows from it."""
        read = [{"resource": row.resource, "key": list(row.key), "version": version} for row, version in ruling.rows]
        observed = {
            "target": ruling.target,
            "check_seq": ruling.check_seq,
            "observed_at": _micros(now),
            "evidence": json.dumps({"read": read}),
        }
        observation = self._put(about, "observation", observed, now)
        body = {
            "target": ruling.target,
            "tool": ruling.tool,
            "verdict": ruling.verdict,
            "reason": ruling.reason,
            "check_seq": ruling.check_seq,
            "contract_version": ruling.contract_version,
            "contract_digest": bytes.fromhex(ruling.contract_digest),
            "resources": [{"resource": row.resource, "key": row.text} for row, _ in ruling.rows],
            "evidence": json.dumps(ruling.evidence),
        }
        self._put(about, "verdict", body, now, causation_id=observation.event_id)

    def give_up(
        self, store: Connection, about: About, *, letter_class: str, reason: str, attempts: int, now: dt.datetime
    ) -> bool:
        """Put an effect whose drift persists among the dead letters: the row, the event, and the topic.

        False where it lies there already.
        """
        if store.execute(queries("reconcile")["find_open_letter"], _ids(about)).fetchone() is not None:
            return False
        letter_id = new_id()
        body = {
            "letter_id": letter_id,
            "letter_kind": "effect",
            "letter_class": letter_class,
            "reason": reason,
            "attempts": attempts,
        }
        event = self._put(about, "dead_lettered", body, now)
        key, value = partition_key(about.tenant, about.task_id), encode(event, self._framing)
        headers = [
            ("counterfoil-letter-id", letter_id.hex().encode()),
            ("counterfoil-letter-class", letter_class.encode()),
            *self._signature(about.tenant, value),
        ]
        self._waiting.append(outbox.Outgoing(self._dead_letters_topic, key, value, event.event_id, headers))
        store.execute(
            queries("reconcile")["give_up"],
            {
                **_ids(about),
                "letter_id": uuid.UUID(bytes=letter_id),
                "letter_class": letter_class,
                "reason": reason,
                "attempts": attempts,
                "key": key,
                "value": value,
                "placed_by": _AGENT,
            },
        )
        return True

    def _put(
        self,
        about: About,
        kind: str,
        body: Mapping[str, Any],
        now: dt.datetime,
        *,
        causation_id: Id | None = None,
    ) -> Event:
        task = (about.tenant, about.task_id)
        redactor = self._redactor(about)
        event = Event(
            event_id=new_id(),
            kind=kind,
            body=redactor.body(kind, body, ours=True),
            tenant=about.tenant,
            workflow=about.workflow,
            task_id=about.task_id,
            task_ref=about.task_ref,
            agent=_AGENT,
            producer_id=self._producer_id,
            seq=self._seqs[task] + self._taken[task],
            occurred_at=_micros(now),
            environment=self._environment,
            effect_id=about.effect_id,
            causation_id=causation_id or about.causation_id,
            redaction=redactor.stamp,
        )
        self._taken[task] += 1
        key = partition_key(about.tenant, about.task_id)
        value = encode(event, self._framing)
        headers = [("counterfoil-kind", kind.encode()), *self._signature(about.tenant, value)]
        self._waiting.append(outbox.Outgoing(self._topic, key, value, event.event_id, headers))
        return event

    def _redactor(self, about: About) -> Redactor:
        whose = (about.tenant, about.workflow)
        if whose not in self._redactors:
            self._redactors[whose] = self._redaction.of_task(*whose)
        return self._redactors[whose]

    def _signature(self, tenant: str, value: bytes) -> list[tuple[str, bytes]]:
        """The header that signs the final bytes, where this process has a key."""
        signer = self._signing.signer(tenant)
        if signer is None:
            return []
        name, text = signer.header(value)
        return [(name, text.encode())]


def _ids(about: About) -> dict[str, Any]:
    return {
        "tenant": about.tenant,
        "task_id": uuid.UUID(bytes=about.task_id),
        "effect_id": None if about.effect_id is None else uuid.UUID(bytes=about.effect_id),
    }


def _micros(moment: dt.datetime) -> int:
    return (moment - _EPOCH) // _MICRO
