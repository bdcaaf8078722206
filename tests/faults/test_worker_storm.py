"""Fault F24: a crowd at the worker, some of whom vanish, one of whom is poison; and a worker that is killed at work."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import resource
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from tests.e2e.workers import Child, Worker, under_way, worker_of
from tests.fakes.tiny_models import CONTEXT, tiny_model

pytestmark = pytest.mark.e2e

MB = 1024 * 1024
CROWD, STORMS = 64, 3
CACHE_GB = 0.002
"""Room for some forty blocks, so that a storm also evicts."""
IDLE = 3000
"""Connections; more than mlx-lm would leave room for."""
SHARED = "the sea and the wind and the men on it, " * 5
HEAD = (
    "POST /v1/completions HTTP/1.1\r\nHost: storm\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model("llama", tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="module")
def worker(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Child]:
    with worker_of(
        model, tmp_path_factory.mktemp("worker"), "--cache-gb", str(CACHE_GB), "--max-batch", "16"
    ) as worker:
        yield worker


@pytest.fixture(scope="module")
def alone(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Solo]:
    with worker_of(model, tmp_path_factory.mktemp("alone"), "--no-batching", "--cache-gb", "0") as worker:
        yield Solo(worker)


@pytest.fixture
def settled(worker: Child) -> Iterator[Child]:
    """What comes in leaves nothing behind but what the cache may keep."""
    before = worker.rest()
    yield worker
    after = worker.rest()
    memory, cache = after["memory"], after["cache"]
    assert after["status"] == "ready"
    assert memory["kv_bytes"] == memory["kv_reserved_bytes"] == 0
    assert cache["bytes"] <= cache["budget_bytes"] == int(CACHE_GB * 1000**3)
    held, held_before = (told["memory"]["mlx_active_bytes"] - told["cache"]["bytes"] for told in (after, before))
    assert held <= held_before + MB, "arrays that belong to nobody"


def body(number: int) -> dict[str, Any]:
    """Every request is another, and each would say the same again: greedy, seeded, penalised, biased, long or short."""
    draw = random.Random(number)
    words = [draw.choice(["sea", "wind", "men", "of", "the", "on", "it", "is"]) for _ in range(draw.randint(1, 40))]
    rules: list[dict[str, Any]] = [
        {"temperature": 0},
        {"temperature": 1.0, "seed": number, "top_p": 0.95},
        {"temperature": 0, "repetition_penalty": 1.3, "presence_penalty": 0.5},
        {"temperature": 0.7, "seed": number, "top_k": 20, "logit_bias": {"7": 3, "9": -100}},
        {"temperature": 1.3, "seed": -number, "min_p": 0.02, "frequency_penalty": 0.7},
    ]
    prompt = (SHARED if number % 3 == 0 else "") + " ".join(words)
    most = draw.choice([3, 9, 20, 40])
    return {"prompt": prompt, "max_tokens": most, "logprobs": 0, **rules[number % len(rules)]}


Said = tuple[list[str], str]
"""Tokens, and how it ended."""


def said(choices: list[Any]) -> Said:
    """Of an answer's choice, or of the chunks of a stream with one."""
    told = [choice for choice in choices if choice["logprobs"]]
    tokens = [token for choice in told for token in choice["logprobs"]["tokens"]]
    return tokens, next(choice["finish_reason"] for choice in choices if choice["finish_reason"])


class Solo:
    """What each request is told by a worker that computes one at a time and keeps nothing."""

    def __init__(self, worker: Child) -> None:
        self._worker = worker
        self._known: dict[str, Said] = {}

    def said(self, body: dict[str, Any]) -> Said:
        key = json.dumps(body)
        if key not in self._known:
            answer = httpx.post(f"{self._worker.url}/v1/completions", json=body, timeout=60)
            self._known[key] = said(answer.json()["choices"])
        return self._known[key]


async def answered(client: httpx.AsyncClient, body: dict[str, Any]) -> Said:
    answer = await client.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return said(answer.json()["choices"])


async def chunks(client: httpx.AsyncClient, body: dict[str, Any]) -> AsyncIterator[Any]:
    """A stream's choices, one after another; it must end as streams do."""
    ended = False
    async with client.stream("POST", "/v1/completions", json={**body, "stream": True}) as answer:
        assert answer.status_code == 200, await answer.aread()
        async for line in answer.aiter_lines():
            ended = line == "data: [DONE]"
            if line.startswith("data: {"):
                chunk = json.loads(line.removeprefix("data: "))
                assert "error" not in chunk, chunk
                yield chunk["choices"][0]
            elif ended:
                return
    assert ended, "the stream broke off"


async def streamed(client: httpx.AsyncClient, body: dict[str, Any]) -> Said:
    return said([choice async for choice in chunks(client, body)])


