"""Errors as problem details for HTTP APIs (RFC 9457): `application/problem+json`."""

from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

NO_STORE = {"Cache-Control": "no-store"}


class Problem(Exception):
    """Answered as such. `detail` is a sentence that says what to do; `members` are extensions (section 3.2)."""

    def __init__(
        self, status: int, detail: str, *, retry_after_seconds: int | None = None, **members: str | bool
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.retry_after_seconds = retry_after_seconds
        self.members = members

    def response(self) -> Response:
        """The answer; `type` is about:blank, so `title` is the status's own phrase (section 4.2.1)."""
        headers = dict(NO_STORE)
        if self.retry_after_seconds is not None:
            headers["Retry-After"] = str(self.retry_after_seconds)
        if self.status == HTTPStatus.UNAUTHORIZED:
            headers["WWW-Authenticate"] = "Bearer"  # RFC 6750, section 3
        body: dict[str, Any] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        }
        return JSONResponse(body | self.members, self.status, headers=headers, media_type="application/problem+json")


def no_such_path(_request: Request, _error: Exception) -> Response:
    """Nothing is at this path."""
    return Problem(HTTPStatus.NOT_FOUND, "nothing is at this path; see docs/retry.md for those that are").response()


def no_such_method(_request: Request, error: Exception) -> Response:
    """The path is there, and takes another method."""
    answer = Problem(HTTPStatus.METHOD_NOT_ALLOWED, "this path takes another method, see Allow").response()
    answer.headers.update(getattr(error, "headers", None) or {})
    return answer
