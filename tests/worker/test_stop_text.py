"""Stop strings, over any division of the text."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxctl.worker.stop_text import StopText


def told(stops: list[str], parts: list[str]) -> tuple[str, bool]:
    """All that is released, and whether a stop string was hit."""
    stop = StopText(stops)
    out, hit = "", False
    for part in parts:
        text, now = stop.push(part)
        assert not (hit and text)
        assert now or not hit
        out, hit = out + text, now
    return out + stop.finish(), hit


@pytest.mark.parametrize(
    ("stops", "text", "released", "hit"),
    [
        (["\n"], "one\ntwo", "one", True),
        (["END"], "the END.", "the ", True),
        (["END"], "the EN", "the EN", False),
        (["END"], "the ENEND", "the EN", True),
        (["aab"], "aaab", "a", True),
        (["ababc"], "abababc", "ab", True),
        (["b", "abc"], "abc", "a", True),
        (["bc", "abc"], "abc", "", True),
        (["abc", "bc"], "xbc", "x", True),
        (["abcd", "bx"], "abx", "a", True),
        (["."], ".", "", True),
        (["x", "x"], "ax", "a", True),
        (["日本"], "in 日日本", "in 日", True),
        ([""], "all", "all", False),
        ([], "all", "all", False),
        (["no"], "", "", False),
    ],
)
def test_where_text_ends(stops: list[str], text: str, released: str, hit: bool) -> None:
    assert told(stops, [text]) == (released, hit)
    assert told(stops, list(text)) == (released, hit)


def test_only_what_may_still_become_a_stop_string_is_held_back() -> None:
    stop = StopText(["</end>", "ok"])
    assert [stop.push(char) for char in "ab<o</e"] == [
        ("a", False),
        ("b", False),
        ("", False),
        ("<", False),
        ("o", False),
        ("", False),
        ("", False),
    ]
    assert stop.push("x") == ("</ex", False)
    assert stop.push("y</end>z") == ("y", True)
    assert stop.push("more") == ("", True)
    assert stop.finish() == ""


def test_finish_gives_what_was_held_once() -> None:
    stop = StopText(["stop"])
    assert stop.push("a sto") == ("a ", False)
    assert stop.finish() == "sto"
    assert stop.finish() == ""


def expected(stops: list[str], text: str) -> tuple[str, bool]:
    """The obvious way: at the first end of any match, cut the longest that ends there."""
    for end in range(len(text) + 1):
        ending = [stop for stop in stops if stop and text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


FEW = st.text(alphabet="ab<", max_size=5)


@settings(max_examples=300, deadline=None)
@given(st.lists(FEW, max_size=4), st.lists(st.text(alphabet="ab<", max_size=6), max_size=8))
def test_any_stops_in_any_division(stops: list[str], parts: list[str]) -> None:
    assert told(stops, parts) == expected(stops, "".join(parts))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.text(max_size=4), max_size=3), st.lists(st.text(max_size=5), max_size=5))
def test_any_unicode(stops: list[str], parts: list[str]) -> None:
    assert told(stops, parts) == expected(stops, "".join(parts))


def test_long_stop_strings_that_nearly_match_cost_no_more_than_the_text() -> None:
    """Character by character, a search from each place anew would take 10^9 steps."""
    text = "a" * 100_000
    before = time.process_time()
    assert told(["a" * 10_000 + "b"], list(text))[1] is False
    assert time.process_time() - before < 5
