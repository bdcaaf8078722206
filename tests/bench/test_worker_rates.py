"""The benchmark's arithmetic, on streams written down by hand."""

from __future__ import annotations

import pytest

from bench.worker.rates import Stream, decode_rate, longest_gap, usual_gap, whole_rate


def steady(sent: float, first: float, step: float, count: int, tokens: int | None = None) -> Stream:
    times = tuple(first + step * number for number in range(count))
    return Stream(sent, times, count if tokens is None else tokens)


@pytest.mark.parametrize(
    ("streams", "rate"),
    [
        pytest.param([steady(0, 1, 0.1, 41)], 10, id="one: what comes after its first token"),
        pytest.param([steady(0, 1, 0.1, 41)] * 8, 80, id="eight in step"),
        pytest.param([steady(0, 1, 0.1, 41), steady(0, 3, 0.1, 41)], 20, id="a late one: only while both run"),
        pytest.param([steady(0, 1, 0.1, 21), steady(0, 1, 0.1, 81)], 20, id="one that ends early: the same"),
        pytest.param([steady(0, 1, 0.2, 20, tokens=40)], 10, id="two tokens a piece of text"),
        pytest.param([steady(0, 90, 0.1, 41)], 10, id="the wait for the first token does not count"),
    ],
)
def test_decode_rate_counts_the_time_in_which_all_streams_run(streams: list[Stream], rate: float) -> None:
    assert decode_rate(streams) == pytest.approx(rate, rel=0.03)


@pytest.mark.parametrize(
    "streams",
    [
        pytest.param([steady(0, 1, 0.1, 20), steady(0, 9, 0.1, 20)], id="one after the other"),
        pytest.param([steady(0, 1, 0.1, 20), steady(0, 2.6, 0.1, 20)], id="three tokens together"),
        pytest.param([Stream(0, (1.0,), 40)], id="all in one piece"),
        pytest.param([Stream(0, (1.0, 1.0, 1.0), 60)], id="no time passed"),
    ],
)
def test_decode_rate_refuses_what_says_nothing(streams: list[Stream]) -> None:
    with pytest.raises(ValueError, match="tokens came while all"):
        decode_rate(streams)


def test_the_whole_rate_is_from_the_first_request_to_the_last_token() -> None:
    assert whole_rate([steady(0, 1, 0.1, 11), steady(1, 3, 0.1, 11)]) == pytest.approx(22 / 4)
    assert steady(2, 2.5, 0.1, 3).first_wait == 0.5


STALLED = ([0.0, 0.1, 0.2, 0.3, 1.3, 1.4], [0.05, 0.15, 0.25, 0.35, 0.95, 1.45])


def test_gaps_before_and_around_an_arrival() -> None:
    assert usual_gap(STALLED, 0.0, 0.3) == pytest.approx(0.1)
    assert longest_gap(STALLED, 0.32, 1.0) == pytest.approx(1.0), "it began before, and still it counts"
    assert longest_gap(STALLED, 0.0, 0.2) == pytest.approx(0.1), "what comes later is not the arrival's doing"


@pytest.mark.parametrize("gap", [usual_gap, longest_gap])
def test_no_gap_is_an_error_and_not_zero(gap) -> None:
    with pytest.raises(ValueError, match=r"came in that time|had ended by then"):
        gap(STALLED, 5.0, 6.0)
