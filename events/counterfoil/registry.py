"""A Schema Registry as this project uses it, through Confluent's client (extra `registry`).

The client is imported where it is needed: an agent without a registry does without its dependencies.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, Self, TypeVar

import fastavro

from counterfoil.errors import DecodeError, RegistryError, SettingsError
from counterfoil.framing import Definition
from counterfoil.subjects import Entry, with_types
from counterfoil.urls import without_password

if TYPE_CHECKING:
    from confluent_kafka.schema_registry import RegisteredSchema, Schema

LEVEL = "BACKWARD_TRANSITIVE"
# The client's own: no limit of time, and 7 s of retries before it says that nobody listens.
_DEFAULTS = {"timeout": "5", "max.retries": "2", "retries.wait.ms": "200"}
_NUMBERS = (
    "timeout",
    "cache.capacity",
    "cache.latest.ttl.sec",
    "max.retries",
    "retries.wait.ms",
    "retries.max.wait.ms",
)
# No such subject, version, schema; no compatibility of its own. A 404 without such a code may be a wrong path.
_ABSENT = (40401, 40402, 40403, 40408)
# Deeper than a schema of use, and shallow enough for fastavro's parser, which no limit of Python's holds.
_DEEPEST_JSON = 300
_LONGEST_SCHEMA = 1_000_000
_Given = ParamSpec("_Given")
_Answer = TypeVar("_Answer")


class Asker(NamedTuple):
    """Who asks a registry: what the variables of its settings begin with, and what to do where it may not."""

    variable: str = "COUNTERFOIL_SCHEMA_REGISTRY__"
    forbidden: str = "give this user the right, or have one who has it run `counterfoil schemas register`"

    def advice(self, status: int) -> str:
        """What to do about an answer with this status."""
        return {
            401: f"check {self.variable}BASIC_AUTH_USER_INFO",
            403: self.forbidden,
            404: f"check the path in {self.variable}URL (Apicurio's ends in /apis/ccompat/v7)",
            409: "run `counterfoil schemas check` to see which schema it can't follow",
        }.get(status, "see its log")


_RECORDER = Asker()


class Registry:
    """A connection to a Schema Registry; close it, or use it as a context.

    Raises SettingsError when the extra is missing, no address is given, or the client refuses a setting. Every method
    raises RegistryError.
    """

    def __init__(self, settings: Mapping[str, str], asker: Asker = _RECORDER) -> None:
        self.address = shown_address(settings, asker)
        self._asker = asker
        try:
            from confluent_kafka.schema_registry import (  # noqa: PLC0415  # only where there is a registry
                SchemaRegistryClient,
            )
        except ImportError as error:
            raise SettingsError(
                f"a Schema Registry is set, and its client can't load ({error}): pip install 'counterfoil[registry]'"
            ) from error
        try:
            self._client = SchemaRegistryClient(
                {name: _value(name, v) for name, v in {**_DEFAULTS, **settings}.items()}
            )
        except (ValueError, TypeError, OSError) as error:
            raise SettingsError(
                f"the Schema Registry's client refuses a setting of {asker.variable}…: {error}"
            ) from error

    def look_up(self, entry: Entry) -> "RegisteredSchema | None":
        """Its id and version in the registry; None when it is not registered."""
        schema = self._schema(entry)
        return None if schema is None else self._ask(self._client.lookup_schema, entry.subject, schema)

    def register(self, entry: Entry) -> None:
        """Register it, and what it refers to must be; its subject is held to BACKWARD_TRANSITIVE from then on."""
        self.hold(entry.subject)
        schema = self._schema(entry)
        if schema is None:
            raise RegistryError(f"{entry.name} refers to a schema that is not registered; register that one first")
        try:
            self._ask(self._client.register_schema, entry.subject, schema)
        except RegistryError:
            if self.look_up(entry) is None:  # else another process did the same at the same time
                raise

    def hold(self, subject: str) -> None:
        """Hold a subject to BACKWARD_TRANSITIVE, unless it is."""
        if self.level(subject) == LEVEL:
            return
        try:
            self._ask(self._client.set_compatibility, subject, LEVEL)
        except RegistryError:
            if self.level(subject) != LEVEL:  # else another process did the same at the same time
                raise

    def level(self, subject: str) -> str | None:
        """The compatibility that a subject is held to; None when it has none of its own."""
        return self._ask(self._client.get_compatibility, subject)

    def definitions(self, subject: str) -> dict[int, Definition]:
        """Every version of a subject, as a schema that defines every type it names.

        Raises DecodeError when one is not Avro.
        """
        versions = self._ask(self._client.get_versions, subject) or []
        found = {version: self._ask(self._client.get_version, subject, version) for version in versions}
        return {version: self._whole(found.schema) for version, found in found.items() if found is not None}

    def definition(self, schema_id: int) -> Definition | None:
        """The schema with this id, with a definition of every type it names; None when there is none.

        Raises DecodeError when it is not Avro.
        """
        schema = self._ask(self._client.get_schema, schema_id)
        return None if schema is None else self._whole(schema)

    def newest(self, subject: str) -> Definition | None:
        """The newest version of a subject, likewise; None when there is no such subject.

        Raises DecodeError when it is not Avro.
        """
        found = self._ask(self._client.get_latest_version, subject)
        return None if found is None else self._whole(found.schema)

    def subjects(self) -> Sequence[str]:
        """The subjects that may be seen."""
        return self._ask(self._client.get_subjects) or []

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _schema(self, entry: Entry) -> "Schema | None":
        from confluent_kafka.schema_registry import Schema, SchemaReference  # noqa: PLC0415  # as above

        references = []
        for shared in entry.references:
            found = self.look_up(shared)
            if found is None:
                return None
            references.append(SchemaReference(shared.name, shared.subject, found.version))
        return Schema(entry.text, "AVRO", references)

    def _whole(self, schema: "Schema") -> Definition:
        if schema.schema_type != "AVRO":
            raise DecodeError(f"the Schema Registry's schema is {schema.schema_type}, not Avro", "incompatible")
        if not schema.schema_str:
            raise RegistryError(
                f"the Schema Registry at {self.address} answers without a schema; {self._asker.advice(404)}", 200
            )
        types: dict[str, Any] = {}
        self._learn_types(schema, types)
        try:
            named: dict[str, Any] = {}
            for name, text in types.items():
                types[name] = _parsed(text, named)
            whole: Definition = with_types(_parsed(schema.schema_str, named), types)
            return whole  # noqa: TRY300  # what is raised above comes from a stranger's schema
        except Exception as error:  # of many kinds, on a stranger's schema
            raise DecodeError(
                f"the Schema Registry's schema can't be read: {type(error).__name__} {error}", "incompatible"
            ) from error

    def _learn_types(self, schema: "Schema", types: dict[str, Any]) -> None:
        """The texts of what it refers to, by full name; what others refer to first."""
        for reference in schema.references or ():
            if reference.name in types:
                continue
            found = self._ask(self._client.get_version, str(reference.subject), int(reference.version or 0))
            if found is not None:
                self._learn_types(found.schema, types)
                types[str(reference.name)] = found.schema.schema_str

    def _ask(self, call: Callable[_Given, _Answer], *given: _Given.args, **named: _Given.kwargs) -> _Answer | None:
        """The answer; None when the registry says that there is no such thing."""
        from confluent_kafka.schema_registry import SchemaRegistryError  # noqa: PLC0415  # as above

        try:
            return call(*given, **named)
        except SchemaRegistryError as error:
            if error.error_code in _ABSENT:
                return None
            status = error.http_status_code
            raise RegistryError(
                f"the Schema Registry at {self.address} answers {status} ({error.error_message}); "
                f"{self._asker.advice(status)}",
                status,
            ) from error
        except Exception as error:  # the HTTP client's own, and there are two of them
            raise RegistryError(
                f"the Schema Registry at {self.address} does not answer ({error}); see that it runs, and "
                f"{self._asker.variable}URL"
            ) from error


def register_missing(registry: Registry, entries: Sequence[Entry]) -> list[Entry]:
    """Register what is not, in order; returns it. Every subject is held to BACKWARD_TRANSITIVE afterwards.

    Raises RegistryError when the registry refuses, what came before it being registered.
    """
    missing = []
    for entry in entries:
        if registry.look_up(entry) is None:
            registry.register(entry)
            missing.append(entry)
        else:
            registry.hold(entry.subject)
    return missing


def shown_address(settings: Mapping[str, str], asker: Asker = _RECORDER) -> str:
    """Where the registry is, without the password that an address may hold.

    Raises SettingsError when no address is given, or one that is none; it does not quote what may hold a password.
    """
    urls = [url.strip() for url in settings.get("url", "").split(",")]
    if not all(url.startswith(("http://", "https://")) for url in urls):
        raise SettingsError(f"the Schema Registry has no address: set {asker.variable}URL=http://host:port")
    return ",".join(map(without_password, urls))


def _parsed(text: str, named: dict[str, Any]) -> Any:
    """The schema by full names, its types known in `named` from then on. Its defaults are not looked at."""
    if len(text) > _LONGEST_SCHEMA:
        raise ValueError(f"it has {len(text)} characters, and {_LONGEST_SCHEMA} are the most")
    definition = json.loads(text)
    _refuse_deep(definition)
    return fastavro.parse_schema(definition, named, _write_hint=False, _ignore_default_error=True)


def _refuse_deep(definition: Any) -> None:
    level, depth = [definition], 0
    while level:
        depth += 1
        if depth > _DEEPEST_JSON:
            raise ValueError(f"it is nested deeper than {_DEEPEST_JSON}")
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]


def _value(name: str, text: str) -> Any:
    if name not in _NUMBERS:
        return text
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name} is no number") from None
