"""How a MySQL or MariaDB server is reached: its address, a session that can't write, and what its errors mean."""

import ssl
import struct
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote_to_bytes, urlsplit

import pymysql
from pydantic import Field, SecretStr, field_validator
from pymysql.constants import ER
from pymysql.converters import encoders
from pymysql.cursors import Cursor, SSCursor

from counterfoil_reconcilers.targets.port import Connection, TargetUnavailable, Trouble

_ADDRESS: Final = "mysql://user:password@host:3306/database, with %XX for what is special in the password"
_TLS_OPTIONS: Final = ("ssl_mode", "ssl_ca", "ssl_cert", "ssl_key")
_OPTIONS: Final = (*_TLS_OPTIONS, "unix_socket")
# MySQL Reference Manual, "--ssl-mode"
_TLS_MODES: Final = ("disabled", "preferred", "required", "verify_ca", "verify_identity")

# What the server, a proxy or its configuration may have set otherwise, said anew for each transaction.
_SETTINGS = """
    SET SESSION sql_mode = 'STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION',
        SESSION time_zone = '+00:00', SESSION sql_select_limit = 18446744073709551615,
        SESSION lock_wait_timeout = %s, SESSION innodb_lock_wait_timeout = %s,
"""
_MARIADB = " SESSION max_statement_time = %s, SESSION idle_readonly_transaction_timeout = 60"  # seconds
_MYSQL = " SESSION max_execution_time = %s"  # milliseconds
_BEGIN = (
    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
    "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY",
)

# Not among the driver's names: no password given, the password has expired (twice), the account is locked (of MySQL,
# of MariaDB). MySQL Error Message Reference; MariaDB Error Codes.
_NAMELESS: Final = {1698, 1820, 1862, 3118, 4151}
_REFUSED: Final = {
    ER.ACCESS_DENIED_ERROR, ER.DBACCESS_DENIED_ERROR, ER.TABLEACCESS_DENIED_ERROR, ER.COLUMNACCESS_DENIED_ERROR,
    ER.SPECIFIC_ACCESS_DENIED_ERROR, ER.PROCACCESS_DENIED_ERROR, ER.HOST_NOT_PRIVILEGED, ER.HOST_IS_BLOCKED,
    *_NAMELESS,
}  # fmt: skip
_THROTTLED: Final = {ER.CON_COUNT_ERROR, ER.TOO_MANY_USER_CONNECTIONS, ER.USER_LIMIT_REACHED}
# What the driver raises when what greets it is no server of this kind.
_NO_SERVER = (ValueError, IndexError, struct.error)


@dataclass(frozen=True)
class Login:
    """Where a server is, and as whom it is asked. `tls`: options of the address, by name."""

    host: str
    port: int
    user: str
    password: bytes = field(repr=False)
    database: str | None
    unix_socket: str | None
    tls: dict[str, str]

    @property
    def tls_mode(self) -> str:
        """One of MySQL's own modes; what is given to check a certificate by is used."""
        default = "verify_identity" if "ssl_ca" in self.tls else "required" if "ssl_cert" in self.tls else "preferred"
        return self.tls.get("ssl_mode", default)

    def tls_context(self) -> ssl.SSLContext | None:
        """What TLS is spoken with; None where the mode needs none. Raises OSError for files that can't be read."""
        if self.tls_mode in ("disabled", "preferred"):
            return None
        context = ssl.create_default_context(cafile=self.tls.get("ssl_ca"))
        # Python 3.13 checks more than the certificates that MySQL makes for itself can stand.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        context.check_hostname = self.tls_mode == "verify_identity"
        context.verify_mode = ssl.CERT_NONE if self.tls_mode == "required" else ssl.CERT_REQUIRED
        if "ssl_cert" in self.tls:
            context.load_cert_chain(self.tls["ssl_cert"], self.tls.get("ssl_key"))
        return context


