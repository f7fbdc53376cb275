"""Any events, holds and rules, in any order: what is left is what a model of a few lines leaves."""

import datetime as dt
import itertools
from dataclasses import dataclass, field

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from counterfoil import Event
from counterfoil_consumers.retention import Scope, place_hold, release_hold
from counterfoil_consumers.store import Connection
from tests.consumers.past import event_of, ids, keep, months_ago, run_retention, store

CLASSES = itertools.count()
TENANTS, WORKFLOWS = ("acme", "globex"), ("support", "billing")
Moment = tuple[int, int]  # months ago, day
MOMENTS = st.tuples(st.integers(0, 13), st.integers(2, 27))
EVENTS = st.lists(
    st.tuples(MOMENTS, MOMENTS, st.sampled_from(TENANTS), st.sampled_from(WORKFLOWS)), min_size=1, max_size=12
)
HOLDS = st.lists(st.tuples(st.sampled_from(TENANTS), st.none() | st.sampled_from(WORKFLOWS), st.none() | MOMENTS))
RULES = st.lists(st.tuples(st.none() | st.integers(1, 13), st.booleans()), min_size=1, max_size=3)


@dataclass
class Model:
    """Events and when the brokers took them, in leaves and held; and the holds in force."""

    leaves: dict[dt.datetime, list[tuple[Event, dt.datetime]]] = field(default_factory=dict)
    held: list[tuple[Event, dt.datetime]] = field(default_factory=list)
    holds: dict[int, Scope] = field(default_factory=dict)

    def run(self, kept_since: dt.datetime | None) -> None:
        """What a run may drop."""
        if kept_since is None:
            return
        for month, its in list(self.leaves.items()):
            ends = (month + dt.timedelta(days=31)).replace(day=1)
            if ends <= kept_since and all(took <= kept_since for _, took in its):
                self.held += its
                del self.leaves[month]
        self.held = [(one, took) for one, took in self.held if took > kept_since or self._is_covered(one, took)]

    def _is_covered(self, one: Event, took: dt.datetime) -> bool:
        latest = max(one.occurred_at, int(took.timestamp() * 1e6))
        return any(
            hold.tenant == one.tenant
            and hold.workflow in (None, one.workflow)
            and (hold.from_at is None or latest >= hold.from_at.timestamp() * 1e6)
            for hold in self.holds.values()
        )

    def left(self) -> set[bytes]:
        """The ids of all that is left."""
        return {one.event_id for one, _ in itertools.chain(self.held, *self.leaves.values())}


def kept_since(operator: Connection, name: str) -> dt.datetime | None:
    [rule] = operator.execute("SELECT kept_since FROM retention_rule WHERE retention_class = %s", [name]).fetchall()
    found: dt.datetime | None = rule["kept_since"]
    return found


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(EVENTS, HOLDS, RULES)
def test_what_is_left_is_what_is_held_or_younger(
    database: str,
    operator: Connection,
    events: list[tuple[Moment, Moment, str, str]],
    holds: list[tuple[str, str | None, Moment | None]],
    rules: list[tuple[int | None, bool]],
) -> None:
    name, model = f"c{next(CLASSES)}", Model()
    operator.execute("INSERT INTO tenant (tenant) VALUES ('acme'), ('globex') ON CONFLICT DO NOTHING")
    keep(operator, None, name)
    for made, arrived, tenant, workflow in events:
        one, took = (
            event_of(months_ago(*made), tenant=tenant, workflow=workflow, retention_class=name),
            months_ago(*arrived),
        )
        store(database, [one], [took])
        model.leaves.setdefault(months_ago(made[0], 1), []).append((one, took))
    stored = ids(operator, "every_event")
    for of_tenant, of_workflow, begins in holds:
        scope = Scope(of_tenant, of_workflow, from_at=None if begins is None else months_ago(*begins))
        model.holds[place_hold(operator, scope, "a claim", "dana")] = scope
    for months, is_released in [*rules, (None, True), (1, True), (1, True)]:
        keep(operator, months, name)
        if is_released and model.holds:
            release_hold(operator, model.holds.popitem()[0], "settled", "dana")
        run_retention(database)
        model.run(kept_since(operator, name))
        of_class = {
            row["event_id"].bytes
            for row in operator.execute("SELECT event_id FROM every_event WHERE retention_class = %s", [name])
        }
        assert of_class == model.left()
        gone = ids(operator, "event_hash") | ids(operator, "every_event")
        assert stored <= gone
    for hold in model.holds:
        release_hold(operator, hold, "all is settled", "dana")
