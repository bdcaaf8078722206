"""`mlxctl chat`: talk to a loaded model; the answer comes as a stream of events."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mlxctl.control.probe import local_address
from mlxctl.control.site import Site
from mlxctl.control.state import PortState
from mlxctl.core.errors import NotFound, NotReady

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 900.0
"""A long prompt on a large model says nothing for minutes before its first token."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of the answer. `kind` is "content" or "reasoning"."""

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The end of an answer. `first_token_s` is from the request to the first piece, `total_s` to the last."""

    reason: str
    tokens: int
    first_token_s: float
    total_s: float

    @property
    def tokens_per_s(self) -> float:
        """Decoding speed: tokens after the first, over the time after the first."""
        decoding = self.total_s - self.first_token_s
        return (self.tokens - 1) / decoding if self.tokens > 1 and decoding > 0 else 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "finish_reason": self.reason,
            "tokens": self.tokens,
            "first_token_s": round(self.first_token_s, 3),
            "total_s": round(self.total_s, 3),
            "tokens_per_s": round(self.tokens_per_s, 2),
        }


def serving(site: Site, word: str) -> PortState:
    """The state of the port that serves `word`, a model or a port. Raises `NotFound` when it does not run."""
    registry = site.store.read()
    port = site.ports.parse(word) if word.isdigit() else registry.require(word).port
    state = site.states.read(port) if port is not None else None
    if state is None or state.identity is None or not site.host.is_alive(state.identity):
        raise NotFound(
            "not_serving",
            f"nothing serves {word} now",
            f"start it with `mlxctl load {word} {'auto' if port is None else port}`",
        )
    return state


def chat(
    state: PortState,
    messages: Sequence[dict[str, str]],
    *,
    max_tokens: int | None = None,
    temperature: float | None = None,
    key: str = "",
) -> Iterator[Piece | Finished]:
    """One answer to `messages`, piece by piece; the last event is `Finished`. Raises `NotReady` when it breaks off.

    `key`: what the server asks of its clients, if it asks for one.
    """
    import httpx

    payload: dict[str, Any] = {"model": state.request_model, "messages": list(messages), "stream": True}
    payload["stream_options"] = {"include_usage": True}
    payload |= {k: v for k, v in (("max_tokens", max_tokens), ("temperature", temperature)) if v is not None}
    address = local_address(state.address)
    url = f"http://{f'[{address}]' if ':' in address else address}:{state.port}/v1/chat/completions"
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    timeout = httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S)
    try:
        # trust_env off: a proxy of the environment has no business between us and our own port
        with (
            httpx.Client(timeout=timeout, trust_env=False) as client,
            client.stream("POST", url, json=payload, headers=headers) as response,
        ):
            if response.status_code != 200:
                response.read()
                raise NotReady(
                    "bad_answer",
                    f"port {state.port} answered HTTP {response.status_code}: {response.text[:300]}",
                    f"see `mlxctl logs {state.port}`",
                )
            yield from _events(response.iter_lines())
    except (httpx.HTTPError, BrokenOff) as error:
        raise NotReady(
            "bad_answer", f"port {state.port} broke off: {error}", f"see `mlxctl logs {state.port}`"
        ) from error


class BrokenOff(Exception):
    """A stream that ended, or said that it failed, before the answer was over."""


def _events(lines: Iterator[str]) -> Iterator[Piece | Finished]:
    begun = time.monotonic()
    first: float | None = None
    last = begun
    pieces, counted, reason = 0, 0, ""
    for data in (line[5:].strip() for line in lines if line.startswith("data:")):
        if data == "[DONE]":
            reason = reason or "stop"
            continue
        chunk = _chunk(data)
        counted = (chunk.get("usage") or {}).get("completion_tokens") or counted
        for choice in chunk.get("choices") or ():
            reason = choice.get("finish_reason") or reason
            for piece in _pieces(choice.get("delta") or {}):
                last = time.monotonic()
                first = first or last
                pieces += 1
                yield piece
    if not reason:
        raise BrokenOff("the answer has no end")
    yield Finished(reason, counted or pieces, (first or last) - begun, last - begun)


def _chunk(data: str) -> dict[str, Any]:
    try:
        chunk = json.loads(data)
    except ValueError as error:
        raise BrokenOff(f"a torn event: {data[:80]}") from error
    if not isinstance(chunk, dict) or chunk.get("error"):
        raise BrokenOff(data[:300])
    return chunk


def _pieces(delta: dict[str, Any]) -> Iterator[Piece]:
    reasoning = delta.get("reasoning_content") or delta.get("reasoning")
    if reasoning:
        yield Piece("reasoning", reasoning)
    if delta.get("content"):
        yield Piece("content", delta["content"])
