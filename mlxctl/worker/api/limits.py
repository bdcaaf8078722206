"""What a request may cost before anybody has looked at it: the size of its body, the time it takes to send it."""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mlxctl.worker.api.faults import error_response
from mlxctl.worker.errors import BodyTooLarge, InvalidRequest, RequestError, Unavailable

BODY_SECONDS = 120.0
BODIES_AT_ONCE = 8
"""Bodies of the largest size that may be held at a time; many more small ones fit into the same room."""


class SlowBody(InvalidRequest):
    status = 408


class BodyLimit:
    """Reads each body in whole, never more than `max_bytes` of it, before the application sees the request."""

    def __init__(self, app: ASGIApp, max_bytes: int, seconds: float = BODY_SECONDS) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._seconds = seconds
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD"):
            await self._app(scope, receive, send)
            return
        body = _Body()
        try:
            error = await self._read(scope, receive, body)
            if error is not None:
                await _refuse(error, scope, receive, send)
            else:
                await self._app(scope, _replayed(body.whole(), receive), send)
        except _ClientLeft:
            return
        finally:
            self._held -= body.size

    async def _read(self, scope: Scope, receive: Receive, body: _Body) -> RequestError | None:
        """Fill `body`; what is wrong with it, if anything."""
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > self._max_bytes:
                return self._too_large()
        try:
            async with asyncio.timeout(self._seconds):
                return await self._take(receive, body)
        except TimeoutError:
            return SlowBody("the body did not arrive in time", code="slow_body")

    async def _take(self, receive: Receive, body: _Body) -> RequestError | None:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _ClientLeft
            chunk = message.get("body", b"")
            if body.size + len(chunk) > self._max_bytes:
                return self._too_large()
            if self._held + len(chunk) > BODIES_AT_ONCE * self._max_bytes:
                return Unavailable("too many large requests are being read", retry_after_s=1)
            body.add(chunk)
            self._held += len(chunk)
            if not message.get("more_body", False):
                return None

    def _too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"the body is larger than {self._max_bytes} bytes", code="body_too_large")


class _Body:
    """Its pieces, and its size for as long as the request lasts."""

    def __init__(self) -> None:
        self.size = 0
        self._chunks: list[bytes] = []

    def add(self, chunk: bytes) -> None:
        self.size += len(chunk)
        self._chunks.append(chunk)

    def whole(self) -> bytes:
        """Gives the pieces up, so that nothing is held twice."""
        chunks, self._chunks = self._chunks, []
        return b"".join(chunks)


class _ClientLeft(Exception):
    """Before the body was whole: there is nobody to tell anything."""


async def _refuse(error: RequestError, scope: Scope, receive: Receive, send: Send) -> None:
    response = error_response(error)
    if isinstance(error, SlowBody):
        response.headers["Connection"] = "close"
    await response(scope, receive, send)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Gives the body out once; what comes after is the client's leaving."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return waiting.pop() if waiting else await receive()

    return replay
