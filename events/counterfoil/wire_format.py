"""Confluent's wire format: `00`, and the id that a Schema Registry gave the envelope's schema, 4 bytes, big-endian.

What an id stands for never changes, so what is known once is known for the life of the process: with the registry away,
events go on.
"""

import time
from collections.abc import Mapping, Sequence

from counterfoil.errors import DecodeError, RegistryError
from counterfoil.framing import ID_MAGIC, SINGLE_OBJECT, Framing, fingerprint_of
from counterfoil.registry import Registry, register_missing, shown_address
from counterfoil.settings import RecorderSettings
from counterfoil.subjects import Entry, entries, newest_envelope
from counterfoil_schemas import topics

_FORGET_SECONDS = 10.0  # what was refused is asked for anew


class ConfluentWireFormat:
    """The framing by a registry that has these schemas, or gets them. Its prefix serves any thread, and a forked child.

    Raises SettingsError when the registry has no address.
    """

    def __init__(self, settings: Mapping[str, str], schemas: Sequence[Entry]) -> None:
        shown_address(settings)
        self._settings = settings
        self._schemas = schemas
        self._prefix: bytes | None = None
        self._fingerprints: dict[int, bytes] = {}
        self._refused: dict[int, str] = {}
        self._refused_since = 0.0
        self._registry: Registry | None = None

    def connect(self) -> None:
        """Look the envelope's id up; where it is not registered, register all our schemas.

        Raises RegistryError and SettingsError.
        """
        if self._prefix is None:
            with Registry(self._settings) as registry:
                self._prefix = ID_MAGIC + self._envelope_id(registry).to_bytes(4, "big")

    def prefix(self, _fingerprint: bytes) -> bytes:
        """See Framing. The newest envelope is the only one that is ever written."""
        self.connect()
        assert self._prefix is not None  # noqa: S101  # connected, or an error was raised
        return self._prefix

    def fingerprint(self, schema_id: int) -> bytes:
        """See Framing. Of one thread, as `close` is."""
        known = self._fingerprints.get(schema_id)
        if known is None:
            known = self._fingerprints[schema_id] = self._learn(schema_id)
        return known

    def close(self) -> None:
        """See Framing."""
        if self._registry is not None:
            self._registry.close()
            self._registry = None

    def _envelope_id(self, registry: Registry) -> int:
        envelope = newest_envelope(self._schemas)
        found = registry.look_up(envelope)
        if found is None:
            register_missing(registry, self._schemas)
            found = registry.look_up(envelope)
        if found is None or found.schema_id is None:
            raise RegistryError(
                f"the Schema Registry at {registry.address} does not know {envelope.subject}, which was registered a "
                "moment ago; try again"
            )
        return found.schema_id

    def _learn(self, schema_id: int) -> bytes:
        if time.monotonic() - self._refused_since > _FORGET_SECONDS:
            self._refused.clear()
            self._refused_since = time.monotonic()
        if schema_id in self._refused:
            raise DecodeError(self._refused[schema_id], "incompatible")
        try:
            return self._ask(schema_id)
        except DecodeError as error:
            self._refused[schema_id] = str(error)
            raise

    def _ask(self, schema_id: int) -> bytes:
        if self._registry is None:
            self._registry = Registry(self._settings)
        definition = self._registry.definition(schema_id)
        if definition is None:
            raise DecodeError(
                f"the Schema Registry at {self._registry.address} has no schema with the id {schema_id}", "incompatible"
            )
        return fingerprint_of(definition)


def framing_of(settings: RecorderSettings) -> Framing:
    """How events are framed under these settings.

    Raises SettingsError when a Schema Registry is set without its address.
    """
    if not settings.schema_registry:
        return SINGLE_OBJECT
    return ConfluentWireFormat(settings.schema_registry, entries_of(settings))


def entries_of(settings: RecorderSettings) -> tuple[Entry, ...]:
    """Every schema as a Schema Registry has it under these settings."""
    topic = topics(settings.profile, settings.topic_prefix)["events"].name
    return entries(topic, settings.topic_prefix)
