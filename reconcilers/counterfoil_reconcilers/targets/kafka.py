"""Kafka as a target: a topic's messages as rows, each of them or the latest of each key.

Every call first reads on to the end that the topic has then, committed messages only, and answers from memory.
"""

import datetime as dt
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from counterfoil_reconcilers.contract_files import did_you_mean
from counterfoil_reconcilers.contract_kinds import Capabilities
from counterfoil_reconcilers.contracts import ContractError, Contracts, Resource
from counterfoil_reconcilers.rows import Row, RowKey
from counterfoil_reconcilers.targets.kafka_log import Brokers, Limits, Reading, TopicLog
from counterfoil_reconcilers.targets.kafka_options import KafkaConnection, KafkaResource
from counterfoil_reconcilers.targets.kafka_schemas import Schemas
from counterfoil_reconcilers.targets.kafka_table import POSITION, Kept, Table, position_of
from counterfoil_reconcilers.targets.kafka_values import forms_of
from counterfoil_reconcilers.targets.port import Address, Closing, Kind, TargetRow, TargetUnavailable
from counterfoil_reconcilers.touched import Search


def options_of(resource: Resource) -> KafkaResource:
    """Where the rows of a resource of this kind are."""
    assert isinstance(resource.options, KafkaResource)  # noqa: S101  # the kind of the resource's target says so
    return resource.options


class KafkaTarget(Closing):
    """Topics of one Kafka cluster behind the port `Target`. Not for use by several threads at once."""

    def __init__(
        self, contracts: Contracts, name: str, connection: KafkaConnection, *, call_seconds: float = 30.0
    ) -> None:
        self._contracts = contracts
        self._target = contracts.targets[name]
        self._name = name
        self._brokers = Brokers(name, connection.settings)
        needs_registry = any(options_of(resource).needs_registry for resource in self._target.resources.values())
        self._schemas = Schemas(name, connection.schema_registry) if needs_registry else None
        self._logs = {
            resource.name: self._log_of(resource, call_seconds) for resource in self._target.resources.values()
        }

    def close(self) -> None:
        """Let go of connections and of all that was read; the next call reads anew."""
        for log in self._logs.values():
            log.close()
        self._brokers.close()
        if self._schemas is not None:
            self._schemas.close()

    def remembers_since(self, resource: str) -> dt.datetime | None:
        """Since when all that was written to the topic is known, as of the last call; None: since ever."""
        return self._logs[resource].since

    def check(self) -> Sequence[ContractError]:
        """Topics and subjects that the contract names and nobody has, and keys that can't name a message."""
        errors: list[ContractError] = []
        for resource in self._target.resources.values():
            at = ("targets", self._name, "resources", resource.name)
            topic = options_of(resource).topic
            if (mistake := _mistaken_key(resource)) is not None:
                errors.append(self._contracts.error_at((*at, "key"), mistake))
            if self._brokers.extent(topic) is None:
                hint = did_you_mean(topic, self._brokers.topics())
                sentence = f"topic {topic} does not exist in target {self._name}{hint}"
                errors.append(self._contracts.error_at((*at, "topic"), sentence))
            elif (mistake := self._mistaken_subject(options_of(resource))) is not None:
                place = "value" if options_of(resource).subject is None else "subject"
                errors.append(self._contracts.error_at((*at, place), mistake))
        return errors

    def read(self, addresses: Iterable[Address]) -> Sequence[TargetRow]:
        """Every address once; what may have been written before all that is known has a `problem`."""
        wanted = list(dict.fromkeys(addresses))
        names = dict.fromkeys(address.row.resource for address in wanted)
        readings = {name: self._catch_up(name) for name in names}
        is_each = {name: options_of(self._target.resources[name]).rows == "each" for name in names}
        return [TargetRow(one, _row_at(readings[one.row.resource], one, is_each[one.row.resource])) for one in wanted]

    def find(self, tenant: str | None, searches: Sequence[Search], limit: int = 50) -> Sequence[TargetRow]:
        """Messages that hold every field of a search, as the judge compares."""
        readings = {name: self._catch_up(name) for name in dict.fromkeys(search.resource for search in searches)}
        found: dict[Address, TargetRow] = {}
        for search in searches:
            table = readings[search.resource].table
            messages = islice(table.found(tenant, search), limit)
            found.update({row.address: row for row in _rows_of(table, search.resource, messages)})
        return list(found.values())

    def scan(self, resource: str, tenant: str | None = None) -> Iterator[TargetRow]:
        """Every row of a resource that is known."""
        table = self._catch_up(resource).table
        yield from _rows_of(table, resource, table.all(tenant))

    def _catch_up(self, resource: str) -> Reading:
        mistake = _mistaken_key(self._target.resources[resource])
        if mistake is not None:
            raise TargetUnavailable(self._name, f"{mistake}; run the contract check", trouble="unreadable")
        return self._logs[resource].catch_up()

    def _mistaken_subject(self, options: KafkaResource) -> str | None:
        """Why the values of a topic can't be read, as far as the registry says."""
        if options.value != "avro" or self._schemas is None:
            return None
        mistake = self._schemas.mistake(options.subject or f"{options.topic}-value")
        if mistake is None or options.subject is not None:
            return mistake
        return f"{mistake}; where subjects are not named by topics, say subject"

    def _log_of(self, resource: Resource, call_seconds: float) -> TopicLog:
        options = options_of(resource)
        keep = None if options.keep_hours is None else dt.timedelta(hours=options.keep_hours)
        limits = Limits(keep, options.keep_megabytes * 10**6, call_seconds)
        watched = {*resource.key, *self._searched(resource)}
        forms = forms_of(options, self._schemas)

        def new_table() -> Table:
            return Table(self._name, resource, options, forms, sorted(watched))

        return TopicLog(self._brokers, options.topic, new_table, limits)

    def _searched(self, resource: Resource) -> Iterator[str]:
        """The fields by which writes look for rows of a resource."""
        for tool in self._contracts.tools.values():
            for write in tool.writes if tool.target == self._name else ():
                if write.resource == resource:
                    yield from (name for name, _ in write.find)


