"""What is measured, one function a scene: each returns the figures of one side in one repetition."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

from bench.worker.bars import ENGINE, GENERATOR, MLX_LM, OURS, SERVERS
from bench.worker.client import Client, post
from bench.worker.process import SideFailed
from bench.worker.prompts import Messages, Prompts
from bench.worker.rates import Stream, decode_rate, longest_gap, usual_gap, whole_rate
from bench.worker.sides import TINY, ServerSide, Sides

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Counts of tokens and of turns within one repetition."""

    decoded: int = 24
    streamed: int = 48
    alone: int = 32
    joins: int = 4
    warm: int = 3
    requests: int = 40


@dataclass(frozen=True, slots=True)
class Turn:
    """One side's turn: everything a scene needs."""

    sides: Sides
    name: str
    prompts: Prompts
    vocabulary: int
    sizes: Sizes


SETTLE_S = 0.5
"""After streams were cut off, before anything else is asked: not every server notices at once."""


def even(turn: Turn, count: int) -> Figures:
    figure = f"even-{count}"
    if turn.name in (ENGINE, GENERATOR):
        prompts = [turn.prompts.ids(32, turn.vocabulary) for _ in range(count)]
        said = turn.sides.engine(turn.name).ask({"groups": [prompts], "tokens": turn.sizes.decoded})
        return {figure: engine_rate(said["times"])}
    side = turn.sides.server(turn.name)
    messages = [turn.prompts.short() for _ in range(count)]
    tokens = turn.sizes.streamed if count > 1 else turn.sizes.alone
    streams = asyncio.run(ask_all(side, messages, tokens))
    return {figure: rate(streams), f"{figure}-whole": whole_rate(streams)}


def skew(turn: Turn) -> Figures:
    """The long row first, and the short ones when it decodes: otherwise they would be done before it begins."""
    long, short = ([turn.prompts.ids(tokens, turn.vocabulary) for _ in range(n)] for tokens, n in ((2048, 1), (64, 7)))
    said = turn.sides.engine(turn.name).ask({"groups": [long, short], "tokens": turn.sizes.decoded})
    return {
        "skew": engine_rate(said["times"]),
        "skew-kv": float(said["kv_bytes"]),
        "skew-memory": float(said["memory_bytes"]),
    }


def join(turn: Turn) -> Figures:
    return asyncio.run(_join(turn, turn.sides.server(turn.name)))


async def _join(turn: Turn, side: ServerSide) -> Figures:
    waits = []
    async with Client(side.port, side.request_model) as client:
        running = client.ask(turn.prompts.short(), 400)
        try:
            await running.grown_to(4)
            for _ in range(turn.sizes.joins):
                await asyncio.sleep(turn.prompts.pause(0.1, 0.6))
                [stream] = await client.all([turn.prompts.short()], 3)
                waits.append(stream.first_wait)
            if running.is_over:
                raise SideFailed("the running stream ended before all had joined it")
        finally:
            await running.cancel()
        await asyncio.sleep(SETTLE_S)
        running = client.ask(turn.prompts.short(), 48)
        await running.grown_to(4)
        seeded = client.ask(turn.prompts.short(), 3, temperature=0.7, seed=turn.prompts.seed())
        await asyncio.sleep(0.1)
        after = client.ask(turn.prompts.short(), 3)
        streams = [await answer.end() for answer in (seeded, after)]
        await running.end()
    return {
        "join": statistics.median(waits),
        "join-seed": streams[0].first_wait,
        "join-after-seed": streams[1].first_wait,
    }


def prefix(turn: Turn) -> Figures:
    return asyncio.run(_prefix(turn, turn.sides.server(turn.name)))


async def _prefix(turn: Turn, side: ServerSide) -> Figures:
    """Eight at once with a prefix nobody has seen, and eight more; then the known prefix against its suffix alone."""
    known = turn.prompts.text(800)
    figures: Figures = {}
    async with Client(side.port, side.request_model) as client:
        streams = await client.all([with_system(known, turn.prompts.task(40)) for _ in range(8)], 3)
        figures["prefix-last"] = max(stream.first_wait for stream in streams)
        streams = await client.all([with_system(known, turn.prompts.task(40)) for _ in range(8)], 3)
        figures["prefix-known-last"] = max(stream.first_wait for stream in streams)
        if turn.name == OURS:
            waits: dict[str, list[float]] = {"prefix-warm": [], "prefix-alone": []}
            for _ in range(turn.sizes.warm):
                for figure, system in (("prefix-warm", known), ("prefix-alone", "")):
                    [stream] = await client.all([with_system(system, turn.prompts.task(40))], 3)
                    waits[figure].append(stream.first_wait)
            figures |= {figure: statistics.median(values) for figure, values in waits.items()}
    return figures


