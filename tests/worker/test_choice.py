"""Tokens become pieces: stop strings, reasoning, calls, halves of characters and log probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from mlxctl.worker.choice import LEAST_LOGPROB, Choice, Delta, Reading
from mlxctl.worker.parsers.base import Content, Parser, Piece, Reasoning, ToolCall
from mlxctl.worker.parsers.plain import PlainParser
from mlxctl.worker.types import TokenLogprobs
from tests.fakes.echo_engine import END, ByteTokenizer, TagParser, said


def reading(parser: Callable[[], Parser] = PlainParser, **more: Any) -> Reading:
    return Reading(ByteTokenizer(), parser, **more)


def tagged(*, inside: bool = False, **more: Any) -> Reading:
    return reading(lambda: TagParser(inside_reasoning=inside), inside_reasoning=inside, **more)


def read(
    given: Reading, text: str | bytes, *, end: str | None = "stop", each: bool = False
) -> tuple[list[Piece], Choice]:
    """Push a text; taken after each token, or once at the end."""
    choice = Choice(0, given)
    pieces: list[Piece] = []

    def take() -> None:
        if (delta := choice.take()) is not None:
            pieces.extend(delta.pieces)

    for token in said(text) if isinstance(text, str) else text:
        choice.push(token, None)
        if each:
            take()
    if end is not None:
        choice.finish(end, END)  # type: ignore[arg-type]
    take()
    return pieces, choice


CALL_F = ToolCall(0, '{"a":1}', "f", "call_0")

STORIES: dict[str, tuple[Reading, str, list[Piece], str]] = {
    "plain": (reading(), "hello", [Content("hello")], "stop"),
    "nothing at all": (reading(), "", [], "stop"),
    "stop string": (reading(stop=("lo",)), "hello world", [Content("hel")], "stop"),
    "stop string at once": (reading(stop=("h",)), "hello", [], "stop"),
    "a stop string that never comes": (reading(stop=("lol",)), "hello", [Content("hello")], "stop"),
    "the first of several": (reading(stop=("wor", "ell")), "hello world", [Content("h")], "stop"),
    "a tag that nobody took is no text": (reading(), "one<call>two", [Content("onetwo")], "stop"),
    "nor in thoughts": (tagged(inside=True), "h<end>m</think>y<end>es", [Reasoning("hm"), Content("yes")], "stop"),
    "but it may be asked to end the text": (reading(stop=("<call>",)), "one<call>two", [Content("one")], "stop"),
    "and a completion is all that was written": (reading(continues=True), "a<call>b", [Content("a<call>b")], "stop"),
    "what only looks like a tag is text": (reading(), "a <cal l>b", [Content("a <cal l>b")], "stop"),
    "thoughts": (tagged(inside=True), "hm</think>yes", [Reasoning("hm"), Content("yes")], "stop"),
    "a stop string is not looked for in thoughts": (
        tagged(inside=True, stop=("m",)),
        "hm</think>yesm",
        [Reasoning("hm"), Content("yes")],
        "stop",
    ),
    "nor in arguments": (
        tagged(stop=("a",)),
        '<call>f|{"a":1}</call>',
        [CALL_F],
        "tool_calls",
    ),
    "text held for a stop string comes before the call": (
        tagged(stop=("xy",)),
        'x<call>f|{"a":1}</call>',
        [Content("x"), CALL_F],
        "tool_calls",
    ),
    "a stop string does not reach over a call": (
        tagged(stop=("xy",)),
        'x<call>f|{"a":1}</call>y',
        [Content("x"), CALL_F, Content("y")],
        "tool_calls",
    ),
    "two calls": (
        tagged(),
        '<call>f|{"a":1}</call><call>g|{}</call>',
        [CALL_F, ToolCall(1, "{}", "g", "call_1")],
        "tool_calls",
    ),
    "one call where one is wanted": (
        tagged(parallel_tool_calls=False),
        '<call>f|{"a":1}</call><call>g|{}</call>',
        [CALL_F],
        "tool_calls",
    ),
}


@pytest.mark.parametrize("each", [False, True], ids=["at once", "token by token"])
@pytest.mark.parametrize("name", STORIES)
def test_stories(name: str, each: bool) -> None:
    given, text, expected, reason = STORIES[name]
    pieces, choice = read(given, text, each=each)
    assert joined(pieces) == joined(expected)
    assert choice.finish_reason == reason
    if not each:
        assert pieces == expected


def joined(pieces: list[Piece]) -> list[tuple[str, str, str | None]]:
    """Neighbours as one, so that two ways to cut a text compare equal."""
    told: list[tuple[str, str, str | None]] = []
    for piece in pieces:
        kind = type(piece).__name__ + (str(piece.index) if isinstance(piece, ToolCall) else "")
        text = piece.arguments if isinstance(piece, ToolCall) else piece.text
        name = piece.name if isinstance(piece, ToolCall) else None
        if told and told[-1][0] == kind:
            told[-1] = (kind, told[-1][1] + text, told[-1][2])
        else:
            told.append((kind, text, name))
    return told


def test_half_a_character_waits_for_the_other() -> None:
    pieces, _ = read(reading(), "é€😀".encode(), each=True)
    assert pieces == [Content("é"), Content("€"), Content("😀")]


def test_half_a_character_at_the_end_is_told() -> None:
    pieces, _ = read(reading(), b"a\xc3")
    assert pieces == [Content("a\ufffd")]


@pytest.mark.parametrize(("reason", "text", "told"), [("length", "ab", "length"), ("length", "<call>f|{", "length")])
def test_a_cut_answer_says_so(reason: str, text: str, told: str) -> None:
    _, choice = read(tagged(), text, end=reason)
    assert choice.finish_reason == told


def test_nothing_is_read_after_the_end() -> None:
    choice = Choice(0, reading(stop=("b",)))
    for token in b"abc":
        choice.push(token, None)
    assert choice.finish_reason == "stop"
    assert choice.num_tokens == 2
    choice.finish("length", None)
    assert choice.finish_reason == "stop"
    assert choice.take() == Delta(0, (Content("a"),))
    assert choice.take() is None


def test_reasoning_tokens_are_counted() -> None:
    _, choice = read(tagged(inside=True), "abc</think>de")
    assert (choice.num_tokens, choice.num_reasoning_tokens) == (6, 4)


def scored(token: int) -> TokenLogprobs:
    return TokenLogprobs(-0.25, ((token, -0.25), (65, -math.inf)))


def deltas(given: Reading, tokens: list[int]) -> list[Delta]:
    choice = Choice(2, given)
    told = []
    for token in tokens:
        choice.push(token, scored(token))
        told.append(choice.take())
    choice.finish("stop", END)
    told.append(choice.take())
    return [delta for delta in told if delta is not None]


def test_scores_come_with_their_text() -> None:
    (first, second) = deltas(reading(), said("hi"))
    assert first.index == 2
    assert (first.tokens[0].text, first.tokens[0].data, first.tokens[0].logprob) == ("h", b"h", -0.25)
    assert [(one.text, one.logprob) for one in second.tokens[0].top] == [("i", -0.25), ("A", LEAST_LOGPROB)]


def test_the_bytes_of_a_character_in_several_tokens() -> None:
    (only,) = deltas(reading(), list("é".encode()))
    assert [token.data for token in only.tokens] == [b"\xc3", b"\xa9"]


def test_thoughts_tags_and_calls_have_no_scores() -> None:
    told = deltas(tagged(inside=True), said('t</think>c<call>f|{"a":1}</call>d'))
    assert [token.text for delta in told for token in delta.tokens] == ["c", "d"]


def test_scores_of_held_text_are_not_lost() -> None:
    told = deltas(reading(stop=("xyz",)), said("axy"))
    assert "".join(token.text for delta in told for token in delta.tokens) == "axy"
    assert "".join(piece.text for delta in told for piece in delta.pieces if isinstance(piece, Content)) == "axy"
