"""The broker's settings and why they differ from Kafka's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from counterfoil_console.stack.ports import HOST
from counterfoil_console.stack.state import StackState

_SECURE, _PROXIED = "SECURE", "PROXIED"
_SETTINGS: Mapping[str, str] = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "inter.broker.listener.name": "PLAINTEXT",
    # Topics are declared in topics.toml; a misspelt one must fail.
    "auto.create.topics.enable": "false",
    # One node: every internal topic has one replica, and few partitions start faster.
    "default.replication.factor": "1",
    "min.insync.replicas": "1",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "4",
    "group.initial.rebalance.delay.ms": "0",
    # A dead letter wraps a record that may itself be 1 MiB.
    "message.max.bytes": str(4 * 1024 * 1024),
    # A laptop may sleep for weeks: a year for records and for offsets.
    "log.retention.hours": "8760",
    "offsets.retention.minutes": "525600",
    # After a kill -9 the controller refuses the new broker until the old one's session is over: 9 s by default.
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    # Twice a second the controller would note that nothing has happened, for followers, of which there are none.
    "metadata.max.idle.interval.ms": "0",
    # The cleaner's buffer is 128 MiB of heap by default.
    "log.cleaner.dedupe.buffer.size": str(8 * 1024 * 1024),
    "num.network.threads": "2",
    "num.io.threads": "4",
}


@dataclass(frozen=True)
class SaslSsl:
    """A second listener with TLS, for one user by SASL/PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.

    `keystore` is a PEM file with the unencrypted PKCS#8 key and the certificate chain, for host 127.0.0.1.
    """

    keystore: Path
    username: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class BehindProxy:
    """A further listener, which tells its clients to come to another port, where a proxy stands."""

    port: int
    advertised_port: int


@dataclass(frozen=True)
class KafkaOptions:
    """How the broker differs from the default. `settings` are added to server.properties and win."""

    sasl_ssl: SaslSsl | None = None
    behind_proxy: BehindProxy | None = None
    heap_mebibytes: int = 256
    settings: Mapping[str, str] = field(default_factory=dict)


def server_properties(options: KafkaOptions, state: StackState, log_folder: Path) -> str:
    """The text of server.properties."""
    plain, controller, secure = state.kafka_port, state.kafka_controller_port, state.kafka_sasl_ssl_port
    listeners = [f"PLAINTEXT://{HOST}:{plain}"]
    protocols = ["PLAINTEXT:PLAINTEXT", "CONTROLLER:PLAINTEXT"]
    settings = dict(_SETTINGS)
    if options.sasl_ssl is not None:
        listeners.append(f"{_SECURE}://{HOST}:{secure}")
        protocols.append(f"{_SECURE}:SASL_SSL")
        settings |= _secure_settings(options.sasl_ssl)
    advertised = list(listeners)
    if options.behind_proxy is not None:
        listeners.append(f"{_PROXIED}://{HOST}:{options.behind_proxy.port}")
        advertised.append(f"{_PROXIED}://{HOST}:{options.behind_proxy.advertised_port}")
        protocols.append(f"{_PROXIED}:PLAINTEXT")
    settings |= {
        "log.dirs": str(log_folder),
        "controller.quorum.voters": f"1@{HOST}:{controller}",
        "listeners": ",".join([*listeners, f"CONTROLLER://{HOST}:{controller}"]),
        "advertised.listeners": ",".join(advertised),
        "listener.security.protocol.map": ",".join(protocols),
    }
    settings |= options.settings
    return "".join(f"{_escape(name)}={_escape(value)}\n" for name, value in settings.items())


def _secure_settings(login: SaslSsl) -> dict[str, str]:
    prefix = f"listener.name.{_SECURE.lower()}"
    package = "org.apache.kafka.common.security"
    # Kafka names a PLAIN user in the option's own name: user_NAME="password".
    user = f"{_quote(f'user_{login.username}')}={_quote(login.password)}"
    return {
        f"{prefix}.ssl.keystore.type": "PEM",
        f"{prefix}.ssl.keystore.location": str(login.keystore),
        f"{prefix}.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
        f"{prefix}.plain.sasl.jaas.config": f"{package}.plain.PlainLoginModule required {user};",
        f"{prefix}.scram-sha-256.sasl.jaas.config": f"{package}.scram.ScramLoginModule required;",
        f"{prefix}.scram-sha-512.sasl.jaas.config": f"{package}.scram.ScramLoginModule required;",
    }


def _quote(value: str) -> str:
    """A string of a JAAS configuration."""
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _escape(text: str) -> str:
    """A name or value in a Java properties file: printable ASCII, and everything else by its UTF-16 units."""
    units = text.replace("\\", "\\\\").encode("utf-16-be")
    codes = (int.from_bytes(units[at : at + 2], "big") for at in range(0, len(units), 2))
    escaped = "".join(chr(code) if 0x20 <= code < 0x7F else f"\\u{code:04x}" for code in codes)
    return f"\\{escaped}" if escaped.startswith(" ") else escaped
