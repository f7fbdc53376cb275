"""What a halt stops: everything, a tenant, or a workflow, an agent or a tool of one.

No tenant's name has a slash, so what follows the first one is the name as it is, with slashes of its own if it has any:
nothing is escaped, and nothing can be meant by two texts.
"""

from dataclasses import dataclass
from typing import Literal, Self, get_args

from counterfoil.errors import UsageError
from counterfoil.ids import is_tenant
from counterfoil.jsontext import to_text

Named = Literal["workflow", "agent", "tool"]

_MAX_CHARACTERS = 4_000
_FORMS = "everything, tenant:T, workflow:T/W, agent:T/A or tool:T/X"


@dataclass(frozen=True, slots=True)
class Acting:
    """Who is about to write, with which tool."""

    tenant: str
    workflow: str
    agent: str
    tool: str


@dataclass(frozen=True, slots=True)
class Scope:
    """A scope as read; `tenant` is None for everything, `name` for that and for a whole tenant."""

    kind: Literal["everything", "tenant"] | Named
    tenant: str | None = None
    name: str | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """The scope that `text` means; capitals and spaces count.

        Raises UsageError.
        """
        if text == "everything":
            return cls("everything")
        kind, _, rest = text.partition(":")
        tenant, slash, name = rest.partition("/")
        if len(text) <= _MAX_CHARACTERS and is_tenant(tenant):
            if kind == "tenant" and not slash:
                return cls("tenant", tenant)
            for known in get_args(Named):
                if kind == known and name:
                    return cls(known, tenant, to_text(name))
        raise UsageError(f"the scope {text[:100]!r} is none of {_FORMS}")

    def __str__(self) -> str:
        if self.kind == "everything":
            return "everything"
        return f"{self.kind}:{self.tenant}" + ("" if self.name is None else f"/{self.name}")

    def covers(self, acting: Acting) -> bool:
        """Whether it means this write."""
        if self.kind == "everything":
            return True
        if self.tenant != acting.tenant:
            return False
        return self.kind == "tenant" or to_text(getattr(acting, self.kind)) == self.name

    def concerns(self, tenant: str) -> bool:
        """Whether it may mean writes of `tenant`."""
        return self.tenant in (None, tenant)
