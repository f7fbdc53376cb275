"""What a start is going to make: the ports and the record that is stored before anything runs."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from counterfoil_console.stack import ports
from counterfoil_console.stack.state import ProcessRecord, ServerName, StackState


def plan(
    old: StackState | None,
    kept: Collection[ServerName],
    *,
    secure: bool,
    options_digest: str,
    owner: ProcessRecord | None,
    now: datetime,
) -> StackState:
    """The state before a start. Servers in `kept` run on; ports stay what they were wherever they are free."""
    taken: list[int] = []

    def port(server: ServerName, field: str) -> int:
        before: int | None = getattr(old, field, None)
        chosen = before if before is not None and server in kept else ports.pick(before, taken)
        taken.append(chosen)
        return chosen

    kafka_port = port("kafka", "kafka_port")
    secure_port = port("kafka", "kafka_sasl_ssl_port") if secure else None
    return StackState(
        phase="starting",
        started_at=now,
        bootstrap_servers=f"{ports.HOST}:{kafka_port}",
        sasl_ssl_bootstrap_servers=None if secure_port is None else f"{ports.HOST}:{secure_port}",
        postgres_dsn=old.postgres_dsn if old is not None and "postgres" in kept else "",
        kafka_port=kafka_port,
        kafka_controller_port=port("kafka", "kafka_controller_port"),
        kafka_sasl_ssl_port=secure_port,
        postgres_port=port("postgres", "postgres_port"),
        options_digest=options_digest,
        kafka=old.kafka if old is not None and "kafka" in kept else None,
        postgres=old.postgres if old is not None and "postgres" in kept else None,
        owner=owner,
    )
