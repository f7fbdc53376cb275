"""Redis' own: one moment and one round trip, names with glob characters, types, sizes, and errors that are real."""

import socketserver
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import redis

from counterfoil.errors import SettingsError
from counterfoil_console.stack.ports import HOST, pick
from counterfoil_reconcilers.rows import Row, RowKey
from counterfoil_reconcilers.targets.opening import open_target
from counterfoil_reconcilers.targets.port import Address, Target, TargetUnavailable
from tests.fix_answers import Answer, Answering
from tests.fix_redis import PASSWORD, NewRedis, RedisServer
from tests.reconcilers.targets.conformance import NAME, contracts_of
from tests.waiting import ENDS_WITHIN_SECONDS, wait_until

Opened = Callable[..., Target]


def contract(template: str, more: str = 'key = ["id"]') -> str:
    return f'[targets.{NAME}]\nkind = "redis"\n[targets.{NAME}.resources.items]\nredis_key = "{template}"\n{more}\n'


def at(*key: str, tenant: str | None = None) -> Address:
    return Address(tenant, RowKey("items", key))


def problem_of(row: Row | None) -> str:
    assert row is not None
    assert row.doc is None
    return str(row.problem)


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator["redis.Redis"]:
    with redis_server.client() as connected:
        yield connected


@pytest.fixture
def prefix() -> str:
    """What all of the test's keys begin with."""
    return uuid.uuid4().hex


@pytest.fixture
def opened(redis_server: RedisServer, tmp_path: Path) -> Opened:
    def opens(text: str, url: str | None = None) -> Target:
        settings = {"url": redis_server.url if url is None else url, "timeout_seconds": "20"}
        return open_target(contracts_of(tmp_path, text), NAME, {NAME: settings})

    return opens


@pytest.mark.parametrize("form", ["json-string", "hash"])
def test_a_thousand_keys_are_one_transaction(opened: Opened, client: "redis.Redis", prefix: str, form: str) -> None:
    for number in range(0, 1_000, 100):
        if form == "hash":
            client.hset(f"{prefix}:{number}", "status", "paid")
        else:
            client.set(f"{prefix}:{number}", '{"status": "paid"}')
    with opened(contract(f"{prefix}:{{id}}", f'key = ["id"]\ntype = "{form}"')) as target:
        client.config_resetstat()
        found = target.read([at(str(number)) for number in range(1_000)])
        calls = {name: stats["calls"] for name, stats in client.info("commandstats").items()}
    assert [row.address.row.key[0] for row in found if row.row] == [str(n) for n in range(0, 1_000, 100)]
    assert (calls["cmdstat_multi"], calls["cmdstat_exec"], calls["cmdstat_type"]) == (1, 1, 1_000)
    assert ("cmdstat_memory|usage" in calls) == (form == "hash")


def test_a_read_sees_one_moment(opened: Opened, client: "redis.Redis", redis_server: RedisServer, prefix: str) -> None:
    stop = threading.Event()

    def move() -> None:
        number = 0
        with redis_server.client() as writer:
            while not stop.is_set():
                number += 1
                pair = writer.pipeline(transaction=True)
                pair.set(f"{prefix}:a", number)
                pair.set(f"{prefix}:b", number)
                pair.execute()

    moving = threading.Thread(target=move)
    moving.start()
    try:
        wait_until(lambda: client.exists(f"{prefix}:b"))
        with opened(contract(f"{prefix}:{{id}}", 'key = ["id"]\ntype = "string"')) as target:
            seen = [[row.row.doc if row.row else None for row in target.read([at("a"), at("b")])] for _ in range(300)]
    finally:
        stop.set()
        moving.join()
    assert all(left == right for left, right in seen)
    assert len({str(left) for left, _ in seen}) > 10


