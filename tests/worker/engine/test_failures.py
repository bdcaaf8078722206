"""A model that breaks down: whoever asked is told, nobody else suffers, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mlxctl.worker.errors import EngineFailed
from tests.fakes.tiny_models import TinyKind
from tests.worker.engine.driving import Driver, Tiny, build


def poisoned(driver: Driver, token: int) -> None:
    """The model fails whenever it is fed `token` in a prompt."""
    driver.model.fails = lambda tokens: tokens.shape[1] > 1 and token in tokens[0].tolist()


@pytest.mark.parametrize("n", [1, 3])
def test_a_prompt_that_breaks_the_model_fails_alone(tiny: Callable[[TinyKind], Tiny], n: int) -> None:
    model = tiny("llama")
    driver = build(model)
    bad = model.vocab_size - 1
    poisoned(driver, bad)
    driver.submit("good", model.prompt(1, 30), 12)
    driver.submit("bad", (*model.prompt(2, 20), bad, 5), 12, n=n)
    driver.submit("good too", model.prompt(3, 50), 12)
    driver.run()
    assert isinstance(driver.failed["bad"].error, EngineFailed)
    assert "out of memory" in driver.failed["bad"].error.message
    assert set(driver.failed) == {"bad"}
    assert len(driver.said("good")) == len(driver.said("good too")) == 12
    driver.check_drained()
    driver.check_answers(model.runs)


def test_a_step_that_breaks_fails_those_at_hand_and_the_next_ones_are_served(
    tiny: Callable[[TinyKind], Tiny],
) -> None:
    model = tiny("llama")
    driver = build(model, max_batch=2)
    for number in range(4):
        driver.submit(f"r{number}", model.prompt(number, 20), 10)
    driver.run_until(lambda: len(driver.said("r0")) > 2)
    driver.model.fails = lambda tokens: tokens.shape[1] == 1
    with pytest.raises(RuntimeError) as raised:
        driver.step()
    driver.model.fails = lambda tokens: False
    driver.take(driver.loop.fail(raised.value))
    assert set(driver.failed) == {"r0", "r1", "r2", "r3"}
    driver.check_drained()
    driver.submit("after", model.prompt(0, 20), 10)
    driver.run()
    assert len(driver.said("after")) == 10
    driver.check_answers(model.runs)


class BrokenGrammar:
    """Allows everything, and breaks off after some tokens."""

    def __init__(self, lasts: int) -> None:
        self.lasts, self.error, self.is_done = lasts, "", False

    def matcher(self) -> BrokenGrammar:
        return BrokenGrammar(self.lasts)

    def accept(self, token: int) -> bool:
        self.lasts -= 1
        if self.lasts < 0:
            self.error = "the lexer has too many states"
        return self.lasts >= 0

    def fill_mask(self, row) -> None:
        row[:] = -1


def test_a_grammar_that_breaks_off_is_an_error_and_not_half_an_answer(tiny: Callable[[TinyKind], Tiny]) -> None:
    model = tiny("llama")
    driver = build(model)
    driver.submit("constrained", model.prompt(1, 10), 30, grammar=BrokenGrammar(4), n=2)
    driver.submit("free", model.prompt(2, 10), 12)
    driver.run()
    assert "too many states" in driver.failed["constrained"].error.message
    assert max(len(driver.said("constrained", index)) for index in range(2)) <= 4
    assert len(driver.said("free")) == 12
    driver.check_drained()