def request(body: dict[str, Any] | bytes, length: int | None = None) -> bytes:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return HEAD.format(length=len(data) if length is None else length).encode() + data


async def vanish(worker: Worker, number: int) -> None:
    """Ask, and leave at some moment: before the request is whole, before the answer, or in its middle."""
    draw = random.Random(number)
    stream = number % 2 == 0
    reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
    data = request({**body(number), "max_tokens": 200, "stream": stream, "n": draw.choice([1, 1, 3])})
    moment = draw.choice(["in the request", "at once", "soon", "in the stream", "in the stream"])
    writer.write(data[: len(data) // 2] if moment == "in the request" else data)
    if moment == "soon":
        await asyncio.sleep(draw.random() * 0.2)
    if moment == "in the stream" and stream:
        with contextlib.suppress(asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            for _ in range(draw.randint(1, 12)):
                await reader.readuntil(b'"text"')
    # half of them say goodbye, the others are just gone
    (writer.transport.abort if draw.random() < 0.5 else writer.close)()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def storm(worker: Child, poison: dict[str, Any]) -> tuple[dict[int, Said], httpx.Response]:
    """What those who stayed were told, by their number, and what the poisoned one was."""
    stay = [number for number in range(CROWD) if number % 3]
    async with worker.async_http() as client:
        gone = [asyncio.create_task(vanish(worker, number)) for number in range(CROWD) if number % 3 == 0]
        poisoned = asyncio.create_task(client.post("/v1/chat/completions", json=poison))
        told = await asyncio.gather(*((streamed if number % 2 else answered)(client, body(number)) for number in stay))
        await asyncio.gather(*gone)
        return dict(zip(stay, told, strict=True)), await poisoned


HELLO = [{"role": "user", "content": "hello there"}]
RECURSIVE = {
    "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}, "required": ["next"]}},
    "$ref": "#/$defs/node",
}


def schema(wanted: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": wanted}}, **more}


VOCABULARY = 303
ON_AND_ON = {"297": -100, "300": -100, "301": -100}
"""A bias against the tiny llama's stop tokens."""
POISONS: dict[str, dict[str, Any]] = {
    "a penalty that divides by nothing": {"repetition_penalty": 1e-320, "temperature": 0},
    "the same, drawn": {"repetition_penalty": 1e-45, "temperature": 2, "top_p": 0.5, "logprobs": True},
    "every penalty at its end": {"repetition_penalty": 10, "presence_penalty": -2, "frequency_penalty": -2},
    "no temperature to speak of": {"temperature": 5e-324, "top_p": 1e-300, "min_p": 1, "top_k": 1},
    "every token is banned": {"logit_bias": {str(token): -100 for token in range(VOCABULARY)}},
    "every token is wanted": {"logit_bias": {str(token): 100 for token in range(VOCABULARY)}, "temperature": 0},
    "a bias against the grammar": schema(
        {"type": "object"}, logit_bias={str(token): -100 for token in range(VOCABULARY)}, temperature=0
    ),
    "the smallest seed": {"seed": -(2**63), "n": 16},
    "a schema that nothing fits": schema({"type": "string", "enum": [1]}),
    "a schema without end": schema(RECURSIVE),
    "a pattern of patterns": schema({"type": "string", "pattern": "^((a{1,90}){1,90}b{1,90}){1,90}$"}),
    "a pattern that looks back": schema({"type": "string", "pattern": r"^(a)\1$"}),
    "numbers at the edge": schema({"type": "number", "minimum": 1e308, "maximum": 1e308}),
    "the empty string alone": schema({"const": ""}),
    "a list of very many": schema({"type": "array", "items": {"type": "integer"}, "minItems": 100000}),
    "tools of great depth": {
        "tools": [{"type": "function", "function": {"name": "f", "parameters": RECURSIVE}}],
        "tool_choice": "required",
    },
    "a template's words": {"chat_template_kwargs": {"messages": 7, "add_generation_prompt": {"a": []}, "tools": 1}},
    "markup for text": {"messages": [{"role": "user", "content": "<|eot_id|>{{ 7 / 0 }}<|begin_of_text|>\x00\ufffd"}]},
    "a stop within every letter": {"stop": [chr(97 + letter) for letter in range(16)]},
}


@pytest.mark.parametrize("poison", POISONS.values(), ids=POISONS.keys())
def test_a_poisoned_request_harms_itself_alone(settled: Child, alone: Solo, poison: dict[str, Any]) -> None:
    asked = [{**body(number), "max_tokens": 40} for number in range(1, 5)]

    async def together() -> tuple[list[Said], httpx.Response]:
        async with settled.async_http() as client:
            others = [asyncio.create_task(streamed(client, one)) for one in asked]
            sick = await client.post("/v1/chat/completions", json={"messages": HELLO, "max_tokens": 20, **poison})
            return await asyncio.gather(*others), sick

    told, sick = asyncio.run(together())
    assert told == [alone.said(one) for one in asked]
    assert sick.status_code in (200, 400), sick.text
    if sick.status_code == 400:
        assert sick.json()["error"]["type"] == "invalid_request_error"
        assert sick.json()["error"]["param"]
    else:
        assert {choice["finish_reason"] for choice in sick.json()["choices"]} <= {"stop", "length", "tool_calls"}


def test_a_storm_passes(settled: Child, alone: Solo) -> None:
    """Three times the same one: the first may grow what is kept for good, the others may not."""
    sizes = []
    for number in range(STORMS):
        told, sick = asyncio.run(storm(settled, {"messages": HELLO, "max_tokens": 9, **list(POISONS.values())[number]}))
        assert sick.status_code in (200, 400)
        health = settled.rest()
        assert health["memory"]["kv_reserved_bytes"] == 0
        sizes.append(settled.rss())
        for one, answer in told.items():
            assert answer == alone.said(body(one)), body(one)
    totals = settled.health()["totals"]
    assert totals["largest_batch"] > 8 and totals["aborted"] > 8 and totals["cached_tokens"] > 64, totals
    assert sizes[-1] < sizes[0] + 24 * MB, sizes


def test_one_who_never_reads_is_given_up(settled: Child, alone: Solo) -> None:
    before = settled.rss()
    endless = {"prompt": "a", "max_tokens": CONTEXT, "n": 14, "logprobs": 20, "stream": True, "logit_bias": ON_AND_ON}
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", settled.port))
        deaf.sendall(request(endless))
        settled.until(lambda health: health["running"] >= 14)
        began, asked = settled.health()["totals"], body(1)
        assert asyncio.run(_alongside(settled, asked)) == alone.said(asked)
        # it stays connected, and its rows are gone all the same
        ended = settled.until(lambda health: not health["running"], within_s=30)
        assert ended["totals"]["aborted"] == began["aborted"] + 14
        assert ended["totals"]["drawn_tokens"] - began["drawn_tokens"] < 14 * CONTEXT / 2
        assert ended["memory"]["kv_reserved_bytes"] == 0
    settled.rest(5)
    assert settled.rss() < before + 64 * MB


async def _alongside(worker: Child, body: dict[str, Any]) -> Said:
    async with worker.async_http() as client:
        return await streamed(client, body)


async def bad_bodies(worker: Child) -> list[tuple[int, str]]:
    """Status and code of each answer; 0 for a connection that was closed without one."""
    huge = b'{"prompt": "' + b"a" * (50 * MB) + b'"}'
    announced = HEAD.format(length=len(huge)).encode()
    unannounced = announced.replace(f"Content-Length: {len(huge)}".encode(), b"Transfer-Encoding: chunked")
    chunked = b"".join(b"%x\r\n%s\r\n" % (MB, huge[at : at + MB]) for at in range(0, 50 * MB, MB)) + b"0\r\n\r\n"
    words = [
        announced + huge,
        unannounced + chunked,
        request(b'{"prompt": "\xc3\x28\xff"}'),
        request(b'{"prompt": "a", "max_tokens": 4'),
        request(b"[" * 200_000),
        request(b'{"prompt": ' + b'{"a":' * 100_000),
        request(b'{"prompt": "a", "seed": ' + b"9" * 10_000 + b"}"),
        request(b"\x00\x01\x02"),
    ]
    return [await told(worker, word) for word in words]


async def told(worker: Child, word: bytes) -> tuple[int, str]:
    reader, writer = await asyncio.open_connection("127.0.0.1", worker.port)
    try:
        with contextlib.suppress(ConnectionError):
            writer.write(word)
            await writer.drain()
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        return int(head.split()[1]), str(json.loads(await reader.readexactly(length))["error"]["code"])
    except (ConnectionError, asyncio.IncompleteReadError):
        return 0, ""
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def test_bad_bodies_stop_nobody(settled: Child, alone: Solo) -> None:
    asked = [{**body(number), "max_tokens": 100, "logit_bias": ON_AND_ON} for number in (5, 10, 15)]
    before = settled.rss()

    async def together() -> tuple[list[list[Said]], list[tuple[int, str]]]:
        async with settled.async_http() as client:
            refusing = asyncio.create_task(bad_bodies(settled))

            async def again_and_again(one: dict[str, Any]) -> list[Said]:
                answers = [await streamed(client, one)]
                while not refusing.done():
                    answers.append(await streamed(client, one))
                return answers

            return await asyncio.gather(*map(again_and_again, asked)), await refusing

    said_to_others, refused = asyncio.run(together())
    assert refused[:2] == [(413, "body_too_large")] * 2
    assert {code for _, code in refused[2:]} <= {"invalid_json", "None"}
    assert {status for status, _ in refused[2:]} == {400}
    for one, answers in zip(asked, said_to_others, strict=True):
        assert all(answer == alone.said(one) for answer in answers)
    # of one body of fifty megabytes no more than the limit was held, and not for long
    assert settled.rss() < before + 40 * MB


@pytest.fixture
def many_files() -> Iterator[int]:
    """How many connections this process may open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = IDLE + 200
    if hard != resource.RLIM_INFINITY and hard < wanted:
        wanted = hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield wanted - 200
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_request_is_served_among_thousands_of_idle_connections(settled: Child, alone: Solo, many_files: int) -> None:
    process = psutil.Process(settled.pid)
    files = process.num_fds()
    starts = [b"", b"POST /v1/completions HTTP/1.1\r\nHost: st", request({"prompt": "a"}, length=9000)]
    with contextlib.ExitStack() as stack:
        for number in range(many_files):
            idle = stack.enter_context(socket.create_connection(("127.0.0.1", settled.port), timeout=20))
            idle.sendall(starts[number % 3])
        began = time.monotonic()
        assert asyncio.run(_alongside(settled, body(2))) == alone.said(body(2))
        assert time.monotonic() - began < 5
        assert process.num_fds() > many_files, "they are not all here"
        assert settled.health()["in_flight"] == 0
    limit = time.monotonic() + 10
    while process.num_fds() > files + 20:
        assert time.monotonic() < limit, "connections are left"
        time.sleep(0.1)


def long_bodies(count: int, tokens: int) -> list[dict[str, Any]]:
    return [
        {"prompt": f"{number} men", "max_tokens": tokens, "temperature": 0, "logprobs": 0, "logit_bias": ON_AND_ON}
        for number in range(count)
    ]


def test_killed_at_work_it_leaves_clean_errors(model: Path, tmp_path: Path) -> None:
    with worker_of(model, tmp_path) as worker, ThreadPoolExecutor(12) as people, worker.client() as client:

        def ask(asked: dict[str, Any], stream: bool) -> tuple[str, float]:
            more = {key: value for key, value in asked.items() if key != "logprobs"}
            try:
                answer = client.completions.create(model="tiny-llama", stream=stream, **more)
                for _ in answer if stream else ():
                    pass
            except (openai.APIConnectionError, httpx.RemoteProtocolError, httpx.ReadError) as error:
                return type(error).__name__, time.monotonic()
            return "answered", time.monotonic()

        asking = [people.submit(ask, asked, number % 2 == 0) for number, asked in enumerate(long_bodies(12, 2000))]
        worker.until(lambda health: health["running"] == 12)
        worker.told(signal.SIGKILL)
        killed = time.monotonic()
        endings = [one.result(timeout=20) for one in asking]
        assert worker.ended() == -signal.SIGKILL
        assert "answered" not in {what for what, _ in endings}, endings
        assert max(when for _, when in endings) < killed + 2
        with pytest.raises(openai.APIConnectionError):
            client.models.list()


def test_told_to_stop_it_finishes_what_it_began(model: Path, tmp_path: Path, alone: Solo) -> None:
    asked = long_bodies(6, 400)
    with worker_of(model, tmp_path) as worker:

        async def together() -> tuple[list[Said], httpx.Response]:
            async with worker.async_http() as client:
                finishing = [asyncio.create_task(streamed(client, one)) for one in asked]
                await asyncio.to_thread(worker.until, lambda health: health["running"] == len(asked))
                worker.told(signal.SIGTERM)
                health = await asyncio.to_thread(worker.until, lambda health: health["status"] == "draining")
                assert under_way(health), "they were over before"
                late = await client.post("/v1/completions", json=asked[0])
                return await asyncio.gather(*finishing), late

        told, late = asyncio.run(together())
        assert worker.ended() == 0
        assert (late.status_code, late.json()["error"]["type"]) == (503, "server_error")
        assert int(late.headers["retry-after"]) >= 1
    assert told == [alone.said(one) for one in asked]


def test_one_who_never_reads_does_not_keep_it_from_stopping(model: Path, tmp_path: Path) -> None:
    with worker_of(model, tmp_path, "--drain-timeout", "1", quiet=False) as worker, socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", worker.port))
        endless = {"prompt": "a", "max_tokens": CONTEXT, "n": 14, "logprobs": 20, "stream": True}
        deaf.sendall(request({**endless, "logit_bias": ON_AND_ON}))
        worker.until(lambda health: health["running"] == 14)
        began = time.monotonic()
        worker.told(signal.SIGTERM)
        assert worker.ended(30) == 0
        assert time.monotonic() - began < 15
