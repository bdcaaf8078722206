"""Break-downs in odd places: everybody is told once, and no memory, block or letter is left behind."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mlxctl.worker.config import EngineConfig
from mlxctl.worker.engine import chains
from mlxctl.worker.engine.decoder import PaddedDecoder
from mlxctl.worker.engine.grouped import GroupedDecoder
from mlxctl.worker.engine.loop import StepLoop
from mlxctl.worker.engine.thread import MOST_FAILURES, EngineThread
from mlxctl.worker.types import Drawn, Event, Failed, Generation, Sampling
from tests.fakes.tiny_models import TinyKind
from tests.worker.engine.driving import DECODERS, Tiny, build


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize("decoder", [GroupedDecoder, PaddedDecoder])
def test_a_row_that_cannot_join_is_told_and_leaves_nothing(
    tiny: Callable[[TinyKind], Tiny], monkeypatch: pytest.MonkeyPatch, decoder: type, n: int
) -> None:
    model = tiny("llama")
    driver = build(model, decoder.name)
    driver.submit("first", model.prompt(1, 40), 30)
    driver.run_until(lambda: len(driver.said("first")) > 3)
    admit, admitted = decoder.admit, []

    def full(self, row, caches, length):
        if len(admitted) == n - 1:
            raise ValueError("these caches do not go together")
        admitted.append(row)
        admit(self, row, caches, length)

    monkeypatch.setattr(decoder, "admit", full)
    driver.submit("second", model.prompt(2, 40), 30, n=n)
    with pytest.raises(ValueError, match="go together") as raised:
        driver.run()
    driver.take(driver.loop.fail(raised.value))
    assert set(driver.failed) == {"first", "second"}
    driver.check_drained()
    monkeypatch.undo()
    driver.submit("third", model.prompt(2, 40), 10, n=n)
    driver.run()
    assert len(driver.said("third")) == 10
    driver.check_answers(model.runs)


def test_a_restore_that_breaks_fails_that_request_and_gives_its_blocks_back(
    tiny: Callable[[TinyKind], Tiny], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny("gpt_oss")
    driver, prompt = build(model), model.prompt(1, 60)
    driver.submit("first", prompt, 5)
    driver.run()
    driver.submit("beside", model.prompt(2, 30), 20)
    driver.run_until(lambda: len(driver.said("beside")) > 2)
    honest = chains.restore

    def broken(layout, model, match):
        if match.length:
            raise RuntimeError("[metal] out of memory")
        return honest(layout, model, match)

    monkeypatch.setattr(chains, "restore", broken)
    driver.submit("again", prompt, 5, n=2)
    driver.run()
    assert set(driver.failed) == {"again"}
    driver.check_drained()
    driver.check_answers(model.runs)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("kind", ["llama", "qwen3_next"])
def test_even_a_model_that_never_answers_again_tells_everybody(
    tiny: Callable[[TinyKind], Tiny], kind: TinyKind, decoder: str
) -> None:
    model = tiny(kind)
    driver = build(model, decoder, max_batch=2)
    for number in range(4):
        driver.submit(f"r{number}", model.prompt(number, 20), 10)
    driver.run_until(lambda: len(driver.said("r0")) > 2)
    driver.model.fails = lambda tokens: True
    with pytest.raises(RuntimeError) as raised:
        driver.step()
    driver.take(driver.loop.fail(raised.value))
    assert set(driver.failed) == {"r0", "r1", "r2", "r3"}
    driver.check_drained()
    assert driver.loop.batch.decoder.nbytes == 0


@pytest.mark.usefixtures("little_ahead")
def test_one_choice_that_fails_on_its_way_back_takes_the_others_along_wherever_they_are(
    tiny: Callable[[TinyKind], Tiny],
) -> None:
    model = tiny("llama")
    # without a store everything is read again, and with room for one row at a time they come back one by one
    driver = build(model, kv_tokens=3 * 38, cache_bytes=None)
    driver.submit("three", model.prompt(1, 30), 30, n=3)
    driver.run_until(lambda: driver.loop.outbox.counts.preemptions == 2)
    driver.model.fails = lambda tokens: tokens.shape[1] > 1
    driver.run()
    assert set(driver.failed) == {"three"}
    assert len(driver.ended) < 3
    driver.check_drained()


class Postbox:
    """What an engine thread tells; it can be held up in the middle of a delivery."""

    def __init__(self, folder: Path) -> None:
        self.events: list[Event] = []
        self.died, self.gate, self.held = threading.Event(), threading.Event(), threading.Event()
        self.gate.set()
        config = EngineConfig(folder, block_tokens=16, cache_bytes=10_000_000, kv_bytes=50_000_000)
        self.thread = EngineThread(config, self.deliver, on_death=self.died.set)
        self.thread.start()
        assert self.thread.wait_loaded(60), self.thread.error

    def deliver(self, events: list[Event]) -> None:
        if not self.gate.is_set():
            self.held.set()
        assert self.gate.wait(30)
        self.events += events

    def ask(self, request_id: str) -> None:
        self.thread.submit(Generation(request_id, (1, 2, 3), 3000, Sampling(temperature=0.0)))

    def hold_up(self) -> None:
        """Returns when the engine stands in a delivery, from which `gate` lets it go on."""
        self.gate.clear()
        assert self.held.wait(30)

    def failed(self) -> set[str]:
        return {event.request_id for event in self.events if isinstance(event, Failed)}


def test_mail_that_nobody_had_read_when_the_engine_stopped_is_answered(tiny: Callable[[TinyKind], Tiny]) -> None:
    box = Postbox(tiny("llama").folder)
    box.ask("running")
    box.hold_up()
    box.ask("unread")
    stopping = threading.Thread(target=box.thread.stop)
    stopping.start()
    until_s = time.monotonic() + 30
    while not box.thread._stopping and time.monotonic() < until_s:
        time.sleep(0.002)
    box.gate.set()
    stopping.join(30)
    assert not box.thread.is_alive
    assert box.failed() == {"running", "unread"}
    assert box.thread.stats().phase == "stopped"
    assert not box.died.is_set()


def test_an_engine_that_fails_again_and_again_gives_up_and_leaves_nobody_waiting(
    tiny: Callable[[TinyKind], Tiny], monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Postbox(tiny("llama").folder)
    steps = []

    def broken(loop):
        steps.append(len(loop.intake.waiting))
        raise RuntimeError("[metal] device lost")

    monkeypatch.setattr(StepLoop, "step", broken)
    for number in range(MOST_FAILURES):
        box.ask(f"r{number}")
        until_s = time.monotonic() + 30
        while f"r{number}" not in box.failed() and time.monotonic() < until_s:
            time.sleep(0.002)
    assert box.died.wait(30)
    assert box.failed() == {f"r{number}" for number in range(MOST_FAILURES)}
    assert len(steps) == MOST_FAILURES
    assert box.thread.stats().phase == "failed"
    assert "device lost" in box.thread.stats().error
    assert box.thread.facts() is None
    box.thread.stop()


def test_a_step_that_fails_now_and_then_is_not_held_against_the_engine(
    tiny: Callable[[TinyKind], Tiny], monkeypatch: pytest.MonkeyPatch
) -> None:
    box, honest, broken = Postbox(tiny("llama").folder), StepLoop.step, threading.Event()

    def step(loop):
        if broken.is_set():
            broken.clear()
            raise RuntimeError("[metal] out of memory")
        return honest(loop)

    monkeypatch.setattr(StepLoop, "step", step)
    for number in range(MOST_FAILURES + 2):
        box.ask(f"r{number}")
        until_s = time.monotonic() + 30
        while time.monotonic() < until_s and not any(
            isinstance(event, Drawn) and event.request_id == f"r{number}" for event in box.events
        ):
            time.sleep(0.002)
        broken.set()
        while f"r{number}" not in box.failed() and time.monotonic() < until_s:
            time.sleep(0.002)
    assert len(box.failed()) == MOST_FAILURES + 2
    assert box.thread.stats().phase == "ready"
    box.thread.stop()
    assert not box.died.is_set()