@pytest.mark.parametrize("key", ["*", "A-*", "[A]-1", "A?1", "A\\1", "^A", "a b", "Ä", "A\r\n1", "x" * 5_000, "A{1}"])
def test_an_odd_name_is_found_and_listed_as_it_is(opened: Opened, client: "redis.Redis", prefix: str, key: str) -> None:
    for there in (key, "A-1", "AB1"):
        client.set(f"{prefix}:{there}", there)
    with opened(contract(f"{prefix}:{{id}}", 'key = ["id"]\ntype = "string"')) as target:
        assert [row.row.doc if row.row else None for row in target.read([at(key)])] == [{"text": key}]
        assert sorted(row.address.row.key[0] for row in target.scan("items")) == sorted([key, "A-1", "AB1"])


def test_a_tenant_of_glob_characters_lists_no_other(opened: Opened, client: "redis.Redis", prefix: str) -> None:
    for tenant in ("acme", "acme2", "*"):
        client.set(f"{prefix}:{tenant}:1", tenant)
    more = 'key = ["id"]\ntenant = "tenant"\ntype = "string"'
    with opened(contract(f"{prefix}:{{tenant}}:{{id}}", more)) as target:
        for tenant in ("acme", "*"):
            assert [row.address for row in target.scan("items", tenant)] == [at("1", tenant=tenant)]
        assert list(target.scan("items", "acme?")) == []
        assert len(list(target.scan("items"))) == 3


def test_a_literal_part_of_glob_characters_matches_itself(opened: Opened, client: "redis.Redis", prefix: str) -> None:
    for name in (f"{prefix}[ab]*:1", f"{prefix}a:1", f"{prefix}{{x}}:1"):
        client.set(name, "here")
    with opened(contract(f"{prefix}[ab]*:{{id}}", 'key = ["id"]\ntype = "string"')) as target:
        assert [row.address for row in target.scan("items")] == [at("1")]
    with opened(contract(f"{prefix}{{{{x}}}}:{{id}}", 'key = ["id"]\ntype = "string"')) as target:
        assert [row.address for row in target.scan("items")] == [at("1")]
        assert target.read([at("1")])[0].row is not None


def test_names_of_another_sort_are_no_rows(opened: Opened, client: "redis.Redis", prefix: str) -> None:
    for name in ("7", "7:lines", ":", "7:"):
        client.set(f"{prefix}:{name}", "here")
    client.set(f"{prefix}:".encode() + b"\xff", "here")
    with opened(contract(f"{prefix}:{{id}}", 'key = ["id"]\ntype = "string"')) as target:
        assert [row.address for row in target.scan("items")] == [at("7")]
        assert [row.row is not None for row in target.read([at("7"), at("7:lines")])] == [True, False]
    with opened(contract(f"{prefix}:{{+id}}", 'key = ["id"]\ntype = "string"')) as target:
        assert {row.address for row in target.scan("items")} == {at("7"), at("7:lines"), at(":"), at("7:")}


def test_what_cannot_be_compared_says_why(opened: Opened, client: "redis.Redis", prefix: str) -> None:
    client.rpush(f"{prefix}:list", "x")
    client.hset(f"{prefix}:hash", "a", "1")
    client.set(f"{prefix}:bytes", b"\xff")
    client.set(f"{prefix}:twice", '{"a": 1, "a": 2}')
    client.set(f"{prefix}:large", '"' + "x" * 4_000_000 + '"')
    client.set(f"{prefix}:empty", "")
    with opened(contract(f"{prefix}:{{id}}", 'key = ["id"]\ntype = "json-string"')) as target:
        rows = {row.address.row.key[0]: row.row for row in target.scan("items")}
    assert problem_of(rows["list"]) == "it is of type list, which is no json-string"
    assert problem_of(rows["hash"]) == "it is of type hash, which is no json-string"
    assert "UTF-8" in problem_of(rows["bytes"])
    assert "named twice" in problem_of(rows["twice"])
    assert problem_of(rows["large"]) == "it has more than 4000000 bytes"
    assert "not JSON" in problem_of(rows["empty"])


