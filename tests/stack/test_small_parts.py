"""Directories, ports, locks, the state file and server.properties."""

from __future__ import annotations

import re
import socket
import stat
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterfoil_console.stack import KafkaOptions, SaslSsl, StackBusy, StackState, default_directories
from counterfoil_console.stack.kafka_settings import server_properties
from counterfoil_console.stack.locks import exclusive, is_held
from counterfoil_console.stack.plan import plan
from counterfoil_console.stack.ports import is_free, is_open, pick, wait_until_free
from counterfoil_console.stack.state import Ledger, read_state

NOW = datetime(2026, 1, 2, tzinfo=UTC)
STATE = plan(None, (), secure=True, options_digest="d", owner=None, now=NOW)


def test_directories_follow_the_xdg_specification() -> None:
    plain = default_directories({"HOME": "/home/ann"})
    assert plain.data == Path("/home/ann/.local/share/counterfoil")
    assert plain.cache == Path("/home/ann/.cache/counterfoil")
    set_ones = default_directories({"HOME": "/home/ann", "XDG_DATA_HOME": "/data", "XDG_CACHE_HOME": "relative"})
    assert set_ones.data == Path("/data/counterfoil")
    assert set_ones.cache == Path("/home/ann/.cache/counterfoil")


def test_a_taken_port_is_not_picked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        assert is_open(port)
        assert not is_free(port)
        assert pick(port, ()) != port
        assert not wait_until_free([port], 0.1)
    assert pick(port, ()) == port
    assert pick(port, [port]) != port


def test_a_lock_is_held_by_one(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    waited = list[bool]()
    assert not is_held(path)
    with exclusive(path, 1):
        assert is_held(path)
        with pytest.raises(StackBusy), exclusive(path, 0.1, lambda: waited.append(True)):
            pass
    assert waited == [True]
    assert not is_held(path)


def test_the_state_file_is_private_and_survives(tmp_path: Path) -> None:
    path = tmp_path / "stack.json"
    ledger = Ledger(path, replace(STATE, postgres_dsn="postgresql://postgres:secret@127.0.0.1:1/postgres"))
    changed = ledger.change(phase="up")
    assert read_state(path) == changed
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "secret" not in repr(changed)
    assert [entry.name for entry in tmp_path.iterdir()] == ["stack.json"]


@pytest.mark.parametrize("content", [b"", b"{", b'{"phase": "up"}', b"\xff"])
def test_a_damaged_state_file_counts_as_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "stack.json"
    path.write_bytes(content)
    assert read_state(path) is None
    assert read_state(tmp_path / "absent") is None


def test_a_plan_keeps_the_ports_and_the_servers_that_run() -> None:
    old: StackState = replace(STATE, postgres_dsn="dsn", phase="up")
    with socket.create_server(("127.0.0.1", old.postgres_port)):
        again = plan(old, {"postgres"}, secure=True, options_digest="d", owner=None, now=NOW)
        moved = plan(old, (), secure=False, options_digest="d", owner=None, now=NOW)
    assert again == replace(old, phase="starting")
    assert (moved.kafka_port, moved.kafka_controller_port) == (old.kafka_port, old.kafka_controller_port)
    assert moved.postgres_port != old.postgres_port
    assert moved.sasl_ssl_bootstrap_servers is None


def read_properties(text: str) -> dict[str, str]:
    """A reader of the format's one-line subset, by its specification in java.util.Properties.load."""
    codes = {"n": "\n", "r": "\r", "t": "\t"}

    def unescape(match: re.Match[str]) -> str:
        unit, char = match.groups()
        return chr(int(unit, 16)) if unit else codes.get(char, char)

    pairs = (line.split("=", 1) for line in text.splitlines())
    units = {name: re.sub(r"\\(?:u([0-9a-f]{4})|(.))", unescape, value.lstrip(" \t\f")) for name, value in pairs}
    return {name: value.encode("utf-16", "surrogatepass").decode("utf-16") for name, value in units.items()}


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_setting_survives_server_properties(value: str) -> None:
    text = server_properties(KafkaOptions(settings={"a.setting": value}), STATE, Path("/data/log"))
    assert text.isascii()
    assert read_properties(text)["a.setting"] == value


def test_settings_win_and_passwords_are_quoted() -> None:
    login = SaslSsl(Path("/pem"), "ann", 'a"b\\c')
    options = KafkaOptions(sasl_ssl=login, settings={"message.max.bytes": "7"})
    properties = read_properties(server_properties(options, STATE, Path("/data/log")))
    assert properties["message.max.bytes"] == "7"
    jaas = properties["listener.name.secure.plain.sasl.jaas.config"]
    assert jaas.endswith(r'PlainLoginModule required "user_ann"="a\"b\\c";')
    assert f"SECURE://127.0.0.1:{STATE.kafka_sasl_ssl_port}" in properties["advertised.listeners"]
    assert 'a"b' not in repr(options)
