"""Which errors say that a write certainly did not happen, for the clients that agents use most.

Told apart by class name, so that none of the libraries is imported: httpx, requests (with urllib3), psycopg, botocore,
and Python's own sockets. Whatever is not known to be definite is unknown: a timeout of a write is never `failed`.
"""

from collections.abc import Iterator
from typing import Any

# The request was never sent, or was refused before any of it was read.
_NEVER_SENT = {
    "builtins.ConnectionRefusedError",
    "socket.gaierror",
    "httpx.ConnectError",
    "httpx.ConnectTimeout",
    "httpx.PoolTimeout",
    "httpx.UnsupportedProtocol",
    "httpx.InvalidURL",
    "httpx.LocalProtocolError",
    "requests.ConnectTimeout",
    "requests.InvalidURL",
    "requests.InvalidSchema",
    "requests.MissingSchema",
    "requests.InvalidHeader",
    "urllib3.NewConnectionError",
    "urllib3.NameResolutionError",
    "urllib3.ConnectTimeoutError",
    "psycopg.ConnectionTimeout",
    "botocore.EndpointConnectionError",
    "botocore.ConnectTimeoutError",
    "botocore.ParamValidationError",
    "botocore.NoCredentialsError",
    "botocore.PartialCredentialsError",
    "botocore.NoRegionError",
}
# The server answered that it did nothing. Not 408 (it may have read it all) nor 409 (an earlier attempt may have won).
_REFUSED_STATUS = {400, 401, 402, 403, 404, 405, 406, 410, 411, 412, 413, 414, 415, 416, 417, 421, 422, 423, 424, 426,
                   428, 429, 431, 451, 501}  # fmt: skip
# SQLSTATE classes whose error rolled the statement back (PostgreSQL, Appendix A).
_ROLLED_BACK = {"0A", "0L", "0P", "22", "23", "25", "26", "28", "2B", "3D", "3F", "40", "42", "44", "53", "54", "55"}
_ROLLED_BACK_CODES = {"57014"}  # query_canceled
_UNSURE_CODES = {"40003"}  # statement_completion_unknown
_MOST_CAUSES = 5


def is_definite(error: BaseException) -> bool:
    """Whether `error` says that what was asked for certainly did not happen.

    Never raises, whatever the error is made of.
    """
    try:
        return any(_is_definite(one) for one in _with_causes(error))
    except Exception:  # noqa: BLE001  # attributes of foreign errors may be anything
        return False


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what requests and botocore wrapped in it."""
    current: Any = error
    for _ in range(_MOST_CAUSES):
        if not isinstance(current, BaseException):
            return
        yield current
        if _package(type(current)) not in ("requests", "urllib3"):
            return
        inner = current.args[0] if current.args else None
        current = getattr(current, "reason", None) or getattr(inner, "reason", None) or inner


def _is_definite(error: BaseException) -> bool:
    names = {f"{_package(kind)}.{kind.__name__}" for kind in type(error).__mro__}
    if names & _NEVER_SENT:
        return True
    if names & {"httpx.HTTPStatusError", "requests.HTTPError"}:
        return getattr(getattr(error, "response", None), "status_code", None) in _REFUSED_STATUS
    if "botocore.ClientError" in names:
        answer: Any = getattr(error, "response", {})
        return answer["ResponseMetadata"]["HTTPStatusCode"] in _REFUSED_STATUS
    if "psycopg.Error" in names:
        code = str(getattr(error, "sqlstate", None) or "")
        return code not in _UNSURE_CODES and (code[:2] in _ROLLED_BACK or code in _ROLLED_BACK_CODES)
    return False


def _package(kind: type) -> str:
    return kind.__module__.partition(".")[0]
