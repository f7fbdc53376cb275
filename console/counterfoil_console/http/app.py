"""The routes: /livez, /readyz, and under /v1 what a tenant's agents may ask.

Who has no valid token is told nothing; what is another tenant's is not there, by the same look-up as what is nowhere.
"""

import json
import logging
import threading
import time
import traceback
import uuid
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Annotated, Any

import psycopg
from anyio import CapacityLimiter, to_thread
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from counterfoil.errors import CounterfoilError
from counterfoil_console.http.answers import Answers, Question, Told
from counterfoil_console.http.lending import Lender
from counterfoil_console.http.limits import Buckets
from counterfoil_console.http.problems import NO_STORE, Problem, no_such_method, no_such_path
from counterfoil_console.tokens import Caller, caller_of
from counterfoil_consumers.store import Connection

logger = logging.getLogger("counterfoil.http")

_LONGEST_CONFIRM_SECONDS = 30.0
_DEFAULT_CONFIRM_SECONDS = 10.0
_MOST_BODY_BYTES = 4096
_READERS = 16
_LONGEST_TOKEN = 200
_NO_TOKEN = "a valid token is needed: Authorization: Bearer cft_..., made by `counterfoil token create`"  # noqa: S105
_NOT_THERE = "no such effect is stored for this tenant: it may wait in a spool, or not be ingested yet; ask again"

HexId = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
Endpoint = Callable[["Api", Request], Awaitable[Response]]


class _Asked(BaseModel):
    """The body of a confirmation."""

    model_config = ConfigDict(extra="forbid", strict=True)

    timeout_seconds: float = Field(_DEFAULT_CONFIRM_SECONDS, ge=0, allow_inf_nan=False)
    after: HexId | None = None


