"""Columns of MySQL and MariaDB: what their values are in JSON, and which value a text names.

Values come as the server writes them, in a session whose time zone is UTC. Where MySQL has no JSON of its own for a
type, it looks as PostgreSQL's `to_jsonb` would write it (docs/targets.md has the table). A text that is no value of
the column's type names nothing: MySQL itself would convert it, and find row 0 by 'A-1'.
"""

import datetime as dt
import ipaddress
import math
import re
import uuid
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Any, Final

from counterfoil_reconcilers.values import Json, key_text, nearest_single, parse_json, shortest_single

Bound = int | float | Decimal | str | bytes  # what the driver writes into a query
Condition = tuple[str, list[Bound]]  # SQL, and the values of its placeholders

_INTEGER_BITS: Final = {"tinyint": 8, "smallint": 16, "mediumint": 24, "int": 32, "bigint": 64}
_TEXT_BYTES: Final = {"tinytext": 255, "text": 65_535, "mediumtext": 2**24 - 1, "longtext": 2**32 - 1}
_BLOBS: Final = {"tinyblob", "blob", "mediumblob", "longblob"}
# Longer than anything that a DECIMAL of 65 digits can hold.
_NUMBER = re.compile(r"\s*[+-]?(?:\d{1,80}(?:\.\d{0,80})?|\.\d{1,80})(?:[eE][+-]?\d{1,3})?\s*", re.ASCII)
_WHOLE = re.compile(r"\s*[+-]?\d{1,40}\s*", re.ASCII)
_TIME = re.compile(r"\s*(-?)(\d{1,3}):([0-5]\d)(?::([0-5]\d)(?:\.(\d{1,6}))?)?\s*", re.ASCII)
_HEX = re.compile(r"\\x((?:[0-9a-fA-F]{2})*)")
_TYPE = re.compile(r"(\w+)(?:\((\d+)[,)])?")


@dataclass(frozen=True)
class Form:
    """One type's values. `shown`: one as it came, in JSON. `named`: the one that a text names, None if it names none.

    `named` is None for types whose values can't be compared, so that no row is found by them. `text` is the text of a
    value where JSON would lose some of it. `shown` raises Unreadable.
    """

    shown: Callable[[Any], Json]
    named: Callable[[str], Bound | None] | None = None
    text: Callable[[Any], str] | None = None


@dataclass(frozen=True)
class Column:
    """One column. `value` is how a value of it stands in a query, `read` what is selected for it, `t` the table.

    `is_text`: its collation may take other texts for the same. `is_large`: what can make a row too large to compare.
    """

    name: str
    form: Form
    value: str
    read: str
    is_text: bool
    is_large: bool

    def key_of(self, raw: Any) -> str:
        """The value that came as the text that names it; `null` where there is none."""
        if raw is None:
            return "null"
        return self.form.text(raw) if self.form.text is not None else key_text(self.form.shown(raw))

    def named(self, text: str) -> Bound | None:
        """The value that a text names, None if it names none."""
        if self.form.named is None:
            raise Incomparable(self.name)
        return self.form.named(text)

    def key_named(self, value: Bound) -> str:
        """The one text of a value that a text named, however that wrote it."""
        if isinstance(value, Decimal):
            return self.key_of(f"{value:f}")
        return self.key_of(value if isinstance(value, str | bytes) else str(value))

    def equals(self, value: Bound) -> Condition:
        """SQL that holds for this value and no other; the column's index serves."""
        column = f"t.{quoted(self.name)}"
        if not self.is_text:
            return f"{column} = {self.value}", [value]
        exactly = f"CAST(CONVERT({column} USING utf8mb4) AS BINARY) = CAST(%s AS BINARY)"
        return f"{column} = {self.value} AND {exactly}", [value, value]

    def is_one_of(self, values: Collection[Bound]) -> Condition:
        """SQL that holds for these values, and for what the collation takes for one of them; the index serves."""
        places = ", ".join([self.value] * len(values))
        return f"t.{quoted(self.name)} IN ({places})", list(values)


