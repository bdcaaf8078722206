"""What the OpenAPI document says about answers. Nothing passes through these models; tests hold the answers to them."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel

_MEANINGS = {
    400: "Something in the request is wrong; `param` names it",
    401: "The API key is missing or wrong",
    404: "Another model is served here",
    408: "The body did not arrive in time",
    413: "The body is too large",
    429: "Too many requests are waiting; see `Retry-After`",
    500: "The model could not compute the answer",
    503: "Loading, draining, or out of memory; see `Retry-After`",
}


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    error: ErrorDetail


class PromptDetails(BaseModel):
    cached_tokens: int


class CompletionDetails(BaseModel):
    reasoning_tokens: int


class UsageBody(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class FunctionBody(BaseModel):
    name: str
    arguments: str


class CallBody(BaseModel):
    id: str
    type: Literal["function"]
    function: FunctionBody


class MessageBody(BaseModel):
    role: Literal["assistant"]
    content: str | None
    reasoning_content: str | None = None
    tool_calls: list[CallBody] | None = None
    refusal: None


class TokenBody(BaseModel):
    token: str
    logprob: float
    bytes: list[int]


class ScoredTokenBody(TokenBody):
    top_logprobs: list[TokenBody]


class ChatLogprobs(BaseModel):
    content: list[ScoredTokenBody]
    refusal: None


class ChatChoice(BaseModel):
    index: int
    message: MessageBody
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length", "tool_calls"]


class ChatCompletion(BaseModel):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: UsageBody


class TextLogprobs(BaseModel):
    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]


class TextChoice(BaseModel):
    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"]


class Completion(BaseModel):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: UsageBody


class ModelCard(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    context_length: int
    max_model_len: int


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[ModelCard]


class Life(BaseModel):
    status: str
    reason: str = ""


class Health(BaseModel):
    status: Literal["loading", "ready", "draining", "failed", "stopped"]
    reason: str
    model: str
    uptime_s: float
    in_flight: int
    queue: int
    running: int
    prefilling: int
    last_progress_s: float
    context_length: int | None
    decoder: str
    prefix_cache: bool
    self_test: dict[str, str]
    cache: dict[str, int]
    memory: dict[str, int]
    totals: dict[str, int]


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorBody, "description": _MEANINGS[status]} for status in statuses}


def answers(model: type[BaseModel], *, streams: bool = False) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route under /v1. `streams`: it may also answer with server-sent events."""
    found: dict[str, Any] = {"model": model, "description": "Done"}
    if streams:
        found["content"] = {"text/event-stream": {}}
    statuses = _MEANINGS if streams else (401, 404, 503)
    return {200: found, **refusals(*statuses)}


PRIORITY_HEADER = {
    "name": "X-Priority",
    "in": "header",
    "description": "high, normal or low, or 0 to 2, like `priority` in the body, which goes before it",
    "schema": {"type": "string"},
}


def document(app: FastAPI, *, with_keys: bool) -> None:
    """Say what FastAPI cannot know: a malformed request gets a 400, never its 422, and keys may be asked for."""
    as_fastapi_has_it = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is not None:
            return app.openapi_schema
        schema = as_fastapi_has_it()
        schemas = schema["components"]["schemas"]
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        for path, methods in schema["paths"].items():
            for operation in methods.values():
                operation["responses"].pop("422", None)
                if "requestBody" in operation:
                    operation["parameters"] = [PRIORITY_HEADER]
                if with_keys and not path.startswith("/health"):
                    operation["security"] = [{"key": []}]
        if with_keys:
            schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
