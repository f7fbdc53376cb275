"""What a contract says of an HTTP target and its resources, and the presets that say some of it beforehand."""

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Final, Literal, Self
from urllib.parse import urlsplit

from jsonpath import JSONPathEnvironment, JSONPathError
from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from counterfoil_reconcilers.contract_files import Written, WrittenChanges
from counterfoil_reconcilers.targets.http_templates import check_path, check_value, names_in

_PRESETS: Final = files("counterfoil_reconcilers.targets") / "presets"
# What the adapter itself says of a request; a secret in `headers` would be in the contract.
_OURS: Final = {
    "accept-encoding", "authorization", "connection", "content-length", "content-type", "cookie", "host",
    "proxy-authorization", "transfer-encoding",
}  # fmt: skip


@cache
def jsonpaths() -> JSONPathEnvironment:
    """RFC 9535 and no more, without the functions that match patterns: those are not linear here."""
    environment = JSONPathEnvironment(strict=True)
    for name in ("match", "search"):
        del environment.function_extensions[name]
    return environment


def _is_jsonpath(path: str) -> str:
    try:
        jsonpaths().compile(path)
    except JSONPathError as error:
        said = str(error).strip().splitlines()[0]
        raise ValueError(f"{path!r} is no JSONPath (RFC 9535): {said}") from None
    return path


def _is_place(place: str) -> str:
    return _is_jsonpath(place) if place.startswith("$") else place


def is_address(url: str) -> str:
    """The address of an API without a slash at its end. Raises ValueError, which does not quote it."""
    try:
        parts = urlsplit(url)
        readable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        readable = False
    if not readable or re.search(r"[\s\\{}]|/\.{1,2}(/|$)", url):
        raise ValueError("is no address of an API; write https://host/path")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("holds more than host and path; credentials are settings of their own")
    return url.rstrip("/")


def _is_base(url: str) -> str:
    try:
        return is_address(url)
    except ValueError as error:
        raise ValueError(f"base {error}") from None


def _as_table(value: Any) -> Any:
    return {"path": value} if isinstance(value, str) else value


JsonPath = Annotated[str, AfterValidator(_is_jsonpath)]
Place = Annotated[str, AfterValidator(_is_place)]  # a field's name, or a JSONPath within the row
Path = Annotated[str, AfterValidator(check_path)]
Query = dict[str, Annotated[str, AfterValidator(check_value)]]
Status = Annotated[int, Field(ge=400, le=499)]
Seconds = Annotated[float | int, Field(gt=0, le=86_400)]


class Pages(Written):
    """How a list goes on. `at`: where the next address or the cursor is; `more`: where it says whether there is more.

    `total` and `last`: where it says how many rows and pages there are; without them a list by numbers ends with an
    empty page, for a short one may only be as long as the server likes.
    """

    style: Literal["none", "link", "next", "cursor", "number", "offset"]
    at: JsonPath | None = None
    more: JsonPath | None = None
    param: str | None = None
    first: int | None = Field(default=None, ge=0)
    size_param: str | None = None
    size: int = Field(default=100, ge=1, le=10_000)
    total: JsonPath | None = None
    last: JsonPath | None = None

    @model_validator(mode="after")
    def _has_what_its_style_needs(self) -> Self:
        needs = {"next": ("at",), "cursor": ("at", "param"), "number": ("param",), "offset": ("param",)}
        for name in needs.get(self.style, ()):
            if getattr(self, name) is None:
                raise ValueError(f'pages of style "{self.style}" lack the key {name}; add it')
        return self


class Listing(Written):
    """A request that answers with rows, page by page. `post`: the body of a search that the API takes by POST alone.

    `keys_only`: its rows are not whole, so each is read by its key.
    """

    path: Path
    query: Query = Field(default_factory=dict)
    post: Annotated[dict[str, Any], AfterValidator(check_value)] | None = None
    items: JsonPath | None = None
    pages: Pages | None = None
    keys_only: bool = False

    @model_validator(mode="after")
    def _goes_on_as_it_began(self) -> Self:
        if self.post is not None and self.pages is not None and self.pages.style in ("link", "next"):
            raise ValueError('a search by POST goes on with style "cursor", "number" or "offset" in its body')
        return self

    @property
    def names(self) -> frozenset[str]:
        """The names that it has places for."""
        return names_in(self.path) | names_in(self.query) | names_in(self.post)


class HttpChanges(Listing, WrittenChanges):
    """A list of what changed: `{since}` in it is filled with the highest value that was seen `at` this place in a row.

    Values there are numbers, or texts that compare as their times do.
    """

    at: Place


class Batch(Written):
    """A request that reads many keys at once: `separator` between them, or, if empty, the parameter once for each."""

    path: Path
    param: str
    separator: str = ","
    most: int = Field(default=100, ge=1, le=10_000)
    query: Query = Field(default_factory=dict)
    items: JsonPath | None = None
    pages: Pages | None = None


