"""Runs in a process of its own: an engine without HTTP, told by JSON lines what to compute and answering in kind.

    python -m bench.worker.inprocess (generator|engine) MODEL

A task is `{"groups": [[prompt, …], …], "tokens": n}` with prompts of token ids. A group is handed in when every row of
the groups before it has begun; the run is over when every row has given n tokens more than it had when the last one
began. The answer: each row's moments of drawing, and the bytes of KV and of MLX at their largest while all rows ran.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import time
from pathlib import Path
from typing import Any, Protocol

SPARE_TOKENS = 400
"""What a row may draw while later rows are still being read, beside the tokens that are counted."""


class Engine(Protocol):
    def add(self, number: int, prompt: list[int], max_tokens: int) -> None: ...

    def step(self) -> list[tuple[int, float]]:
        """Wait for the next tokens: numbers of rows, with the moment of each."""
        ...

    def kv_bytes(self) -> int: ...

    def clear(self) -> None:
        """End every row, and wait until none is left."""
        ...

    def facts(self) -> dict[str, Any]: ...

    def close(self) -> None: ...


class Generator:
    """mlx-lm's BatchGenerator as it comes."""

    def __init__(self, model: Path) -> None:
        from mlx_lm.generate import BatchGenerator
        from mlx_lm.utils import load_model

        self._batch = BatchGenerator(load_model(model)[0])
        self._numbers: dict[int, int] = {}

    def add(self, number: int, prompt: list[int], max_tokens: int) -> None:
        self._numbers[self._batch.insert([prompt], [max_tokens])[0]] = number

    def step(self) -> list[tuple[int, float]]:
        responses = self._batch.next()[1]
        now = time.perf_counter()
        return [(self._numbers[response.uid], now) for response in responses]

    def kv_bytes(self) -> int:
        return int(self._batch.prompt_cache_nbytes)

    def clear(self) -> None:
        self._batch.remove(list(self._numbers))
        self._numbers.clear()

    def facts(self) -> dict[str, Any]:
        return {"prefill_batch_size": self._batch.prefill_batch_size, "step": self._batch.prefill_step_size}

    def close(self) -> None:
        self._batch.close()


class Ours:
    """The engine thread of the worker, spoken to as its HTTP side does."""

    def __init__(self, model: Path) -> None:
        from mlxctl.worker.config import EngineConfig
        from mlxctl.worker.engine.thread import EngineThread
        from mlxctl.worker.types import Event

        self._came: queue.SimpleQueue[tuple[float, list[Event]]] = queue.SimpleQueue()
        self._thread = EngineThread(
            EngineConfig(model), lambda events: self._came.put((time.perf_counter(), list(events)))
        )
        self._thread.start()
        if not self._thread.wait_loaded():
            raise RuntimeError(f"the engine did not load: {self._thread.error}")
        self._runs = 0
        self._open: set[int] = set()

    def add(self, number: int, prompt: list[int], max_tokens: int) -> None:
        from mlxctl.worker.types import Generation, Sampling

        self._open.add(number)
        self._thread.submit(Generation(f"{self._runs}-{number}", tuple(prompt), max_tokens, Sampling(temperature=0.0)))

    def step(self) -> list[tuple[int, float]]:
        from mlxctl.worker.types import Drawn, Ended, Failed

        at, events = self._came.get(timeout=600)
        drawn: list[tuple[int, float]] = []
        for event in events:
            if isinstance(event, Failed):
                raise event.error
            number = int(event.request_id.split("-")[1])
            if isinstance(event, Drawn):
                drawn.append((number, at))
            elif isinstance(event, Ended):
                self._open.discard(number)
        return drawn

    def kv_bytes(self) -> int:
        return self._thread.stats().kv_bytes

    def clear(self) -> None:
        for number in sorted(self._open):
            self._thread.abort(f"{self._runs}-{number}")
        while self._open:
            self.step()
        self._runs += 1

    def facts(self) -> dict[str, Any]:
        facts = self._thread.facts()
        return {} if facts is None else {"decoder": facts.decoder, "self_test": facts.self_test}

    def close(self) -> None:
        self._thread.stop()


def run(engine: Engine, groups: list[list[list[int]]], tokens: int, weight_bytes: int) -> dict[str, Any]:
    import mlx.core as mx

    times: list[list[float]] = []
    for group in groups:
        for prompt in group:
            engine.add(len(times), prompt, tokens + SPARE_TOKENS)
            times.append([])
        while not all(times):
            collect(engine, times)
    targets = [len(row) + tokens for row in times]
    kv = memory = 0
    while any(len(row) < target for row, target in zip(times, targets, strict=True)):
        collect(engine, times)
        if any(len(row) == tokens + SPARE_TOKENS < target for row, target in zip(times, targets, strict=True)):
            raise RuntimeError(f"a row ended while others were read; {SPARE_TOKENS} spare tokens are too few")
        kv = max(kv, engine.kv_bytes())
        memory = max(memory, mx.get_active_memory() - weight_bytes)
    engine.clear()
    return {"times": times, "kv_bytes": kv, "memory_bytes": memory}


def collect(engine: Engine, times: list[list[float]]) -> None:
    for number, at in engine.step():
        times[number].append(at)


def latency(engine: Engine, prompts: list[list[int]]) -> dict[str, Any]:
    """Seconds from handing in one prompt until its only token came, one prompt after another."""
    seconds = []
    for prompt in prompts:
        begun = time.perf_counter()
        engine.add(0, prompt, 1)
        while not (came := engine.step()):
            pass
        seconds.append(came[0][1] - begun)
        engine.clear()
    return {"seconds": seconds}


def main(kind: str, model: Path) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints goes to the log, not between the answers
    engine: Engine = Generator(model) if kind == "generator" else Ours(model)
    import mlx.core as mx

    weight_bytes = mx.get_active_memory()
    device = dict(mx.device_info())
    name = str(device.get("device_name") or device.get("architecture") or mx.default_device())
    print(json.dumps({"device": name, "facts": engine.facts()}), file=answers, flush=True)
    for line in sys.stdin:
        task = json.loads(line)
        if "one_by_one" in task:
            said = latency(engine, task["one_by_one"])
        else:
            said = run(engine, task["groups"], task["tokens"], weight_bytes)
        print(json.dumps(said), file=answers, flush=True)
    engine.close()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
