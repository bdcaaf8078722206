"""The oracle is mlx-lm itself: its own generator says the same, and so does a model without any cache."""

from __future__ import annotations

import mlx.core as mx
import pytest
from mlx_lm.generate import generate_step

from tests.fakes.single_runs import SingleRuns
from tests.fakes.tiny_models import TINY_KINDS, TinyKind, tiny_model

COUNT = 12


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[TinyKind, SingleRuns]:
    return {kind: SingleRuns(tiny_model(kind, tmp_path_factory.mktemp(kind))) for kind in TINY_KINDS}


@pytest.mark.parametrize("kind", TINY_KINDS)
@pytest.mark.parametrize("length", [1, 31, 45])
def test_mlx_lms_own_generator_says_the_same(runs: dict[TinyKind, SingleRuns], kind: TinyKind, length: int) -> None:
    single = runs[kind]
    prompt = single.prompt(length, length)
    told = [token for token, _ in generate_step(mx.array(prompt), single.model, max_tokens=COUNT)]
    assert single.answer(prompt, COUNT) == told


@pytest.mark.parametrize("kind", TINY_KINDS)
def test_each_token_is_the_likeliest_also_without_a_cache(runs: dict[TinyKind, SingleRuns], kind: TinyKind) -> None:
    single = runs[kind]
    prompt = single.prompt(7, 40)
    answer = single.answer(prompt, COUNT)
    logits = single.model(mx.array([[*prompt, *answer]]))[0]
    assert mx.argmax(logits[len(prompt) - 1 : -1], axis=-1).tolist() == answer


def test_an_answer_goes_on_where_it_stopped(runs: dict[TinyKind, SingleRuns]) -> None:
    single = runs["llama"]
    prompt = single.prompt(3, 9)
    assert single.answer(prompt, COUNT)[:4] == single.answer(prompt, 4)
    in_two_parts = single.answer(single.prompt(4, 9), 3), single.answer(single.prompt(4, 9), COUNT)
    assert in_two_parts[1][:3] == in_two_parts[0]
    told = [token for token, _ in generate_step(mx.array(single.prompt(4, 9)), single.model, max_tokens=COUNT)]
    assert in_two_parts[1] == told


def test_prompts_are_the_same_every_time_and_grow_at_their_end(runs: dict[TinyKind, SingleRuns]) -> None:
    single = runs["llama"]
    assert single.prompt(1, 50)[:20] == single.prompt(1, 20) != single.prompt(2, 20)
    assert all(0 < token < single.vocab_size for token in single.prompt(1, 500))


def test_a_stop_token_ends_an_answer_and_is_no_part_of_it(runs: dict[TinyKind, SingleRuns]) -> None:
    single = runs["llama"]
    prompt = single.prompt(5, 12)
    answer = single.answer(prompt, COUNT)
    stop = answer[5]
    first = answer.index(stop)
    assert single.until(prompt, COUNT, frozenset([stop])) == (answer[:first], stop)
    assert single.until(prompt, first, frozenset([stop])) == (answer[:first], None)
    assert single.until(prompt, COUNT, frozenset()) == (answer, None)
