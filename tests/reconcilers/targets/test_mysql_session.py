"""How a MySQL server is reached, and how one that does not answer is told: on a real MariaDB, in bounded time."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench.pgbouncer import PASSWORD
from counterfoil.errors import SettingsError
from counterfoil_reconcilers.rows import RowKey
from counterfoil_reconcilers.targets.mysql import MySqlTarget
from counterfoil_reconcilers.targets.mysql_session import Limits, login_of
from counterfoil_reconcilers.targets.opening import open_target
from counterfoil_reconcilers.targets.port import Address, TargetUnavailable
from tests.fix_mariadb import READER, MariaDb
from tests.fix_tls import certificate
from tests.reconcilers.targets.conformance import SECRET, contracts_of
from tests.waiting import freeze

CONTRACT = """\
[targets.shop]
kind = "mysql"
%s
[targets.shop.resources.orders]
table = "orders"
key = ["id"]
"""
WANTED = [Address(None, RowKey("orders", ("A-1",)))]
# Of a time that is too long for the machine at its slowest, and below that of a server that is waited for forever.
SOON = 60.0


@pytest.fixture
def shop(mariadb: MariaDb) -> MariaDb:
    mariadb.new_database(
        "reached", "CREATE TABLE orders (id varchar(8) PRIMARY KEY)", "INSERT INTO orders VALUES ('A-1')"
    )
    return mariadb


Open = Callable[..., MySqlTarget]


@pytest.fixture
def opened(shop: MariaDb, tmp_path: Path) -> Iterator[Open]:
    """Opens adapters, which are closed at the end."""
    made: list[MySqlTarget] = []

    def make(url: str | None = None, *, writers: str = "", **limits: float) -> MySqlTarget:
        login = login_of(url or shop.url("reached"))
        given = Limits(**{name: int(value) if name == "lock_seconds" else value for name, value in limits.items()})  # type: ignore[arg-type]
        made.append(MySqlTarget(contracts_of(tmp_path, CONTRACT % writers), "shop", login, given))
        return made[-1]

    yield make
    for target in made:
        target.close()


def is_there(target: MySqlTarget) -> bool:
    return [one.row is not None for one in target.read(WANTED)] == [True]


def refusal(target: MySqlTarget) -> TargetUnavailable:
    """What the target says instead of an answer, soon."""
    started = time.monotonic()
    with pytest.raises(TargetUnavailable) as caught:
        target.read(WANTED)
    assert time.monotonic() - started < SOON
    assert PASSWORD not in str(caught.value)
    return caught.value


def test_a_locked_table_does_not_hold_the_reconciler(shop: MariaDb, opened: Open) -> None:
    target = opened(lock_seconds=1, statement_seconds=30)
    with shop.connect("reached") as other, other.cursor() as cursor:
        cursor.execute("LOCK TABLES orders WRITE")
        error = refusal(target)
        assert "Lock wait timeout exceeded" in error.reason
        assert error.trouble == "away"
        cursor.execute("UNLOCK TABLES")
    assert is_there(target)


def test_a_slow_query_ends(opened: Open) -> None:
    target = opened(writers='writers = { ours = "SLEEP(600) = 0" }', statement_seconds=1)
    error = refusal(target)
    assert "max_statement_time exceeded" in error.reason
    assert error.trouble == "away"
    with pytest.raises(TargetUnavailable, match="max_statement_time exceeded"):
        list(opened(writers='writers = { ours = "SLEEP(600) = 0" }', stream_seconds=1).scan("orders"))


def test_a_silent_server_is_not_waited_for(shop: MariaDb, opened: Open) -> None:
    kept, new = opened(statement_seconds=4), opened(statement_seconds=1)
    assert is_there(kept)
    freeze(shop.pid)
    try:
        started = time.monotonic()
        assert refusal(kept).trouble == "away"
        assert time.monotonic() - started < 2 * Limits(statement_seconds=4).silence_seconds, "it is waited for once"
        assert [refusal(target).trouble for target in (new, kept)] == ["away", "away"]
    finally:
        os.kill(shop.pid, signal.SIGCONT)
    assert is_there(kept)
    assert is_there(new)


def test_a_connection_that_was_closed_while_idle_is_no_trouble(shop: MariaDb, opened: Open) -> None:
    target = opened()
    for _ in range(3):
        assert is_there(target)
        shop.run(f"KILL USER {READER}")
    assert sum(1 for _ in target.scan("orders")) == 1


def test_too_many_connections_and_queries_are_throttling(shop: MariaDb, opened: Open) -> None:
    first, second = opened(), opened()
    try:
        shop.run(f"ALTER USER {READER}@'%' WITH MAX_USER_CONNECTIONS 1")
        assert is_there(first)
        assert refusal(second).trouble == "throttled"
        shop.run(f"ALTER USER {READER}@'%' WITH MAX_USER_CONNECTIONS 0 MAX_QUERIES_PER_HOUR 3")
        assert refusal(second).trouble == "throttled"
    finally:
        shop.run(f"ALTER USER {READER}@'%' WITH MAX_USER_CONNECTIONS 0 MAX_QUERIES_PER_HOUR 0")
        shop.run("FLUSH USER_RESOURCES")
    assert is_there(second)


def test_a_login_that_may_not_read_is_refused(shop: MariaDb, opened: Open) -> None:
    kept = opened()
    assert is_there(kept)
    try:
        shop.run(f"REVOKE SELECT ON reached.* FROM {READER}@'%'")
        assert refusal(opened()).trouble == "refused"
        shop.run(f"ALTER USER {READER}@'%' ACCOUNT LOCK")
        assert refusal(opened()).trouble == "refused"
    finally:
        shop.run(f"ALTER USER {READER}@'%' ACCOUNT UNLOCK", f"GRANT SELECT ON reached.* TO {READER}@'%'")
    assert refusal(opened(shop.url("reached", user="nobody"))).trouble == "refused"
    assert refusal(opened(shop.url("not_there"))).trouble == "refused"
    assert is_there(kept)


@contextmanager
def greeting(words: bytes) -> Iterator[str]:
    """An address where something says these words to whoever comes, and no more."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        held: list[socket.socket] = []

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                held.append(connection)
                connection.sendall(words)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"mysql://{READER}:{PASSWORD}@127.0.0.1:{server.getsockname()[1]}/reached"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join(SOON)
            for connection in held:
                connection.close()


