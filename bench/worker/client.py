"""The client: streams chat completions from any OpenAI server and notes when each piece of text came."""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from collections.abc import Sequence
from typing import Any

import httpx

from bench.worker.process import SideFailed
from bench.worker.prompts import Messages
from bench.worker.rates import Stream

TIMEOUT_S = 600.0


class Answer:
    """One stream while it comes. `cancel()` closes the connection; what has come by then stays."""

    def __init__(self, client: httpx.AsyncClient, body: dict[str, Any]) -> None:
        self.sent = time.perf_counter()
        self.times: list[float] = []
        self.tokens = 0
        self._grown = asyncio.Event()
        self._task = asyncio.create_task(self._read(client, body))

    async def _read(self, client: httpx.AsyncClient, body: dict[str, Any]) -> None:
        try:
            async with client.stream("POST", "/v1/chat/completions", json=body) as response:
                if response.status_code != 200:
                    said = (await response.aread()).decode(errors="replace")
                    raise SideFailed(f"answered {response.status_code}: {said[:300]}")
                async for line in response.aiter_lines():
                    if line.startswith("data: {"):
                        self._note(json.loads(line[6:]))
        except httpx.HTTPError as error:
            raise SideFailed(f"broke off: {error!r}") from error
        finally:
            self._grown.set()

    def _note(self, piece: dict[str, Any]) -> None:
        if error := piece.get("error"):
            raise SideFailed(f"sent an error in its stream: {error}")
        if usage := piece.get("usage"):
            self.tokens = int(usage["completion_tokens"])
        delta = piece["choices"][0].get("delta", {}) if piece.get("choices") else {}
        if any(delta.get(part) for part in ("content", "reasoning_content", "reasoning", "tool_calls")):
            self.times.append(time.perf_counter())
            self._grown.set()

    @property
    def is_over(self) -> bool:
        return self._task.done()

    async def grown_to(self, pieces: int) -> None:
        """Wait until so many have come. Raises `SideFailed` when the answer ends before."""
        while len(self.times) < pieces:
            if self._task.done():
                await self._task
                raise SideFailed(f"an answer ended after {len(self.times)} pieces of text; {pieces} were waited for")
            self._grown.clear()
            await self._grown.wait()

    async def end(self) -> Stream:
        await self._task
        if not self.times or not self.tokens:
            raise SideFailed(f"an answer of {self.tokens} tokens in {len(self.times)} pieces of text")
        return Stream(self.sent, tuple(self.times), self.tokens)

    async def cancel(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


class Client:
    """Answers are greedy unless `more` says otherwise."""

    def __init__(self, port: int, model: str) -> None:
        self._model = model
        self._http = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}",
            timeout=TIMEOUT_S,
            limits=httpx.Limits(max_connections=None),
            trust_env=False,
        )

    async def __aenter__(self) -> Client:
        await self._http.__aenter__()
        return self

    async def __aexit__(self, *what: Any) -> None:
        await self._http.__aexit__(*what)

    def ask(self, messages: Messages, max_tokens: int, **more: Any) -> Answer:
        return Answer(
            self._http,
            {
                "model": self._model,
                "messages": messages,
                "max_tokens": max_tokens,
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True},
                **more,
            },
        )

    async def all(self, prompts: Sequence[Messages], max_tokens: int) -> list[Stream]:
        """Ask them at once, and wait for the last."""
        answers = [self.ask(messages, max_tokens) for messages in prompts]
        try:
            return list(await asyncio.gather(*(answer.end() for answer in answers)))
        finally:
            await asyncio.gather(*(answer.cancel() for answer in answers))


def post(connection: http.client.HTTPConnection, model: str, messages: Messages, max_tokens: int) -> tuple[float, int]:
    """Seconds that a plain request took over a kept connection, and its prompt tokens. As little client as there is."""
    body = json.dumps({"model": model, "messages": messages, "max_tokens": max_tokens, "temperature": 0})
    begun = time.perf_counter()
    try:
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        said = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise SideFailed(f"broke off: {error!r}") from error
    took = time.perf_counter() - begun
    if response.status != 200:
        raise SideFailed(f"answered {response.status}: {said[:300]!r}")
    return took, int(json.loads(said)["usage"]["prompt_tokens"])
