"""Ids are 16 bytes everywhere inside; people see 32 hex digits."""

import re
import uuid

import uuid_utils

Id = bytes

OPERATORS = "_operators"  # has what concerns every tenant, such as a halt of everything; no tenant may be named so
_TENANT = re.compile(r"[a-z0-9_-]{1,40}")
_RETENTION_CLASS = re.compile(r"[a-z][a-z0-9_-]{0,39}")
_NO_RETENTION_CLASS = re.compile(r"^(astray|held|hash|leaves)(_|$)|_[0-9]{4}_[0-9]{2}$")  # `event_` before it is taken
STANDARD = "standard"  # the retention class of what names no other
# The namespace of every task id: UUIDv5(NAMESPACE_URL, "https://counterfoil/task").
_TASKS = uuid.uuid5(uuid.NAMESPACE_URL, "https://counterfoil/task")


def new_id() -> Id:
    """A new UUIDv7 (RFC 9562 section 5.7), in order of time."""
    return uuid_utils.uuid7().bytes


def task_id_of(tenant: str, task_ref: str) -> Id:
    """UUIDv5 of tenant and task_ref, so that any process can reopen the task (RFC 9562 section 5.5)."""
    name = f"{tenant}/{task_ref}".encode("utf-8", "backslashreplace").decode()  # a lone surrogate is no UTF-8
    return uuid.uuid5(_TASKS, name).bytes


def is_tenant(name: str) -> bool:
    """Whether `name` is a tenant's name: `[a-z0-9_-]{1,40}`, and not the operators' reserved one."""
    return _TENANT.fullmatch(name) is not None and name != OPERATORS


def is_retention_class(name: str) -> bool:
    """Whether `name` is a retention class's: `[a-z][a-z0-9_-]{0,39}`, and none that the store has a table of."""
    return _RETENTION_CLASS.fullmatch(name) is not None and not _NO_RETENTION_CLASS.search(name)


def partition_key(tenant: str, task_id: Id) -> bytes:
    """The Kafka key of a task's events: `tenant/` and 32 hex digits."""
    return f"{tenant}/{task_id.hex()}".encode()


def read_partition_key(key: bytes) -> tuple[str, Id]:
    """Tenant and task of such a key.

    Raises ValueError.
    """
    tenant, _, task_id = key.decode().rpartition("/")
    return tenant, bytes.fromhex(task_id)
