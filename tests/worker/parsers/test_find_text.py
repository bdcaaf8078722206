"""The first of several texts: against the obvious search, and what is held back meanwhile."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxctl.worker.parsers.find_text import Finder, Found, Patterns, patterns


@pytest.mark.parametrize(
    ("texts", "fed", "found"),
    [
        (("<a>", "<b>"), "x<b>y<a>", Found("x", "<b>", 4)),
        (("<a>",), "<a", Found("", None, 2)),
        (("<a>",), "<<a>", Found("<", "<a>", 4)),
        (("aa", "aaa"), "xaaa", Found("x", "aa", 3)),
        (("she", "he"), "ushe", Found("u", "she", 4)),
        (("he", "ushers"), "ushx", Found("ushx", None, 4)),
        (("]", "^"), "a^]", Found("a", "^", 2)),
        (("-", "\\"), "a\\", Found("a", "\\", 2)),
        ((), "abc", Found("abc", None, 3)),
    ],
)
def test_first_match(texts: tuple[str, ...], fed: str, found: Found) -> None:
    assert Finder(Patterns(texts)).feed(fed) == found


def test_reading_goes_on_behind_a_match_and_from_any_place() -> None:
    finder = Finder(patterns(("<a>",)))
    assert finder.feed("..1<a>2<a", 2) == Found("1", "<a>", 6)
    assert finder.feed("..1<a>2<a", 6) == Found("2", None, 9)
    assert finder.held() == "<a"
    assert finder.feed(">") == Found("", "<a>", 1)
    assert (finder.held(), finder.finish()) == ("", "")


def test_one_automaton_serves_many_walks() -> None:
    shared = patterns(("abc",))
    assert patterns(("abc",)) is shared
    first, second = Finder(shared), Finder(shared)
    assert first.feed("ab").text == second.feed("x").text[1:]
    assert first.feed("c").match == "abc"
    assert second.feed("c").match is None


def obvious(texts: list[str], text: str) -> list[str]:
    """Text and matches in turn: at the first end of any, the longest."""
    out, start = [], 0
    for end in range(len(text) + 1):
        ending = [one for one in texts if one and text[start:end].endswith(one)]
        if ending:
            longest = max(ending, key=len)
            out += [text[start : end - len(longest)], longest]
            start = end
    return [*out, text[start:]]


def walked(texts: list[str], parts: list[str]) -> list[str]:
    finder, out, said = Finder(Patterns(texts)), [], ""
    for part in parts:
        at = 0
        while at < len(part):
            found = finder.feed(part, at)
            said, at = said + found.text, found.end
            if found.match is not None:
                out += [said, found.match]
                said = ""
    return [*out, said + finder.finish()]


FEW = st.text(alphabet="abc", max_size=4)


@settings(max_examples=300, deadline=None)
@given(st.lists(FEW, max_size=4), st.lists(FEW, max_size=10))
def test_all_matches_in_any_division(texts: list[str], parts: list[str]) -> None:
    assert walked(texts, parts) == obvious(texts, "".join(parts))
