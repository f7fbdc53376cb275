"""What a recorder needs to know, and the one place where the environment is read for it.

Order, strongest first: what the caller passes, the environment `COUNTERFOIL_*`, `counterfoil.toml` in the
working directory, the defaults here. Any setting ending in `_FILE` is read from that file.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from counterfoil.errors import SettingsError
from counterfoil.ids import STANDARD
from counterfoil.redaction_policy import RedactionPolicy, StorePrompts, WorkflowPolicy

SETTINGS_FILE = Path("counterfoil.toml")
_FILE_SUFFIX = "_file"
_MIN_KEY_BYTES = 16
_DOTTED = ("kafka", "schema_registry")  # settings of another's client, under that client's names
_SECRET = ("identity_key", "signing_keys")

Loaded = TypeVar("Loaded", bound="RecorderSettings")


Durable = Literal["broker", "spool"]
WhenUnavailable = Literal["fail_closed", "fail_open"]
WhenStale = Literal["stop", "go_on"]


@dataclass(frozen=True, slots=True)
class Policy:
    """What one write asks of the audit."""

    durable: Durable
    when_unavailable: WhenUnavailable
    ack_timeout_seconds: float
    when_stale: WhenStale


class ToolPolicy(BaseModel):
    """What one tool asks of the audit; what is None is as the recorder's settings say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    durable: Durable | None = None
    when_unavailable: WhenUnavailable | None = None
    ack_timeout_seconds: float | None = Field(None, gt=0)
    when_stale: WhenStale | None = None


_NOTHING_OWN = ToolPolicy()


def _state_directory() -> Path:
    """Where a user's programs keep what must outlive them (XDG Base Directory Specification)."""
    named = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(named).expanduser() / "counterfoil"


