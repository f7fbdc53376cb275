"""What a dead producer left is finished by a live one: its spool sent, its losses said, its goodbye spoken.

All of it goes out under the dead one's producer_id and goes on with its numbers, so that the store sees one
producer that ended. The gaps and the goodbye are put into its spool first, like any event: whoever adopts may die, too.
Who lacks a key that the dead one signed with sends its spool as it is, and leaves its last words to who has it.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from counterfoil.claims import claims_of, gap_body
from counterfoil.composing import Composer
from counterfoil.delivery import Delivery
from counterfoil.errors import CounterfoilError
from counterfoil.failpoints import pass_by
from counterfoil.folder import Cluster, ProducerFolder, TenantOrigin, producers_in, read_cluster
from counterfoil.framing import Framing
from counterfoil.home import Damage, Gap, Home, count_of, unaccounted
from counterfoil.ids import new_id, partition_key, read_partition_key
from counterfoil.origin import producer_origin
from counterfoil.redaction import Redaction
from counterfoil.signing import VARIABLE, SigningKeys
from counterfoil.spool import SpoolDamaged, Spooled
from counterfoil.window import Window

logger = logging.getLogger("counterfoil")

_MOST_AT_ONCE = 4
_DIED = "the process died before any broker was known to have them"


class Adopter:
    """Looks for the dead in the folder beside our own. Of one thread."""

    def __init__(
        self,
        own: ProducerFolder | None,
        delivery: Delivery,
        window: Window,
        framing: Framing,
        redaction: Redaction,
        signing: SigningKeys,
        limit_bytes: int,
        damaged: Callable[[Home, Damage], None],
    ) -> None:
        self._own = own
        self._delivery = delivery
        self._window = window
        self._framing = framing
        self._redaction = redaction
        self._signing = signing
        self._told_of: set[Path] = set()  # what this process can't finish, and has said so
        self._limit_bytes = limit_bytes
        self._damaged = damaged
        self._cluster: Cluster | None = None

    def look(self) -> None:
        """Adopt some, if the brokers answer and nothing of our own waits."""
        if self._own is None or not self._delivery.is_flowing:
            return
        ours = self._known_cluster(self._own)
        for path in producers_in(self._own.path.parent):
            if len(self._delivery.adopted) >= _MOST_AT_ONCE:
                return
            theirs = read_cluster(path)
            if path == self._own.path or theirs is None or not ours.is_same(theirs):
                continue
            try:
                self._adopt(path)
            except (OSError, CounterfoilError) as error:
                logger.warning("what a dead process left in %s can't be sent yet: %s", path, error)

    def _known_cluster(self, own: ProducerFolder) -> Cluster:
        """Our cluster; its id once a broker has said it, which is then kept for whoever adopts us."""
        known = self._cluster or own.cluster() or Cluster("")
        if known.cluster_id is None and self._window.cluster_id is not None:
            known = Cluster(known.bootstrap_servers, self._window.cluster_id)
            own.set_cluster(known)
        self._cluster = known
        return known

    def _adopt(self, path: Path) -> None:
        folder = ProducerFolder.adopt(path, self._limit_bytes)
        if folder is None:
            return
        home = Home(folder)
        try:
            self._finish(home)
        except BaseException:
            folder.release()
            raise
        if home.rows:
            logger.info("sending %d events that the dead process %s left", home.rows, path.name)
            self._delivery.adopt(home)
        else:
            home.leave()

    def _finish(self, home: Home) -> None:
        folder = home.folder
        assert folder is not None  # noqa: S101  # made with one
        self._check(home)
        runs = folder.spool.runs() if folder.has_spool else []
        for key, _, end in runs:
            home.tally.numbers(key).take_until(end)
        gaps = list(unaccounted(home.tally, runs))
        tenants = self._heard(home, folder)
        words = [word for tenant in tenants for word in self._last_words(home, tenant, gaps)]
        if words:
            place = folder.spool.last_place()
            folder.spool.append([_at(place + number, word) for number, word in enumerate(words, 1)])
        pass_by("adopt.finished")
        home.take_up()

    def _heard(self, home: Home, folder: ProducerFolder) -> Sequence[TenantOrigin]:
        """The tenants that are told of its end now: all, or none where this process lacks one's key."""
        tenants = list(folder.tenants())
        unheard = sorted({tenant.tenant for tenant in tenants if not self._signing.may_speak(tenant)})
        if not unheard:
            return tenants
        home.is_unfinished = True
        if folder.path not in self._told_of:
            self._told_of.add(folder.path)
            logger.warning(
                "the dead process %s signed for %s, and this one has no key for it: what it left is sent, and its gaps "
                "and its goodbye wait for a process whose %s has one", folder.path.name, ", ".join(unheard), VARIABLE,
            )  # fmt: skip
        return ()

    def _check(self, home: Home) -> None:
        assert home.folder is not None  # noqa: S101  # made with one
        if home.tally.damaged:
            logger.error("the tally in %s is damaged: losses of that process may go unsaid", home.folder.path)
        if not home.folder.has_spool:
            return
        try:
            home.folder.spool.check()
        except SpoolDamaged as error:
            damage = home.set_aside(error, (), ())
            logger.warning("%s", damage)
            self._damaged(home, damage)

    def _last_words(self, home: Home, spoken_to: TenantOrigin, gaps: Sequence[Gap]) -> Iterator[Spooled]:
        """Gaps and goodbye towards one tenant; none where its first event was never numbered."""
        assert home.folder is not None and self._own is not None  # noqa: S101, PT018  # made with one, and we look from ours
        origin = producer_origin(home.folder.producer_id, spoken_to)
        own_key = partition_key(origin.tenant, origin.task_id)
        if own_key not in {numbers.key for numbers in home.tally}:
            return
        lost = [gap for gap in gaps if read_partition_key(gap[0].key)[0] == origin.tenant]
        tasks = [
            numbers
            for numbers in home.tally
            if numbers.key != own_key and read_partition_key(numbers.key)[0] == origin.tenant
        ]
        *earlier, last = claims_of(tasks)
        bodies: list[tuple[str, dict[str, Any]]] = [("gap", gap_body(gap, _DIED)) for gap in lost]
        bodies += [("producer_beat", {"open_tasks": claims, "spooled": home.rows}) for claims in earlier]
        closed = {"open_tasks": last, "undelivered": count_of(lost), "adopted_by": self._own.producer_id}
        bodies.append(("producer_closed", closed))
        numbers = home.tally.numbers(own_key)
        redactor = self._redaction.of_task(origin.tenant, origin.workflow)
        signer = self._signing.signer(origin.tenant)
        composer = Composer(origin, home.folder.producer_id, self._framing, redactor, signer)
        for kind, body in bodies:
            seq = numbers.take()
            value = composer.compose(kind, redactor.body(kind, body), new_id(), seq)
            yield Spooled(0, own_key, seq, composer.headers(kind, value), value)


def _at(place: int, word: Spooled) -> Spooled:
    return Spooled(place, word.key, word.seq, word.headers, word.value)
