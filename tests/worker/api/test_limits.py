"""Bodies: as large as allowed and no larger, in any pieces, and never slower than patience lasts."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from mlxctl.worker.api.limits import BODIES_AT_ONCE, BodyLimit
from tests.fakes.echo_server import EchoServer, EchoWorker

CHAT = "/v1/chat/completions"


class Exchange:
    """One request against the middleware, without a server: what the application saw, what was sent, what was read."""

    def __init__(self, pieces: list[bytes], headers: dict[str, str] | None = None, *, leaves: bool = False) -> None:
        self.scope: Scope = {
            "type": "http",
            "method": "POST",
            "headers": [(name.encode(), value.encode()) for name, value in (headers or {}).items()],
        }
        self.pieces = pieces
        self.leaves = leaves
        self.num_read = 0
        self.seen: bytes | None = None
        self.after: Message | None = None
        self.sent: list[Message] = []

    async def receive(self) -> Message:
        if self.num_read >= len(self.pieces):
            return {"type": "http.disconnect"}
        self.num_read += 1
        is_last = self.num_read == len(self.pieces) and not self.leaves
        return {"type": "http.request", "body": self.pieces[self.num_read - 1], "more_body": not is_last}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        assert message["more_body"] is False
        self.seen = message["body"]
        self.after = await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})

    def run(self, max_bytes: int = 10, **more: Any) -> BodyLimit:
        limit = BodyLimit(self.app, max_bytes, **more)
        asyncio.run(limit(self.scope, self.receive, self.send))
        return limit

    @property
    def status(self) -> int | None:
        return self.sent[0]["status"] if self.sent else None


@pytest.mark.parametrize("pieces", [[b"0123456789"], [b"01234", b"56789"], [b"", b"0123456789", b""], [b""]])
def test_within_the_limit_it_comes_in_one_piece(pieces: list[bytes]) -> None:
    exchange = Exchange(pieces)
    exchange.run()
    assert exchange.seen == b"".join(pieces)
    assert exchange.status == 200
    assert exchange.after == {"type": "http.disconnect"}


@pytest.mark.parametrize(
    ("pieces", "headers", "num_read"),
    [
        ([b"01234567890"], {}, 1),
        ([b"01234", b"56789", b"0", b"never read"], {}, 3),
        ([b"never read"], {"content-length": "11"}, 0),
        ([b"0" * 5] * 1000, {"content-length": "lies"}, 3),
    ],
)
def test_beyond_it_reading_stops(pieces: list[bytes], headers: dict[str, str], num_read: int) -> None:
    exchange = Exchange(pieces, headers)
    exchange.run()
    assert exchange.seen is None
    assert (exchange.status, exchange.num_read) == (413, num_read)
    assert json.loads(exchange.sent[1]["body"])["error"]["code"] == "body_too_large"


def test_a_client_that_leaves_gets_nothing() -> None:
    exchange = Exchange([b"0123"], leaves=True)
    exchange.run()
    assert (exchange.seen, exchange.sent) == (None, [])


def test_a_slow_body_is_not_waited_for() -> None:
    exchange = Exchange([b"0123"])

    async def forever() -> Message:
        await asyncio.sleep(60)
        raise AssertionError

    exchange.receive = forever  # type: ignore[method-assign]
    exchange.run(seconds=0.02)
    assert exchange.status == 408
    assert (b"connection", b"close") in exchange.sent[0]["headers"]


def test_a_timeout_of_the_application_is_its_own() -> None:
    exchange = Exchange([b"0123"])

    async def app(*_: Any) -> None:
        raise TimeoutError("mine")

    exchange.app = app  # type: ignore[method-assign, assignment]
    with pytest.raises(TimeoutError, match="mine"):
        exchange.run()


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_has_no_body_is_not_read(method: str) -> None:
    exchange = Exchange([b"0123"])
    exchange.scope["method"] = method
    exchange.run()
    assert exchange.seen == b"0123"


def test_all_bodies_together_have_a_limit_too() -> None:
    async def story() -> list[int | None]:
        gate = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            await gate.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})

        limit = BodyLimit(app, 10)
        exchanges = [Exchange([b"0" * 10]) for _ in range(BODIES_AT_ONCE + 2)]
        running = [asyncio.ensure_future(limit(one.scope, one.receive, one.send)) for one in exchanges]
        await asyncio.sleep(0.01)
        gate.set()
        await asyncio.gather(*running)
        late = Exchange([b"0" * 10])
        await limit(late.scope, late.receive, late.send)
        return [one.status for one in [*exchanges, late]]

    assert asyncio.run(story()) == [200] * BODIES_AT_ONCE + [503, 503, 200]


@pytest.fixture(scope="module")
def small() -> Iterator[EchoServer]:
    with EchoServer(EchoWorker(max_body_bytes=1_000_000)) as server:
        yield server


def test_fifty_megabytes_are_refused_and_the_connection_lives(small: EchoServer) -> None:
    response = small.client.post(CHAT, content=b"x" * 50_000_000)
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "body_too_large"
    assert small.client.get("/health/live").status_code == 200


def test_fifty_megabytes_in_unannounced_pieces(small: EchoServer) -> None:
    """Chunked, so that nothing tells the size before it has come."""
    with socket.create_connection(("127.0.0.1", small.port), timeout=10) as raw:
        head = (
            f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        raw.sendall(head.encode())
        chunk = b"%x\r\n%b\r\n" % (100_000, b"x" * 100_000)
        for _ in range(11):
            raw.sendall(chunk)
        assert raw.recv(1000).startswith(b"HTTP/1.1 413")


def test_a_large_body_within_the_limit_is_read(small: EchoServer) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], "padding": "x" * 900_000}
    assert small.client.post(CHAT, json=body).status_code == 200
