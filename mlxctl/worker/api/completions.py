"""POST /v1/completions."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from mlxctl.worker.answer import Answer, TextEvent
from mlxctl.worker.api.asks import check_model, read_defaults, text_ask
from mlxctl.worker.api.body import JsonRoute
from mlxctl.worker.api.documents import Completion, answers
from mlxctl.worker.api.encode import Whole, collect, dumps, event, text_logprobs, texts, usage_body
from mlxctl.worker.api.sse import open_stream, while_connected
from mlxctl.worker.api.wire import CompletionRequest
from mlxctl.worker.choice import Finish
from mlxctl.worker.service import Service


def completion_routes(service: Service) -> APIRouter:
    router = APIRouter(route_class=JsonRoute)
    defaults = read_defaults(service.config.request_params)
    keep_alive_s = service.config.keep_alive_s

    @router.post("/v1/completions", summary="Continue a text", responses=answers(Completion, streams=True))
    async def completions(body: CompletionRequest, request: Request) -> Response:
        check_model(body.model, service.model)
        answer = service.answer(text_ask(body, request.state.caller, defaults))
        logprobs = body.logprobs is not None
        if body.stream:
            encoder = TextChunks(answer, service.model, usage=body.wants_usage_chunk, logprobs=logprobs)
            return await open_stream(request, answer, encoder, keep_alive_s)
        with answer:
            wholes = await while_connected(request, collect(answer))
        whole = text_completion(answer, service.model, wholes, logprobs=logprobs)
        return Response(dumps(whole), media_type="application/json")

    return router


def text_completion(answer: Answer, model: str, wholes: list[Whole], *, logprobs: bool) -> dict[str, Any]:
    return {
        "id": answer.request_id,
        "object": "text_completion",
        "created": answer.created,
        "model": model,
        "choices": [
            {
                "index": index,
                "text": _echo(answer, index) + "".join(whole.content),
                "logprobs": text_logprobs(whole.tokens, 0) if logprobs else None,
                "finish_reason": whole.finish_reason,
            }
            for index, whole in enumerate(wholes)
        ],
        "usage": usage_body(answer.usage),
    }


def _echo(answer: Answer, index: int) -> str:
    """The prompt that this choice continues, where its echo was asked for."""
    return answer.echoes[index // answer.ask.terms.n] if answer.echoes else ""


class TextChunks:
    """The same as a stream."""

    def __init__(self, answer: Answer, model: str, *, usage: bool, logprobs: bool) -> None:
        self._answer, self._usage, self._logprobs = answer, usage, logprobs
        head = {
            "id": answer.request_id,
            "object": "text_completion",
            "created": answer.created,
            "model": model,
        }
        self._head = dumps(head)[:-1] + ',"choices":['
        self._tail = '],"usage":null}' if usage else "]}"
        self._offsets: dict[int, int] = {}

    def opening(self) -> bytes:
        choices = [choice.index for choice in self._answer.choices] if self._answer.echoes else []
        return b"".join(self._chunk(index, _echo(self._answer, index)) for index in choices)

    def chunk(self, told: TextEvent) -> bytes:
        if isinstance(told, Finish):
            return self._chunk(told.index, "", reason=told.reason)
        scored = "null"
        if self._logprobs:
            offset = self._offsets.get(told.index, 0)
            scored = dumps(text_logprobs(told.tokens, offset))
            self._offsets[told.index] = offset + sum(len(token.text) for token in told.tokens)
        return self._chunk(told.index, "".join(texts(told)), scored)

    def closing(self) -> bytes:
        if not self._usage:
            return b""
        return event(f'{self._head}],"usage":{dumps(usage_body(self._answer.usage))}}}')

    def _chunk(self, index: int, text: str, scored: str = "null", reason: str = "") -> bytes:
        finish = f'"{reason}"' if reason else "null"
        choice = f'{{"index":{index},"text":{dumps(text)},"logprobs":{scored},"finish_reason":{finish}}}'
        return event(f"{self._head}{choice}{self._tail}")
