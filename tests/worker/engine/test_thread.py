"""The engine thread: what it takes, what it refuses and with which numbers, and how it ends."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlxctl.worker.config import EngineConfig
from mlxctl.worker.engine.load import asks_before_it_runs, context_length_of, revision_of
from mlxctl.worker.engine.thread import EngineThread
from mlxctl.worker.errors import InvalidRequest, QueueFull, RequestError, Unavailable
from mlxctl.worker.types import Drawn, Ended, Event, Failed, Generation, Sampling
from tests.fakes.tiny_models import TinyKind
from tests.worker.engine.driving import Tiny

GREEDY = Sampling(temperature=0.0)


class Running:
    """An engine thread, and what it has told."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.events: list[Event] = []
        self.died = threading.Event()
        self.gate = threading.Event()
        self.gate.set()
        options = {"block_tokens": 16, "cache_bytes": 10_000_000, "kv_bytes": 50_000_000, "integrity": True}
        self.thread = EngineThread(EngineConfig(folder, **(options | settings)), self._deliver, on_death=self.died.set)
        self.thread.start()

    def _deliver(self, events: list[Event]) -> None:
        self.gate.wait(30)
        self.events += events

    def ask(self, request_id: str, prompt: tuple[int, ...], max_tokens: int = 8, **rest: object) -> None:
        self.thread.submit(Generation(request_id, prompt, max_tokens, **({"sampling": GREEDY} | rest)))

    def wait(self, condition: Callable[[], bool], seconds: float = 30) -> None:
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, self.thread.stats()
            time.sleep(0.005)

    def ended(self, request_id: str) -> list[Ended]:
        return [event for event in self.events if isinstance(event, Ended) and event.request_id == request_id]

    def drawn(self, request_id: str) -> list[int]:
        return [event.token for event in self.events if isinstance(event, Drawn) and event.request_id == request_id]


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    running: list[Running] = []

    def begin(folder: Path, **settings: object) -> Running:
        running.append(Running(folder, **settings))
        return running[-1]

    yield begin
    for one in running:
        one.gate.set()
        one.thread.stop()


@pytest.fixture
def engine(tiny: Callable[[TinyKind], Tiny], start: Callable[..., Running]) -> Running:
    one = start(tiny("llama").folder)
    assert one.thread.wait_loaded(60), one.thread.error
    return one


def test_it_answers_and_tells_what_it_did(engine: Running, tiny: Callable[[TinyKind], Tiny]) -> None:
    model = tiny("llama")
    prompt = model.prompt(1, 40)
    engine.ask("a", prompt, 12)
    engine.wait(lambda: bool(engine.ended("a")))
    assert engine.drawn("a") == model.runs.until(prompt, 12, frozenset())[0]
    engine.wait(lambda: engine.thread.stats().running == 0)
    stats, facts = engine.thread.stats(), engine.thread.facts()
    assert (stats.phase, stats.totals.prompt_tokens, stats.totals.drawn_tokens, stats.totals.finished) == (
        "ready",
        40,
        12,
        1,
    )
    assert stats.cache_blocks > 0
    assert stats.kv_reserved_bytes == 0
    assert facts is not None
    assert (facts.decoder, facts.model_type, facts.prefix_cache) == ("grouped", "llama", True)
    assert facts.vocab_size == model.vocab_size


@pytest.mark.parametrize(
    ("prompt", "rest", "told"),
    [
        ((), {}, ["the prompt is empty"]),
        (tuple([5] * 4096), {}, ["4096 tokens", "context length of 4096"]),
        ((1, 100_000), {}, ["outside the vocabulary"]),
        ((1, -1), {}, ["outside the vocabulary"]),
        ((1, 2), {"n": 33}, ["n is 33", "at most 32"]),
    ],
)
def test_what_can_never_run_is_refused_with_the_numbers(engine: Running, prompt, rest, told) -> None:
    with pytest.raises(InvalidRequest) as raised:
        engine.ask("bad", prompt, **rest)
    assert all(words in raised.value.message for words in told)
    assert engine.thread.stats().waiting == 0


def test_several_answers_that_memory_cannot_begin_are_refused(
    tiny: Callable[[TinyKind], Tiny], start: Callable[..., Running]
) -> None:
    model = tiny("llama")
    one = start(model.folder, kv_bytes=1_000_000)
    assert one.thread.wait_loaded(60)
    with pytest.raises(InvalidRequest, match=r"8 answers to a prompt of 300 tokens need [0-9,]+ bytes") as raised:
        one.ask("many", model.prompt(1, 300), 500, n=8)
    assert "this server has 1,000,000" in raised.value.message
    # one of them runs, as far as the memory goes
    facts = one.thread.facts()
    assert facts is not None
    assert facts.context_length < 4096


