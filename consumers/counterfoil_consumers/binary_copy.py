"""Rows as bytes of binary COPY, so that nothing converts a value twice (PostgreSQL, COPY, "Binary Format").

Ids and times of an event are 16 bytes and integers already; a row is a count of fields, then each with its length.
"""

import struct
from functools import lru_cache

from counterfoil_consumers.readable import mended_text

HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
TRAILER = b"\xff\xff"
NULL = b"\xff\xff\xff\xff"
TRUE, FALSE = b"\x00\x00\x00\x01\x01", b"\x00\x00\x00\x01\x00"
_UUID = b"\x00\x00\x00\x10"
_EPOCH_MICROS = 946_684_800_000_000  # 2000-01-01, from which Postgres counts
_LONGEST_REMEMBERED = 200

_length = struct.Struct(">i").pack
_small = struct.Struct(">ih").pack
_integer = struct.Struct(">ii").pack
_long = struct.Struct(">iq").pack
count_of = struct.Struct(">h").pack


def text(value: str | None) -> bytes:
    """A text, mended where Postgres could not hold it."""
    if value is None:
        return NULL
    return _remembered(value) if len(value) <= _LONGEST_REMEMBERED else _text(value)


def _text(value: str) -> bytes:
    content = (mended_text(value) or "").encode()
    return _length(len(content)) + content


_remembered = lru_cache(maxsize=4096)(_text)  # names, mostly, that are the same in every event


def bytea(value: bytes | None) -> bytes:
    """Bytes as they are."""
    return NULL if value is None else _length(len(value)) + value


def uuid(value: bytes | None) -> bytes:
    """An id of 16 bytes."""
    return NULL if value is None else _UUID + value


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