class ConsoleSettings(BaseModel):
    """Where agents ask whether a write may be sent again, see `counterfoil serve`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str | None = None
    token: SecretStr | None = None
    timeout_seconds: float = Field(2.0, gt=0, le=30)
    confirm_seconds: float = Field(30.0, ge=0, le=30)


class RecorderSettings(BaseSettings):
    """Settings of the recorder; the field names in upper case after `COUNTERFOIL_` are the variables."""

    model_config = SettingsConfigDict(
        env_prefix="COUNTERFOIL_",
        env_nested_delimiter="__",
        extra="ignore",
        frozen=True,
    )

    kafka: dict[str, str] = Field(
        default_factory=dict,
        description="Any setting of librdkafka: COUNTERFOIL_KAFKA__SECURITY_PROTOCOL is security.protocol.",
    )
    schema_registry: dict[str, str] = Field(
        default_factory=dict,
        repr=False,
        description="Any setting of Confluent's SchemaRegistryClient: COUNTERFOIL_SCHEMA_REGISTRY__URL is url.",
    )
    profile: Literal["local", "production"] = Field("production", description="local: one broker, replication 1.")
    topic_prefix: str = Field("", description="Put before every topic's name.")
    tenant: str | None = Field(None, description="The tenant of tasks that name none.")
    workflow: str = Field("default", description="The workflow of tasks that name none.")
    agent: str = Field("agent", description="The agent of tasks that name none.")
    release: str | None = Field(None, description="Version of the agent's code, prompt and policy.")
    environment: str = Field("production", description="production, staging, ...")
    retention_class: str = Field(
        STANDARD, description="How long the store keeps the events of tasks that name no class (docs/retention.md)."
    )
    identity_key: SecretStr | None = Field(
        None, description="Key of the HMAC behind every effect_id and token; the same in every process of a tenant."
    )
    signing_keys: SecretStr | None = Field(
        None,
        description="What signs events, one key a tenant, in spaces or lines; `counterfoil tenant rotate` makes them.",
    )
    durable: Durable = Field(
        "spool", description="What makes an intent durable: broker (acknowledged), or spool (that, or on this disk)."
    )
    when_unavailable: WhenUnavailable = Field(
        "fail_closed", description="A write whose intent can't be durable: fail_closed (does not run) or fail_open."
    )
    tools: dict[str, ToolPolicy] = Field(
        default_factory=dict,
        description="By tool: durable, when_unavailable, ack_timeout_seconds, when_stale; as in [tools.refund].",
    )
    console: ConsoleSettings = Field(
        default_factory=ConsoleSettings,
        description="Who is asked before a write is sent again: COUNTERFOIL_CONSOLE__URL, COUNTERFOIL_CONSOLE__TOKEN "
        "(or …_TOKEN_FILE); __TIMEOUT_SECONDS for a question, __CONFIRM_SECONDS for `attempts` to wait for the target.",
    )
    ack_timeout_seconds: float = Field(
        5, gt=0, description="How long an intent waits for the brokers before it goes to the spool."
    )
    when_stale: WhenStale = Field(
        "stop",
        description="A write while standing orders could not be read for too long: stop (does not run) or go_on.",
    )
    stale_after_seconds: float = Field(
        60, gt=0, description="How old the standing orders may be before that: the deadline of a halt without brokers."
    )
    control_timeout_seconds: float = Field(
        5, gt=0, description="How long the first write of a process may wait until it knows the standing orders."
    )
    close_timeout_seconds: float = Field(10, gt=0, description="How long closing may wait for the brokers.")
    exit_on_sigterm: bool = Field(
        True, description="Without a handler of the program's own, SIGTERM ends it as SystemExit(143) does: in order."
    )
    spool_directory: Path | None = Field(
        default_factory=lambda: _state_directory() / "spool",
        description="Where events wait while no broker answers; empty: nowhere.",
    )
    spool_limit_bytes: int = Field(2 * 1024**3, ge=1024**2, description="How large one process's spool may grow.")
    window_events: int = Field(10_000, ge=1, description="How many events may be unacknowledged before others wait.")
    window_bytes: int = Field(16 * 1024**2, ge=1024, description="How many bytes of them; as much may wait for a disk.")
    inline_limit_bytes: int = Field(
        65_536, ge=4096, description="How large an event's texts may be together; larger ones are kept outside of it."
    )
    blob_directory: Path = Field(
        default_factory=lambda: _state_directory() / "blobs",
        description="Where large texts are kept, or wait for COUNTERFOIL_BLOB_STORE.",
    )
    blob_store: str | None = Field(
        None, description="Where they go: a URL that fsspec knows, such as s3://bucket/folder or file:///mnt/blobs."
    )
    blob_store_options: dict[str, Any] = Field(
        default_factory=dict,
        repr=False,
        description="Options of that file system of fsspec's, as its class names them.",
    )
    redaction: RedactionPolicy = Field(
        default_factory=RedactionPolicy,
        description="What is taken out of events before they leave the process, as in [redaction] (docs/redaction.md).",
    )
    key_directory: Path | None = Field(
        None, description="Keys that seal values, a file TENANT.NAME each, made by `counterfoil key new`."
    )
    store_prompts: StorePrompts = Field(
        "redacted", description="What is kept of what a model read and wrote: none, digest, redacted or full."
    )
    workflows: dict[str, WorkflowPolicy] = Field(
        default_factory=dict, description="By workflow: store_prompts; as in [workflows.support]."
    )
    beat_interval_seconds: float = Field(10, gt=0, description="Seconds between two producer_beat events.")

    def policy_for(
        self,
        tool: str,
        durable: Durable | None = None,
        when_unavailable: WhenUnavailable | None = None,
    ) -> Policy:
        """What a call asks for, else what its tool does, else what these settings say."""
        own = self.tools.get(tool, _NOTHING_OWN)
        return Policy(
            durable or own.durable or self.durable,
            when_unavailable or own.when_unavailable or self.when_unavailable,
            own.ack_timeout_seconds or self.ack_timeout_seconds,
            own.when_stale or self.when_stale,
        )

    def prompts_of(self, workflow: str) -> StorePrompts:
        """How much of a workflow's prompts is kept."""
        own = self.workflows.get(workflow)
        return self.store_prompts if own is None or own.store_prompts is None else own.store_prompts

    @field_validator("spool_directory", "key_directory", mode="before")
    @classmethod
    def _nowhere(cls, value: Any) -> Any:
        return None if value == "" else value

    @field_validator(*_DOTTED, mode="before")
    @classmethod
    def _dotted(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        return _dotted_names(value)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (
            _WithFiles(settings_cls, init_settings),
            _WithFiles(settings_cls, env_settings),
            _WithFiles(settings_cls, TomlConfigSettingsSource(settings_cls, SETTINGS_FILE)),
        )


class _WithFiles(InitSettingsSource):
    """A source in which `name_file = path` stands for `name = <the file's text>`, at any depth."""

    def __init__(self, settings_cls: type[BaseSettings], inner: PydanticBaseSettingsSource) -> None:
        found = inner()
        if isinstance(inner, EnvSettingsSource):
            found = _file_variables(settings_cls) | found
        read = _read_files(found)
        for name in _DOTTED:
            # Each source by itself, so that one setting has one name when the stronger source is laid over the weaker.
            if isinstance(read.get(name), Mapping):
                read[name] = _dotted_names(read[name])
        super().__init__(settings_cls, init_kwargs=read)


def _file_variables(settings_cls: type[BaseSettings]) -> dict[str, Any]:
    """COUNTERFOIL_<FIELD>_FILE, which the environment source leaves out as no field has that name."""
    prefix = settings_cls.model_config["env_prefix"]
    names = {f"{prefix}{field}{_FILE_SUFFIX}".upper(): f"{field}{_FILE_SUFFIX}" for field in settings_cls.model_fields}
    return {names[name.upper()]: value for name, value in os.environ.items() if name.upper() in names}


def _read_files(found: Mapping[str, Any]) -> dict[str, Any]:
    read: dict[str, Any] = {}
    for name, value in found.items():
        if isinstance(value, Mapping):
            read[name] = _read_files(value)
        elif name.lower().endswith(_FILE_SUFFIX) and isinstance(value, str):
            try:
                read[name[: -len(_FILE_SUFFIX)]] = Path(value).read_text(encoding="utf-8").strip()
            except OSError as error:
                raise SettingsError(
                    f"the setting {name} names {value}, which can't be read: {error.strerror}"
                ) from error
        else:
            read[name] = value
    return read


def _dotted_names(given: Mapping[str, Any]) -> dict[str, str]:
    return {str(name).lower().replace("_", "."): str(item) for name, item in _flat(given)}


def _flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for name, item in value.items():
        if isinstance(item, Mapping):
            pairs += _flat(item, f"{prefix}{name}.")
        else:
            pairs.append((prefix + name, str(item).lower() if isinstance(item, bool) else item))
    return pairs


def load_settings(model: type[Loaded], **overrides: Any) -> Loaded:
    """Settings from all sources.

    Raises SettingsError: one sentence a mistake, naming the variable.
    """
    try:
        return model(**overrides)
    except ValidationError as error:
        raise SettingsError(_sentence(error)) from error
    except SettingsError:
        raise
    except (ValueError, OSError) as error:  # a TOML mistake, or JSON where none is
        raise SettingsError(f"the settings can't be read: {error}") from error


def _sentence(error: ValidationError) -> str:
    parts = []
    for mistake in error.errors(include_url=False):
        variable = "COUNTERFOIL_" + "__".join(str(part) for part in mistake["loc"]).upper()
        # What is nested may hold a secret, such as a connection string put where its table belongs.
        is_shown = (
            len(mistake["loc"]) == 1
            and mistake["type"] not in ("dict_type", "model_type")
            and mistake["loc"][0] not in _SECRET
        )
        got = f" (got {mistake['input']!r})" if is_shown else ""
        parts.append(f"{variable}: {mistake['msg']}{got}")
    return "wrong setting: " + "; ".join(parts)


def identity_key_of(settings: RecorderSettings) -> bytes:
    """The key of effects' ids and of tokens.

    Raises SettingsError when it is missing or short.
    """
    key = b"" if settings.identity_key is None else settings.identity_key.get_secret_value().encode()
    if len(key) < _MIN_KEY_BYTES:
        raise SettingsError(
            f"the identity key has {len(key)} bytes, and {_MIN_KEY_BYTES} are the least: set COUNTERFOIL_IDENTITY_KEY, "
            "or COUNTERFOIL_IDENTITY_KEY_FILE, to the same random text in every process that records"
        )
    return key


def describe(model: type[BaseModel]) -> list[tuple[str, str, str]]:
    """Name of the variable, default and meaning of each setting, for `counterfoil config`."""
    return [
        (
            f"COUNTERFOIL_{name.upper()}",
            "" if field.is_required() else repr(field.get_default(call_default_factory=True)),
            field.description or "",
        )
        for name, field in model.model_fields.items()
    ]
