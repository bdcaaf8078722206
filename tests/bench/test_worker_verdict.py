"""Met, missed, tie or not measured; and the table that goes into bench/README.md."""

from __future__ import annotations

import pytest

from bench.worker.bars import ENGINE, GENERATOR, MLX_LM, OURS, SERVERS, bars
from bench.worker.scenarios import SCENES
from bench.worker.verdict import Bar, judge, number, table

FASTER = Bar("tokens/s", "rate", "a", "b", limit=1.0, ties=True)
STRICT = Bar("tokens/s", "rate", "a", "b", limit=1.5)
SOONER = Bar("wait", "rate", "a", "b", at="most", limit=0.3)
ALONE = Bar("gap", "rate", "a", at="most", limit=5.0)
TOLD = Bar("only told", "rate", "a", "b")


@pytest.mark.parametrize(
    ("bar", "a", "b", "ratio", "verdict"),
    [
        (FASTER, [11, 12, 13], [10, 10, 10], 1.2, "met"),
        (FASTER, [10, 10, 10], [10, 10, 10], 1.0, "met"),
        (FASTER, [8, 9, 10.5], [10, 10, 10], 0.9, "tie"),
        (FASTER, [8, 9, 9.5], [10, 10, 11], 0.9, "missed"),
        (FASTER, [9, 9, 9], [8, 10, 12], 0.9, "tie"),
        (STRICT, [14, 14, 16], [10, 10, 15], 1.4, "missed"),
        (STRICT, [15, 15, 15], [10, 10, 10], 1.5, "met"),
        (SOONER, [1, 1, 9], [10, 10, 10], 0.1, "met"),
        (SOONER, [4, 4, 4], [10, 10, 10], 0.4, "missed"),
        (ALONE, [4.9, 3, 6], [], 4.9, "met"),
        (ALONE, [5.1, 3, 6], [], 5.1, "missed"),
        (TOLD, [5, 5], [10, 10], 0.5, ""),
        (FASTER, [], [10], None, "not measured"),
        (FASTER, [10], [], None, "not measured"),
        (TOLD, [], [10], None, ""),
    ],
)
def test_medians_are_judged_and_ranges_decide_a_tie(
    bar: Bar, a: list[float], b: list[float], ratio: float | None, verdict: str
) -> None:
    outcome = judge(bar, {("rate", "a"): a, ("rate", "b"): b})
    assert (outcome.ratio, outcome.verdict) == (ratio if ratio is None else pytest.approx(ratio), verdict)


def test_a_figure_may_stand_beside_another_of_the_same_side() -> None:
    bar = Bar("warm", "warm", "a", "a", "alone", at="most", limit=1.6)
    assert judge(bar, {("warm", "a"): [3.0], ("alone", "a"): [2.0]}).verdict == "met"


def test_every_line_of_the_table_has_as_many_cells() -> None:
    samples = {("rate", "a"): [0.051234, 1234.5, 7], ("rate", "b"): [49_545_216.0]}
    lines = table([judge(bar, samples) for bar in (FASTER, STRICT, SOONER, ALONE, TOLD)]).splitlines()
    assert {line.count("|") for line in lines} == {13}
    assert lines[2] == "| tokens/s | a | 7 | 0.0512 | 1234 | b | 49.5M | 49.5M | 49.5M | 0.00 | ≥ 1 | missed |"
    assert lines[5].startswith("| gap | a | 7 |") and lines[5].endswith("| 7.00 | ≤ 5 | missed |")


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0123456, "0.0123"), (9.876, "9.88"), (123.4, "123"), (5120.4, "5120"), (2.5e6, "2.5M")]
)
def test_numbers_are_short(value: float, shown: str) -> None:
    assert number(value) == shown


def test_each_bar_has_a_scene_that_measures_both_of_its_sides() -> None:
    """A bar whose figure nobody measures would be "not measured" for ever."""
    for bar in bars(SERVERS):
        scene = next(scene for scene in SCENES if bar.figure == scene or bar.figure.startswith(f"{scene}-"))
        assert {bar.side, bar.base or bar.side} <= set(SCENES[scene][1]), bar


def test_the_bars_are_those_that_were_asked_for() -> None:
    limits = {(bar.figure, bar.side, bar.base): (bar.at, bar.limit) for bar in bars(SERVERS) if bar.limit is not None}
    for count in (1, 8, 16):
        assert limits[f"even-{count}", ENGINE, GENERATOR] == ("least", 0.95)
        assert limits[f"even-{count}", OURS, ENGINE] == ("least", 0.95)
        assert all(limits[f"even-{count}", OURS, server] == ("least", 1.0) for server in SERVERS)
    assert limits["skew", ENGINE, GENERATOR] == ("least", 1.5)
    assert limits["skew-kv", ENGINE, GENERATOR] == ("most", 0.5)
    assert limits["join", OURS, MLX_LM] == ("most", 0.3)
    assert limits["prefix-last", OURS, MLX_LM] == ("most", 0.1)
    assert limits["prefix-warm", OURS, OURS] == ("most", 1.6)
    assert limits["arrival-gap", OURS, ""] == ("most", 5.0)
    assert limits["overhead-ms", OURS, ""] == ("most", 2.0)


def test_only_the_named_servers_stand_beside() -> None:
    beside = {bar.base for bar in bars([MLX_LM])}
    assert MLX_LM in beside and not beside & set(SERVERS[1:])
