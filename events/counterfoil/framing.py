"""How a Kafka value names the schema that its envelope was written with.

Avro single-object encoding names it by its fingerprint; Confluent's wire format by an id that a Schema Registry gave.
An encoder asks for the bytes to put before an envelope, a decoder for the schema behind an id: both get one object.
"""

from typing import Any, Protocol

from fastavro.schema import fingerprint, to_parsing_canonical_form

from counterfoil.errors import DecodeError

FINGERPRINT_MAGIC = b"\xc3\x01"
ID_MAGIC = b"\x00"


class Framing(Protocol):
    """What stands before an envelope, and what it says. Fingerprints are CRC-64-AVRO, 8 bytes, little-endian."""

    def connect(self) -> None:
        """Learn now what `prefix` needs.

        Raises RegistryError and SettingsError.
        """

    def prefix(self, fingerprint: bytes) -> bytes:
        """The bytes before an envelope of the newest schema, which has this fingerprint.

        Raises RegistryError and SettingsError where it was not connected, and can't be.
        """

    def fingerprint(self, schema_id: int) -> bytes:
        """The fingerprint of the schema that a Schema Registry gave this id.

        Raises DecodeError when there is none, and RegistryError when that can't be known now.
        """

    def close(self) -> None:
        """Let go of connections; they are made anew where they are needed."""


class SingleObject:
    """`C3 01` and the fingerprint (Avro 1.12, "Single-object encoding"): needs nothing but the bytes."""

    def connect(self) -> None:
        """Nothing is to be learned."""

    def prefix(self, fingerprint: bytes) -> bytes:
        """See Framing."""
        return FINGERPRINT_MAGIC + fingerprint

    def fingerprint(self, _schema_id: int) -> bytes:
        """Always raises DecodeError: nobody knows what the id stands for."""
        raise DecodeError(
            "the value is in the Confluent wire format, and no Schema Registry is configured", "incompatible"
        )

    def close(self) -> None:
        """Nothing is open."""


SINGLE_OBJECT = SingleObject()


def fingerprint_of(definition: dict[str, Any]) -> bytes:
    """The fingerprint of a schema (its JSON, as a dict) that defines every type it names."""
    return bytes.fromhex(fingerprint(to_parsing_canonical_form(definition), "CRC-64-AVRO"))
