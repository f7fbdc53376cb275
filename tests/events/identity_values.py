"""The arguments behind the golden vectors, by name; golden_identity.json says them in words for other clients."""

import dataclasses
import datetime as dt
import enum
import uuid
from collections import OrderedDict
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import pydantic


class Colour(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass(frozen=True)
class Line:
    sku: str
    price: Decimal


class Order(pydantic.BaseModel):
    order: str
    lines: list[str]
    placed: dt.datetime


_HALF_PAST = dt.datetime(2025, 6, 15, 12, 30, 0, 250, tzinfo=dt.timezone(dt.timedelta(hours=2)))

# name: (in words, the arguments)
VALUES: dict[str, tuple[str, dict[str, Any]]] = {
    "empty": ("no arguments", {}),
    "plain": ("null, true, false, text", {"a": None, "b": True, "c": False, "d": "text"}),
    "numbers": ("0, -1, 2^53-1, 0.1, 1e21, 1e-7", {"n": [0, -1, 2**53 - 1, 0.1, 1e21, 1e-7]}),
    "float_without_fraction": ("the float 1.0, which is 1", {"n": 1.0}),
    "negative_zero": ("the float -0.0, which is 0", {"n": -0.0}),
    "big_integer": ("2^53 and -(2^64)", {"n": [2**53, -(2**64)]}),
    "decimal": ("the decimals 12.50 and 12.5, which are one", {"n": [Decimal("12.50"), Decimal("12.5")]}),
    "decimal_exponent": ("the decimals 1E+3 and 1E-7", {"n": [Decimal("1E+3"), Decimal("1E-7")]}),
    "decimal_zero": ("the decimals 0.00 and -0", {"n": [Decimal("0.00"), Decimal("-0")]}),
    "decimal_is_no_text": ("the text 12.5", {"n": "12.5"}),
    "aware_datetime": ("2025-06-15 12:30:00.000250 at +02:00", {"at": _HALF_PAST}),
    "same_instant": ("the same instant in UTC", {"at": _HALF_PAST.astimezone(dt.UTC)}),
    "naive_datetime": ("2025-06-15 12:30 without a zone", {"at": dt.datetime(2025, 6, 15, 12, 30)}),  # noqa: DTZ001  # meant
    "date_and_time": ("the date 2025-06-15, the time 12:30", {"on": dt.date(2025, 6, 15), "at": dt.time(12, 30)}),
    "bytes": ("the bytes 00 FF and none", {"b": [b"\x00\xff", b""]}),
    "uuid": ("a UUID, which is its text", {"id": uuid.UUID("00000000-0000-7000-8000-00000000000a")}),
    "enums": ("enums, which are their values", {"c": Colour.RED, "l": Level.HIGH}),
    "dataclass": ("an object of its fields", {"line": Line("A-17", Decimal("2.00"))}),
    "pydantic": ("a model of text, list, datetime", {"o": Order(order="A-17", lines=["x"], placed=_HALF_PAST)}),
    "set": ("a set of b, a, 2, 10 by canonical bytes", {"s": {"b", "a", 2, 10}}),
    "dollar_keys": ("the keys $int, $$, $", {"$int": "5", "$$": 1, "nested": {"$": 2}}),
    "not_a_big_integer": ("an object that looks like one", {"n": {"$int": "9007199254740992"}}),
    "nested": ("lists in objects in lists", {"a": [{"b": [[], {}, [1, [2]]]}]}),
    "tuple_and_mapping": ("sequences are lists", {"t": (1, 2), "m": MappingProxyType({"z": 1, "a": OrderedDict(k=1)})}),
    "unicode": ("RFC 8785 escapes: control, quote, backslash, snowman", {"t": '\x00\x1f\n"\\/☃\u2028😀'}),
    "utf_16_order": (
        "keys by UTF-16 code units: U+20AC, CR, U+FB33, 1, U+1F600, U+0080, U+00F6 (RFC 8785 section 3.2.3)",
        {"\u20ac": 1, "\r": 2, "\ufb33": 3, "1": 4, "\U0001f600": 5, "\u0080": 6, "\u00f6": 7},
    ),
}
