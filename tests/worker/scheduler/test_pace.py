"""How long prompts are read at a stretch, so that streams keep flowing and prompts still get read."""

from __future__ import annotations

import pytest

from mlxctl.worker.scheduler.pace import (
    FIRST_CHUNK,
    LONGEST_S,
    SHORTEST_S,
    SMALLEST_CHUNK,
    STEPS_FOR_OTHERS,
    STEPS_OF_STALL,
    Pace,
)


def pace(**more) -> Pace:
    return Pace(**({"stall_s": 0.25, "decode_share": 0.5, "prefill_tokens": 2048} | more))


@pytest.mark.parametrize(
    ("step_s", "running", "coming", "turn_s"),
    [
        # nobody streams: long enough to be quick, short enough to see a newcomer or a cancel
        (0.02, 0, 3, LONGEST_S),
        # one long prompt beside eight streams: some steps
        (0.02, 8, 0, 0.02 * STEPS_OF_STALL),
        # many wait for a first token: some more
        (0.02, 1, 7, 0.02 * (STEPS_OF_STALL + STEPS_FOR_OTHERS * 7 / 8)),
        # never more than was asked for
        (0.5, 8, 1, 0.25),
        # nor less than nobody would notice
        (0.001, 8, 1, SHORTEST_S),
        (0.0, 1, 1, SHORTEST_S),
    ],
)
def test_a_turn_of_reading_is_as_long_as_streams_can_wait(step_s, running, coming, turn_s):
    assert pace(step_s=step_s).turn_s(running=running, coming=coming) == pytest.approx(turn_s)


@pytest.mark.parametrize(
    ("tokens_per_s", "left_s", "streaming", "tokens"),
    [
        (0.0, 1.0, False, FIRST_CHUNK),
        (0.0, 0.1, True, SMALLEST_CHUNK),
        (1000.0, 0.1, True, 100),
        (1000.0, 0.01, True, 0),
        (1000.0, 0.016, True, SMALLEST_CHUNK),
        (1000.0, -0.5, True, 0),
        (100_000.0, 1.0, False, 2048),
    ],
)
def test_a_chunk_is_what_can_be_read_in_the_time_that_is_left(tokens_per_s, left_s, streaming, tokens):
    assert pace(tokens_per_s=tokens_per_s).chunk_tokens(left_s, streaming=streaming) == tokens


def test_a_bound_on_the_chunk_holds_before_anything_was_timed():
    assert pace(prefill_tokens=8).chunk_tokens(1.0, streaming=False) == 8


def test_the_rate_follows_what_is_measured_and_a_few_tokens_say_nothing():
    measured = pace()
    measured.chunk_took(100, 0.1)
    assert measured.tokens_per_s == pytest.approx(1000)
    measured.chunk_took(SMALLEST_CHUNK - 1, 0.1)
    assert measured.tokens_per_s == pytest.approx(1000)
    for _ in range(30):
        measured.chunk_took(200, 0.1)
    assert measured.tokens_per_s == pytest.approx(2000, rel=0.01)


def test_decode_gets_its_share_back_before_more_is_read():
    shared = pace(decode_share=0.5)
    shared.turn_took(0.1, running=8, coming=0)
    steps = 0
    while not shared.prefill_due(streaming=True):
        shared.step_took(0.03)
        steps += 1
    assert steps == 4, "a tenth of a second of reading is owed a tenth of a second of decoding"
    assert shared.step_s == pytest.approx(0.03)


@pytest.mark.parametrize(("running", "coming", "owed_s"), [(8, 0, 0.1), (4, 4, 0.1 / 3), (0, 5, 0.0), (1, 7, 0.1 / 15)])
def test_the_more_wait_for_a_first_token_the_less_those_who_stream_may_ask(running, coming, owed_s):
    shared = pace(decode_share=0.5)
    shared.turn_took(0.1, running=running, coming=coming)
    assert shared.debt_s == pytest.approx(owed_s)


@pytest.mark.parametrize("share", [-1.0, 0.0, 0.5, 1.0, 7.0])
def test_no_share_stops_reading_for_ever(share):
    shared = pace(decode_share=share)
    shared.turn_took(0.1, running=8, coming=0)
    for _ in range(100):
        shared.step_took(0.05)
    assert shared.prefill_due(streaming=True)


def test_without_streams_there_is_nothing_to_wait_for():
    owing = pace(debt_s=5.0)
    assert owing.prefill_due(streaming=False)
    assert not owing.prefill_due(streaming=True)


def test_eight_streams_and_a_long_prompt_share_the_machine():
    """A story by the clock: 1,500 tokens at 1,000 a second come beside streams whose step takes 40 ms."""
    shared, now, read, gaps, since = pace(step_s=0.04, tokens_per_s=1000.0), 0.0, 0, [], 0.0
    while read < 1500:
        if shared.prefill_due(streaming=True):
            turn_s = shared.turn_s(running=8, coming=1)
            tokens = shared.chunk_tokens(turn_s, streaming=True)
            shared.chunk_took(tokens, tokens / 1000)
            shared.turn_took(tokens / 1000, running=8, coming=1)
            read, now = read + tokens, now + tokens / 1000
        now += 0.04
        shared.step_took(0.04)
        gaps.append(now - since)
        since = now
    assert max(gaps) <= 5 * 0.04
    assert now <= 1.5 * 3
