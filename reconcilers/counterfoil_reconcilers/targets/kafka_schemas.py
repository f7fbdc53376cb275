"""The schemas of a topic's Avro messages, by the ids that they begin with (Confluent's wire format).

What an id stands for never changes, so what is known once is known until the target is closed. What the registry does
not say is never guessed: without its word there is no answer.
"""

import time
from collections.abc import Mapping
from typing import Any, Final

from counterfoil.errors import DecodeError, RegistryError
from counterfoil.framing import ID_END, ID_MAGIC, schema_id_in
from counterfoil.registry import Asker, Registry
from counterfoil_reconcilers.contract_files import did_you_mean
from counterfoil_reconcilers.targets.avro_values import AvroReader, SchemaUnread, reader_of
from counterfoil_reconcilers.targets.opening import variable_of
from counterfoil_reconcilers.targets.port import TargetUnavailable, Trouble
from counterfoil_reconcilers.values import Unreadable

_FORGET_SECONDS: Final = 10.0  # an id that nobody knew is asked for anew
_REFUSALS: Final = (401, 403)


class Schemas:
    """The Schema Registry of one target. Not for use by several threads at once.

    Raises SettingsError when the extra `registry` is missing, there is no address, or a setting is wrong. What asks the
    registry raises TargetUnavailable.
    """

    def __init__(self, target: str, settings: Mapping[str, str]) -> None:
        self._target = target
        self._settings = settings
        self._asker = Asker(variable_of(target, "schema_registry_"), "give this user the right to read")
        self._registry: Registry | None = Registry(settings, self._asker)
        self._known: dict[int, AvroReader | SchemaUnread] = {}
        self._unknown: set[int] = set()
        self._unknown_since = 0.0

    def close(self) -> None:
        """Let go of connections and of all that was learned; the next call asks anew."""
        if self._registry is not None:
            self._registry.close()
        self._registry = None
        self._known.clear()
        self._unknown.clear()

    def decode(self, framed: bytes) -> Any:
        """What a message's value or key holds, as `AvroReader.read` gives it.

        Raises Unreadable, and SchemaUnread where no message of its schema can be read.
        """
        if not framed.startswith(ID_MAGIC):
            raise Unreadable(f"it begins with {framed[:1].hex() or 'nothing'}, and not with 00 and a schema's id")
        try:
            schema_id = schema_id_in(framed)
        except DecodeError as error:
            raise Unreadable(f"it names no schema ({error})") from None
        return self._reader(schema_id).read(framed[ID_END:])

    def mistake(self, subject: str) -> str | None:
        """Why messages of a subject can't be read, as far as the registry says now."""
        try:
            newest = self._asked().newest(subject)
            if newest is None:
                hint = did_you_mean(subject, self._asked().subjects())
                return f"the Schema Registry at {self._asked().address} has no subject {subject}{hint}"
            reader_of(newest)
        except RegistryError as error:
            raise self._unavailable(error) from error
        except (DecodeError, SchemaUnread) as error:
            return f"messages of subject {subject} can't be read: {error}"
        return None

    def unanswerable(self, error: SchemaUnread) -> TargetUnavailable:
        """What to raise where a message of such a schema may be one that is asked for."""
        return TargetUnavailable(self._target, f"a message can't be read: {error}", trouble="unreadable")

    def _reader(self, schema_id: int) -> AvroReader:
        known = self._known.get(schema_id)
        if known is None:
            known = self._known[schema_id] = self._learn(schema_id)
        if isinstance(known, SchemaUnread):
            raise known
        return known

    def _learn(self, schema_id: int) -> AvroReader | SchemaUnread:
        registry = self._asked()
        if time.monotonic() - self._unknown_since > _FORGET_SECONDS:
            self._unknown.clear()
            self._unknown_since = time.monotonic()
        if schema_id not in self._unknown:
            try:
                definition = registry.definition(schema_id)
                if definition is not None:
                    return reader_of(definition)
            except RegistryError as error:
                raise self._unavailable(error) from error
            except (DecodeError, SchemaUnread) as error:
                return SchemaUnread(f"its schema {schema_id} is not read: {error}")
            self._unknown.add(schema_id)
        raise UnknownSchema(
            self._target,
            f"a message is of schema {schema_id}, which the Schema Registry at {registry.address} does not know; see "
            f"that {self._asker.variable}URL is the registry of those who write",
            trouble="unreadable",
        )

    def _asked(self) -> Registry:
        if self._registry is None:
            self._registry = Registry(self._settings, self._asker)
        return self._registry

    def _unavailable(self, error: RegistryError) -> TargetUnavailable:
        return TargetUnavailable(self._target, str(error), trouble=_trouble(error.status))


class UnknownSchema(TargetUnavailable):
    """The registry answers that it has no schema with a message's id."""


def _trouble(status: int | None) -> Trouble:
    if status is None or status >= 500:
        return "away"
    if status == 429:
        return "throttled"
    return "refused" if status in _REFUSALS else "unreadable"
