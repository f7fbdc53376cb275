"""What events of one task share, and what one event refers to."""

from dataclasses import dataclass, fields

from counterfoil.errors import UsageError
from counterfoil.folder import TenantOrigin
from counterfoil.ids import STANDARD, Id, is_retention_class, task_id_of

# What a name may have: names stand in indexes of the store.
MAX_NAME_CHARACTERS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What all events of one task share: the envelope less what is each event's own."""

    tenant: str
    workflow: str
    task_id: Id
    agent: str
    environment: str
    mode: str
    retention_class: str = STANDARD
    task_ref: str | None = None
    parent_task_id: Id | None = None
    conversation_id: str | None = None
    subject_ref: str | None = None
    release: str | None = None
    principal: str | None = None
    on_behalf_of: str | None = None
    trace_id: bytes | None = None

    def __post_init__(self) -> None:
        for name in SHARED:
            value = getattr(self, name)
            if isinstance(value, str) and len(value) > MAX_NAME_CHARACTERS:
                raise UsageError(
                    f"{name} has {len(value)} characters, and {MAX_NAME_CHARACTERS} are the most: {value[:40]!r}…"
                )
        if not is_retention_class(self.retention_class):
            raise UsageError(
                f"the retention class {self.retention_class[:60]!r} is not [a-z][a-z0-9_-]{{0,39}}, or a name that "
                "the store keeps for itself; pass retention_class= or set COUNTERFOIL_RETENTION_CLASS"
            )


SHARED = tuple(field.name for field in fields(Origin))


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What one event refers to, besides its task. `event_id` is given where others must name it beforehand."""

    event_id: Id | None = None
    effect_id: Id | None = None
    attempt: int | None = None
    causation_id: Id | None = None


NOTHING = About()


def producer_origin(producer_id: Id, spoken_to: TenantOrigin) -> Origin:
    """The producer's own reserved task at one tenant: its beats, its gaps, its goodbye."""
    name = f"producer:{producer_id.hex()}"
    return Origin(
        tenant=spoken_to.tenant,
        workflow=spoken_to.workflow,
        agent=spoken_to.agent,
        environment=spoken_to.environment,
        mode=spoken_to.mode,
        task_id=task_id_of(spoken_to.tenant, name),
        task_ref=name,
    )
