"""The step loop by the clock and by the book: how an answer ends, who waits how long, what is told and counted."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from mlxctl.worker.types import Drawn, Ended, Prefilled, Priority
from tests.fakes.tiny_models import TINY_KINDS, TinyKind
from tests.worker.engine.driving import STEP_S, TOKEN_S, Driver, Tiny, build

BOOK = 500
"""Tokens of a long prompt."""


def watched(driver: Driver, names: list[str], most: int = 3000) -> dict[str, list[float]]:
    """Run to the end; when each of `names` got each of its tokens."""
    times: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(most):
        if driver.loop.is_idle:
            return times
        driver.step()
        for name in names:
            new = len(driver.said(name)) - len(times[name])
            times[name] += [driver.clock.now_s] * new
    raise AssertionError("it does not end")


def gaps(times: list[float]) -> list[float]:
    return [after - before for before, after in pairwise(times)]


# how an answer ends


@pytest.mark.parametrize("place", [0, 1, 7])
def test_a_stop_token_ends_an_answer_and_is_told_but_not_drawn(tiny: Callable[[TinyKind], Tiny], place: int) -> None:
    model = tiny("llama")
    prompt = model.prompt(4, 20)
    stop = model.runs.answer(prompt, place + 1)[place]
    driver = build(model)
    driver.submit("stops", prompt, 30, stop_tokens=frozenset([stop, 9999]), n=2)
    driver.submit("does not", prompt, 12)
    driver.run()
    for index in range(2):
        assert driver.ended["stops", index] == Ended("stops", index, "stop", stop)
        assert stop not in driver.said("stops", index)
    assert len(driver.said("does not")) == 12
    driver.check_drained()
    driver.check_answers(model.runs)


@pytest.mark.parametrize("kind", TINY_KINDS)
def test_a_stop_token_is_kept_for_the_turn_after_it(tiny: Callable[[TinyKind], Tiny], kind: TinyKind) -> None:
    model = tiny(kind)
    prompt = model.prompt(4, 20)
    answer = model.runs.answer(prompt, 9)
    driver = build(model)
    driver.submit("first", prompt, 30, stop_tokens=frozenset(answer[8:]))
    driver.run()
    said = driver.said("first")
    history = (*prompt, *said, answer[8])
    driver.submit("second", (*history, 5, 6), 4)
    driver.run()
    assert driver.prefilled["second"][0].cached == len(history)
    driver.check_answers(model.runs)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_an_answer_has_as_many_tokens_as_were_asked_for(tiny: Callable[[TinyKind], Tiny], count: int) -> None:
    model = tiny("llama")
    driver = build(model)
    driver.submit("a", model.prompt(1, 3), count)
    driver.submit("one token", model.prompt(2, 1), count)
    driver.run()
    assert [len(driver.said(name)) for name in ("a", "one token")] == [count, count]
    driver.check_answers(model.runs)


def test_the_end_of_the_context_is_the_end_of_the_answer(tiny: Callable[[TinyKind], Tiny]) -> None:
    model = tiny("gpt_oss")
    driver = build(model, context_length=40)
    driver.submit("a", model.prompt(1, 30), 100)
    driver.submit("at once", model.prompt(1, 39), 100)
    driver.run()
    assert driver.said("a") == model.runs.answer(model.prompt(1, 30), 10)
    assert driver.said("at once") == model.runs.answer(model.prompt(1, 39), 1)
    assert {ended.reason for ended in driver.ended.values()} == {"length"}
    driver.check_drained()


@pytest.mark.parametrize("when", ["waiting", "reading", "running"])
def test_one_choice_of_three_is_cancelled_and_the_others_go_on(tiny: Callable[[TinyKind], Tiny], when: str) -> None:
    model = tiny("llama")
    for cancelled in range(3):
        driver = build(model)
        driver.submit("stream", model.prompt(9, 5), 60)
        driver.run_until(lambda driver=driver: len(driver.said("stream")) > 2)
        driver.submit("three", model.prompt(1, 90), 6, n=3)
        if when == "reading":
            driver.run_until(
                lambda driver=driver: (found := driver.reading("three")) is not None and 0 < found.done < found.target
            )
        elif when == "running":
            driver.run_until(lambda driver=driver: len(driver.said("three")) > 2)
        driver.loop.abort("three", cancelled)
        driver.run()
        reasons = [driver.ended["three", index].reason for index in range(3)]
        assert reasons == ["aborted" if index == cancelled else "length" for index in range(3)]
        assert driver.loop.outbox.counts.forks == (2 if when == "running" else 1)
        driver.check_drained()
        driver.check_answers(model.runs)


def test_a_cancel_is_obeyed_before_the_next_token(tiny: Callable[[TinyKind], Tiny]) -> None:
    model = tiny("llama")
    driver = build(model)
    driver.submit("goes", model.prompt(1, 10), 50)
    driver.submit("stays", model.prompt(2, 10), 50)
    driver.run_until(lambda: len(driver.said("goes")) == 5)
    driver.loop.abort("goes")
    driver.step()
    assert driver.ended["goes", 0].reason == "aborted"
    assert len(driver.said("goes")) == 5
    assert [row.generation.request_id for row in driver.loop.batch.rows] == ["stays"]
    # nor does it hurt to cancel what has ended, or never was
    driver.loop.abort("goes")
    driver.loop.abort("nobody", 3)
    driver.run()
    driver.check_answers(model.runs)


# who waits how long


@pytest.mark.parametrize("streams", [1, 6])
def test_a_long_prompt_does_not_stop_the_streams_and_is_read_beside_them(
    tiny: Callable[[TinyKind], Tiny], streams: int
) -> None:
    model = tiny("llama")
    driver = build(model)
    names = [f"stream {number}" for number in range(streams)]
    for number, name in enumerate(names):
        driver.submit(name, model.prompt(number, 10), 120)
    driver.run_until(lambda: all(len(driver.said(name)) > 10 for name in names))
    asked_s = driver.clock.now_s
    driver.submit("book", model.prompt(99, BOOK), 3)
    times = watched(driver, [*names, "book"])
    # decode may ask for as much time as the reading takes, and in whole steps
    assert BOOK * TOKEN_S <= times["book"][0] - asked_s <= 3 * BOOK * TOKEN_S
    for name in names:
        assert max(gaps(times[name])) <= 5 * STEP_S
        between = sum(asked_s <= now_s <= times["book"][0] for now_s in times[name])
        assert between >= 0.3 * BOOK * TOKEN_S / STEP_S
    assert max(driver.model.read) <= 4 * STEP_S / TOKEN_S
    driver.check_answers(model.runs)


def test_streams_are_never_held_up_for_longer_than_was_asked_for(tiny: Callable[[TinyKind], Tiny]) -> None:
    model = tiny("llama")
    driver = build(model, stall_ms=20, decode_share=0.0)
    driver.submit("stream", model.prompt(1, 10), 80)
    driver.run_until(lambda: len(driver.said("stream")) > 5)
    for number in range(4):
        driver.submit(f"r{number}", model.prompt(2 + number, 300), 2)
    times = watched(driver, ["stream"])
    assert max(gaps(times["stream"])) <= 0.020 + 2 * STEP_S


def test_the_share_of_decode_is_what_was_asked_for(tiny: Callable[[TinyKind], Tiny]) -> None:
    model = tiny("llama")
    drawn = {}
    for share in (0.0, 0.5, 0.8):
        driver = build(model, decode_share=share)
        names = [f"stream {number}" for number in range(4)]
        for number, name in enumerate(names):
            driver.submit(name, model.prompt(number, 10), 120)
        driver.run_until(lambda driver=driver, names=names: all(len(driver.said(name)) > 3 for name in names))
        steps = driver.loop.outbox.counts.steps
        driver.submit("book", model.prompt(9, 240), 1)
        driver.run_until(lambda driver=driver: len(driver.said("book")) == 1)
        drawn[share] = driver.loop.outbox.counts.steps - steps
    # four run and one waits, so four fifths of the share are decode's: of 240 ms of reading, in steps of 10 ms
    assert drawn[0.0] < drawn[0.5] < drawn[0.8]
    for share, steps in drawn.items():
        owed_s = 240 * TOKEN_S * 0.8 * share / (1 - 0.8 * share)
        assert steps * STEP_S >= 0.9 * owed_s


def test_a_question_is_answered_before_the_book_that_came_first(tiny: Callable[[TinyKind], Tiny]) -> None:
    model = tiny("llama")
    driver = build(model, prefill_tokens=64)
    driver.submit("book", model.prompt(1, 1500), 3)
    driver.step(2)
    driver.submit("question", model.prompt(2, 20), 3)
    times = watched(driver, ["book", "question"])
    assert times["question"][0] < times["book"][0]


def test_the_book_is_read_though_questions_keep_coming(tiny: Callable[[TinyKind], Tiny]) -> None:
    model = tiny("llama")
    driver = build(model, max_batch=4)
    driver.submit("book", model.prompt(1, 400), 2)
    for number in range(80):
        driver.submit(f"question {number}", model.prompt(2, 40), 1, salt=str(number))
        driver.step(2)
        if driver.said("book"):
            break
    assert number < 60
    driver.run()
    driver.check_answers(model.runs)


def test_an_urgent_request_overtakes_those_that_wait_and_age_overtakes_it(tiny: Callable[[TinyKind], Tiny]) -> None:
    model = tiny("llama")
    driver = build(model, max_batch=1, ageing_s=10.0)
    driver.submit("running", model.prompt(1, 5), 8, priority=Priority.HIGH)
    driver.step(3)
    driver.submit("low", model.prompt(2, 5), 2, priority=Priority.LOW)
    driver.clock.now_s += 25.0
    for number, priority in enumerate((Priority.LOW, Priority.NORMAL, Priority.HIGH)):
        driver.submit(priority.name, model.prompt(3 + number, 5), 2, priority=priority)
    driver.run()
    ends = [event.request_id for event in driver.events if isinstance(event, Ended)]
    # twenty-five seconds make low as good as high, and it came first
    assert ends == ["running", "low", "HIGH", "NORMAL", "LOW"]


# what is told and counted


def test_every_prompt_is_told_from_its_first_look_to_its_last_chunk(tiny: Callable[[TinyKind], Tiny]) -> None:
    model = tiny("llama")
    driver = build(model, prefill_tokens=32)
    driver.submit("a", model.prompt(1, 100), 2)
    driver.run()
    told = driver.prefilled["a"]
    assert [event.done for event in told] == [0, 32, 64, 96, 99]
    assert {(event.total, event.cached) for event in told} == {(100, 0)}
    driver.submit("a again", model.prompt(1, 100), 2)
    driver.run()
    assert driver.prefilled["a again"] == [Prefilled("a again", 96, 100, 96), Prefilled("a again", 99, 100, 96)]


def test_tokens_of_a_step_are_told_when_it_is_done_and_in_order(tiny: Callable[[TinyKind], Tiny]) -> None:
    model = tiny("llama")
    driver = build(model)
    driver.submit("a", model.prompt(1, 10), 6, n=2)
    driver.run()
    drawn = [(event.index, event.token) for event in driver.events if isinstance(event, Drawn)]
    assert [index for index, _ in drawn] == [0, 1] * 6
    assert isinstance(driver.events[-1], Ended)


def test_the_counts_are_those_of_what_happened(tiny: Callable[[TinyKind], Tiny]) -> None:
    model = tiny("llama")
    driver = build(model)
    driver.submit("a", model.prompt(1, 40), 5, n=3)
    driver.run()
    driver.submit("b", model.prompt(1, 40), 7)
    driver.submit("c", model.prompt(2, 8), 50)
    driver.run_until(lambda: len(driver.said("c")) >= 3)
    driver.loop.abort("c")
    driver.run()
    counts = driver.loop.outbox.counts
    assert (counts.prompt_tokens, counts.cached_tokens) == (40 + 40 + 8, 32)
    assert (counts.finished, counts.aborted, counts.forks, counts.preemptions) == (4, 1, 2, 0)
    assert counts.drawn_tokens == sum(len(said) for said in driver.tokens.values())
    assert counts.largest_batch == 3
    assert 5 + 7 <= counts.steps <= 5 + 7 + 6


def test_progress_is_seen_while_prompts_are_read_and_tokens_drawn(tiny: Callable[[TinyKind], Tiny]) -> None:
    model = tiny("llama")
    driver = build(model, prefill_tokens=64)
    driver.submit("a", model.prompt(1, 600), 20)
    seen = set()
    while not driver.loop.is_idle:
        driver.step()
        seen.add(driver.loop.last_progress_s)
        assert driver.clock.now_s - driver.loop.last_progress_s <= 2 * STEP_S
    assert len(seen) > 15
