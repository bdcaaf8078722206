"""Who goes first, who gives way, whose prompt is read next."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from mlxctl.worker.scheduler.line import aged_class, in_order, least_deserving, next_to_read, weaker
from mlxctl.worker.types import Priority

HIGH, NORMAL, LOW = Priority.HIGH, Priority.NORMAL, Priority.LOW
AGEING_S = 30.0


@dataclass(frozen=True)
class Job:
    name: str
    priority: Priority
    number: int
    waited: float = 0.0

    def waited_s(self, now_s: float) -> float:
        return self.waited + now_s


@dataclass(frozen=True)
class Row:
    name: str
    admitted: int


@pytest.mark.parametrize(
    ("priority", "waited_s", "its_class"),
    [
        (HIGH, 0, 0),
        (NORMAL, 0, 1),
        (LOW, 0, 2),
        (LOW, 29.9, 2),
        (LOW, 30, 1),
        (LOW, 60, 0),
        (LOW, 90, -1),
        (HIGH, 30, -1),
    ],
)
def test_a_class_gets_better_by_waiting(priority, waited_s, its_class):
    assert aged_class(priority, waited_s, AGEING_S) == its_class


@pytest.mark.parametrize(
    ("jobs", "order"),
    [
        ([Job("a", NORMAL, 1), Job("b", NORMAL, 2)], "ab"),
        ([Job("b", NORMAL, 2), Job("a", NORMAL, 1)], "ab"),
        ([Job("low", LOW, 1), Job("high", HIGH, 2)], ["high", "low"]),
        ([Job("a", LOW, 1), Job("b", NORMAL, 2), Job("c", HIGH, 3)], "cba"),
        # half a minute makes low as good as normal, and it came first
        ([Job("a", LOW, 1, waited=31), Job("b", NORMAL, 2)], "ab"),
        ([Job("a", LOW, 1, waited=29), Job("b", NORMAL, 2)], "ba"),
        # one and a half minutes put it before everything that is new
        ([Job("a", LOW, 9, waited=91), Job("b", HIGH, 2)], "ab"),
    ],
)
def test_the_best_class_goes_first_and_within_it_who_came_first(jobs, order):
    assert [job.name for job in in_order(jobs, 0.0, AGEING_S)] == list(order)


def test_low_does_not_starve_under_a_steady_stream_of_high():
    low = Job("low", LOW, 0)
    for second in range(200):
        newcomer = Job("high", HIGH, second + 1, waited=-float(second))
        if in_order([newcomer, low], float(second), AGEING_S)[0] is low:
            assert 60 <= second <= 61
            return
    pytest.fail("low was never first")


@pytest.mark.parametrize(
    ("running", "priority", "give_way"),
    [
        ([("a", 1, 1), ("b", 2, 1)], NORMAL, ""),
        ([("a", 1, 1), ("b", 2, 1)], HIGH, "ba"),
        ([("a", 1, 2), ("b", 2, 1), ("c", 3, 2)], HIGH, "cab"),
        ([("a", 1, 2), ("b", 2, 1), ("c", 3, 0)], NORMAL, "a"),
        # a low row that has waited long enough is as good as a high one
        ([("a", 1, 0), ("b", 2, -1)], HIGH, ""),
        ([], HIGH, ""),
    ],
)
def test_only_worse_rows_give_way_the_worst_and_latest_first(running, priority, give_way):
    rows = [(Row(name, admitted), its_class) for name, admitted, its_class in running]
    assert "".join(row.name for row in weaker(rows, priority)) == give_way


def test_where_memory_ends_the_least_urgent_and_latest_row_goes():
    rows = [(Row("a", 1), 1), (Row("b", 3), 2), (Row("c", 2), 2), (Row("d", 9), 0)]
    assert least_deserving(rows).name == "b"


@pytest.mark.parametrize(
    ("jobs", "turn", "chosen"),
    [
        # a question does not wait for a book
        ([(Job("book", NORMAL, 1), 9000), (Job("question", NORMAL, 2), 40)], 0, "question"),
        # every other turn the book is read
        ([(Job("book", NORMAL, 1), 9000), (Job("question", NORMAL, 2), 40)], 1, "book"),
        # the class comes before the length
        ([(Job("book", HIGH, 2), 9000), (Job("question", NORMAL, 1), 40)], 0, "book"),
        ([(Job("book", HIGH, 2), 9000), (Job("question", NORMAL, 1), 40)], 1, "book"),
        # of two alike the first goes first
        ([(Job("b", NORMAL, 2), 40), (Job("a", NORMAL, 1), 40)], 0, "a"),
        ([(Job("old", LOW, 1, waited=31), 500), (Job("new", NORMAL, 2), 40)], 1, "old"),
    ],
)
def test_short_prompts_are_read_first_and_old_ones_every_other_turn(jobs, turn, chosen):
    assert next_to_read(jobs, turn, 0.0, AGEING_S).name == chosen


def test_a_book_is_read_to_its_end_though_questions_never_cease():
    left = {"book": 2000}
    for turn in range(200):
        jobs = [(Job("book", NORMAL, 0), left["book"]), (Job("question", NORMAL, turn + 1), 40)]
        if next_to_read(jobs, turn, 0.0, AGEING_S).name == "book":
            left["book"] -= 20
    assert left["book"] <= 0
