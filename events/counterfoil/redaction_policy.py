"""What a redaction policy says: the settings under `[redaction]` and `[workflows.NAME]`."""

import hashlib
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

StorePrompts = Literal["none", "digest", "redacted", "full"]
KIND_PATTERN = "^[a-z][a-z0-9_]{0,39}$"

_Kind = Annotated[str, Field(pattern=KIND_PATTERN)]
_Word = Annotated[str, Field(pattern="^[A-Za-z0-9._-]{1,40}$")]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class OwnRule(_Model):
    """A form of secret of the user's own: an RE2 pattern, whose first group is the secret."""

    kind: _Kind
    pattern: str = Field(min_length=1, max_length=4000)


class FieldRule(_Model):
    """What is done with the values at a path, in the calls of one tool or of all."""

    path: str
    tool: str | None = None
    do: Literal["redact", "seal", "keep"] = "redact"
    kind: _Kind = "field"


class ToolFields(_Model):
    """A tool of whose arguments and results only the values at these paths stay."""

    only: tuple[str, ...]


class RedactionPolicy(_Model):
    """What is taken out of events before they leave the process."""

    enabled: bool = True
    name: _Word = "default"
    version: _Word = "1"
    personal: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    rules: tuple[OwnRule, ...] = ()
    fields: tuple[FieldRule, ...] = ()
    tools: dict[str, ToolFields] = Field(default_factory=dict)

    def label(self, rules_version: int) -> str | None:
        """`name@version+digest`; None where nothing is redacted.

        The digest is of all that the policy says and of the version of our own rules, so that two policies under one
        name can be told apart.
        """
        if not self.enabled:
            return None
        content = f"{rules_version} {self.model_dump_json()}".encode()
        return f"{self.name}@{self.version}+{hashlib.sha256(content).hexdigest()[:8]}"


class WorkflowPolicy(_Model):
    """What one workflow asks of the audit; what is None is as the recorder's settings say."""

    store_prompts: StorePrompts | None = None
