"""Writes that land later: when a reconciler has looked, or after a while."""

import threading
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field

from counterfoil_consumers.store import Connection, connect
from tests.faults.hands import Hands
from tests.faults.shops import Shop

Act = Callable[[Hands], None]
_LOOKED_AT = "SELECT effect_id FROM counterfoil.check_state WHERE effect_id = ANY(%s) AND sightings > 0"


@dataclass
class _Waiting:
    shop: Shop
    act: Act
    due: float
    once_seen: uuid.UUID | None = None


@dataclass
class Later:
    """A thread that acts at its time. `seen` counts the writes that landed after a look found nothing."""

    dsn: str
    late_seconds: float  # a write that waits for a look lands after so long at the latest
    seen: int = 0
    late: int = 0
    _waiting: list[_Waiting] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _ending: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread = field(init=False)
    _failure: BaseException | None = None

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run, name="later")
        self._thread.start()

    def after(self, seconds: float, shop: Shop, act: Act) -> None:
        """Act after so long."""
        with self._lock:
            self._waiting.append(_Waiting(shop, act, time.monotonic() + seconds))

    def once_seen(self, effect_id: bytes, shop: Shop, act: Act) -> None:
        """Act when a reconciler has looked for this effect."""
        with self._lock:
            due = time.monotonic() + self.late_seconds
            self._waiting.append(_Waiting(shop, act, due, uuid.UUID(bytes=effect_id)))

    def end(self) -> None:
        """Everything has landed; raises what went wrong."""
        self._ending.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        hands: dict[str, Hands] = {}
        try:
            with closing(connect(self.dsn, "operator", application="test")) as store:
                while self._waiting or not self._ending.is_set():
                    for one in self._due(store):
                        if one.shop.name not in hands:
                            hands[one.shop.name] = one.shop.hands()
                        one.act(hands[one.shop.name])
                    time.sleep(0.1)
        except BaseException as error:  # noqa: BLE001  # `end` raises it
            self._failure = error
        finally:
            for each in hands.values():
                each.close()

    def _due(self, store: Connection) -> list[_Waiting]:
        with self._lock:
            asked = [one.once_seen for one in self._waiting if one.once_seen is not None]
        looked_at = {row["effect_id"] for row in store.execute(_LOOKED_AT, (asked,))}
        with self._lock:
            due = [one for one in self._waiting if one.due <= time.monotonic() or one.once_seen in looked_at]
            self._waiting = [one for one in self._waiting if one not in due]
        self.seen += sum(one.once_seen in looked_at for one in due)
        self.late += sum(one.once_seen is not None for one in due)
        return due
