"""POST /v1/chat/completions."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from mlxctl.worker.answer import Answer, TextEvent
from mlxctl.worker.api.asks import chat_ask, check_model, read_defaults
from mlxctl.worker.api.body import JsonRoute
from mlxctl.worker.api.documents import ChatCompletion, answers
from mlxctl.worker.api.encode import Whole, chat_logprobs, collect, dumps, event, usage_body
from mlxctl.worker.api.sse import open_stream, while_connected
from mlxctl.worker.api.wire import ChatRequest
from mlxctl.worker.choice import Delta, Finish
from mlxctl.worker.parsers.base import Content, Piece, Reasoning
from mlxctl.worker.service import Service


def chat_routes(service: Service) -> APIRouter:
    router = APIRouter(route_class=JsonRoute)
    defaults = read_defaults(service.config.request_params)
    keep_alive_s = service.config.keep_alive_s

    @router.post(
        "/v1/chat/completions", summary="Answer a conversation", responses=answers(ChatCompletion, streams=True)
    )
    async def chat_completions(body: ChatRequest, request: Request) -> Response:
        check_model(body.model, service.model)
        answer = service.answer(chat_ask(body, request.state.caller, defaults))
        if body.stream:
            encoder = ChatChunks(answer, service.model, usage=body.wants_usage_chunk)
            return await open_stream(request, answer, encoder, keep_alive_s)
        with answer:
            wholes = await while_connected(request, collect(answer))
        whole = chat_completion(answer, service.model, wholes, logprobs=bool(body.logprobs))
        return Response(dumps(whole), media_type="application/json")

    return router


def chat_completion(answer: Answer, model: str, wholes: list[Whole], *, logprobs: bool) -> dict[str, Any]:
    return {
        "id": answer.request_id,
        "object": "chat.completion",
        "created": answer.created,
        "model": model,
        "choices": [
            {
                "index": index,
                "message": _message(whole),
                "logprobs": chat_logprobs(whole.tokens) if logprobs else None,
                "finish_reason": whole.finish_reason,
            }
            for index, whole in enumerate(wholes)
        ],
        "usage": usage_body(answer.usage),
    }


def _message(whole: Whole) -> dict[str, Any]:
    content = "".join(whole.content)
    message: dict[str, Any] = {"role": "assistant", "content": content if content or not whole.calls else None}
    if whole.reasoning:
        message["reasoning_content"] = "".join(whole.reasoning)
    if whole.calls:
        message["tool_calls"] = [whole.calls[index] for index in sorted(whole.calls)]
    return {**message, "refusal": None}


class ChatChunks:
    """The same as a stream of `chat.completion.chunk`. All that never changes is written once."""

    def __init__(self, answer: Answer, model: str, *, usage: bool) -> None:
        self._answer, self._usage = answer, usage
        head = {
            "id": answer.request_id,
            "object": "chat.completion.chunk",
            "created": answer.created,
            "model": model,
        }
        self._head = dumps(head)[:-1] + ',"choices":['
        self._tail = '],"usage":null}' if usage else "]}"

    def opening(self) -> bytes:
        role = '{"role":"assistant","content":""}'
        return b"".join(self._chunk(choice.index, role) for choice in self._answer.choices)

    def chunk(self, told: TextEvent) -> bytes:
        if isinstance(told, Finish):
            return self._chunk(told.index, "{}", told.reason)
        return b"".join(self._delta_chunks(told))

    def closing(self) -> bytes:
        if not self._usage:
            return b""
        return event(f'{self._head}],"usage":{dumps(usage_body(self._answer.usage))}}}')

    def _delta_chunks(self, delta: Delta) -> list[bytes]:
        """One chunk for each kind of piece; the tokens go with the first content, which they belong to."""
        chunks: list[bytes] = []
        tokens = delta.tokens
        for piece in delta.pieces:
            scored = tokens if isinstance(piece, Content) else ()
            tokens = () if scored else tokens
            chunks.append(
                self._chunk(delta.index, _delta(piece), scored=dumps(chat_logprobs(scored)) if scored else "")
            )
        if tokens:
            chunks.append(self._chunk(delta.index, '{"content":""}', scored=dumps(chat_logprobs(tokens))))
        return chunks

    def _chunk(self, index: int, delta: str, reason: str = "", scored: str = "") -> bytes:
        logprobs = f',"logprobs":{scored or "null"}'
        finish = f'"{reason}"' if reason else "null"
        return event(f'{self._head}{{"index":{index},"delta":{delta}{logprobs},"finish_reason":{finish}}}{self._tail}')


def _delta(piece: Piece) -> str:
    if isinstance(piece, Content):
        return f'{{"content":{dumps(piece.text)}}}'
    if isinstance(piece, Reasoning):
        return f'{{"reasoning_content":{dumps(piece.text)}}}'
    call: dict[str, Any] = {"index": piece.index, "function": {"arguments": piece.arguments}}
    if piece.name is not None:
        call |= {"id": piece.call_id, "type": "function"}
        call["function"]["name"] = piece.name
    return dumps({"tool_calls": [call]})
