"""In any mix of late joiners, cache hits, cancels, forks and preemptions, every answer is that of a single run."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from mlxctl.worker.engine.grouped import MAX_GROUPS, GroupedDecoder
from mlxctl.worker.types import Priority
from tests.fakes.tiny_models import TINY_KINDS, TinyKind
from tests.worker.engine.driving import DECODERS, Driver, Tiny, build

MAX_BATCH = 6


@dataclass
class Seen:
    """What the lanes went through."""

    moves: int = 0
    groups: int = 0
    folds: int = 0
    capacities: dict[int, int] = field(default_factory=dict)

    def look(self, decoder: GroupedDecoder) -> None:
        now = {id(row): group.capacity for group in decoder.groups for row in group.rows}
        moved = [row for row, capacity in now.items() if capacity > self.capacities.get(row, capacity)]
        self.moves += len(moved)
        self.groups = max(self.groups, len(decoder.groups))
        self.capacities = now


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    found, forward, fold = Seen(), GroupedDecoder.forward, GroupedDecoder._fold_shortest

    def watched_forward(decoder, tokens):
        logits = forward(decoder, tokens)
        found.look(decoder)
        return logits

    def watched_fold(decoder):
        found.folds += 1
        fold(decoder)

    monkeypatch.setattr(GroupedDecoder, "forward", watched_forward)
    monkeypatch.setattr(GroupedDecoder, "_fold_shortest", watched_fold)
    return found


def crowd(driver: Driver, tiny: Tiny, day: int, priorities: list[Priority]) -> None:
    """A dozen requests that come while others are being read and answered; three more are cancelled."""
    chance = random.Random(day)
    shared = tiny.prompt(50, 40)
    coming = [
        ("one token", tiny.prompt(1, 1), 40, 1),
        ("short", tiny.prompt(2, 5), 60, 1),
        ("two answers", tiny.prompt(3, 33), 34, 2),
        ("longest", tiny.prompt(9, 170), 40, 1),
        ("a block", tiny.prompt(4, 17), 40, 1),
        ("three answers", (*shared, *tiny.prompt(5, 3)), 20, 3),
        ("long", tiny.prompt(6, 75), 60, 1),
        *((f"shared {n}", (*shared, *tiny.prompt(20 + n, 1 + 4 * n)), 12, 1) for n in range(4)),
        ("same again", tiny.prompt(4, 17), 24, 1),
        ("one token again", tiny.prompt(1, 1), 6, 1),
    ]
    for number, (name, prompt, count, n) in enumerate(coming):
        driver.submit(f"{name} {day}", prompt, count, n=n, priority=priorities[number % len(priorities)])
        driver.step(chance.choice([0, 1, 1, 3, 6]))
    cancel_in_decode(driver, f"long {day}")
    cancel_in_mid_prefill(driver, tiny, day, priorities[-1])
    cancel_while_waiting(driver, tiny, day, priorities[-1])
    driver.run()


def cancel_in_decode(driver: Driver, request_id: str) -> None:
    driver.run_until(lambda: driver.is_running(request_id) and len(driver.said(request_id)) >= 2)
    driver.loop.abort(request_id)
    driver.step()
    assert driver.ended[request_id, 0].reason == "aborted"


def cancel_in_mid_prefill(driver: Driver, tiny: Tiny, day: int, priority: Priority) -> None:
    request_id = f"cancelled in mid-prefill {day}"
    driver.submit(request_id, tiny.prompt(60 + day, 120), 5, priority=priority)
    driver.run_until(lambda: (found := driver.reading(request_id)) is not None and 0 < found.done < found.target)
    driver.loop.abort(request_id)
    driver.step()
    assert driver.ended[request_id, 0].reason == "aborted"
    assert driver.said(request_id) == []


def cancel_while_waiting(driver: Driver, tiny: Tiny, day: int, priority: Priority) -> None:
    request_id = f"cancelled while waiting {day}"
    driver.submit(request_id, tiny.prompt(8, 30), 5, priority=priority)
    assert driver.is_waiting(request_id)
    driver.loop.abort(request_id)
    driver.step()
    assert driver.ended[request_id, 0].reason == "aborted"
    assert request_id not in driver.prefilled


@pytest.mark.usefixtures("short_lanes", "little_ahead")
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("kind", TINY_KINDS)
def test_every_answer_is_that_of_a_single_run(
    tiny: Callable[[TinyKind], Tiny], kind: TinyKind, decoder: str, seen: Seen
) -> None:
    model = tiny(kind)
    driver = build(model, decoder, kv_tokens=400, max_batch=MAX_BATCH, stall_ms=30)
    counts = driver.loop.outbox.counts
    assert driver.loop.batch.decoder.name == decoder
    # all alike: whoever is preempted gave way to another's growth
    crowd(driver, model, 1, [Priority.NORMAL])
    by_memory, hits = counts.preemptions, counts.cached_tokens
    assert by_memory > 0
    assert hits > 0
    # and with everything known from the day before
    crowd(driver, model, 2, [Priority.LOW, Priority.LOW, Priority.HIGH, Priority.NORMAL])
    assert counts.preemptions > by_memory
    assert counts.cached_tokens > hits
    assert counts.largest_batch == MAX_BATCH
    assert counts.forks == 2 * (1 + 2)
    assert counts.aborted == 6
    if decoder == "grouped":
        assert seen.moves > 5
        assert seen.groups > 2
    driver.check_drained()
    driver.check_answers(model.runs)


@pytest.mark.usefixtures("short_lanes")
@pytest.mark.parametrize("kind", TINY_KINDS)
def test_more_lengths_than_groups_share_longer_lanes(
    tiny: Callable[[TinyKind], Tiny], kind: TinyKind, seen: Seen
) -> None:
    model = tiny(kind)
    # all are read in one turn, the longest last, when there are as many groups as there may be
    driver = build(model, stall_ms=5000)
    for number, length in enumerate((3, 20, 40, 70, 120, 200)):
        driver.submit(f"r{number}", model.prompt(number, length), 40)
    driver.run()
    assert driver.loop.outbox.counts.largest_batch > MAX_GROUPS
    assert seen.groups == MAX_GROUPS
    assert seen.folds > 0
    driver.check_drained()
    driver.check_answers(model.runs)