@pytest.mark.parametrize(
    "words",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"220 mail.example ESMTP\r\n",
        b"\x05\x00\x00\x00hello",
        b"\x01\x00\x00\x00\x0a",
        b"\x20\x00\x00\x00\x0ax.y\x00" + b"\x00" * 27,
    ],
)
def test_what_greets_as_no_mysql_server_is_unreadable(opened: Open, words: bytes) -> None:
    with greeting(words) as url:
        assert refusal(opened(url, statement_seconds=1)).trouble == "unreadable"


def test_what_says_nothing_is_away(opened: Open) -> None:
    with greeting(b"") as url:
        assert refusal(opened(url, statement_seconds=1)).trouble == "away"


def test_certificates_are_checked_as_the_address_says(
    shop: MariaDb, opened: Open, authority: Path, tmp_path: Path
) -> None:
    ca = f"?ssl_ca={authority / 'ca.pem'}"
    trusted = [ca, f"{ca}&ssl_mode=verify_ca", "?ssl_mode=required", "?ssl_mode=preferred", "?ssl_mode=disabled", ""]
    for query in trusted:
        assert is_there(opened(shop.url("reached", query=query))), query
    elsewhere = shop.url("reached", query=ca).replace("127.0.0.1", "localhost")  # the certificate names 127.0.0.1 alone
    assert "certificate verify failed" in refusal(opened(elsewhere)).reason
    assert is_there(opened(f"{elsewhere}&ssl_mode=verify_ca"))
    other = tmp_path / "other.pem"
    other.write_bytes(another_authority())
    assert "certificate verify failed" in refusal(opened(shop.url("reached", query=f"?ssl_ca={other}"))).reason
    assert "certificate verify failed" in refusal(opened(shop.url("reached", query="?ssl_mode=verify_identity"))).reason


