"""What a contract and the settings say of a target of kind kafka."""

import re
from typing import Any, Literal

from confluent_kafka import Consumer, KafkaException
from pydantic import ConfigDict, Field, SecretStr, field_validator, model_validator

from counterfoil_reconcilers.contract_files import Written
from counterfoil_reconcilers.targets.port import Connection

_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,249}")


class KafkaResource(Written):
    """Which messages are rows, and how: docs/targets.md says it at length.

    `headers`: fields of the row that stand in a header, with the header's name. `message_key`: the field that is the
    message's key. `keep_hours`: how far back messages are known; None: as far as the log goes. Memory is bounded by
    `keep_megabytes` (10^6 bytes).
    """

    topic: str
    value: Literal["json", "text"] = "json"
    rows: Literal["latest", "each"]
    headers: dict[str, str] = Field(default_factory=dict)
    message_key: str | None = None
    keep_hours: float | int | None = Field(default=None, gt=0)
    keep_megabytes: int = Field(default=256, gt=0)

    @field_validator("topic")
    @classmethod
    def _is_a_name(cls, topic: str) -> str:
        if not _TOPIC.fullmatch(topic) or topic in (".", ".."):
            raise ValueError(f"{topic!r} is no topic's name; write letters, digits, dots, dashes and underscores")
        return topic


class KafkaConnection(Connection):
    """Any setting of librdkafka, dots as underscores: `security_protocol` is security.protocol."""

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, SecretStr] = Field(init=False)

    bootstrap_servers: str = Field(min_length=1, description="host:port, several with commas.")

    @property
    def settings(self) -> dict[str, str]:
        """As librdkafka reads them, secrets included."""
        given = {name: value.get_secret_value() for name, value in (self.__pydantic_extra__ or {}).items()}
        return {name.lower().replace("_", "."): value for name, value in given.items()} | {
            "bootstrap.servers": self.bootstrap_servers
        }

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
