"""What a log says of its producers: which numbers were given out, which are there, which are given up."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from counterfoil import Event


@dataclass
class Account:
    """Of one producer and task."""

    stored: list[int] = field(default_factory=list)  # in the order of the log, repetitions left out
    gaps: set[int] = field(default_factory=set)
    claimed: int = 0  # numbers given out, as far as claims say

    @property
    def emitted(self) -> int:
        return max(self.claimed, max(self.stored, default=-1) + 1, max(self.gaps, default=-1) + 1)

    @property
    def missing(self) -> set[int]:
        return set(range(self.emitted)) - set(self.stored) - self.gaps


Accounts = dict[tuple[bytes, bytes], Account]


def accounts_of(events: Iterable[Event]) -> Accounts:
    """By producer and task; a repetition of an event counts once."""
    accounts: Accounts = defaultdict(Account)
    seen: set[bytes] = set()
    for event in events:
        if event.event_id in seen:
            continue
        seen.add(event.event_id)
        body = event.body or {}
        accounts[event.producer_id, event.task_id].stored.append(event.seq)
        for claim in body.get("open_tasks", ()):
            account = accounts[event.producer_id, claim["task_id"]]
            account.claimed = max(account.claimed, claim["last_seq"] + 1)
        if event.kind == "gap":
            gaps = accounts[event.producer_id, body["gap_task_id"]].gaps
            gaps.update(range(body["first_seq"], body["last_seq"] + 1))
    return accounts


def assert_accounted(events: Iterable[Event]) -> Accounts:
    """Emitted = stored + gaps, exactly; no number twice; and every task's events are in their order in the log."""
    accounts = accounts_of(events)
    for key, account in accounts.items():
        assert account.missing == set(), (key, account)
        assert account.stored == sorted(set(account.stored)), (key, account)
    return accounts
