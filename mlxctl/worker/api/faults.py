"""Every error becomes an answer in OpenAI's shape here, with the right status and headers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from mlxctl.worker.answer import CLIENT_LEFT, ClientLeft
from mlxctl.worker.errors import EngineFailed, InvalidRequest, QueueFull, RequestError, Unauthorized, Unavailable

RETRY_AFTER_S = 2
"""Where the error itself does not know better."""


def error_response(error: RequestError) -> Response:
    headers = {}
    if isinstance(error, QueueFull | Unavailable):
        headers["Retry-After"] = str(max(1, error.retry_after_s or RETRY_AFTER_S))
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return Response(error_body(error), error.status, headers, "application/json")


def error_body(error: RequestError) -> bytes:
    return json.dumps(error.body(), ensure_ascii=False).encode()


def unexpected() -> RequestError:
    """What the client is told of an error that nobody foresaw; the log has the rest."""
    return EngineFailed("the server could not answer this request; its log says why", code="internal_error")


def explain(errors: Sequence[Any], body: Any) -> InvalidRequest:
    """The error that is about the innermost field: of a union's errors, that of the form which fitted best."""
    told = [(_path(error, body), error) for error in errors]
    path, error = max(told, key=lambda pair: len(pair[0]))
    what = str(error.get("ctx", {}).get("error", error["msg"])) if error["type"] == "json_invalid" else error["msg"]
    if error["type"] == "json_invalid":
        return InvalidRequest(f"the body is not valid JSON: {what}", code="invalid_json")
    param = ".".join(path) or None
    if param is None and not isinstance(body, dict):
        return InvalidRequest("the body must be a JSON object, sent as application/json", code="invalid_json")
    return InvalidRequest(f"{param}: {what}" if param else what, param=param)


def _path(error: Any, body: Any) -> list[str]:
    """The field that an error is about, without the names of a union's members."""
    place = error["loc"][1:]
    path: list[str] = []
    inner = body
    for step in place:
        is_index = isinstance(inner, list) and isinstance(step, int) and step < len(inner)
        if is_index or (isinstance(inner, dict) and step in inner):
            inner = inner[step]
            path.append(str(step))
    return [*path, str(place[-1])] if error["type"] == "missing" and place else path


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return error_response(error)


async def _malformed(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return error_response(explain(error.errors(), error.body))


async def _no_such_route(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    told = InvalidRequest(str(error.detail), code="not_found" if error.status_code == 404 else None)
    return Response(error_body(told), error.status_code, error.headers, "application/json")


async def _client_left(_: Request, __: Exception) -> Response:
    return Response(status_code=CLIENT_LEFT)


async def _failed(_: Request, __: Exception) -> Response:
    # Starlette raises it again once this is sent; the server logs it then, and drops the connection
    response = error_response(unexpected())
    response.headers["Connection"] = "close"
    return response


def answer_errors(app: FastAPI) -> None:
    app.add_exception_handler(RequestError, _refused)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _no_such_route)
    app.add_exception_handler(ClientLeft, _client_left)
    app.add_exception_handler(Exception, _failed)