class Sign(Written):
    """What tells an answer with this status: a header, or a text in the body; without `value` that it is there."""

    status: int
    header: str | None = None
    at: JsonPath | None = None
    value: str | None = None

    @model_validator(mode="after")
    def _looks_somewhere(self) -> Self:
        if (self.header is None) == (self.at is None):
            raise ValueError("a sign of throttling is a header, or at = a place in the body; say one of them")
        return self


class Throttled(Written):
    """How the API says that it wants fewer requests. `resets_at`: a header with the second (Unix time) when it may."""

    statuses: list[Annotated[int, Field(ge=400, le=599)]] = Field(default_factory=lambda: [429])
    also: list[Sign] = Field(default_factory=list)
    resets_at: str | None = None


class Gone(Written):
    """What tells a row that was deleted and is shown still: `at` holds just this, as `active` does `false`."""

    at: Place
    holds: bool | str


class HttpDefaults(Written):
    """What a target says once for all its resources, and a preset for all targets."""

    base: Annotated[str, AfterValidator(_is_base)] | None = None
    prefix: Annotated[str, AfterValidator(lambda path: check_path(path) if path else path)] = ""
    headers: dict[str, str] = Field(default_factory=dict)
    auth_header: str = Field(default="Authorization", pattern=r"^[A-Za-z0-9-]+$")
    auth_scheme: str = Field(default="Bearer", pattern=r"^[A-Za-z0-9-]*$")
    items: JsonPath | None = None
    found: JsonPath = "$"
    doc: JsonPath | None = None
    gone: Place | Gone | None = None
    incomplete: JsonPath | None = None
    version_field: Place | None = None
    version_header: str | None = None
    pages: Pages = Pages(style="none")
    absent: list[Status] = Field(default_factory=lambda: [404, 410])
    throttled: Throttled = Throttled()
    search_lag_seconds: float | int = Field(default=0, ge=0)
    timeout_seconds: Seconds = 10
    deadline_seconds: Seconds = 60
    sweep_seconds: Seconds = 600
    concurrency: int = Field(default=8, ge=1, le=64)

    @field_validator("headers")
    @classmethod
    def _are_not_ours(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if name.lower() in _OURS:
                raise ValueError(f"the header {name} is not said in a contract; secrets are settings of the target")
            if not (name.isascii() and value.isascii() and name.isprintable() and value.isprintable()):
                raise ValueError(f"the header {name} holds what no header may; write printable ASCII")
        return headers


class Preset(Written):
    """What is known of one vendor's API; `defaults` are keys of a target as its contract could have said them."""

    idempotent_for_seconds: float | int | None = None
    defaults: dict[str, Any]


class HttpOptions(HttpDefaults):
    """The keys of a target of this kind; what it does not say, its preset does."""

    preset: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _over_its_preset(cls, values: Any) -> Any:
        name = values.get("preset") if isinstance(values, Mapping) else None
        if not isinstance(name, str):
            return values
        defaults, headers = find_preset(name).defaults, values.get("headers", {})
        if isinstance(headers, Mapping):
            headers = {**defaults.get("headers", {}), **headers}
        return {**defaults, **values, "headers": headers}


class HttpResource(Written):
    """Where the rows of a resource are. `held`: the place of a key or the tenant in a row, if not under its name.

    `unheld`: keys, or the tenant, that the path alone holds. `probe`: what answers whenever a missing row is missing.
    """

    get: Path
    listing: Annotated[Listing, BeforeValidator(_as_table)] | None = Field(default=None, alias="list")
    find: Annotated[Listing, BeforeValidator(_as_table)] | None = None
    changes: HttpChanges | None = None
    batch: Batch | None = None
    probe: Path | None = None
    query: dict[str, str] = Field(default_factory=dict)
    items: JsonPath | None = None
    found: JsonPath | None = None
    doc: JsonPath | None = None
    held: dict[str, JsonPath] = Field(default_factory=dict)
    unheld: list[str] = Field(default_factory=list)
    key_form: dict[str, str] = Field(default_factory=dict)
    gone: Place | Gone | None = None
    incomplete: JsonPath | None = None
    version_field: Place | None = None
    version_header: str | None = None
    pages: Pages | None = None
    absent: list[Status] | None = None


def preset_names() -> list[str]:
    """Those that there are."""
    return sorted(file.name.removesuffix(".toml") for file in _PRESETS.iterdir() if file.name.endswith(".toml"))


@cache
def find_preset(name: str) -> Preset:
    """The preset of that name. Raises ValueError."""
    names = preset_names()
    if name not in names:
        raise ValueError(f"there is no preset {name}; write {', '.join(names)}")
    return Preset.model_validate(tomllib.loads((_PRESETS / f"{name}.toml").read_text(encoding="utf-8")))