def test_a_full_queue_says_when_to_come_again(tiny: Callable[[TinyKind], Tiny], start: Callable[..., Running]) -> None:
    one = start(tiny("llama").folder, max_batch=1, max_queue=2)
    assert one.thread.wait_loaded(60)
    one.gate.clear()
    refused: list[RequestError] = []
    for number in range(6):
        try:
            one.ask(f"r{number}", (1, 2, 3), 50)
        except QueueFull as error:
            refused.append(error)
    assert refused
    assert all(error.status == 429 and error.retry_after_s for error in refused)
    one.gate.set()
    one.wait(lambda: one.thread.stats().totals.finished == 6 - len(refused))


def test_nothing_is_taken_while_loading_or_draining_and_what_runs_may_finish(
    tiny: Callable[[TinyKind], Tiny], start: Callable[..., Running]
) -> None:
    one = start(tiny("llama").folder)
    with pytest.raises(Unavailable, match="loading") as raised:
        one.ask("early", (1, 2), 5)
    assert raised.value.retry_after_s
    assert one.thread.wait_loaded(60)
    one.ask("a", (1, 2, 3), 40)
    one.thread.drain()
    with pytest.raises(Unavailable, match="shutting down"):
        one.ask("late", (1, 2), 5)
    one.wait(lambda: bool(one.ended("a")))
    assert one.ended("a")[0].reason == "length"


def test_an_abort_ends_what_runs_and_ignores_what_it_does_not_know(engine: Running) -> None:
    engine.thread.abort("nobody")
    engine.ask("a", (1, 2, 3), 4000)
    engine.wait(lambda: len(engine.drawn("a")) > 3)
    engine.thread.abort("a", 7)
    engine.thread.abort("a")
    engine.wait(lambda: bool(engine.ended("a")))
    assert engine.ended("a")[0].reason == "aborted"
    engine.wait(lambda: engine.thread.stats().kv_reserved_bytes == 0)


def test_stopping_in_mid_answer_tells_those_who_wait(engine: Running) -> None:
    engine.ask("a", (1, 2, 3), 4000)
    engine.wait(lambda: len(engine.drawn("a")) > 3)
    engine.thread.stop()
    assert not engine.thread.is_alive
    assert engine.thread.stats().phase == "stopped"
    assert [event.request_id for event in engine.events if isinstance(event, Failed)] == ["a"]
    assert not engine.died.is_set()


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (None, "no config.json"),
        ({"model_type": "no-such-model"}, "no-such-model"),
        ({"model_type": "llama", "model_file": "mine.py"}, "brings code of its own (mine.py)"),
    ],
)
def test_what_cannot_be_loaded_is_said(config, told, tmp_path: Path, start: Callable[..., Running]) -> None:
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
        (tmp_path / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    one = start(tmp_path)
    assert not one.thread.wait_loaded(60)
    assert one.died.wait(10)
    assert told in one.thread.error
    assert one.thread.stats().phase == "failed"
    with pytest.raises(Unavailable, match="not running"):
        one.ask("a", (1, 2), 5)


def test_a_listener_that_breaks_is_the_end_of_the_engine(engine: Running) -> None:
    def broken(events: list[Event]) -> None:
        raise ZeroDivisionError("nobody listens")

    engine.thread._deliver = broken
    engine.ask("a", (1, 2, 3), 5)
    assert engine.died.wait(20)
    assert "nobody listens" in engine.thread.stats().error


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({"max_position_embeddings": 8192}, 8192),
        ({"text_config": {"max_position_embeddings": 131072}}, 131072),
        ({"max_position_embeddings": 0, "llm_config": {"n_ctx": 2048}}, 2048),
        ({"seq_length": "long"}, None),
        ({}, None),
    ],
)
def test_the_context_is_what_the_config_says_wherever_it_says_it(config, length) -> None:
    assert context_length_of(config) == length


def test_another_file_is_another_model_for_the_cache(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"1")
    before = revision_of(tmp_path, None)
    assert revision_of(tmp_path, None) == before
    assert revision_of(tmp_path, tmp_path) != before
    (tmp_path / "model.safetensors").write_bytes(b"12")
    assert revision_of(tmp_path, None) != before


def test_an_mlx_lm_that_cannot_be_told_to_ask_is_not_told() -> None:
    assert asks_before_it_runs(lambda path, trust_remote_code=False: None)
    assert not asks_before_it_runs(lambda path: None)
