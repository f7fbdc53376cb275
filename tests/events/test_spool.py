"""The spool: what it took it has, what is not as written is told apart, and a full disk is an error."""

import contextlib
import os
import random
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterfoil.folder import Cluster, ProducerFolder, TenantOrigin, producers_in
from counterfoil.home import unaccounted
from counterfoil.ids import new_id, partition_key
from counterfoil.spool import Spool, SpoolDamaged, Spooled, SpoolFailed, files_of, salvaged
from counterfoil.tally import Tally

LIMIT = 64 * 1024**2
KEYS = [partition_key("acme", new_id()) for _ in range(3)]


def event(n: int, size: int = 300) -> Spooled:
    return Spooled(n, KEYS[n % 3], n // 3, (("counterfoil-kind", "review"),), random.Random(n).randbytes(size))


def filled(path: Path, count: int) -> list[Spooled]:
    events = [event(n) for n in range(1, count + 1)]
    spool = Spool(path, LIMIT)
    spool.append(events)
    spool.close()
    return events


def test_what_it_took_it_has(tmp_path: Path) -> None:
    path = tmp_path / "spool.sqlite"
    events = filled(path, 100)
    assert {stat.S_IMODE(file.stat().st_mode) for file in files_of(path) if file.exists()} == {0o600}
    spool = Spool(path, LIMIT)
    assert spool.read(0, 1000) == events
    assert spool.read(40, 10) == events[40:50]
    spool.remove(range(1, 61))
    assert spool.read(0, 1000) == events[60:]
    assert (spool.count(), spool.last_place()) == (40, 100)
    assert sorted(spool.runs()) == sorted((KEYS[r], min(s), max(s) + 1) for r, s in by_key(events[60:]).items())
    spool.check()
    spool.delete()
    assert not any(file.exists() for file in files_of(path))


def by_key(events: list[Spooled]) -> dict[int, list[int]]:
    return {r: [one.seq for one in events if one.n % 3 == r] for r in range(3)}


def test_full_is_an_error_and_evicts_nothing(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool.sqlite", 1024**2)
    taken = 0
    with contextlib.suppress(SpoolFailed):
        while taken < 1000:
            spool.append([event(taken + 1, 10_000)])
            taken += 1
    with pytest.raises(SpoolFailed, match="full"):
        spool.append([event(taken + 1, 10_000)])
    assert 50 < taken < 110
    assert [one.n for one in spool.read(0, 1000)] == list(range(1, taken + 1))
    spool.remove(range(1, 21))
    spool.append([event(taken + 1, 10_000)])
    spool.check()
    spool.close()


_FULL_DISK = """
import resource, sys
from pathlib import Path
from counterfoil.spool import Spool, Spooled, SpoolFailed
spool = Spool(Path(sys.argv[1]), 2**30)
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
taken = 0
try:
    while True:
        spool.append([Spooled(taken + 1, b"acme/0", taken, (), b"x" * 5_000)])
        taken += 1
except SpoolFailed as error:
    assert "can't be written" in str(error), error
assert len(spool.read(0, 10_000)) == taken > 10, taken
spool.close()
print(taken)
"""


def test_a_full_disk_is_an_error_and_loses_nothing(tmp_path: Path, run_python: Callable[..., str]) -> None:
    path = tmp_path / "spool.sqlite"
    taken = int(run_python(_FULL_DISK, str(path)))
    spool = Spool(path, LIMIT)
    assert [one.seq for one in spool.read(0, 10_000)] == list(range(taken))
    spool.close()


DAMAGES = int(os.environ.get("COUNTERFOIL_TEST_DAMAGES", "500"))


def test_damage_shows_and_what_is_whole_is_saved(tmp_path: Path) -> None:
    """Flipped bits and truncations anywhere in the file and its log: never a crash, never a changed event."""
    template = tmp_path / "template" / "spool.sqlite"
    template.parent.mkdir()
    events = {one.n: one for one in filled(template, 60)}
    unfinished = Spool(template, LIMIT)  # and some that are in the write-ahead log only
    unfinished.append([event(n) for n in range(61, 81)])
    events |= {n: event(n) for n in range(61, 81)}
    copies = [file for file in files_of(template) if file.exists()]
    contents = {file.name: file.read_bytes() for file in copies}
    unfinished.close()
    dice = random.Random(20261124)
    outcomes = {"whole": 0, "short": 0, "damaged": 0}
    for number in range(DAMAGES):
        folder = tmp_path / f"d{number}"
        folder.mkdir()
        name = dice.choice(list(contents))
        for other, content in contents.items():
            (folder / other).write_bytes(damaged(content, dice) if other == name else content)
        outcomes[assert_safe(folder / template.name, events)] += 1
        shutil.rmtree(folder)
    assert outcomes["damaged"] > DAMAGES / 10, outcomes


def damaged(content: bytes, dice: random.Random) -> bytes:
    if dice.random() < 0.3:
        return content[: dice.randrange(len(content))]
    changed = bytearray(content)
    for _ in range(dice.choice((1, 1, 8, 64))):
        at = dice.randrange(len(content) * 8)
        changed[at // 8] ^= 1 << (at % 8)
    return bytes(changed)


def assert_safe(path: Path, events: dict[int, Spooled]) -> str:
    try:
        spool = Spool(path, LIMIT)
        try:
            spool.check()
            found = spool.read(-(2**62), 1000)
        finally:
            spool.close()
    except SpoolDamaged:
        saved = list(salvaged(path))
        assert all(one == events[one.n] for one in saved)
        assert len({one.n for one in saved}) == len(saved)
        return "damaged"
    assert all(one == events[one.n] for one in found)  # the tail of a log cut short is gone: the tally shows it
    return "whole" if len(found) == len(events) else "short"


def test_salvage_comes_from_both_ends(tmp_path: Path) -> None:
    path = tmp_path / "spool.sqlite"
    events = filled(path, 300)
    content = bytearray(path.read_bytes())
    pages = len(content) // 4096
    content[4096 * (pages // 2) : 4096 * (pages // 2) + 4096] = b"\xff" * 4096
    path.write_bytes(content)
    saved = {one.n for one in salvaged(path)}
    assert {1, 2, 3, 298, 299, 300} <= saved < {one.n for one in events}
    assert len(saved) > 270


# -- the tally


def test_a_tally_is_read_as_it_was_left(tmp_path: Path) -> None:
    tally = Tally.open(tmp_path / "tally")
    keys = [partition_key("acme", new_id()) for _ in range(1200)]  # more than two segments
    for place, key in enumerate(keys):
        numbers = tally.numbers(key)
        assert [numbers.take() for _ in range(place % 5)] == list(range(place % 5))
        numbers.acknowledge(0, min(place % 3, place % 5))
    tally.close()
    again = Tally.open(tmp_path / "tally")
    assert again.damaged == 0
    assert [one.key for one in again] == keys
    assert all(again.numbers(key).next_seq == place % 5 for place, key in enumerate(keys))
    assert again.numbers(keys[-1]).take() == 1199 % 5
    again.close()


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 4)), max_size=30))
def test_acknowledged_is_all_before_the_first_that_is_not(runs: list[tuple[int, int]]) -> None:
    numbers = Tally().numbers(KEYS[0])
    known: set[int] = set()
    for first, length in runs:
        numbers.acknowledge(first, first + length)
        known.update(range(first, first + length))
        assert numbers.acknowledged == next(seq for seq in range(100) if seq not in known)


@given(st.integers(0, 40), st.integers(0, 20), st.lists(st.tuples(st.integers(0, 30), st.integers(1, 5)), max_size=8))
def test_unaccounted_is_what_nobody_has(taken: int, acknowledged: int, safe: list[tuple[int, int]]) -> None:
    tally = Tally()
    numbers = tally.numbers(KEYS[0])
    numbers.take_until(taken)
    numbers.acknowledge(0, min(acknowledged, taken))
    runs = [(KEYS[0], first, min(first + length, taken)) for first, length in safe if first < taken]
    lost = {seq for _, first, end in unaccounted(tally, runs) for seq in range(first, end)}
    have = {seq for _, first, end in runs for seq in range(first, end)}
    assert lost == set(range(min(acknowledged, taken), taken)) - have


def test_a_flipped_bit_in_a_tally_shows(tmp_path: Path) -> None:
    path = tmp_path / "tally"
    tally = Tally.open(path)
    expected = {}
    for place, key in enumerate(KEYS):
        tally.numbers(key).take_until(10 + place)
        tally.numbers(key).acknowledge(0, 5)
        expected[key] = (10 + place, 5)
    tally.close()
    content = path.read_bytes()
    for bit in range(0, 3 * 128 * 8, 3):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << (bit % 8)
        path.write_bytes(changed)
        again = Tally.open(path)
        found = {one.key: (one.next_seq, one.acknowledged) for one in again}
        again.close()
        if found != expected:
            assert again.damaged == 1
            assert found.items() < expected.items()


# -- the folder


def test_a_folder_is_adopted_when_its_owner_let_go(tmp_path: Path) -> None:
    own = ProducerFolder.create(tmp_path / "base", new_id(), Cluster("a:1"), LIMIT)
    assert stat.S_IMODE(own.path.stat().st_mode) == 0o700
    assert producers_in(own.path.parent) == [own.path]
    assert ProducerFolder.adopt(own.path, LIMIT) is None
    tenant = TenantOrigin("acme", "w", "a", "production", "live")
    own.add_tenant(tenant)
    own.tally.numbers(KEYS[0]).take()
    own.spool.append([event(1)])
    own.release()
    heir = ProducerFolder.adopt(own.path, LIMIT)
    assert heir is not None
    assert heir.producer_id == own.producer_id
    assert list(heir.tenants()) == [tenant]
    assert heir.has_spool
    assert heir.spool.read(0, 10) == [event(1)]
    heir.remove()
    assert list(own.path.parent.iterdir()) == []
    assert ProducerFolder.adopt(own.path, LIMIT) is None


@pytest.mark.parametrize(
    ("ours", "theirs", "same"),
    [
        (Cluster("a:1"), Cluster("a:1"), True),
        (Cluster("a:1"), Cluster("b:1"), False),
        (Cluster("a:1", "X"), Cluster("b:1", "X"), True),
        (Cluster("a:1", "X"), Cluster("a:1", "Y"), False),
        (Cluster("a:1", "X"), Cluster("a:1"), True),
    ],
)
def test_a_spool_goes_to_its_own_cluster(ours: Cluster, theirs: Cluster, same: bool) -> None:
    assert ours.is_same(theirs) is same
