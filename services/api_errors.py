"""Every error of the endpoint in OpenAI's shape, in its answers and in its OpenAPI document."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from services.admission import Busy
from services.image_api import ErrorAnswer, Failure
from services.repeated_calls import LOST_CALL_ERRORS
from services.studio import Refused

ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": text}
    for status, text in {
        400: "the request is not understood or refused",
        401: "the bearer token is missing or wrong",
        404: "no such model",
        413: "the body is too large",
        503: "the queue is full, or a model is not there; Retry-After says when to come back",
        504: "the answer took too long",
    }.items()
}


def answer_errors_in_shape(api: FastAPI) -> None:
    """Install the handlers; nothing leaves the endpoint as a trace."""
    for kind, convert in _CONVERSIONS.items():
        api.add_exception_handler(kind, _handler(convert))
    describe = api.openapi

    def openapi() -> dict[str, Any]:
        document = describe()
        for path in document["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)  # FastAPI's own, which is answered as 400 here
        return document

    api.openapi = openapi


def _handler(convert: Callable[[Any], Failure]) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def handle(_: Request, error: Exception) -> Response:
        return convert(error).response()

    return handle


def _invalid(error: RequestValidationError) -> Failure:
    """Pydantic's first error as one line, with the parameter that it is about."""
    first = error.errors()[0]
    param = ".".join(str(part) for part in first["loc"][1:]) or None
    if first["type"] == "json_invalid":
        return Failure(400, f"the body is no JSON: {first['ctx']['error']}")
    if first["type"] == "extra_forbidden":
        return Failure(400, f"{param}: unknown parameter", param=param, code="unknown_parameter")
    return Failure(400, f"{param or 'the body'}: {first['msg']}", param=param)


_CONVERSIONS: dict[type[Exception], Callable[[Any], Failure]] = {
    Failure: lambda failure: failure,
    RequestValidationError: _invalid,
    HTTPException: lambda error: Failure(error.status_code, str(error.detail), headers=error.headers),
    Busy: lambda busy: Failure(503, str(busy), code="queue_full", headers={"Retry-After": str(busy.retry_after_s)}),
    Refused: lambda refused: Failure(400, str(refused)),
    **{
        kind: lambda _: Failure(503, "a model is not there just now", headers={"Retry-After": "5"}) for kind in LOST_CALL_ERRORS
    },
    TimeoutError: lambda _: Failure(504, "the images took longer than the endpoint's time limit", code="timeout"),
    Exception: lambda _: Failure(500, "the endpoint failed; its log says why"),  # Starlette raises it on, into the log
}
