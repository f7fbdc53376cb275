"""The shops, the services and the agents of a fault proof, all up and at work."""

import glob
import itertools
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from bench.pgbouncer import PASSWORD, RunAs, folder_of_servers
from counterfoil import RecorderSettings
from counterfoil_console.stack import BehindProxy
from counterfoil_consumers.store import Connection
from tests.faults.later import Later
from tests.faults.plan import PLAN
from tests.faults.services import Services
from tests.faults.shops import Shop, dynamodb_shop, mariadb_shop, pocketbase_shop, port_of, postgres_shop
from tests.faults.truth import Ledger
from tests.fix_aws import running_aws
from tests.fix_mariadb import running_mariadb
from tests.fix_oldest import PROGRAMS, make_postgres, need, running_postgres
from tests.fix_pocketbase import PocketBase
from tests.fix_recorder import IDENTITY_KEY
from tests.fix_stack import memory_folder
from tests.fix_toxiproxy import Door, Toxiproxy


@dataclass(frozen=True)
class World:
    """All that a proof needs at hand. `brokers`: the door through which one agent reaches Kafka."""

    shops: list[Shop]
    services: Services
    settings: RecorderSettings
    operator: Connection
    brokers: Door
    ledger: Ledger
    later: Later
    orders: list[str] = field(default_factory=lambda: [f"order-{number}" for number in range(PLAN.effects + 50)])

    def count(self, query: str) -> int:
        """The one number that a query finds."""
        [row] = self.operator.execute(query.encode()).fetchall()
        return int(next(iter(row.values())))

    @property
    def is_done(self) -> bool:
        """Whether everything recorded is judged and closed, and what was said of it is in the log."""
        return (
            self.count("SELECT count(*) FROM counterfoil.check_state WHERE closed_at IS NULL") == 0
            and self.count("SELECT count(*) FROM counterfoil.outbox WHERE relayed_at IS NULL") == 0
        )


@pytest.fixture
def clock() -> tuple[str, ...]:
    """A command that others are run by, with the time of day an hour ahead."""
    [library] = glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1") or ["/usr/bin/faketime"]
    need(Path(library), "faketime")
    return ("env", f"LD_PRELOAD={library}", "FAKETIME=+1h", "DONT_FAKE_MONOTONIC=1")


@pytest.fixture
def shops(
    toxiproxy: Toxiproxy, pocketbase: PocketBase, authority: Path, clock: tuple[str, ...], tmp_path: Path
) -> Iterator[list[Shop]]:
    """All shops, up. The clocks of all servers but PocketBase's, which is linked statically, are an hour ahead."""
    with ExitStack() as running:
        folder, run_as = running.enter_context(folder_of_servers(memory_folder()))
        admin, standby = running.enter_context(_postgres_with_standby(folder, run_as, clock))
        mariadb = running.enter_context(running_mariadb(authority, clock))
        aws = running.enter_context(running_aws(clock))
        running.enter_context(aws.strict())
        lag = max(20, 2 * PLAN.replica_lag)
        yield [
            postgres_shop(toxiproxy, admin, PLAN.settle),
            mariadb_shop(toxiproxy, mariadb, PLAN.settle),
            pocketbase_shop(toxiproxy, pocketbase, PLAN.settle, tmp_path),
            dynamodb_shop(toxiproxy, aws, PLAN.settle),
            postgres_shop(toxiproxy, admin, PLAN.settle, name="mirrored", standby=standby, lag=lag),
        ]


@pytest.fixture
def services(
    shops: list[Shop], recorder_settings: RecorderSettings, database: str, tmp_path: Path
) -> Iterator[Services]:
    """Starts the services; their contracts are those of all shops."""
    contracts = tmp_path / "contracts.toml"
    contracts.write_text('version = "1"\n' + "".join(shop.contract for shop in shops))
    targets = {
        f"TARGETS__{shop.name}__{name}".upper(): value for shop in shops for name, value in shop.settings.items()
    }
    variables = {
        "KAFKA__BOOTSTRAP_SERVERS": recorder_settings.kafka["bootstrap.servers"],
        "PROFILE": "local",
        "TOPIC_PREFIX": recorder_settings.topic_prefix,
        "STORE__DSN": database,
        "IDENTITY_KEY": IDENTITY_KEY,
        "TENANT": "acme",
        "METRICS_PORT": "0",
        "CONTRACTS": str(contracts),
        "GIVE_UP_AFTER_SECONDS": "2",
        "SWEEP_INTERVAL_SECONDS": str(PLAN.sweep_every),
        "PRODUCER_LOST_AFTER_SECONDS": str(PLAN.lost_after),
    }
    services = Services(variables | targets, tmp_path)
    yield services
    services.kill()


@pytest.fixture
def world(
    shops: list[Shop],
    services: Services,
    recorder_settings: RecorderSettings,
    toxiproxy: Toxiproxy,
    kafka_behind_proxy: BehindProxy,
    database: str,
    operator: Connection,
) -> Iterator[World]:
    """Every shop has its orders; nobody has looked, and nothing was recorded."""
    operator.execute("INSERT INTO counterfoil.tenant VALUES ('acme')")
    brokers = toxiproxy.door("kafka", kafka_behind_proxy.port, at=kafka_behind_proxy.advertised_port)
    later = Later(database, PLAN.settle / 2)
    world = World(shops, services, recorder_settings, operator, brokers, Ledger(), later)
    kinds = ("crashed", "spooled", "stray", "edited")
    special = [f"{kind}-{number}" for kind, number in itertools.product(kinds, range(PLAN.few))]
    try:
        for shop in shops:
            shop.make_orders([*world.orders, *special, "spare"])
        yield world
    finally:
        later.end()


@contextmanager
def _postgres_with_standby(folder: Path, run_as: RunAs, clock: tuple[str, ...]) -> Iterator[tuple[str, int]]:
    """The administrator's DSN of a server, and the port of one that follows it with a delay."""
    make_postgres(folder, run_as, "primary")
    with running_postgres(folder, run_as, "primary", clock=clock) as admin:
        with psycopg.connect(admin, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE ROLE reader LOGIN PASSWORD {}").format(sql.Literal(PASSWORD)))
        copying = run_as(PROGRAMS / "pg_basebackup", "-D", folder / "standby", "-d", admin, "-R", "-c", "fast")
        subprocess.run(copying, check=True, capture_output=True, cwd="/", timeout=120)
        delay = f"recovery_min_apply_delay={PLAN.replica_lag}s"
        with running_postgres(folder, run_as, "standby", delay, clock=clock) as standby:
            yield admin, port_of(standby)
