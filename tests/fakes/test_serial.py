"""The judge of parallel commands is judged: it finds an order where there is one, and none where there is none."""

from __future__ import annotations

import pytest

from tests.fakes.serial import Command, serial_order

EXPERIMENTAL = range(20, 40)


def load(model: str, port: int, *, word: str = "auto", at: tuple[float, float] = (0, 9), code: int = 0) -> Command:
    return Command(("load", model, word), *at, code, port, model)


def unload(word: str, port: int | None, model: str | None, at: tuple[float, float] = (0, 9), code: int = 0) -> Command:
    return Command(("unload", word), *at, code, port, model)


FITS = {
    "nothing happened": ([], {}),
    "two models, two ports": ([load("a", 20), load("b", 21)], {20: "a", 21: "b"}),
    "auto keeps the port that a model has": ([load("a", 20), load("a", 20)], {20: "a"}),
    "a replacement": ([load("a", 3, word="3"), load("b", 3, word="3")], {3: "b"}),
    "a replacement the other way round": ([load("a", 3, word="3"), load("b", 3, word="3")], {3: "a"}),
    "a move": ([load("a", 20, at=(0, 1)), load("a", 3, word="3", at=(2, 3))], {3: "a"}),
    "unloaded by port": ([load("a", 20), unload("20", 20, "a")], {}),
    "unloaded by name": ([load("a", 20), unload("a", 20, "a")], {}),
    "an unload that came too early": ([load("a", 20), unload("a", None, None, code=4)], {20: "a"}),
    "one of two unloads": ([load("a", 20), unload("20", 20, "a"), unload("a", None, None, code=4)], {}),
}
FAILS = {
    "a lost load": ([load("a", 20)], {}),
    "a model that nobody loaded": ([], {20: "a"}),
    "one port for two": ([load("a", 20), load("b", 20)], {20: "b"}),
    "auto on a team port": ([load("a", 3)], {3: "a"}),
    "not the port that was asked for": ([load("a", 4, word="3")], {4: "a"}),
    "both unloads say that it was theirs": ([load("a", 20), unload("20", 20, "a"), unload("a", 20, "a")], {}),
    "the wrong model unloaded": ([load("a", 3, word="3"), load("b", 3, word="3"), unload("a", 3, "b")], {}),
    "a failed load": ([load("a", 20, code=5)], {}),
    "time runs forward": ([unload("a", None, None, (2, 3), code=4), load("a", 20, at=(0, 1))], {20: "a"}),
    "another port than the model's own": ([load("a", 20, at=(0, 1)), load("a", 21, at=(2, 3))], {21: "a"}),
}


@pytest.mark.parametrize(("commands", "last"), FITS.values(), ids=FITS.keys())
def test_an_order_is_found(commands: list[Command], last: dict[int, str]) -> None:
    order = serial_order(commands, frozenset(last.items()), EXPERIMENTAL)
    assert order is not None
    assert sorted(map(id, order)) == sorted(map(id, commands))


@pytest.mark.parametrize(("commands", "last"), FAILS.values(), ids=FAILS.keys())
def test_no_order_is_found(commands: list[Command], last: dict[int, str]) -> None:
    assert serial_order(commands, frozenset(last.items()), EXPERIMENTAL) is None