def another_authority() -> bytes:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate("another CA", ec.generate_private_key(ec.SECP256R1()), None).public_bytes(Encoding.PEM)


def test_a_login_that_must_use_tls_is_let_in_by_it_alone(shop: MariaDb, opened: Open) -> None:
    shop.run(f"ALTER USER {READER}@'%' REQUIRE SSL")
    try:
        assert is_there(opened())
        assert refusal(opened(shop.url("reached", query="?ssl_mode=disabled"))).trouble == "refused"
    finally:
        shop.run(f"ALTER USER {READER}@'%' REQUIRE NONE")


def test_a_socket_will_do(shop: MariaDb, opened: Open) -> None:
    assert is_there(opened(f"mysql://{READER}:{PASSWORD}@/reached?unix_socket={shop.folder}/socket"))


def test_a_password_may_hold_anything(shop: MariaDb, opened: Open) -> None:
    odd = "pä/ss:@#?%41 日"
    try:
        with shop.connect() as connection, connection.cursor() as cursor:
            cursor.execute("CREATE USER odd@'%%' IDENTIFIED BY %s", (odd,))
        shop.run("GRANT SELECT ON reached.* TO odd@'%'")
        assert is_there(opened(shop.url("reached", user="odd", password=odd)))
    finally:
        shop.run("DROP USER IF EXISTS odd@'%'")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        (f"postgresql://u:{SECRET}@h/d", "is no address of a MySQL or MariaDB server"),
        (SECRET, "is no address of a MySQL or MariaDB server"),
        (f"mysql://:{SECRET}@h/d", "lacks the user or the host"),
        (f"mysql://u:{SECRET}", "is no address that can be read"),
        (f"mysql://u:{SECRET}@", "lacks the user or the host"),
        (f"mysql://u:{SECRET}/x@h/d", "is no address that can be read"),
        (f"mysql://u:1/{SECRET}@h/d", "lacks the user or the host"),
        (f"mysql://u:1#{SECRET}@h/d", "is no address of a MySQL or MariaDB server"),
        (f"mysql://u:1?{SECRET}@h/d", "is no address that can be read"),
        (f"mysql://u:{SECRET}@h:port/d", "is no address that can be read"),
        (f"mysql://u:{SECRET}@h:99999/d", "is no address that can be read"),
        (f"mysql://u:{SECRET}@[h/d", "is no address that can be read"),
        (f"mysql://u%FF:{SECRET}@h/d", "is no address that can be read"),
        (f"mysql://u:{SECRET}@h/d/e", "names more than a database"),
        (f"mysql://u:{SECRET}@h/d?{SECRET}=1", "there is ssl_mode, ssl_ca, ssl_cert, ssl_key, unix_socket"),
        (f"mysql://u:{SECRET}@h/d?ssl_mode={SECRET}", "there is disabled, preferred, required, verify_ca, verify_iden"),
        (f"mysql://u:{SECRET}@h/d?ssl_ca=/{SECRET}", "names a file for TLS that can't be used"),
        (f"mysql://u:{SECRET}@h/d?ssl_cert=/dev/null", "names a file for TLS that can't be used"),
        (f"mysql://u:{SECRET}@h/d?ssl_key=/dev/null", "names an ssl_key without its ssl_cert"),
    ],
)
def test_an_address_that_is_wrong_is_told_without_its_words(tmp_path: Path, url: str, reason: str) -> None:
    contracts = contracts_of(tmp_path, CONTRACT % "")
    with pytest.raises(SettingsError) as caught:
        open_target(contracts, "shop", {"shop": {"url": url}})
    assert str(caught.value).startswith("COUNTERFOIL_TARGETS__SHOP__URL ")
    assert reason in str(caught.value)
    assert SECRET not in str(caught.value)


def test_no_secret_is_in_what_is_printed() -> None:
    assert SECRET not in repr(login_of(f"mysql://u:{SECRET}@h/d"))
