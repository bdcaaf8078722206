"""Thoughts between tags: where they start and end, the blanks around them, and what goes to the next parser."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlxctl.worker.parsers.base import Content, Parser, Reasoning
from mlxctl.worker.parsers.plain import PlainParser
from mlxctl.worker.parsers.reasoning import ThinkParser
from tests.worker.parsers.reading import Answer, answer_of, cut, made, pieces_of, read

ANSWERS = [
    ("<think>\nHm.\n</think>\n\nYes.", False, Answer("Yes.", (), "Hm.")),
    ("\n <think>Hm.</think>Yes.", False, Answer("Yes.", (), "Hm.")),
    ("<think>\n\n</think>\n\nYes.", False, Answer("Yes.")),
    ("<think></think>Yes.\n", False, Answer("Yes.\n")),
    ("<think>One.\n\n Two.", False, Answer("", (), "One.\n\n Two.")),
    ("<think>One.\n\n", False, Answer("", (), "One.")),
    ("<think>One.</thin", False, Answer("", (), "One.</thin")),
    ("<think>", False, Answer()),
    ("<think>a</think>b<think>c</think>d", False, Answer("b<think>c</think>d", (), "a")),
    ("<think>a < b <think></think>", False, Answer("", (), "a < b <think>")),
    # no thoughts
    ("Yes.", False, Answer("Yes.")),
    ("  Yes. ", False, Answer("  Yes. ")),
    ("  ", False, Answer("  ")),
    ("", False, Answer()),
    ("<thin", False, Answer("<thin")),
    ("<thinking>no</thinking>", False, Answer("<thinking>no</thinking>")),
    ("Use <think> for thoughts.</think>", False, Answer("Use <think> for thoughts.</think>")),
    # the prompt opened them
    ("Hm.\n</think>\n\nYes.", True, Answer("Yes.", (), "Hm.")),
    ("\n\nHm.</think>Yes.", True, Answer("Yes.", (), "Hm.")),
    ("</think>Yes.", True, Answer("Yes.")),
    ("<think>\nHm.</think>Yes.", True, Answer("Yes.", (), "Hm.")),
    ("Hm", True, Answer("", (), "Hm")),
    ("<th", True, Answer("", (), "<th")),
    ("  ", True, Answer()),
]


@pytest.mark.parametrize(("text", "starts_inside", "expected"), ANSWERS)
def test_answers(text: str, starts_inside: bool, expected: Answer) -> None:
    assert read(lambda: ThinkParser(PlainParser(), starts_inside=starts_inside), text) == expected


@pytest.mark.parametrize(
    ("start", "end"), [("[THINK]", "[/THINK]"), ("<|channel>thought", "<channel|>"), ("<|think|>", "<|end|>")]
)
def test_other_tags(start: str, end: str) -> None:
    text = f"{start}\nHm. <think>\n{end}\nYes."
    assert read(lambda: ThinkParser(PlainParser(), start, end), text) == Answer("Yes.", (), "Hm. <think>")


def test_calls_behind_thoughts_go_to_the_inner_parser_and_those_within_stay_thoughts() -> None:
    call = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'
    found = read(lambda: ThinkParser(made("hermes")), f"<think>\nPerhaps {call}?\n</think>\n\n{call}")
    assert found == Answer("", (("f", '{"a": 1}'),), f"Perhaps {call}?")


def test_thoughts_stream() -> None:
    parser = ThinkParser(PlainParser())
    brought = [list(parser.push(0, char)) for char in "<think>\na b\n</think>\n\nc d"]
    said = [pieces[0] for pieces in brought if pieces]
    assert all(len(pieces) <= 1 for pieces in brought)
    assert said == [
        *(Reasoning(text) for text in ("a", " b")),
        *(Content(text) for text in "c d"),
    ]


def test_tokens_reach_the_inner_parser() -> None:
    class Told(PlainParser):
        def __init__(self) -> None:
            self.tokens: list[int] = []
            self.stop: int | None = None

        def push(self, token: int, text: str):
            self.tokens.append(token)
            return super().push(token, text)

        def finish(self, stop_token: int | None, text: str):
            self.stop = stop_token
            return super().finish(stop_token, text)

    inner = Told()
    parser: Parser = ThinkParser(inner)
    pieces = [*parser.push(1, "<think>a"), *parser.push(2, "</think> b"), *parser.push(3, ""), *parser.finish(9, "c")]
    assert (inner.tokens, inner.stop) == ([2, 3], 9)
    assert answer_of(pieces) == Answer("bc", (), "a")


SOUP = st.lists(st.sampled_from(["<think>", "</think>", "<", "think", ">", "/", " ", "\n", "a", "b."]), max_size=12)


@settings(max_examples=150, deadline=None)
@given(SOUP.map("".join), st.booleans(), st.data())
def test_nothing_but_blanks_and_tags_is_lost(text: str, starts_inside: bool, data: st.DataObject) -> None:
    def make() -> Parser:
        return ThinkParser(PlainParser(), starts_inside=starts_inside)

    found = read(make, text)
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    assert answer_of(pieces_of(make(), cut(text, places))) == found
    body = text.lstrip()
    inside = starts_inside or body.startswith("<think>")
    if not inside:
        assert found == Answer(text)
        return
    thought, _, rest = body.removeprefix("<think>").partition("</think>")
    assert found == Answer(rest.lstrip(), (), thought.strip())
