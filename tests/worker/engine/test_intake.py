"""Jobs on their way into the batch: whose turn it is, and what is left when one of them is taken out."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mlxctl.worker.engine.chains import Chains
from mlxctl.worker.engine.intake import MAX_READING, Intake
from mlxctl.worker.engine.prefill import Prefill
from mlxctl.worker.engine.sequence import Job, Sequence
from mlxctl.worker.kv.blocks import BlockStore
from mlxctl.worker.types import Generation, Priority
from tests.fakes.tiny_models import TINY_KINDS, TinyKind
from tests.worker.engine.driving import Tiny


class Desk:
    """An intake over a tiny llama with blocks of sixteen tokens."""

    def __init__(self, tiny: Tiny, ageing_s: float = 30.0) -> None:
        self.tiny, self.intake, self.number = tiny, Intake(ageing_s), 0
        self.store = BlockStore(
            block_tokens=16,
            budget_bytes=1 << 30,
            window_tokens=tiny.layout.window,
            needs_state=tiny.layout.has_state,
        )
        self.chains = Chains(tiny.model, tiny.layout, self.store)

    def job(self, prompt: tuple[int, ...], n: int = 1, priority: Priority = Priority.NORMAL, now_s: float = 0.0) -> Job:
        self.number += 1
        asked = Generation(f"r{self.number}", prompt, 5, n=n, priority=priority)
        return Job([Sequence.of(asked, index, now_s, self.number) for index in range(n)])

    def wait(self, job: Job) -> Job:
        self.intake.waiting.append(job)
        return job

    def read(self, job: Job, tokens: int = 0) -> Prefill:
        prefill = Prefill(self.tiny.model, self.chains, job)
        self.intake.reading.append(prefill)
        while prefill.done < tokens:
            prefill.read(16)
        return prefill


@pytest.fixture
def desk(tiny: Callable[[TinyKind], Tiny]) -> Desk:
    return Desk(tiny("llama"))


def test_an_empty_intake_is_false_and_counts_what_comes(desk: Desk) -> None:
    assert not desk.intake
    desk.wait(desk.job(desk.tiny.prompt(1, 9), n=2))
    assert desk.intake
    assert (desk.intake.rows_to_come, desk.intake.coming) == (0, 1)
    desk.read(desk.job(desk.tiny.prompt(2, 9), n=3))
    assert (desk.intake.rows_to_come, desk.intake.coming) == (3, 4)
    assert len(list(desk.intake.sequences())) == 5


def test_only_some_are_read_at_once(desk: Desk) -> None:
    for number in range(MAX_READING):
        assert not desk.intake.is_full
        desk.read(desk.job(desk.tiny.prompt(number, 40)))
    assert desk.intake.is_full


def test_the_order_is_that_of_class_age_and_arrival(tiny: Callable[[TinyKind], Tiny]) -> None:
    desk = Desk(tiny("llama"), ageing_s=10.0)
    low, normal, high = (desk.wait(desk.job((1, 2), priority=priority)) for priority in reversed(Priority))
    late = desk.wait(desk.job((1, 2), priority=Priority.HIGH, now_s=20.0))
    assert desk.intake.in_order(0.0) == [high, late, normal, low]
    # after twenty seconds the lowest is as good as a newcomer of the highest
    assert desk.intake.in_order(20.0) == [high, normal, low, late]


def test_short_prompts_and_old_ones_take_turns(desk: Desk) -> None:
    book = desk.read(desk.job(desk.tiny.prompt(1, 200)))
    question = desk.read(desk.job(desk.tiny.prompt(2, 20)))
    chosen = []
    for turn in range(4):
        desk.intake.turn = turn
        chosen.append(desk.intake.next_to_read(0.0))
    assert chosen == [question, book, question, book]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_of_three_that_wait_is_taken_out(desk: Desk, place: int) -> None:
    job = desk.wait(desk.job(desk.tiny.prompt(1, 20), n=3))
    rows = list(job.sequences)
    desk.intake.drop(rows[place])
    assert job.sequences == [row for row in rows if row is not rows[place]]
    assert job.number == 1
    for row in list(job.sequences):
        desk.intake.drop(row)
    assert not desk.intake


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("kind", TINY_KINDS)
def test_who_is_taken_out_while_being_read_leaves_the_chain_to_the_others(
    tiny: Callable[[TinyKind], Tiny], kind: TinyKind, place: int
) -> None:
    desk = Desk(tiny(kind))
    prefill = desk.read(desk.job(desk.tiny.prompt(1, 60), n=2), tokens=32)
    rows = list(prefill.job.sequences)
    sealed = desk.store.blocks
    assert sealed > 0
    desk.intake.drop(rows[place])
    assert prefill.leader is rows[1 - place]
    assert desk.store.referenced == 1
    assert rows[place].lease is None
    while prefill.left:
        prefill.read(16)
    assert prefill.leader.sealed == 48
    assert desk.store.blocks > sealed
    desk.intake.drop(prefill.leader)
    assert not desk.intake
    assert desk.store.referenced == 0
    desk.store.check_integrity()


def test_what_was_read_so_far_stays_for_the_next_one(desk: Desk) -> None:
    prompt = desk.tiny.prompt(1, 100)
    prefill = desk.read(desk.job(prompt), tokens=64)
    rows = desk.intake.put_back(prefill)
    assert rows == prefill.job.sequences
    assert desk.intake.waiting == [prefill.job]
    assert desk.intake.reading == []
    assert desk.store.referenced == 0
    again = desk.read(prefill.job)
    assert (again.done, again.cached, again.target) == (64, 64, 99)


def test_a_prompt_pauses_where_another_that_waits_parts_from_it(desk: Desk) -> None:
    shared = desk.tiny.prompt(1, 70)
    first = desk.read(desk.job((*shared, 5, *desk.tiny.prompt(2, 40))))
    other = desk.job((*shared, 6, 7))
    assert first.is_worth_waiting_for(other)
    assert first.read(500) == 70
    # it has been read: nothing to wait for any more, and every token of it can be restored
    assert not first.is_worth_waiting_for(other)
    assert desk.chains.known_length(other) == 70


@pytest.mark.parametrize(
    ("shared", "other"),
    [
        # too little in common
        (10, {}),
        # somebody else's
        (60, {"salt": "you"}),
        # an urgent one does not wait for a lesser one
        (60, {"priority": Priority.HIGH}),
    ],
)
def test_what_is_not_worth_waiting_for(desk: Desk, shared: int, other: dict[str, object]) -> None:
    stem = desk.tiny.prompt(1, shared)
    first = desk.read(desk.job((*stem, 5, *desk.tiny.prompt(2, 40))))
    asked = Generation("other", (*stem, 6, 7), 5, **other)
    assert not first.is_worth_waiting_for(Job([Sequence.of(asked, 0, 0.0, 9)]))