class Incomparable(ValueError):
    """No row can be found by the column of this name: there is no one text for a value of its type."""


def quoted(name: str) -> str:
    """An identifier, in a query that has placeholders."""
    return "`{}`".format(name.replace("`", "``").replace("%", "%%"))


def columns_of(
    described: Iterable[tuple[str, str, str | None]], documents: Collection[str], numbers: Collection[str]
) -> dict[str, Column]:
    """The columns of a table as SHOW FULL COLUMNS describes it: name, type, collation.

    `documents` are those that MariaDB keeps as text and checks to be JSON; `numbers` those that look like truth values
    and hold numbers.
    """
    return {
        name: _column(name, declared, collation, name in documents, name in numbers)
        for name, declared, collation in described
    }


def _column(name: str, declared: str, collation: str | None, is_document: bool, is_number: bool) -> Column:
    found = _TYPE.match(declared)
    kind, size = (found[1], int(found[2] or 0)) if found else (declared, 0)
    kind = "json" if is_document else kind
    is_text = collation is not None and kind != "json"
    charset = (collation or "").partition("_")[0]
    form = _text(kind, size, charset) if is_text else _form(kind, size, declared, is_number)
    column = f"t.{quoted(name)}"
    return Column(
        name=name,
        form=form,
        # Into the column's own set first, or the column would be converted and its index not be used. What that set
        # lacks becomes `?` there, so texts are compared once more as bytes.
        value=f"CONVERT(%s USING {charset}) COLLATE {collation}" if is_text else "%s",
        # As text a FLOAT has six digits, and lacks the others.
        read=f"{column} + 0e0" if kind == "float" else column,
        is_text=is_text,
        is_large=kind == "json" or kind in _BLOBS or kind in _TEXT_BYTES or form is _OPAQUE,
    )


def _form(kind: str, size: int, declared: str, is_number: bool) -> Form:
    unsigned = "unsigned" in declared
    if kind in _INTEGER_BITS:
        bits = _INTEGER_BITS[kind]
        low, high = (0, 2**bits - 1) if unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        if declared == "tinyint(1)" and not is_number:
            return Form(lambda raw: _truth(int(raw)), lambda text: _truth_named(text, low, high))
        return Form(int, partial(_whole, low=low, high=high))
    if kind == "bit":
        return _bits(size, is_number)
    if kind in _BLOBS or kind in ("binary", "varbinary"):
        return Form(_hex, _bytes)
    return _FORMS.get(kind, _OPAQUE)


def _text(kind: str, size: int, charset: str) -> Form:
    """Texts by their characters; one that the column can't hold names nothing."""
    most = _TEXT_BYTES.get(kind) or (size if kind in ("char", "varchar") else None)

    def named(text: str) -> str | None:
        try:
            in_bytes = len(text.encode())
        except UnicodeEncodeError:  # half of a surrogate pair, which no text of a server holds
            return None
        length = in_bytes if kind in _TEXT_BYTES and charset.startswith("utf8") else len(text)
        return None if most is not None and length > most else text

    return Form(str, named)


def _whole(text: str, low: int, high: int) -> int | None:
    number = int(text) if _WHOLE.fullmatch(text) else None
    return number if number is not None and low <= number <= high else None


def _truth(number: int) -> Json:
    return bool(number) if number in (0, 1) else number


def _truth_named(text: str, low: int, high: int) -> int | None:
    return {"true": 1, "false": 0}.get(text, _whole(text, low, high))


def _bits(size: int, is_number: bool) -> Form:
    most = 2**size - 1
    if is_number:
        return Form(_big_endian, partial(_whole, low=0, high=most))
    if size == 1:
        return Form(lambda raw: bool(_big_endian(raw)), lambda text: _truth_named(text, 0, 1))
    digits = re.compile(f"[01]{{{size}}}")
    return Form(
        lambda raw: format(_big_endian(raw), f"0{size}b"),
        lambda text: int(text, 2) if digits.fullmatch(text) else None,
    )


