"""What chat and completion answers have in common on the wire: JSON, usage, the text of a choice."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlxctl.worker.answer import Answer, TextEvent, Usage
from mlxctl.worker.choice import Delta, Finish, FinishReason, ScoredToken
from mlxctl.worker.parsers.base import Content, Reasoning, ToolCall

_encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def dumps(value: Any) -> str:
    return _encoder.encode(value)


def event(text: str) -> bytes:
    return b"data: %b\n\n" % text.encode("utf-8", "replace")


def usage_body(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


@dataclass(slots=True)
class Whole:
    """One choice, collected."""

    content: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)
    tokens: list[ScoredToken] = field(default_factory=list)
    finish_reason: FinishReason | None = None

    def add(self, told: TextEvent) -> None:
        if isinstance(told, Finish):
            self.finish_reason = told.reason
            return
        self.tokens.extend(told.tokens)
        for piece in told.pieces:
            if isinstance(piece, Content):
                self.content.append(piece.text)
            elif isinstance(piece, Reasoning):
                self.reasoning.append(piece.text)
            else:
                self._add_call(piece)

    def _add_call(self, piece: ToolCall) -> None:
        known = self.calls.get(piece.index)
        if known is None:
            function = {"name": piece.name or "", "arguments": piece.arguments}
            self.calls[piece.index] = {"id": piece.call_id or "", "type": "function", "function": function}
        else:
            known["function"]["arguments"] += piece.arguments


async def collect(answer: Answer) -> list[Whole]:
    """Open an answer and read it to its end; one entry a choice, in their order."""
    await answer.open()
    wholes = [Whole() for _ in answer.choices]
    async for batch in answer.batches():
        for told in batch:
            wholes[told.index].add(told)
    return wholes


def texts(delta: Delta) -> Iterable[str]:
    """The content alone; a completion has nothing else."""
    return (piece.text for piece in delta.pieces if isinstance(piece, Content))


def chat_logprobs(tokens: Sequence[ScoredToken]) -> dict[str, Any]:
    def spelled(token: Any) -> dict[str, Any]:
        return {"token": token.text, "logprob": token.logprob, "bytes": list(token.data)}

    scored = [{**spelled(token), "top_logprobs": [spelled(other) for other in token.top]} for token in tokens]
    return {"content": scored, "refusal": None}


def text_logprobs(tokens: Sequence[ScoredToken], offset: int) -> dict[str, Any]:
    """`offset`: characters before the first of these tokens."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.text)
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [{other.text: other.logprob for other in token.top} for token in tokens],
        "text_offset": offsets,
    }
