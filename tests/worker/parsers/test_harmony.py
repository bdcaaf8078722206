"""Harmony on token ids: its channels, and every way in which models bend them."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxctl.worker.parsers.base import Content, Piece, Reasoning
from mlxctl.worker.parsers.harmony import HarmonyParser
from tests.worker.parsers.reading import Answer, answer_of

IDS = {
    "<|return|>": 200002,
    "<|constrain|>": 200003,
    "<|channel|>": 200005,
    "<|start|>": 200006,
    "<|end|>": 200007,
    "<|message|>": 200008,
    "<|call|>": 200012,
}
STOPS = (IDS["<|return|>"], IDS["<|call|>"])
_SPLIT = re.compile("(" + "|".join(map(re.escape, IDS)) + ")")

Token = tuple[int, str]


def tokens(text: str, size: int = 1) -> list[Token]:
    """The ids and spellings of an answer: specials by the table, the rest in pieces of `size` characters."""
    found: list[Token] = []
    for part in _SPLIT.split(text):
        if part in IDS:
            found.append((IDS[part], part))
        else:
            found.extend((ord(part[place]), part[place : place + size]) for place in range(0, len(part), size))
    return found


def lagging(given: list[Token], lag: int) -> list[Token]:
    """As a detokenizer gives text: up to `lag` tokens late, and all of it by the next special token."""
    out, held, waited = [], "", 0
    for token, text in given:
        held, waited = held + text, waited + 1
        if token in IDS.values() or waited > lag:
            out.append((token, held))
            held, waited = "", 0
        else:
            out.append((token, ""))
    return [*out, (-1, held)]


def unspelled(given: list[Token]) -> list[Token]:
    """A detokenizer that leaves special tokens out of the text."""
    return [(token, "" if token in IDS.values() else text) for token, text in given]


def pieces_of(given: list[Token]) -> Iterator[Piece]:
    """As the worker does it: a stop token is told at the end and never pushed."""
    parser = HarmonyParser(IDS.get)
    rest = ""
    for token, text in given:
        if token in STOPS:
            yield from parser.finish(token, text.removesuffix("<|return|>").removesuffix("<|call|>"))
            return
        if token == -1:
            rest = text
        else:
            yield from parser.push(token, text)
    yield from parser.finish(None, rest)


def read(text: str) -> Answer:
    ways = [tokens(text), tokens(text, 3), tokens(text, 1000), unspelled(tokens(text, 4))]
    ways += [lagging(tokens(text, size), lag) for size in (1, 4) for lag in (1, 3, 50)]
    answers = {answer_of(pieces_of(way)) for way in ways}
    assert len(answers) == 1, answers
    return answers.pop()


THINK = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"
CALLED = (("f", '{"a": 1}'),)

ANSWERS = [
    ("<|channel|>final<|message|>Hello.<|return|>", Answer("Hello.")),
    ("<|channel|>final<|message|>Hello.", Answer("Hello.")),
    (f"{THINK}<|channel|>final<|message|>Hello.<|return|>", Answer("Hello.", (), "Hm.")),
    (f"{THINK}<|channel|>final <|constrain|>json<|message|>{{}}<|return|>", Answer("{}", (), "Hm.")),
    (
        f'{THINK}<|channel|>commentary to=functions.f <|constrain|>json<|message|>{{"a": 1}}<|call|>',
        Answer("", CALLED, "Hm."),
    ),
    ('<|channel|>commentary to=functions.f<|message|>{"a": 1}<|call|>', Answer("", CALLED)),
    ('<|channel|>commentary to=functions.f json<|message|>{"a": 1}<|call|>', Answer("", CALLED)),
    (' to=functions.f<|channel|>commentary<|message|>{"a": 1}<|call|>', Answer("", CALLED)),
    (' to=functions.f<|channel|>commentary <|constrain|>json<|message|>{"a": 1}<|call|>', Answer("", CALLED)),
    (f'{THINK} to=functions.f<|channel|>commentary json<|message|>{{"a": 1}}<|call|>', Answer("", CALLED, "Hm.")),
    (' to=functions.f <|constrain|>json<|message|>{"a": 1}<|call|>', Answer("", CALLED)),
    (' to=functions.f<|message|>{"a": 1}<|call|>', Answer("", CALLED)),
    ('<|channel|>analysis to=functions.f code<|message|>{"a": 1}<|call|>', Answer("", CALLED)),
    ('<|channel|>analysis to=functions.f <|constrain|>code<|message|>{"a": 1}<|call|>', Answer("", CALLED)),
    ('<|channel|>commentary to=f<|message|>{"a": 1}<|call|>', Answer("", CALLED)),
    ("<|channel|>analysis to=python code<|message|>print(1)<|call|>", Answer("", (("python", "print(1)"),))),
    ("<|channel|>commentary to=functions.f<|message|><|call|>", Answer("", (("f", "{}"),))),
    # the end is missing, or another than meant
    ('<|channel|>commentary to=functions.f<|message|>{"a": 1}', Answer("", CALLED)),
    ('<|channel|>commentary to=functions.f<|message|>{"a": 1}<|end|>', Answer("", CALLED)),
    ('<|channel|>commentary to=functions.f<|message|>{"a": 1}<|return|>', Answer("", CALLED)),
    ('<|channel|>commentary to=functions.f<|message|>{"a', Answer("", (("f", '{"a'),))),
    ("<|channel|>commentary to=functions.f<|message|>", Answer("", (("f", ""),))),
    ("<|channel|>commentary to=functions.f", Answer()),
    ("<|channel|>comm", Answer()),
    (" to=functions.f", Answer()),
    # several messages
    (
        f"{THINK}<|channel|>commentary<|message|>I will look.<|end|><|start|>assistant"
        '<|channel|>commentary to=functions.f<|message|>{"a": 1}<|call|>',
        Answer("I will look.", CALLED, "Hm."),
    ),
    (
        '<|channel|>commentary to=functions.f<|message|>{"a": 1}<|end|><|start|>assistant'
        "<|channel|>commentary to=functions.g<|message|>{}<|call|>",
        Answer("", (*CALLED, ("g", "{}"))),
    ),
    (
        '<|channel|>commentary to=functions.f<|message|>{"a": 1}<|start|>assistant to=functions.g'
        "<|channel|>commentary<|message|>{}<|call|>",
        Answer("", (*CALLED, ("g", "{}"))),
    ),
    (
        f"{THINK}<|channel|>analysis<|message|>Well.<|end|><|start|>assistant<|channel|>final<|message|>Yes.<|return|>",
        Answer("Yes.", (), "Hm.\n\nWell."),
    ),
    (
        "<|channel|>commentary<|message|>First.<|end|><|start|>assistant<|channel|>final<|message|>Second.<|return|>",
        Answer("First.\n\nSecond."),
    ),
    ("<|channel|>analysis<|message|>Hm.<|channel|>final<|message|>Yes.<|return|>", Answer("Yes.", (), "Hm.")),
    ("<|channel|>analysis<|message|>Hm.<|end|><|channel|>final<|message|>Yes.<|return|>", Answer("Yes.", (), "Hm.")),
    # without a channel, without any header
    ("<|message|>Hello.<|return|>", Answer("Hello.")),
    ("Hello.<|return|>", Answer("Hello.")),
    ('{"a": 1}', Answer('{"a": 1}')),
    (" Hello, to=you", Answer(" Hello, to=you")),
    ("t", Answer("t")),
    ("", Answer()),
    (" \n<|return|>", Answer()),
    # the model plays the other roles
    (
        '<|channel|>commentary to=functions.f<|message|>{"a": 1}<|end|><|start|>functions.f to=assistant'
        "<|channel|>commentary<|message|>10:15<|end|><|start|>assistant<|channel|>final<|message|>At 10:15.<|return|>",
        Answer("10:15\n\nAt 10:15.", CALLED),
    ),
    ("<|start|>assistant<|channel|>final<|message|>Hello.<|return|>", Answer("Hello.")),
    # marks where they mean nothing
    ("<|channel|>final<|message|>a<|constrain|>b<|message|>c<|return|>", Answer("abc")),
    ("<|channel|><|message|>a<|return|>", Answer("a")),
    ("<|end|><|end|><|channel|>final<|message|>a<|end|><|end|>", Answer("a")),
    ("<|channel|>confidence<|message|>a", Answer("a")),
]


@pytest.mark.parametrize(("text", "expected"), ANSWERS)
def test_answers(text: str, expected: Answer) -> None:
    assert read(text) == expected


def test_words_that_only_look_like_marks_are_text() -> None:
    """An ordinary token may spell a mark; only the id makes it one."""
    parser = HarmonyParser(IDS.get)
    header = [("<|channel|>", IDS["<|channel|>"]), ("final", 1), ("<|message|>", IDS["<|message|>"])]
    pieces = [piece for text, token in header for piece in parser.push(token, text)]
    pieces += [*parser.push(7, "say <|end|>"), *parser.push(8, "<|channel|>analysis"), *parser.finish(200002, "")]
    assert answer_of(pieces) == Answer("say <|end|><|channel|>analysis")


def test_text_streams_with_its_token() -> None:
    parser = HarmonyParser(IDS.get)
    brought = [list(parser.push(token, text)) for token, text in tokens("<|channel|>analysis<|message|>ab<|end|>")]
    assert brought[-4:] == [[], [Reasoning("a")], [Reasoning("b")], []]
    parser = HarmonyParser(IDS.get)
    assert [list(parser.push(ord(char), char)) for char in "Hi"] == [[Content("H")], [Content("i")]]


def test_a_name_is_told_with_its_header_and_arguments_with_their_tokens() -> None:
    parser = HarmonyParser(IDS.get)
    given = tokens("<|channel|>commentary to=functions.f<|message|>{}")
    brought = [list(parser.push(token, text)) for token, text in given]
    assert [len(pieces) for pieces in brought[-3:]] == [1, 1, 1]
    assert all(not pieces for pieces in brought[:-3])


def test_a_model_without_some_of_the_marks() -> None:
    parser = HarmonyParser({"<|channel|>": 1, "<|message|>": 2}.get)
    pieces = [*parser.push(1, "<|channel|>"), *parser.push(9, "final"), *parser.push(2, "<|message|>")]
    assert answer_of([*pieces, *parser.push(9, "a"), *parser.finish(None, "b")]) == Answer("ab")


def test_nothing_of_a_vocabulary_without_marks_is_taken_for_one() -> None:
    parser = HarmonyParser(lambda piece: None)
    pieces = [*parser.push(200005, "<|channel|>"), *parser.push(1, "final"), *parser.finish(200002, "")]
    assert answer_of(pieces) == Answer("<|channel|>final")


PARTS = st.sampled_from(
    [*IDS, "assistant", "analysis", "final", "commentary", " to=functions.f", "json", "é", "\n", '{"']
)


@settings(max_examples=150, deadline=None)
@given(st.lists(PARTS | st.text(max_size=3), max_size=14).map("".join))
def test_any_row_of_marks_and_words_reads_the_same_however_it_is_divided(text: str) -> None:
    read(text)


WORDS = st.lists(st.from_regex(r"[a-z]{1,8}[ .\n]", fullmatch=True), min_size=1, max_size=4).map("".join)
MESSAGES = st.lists(
    st.tuples(st.sampled_from(["analysis", "final", "commentary", " to=functions.f"]), WORDS), min_size=1, max_size=5
)


@settings(max_examples=100, deadline=None)
@given(MESSAGES)
def test_every_message_comes_out_once_and_in_its_place(messages: list[tuple[str, str]]) -> None:
    text = "<|end|><|start|>assistant".join(f"<|channel|>{head}<|message|>{words}" for head, words in messages)
    found = read(text)
    said = [words for head, words in messages if head in ("final", "commentary")]
    thought = [words for head, words in messages if head == "analysis"]
    called = [words for head, words in messages if head.startswith(" to")]
    assert found == Answer("\n\n".join(said), tuple(("f", words) for words in called), "\n\n".join(thought))
