"""Server-sent events: a stream that ends when its client leaves, and says something when the model is silent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import ExitStack
from typing import Protocol, TypeVar

from fastapi import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mlxctl.worker.answer import Answer, ClientLeft, TextEvent
from mlxctl.worker.api.faults import error_body, unexpected
from mlxctl.worker.errors import RequestError

Result = TypeVar("Result")
DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"
log = logging.getLogger(__name__)
HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class Encoder(Protocol):
    """How one API writes an answer as events; each method gives whole events."""

    def opening(self) -> bytes: ...

    def chunk(self, event: TextEvent) -> bytes: ...

    def closing(self) -> bytes:
        """What comes after every choice has finished."""
        ...


class EventStream(Response):
    """Writes an opened answer, one message a batch, and closes it whatever happens."""

    media_type = "text/event-stream"

    def __init__(self, answer: Answer, encoder: Encoder, keep_alive_s: float) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self._answer, self._encoder, self._keep_alive_s = answer, encoder, keep_alive_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        with self._answer:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            writing = asyncio.ensure_future(self._write(send))
            left = asyncio.ensure_future(_leave(receive))
            try:
                await asyncio.wait((writing, left), return_when=asyncio.FIRST_COMPLETED)
                if writing.done() and (error := writing.exception()) is not None:
                    self._answer.failed(error)
                    await send(_body(_error_event(error) + DONE, more=False))
            finally:
                left.cancel()
                writing.cancel()

    async def _write(self, send: Send) -> None:
        await send(_body(self._encoder.opening()))
        async for batch in self._answer.batches(self._keep_alive_s):
            await send(_body(b"".join(map(self._encoder.chunk, batch)) or KEEP_ALIVE))
        await send(_body(self._encoder.closing() + DONE, more=False))


async def open_stream(request: Request, answer: Answer, encoder: Encoder, keep_alive_s: float) -> EventStream:
    """Open the answer while the client is there; what goes wrong here still has a status of its own."""
    with ExitStack() as undo:
        undo.enter_context(answer)
        await while_connected(request, answer.open())
        undo.pop_all()
        return EventStream(answer, encoder, keep_alive_s)


async def while_connected(request: Request, work: Coroutine[None, None, Result]) -> Result:
    """Do the work, but no longer than the client is there. Raises `ClientLeft`."""
    working = asyncio.ensure_future(work)
    left = asyncio.ensure_future(_leave(request.receive))
    try:
        await asyncio.wait((working, left), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientLeft
        return working.result()
    finally:
        left.cancel()
        working.cancel()


async def _leave(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _body(data: bytes, *, more: bool = True) -> dict[str, object]:
    return {"type": "http.response.body", "body": data, "more_body": more}


def _error_event(error: BaseException) -> bytes:
    if isinstance(error, RequestError):
        told = error
    else:
        log.error("a stream broke off", exc_info=error)
        told = unexpected()
    return b"data: " + error_body(told) + b"\n\n"