class MySqlConnection(Connection):
    """How to reach a MySQL or MariaDB server."""

    url: SecretStr = Field(description=f"{_ADDRESS}; of a login that may only read.")

    @field_validator("url")
    @classmethod
    def _can_be_read(cls, url: SecretStr) -> SecretStr:
        login_of(url.get_secret_value())
        return url


def login_of(url: str) -> Login:
    """The parts of an address.

    Raises ValueError, whose words quote none of it: in an address that is written wrong a password may stand anywhere.
    """
    try:
        parts = urlsplit(url)
        port = parts.port or 3306
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        database = unquote_to_bytes(parts.path.removeprefix("/")).decode()
        user = unquote_to_bytes(parts.username or "").decode()
    except ValueError:
        raise ValueError(f"is no address that can be read; write {_ADDRESS}") from None
    _check(parts, user, options)
    login = Login(
        host=parts.hostname or "localhost",
        port=port,
        user=user,
        password=unquote_to_bytes(parts.password or ""),
        database=database or None,
        unix_socket=options.get("unix_socket"),
        tls={name: value for name, value in options.items() if name in _TLS_OPTIONS},
    )
    try:
        login.tls_context()
    except OSError as error:
        reason = error.strerror or "no certificate or key"
        raise ValueError(f"names a file for TLS that can't be used ({reason}); see ssl_ca, ssl_cert, ssl_key") from None
    return login


def _check(parts: SplitResult, user: str, options: dict[str, str]) -> None:
    if parts.scheme not in ("mysql", "mariadb") or parts.fragment:
        raise ValueError(f"is no address of a MySQL or MariaDB server; write {_ADDRESS}")
    if not user or not (parts.hostname or "unix_socket" in options):
        raise ValueError(f"lacks the user or the host; write {_ADDRESS}")
    if "/" in parts.path.removeprefix("/"):
        raise ValueError(f"names more than a database after the host; write {_ADDRESS}")
    if not options.keys() <= set(_OPTIONS):
        raise ValueError(f"has an option that is not known; there is {', '.join(_OPTIONS)}")
    if options.get("ssl_mode", "preferred") not in _TLS_MODES:
        raise ValueError(f"has an ssl_mode that is not known; there is {', '.join(_TLS_MODES)}")
    if "ssl_key" in options and "ssl_cert" not in options:
        raise ValueError("names an ssl_key without its ssl_cert; add that")


@dataclass(frozen=True)
class Limits:
    """How long a server is waited for, in seconds.

    `stream_seconds` is for all of a scan, of which no part may take longer to come than a statement.
    """

    connect_seconds: float = 5
    statement_seconds: float = 10
    lock_seconds: int = 2
    stream_seconds: float = 600

    @property
    def silence_seconds(self) -> float:
        """How long the network may be silent: the server is to end its statement first, and say so."""
        return self.statement_seconds + 2


