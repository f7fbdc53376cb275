"""The way from this process to the brokers: a window into librdkafka, and behind it the spool.

A message that `produce()` took is not a message in the log. Every event keeps its place in one order: the oldest are in
the window, handed to librdkafka and not yet answered for; what does not fit there, or comes while no broker answers,
waits behind them, on disk as soon as the disk has it. A window that stalls is written to disk too. So nothing is sent
out of order but what Kafka refused and librdkafka called taken (`kafka.delivery_error`), and an event is given up only
when brokers, disk and memory are all at their end.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence

from confluent_kafka import KafkaError, KafkaException

from counterfoil.backlog import Backlog
from counterfoil.failpoints import pass_by
from counterfoil.folder import ProducerFolder
from counterfoil.home import Damage, Home
from counterfoil.spool import SpoolDamaged, SpoolFailed
from counterfoil.tally import Numbers
from counterfoil.window import Outgoing, Report, Window, is_refusal

logger = logging.getLogger("counterfoil")

GivenUp = Callable[[Numbers, int, int, str], None]

_POLL_SECONDS = 0.1
_ROUND_SECONDS = 0.2
_BACKPRESSURE_SECONDS = 0.1
_RETRY_SECONDS = 1.0
_MOST_AT_ONCE = 500


class NotDurable(Exception):
    """The event is neither acknowledged nor on disk, and why."""


class Delivery:
    """Sends values to one topic, in order. Thread-safe; of no use in a forked child.

    `given_up` is called for numbers that will not be sent, with the reason, and `damaged` for a spool that was set
    aside; neither may block.
    """

    def __init__(
        self,
        window: Window,
        own: Home,
        *,
        ack_timeout_seconds: float,
        memory_bytes: int,
        problem: str | None = None,
        given_up: GivenUp,
        damaged: Callable[[Home, Damage], None],
    ) -> None:
        self.own = own
        self.acknowledged = 0
        self._window = window
        self._ack_timeout_seconds = ack_timeout_seconds
        self._given_up = given_up
        self._damaged = damaged
        self.problem = problem  # why there is no spool, or why its disk takes nothing, if so
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._places = 0
        self._backlog = Backlog(memory_bytes)  # behind all that is on disk
        self._adopted: list[Home] = []
        self._is_asked_to_write = False
        self._is_ready = False  # the brokers have told of the topic
        self._is_stalled = False
        self._is_broken = False  # librdkafka gave events back; nothing is handed over until it has given back all
        self._progress_at = self._retry_at = self._write_at = time.monotonic()
        self._stopping = threading.Event()
        self._wake = threading.Event()
        self._polling = threading.Thread(target=self._poll, name="counterfoil-delivery", daemon=True)
        self._tending = threading.Thread(target=self._tend, name="counterfoil-spool", daemon=True)

    def start(self) -> None:
        """Start the thread that serves delivery reports, and the one that tends the spool."""
        self._polling.start()
        self._tending.start()
        self._wake.set()

    # -- what the session calls

    def wait_for_room(self) -> None:
        """Where events come faster than brokers or disk take them, wait a moment; never in an event loop's thread."""
        if (self._window.room > 0 and not len(self._backlog)) or self._takes_more() or _is_in_event_loop():
            return
        with self._changed:
            self._changed.wait_for(self._takes_more, _BACKPRESSURE_SECONDS)

    def _takes_more(self) -> bool:
        """Whether one more has room now, or waiting would not make any."""
        if not self._is_open or self.own.waiting:  # then the disk is the way
            return self.problem is not None or not self._backlog.is_half_full
        return self._window.room > 0

    def send(self, out: Outgoing) -> bool:
        """Take an event; False when brokers, disk and memory are all at their end."""
        refusal: str | None = None
        with self._lock:
            out.n = self._places = self._places + 1
            if self._flows():
                try:
                    if self._window.hand_over(out):
                        self.own.handed = out.n
                        return True
                except KafkaException as error:
                    refusal = str(error.args[0])
            if refusal is None and not self._backlog.add(out):
                return False
        if refusal is not None:
            self._give_up(out, refusal)
        self._wake.set()
        return True

    def write_now(self) -> None:
        """Someone waited long enough for the brokers: put what they have not acknowledged on disk."""
        with self._lock:
            self._is_asked_to_write = True
        self._wake.set()

    def adopt(self, home: Home) -> None:
        """Send what is in a dead producer's spool, after our own."""
        with self._lock:
            self._adopted.append(home)
        self._wake.set()

    @property
    def adopted(self) -> Sequence[Home]:
        """Those still to be sent."""
        return tuple(self._adopted)

    @property
    def is_flowing(self) -> bool:
        """Whether nothing of ours waits behind the window."""
        with self._lock:
            return self._flows()

    @property
    def has_room(self) -> bool:
        """Whether more can be said now without giving up something else."""
        with self._lock:
            return not self._backlog.is_half_full

    @property
    def open_count(self) -> int:
        """How many events have no acknowledgement yet, those of adopted spools aside."""
        with self._lock:
            return self._open_count()

    @property
    def spooled_count(self) -> int:
        """How many of ours are on disk."""
        return self.own.rows

    def flush(self, timeout_seconds: float) -> int:
        """Wait until the brokers have everything; returns how many events they do not have."""
        with self._changed:
            self._changed.wait_for(lambda: not self._open_count(), timeout_seconds)
            return self._open_count()

    def close(self, timeout_seconds: float) -> int:
        """Wait for the brokers while they answer, put the rest on disk, and stop.

        Returns how many events are neither acknowledged nor on disk.
        """
        deadline = time.monotonic() + timeout_seconds
        with self._changed:
            self._changed.wait_for(lambda: not self._open_count(), min(timeout_seconds, self._ack_timeout_seconds))
            self._changed.wait_for(
                lambda: not self._open_count() or self._is_stalled or self._is_broken, deadline - time.monotonic()
            )
        self._stopping.set()
        self._wake.set()
        for thread in (self._tending, self._polling):
            if thread.is_alive() and thread is not threading.current_thread():
                thread.join(max(0.2, deadline - time.monotonic()))
        if self._tending.is_alive():  # its disk hangs
            return self.open_count
        self._backlog.merge_returned()
        self._write_all(deadline)
        self._window.abandon(max(0.2, deadline - time.monotonic()))
        return self._leave()

    def _write_all(self, deadline: float) -> None:
        while True:
            self._is_asked_to_write = True
            self._write_at = 0.0
            is_written = self._write()
            if is_written and not len(self._backlog):
                return
            if not is_written and (self.own.folder is None or time.monotonic() > deadline):
                return
            if not is_written:
                time.sleep(_ROUND_SECONDS)

    def _answered(self, reports: Sequence[Report]) -> None:
        """What became of events that librdkafka had."""
        if not reports:
            return
        done: list[Outgoing] = []
        refused: list[Report] = []
        with self._changed:
            for out, error in reports:
                # A batch is refused whole: its events are then sent again, each alone.
                is_refused = error is not None and is_refusal(error) and self._backlog.is_suspect(out)
                if self._stopping.is_set() and error is not None and not is_refused:
                    continue  # purged as we close
                if not self._window.take_out(out, error):
                    continue
                if error is None:
                    self._acknowledge(out)
                    done.append(out)
                elif is_refused:
                    self._landed(out)
                    refused.append((out, error))
                else:
                    self._take_back(out, error)
            if len(self._backlog) or self.own.rows or self._adopted or self._is_broken:
                self._wake.set()
            self._changed.notify_all()
        for out in done:
            out.settle()
        for out, error in refused:
            self._give_up(out, str(error))

    # -- under the lock

    @property
    def _is_open(self) -> bool:
        """Whether the brokers take events now."""
        return self._is_ready and not self._is_stalled and not self._is_broken

    def _flows(self) -> bool:
        return (
            not len(self._backlog)
            and not self.own.waiting
            and self._is_open
            and not self._backlog.has_suspects
            and self._window.room > 0
        )

    def _waiting_since(self) -> float:
        """Since when nothing has come from the brokers that should have."""
        if len(self._window):
            return max(self._window.oldest_at(), self._progress_at)
        return time.monotonic() if self._is_ready else self._progress_at

    def _open_count(self) -> int:
        in_window = sum(out.home is self.own for out in self._window) if self._adopted else len(self._window)
        return in_window + len(self._backlog) + self.own.waiting

    def _acknowledge(self, out: Outgoing) -> None:
        out.numbers.acknowledge(out.seq, out.seq + 1)
        if out.speaks_of is not None:
            out.speaks_of[0].acknowledge(*out.speaks_of[1:])
        self.acknowledged += 1
        self._progress_at = time.monotonic()
        self._is_stalled = False
        self._landed(out)

    def _landed(self, out: Outgoing) -> None:
        """Nothing more is to be done for it."""
        self._backlog.clear_suspect(out)
        if out.is_spooled:
            out.home.landed.append(out.n)

    def _take_back(self, out: Outgoing, error: KafkaError) -> None:
        _log(logging.WARNING, "Kafka did not take an event, which is sent again: %s", error)
        self._is_broken = True
        if is_refusal(error):
            self._backlog.suspect(out)
        else:
            self._retry_at = time.monotonic() + _RETRY_SECONDS
        if out.is_spooled:
            out.home.waiting += 1
            out.home.handed = min(out.home.handed, out.n - 1)
        else:
            self._backlog.give_back(out)

    # -- the threads

    def _poll(self) -> None:
        while not self._stopping.is_set():
            with contextlib.suppress(Exception):  # a callback of the user's, such as error_cb, may raise
                self._answered(self._window.poll(_POLL_SECONDS))

    def _tend(self) -> None:
        while not self._stopping.is_set():
            self._wake.wait(_ROUND_SECONDS)
            self._wake.clear()
            try:
                self._round()
            except Exception as error:  # noqa: BLE001  # the thread that saves events outlives what it did not expect
                _log(logging.ERROR, "the spool's thread failed, and goes on: %r", error)
                self._stopping.wait(_RETRY_SECONDS)

    def _round(self) -> None:
        is_ready = self._is_ready or self._window.is_topic_known()
        with self._changed:
            self._is_ready = is_ready
            self._is_stalled = time.monotonic() - self._waiting_since() > self._ack_timeout_seconds
            self._changed.notify_all()
        self._mend()
        self._tidy()
        self._feed()
        self._write()

    def _mend(self) -> None:
        """Once librdkafka has given back all it had, begin again with the oldest."""
        with self._lock:
            if not self._is_broken or len(self._window) or time.monotonic() < self._retry_at:
                return
            self._window.renew_if_fatal()
            self._backlog.merge_returned()
            self._is_broken = False

    def _feed(self) -> None:
        """Hand over what waits: from disk, then from memory, then the spools of the dead."""
        self._feed_from(self.own)
        self._feed_from_memory()
        for home in self.adopted:
            self._feed_from(home)

    def _feed_from(self, home: Home) -> None:
        while True:
            with self._lock:
                room = self._window.room if self._is_open else 0
            if room <= 0 or not home.waiting:
                return
            try:
                rows = home.next_rows(min(room, _MOST_AT_ONCE))
            except SpoolDamaged as error:
                self._set_aside(home, error)
                continue
            landed = set(home.landed)  # where the disk takes no deletion
            for row in rows:
                if row.n in landed:
                    home.handed = row.n
                    continue
                out = Outgoing(home, home.tally.numbers(row.key), row.seq, row.headers, row.value)
                out.n, out.is_spooled = row.n, True
                if not self._hand_over_row(out):
                    return

    def _hand_over_row(self, out: Outgoing) -> bool:
        refusal = None
        with self._lock:
            if out in self._window:
                out.home.handed = out.n
                return True
            if not self._backlog.may_follow(out, self._window):
                return False
            try:
                if not self._window.hand_over(out):
                    return False
            except KafkaException as error:
                refusal = str(error.args[0])
                out.home.landed.append(out.n)
            out.home.handed = out.n
            out.home.waiting -= 1
        if refusal is not None:
            self._give_up(out, refusal)
        return True

    def _feed_from_memory(self) -> None:
        while True:
            refusal = None
            with self._lock:
                out = self._backlog.first()
                if out is None or self.own.waiting or not self._is_open:
                    return
                try:
                    if not self._backlog.may_follow(out, self._window) or not self._window.hand_over(out):
                        return
                    self.own.handed = out.n
                except KafkaException as error:
                    refusal = str(error.args[0])
                self._backlog.pop()
            if refusal is not None:
                self._give_up(out, refusal)

    def _write(self) -> bool:
        """Put on disk what waits in memory, and the window if it must be; whether all of it is there now."""
        with self._lock:
            is_needed = self._is_asked_to_write or self._is_stalled or self._is_broken
            window = [out for out in self._window if out.home is self.own and not out.is_spooled] if is_needed else []
            waiting = self._backlog.head(_MOST_AT_ONCE)
            self._is_asked_to_write = False
        if not window and not waiting:
            return True
        problem = self._append(window + waiting)
        if problem is None:
            self._written(window, waiting)
            if len(self._backlog):
                self._wake.set()
            return True
        if is_needed:
            for out in (*window, *waiting):
                out.settle(NotDurable(problem), of_spool=True)
        return False

    def _append(self, outs: Sequence[Outgoing]) -> str | None:
        """Why they are not on disk, if so."""
        if self.own.folder is None:
            return self.problem or "there is no spool"
        if self.problem is not None and time.monotonic() < self._write_at:
            return self.problem
        try:
            pass_by("spool.write")
            for start in range(0, len(outs), _MOST_AT_ONCE):
                self.own.append([out.spooled() for out in outs[start : start + _MOST_AT_ONCE]])
        except SpoolDamaged as error:
            self._set_aside(self.own, error)
            self.problem = str(error)
        except (SpoolFailed, OSError) as error:
            self._write_at = time.monotonic() + _RETRY_SECONDS
            if self.problem is None:
                _log(logging.ERROR, "%s; trying again every second", error)
            self.problem = str(error)
        else:
            self.problem = None
        return self.problem

    def _written(self, window: Sequence[Outgoing], waiting: Sequence[Outgoing]) -> None:
        with self._changed:
            self.own.rows += len(window) + len(waiting)
            for out in window:
                out.is_spooled = True
                if out not in self._window:
                    self.own.landed.append(out.n)  # acknowledged meanwhile
            for out in waiting:
                assert self._backlog.pop() is out  # noqa: S101  # others add behind, and only this thread takes
                self.own.waiting += 1
            self._changed.notify_all()
        for out in (*window, *waiting):
            out.settle(of_spool=True)

    def _tidy(self) -> None:
        """Take out of the spools what the brokers have; let go of those that are empty."""
        for home in (self.own, *self.adopted):
            with self._lock:
                landed, home.landed = home.landed, []
            if not landed and (home is self.own or home.rows):
                continue
            try:
                home.take_out(landed)
            except SpoolDamaged as error:
                self._set_aside(home, error)
                continue
            except SpoolFailed as error:
                with self._lock:
                    home.landed += landed
                _log(logging.ERROR, "%s", error)
            if home is not self.own and not home.rows:  # all that a dead producer left is in the log
                self._part_with(home)
                home.leave()

    def _part_with(self, home: Home) -> ProducerFolder:
        """Nothing more is sent from an adopted spool; its folder is the caller's to remove or to release."""
        assert home.folder is not None  # noqa: S101  # only what has one is adopted
        with self._changed:
            home.waiting = 0
            self._adopted.remove(home)
            self._changed.notify_all()
        return home.folder

    def _set_aside(self, home: Home, error: SpoolDamaged) -> None:
        if home is not self.own:
            _log(logging.WARNING, "%s; it is mended when it is adopted again", error)
            self._part_with(home).release()
            return
        with self._lock:
            outs = [out for out in (*self._window, *self._backlog) if out.home is home]
            handed = {out.n for out in self._window if out.home is home}
        known = [(out.key, out.seq, out.seq + 1) for out in outs]
        try:
            damage = home.set_aside(error, known, handed)
        except (OSError, SpoolFailed) as second:
            _log(logging.ERROR, "%s; and it can't be set aside: %s", error, second)
            damage = home.give_up(error, known)
        for out in outs:
            out.is_spooled = False  # written once more if need be, in its place
        _log(logging.ERROR, "%s", damage)
        self._damaged(home, damage)

    def _leave(self) -> int:
        """Let go of the folders; returns how many events are neither acknowledged nor on disk."""
        with contextlib.suppress(SpoolDamaged, SpoolFailed):
            self._tidy()
        for home in self.adopted:
            self._part_with(home).release()
        with self._lock:
            lost = sum(out.home is self.own and not out.is_spooled for out in self._window)
            lost += len(self._backlog)
        if self.own.folder is not None:
            if lost or self.own.rows:
                self.own.folder.release()
            else:
                self.own.folder.remove()
        return lost

    def _give_up(self, out: Outgoing, reason: str) -> None:
        self._given_up(out.numbers, out.seq, out.seq + 1, reason)
        out.settle(NotDurable(reason))


def _is_in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _log(level: int, message: str, *arguments: object) -> None:
    with contextlib.suppress(Exception):  # a logging handler of the user's may raise, and must not end a thread of ours
        logger.log(level, message, *arguments)