def _big_endian(raw: bytes | str) -> int:
    return int(raw) if isinstance(raw, str) else int.from_bytes(raw, "big")


def _decimal(text: str) -> Decimal | None:
    if not _NUMBER.fullmatch(text):
        return None
    number = Decimal(text.strip())
    if number.is_zero():
        return Decimal(0)
    return number if -40 <= number.adjusted() <= 65 else None


def _decimal_shown(raw: str) -> Json:
    """A number without a fraction stays exact, however long it is."""
    return float(raw) if "." in raw else int(raw)


def _decimal_text(raw: str) -> str:
    """All digits of it, and none that say nothing: 12.50 is 12.5, as it is in JSON."""
    return (raw.rstrip("0").removesuffix(".") or "0") if "." in raw else raw


def _double(text: str) -> float | None:
    number = float(text) if _NUMBER.fullmatch(text) else math.inf
    return number if math.isfinite(number) else None


def _single(text: str) -> float | None:
    """The nearest number that a FLOAT holds."""
    number = _double(text)
    try:
        return None if number is None else nearest_single(number)
    except OverflowError:
        return None


def _moment_shown(raw: str) -> str:
    """ISO 8601, without zeros at the end of a fraction."""
    whole, _, fraction = raw.replace(" ", "T").partition(".")
    fraction = fraction.rstrip("0")
    return f"{whole}.{fraction}" if fraction else whole


def _moment(text: str, *, is_instant: bool) -> str | None:
    """A DATETIME has no zone, and one in the text is not read, as PostgreSQL's `timestamp` does; a TIMESTAMP is UTC."""
    try:
        moment = dt.datetime.fromisoformat(text.strip())
        if is_instant and moment.tzinfo is not None:
            moment = moment.astimezone(dt.UTC)
    except (ValueError, OverflowError):
        return None
    return moment.replace(tzinfo=None).isoformat(" ")


def _date(text: str) -> str | None:
    try:
        return dt.date.fromisoformat(text.strip()).isoformat()
    except ValueError:
        return None


def _time(text: str) -> str | None:
    found = _TIME.fullmatch(text)
    if not found:
        return None
    sign, hours, minutes, seconds, fraction = found.groups("")
    seconds, fraction = seconds or "00", fraction.rstrip("0")
    is_zero = not int(hours + minutes + seconds + (fraction or "0"))
    return f"{'' if is_zero else sign}{int(hours):02}:{minutes}:{seconds}" + (f".{fraction}" if fraction else "")


def _hex(raw: bytes) -> str:
    return f"\\x{raw.hex()}"


def _bytes(text: str) -> bytes | None:
    found = _HEX.fullmatch(text)
    return bytes.fromhex(found[1]) if found else None


def _uuid(text: str) -> str | None:
    try:
        return str(uuid.UUID(text))
    except ValueError:
        return None


def _internet(text: str) -> str | None:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return None


def _any(raw: str | bytes) -> Json:
    return _hex(raw) if isinstance(raw, bytes) else raw


_OPAQUE: Final = Form(_any)
_FORMS: Final = {
    "decimal": Form(_decimal_shown, _decimal, _decimal_text),
    "float": Form(lambda raw: shortest_single(float(raw)), _single),
    "double": Form(float, _double),
    "year": Form(int, partial(_whole, low=1901, high=2155)),
    "datetime": Form(_moment_shown, partial(_moment, is_instant=False)),
    "timestamp": Form(lambda raw: f"{_moment_shown(raw)}+00:00", partial(_moment, is_instant=True)),
    "date": Form(str, _date),
    "time": Form(_moment_shown, _time),
    "uuid": Form(str, _uuid),
    "inet4": Form(str, _internet),
    "inet6": Form(str, _internet),
    "json": Form(parse_json),
}
