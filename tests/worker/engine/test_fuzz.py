"""Random arrivals, cancels, waits and steps over a small memory: books that always balance, answers of single runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mlxctl.worker.types import Priority
from tests.fakes.tiny_models import TinyKind
from tests.worker.engine.driving import STEP_S, Tiny, build

STEMS = ((1, 34), (1, 20), (2, 41), (3, 1), (1, 68))
"""Seed and length of the beginnings that prompts share."""
ENDINGS = ((), (7,), (7, 11), (13, 5, 9))
MAX_BATCH = 4
AGEING_S = 100 * STEP_S


class Machine(RuleBasedStateMachine):
    def __init__(self, tiny: Tiny, totals: Counter[str]) -> None:
        super().__init__()
        self.tiny, self.totals = tiny, totals

    @initialize(
        decoder=st.sampled_from(["grouped", "grouped", "padded", "single"]),
        kv_tokens=st.sampled_from([110, 110, 160, 1000]),
        cached_tokens=st.sampled_from([None, 0, 60, 300, 1 << 20]),
        block_tokens=st.sampled_from([4, 8, 16]),
    )
    def start(self, decoder, kv_tokens, cached_tokens, block_tokens):
        layout = self.tiny.layout
        per_token = layout.full_bytes_per_token + layout.window_bytes_per_token
        self.driver = build(
            self.tiny,
            decoder,
            kv_tokens=kv_tokens,
            cache_bytes=None if cached_tokens is None else cached_tokens * per_token + 4 * layout.state_bytes,
            block_tokens=block_tokens,
            max_batch=MAX_BATCH,
            ageing_s=AGEING_S,
        )
        self.number = 0

    @rule(
        stems=st.lists(st.sampled_from(STEMS), min_size=1, max_size=4),
        ending=st.sampled_from(ENDINGS),
        count=st.integers(1, 14),
        n=st.sampled_from([1, 1, 1, 2, 3]),
        priority=st.sampled_from(Priority),
        salt=st.sampled_from(["", "", "", "you"]),
        stop_at=st.sampled_from([None, None, None, 0, 5]),
        steps=st.integers(0, 4),
    )
    def submit(self, stems, ending, count, n, priority, salt, stop_at, steps):
        for stem in stems:
            prompt = (*self.tiny.prompt(*stem), *ending)
            # the most that n rows may come to
            fitting = n if n * (len(prompt) + count) <= self.driver.loop.ledger.budget else 1
            told = [] if stop_at is None else self.tiny.runs.answer(prompt, stop_at + 1)
            self.number += 1
            self.driver.submit(
                f"r{self.number}",
                prompt,
                count,
                n=fitting,
                priority=priority,
                salt=salt,
                stop_tokens=frozenset(told[-1:]),
            )
        self.driver.step(steps)

    def open_requests(self):
        return sorted({key[0] for key in self.driver.tokens if key not in self.driver.ended})

    @precondition(lambda self: self.open_requests())
    @rule(data=st.data(), index=st.sampled_from([None, None, 0, 1]))
    def abort(self, data, index):
        self.driver.loop.abort(data.draw(st.sampled_from(self.open_requests())), index)

    @rule(times=st.integers(1, 6))
    def step(self, times):
        self.driver.step(times)

    @rule(seconds=st.sampled_from([AGEING_S / 2, 3 * AGEING_S]))
    def wait(self, seconds):
        self.driver.clock.now_s += seconds

    def teardown(self):
        if not hasattr(self, "driver"):
            return
        self.driver.run(most=1500)
        self.driver.check_drained()
        self.driver.check_answers(self.tiny.runs)
        assert not self.driver.failed
        assert set(self.driver.ended) == set(self.driver.tokens)
        self.totals.update(asdict(self.driver.loop.outbox.counts))


@pytest.mark.usefixtures("short_lanes", "little_ahead")
def test_whatever_comes_every_answer_is_right_and_nothing_is_left_over(tiny: Callable[[TinyKind], Tiny]) -> None:
    totals: Counter[str] = Counter()
    rules = settings(
        max_examples=9,
        stateful_step_count=25,
        deadline=None,
        database=None,
        # a story takes too long to be tried again in a hundred shorter versions
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    kinds: tuple[TinyKind, ...] = ("llama", "gpt_oss", "qwen3_next")
    for kind in kinds:
        run_state_machine_as_test(lambda kind=kind: Machine(tiny(kind), totals), settings=rules)
    # or the stories were too tame to tell anything
    assert totals["finished"] > 50
    for happened in ("preemptions", "forks", "cached_tokens", "aborted"):
        assert totals[happened] > 0, totals