class Api:
    """What the routes need. `requests` are the tokens' budgets, `confirms` how many may run at once."""

    def __init__(self, answers: Answers, stores: Lender[Connection], requests: Buckets, confirms: int) -> None:
        self._answers = answers
        self._stores = stores
        self._requests = requests
        self._readers = CapacityLimiter(_READERS)
        self._confirmers = CapacityLimiter(confirms)
        self._free = threading.BoundedSemaphore(confirms)

    def app(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/livez", _alive, methods=["GET"]),
            Route("/readyz", self._guarded(Api._ready), methods=["GET"]),
            Route("/v1/effects/{effect_id}/may-retry", self._guarded(Api._may_retry), methods=["GET"]),
            Route("/v1/effects/{effect_id}/confirm", self._guarded(Api._confirm), methods=["POST"]),
        ]
        return Starlette(routes=routes, exception_handlers={404: no_such_path, 405: no_such_method})

    # -- endpoints

    async def _ready(self, _request: Request) -> Response:
        await to_thread.run_sync(self._touch_store, limiter=self._readers)
        return PlainTextResponse("200 OK\n", headers=NO_STORE)

    async def _may_retry(self, request: Request) -> Response:
        caller = await self._caller(request)
        question = _question(caller, request, request.query_params.get("after"))
        told = await to_thread.run_sync(self._answers.read, question, limiter=self._readers)
        return _response(question, told)

    async def _confirm(self, request: Request) -> Response:
        caller = await self._caller(request)
        asked = await _body(request)
        question = _question(caller, request, asked.after)
        if not self._free.acquire(blocking=False):
            raise Problem(
                HTTPStatus.TOO_MANY_REQUESTS, "as many confirmations run as may at once", retry_after_seconds=1
            )
        try:
            seconds = min(asked.timeout_seconds, _LONGEST_CONFIRM_SECONDS)
            told = await to_thread.run_sync(self._answers.confirm, question, seconds, limiter=self._confirmers)
        finally:
            self._free.release()
        return _response(question, told)

    # -- who asks

    async def _caller(self, request: Request) -> Caller:
        scheme, _, text = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or len(text) > _LONGEST_TOKEN:
            raise Problem(HTTPStatus.UNAUTHORIZED, _NO_TOKEN)
        caller = await to_thread.run_sync(self._let_in, text.strip(), limiter=self._readers)
        if caller is None:
            raise Problem(HTTPStatus.UNAUTHORIZED, _NO_TOKEN)
        request.state.token_id = caller.token_id
        wait = self._requests.take(caller.token_id, time.monotonic())
        if wait is not None:
            detail = "this token asks too often; its limit is COUNTERFOIL_HTTP_REQUESTS_PER_SECOND"
            raise Problem(HTTPStatus.TOO_MANY_REQUESTS, detail, retry_after_seconds=wait)
        return caller

    def _let_in(self, text: str) -> Caller | None:
        with self._stores.lent() as store:
            return caller_of(store, text)

    def _touch_store(self) -> None:
        with self._stores.lent() as store:
            store.execute("SELECT")

    # -- what goes wrong

    def _guarded(self, endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            started = time.monotonic()
            response = await _answered(self, endpoint, request)
            logger.info(
                "%s %s %d in %d ms, token %s",
                request.method, request.url.path, response.status_code, (time.monotonic() - started) * 1000,
                getattr(request.state, "token_id", None),
            )  # fmt: skip
            return response

        return answer


async def _answered(api: Api, endpoint: Endpoint, request: Request) -> Response:
    try:
        return await endpoint(api, request)
    except Problem as problem:
        return problem.response()
    except (CounterfoilError, psycopg.Error) as error:
        # Whoever asks learns that there is no answer now; what is the matter is for operators.
        logger.warning("%s gives no answer: %s", request.url.path, str(error).strip().split("\n")[0])
        detail = "the store or the brokers give no answer now; try again"
        return Problem(HTTPStatus.SERVICE_UNAVAILABLE, detail, retry_after_seconds=2).response()
    except Exception as error:  # noqa: BLE001  # a defect must not show what it was met with
        logger.error(  # noqa: TRY400  # where it happened, and not the values that it happened with
            "%s failed, which is a defect: %s in\n%s",
            request.url.path, type(error).__name__, "".join(traceback.format_tb(error.__traceback__)),
        )  # fmt: skip
        detail = "this failed by a defect of ours; its place is in the log"
        return Problem(HTTPStatus.INTERNAL_SERVER_ERROR, detail).response()


async def _alive(_request: Request) -> Response:
    return PlainTextResponse("200 OK\n", headers=NO_STORE)


async def _body(request: Request) -> _Asked:
    """Raises Problem: 413 or 400."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_BODY_BYTES:
            raise Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body has more than {_MOST_BODY_BYTES} bytes")
    try:
        return _Asked.model_validate_json(body or b"{}")
    except ValidationError as error:
        mistake = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in mistake["loc"]) or "it"
        raise Problem(HTTPStatus.BAD_REQUEST, f"the body can't be read ({where}: {mistake['msg']})") from None


def _question(caller: Caller, request: Request, after: str | None) -> Question:
    """Raises Problem: 400."""
    effect_id = request.path_params["effect_id"]
    try:
        return Question(caller.tenant, uuid.UUID(effect_id), None if after is None else uuid.UUID(after))
    except ValueError:
        raise Problem(HTTPStatus.BAD_REQUEST, "an id has 32 hex digits, and this one has not") from None


def _response(question: Question, told: Told) -> Response:
    """The answer; 404 with the same words whether the effect is nowhere or another tenant's."""
    answer = told.answer
    shared: dict[str, Any] = {
        "effect_id": question.effect_id.hex,
        "answer": answer.word,
        "code": answer.code,
        "may_retry": answer.word == "yes",
    }
    if told.is_nowhere:
        raise Problem(HTTPStatus.NOT_FOUND, _NOT_THERE, retry_after_seconds=1, **shared)
    body = shared | {
        "applied": answer.code == "applied",
        "reason": answer.reason,
        "result": None if answer.result is None else json.loads(answer.result),
        "until": None if answer.until is None else answer.until.isoformat(),
        "seconds_left": _seconds_left(told),
        "ask_again_seconds": None if answer.ask_again_in is None else answer.ask_again_in.total_seconds(),
    }
    return JSONResponse(body, headers=NO_STORE)


def _seconds_left(told: Told) -> float | None:
    """For clients whose clock is another one."""
    until = told.answer.until
    return None if until is None or told.now is None else (until - told.now).total_seconds()