def with_system(system: str, user: str) -> Messages:
    """An empty system message is sent too: without one, SmolLM2's template puts one of its own there."""
    return [{"role": "system", "content": system}, {"role": "user", "content": user}]


def arrival(turn: Turn) -> Figures:
    return asyncio.run(_arrival(turn, turn.sides.server(turn.name)))


async def _arrival(turn: Turn, side: ServerSide) -> Figures:
    """A stream that ends meanwhile counts until it did."""
    async with Client(side.port, side.request_model) as client:
        running = [client.ask(turn.prompts.short(), 600) for _ in range(8)]
        try:
            for answer in running:
                await answer.grown_to(1)
            settled = time.perf_counter()
            for answer in running:
                await answer.grown_to(len(answer.times) + 8)
            arrived = time.perf_counter()
            long = client.ask(turn.prompts.sized(1500), 3)
            await long.grown_to(1)
            lasting = [answer for answer in running if not answer.is_over]
            if len(lasting) < 4:
                raise SideFailed("most of the streams had ended before the long prompt was read")
            for answer in lasting:
                with contextlib.suppress(SideFailed):  # it may just have ended
                    await answer.grown_to(len(answer.times) + 1)
            await long.end()
        finally:
            await asyncio.gather(*(answer.cancel() for answer in running))
    times = [answer.times for answer in running]
    gap = longest_gap(times, arrived, long.times[0]) / usual_gap(times, settled, arrived)
    await asyncio.sleep(SETTLE_S)
    return {"arrival-gap": gap, "arrival-wait": long.times[0] - long.sent}


def overhead(turn: Turn) -> Figures:
    """The tiny model answers one token, over HTTP and in process, in turn: what differs is the way there and back."""
    server = turn.sides.server(OURS + TINY)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        taken = [post(connection, server.request_model, turn.prompts.short(), 1) for _ in range(turn.sizes.requests)]
    finally:
        connection.close()
    length = round(statistics.median(tokens for _, tokens in taken))
    prompts = [turn.prompts.ids(length, 300) for _ in range(turn.sizes.requests)]
    said = turn.sides.engine(ENGINE + TINY).ask({"one_by_one": prompts})
    through, inside = statistics.median(seconds for seconds, _ in taken), statistics.median(said["seconds"])
    return {"overhead-ms": 1000 * (through - inside), "http-ms": 1000 * through, "engine-ms": 1000 * inside}


async def ask_all(side: ServerSide, messages: list[Messages], max_tokens: int) -> list[Stream]:
    async with Client(side.port, side.request_model) as client:
        return await client.all(messages, max_tokens)


def engine_rate(times: list[list[float]]) -> float:
    return rate([Stream(row[0], tuple(row), len(row)) for row in times])


def rate(streams: list[Stream]) -> float:
    try:
        return decode_rate(streams)
    except ValueError as error:
        raise SideFailed(str(error)) from error


EVEN_SIDES = (GENERATOR, ENGINE, OURS, *SERVERS)
SCENES: dict[str, tuple[Callable[[Turn], Figures], tuple[str, ...]]] = {
    "even-1": (lambda turn: even(turn, 1), EVEN_SIDES),
    "even-8": (lambda turn: even(turn, 8), EVEN_SIDES),
    "even-16": (lambda turn: even(turn, 16), EVEN_SIDES),
    "skew": (skew, (GENERATOR, ENGINE)),
    "join": (join, (OURS, MLX_LM)),
    "prefix": (prefix, (OURS, MLX_LM)),
    "arrival": (arrival, (OURS, MLX_LM)),
    "overhead": (overhead, (OURS,)),
}
"""What `--only` takes: the scene, and the sides that take their turns in it."""
