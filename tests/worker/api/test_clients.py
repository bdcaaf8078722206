"""Clients that vanish, stall, or come in crowds: the others notice nothing, and nothing stays behind."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import threading
import time
from typing import Any

import pytest

from mlxctl.worker.api.sse import KEEP_ALIVE
from tests.fakes.echo_engine import Script, said
from tests.fakes.echo_server import EchoServer, EchoWorker, chunks, eventually

CHAT = "/v1/chat/completions"


def body(text: str = "hi", **more: Any) -> str:
    return json.dumps({"messages": [{"role": "user", "content": text}], **more})


def posted(data: str, *, close: bool = False) -> bytes:
    """A request as it goes over the wire."""
    head = f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    return f"{head}{'Connection: close' if close else 'Accept: */*'}\r\n\r\n{data}".encode()


def nothing_left(server: EchoServer) -> bool:
    worker = server.worker
    return worker.engine.running == 0 and worker.service.in_flight == 0 and len(worker.streams) == 0


@pytest.mark.parametrize("streams", [True, False], ids=["stream", "whole"])
@pytest.mark.parametrize("prefill_s", [30.0, 0.0], ids=["before the first token", "in the middle"])
@pytest.mark.parametrize("how", ["close", "reset", "half"])
def test_a_client_that_vanishes_is_aborted_at_once(
    server: EchoServer, streams: bool, prefill_s: float, how: str
) -> None:
    engine = server.worker.engine
    engine.script = lambda _: Script(said("x" * 4000), prefill_s=prefill_s, step_s=0.005)
    raw = server.connect(body(stream=streams, n=2))
    eventually(lambda: engine.running == 2)
    if streams:
        raw.recv(100)
    began = time.monotonic()
    if how == "reset":
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    if how == "half":
        raw.shutdown(socket.SHUT_WR)
    else:
        raw.close()
    eventually(lambda: nothing_left(server))
    assert time.monotonic() - began < 3.0
    assert engine.aborted == [(engine.submitted[0].request_id, None)]
    raw.close()


def test_a_client_that_vanishes_while_its_prompt_is_prepared(
    server: EchoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, proceed = threading.Event(), threading.Event()
    adapter: Any = server.worker.language.adapter
    original = adapter.prompt

    def slow(*arguments: Any, **more: Any) -> Any:
        begun.set()
        proceed.wait(5)
        return original(*arguments, **more)

    monkeypatch.setattr(adapter, "prompt", slow)
    raw = server.connect(body(stream=True))
    assert begun.wait(5)
    raw.close()
    eventually(lambda: nothing_left(server))
    proceed.set()
    eventually(lambda: adapter.asked)
    assert server.worker.engine.submitted == []


def test_a_client_that_vanishes_in_the_middle_of_its_body(server: EchoServer) -> None:
    raw = server.connect(body()[:20], length=1000)
    raw.close()
    assert server.client.get("/health/live").status_code == 200
    assert server.worker.engine.submitted == []


def test_one_that_never_reads_is_given_up_and_the_others_get_every_token() -> None:
    """Its stream is long and wide, so that socket buffers fill; only so much may wait behind them."""
    wide = "€" * 400

    def script(generation: Any) -> Script:
        if bytes(generation.prompt).endswith(b"flood"):
            return Script(said(wide) * 1000)
        return Script(said("the quick brown fox " * 5), step_s=0.002)

    with EchoServer(EchoWorker(script, bound=200, engine={"context_length": 10_000_000})) as server:
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect(("127.0.0.1", server.port))
        flood = body("flood", stream=True, n=4)
        raw.sendall(posted(flood))
        response = server.client.post(CHAT, content=body(stream=True), headers={"Content-Type": "application/json"})
        contents = [one["choices"][0]["delta"].get("content", "") for one in chunks(response.text)[:-1]]
        assert "".join(contents) == "the quick brown fox " * 5
        eventually(lambda: server.worker.engine.running == 0)
        request_id = server.worker.engine.submitted[0].request_id
        assert (request_id, None) in server.worker.engine.aborted
        # the connection is still there, with an unread buffer; when it goes, all of it goes
        raw.close()
        eventually(lambda: nothing_left(server))


def test_one_that_reads_late_is_told_what_it_missed() -> None:
    with EchoServer(
        EchoWorker(lambda _: Script(said("€" * 400) * 1000), bound=50, engine={"context_length": 10**7})
    ) as server:
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.settimeout(10)
        raw.connect(("127.0.0.1", server.port))
        flood = body("flood", stream=True, n=4)
        raw.sendall(posted(flood))
        eventually(lambda: server.worker.engine.aborted)
        told = b""
        while b"[DONE]" not in told:
            told = told[-4000:] + raw.recv(65536)
        assert b"was not read" in told
        raw.close()


def test_silence_is_broken_by_comments() -> None:
    script = Script(said("hi"), prefill_s=0.35)
    with EchoServer(EchoWorker(lambda _: script, keep_alive_s=0.1)) as server:
        text = server.client.post(CHAT, content=body(stream=True), headers={"Content-Type": "application/json"}).text
    assert text.startswith("data: ")
    assert text.encode().count(KEEP_ALIVE) >= 2
    assert text.rindex(": keep-alive") < text.index('"content":"h')
    assert [one for one in chunks(text) if one != ": keep-alive"][-1] == "[DONE]"


def test_no_comments_while_tokens_flow() -> None:
    with EchoServer(EchoWorker(lambda _: Script(said("hello" * 8), step_s=0.04), keep_alive_s=1.0)) as server:
        text = server.client.post(CHAT, content=body(stream=True), headers={"Content-Type": "application/json"}).text
    assert ": keep-alive" not in text


def test_the_first_bytes_come_before_the_first_token(server: EchoServer) -> None:
    server.worker.engine.script = lambda _: Script(said("hi"), prefill_s=30)
    with server.connect(body(stream=True)) as raw:
        assert raw.recv(1000).startswith(b"HTTP/1.1 200")


def test_a_connection_is_used_again_after_a_stream(server: EchoServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as raw:
        for _ in range(3):
            data = body(stream=True)
            raw.sendall(posted(data))
            told = b""
            while not told.endswith(b"0\r\n\r\n"):
                told += raw.recv(65536)
            assert b"[DONE]" in told


def test_a_crowd_gets_its_own_words_and_leaves_nothing() -> None:
    """Five hundred at once, a third of them streams, a third vanishing: a scaled form of ten thousand connections."""
    count = 500

    async def one(port: int, number: int) -> str:
        text = f"number {number}"
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        data = body(text, stream=number % 3 > 0)
        writer.write(posted(data, close=True))
        if number % 3 == 1:
            await reader.read(10)
            writer.close()
            return text
        _, _, answer = (await reader.read()).decode().partition("\r\n\r\n")
        writer.close()
        if number % 3 == 0:
            return str(json.loads(answer)["choices"][0]["message"]["content"])
        events = [json.loads(line[6:]) for line in answer.splitlines() if line.startswith("data: {")]
        return "".join(event["choices"][0]["delta"].get("content", "") for event in events)

    async def story(port: int) -> list[str]:
        return await asyncio.gather(*(one(port, number) for number in range(count)))

    with EchoServer(EchoWorker(engine={"max_queue": 1000})) as server:
        server.worker.service.config = _with_queue(server, 1000)
        answers = asyncio.run(story(server.port))
        assert answers == [f"number {number}" for number in range(count)]
        eventually(lambda: nothing_left(server))


def _with_queue(server: EchoServer, length: int) -> Any:
    from dataclasses import replace

    config = server.worker.config
    return replace(config, engine=replace(config.engine, max_queue=length))


def test_idle_connections_cost_nobody_anything(server: EchoServer) -> None:
    idle = [socket.create_connection(("127.0.0.1", server.port), timeout=5) for _ in range(200)]
    half = [server.connect(body()[:10], length=1000) for _ in range(50)]
    began = time.monotonic()
    assert server.client.post(CHAT, content=body(), headers={"Content-Type": "application/json"}).status_code == 200
    assert time.monotonic() - began < 3.0
    for raw in idle + half:
        raw.close()


@pytest.mark.parametrize(("full", "status"), [("queue", 429), ("draining", 503), ("loading", 503)])
@pytest.mark.parametrize("streams", [True, False])
def test_past_the_limits_clients_are_told_when_to_come_back(
    server: EchoServer, full: str, status: int, streams: bool
) -> None:
    engine = server.worker.engine
    if full == "queue":
        engine.max_queue = 0
    else:
        engine.phase = full
    try:
        response = server.client.post(CHAT, content=body(stream=streams), headers={"Content-Type": "application/json"})
    finally:
        engine.max_queue, engine.phase = 256, "ready"
    assert response.status_code == status
    assert int(response.headers["retry-after"]) >= 1
    assert response.json()["error"]["type"] == ("rate_limit_error" if status == 429 else "server_error")


def test_memory_is_back_where_it_was() -> None:
    """After floods of every kind no object of a request is alive."""
    from mlxctl.worker.answer import Answer

    with EchoServer(EchoWorker(lambda _: Script(said("x" * 60), step_s=0.001))) as server:
        for number in range(30):
            raw = server.connect(body("y" * 1000, stream=number % 2 == 0))
            if number % 3:
                raw.recv(10)
            raw.close()
        eventually(lambda: nothing_left(server) and server.worker.engine.aborted)

        gc.collect()
        assert not [one for one in gc.get_objects() if type(one) is Answer]