def _mistaken_key(resource: Resource) -> str | None:
    """Why the resource's key names no message."""
    options = options_of(resource)
    if options.rows == "each" and resource.key != (POSITION,):
        return f'each message of topic {options.topic} is a row, named by its position; write key = ["{POSITION}"]'
    if options.rows == "latest" and POSITION in resource.key:
        return f"the latest message of a key of topic {options.topic} is named by that key, not by its position"
    return None


def _row_at(reading: Reading, address: Address, is_each: bool) -> Row | None:
    table, key = reading.table, address.row.key
    kept = table.named(key, address.tenant)
    rows = [one for one in kept if not table.is_gone(one)]
    if len(rows) == 1:
        return table.row_of(rows[0])
    if rows:
        return Row(None, problem=f"{len(rows)} message keys hold the row of this key, such as at {rows[0].position}")
    if kept or reading.since is None or (is_each and not _may_have_been(reading, key)):
        return None
    return Row(None, problem=f"it was not written since {reading.since:%Y-%m-%d %H:%M}Z, and no more is known")


def _may_have_been(reading: Reading, key: Sequence[str]) -> bool:
    """Whether it is a position before the topic's end."""
    position = position_of(key[0])
    return position is not None and position[1] < reading.next.get(position[0], 0)


def _rows_of(table: Table, resource: str, messages: Iterable[Kept]) -> Iterator[TargetRow]:
    """Rows by their keys; of several messages that one key names, the row says so."""
    by_address: dict[Address, list[Kept]] = defaultdict(list)
    for kept in messages:
        key = table.key_of(kept)
        if key is not None:
            by_address[Address(table.tenant_of(kept), RowKey(resource, key))].append(kept)
    for address, several in by_address.items():
        row = table.row_of(several[0])
        if len(several) > 1:
            row = Row(None, problem=f"{len(several)} message keys hold the row of this key")
        yield TargetRow(address, row)


def _open(contracts: Contracts, name: str, connection: KafkaConnection) -> KafkaTarget:
    return KafkaTarget(contracts, name, connection)


KIND = Kind(
    name="kafka",
    capabilities=Capabilities(finds=True, lists=True),
    resource_options=KafkaResource,
    connection=KafkaConnection,
    open=_open,
)