def test_a_hash_is_texts_and_has_its_limits(opened: Opened, client: "redis.Redis", prefix: str) -> None:
    client.hset(f"{prefix}:small", "total", "12.50")
    client.hset(f"{prefix}:bytes", "total", b"\xff")
    client.hset(f"{prefix}:name", b"\xff", "1")
    client.hset(f"{prefix}:nul", "a", "\0")
    client.hset(f"{prefix}:large", "a", "x" * 4_000_001)
    client.set(f"{prefix}:text", "x")
    with opened(contract(f"{prefix}:{{id}}")) as target:
        rows = {row.address.row.key[0]: row.row for row in target.scan("items")}
    assert rows["small"] == Row({"total": "12.50"})
    assert "UTF-8" in problem_of(rows["bytes"])
    assert "UTF-8" in problem_of(rows["name"])
    assert "NUL" in problem_of(rows["nul"])
    assert "more than 4000000" in problem_of(rows["large"])
    assert problem_of(rows["text"]) == "it is of type string, which is no hash"


def test_the_seconds_to_live_are_a_field_by_the_name_that_the_contract_gives(
    opened: Opened, client: "redis.Redis", prefix: str
) -> None:
    client.set(f"{prefix}:soon", '{"a": 1}', ex=600)
    client.set(f"{prefix}:never", '{"a": 1}')
    client.set(f"{prefix}:own", '{"expires_in": 1}')
    with opened(contract(f"{prefix}:{{id}}", 'key = ["id"]\ntype = "json-string"\nttl = "expires_in"')) as target:
        soon, never, own = (row.row for row in target.read([at("soon"), at("never"), at("own")]))
    assert soon is not None
    assert isinstance(soon.doc, dict)
    assert 0 < soon.doc["expires_in"] <= 600
    assert never == Row({"a": 1.0, "expires_in": None})
    assert "of its own" in problem_of(own)


def test_a_user_of_few_rights_reads_and_one_of_fewer_is_refused(
    opened: Opened, client: "redis.Redis", redis_server: RedisServer, prefix: str
) -> None:
    client.set(f"{prefix}:1", "here")
    reads = ["+type", "+getrange", "+hgetall", "+ttl", "+memory|usage", "+multi", "+exec", "+scan", "+ping"]
    for user, commands in (("reader", reads), ("lister", ["+scan", "+ping", "+multi", "+exec"])):
        client.acl_setuser(user, enabled=True, passwords=[f"+{user}-secret"], keys=[f"{prefix}:*"], commands=commands)
    text = contract(f"{prefix}:{{id}}", 'key = ["id"]\ntype = "string"')
    where = f"redis://{{0}}:{{0}}-secret@{HOST}:{redis_server.port}/0"
    with opened(text, where.format("reader")) as target:
        assert target.check() == []
        assert [row.address for row in target.scan("items")] == [at("1")]
    with opened(text, where.format("lister")) as target, pytest.raises(TargetUnavailable) as caught:
        target.read([at("1")])
    assert caught.value.trouble == "refused"
    assert "secret" not in str(caught.value)
    with opened(text, f"redis://{HOST}:{redis_server.port}/0") as target, pytest.raises(TargetUnavailable) as caught:
        target.read([at("1")])
    assert caught.value.trouble == "refused"


def trouble_of(target: Target) -> str:
    with target, pytest.raises(TargetUnavailable) as caught:
        target.read([at("1")])
    assert PASSWORD not in str(caught.value)
    return caught.value.trouble


def test_a_server_that_is_busy_with_a_script_is_away(opened: Opened, new_redis: NewRedis) -> None:
    server = new_redis(**{"busy-reply-threshold": "100"})

    def run() -> None:
        with server.client() as connection, suppress(redis.ResponseError):
            connection.eval("while true do end", 0)

    running = threading.Thread(target=run)
    running.start()
    try:
        with server.client() as other:
            wait_until(lambda: is_busy(other))
            assert trouble_of(opened(contract("{id}"), server.url)) == "away"
            other.script_kill()
    finally:
        running.join()
    with opened(contract("{id}"), server.url) as target:
        assert target.read([at("1")])[0].row is None


