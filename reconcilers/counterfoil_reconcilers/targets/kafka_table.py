"""The messages of a topic that are rows, in memory, and which of them hold what is looked for.

Values stay as they came and are read when they are asked for; what rows are looked up by is taken out once.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from counterfoil_consumers.log_reader import HEADERS_UNREADABLE
from counterfoil_consumers.records import Record
from counterfoil_reconcilers.compare import agree
from counterfoil_reconcilers.contracts import Resource
from counterfoil_reconcilers.rows import Row
from counterfoil_reconcilers.targets.avro_values import SchemaUnread
from counterfoil_reconcilers.targets.kafka_options import KafkaResource
from counterfoil_reconcilers.targets.kafka_schemas import UnknownSchema
from counterfoil_reconcilers.targets.kafka_values import Forms, text_of
from counterfoil_reconcilers.targets.port import TargetUnavailable
from counterfoil_reconcilers.touched import Search
from counterfoil_reconcilers.values import MISSING, Json, Unreadable, at, key_text, plain

POSITION: Final = "position"
LONGEST_VALUE_BYTES: Final = 4_000_000
_OVERHEAD_BYTES: Final = 450  # of a message without key and value, as it is kept here
_Id = tuple[int, int] | bytes


@dataclass(slots=True)
class Kept:
    """A message. `value` None: it has none, or more than is kept (`left_out_bytes`).

    `labels` are the declared headers, and then the key if it is declared; bytes stand for what can't be read, MISSING
    for what is not there. `torn`: another partition holds its key with the same time, so that nobody knows which is the
    later one. `unmarked`: nobody knew its schema when it came, so no index has it by what its value holds.
    """

    partition: int
    offset: int
    at_millis: int
    value: bytes | None
    labels: tuple[Any, ...]
    left_out_bytes: int = 0
    torn: bool = False
    unmarked: bool = False

    @property
    def position(self) -> str:
        """`partition:offset`."""
        return f"{self.partition}:{self.offset}"

    @property
    def is_tombstone(self) -> bool:
        """Whether it says that its key is gone."""
        return self.value is None and not self.left_out_bytes

    @property
    def size_bytes(self) -> int:
        """What keeping it costs, about."""
        return _OVERHEAD_BYTES + len(self.value or b"") + sum(map(_length, self.labels))


class _Index:
    """Messages by the text that they hold in one field; what holds no text may agree with any."""

    def __init__(self) -> None:
        self._held: dict[str | None, Any] = {}

    def add(self, mark: str | None, identity: _Id) -> None:
        held = self._held.get(mark)
        if held is None:
            self._held[mark] = identity  # most texts are held once, and a set costs more than the message
        elif isinstance(held, set):
            held.add(identity)
        else:
            self._held[mark] = {held, identity}

    def remove(self, mark: str | None, identity: _Id) -> None:
        held = self._held[mark]
        if isinstance(held, set) and len(held) > 1:
            held.discard(identity)
        else:
            del self._held[mark]

    def of(self, mark: str | None) -> Iterable[_Id]:
        held = self._held.get(mark)
        if held is None:
            return ()
        return held if isinstance(held, set) else (held,)


class Table:
    """The rows of one resource. `watched`: fields by which they are looked up.

    All but `forget_before` raise TargetUnavailable where a message is of a schema that nobody tells us.
    """

    def __init__(
        self, target: str, resource: Resource, options: KafkaResource, forms: Forms, watched: Iterable[str]
    ) -> None:
        self._target = target
        self._resource = resource
        self._options = options
        self._forms = forms
        self._is_latest = options.rows == "latest"
        self._kept: dict[_Id, Kept] = {}
        self._indexes = {name: _Index() for name in watched if name != POSITION}
        self._headers = tuple(options.headers.values())
        self._labels = (*options.headers, *([options.message_key] if options.message_key else []))
        self._reads_values = any(name not in self._labels for name in self._indexes)
        self.held_bytes = 0

    def take(self, record: Record) -> None:
        """One more message; in a table of latest ones it stands for its key from now on.

        Where this raises, nothing has changed, and the message is still to be taken.
        """
        if self._is_latest and record.key is None:
            return  # it says nothing of any key
        identity: _Id = (record.partition, record.offset)
        if self._is_latest:
            identity = record.key or b""
        new = self._new(record)
        old = self._kept.get(identity)
        if old is not None and old.partition != new.partition:
            if old.at_millis > new.at_millis:
                return
            if old.at_millis == new.at_millis:
                new = self._torn(old, new)
        marks = self._first_marks(new)
        if old is not None:
            self._drop(identity, old)
        self._kept[identity] = new
        self.held_bytes += new.size_bytes
        for name, mark in marks:
            self._indexes[name].add(mark, identity)

    def forget_before(self, millis: int) -> bool:
        """Let go of the oldest messages; whether there were any."""
        old = []
        for identity, kept in self._kept.items():  # in the order in which they came
            if kept.at_millis >= millis:
                break
            old.append((identity, kept))
        for identity, kept in old:
            self._drop(identity, kept)
        return bool(old)

    def named(self, key: Sequence[str], tenant: str | None) -> list[Kept]:
        """The messages of this key and tenant; a tombstone is of every tenant."""
        names = self._resource.key
        if names == (POSITION,):
            position = position_of(key[0])
            candidates = [self._kept[position]] if position is not None and position in self._kept else []
        else:
            first = self._indexes[names[0]]
            ids = {*first.of(key[0].casefold()), *first.of(None)}
            candidates = [self._kept[identity] for identity in ids]
        return [
            kept
            for kept in candidates
            if self._texts(kept, names) == tuple(key) and (self.is_gone(kept) or self.is_of(kept, tenant))
        ]

    def found(self, tenant: str | None, search: Search) -> Iterator[Kept]:
        """The messages that hold every field of a search, in the order in which they were written."""
        ids = self._candidates(search)
        candidates = self._kept.values() if ids is None else [self._kept[identity] for identity in ids]
        for kept in sorted(candidates, key=lambda each: (each.at_millis, each.partition, each.offset)):
            if self.is_of(kept, tenant) and self._holds(kept, search):
                yield kept

    def all(self, tenant: str | None) -> Iterator[Kept]:
        """Every message of a tenant, or of all."""
        return (kept for kept in list(self._kept.values()) if self.is_of(kept, tenant))

    def key_of(self, kept: Kept) -> tuple[str, ...] | None:
        """The row's key; None where the message is no row: a tombstone, or nothing that has one."""
        return None if self.is_gone(kept) else self._texts(kept, self._resource.key)

    def is_gone(self, kept: Kept) -> bool:
        """Whether a message says that its key holds nothing any more."""
        return self._is_latest and kept.is_tombstone and not kept.torn

    def tenant_of(self, kept: Kept) -> str | None:
        """Whose it is; None where nobody's."""
        held = self._texts(kept, (self._resource.tenant,)) if self._resource.tenant else None
        return held[0] if held else None

    def is_of(self, kept: Kept, tenant: str | None) -> bool:
        """Whether a row belongs to whoever asks."""
        return tenant is None or self._resource.tenant is None or self.tenant_of(kept) == tenant

    def row_of(self, kept: Kept) -> Row:
        """The row; what can't be compared is its `problem`."""
        try:
            return Row(self._fields(kept), kept.position)
        except Unreadable as error:
            return Row(None, kept.position, problem=str(error))

    def _fields(self, kept: Kept) -> Json:
        if kept.torn:
            raise Unreadable("two partitions hold its key with one time, so nobody knows which is the later message")
        if kept.left_out_bytes:
            raise Unreadable(f"it has {kept.left_out_bytes} bytes, more than {LONGEST_VALUE_BYTES}")
        fields = self._value(kept)
        fields.update((name, self._label(name, value)) for name, value in self._labels_of(kept).items())
        return plain(fields)

    def _value(self, kept: Kept) -> dict[str, Any]:
        """The fields of a value, strictly; a message without one has none."""
        return {} if kept.value is None else self._forms.fields(kept.value)

    def _label(self, name: str, value: Any) -> Any:
        if any(isinstance(each, bytes) for each in (value if isinstance(value, list) else [value])):
            is_avro = name == self._options.message_key and self._options.message_key_is == "avro"
            raise Unreadable(f"its header or key for {name} is no {'Avro of its schema' if is_avro else 'UTF-8 text'}")
        return value

    def _texts(self, kept: Kept, names: Iterable[str]) -> tuple[str, ...] | None:
        """The texts of fields; None where one is not there, or is none. A label is known where the value is not."""
        labels = self._labels_of(kept)
        try:
            if not all(name in labels for name in names):
                labels = {**self._value(kept), **labels}
            return tuple(key_text(plain(labels[name])) for name in names)
        except SchemaUnread as error:  # it may be any row
            raise TargetUnavailable(self._target, f"a message can't be read: {error}", trouble="unreadable") from error
        except (Unreadable, KeyError):
            return None

    def _holds(self, kept: Kept, search: Search) -> bool:
        """As the judge compares. A message that can't be read is held to hold what its labels do not deny."""
        labels = self._labels_of(kept)
        told = [pair for pair in search.fields if pair[0] in labels]
        if not self._agrees(labels, told) or self.key_of(kept) is None:
            return False
        row = self.row_of(kept)
        if row.problem is not None:
            return bool(told)
        return bool(search.fields) and self._agrees(row.doc, search.fields)

    def _agrees(self, doc: Json, fields: Iterable[tuple[str, Json]]) -> bool:
        return all(agree(self._resource, value, at(doc, (name,)), (name,)) for name, value in fields)

    def _candidates(self, search: Search) -> set[_Id] | None:
        """Messages that may hold the fields, by the first field that is watched; None: any."""
        for name, value in search.fields:
            if name in self._indexes and isinstance(value, str) and not self._resource.rule((name,)).time:
                index = self._indexes[name]
                return {*index.of(value.casefold()), *index.of(None)}
        return None

    def _new(self, record: Record) -> Kept:
        size = len(record.value or b"")
        is_large = size > LONGEST_VALUE_BYTES
        return Kept(
            record.partition,
            record.offset,
            record.appended_at,
            None if is_large else record.value,
            tuple(self._new_labels(record)),
            left_out_bytes=size if is_large else 0,
        )

    def _new_labels(self, record: Record) -> Iterator[Any]:
        for header in self._headers:
            values = [text_of(value) for name, value in record.headers if name == header]
            if record.headers == HEADERS_UNREADABLE:
                values = [b"of unreadable names"]
            distinct = values if len(values) < 2 else list({repr(value): value for value in values}.values())
            yield (distinct[0] if len(distinct) == 1 else distinct) if distinct else MISSING
        if len(self._labels) > len(self._headers):
            yield self._forms.key(record.key)

    def _labels_of(self, kept: Kept) -> dict[str, Any]:
        """The row's fields that are not the value's."""
        labels = {name: value for name, value in zip(self._labels, kept.labels, strict=True) if value is not MISSING}
        return labels if self._is_latest else {**labels, POSITION: kept.position}

    def _marks(self, kept: Kept) -> Iterator[tuple[str, str | None]]:
        fields: dict[str, Any] = {}
        if self._reads_values and kept.value is not None and not kept.unmarked:
            fields = dict(self._forms.quickly(kept.value))
        fields.update(zip(self._labels, kept.labels, strict=True))
        for name in self._indexes:
            value = fields.get(name)
            yield name, value.casefold() if isinstance(value, str) else None

    def _first_marks(self, new: Kept) -> list[tuple[str, str | None]]:
        """Its marks when it comes. What no index has by its value is read in every search."""
        try:
            return list(self._marks(new))
        except UnknownSchema:
            new.unmarked = True
            return list(self._marks(new))

    def _torn(self, old: Kept, new: Kept) -> Kept:
        """Of two that may both be the latest one: the one that tells more."""
        kept = old if new.is_tombstone else new
        return replace(kept, torn=True)

    def _drop(self, identity: _Id, kept: Kept) -> None:
        del self._kept[identity]
        self.held_bytes -= kept.size_bytes
        for name, mark in self._marks(kept):
            self._indexes[name].remove(mark, identity)


def _length(label: Any) -> int:
    return len(label) if isinstance(label, str | bytes) else len(str(label))


def position_of(text: str) -> tuple[int, int] | None:
    """`0:17` as partition and offset; None for what is no position."""
    partition, _, offset = text.partition(":")
    if not (partition.isascii() and partition.isdigit() and offset.isascii() and offset.isdigit()):
        return None
    position = int(partition[:19]), int(offset[:19])
    return position if f"{position[0]}:{position[1]}" == text else None
