"""What a contract and the settings say of a target of kind kafka."""

import re
from collections.abc import Mapping
from typing import Any, Final, Literal, Self

from confluent_kafka import Consumer, KafkaException
from pydantic import ConfigDict, Field, SecretStr, field_validator, model_validator

from counterfoil_reconcilers.contract_files import Written
from counterfoil_reconcilers.targets.port import Connection

_REGISTRY: Final = "schema_registry_"
_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")


class KafkaResource(Written):
    """Which messages are rows, and how: docs/targets.md says it at length.

    `headers`: fields of the row that stand in a header, with the header's name. `message_key`: the field that is the
    message's key. `subject`: where a Schema Registry has the schemas of its values. `keep_hours`: how far back messages
    are known; None: as far as the log goes. Memory is bounded by `keep_megabytes` (10^6 bytes).
    """

    topic: str
    value: Literal["json", "text", "avro"] = "json"
    rows: Literal["latest", "each"]
    headers: dict[str, str] = Field(default_factory=dict)
    message_key: str | None = None
    message_key_is: Literal["text", "avro"] = "text"
    subject: str | None = Field(default=None, min_length=1)
    keep_hours: float | int | None = Field(default=None, gt=0)
    keep_megabytes: int = Field(default=256, gt=0)

    @field_validator("value", "message_key_is", mode="before")
    @classmethod
    def _is_no_protobuf(cls, form: Any) -> Any:
        if form == "protobuf":
            raise ValueError("Protobuf is not read; give the key and what rows are found by as headers, or write Avro")
        return form

    @model_validator(mode="after")
    def _says_what_is_read(self) -> Self:
        if self.message_key_is == "avro" and self.message_key is None:
            raise ValueError('message_key_is = "avro" lacks message_key: the field of the row that the key holds')
        if self.subject is not None and self.value != "avro":
            raise ValueError('subject is of values that are Avro; write value = "avro"')
        return self

    @property
    def needs_registry(self) -> bool:
        """Whether its messages name schemas that a Schema Registry has."""
        return "avro" in (self.value, self.message_key_is)

    @field_validator("topic")
    @classmethod
    def _is_a_name(cls, topic: str) -> str:
        if not _TOPIC.fullmatch(topic) or topic in (".", ".."):
            raise ValueError(f"{topic!r} is no topic's name; write letters, digits, dots, dashes and underscores")
        return topic


class KafkaConnection(Connection):
    """Any setting of librdkafka, dots as underscores: `security_protocol` is security.protocol.

    What begins with `schema_registry_` is one of confluent-kafka's SchemaRegistryClient: its ssl.ca.location is
    `schema_registry_ssl_ca_location`.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, SecretStr] = Field(init=False)

    bootstrap_servers: str = Field(min_length=1, description="host:port, several with commas.")

    @property
    def settings(self) -> dict[str, str]:
        """As librdkafka reads them, secrets included."""
        of_brokers = {name: value for name, value in self._given().items() if not name.startswith(_REGISTRY)}
        return _dotted(of_brokers) | {"bootstrap.servers": self.bootstrap_servers}

    @property
    def schema_registry(self) -> dict[str, str]:
        """As SchemaRegistryClient reads them, secrets included; empty if nothing is said of one."""
        given = {name.removeprefix(_REGISTRY): v for name, v in self._given().items() if name.startswith(_REGISTRY)}
        return _dotted(given)

    def _given(self) -> dict[str, str]:
        return {name.lower(): value.get_secret_value() for name, value in (self.__pydantic_extra__ or {}).items()}

    @model_validator(mode="after")
    def _is_taken(self) -> "KafkaConnection":
        """A client without brokers reads its settings and connects to nobody."""
        unconnected: dict[str, Any] = {k: v for k, v in self.settings.items() if k != "bootstrap.servers"}
        try:
            Consumer({"group.id": "counterfoil", **unconnected, "log_level": 0}).close()
        except KafkaException as error:  # its own words may quote a value
            named = re.search(r'property:? "([a-z._]+)"', error.args[0].str())
            which = f"the setting {named.group(1)}" if named else "one of the settings"
            raise ValueError(f"has {which} that librdkafka refuses; its CONFIGURATION.md says what it takes") from None
        return self


def _dotted(settings: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "."): value for name, value in settings.items()}
