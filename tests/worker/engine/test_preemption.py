"""Who gives way goes on later exactly where it was: greedy or drawn by chance, free or under a grammar."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from transformers import AutoTokenizer

from mlxctl.worker.grammar import GrammarCompiler
from mlxctl.worker.types import Priority, Sampling
from tests.fakes.tiny_models import TINY_KINDS, TinyKind
from tests.worker.engine.driving import DECODERS, Driver, Tiny, build

SAMPLED = Sampling(temperature=0.9, top_p=0.95, seed=11, logprobs=2)
PENALISED = Sampling(temperature=0.7, top_k=30, presence_penalty=0.6, repetition_penalty=1.2, seed=12, logprobs=0)
POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer", "minimum": 0, "maximum": 99}, "on": {"type": "boolean"}},
    "required": ["x", "on"],
    "additionalProperties": False,
}


def push_out(driver: Driver, tiny: Tiny, number: int) -> None:
    """An urgent request takes the place of somebody who is running, and is answered."""
    before = driver.loop.outbox.counts.preemptions
    driver.submit(f"urgent {number}", tiny.prompt(90 + number, 21), 4, priority=Priority.HIGH)
    driver.run_until(lambda: len(driver.said(f"urgent {number}")) == 4)
    assert driver.loop.outbox.counts.preemptions == before + 1
    assert len(driver.loop.intake.waiting) == 1


def back_again(driver: Driver) -> bool:
    return not driver.loop.intake


@pytest.mark.usefixtures("short_lanes")
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("kind", TINY_KINDS)
def test_the_latest_of_the_least_urgent_goes_and_reads_nothing_again(
    tiny: Callable[[TinyKind], Tiny], kind: TinyKind, decoder: str
) -> None:
    model = tiny(kind)
    driver = build(model, decoder, max_batch=3)
    for name, priority in (("low", Priority.LOW), ("normal", Priority.NORMAL), ("latest", Priority.LOW)):
        driver.submit(name, model.prompt(len(name), 35), 40, priority=priority)
        driver.run_until(lambda name=name: len(driver.said(name)) >= 3)
    read_before = sum(driver.model.read)
    for number in range(2):
        push_out(driver, model, number)
        assert [driver.is_running(name) for name in ("low", "normal", "latest")] == [True, True, False]
        assert driver.is_waiting("latest")
        driver.run_until(lambda: back_again(driver))
        driver.step(2)
    driver.run()
    # the urgent ones' prompts, and not a token of those who gave way
    assert sum(driver.model.read) - read_before == 2 * 20
    # nor are its prompt's tokens told or counted twice
    assert driver.prefilled["latest"][-1].done == 34
    assert driver.loop.outbox.counts.prompt_tokens == 3 * 35 + 2 * 21
    driver.check_drained()
    driver.check_answers(model.runs)


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("kind", TINY_KINDS)
def test_a_row_that_gives_way_before_its_first_step_has_nothing_to_leave_behind(
    tiny: Callable[[TinyKind], Tiny], kind: TinyKind, decoder: str
) -> None:
    model = tiny(kind)
    driver = build(model, decoder, max_batch=1)
    driver.submit("one token", model.prompt(1, 1), 5, priority=Priority.LOW)
    driver.step()
    assert driver.reading("one token") is not None
    driver.submit("urgent", model.prompt(2, 9), 5, priority=Priority.HIGH)
    driver.step()
    assert driver.loop.outbox.counts.preemptions == 1
    assert driver.said("one token") == []
    driver.run()
    driver.check_drained()
    driver.check_answers(model.runs)


@pytest.mark.parametrize("lasts", range(1, 9))
def test_whoever_ends_with_the_token_on_its_way_leaves_room_for_the_others(
    tiny: Callable[[TinyKind], Tiny], lasts: int, little_ahead: None
) -> None:
    model = tiny("llama")
    # both fit in what is set aside first, and not a token more
    driver = build(model, kv_tokens=18 + 10 + lasts)
    driver.submit("grows", model.prompt(1, 10), 18)
    driver.run_until(lambda: driver.is_running("grows"))
    driver.submit("ends", model.prompt(2, 10), lasts)
    driver.run()
    assert driver.ended["grows", 0].reason == driver.ended["ends", 0].reason == "length"
    assert len(driver.said("grows")) == 18
    driver.check_drained()
    driver.check_answers(model.runs)


@pytest.mark.usefixtures("little_ahead")
def test_a_row_that_grows_takes_the_room_of_a_prompt_that_is_being_read(tiny: Callable[[TinyKind], Tiny]) -> None:
    model = tiny("gpt_oss")
    driver = build(model, kv_tokens=18 + 175)
    driver.submit("grows", model.prompt(1, 10), 30)
    driver.run_until(lambda: len(driver.said("grows")) >= 6)
    driver.submit("read", model.prompt(2, 170), 5)
    driver.run_until(lambda: driver.reading("read") is not None)
    driver.run_until(lambda: driver.is_waiting("read"))
    assert driver.loop.outbox.counts.preemptions == 0
    driver.run()
    # what it had read by then was kept
    assert driver.loop.outbox.counts.cached_tokens >= 16
    driver.check_drained()
    driver.check_answers(model.runs)


def test_low_is_answered_though_high_never_ceases(tiny: Callable[[TinyKind], Tiny]) -> None:
    model = tiny("llama")
    driver = build(model, max_batch=1, ageing_s=0.2)
    driver.submit("low", model.prompt(1, 20), 30, priority=Priority.LOW)
    for number in range(60):
        driver.submit(f"high {number}", model.prompt(2 + number % 3, 20), 4, priority=Priority.HIGH)
        driver.run_until(lambda: len(driver.loop.intake.waiting) < 2)
        if ("low", 0) in driver.ended:
            break
    assert ("low", 0) in driver.ended
    assert number < 40
    driver.run()
    driver.check_answers(model.runs)


def test_nobody_gives_way_where_that_would_not_make_enough_room(tiny: Callable[[TinyKind], Tiny]) -> None:
    model = tiny("llama")
    driver = build(model, kv_tokens=200)
    driver.submit("normal", model.prompt(1, 100), 20)
    driver.submit("low", model.prompt(2, 20), 20, priority=Priority.LOW)
    driver.run_until(lambda: len(driver.said("low")) >= 2)
    # without low there would be room for eighty tokens more
    driver.submit("too large", model.prompt(4, 150), 5)
    driver.step(4)
    assert driver.is_waiting("too large")
    assert driver.is_running("low")
    driver.run()
    assert driver.loop.outbox.counts.preemptions == 0
    driver.check_drained()
    driver.check_answers(model.runs)


def told(driver: Driver, request_id: str, n: int) -> list[tuple[list[int], list[Any]]]:
    return [(driver.said(request_id, index), driver.logprobs[request_id, index]) for index in range(n)]


@pytest.mark.usefixtures("short_lanes")
@pytest.mark.parametrize("kind", ["llama", "qwen3_next"])
def test_a_seed_says_the_same_alone_in_a_crowd_and_after_giving_way(
    tiny: Callable[[TinyKind], Tiny], kind: TinyKind
) -> None:
    model = tiny(kind)
    asked = {"sampled": (SAMPLED, 2), "penalised": (PENALISED, 1), "greedy": (Sampling(0.0, logprobs=3), 1)}

    def ask(driver: Driver) -> None:
        for number, (name, (sampling, n)) in enumerate(asked.items()):
            driver.submit(name, model.prompt(number, 30), 44, sampling=sampling, n=n, priority=Priority.LOW)

    alone = {}
    for name, (sampling, n) in asked.items():
        driver = build(model, "single")
        driver.submit(name, model.prompt(list(asked).index(name), 30), 44, sampling=sampling, n=n)
        driver.run()
        alone[name] = told(driver, name, n)
    crowd = build(model, max_batch=4)
    ask(crowd)
    crowd.run_until(lambda: len(crowd.said("greedy")) >= 3)
    for number in range(3):
        push_out(crowd, model, number)
        crowd.run_until(lambda: back_again(crowd))
    crowd.run()
    assert crowd.loop.outbox.counts.largest_batch == 4
    for name, (sampling, n) in asked.items():
        for (tokens, logprobs), (expected, expected_logprobs) in zip(told(crowd, name, n), alone[name], strict=True):
            assert tokens == expected
            assert len(set(tokens)) > 3
            for one, other in zip(logprobs, expected_logprobs, strict=True):
                assert one.logprob == pytest.approx(other.logprob, abs=2e-3)
                assert [token for token, _ in one.top] == [token for token, _ in other.top]
                assert len(one.top) == (sampling.logprobs or 0)
    # two choices of one seed are two answers
    assert crowd.said("sampled", 0) != crowd.said("sampled", 1)
    crowd.check_drained()


@pytest.mark.usefixtures("short_lanes")
def test_a_grammar_goes_on_where_it_was_and_does_not_bind_its_neighbour(tiny: Callable[[TinyKind], Tiny]) -> None:
    model = tiny("llama")
    tokenizer = AutoTokenizer.from_pretrained(model.folder)
    ends = frozenset([tokenizer.eos_token_id])
    grammar = GrammarCompiler(model.folder / "tokenizer.json", model.vocab_size, ends).json_schema(POINT)
    driver = build(model, max_batch=3)
    driver.submit("free", model.prompt(1, 20), 40)
    asked = Sampling(temperature=0.8, seed=3)
    driver.submit(
        "point", model.prompt(2, 20), 60, sampling=asked, n=2, grammar=grammar, stop_tokens=ends, priority=Priority.LOW
    )
    driver.run_until(lambda: len(driver.said("point")) >= 4)
    push_out(driver, model, 1)
    driver.run()
    for index in range(2):
        assert driver.ended["point", index].reason == "stop"
        point = json.loads(tokenizer.decode(driver.said("point", index)))
        assert set(point) == {"x", "on"}
        assert 0 <= point["x"] <= 99
    assert driver.said("free") == model.runs.answer(model.prompt(1, 20), 40)
    driver.check_drained()
