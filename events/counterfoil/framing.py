"""How a Kafka value names the schema that its envelope was written with.

Avro single-object encoding names it by its fingerprint; Confluent's wire format by an id that a Schema Registry gave.
An encoder asks for the bytes to put before an envelope, a decoder for the schema behind an id: both get one object.
"""

from typing import Any, Protocol

from fastavro.schema import fingerprint, to_parsing_canonical_form

from counterfoil.errors import DecodeError

FINGERPRINT_MAGIC = b"\xc3\x01"
ID_MAGIC = b"\x00"
MAX_VALUE_BYTES = 1_000_000
_FINGERPRINT_END = 10
ID_END = 5
_MAX_SCHEMA_ID = 2**31 - 1
Definition = dict[str, Any] | list[Any] | str  # a schema as JSON is read: a type, a union, or a type's name


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


def unframed(value: bytes, framing: Framing) -> tuple[bytes, int]:
    """The fingerprint of the envelope's schema, and where the envelope begins.

    Raises DecodeError and RegistryError.
    """
    if len(value) > MAX_VALUE_BYTES:
        raise DecodeError(f"the value has {len(value)} bytes; at most {MAX_VALUE_BYTES} are decoded")
    if value.startswith(FINGERPRINT_MAGIC):
        if len(value) < _FINGERPRINT_END:
            raise DecodeError(f"the value is {value.hex(' ')}, too short for a schema's fingerprint")
        return value[2:_FINGERPRINT_END], _FINGERPRINT_END
    if not value.startswith(ID_MAGIC):
        raise DecodeError(f"the value starts with {value[:2].hex(' ') or 'nothing'}, not with c3 01 or 00")
    return framing.fingerprint(schema_id_in(value)), ID_END


def schema_id_in(value: bytes) -> int:
    """The id of its schema in a value that begins with ID_MAGIC: Confluent's wire format. The rest is behind ID_END.

    Raises DecodeError.
    """
    schema_id = int.from_bytes(value[1:ID_END], "big")
    if len(value) < ID_END or schema_id > _MAX_SCHEMA_ID:
        raise DecodeError(f"the value starts with {value[:ID_END].hex(' ')}, in which no schema's id stands")
    return schema_id


def fingerprint_of(definition: Definition) -> bytes:
    """The fingerprint of a schema that defines every type it names."""
    return bytes.fromhex(fingerprint(to_parsing_canonical_form(definition), "CRC-64-AVRO"))