def is_busy(client: "redis.Redis") -> bool:
    try:
        client.ping()
    except redis.ResponseError as error:
        return str(error).startswith("BUSY")
    return False


def test_a_server_that_takes_no_more_clients_throttles(opened: Opened, new_redis: NewRedis) -> None:
    server = new_redis(maxclients="1")
    with server.client() as first:
        wait_until(first.ping)
        assert trouble_of(opened(contract("{id}"), server.url)) == "throttled"


def test_a_node_of_a_cluster_without_slots_is_away(opened: Opened, new_redis: NewRedis) -> None:
    nodes = {"cluster-config-file": f"{uuid.uuid4().hex}.conf", "cluster-port": str(pick(None, ()))}
    server = new_redis(**{"cluster-enabled": "yes", **nodes})
    assert trouble_of(opened(contract("{id}"), server.url)) == "away"


def test_a_replica_that_has_lost_its_master_is_away(opened: Opened, new_redis: NewRedis) -> None:
    server = new_redis(replicaof=f"{HOST} 1", **{"replica-serve-stale-data": "no"})
    assert trouble_of(opened(contract("{id}"), server.url)) == "away"


@contextmanager
def saying(answer: bytes) -> Iterator[str]:
    """A server that says the same to every command."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with suppress(ConnectionError):
                while line := self.rfile.readline():
                    for _ in range(2 * int(line[1:])):
                        self.rfile.readline()
                    self.wfile.write(answer)

    with socketserver.ThreadingTCPServer((HOST, 0), Handler) as server:
        serving = threading.Thread(target=server.serve_forever, args=(ENDS_WITHIN_SECONDS,))
        serving.start()
        try:
            yield f"redis://{HOST}:{server.server_address[1]}/0"
        finally:
            server.shutdown()
            serving.join()


@pytest.mark.parametrize(
    ("answer", "trouble"),
    [
        (b"-LOADING Redis is loading the dataset in memory\r\n", "away"),
        (b"-OOM command not allowed when used memory > 'maxmemory'.\r\n", "away"),
        (b"-MOVED 3999 127.0.0.1:6381\r\n", "unreadable"),
        (b"-ASK 3999 127.0.0.1:6381\r\n", "unreadable"),
        (b"-NOPERM no\r\n", "refused"),
        (b"-ERR something else\r\n", "away"),
        (b"+OK\r\n", None),
        (b":1\r\n", None),
        (b"$-1\r\n", None),
        (b"*3\r\n:1\r\n:2\r\n:3\r\n", None),
        (b"$x\r\n", "unreadable"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "unreadable"),
    ],
)
def test_no_answer_is_taken_for_one(opened: Opened, answer: bytes, trouble: str | None) -> None:
    with saying(answer) as url:
        for form in ("hash", "string"):
            seen = trouble_of(opened(contract("{id}", f'key = ["id"]\ntype = "{form}"'), url))
            assert seen in ((trouble,) if trouble else ("away", "unreadable"))
        with opened(contract("{id}"), url) as target, pytest.raises(TargetUnavailable):
            list(target.scan("items"))


def test_a_web_server_is_no_redis(opened: Opened, answering: Answering) -> None:
    answering.say = lambda _: Answer(200, b"<html></html>")
    assert trouble_of(opened(contract("{id}"), answering.url.replace("http", "redis"))) in ("away", "unreadable")


@pytest.mark.parametrize(
    "url",
    [
        "http://:geheim@host/0",
        "redis://:geheim@host:port/0",
        "redis://:geheim@host/0?socket_timeout=9",
        "redis://:geheim@/0",
        "redis://:geheim@host/zero",
        "geheim",
    ],
)
def test_a_url_that_cannot_be_used_is_told_and_not_shown(opened: Opened, url: str) -> None:
    with pytest.raises(SettingsError, match="COUNTERFOIL_TARGETS__SUBJECT__URL") as caught:
        opened(contract("{id}"), url)
    assert "geheim" not in str(caught.value)