class Sessions:
    """Read-only transactions at one server, each of which sees one snapshot. Connections are kept from one to the next.

    Every error of the driver becomes TargetUnavailable of `target`.
    """

    def __init__(self, target: str, login: Login, limits: Limits) -> None:
        self._target = target
        self._login = login
        self._limits = limits
        self._idle: list[pymysql.Connection[Cursor]] = []

    def close(self) -> None:
        """Let go of the connections; the next transaction opens another."""
        while self._idle:
            _drop(self._idle.pop())

    def reading(self) -> AbstractContextManager[Cursor]:
        """A transaction whose answers come whole."""
        return self._transaction(Cursor, self._limits.statement_seconds)

    def streaming(self) -> AbstractContextManager[Cursor]:
        """A transaction whose rows come as they are taken; others may go on beside it."""
        return self._transaction(_Streamed, self._limits.stream_seconds)

    @contextmanager
    def _transaction(self, kind: type[Cursor], statement_seconds: float) -> Iterator[Cursor]:
        """On a connection that nobody else uses meanwhile; it is kept if all went well."""
        try:
            connection = self._begun(statement_seconds)
            try:
                with connection.cursor(kind) as cursor:
                    yield cursor
                connection.rollback()
            except BaseException:
                _drop(connection)
                raise
            self._idle.append(connection)
        except pymysql.Error as error:
            self.close()
            raise TargetUnavailable(self._target, _sentence(error), trouble=_trouble(error)) from error
        except UnicodeDecodeError as error:
            raise TargetUnavailable(self._target, "it sent text that is not UTF-8", trouble="unreadable") from error

    def _begun(self, statement_seconds: float) -> "pymysql.Connection[Cursor]":
        """A connection in a transaction. One that was closed while it was idle is no trouble: nothing was read."""
        while self._idle:
            connection = self._idle.pop()
            try:
                self._begin(connection, statement_seconds)
            except pymysql.Error as error:
                _drop(connection)
                if isinstance(error.__context__, TimeoutError):  # it is silent, and was waited for
                    raise
            else:
                return connection
        connection = self._connected()
        try:
            self._begin(connection, statement_seconds)
        except BaseException:
            _drop(connection)
            raise
        return connection

    def _begin(self, connection: "pymysql.Connection[Any]", statement_seconds: float) -> None:
        lock = self._limits.lock_seconds
        with connection.cursor(Cursor) as cursor:
            if is_mariadb(connection):
                cursor.execute(_SETTINGS + _MARIADB, (lock, lock, statement_seconds))
            else:
                cursor.execute(_SETTINGS + _MYSQL, (lock, lock, round(statement_seconds * 1000)))
            for statement in _BEGIN:
                cursor.execute(statement)

    def _connected(self) -> "pymysql.Connection[Cursor]":
        login, limits = self._login, self._limits
        try:
            return pymysql.connect(
                host=login.host,
                port=login.port,
                user=login.user,
                password=login.password,
                database=login.database,
                unix_socket=login.unix_socket,
                ssl=login.tls_context(),
                ssl_disabled=login.tls_mode == "disabled",
                charset="utf8mb4",
                conv=dict[Any, Any](encoders),  # and no decoders: values stay as the server writes them
                connect_timeout=limits.connect_seconds,
                read_timeout=limits.silence_seconds,
                write_timeout=limits.silence_seconds,
                autocommit=True,
                program_name="counterfoil reconcile",
            )
        except OSError as error:
            reason = f"a file for TLS can't be used ({error.strerror})"
            raise TargetUnavailable(self._target, reason) from error
        except _NO_SERVER as error:
            reason = "what answers there is no MySQL or MariaDB server"
            raise TargetUnavailable(self._target, reason, trouble="unreadable") from error
        except RuntimeError as error:  # the driver's, for a way to log in that needs another package
            reason = f"the server wants a login that needs more: {error}"
            raise TargetUnavailable(self._target, reason, trouble="refused") from error


def is_mariadb(connection: "pymysql.Connection[Any]") -> bool:
    """Whether the server is one, by the version that it says; else it is MySQL."""
    return "mariadb" in str(connection.get_server_info()).lower()  # type: ignore[no-untyped-call]  # untyped there


class _Streamed(SSCursor):
    """A cursor that drops what was not taken, with its connection, where the driver's reads it all to the end."""

    def close(self) -> None:
        result = vars(self).get("_result")
        if result is not None:
            result.unbuffered_active = False
        super().close()

    __del__ = close


def _drop(connection: "pymysql.Connection[Any]") -> None:
    if connection.open:
        connection.close()


def _sentence(error: pymysql.Error) -> str:
    """The server's first line; it holds the names of users and tables, and no password."""
    code, text = (*error.args, "", "")[:2]
    lines = str(text or code).strip().splitlines()
    number = f" {code}" if isinstance(code, int) and code else ""
    return f"{type(error).__name__}{number}: {lines[0] if lines else 'no reason was given'}"


def _trouble(error: pymysql.Error) -> Trouble:
    code = error.args[0] if error.args else None
    if code in _REFUSED:
        return "refused"
    if code in _THROTTLED:
        return "throttled"
    # The driver's own, of packets that are none; the server's errors are of other classes.
    return "unreadable" if isinstance(error, pymysql.InternalError) else "away"
