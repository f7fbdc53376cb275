"""How many events of each task this process has numbered, and how many of them the brokers have.

The counts stand in a mapped file: they outlive a `kill -9` at the cost of a store into memory, so that whoever finds
the file knows exactly which numbers never came. After a power cut they may be seconds old. Each count is
stored beside its complement, which shows a flipped bit.
"""

import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

_SEGMENT_BYTES = 64 * 1024  # a multiple of every platform's mapping granularity
_ENTRY_BYTES = 128
_NAME = struct.Struct("=80sI")  # key, its CRC-32
_COUNT = struct.Struct("=qq")  # a count, its complement
_NUMBERED_AT, _ACKNOWLEDGED_AT = 88, 104


class Numbers:
    """The numbers of one task's events from one producer. Not thread-safe: its owners hold a lock."""

    __slots__ = ("_ahead", "_at", "_map", "acknowledged", "key", "next_seq")

    def __init__(self, key: bytes, segment: mmap.mmap, at: int, numbered: int = 0, acknowledged: int = 0) -> None:
        self.key = key
        self.next_seq = numbered
        self.acknowledged = acknowledged
        self._map = segment
        self._at = at
        self._ahead: set[int] = set()

    def take(self) -> int:
        """The next number, from 0; it is on record before it is used."""
        seq = self.next_seq
        self.next_seq = seq + 1
        _COUNT.pack_into(self._map, self._at + _NUMBERED_AT, seq + 1, ~(seq + 1))
        return seq

    def take_until(self, end: int) -> None:
        """All numbers below `end` were given out."""
        if end > self.next_seq:
            self.next_seq = end
            _COUNT.pack_into(self._map, self._at + _NUMBERED_AT, end, ~end)

    def acknowledge(self, first: int, end: int) -> None:
        """The numbers from `first` to before `end` are in the log, or a gap in the log speaks of them."""
        if first > self.acknowledged:
            self._ahead.update(range(first, end))
            return
        done = max(end, self.acknowledged)
        while done in self._ahead:
            self._ahead.remove(done)
            done += 1
        if self._ahead:
            self._ahead = {seq for seq in self._ahead if seq > done}
        self.acknowledged = done
        _COUNT.pack_into(self._map, self._at + _ACKNOWLEDGED_AT, done, ~done)


class Tally:
    """The counts of one producer. In a file where it has one, else in this process's memory alone.

    `damaged` says how many entries of an opened file are not as they were written.
    """

    def __init__(self, descriptor: int | None = None) -> None:
        self._descriptor = descriptor
        self._segments: list[mmap.mmap] = []
        self._free = 0
        self.damaged = 0
        self._numbers: dict[bytes, Numbers] = {}

    @classmethod
    def open(cls, path: Path) -> "Tally":
        """The tally in the file at `path`, with what it counted so far.

        Raises OSError.
        """
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        tally = cls(descriptor)
        size = os.fstat(descriptor).st_size
        tally.damaged = 1 if size % _SEGMENT_BYTES else 0
        for _ in range(-(-size // _SEGMENT_BYTES)):
            tally._add_segment()
        for place in range(len(tally._segments) * _SEGMENT_BYTES // _ENTRY_BYTES):
            tally._take_up(place)
        return tally

    def _take_up(self, place: int) -> None:
        segment, at = self._where(place)
        entry = segment[at : at + _ENTRY_BYTES]
        if not any(entry):
            return
        self._free = place + 1
        if (found := _counted(entry)) is None:
            self.damaged += 1
        else:
            self._numbers[found[0]] = Numbers(found[0], segment, at, *found[1:])

    def numbers(self, key: bytes) -> Numbers:
        """The numbers of the task with this partition key (at most 73 bytes)."""
        known = self._numbers.get(key)
        if known is None:
            segment, at = self._new_entry()
            _NAME.pack_into(segment, at, key, zlib.crc32(key))
            for count in (_NUMBERED_AT, _ACKNOWLEDGED_AT):
                _COUNT.pack_into(segment, at + count, 0, ~0)
            known = self._numbers[key] = Numbers(key, segment, at)
        return known

    def __iter__(self) -> Iterator[Numbers]:
        return iter(list(self._numbers.values()))

    def __len__(self) -> int:
        return len(self._numbers)

    def close(self) -> None:
        """Let go of the file. The maps stay while numbers are taken from them."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _new_entry(self) -> tuple[mmap.mmap, int]:
        place = self._free
        if place >= len(self._segments) * (_SEGMENT_BYTES // _ENTRY_BYTES):
            self._add_segment()
        self._free += 1
        return self._where(place)

    def _where(self, place: int) -> tuple[mmap.mmap, int]:
        segment, entry = divmod(place, _SEGMENT_BYTES // _ENTRY_BYTES)
        return self._segments[segment], entry * _ENTRY_BYTES

    def _add_segment(self) -> None:
        start = len(self._segments) * _SEGMENT_BYTES
        if self._descriptor is not None:
            try:
                # A hole in the file would end the process (SIGBUS) at the first store into it on a full disk.
                os.posix_fallocate(self._descriptor, start, _SEGMENT_BYTES)
                self._segments.append(mmap.mmap(self._descriptor, _SEGMENT_BYTES, offset=start))
            except OSError:
                self.close()  # from here on in memory alone: a kill -9 then leaves holes that no gap speaks of
            else:
                return
        self._segments.append(mmap.mmap(-1, _SEGMENT_BYTES))


def _counted(entry: bytes) -> tuple[bytes, int, int] | None:
    padded, crc32 = _NAME.unpack_from(entry)
    key = padded.rstrip(b"\0")
    if not key or zlib.crc32(key) != crc32:
        return None
    (numbered, not_numbered), (acknowledged, not_acknowledged) = (
        _COUNT.unpack_from(entry, at) for at in (_NUMBERED_AT, _ACKNOWLEDGED_AT)
    )
    whole = numbered == ~not_numbered and acknowledged == ~not_acknowledged
    return (key, numbered, acknowledged) if whole and 0 <= acknowledged <= numbered else None
