"""Which commands there are: the overview needs no more than this, and a command loads its own module alone."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Command:
    """A command or group of commands, by the module of this package that has it; `help` is its first sentence there."""

    name: str
    module: str
    help: str


COMMANDS = (
    Command("up", "stack", "Start the local stack: a real Kafka and a real Postgres, ready to use."),
    Command("down", "stack", "End the local stack; its data stays for the next `counterfoil up`."),
    Command("status", "stack", "Ask the servers of the local stack; exit code 1 when it is not up."),
    Command("env", "stack", "Print the settings of the running local stack as shell exports."),
    Command("migrate", "setup", "Bring the store to the schema of this version, while ingest and reconcile go on."),
    Command("topics", "setup", "Check the topics against their declaration; exit code 1 where they differ."),
    Command(
        "config", "setup", "Show every setting: its variable, the value in force (secrets hidden), and what it means."
    ),
    Command("ingest", "services", "Turn the events topic into the forensic store; several processes share the work."),
    Command("reconcile", "services", "Hold every intended write against its target, and say what drifts."),
    Command("serve", "serve", "Answer agents over HTTP: may this write be sent again, and has it landed?"),
    Command(
        "rebuild",
        "rebuild",
        "Make event, task, effect and all that is folded anew, beside the live ones, and put them in their place.",
    ),
    Command(
        "fold-unread",
        "rebuild",
        "Read the events that an older version kept unread, and fold them: run it when all of ingest is upgraded.",
    ),
    Command(
        "digest",
        "rebuild",
        "Print one digest of the projections, and of each of them, as of the offsets that are printed, too.",
    ),
    Command("timeline", "people", "Replay a task: every event in order, what the agent said, what the target says."),
    Command(
        "task",
        "people",
        "Say how much of a task landed, and what would take back one that is half done. Nothing is called.",
    ),
    Command(
        "history",
        "people",
        "Tell what happened to one row of a target: intents, results, verdicts, unexplained changes, and operations.",
    ),
    Command(
        "completeness",
        "completeness",
        "Hold what producers emitted against what is stored: emitted = stored + gaps + missing.",
    ),
    Command("blob", "blob", "Print a text that was too large for its event, as its bytes are; its digest was checked."),
    Command(
        "redact",
        "redaction",
        "Print a text as it would be recorded under the redaction policy, and the tokens in it.",
    ),
    Command(
        "halt",
        "halts",
        "Stop the writes of a scope at every client, until `counterfoil resume` lifts the order.",
    ),
    Command("resume", "halts", "Lift the halts that people gave for exactly this scope; wider and narrower ones stay."),
    Command(
        "halts",
        "halts",
        "List the halts in force: who has acknowledged, who has not, and which writes were under way already.",
    ),
    Command(
        "doctor",
        "doctor",
        "Check brokers, topics, database, roles, clocks, contracts and keys; exit code 1 if something is bad.",
    ),
    Command("tenant", "tenants", "Tenants: whose events are stored, signed and read."),
    Command("token", "tokens", "Tokens: by what a tenant's agents are let in over HTTP."),
    Command("key", "keys", "Keys: what seals values that the redaction policy says to seal."),
    Command("schemas", "schemas", "Schemas: what the Schema Registry knows of ours."),
    Command(
        "offsets", "offsets", "Offsets: where ingest stands in the log, and how it goes on where the log does not."
    ),
    Command("drift", "drift", "List what does not match: the agent said one thing, the target another."),
    Command("contracts", "contracts", "Contracts: are they right, what do they cover, what would they say."),
    Command("retention", "retention", "Retention: how long events stay, and what drops them."),
    Command("hold", "holds", "Legal holds: what must stay, whatever its policy says."),
)
