"""Values as Postgres' binary formats, of COPY and of parameters, so that nothing is converted twice.

A field is its length and its bytes, or a length of -1 (PostgreSQL, COPY, "Binary Format"). A row of COPY is a count and
its fields; a composite value is a count and its fields, each behind the oid of its type; an array is its items, each
behind its length.
"""

import datetime as dt
import struct
from collections.abc import Iterable, Sequence

from psycopg import pq
from psycopg.abc import Buffer
from psycopg.adapt import Dumper

from counterfoil_consumers.readable import mended_text

HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
TRAILER = b"\xff\xff"
NULL = b"\xff\xff\xff\xff"
TRUE, FALSE = b"\x00\x00\x00\x01\x01", b"\x00\x00\x00\x01\x00"
ID_FIELD = 20  # bytes of the field of an id
# The types' oids, which are the same everywhere.
BOOL, BYTEA, BIGINT, INTEGER, TEXT, JSON, TIMESTAMPTZ, UUID = 16, 17, 20, 23, 25, 114, 1184, 2950
_EPOCH_MICROS = 946_684_800_000_000  # 2000-01-01, from which Postgres counts
_POSTGRES_EPOCH = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
_MICRO = dt.timedelta(microseconds=1)
_LONGEST_REMEMBERED = 200
_MOST_REMEMBERED = 10_000

length = struct.Struct(">i").pack
count_of = struct.Struct(">h").pack
oid = struct.Struct(">I").pack
_small = struct.Struct(">ih").pack
_integer = struct.Struct(">ii").pack
_long = struct.Struct(">iq").pack
_array = struct.Struct(">iiIii").pack

_remembered: dict[bytes, bytes] = {}  # names, mostly, that are the same in every event


def text_of(content: bytes) -> bytes:
    """A text, given as UTF-8, mended where Postgres could not hold it.

    Raises UnicodeDecodeError.
    """
    field = _remembered.get(content)
    if field is None:
        field = text(content.decode())
        if len(content) <= _LONGEST_REMEMBERED:
            if len(_remembered) >= _MOST_REMEMBERED:
                _remembered.clear()
            _remembered[content] = field
    return field


def text(value: str) -> bytes:
    """A text, mended where Postgres could not hold it."""
    return bytea(mended_text(value).encode())


def bytea(value: bytes) -> bytes:
    """Bytes as they are."""
    return length(len(value)) + value


def smallint(value: int) -> bytes:
    """A number of 16 bits."""
    return _small(2, value)


def integer(value: int | None) -> bytes:
    """A number of 32 bits."""
    return NULL if value is None else _integer(4, value)


def bigint(value: int) -> bytes:
    """A number of 64 bits."""
    return _long(8, value)


def timestamptz(micros: int) -> bytes:
    """A moment, given in microseconds since 1970."""
    return _long(8, micros - _EPOCH_MICROS)


class Items:
    """An array of one dimension, as a parameter: its items' fields, and the oid of their type."""

    def __init__(self, items: Sequence[bytes], type_oid: int) -> None:
        self.content = _array(1, 0, type_oid, len(items), 1) + b"".join(items)


def texts(values: Iterable[str | None]) -> Items:
    """An array of texts, mended where Postgres could not hold them."""
    return Items([NULL if value is None else text(value) for value in values], TEXT)


def byteas(values: Iterable[bytes | None]) -> Items:
    """An array of bytes."""
    return Items([NULL if value is None else bytea(value) for value in values], BYTEA)


def uuids(values: Iterable[bytes | None]) -> Items:
    """An array of UUIDs, given as 16 bytes each."""
    return Items([NULL if value is None else bytea(value) for value in values], UUID)


def timestamptzs(values: Iterable[dt.datetime | None]) -> Items:
    """An array of moments."""
    return Items([NULL if one is None else _long(8, (one - _POSTGRES_EPOCH) // _MICRO) for one in values], TIMESTAMPTZ)


def booleans(values: Iterable[bool]) -> Items:
    """An array of truth values."""
    return Items([TRUE if value else FALSE for value in values], BOOL)


class ItemsDumper(Dumper):
    """Hands the bytes on; the query's cast says of which type they are."""

    format = pq.Format.BINARY

    def dump(self, obj: Items) -> Buffer:
        """The bytes."""
        return obj.content
