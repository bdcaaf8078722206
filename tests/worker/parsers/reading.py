"""Reads an answer through a parser in many divisions, and checks what every parser promises while at it."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from mlxctl.worker.parsers.base import Content, Parser, Piece, Reasoning, ToolCall
from mlxctl.worker.parsers.names import tool_parser

CALL_ID = re.compile(r"call_[0-9a-f]{24}|[0-9a-zA-Z]{9}|functions\.\S+:\d+")


def function(name: str, **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


TEXT, WHOLE, DICT = {"type": "string"}, {"type": "integer"}, {"type": "object"}
TOOLS = [function("f", a=TEXT, n=WHOLE, o=DICT), function("g"), function("get_weather", city=TEXT)]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a client would have at the end. `calls`: names and argument texts."""

    content: str = ""
    calls: tuple[tuple[str, str], ...] = ()
    reasoning: str = ""


def no_tokens(piece: str) -> None:
    return None


def made(name: str, tools: list[dict[str, Any]] | None = TOOLS) -> Parser:
    return tool_parser(name, tools=tools, token_id=no_tokens)


def pieces_of(parser: Parser, parts: Iterable[str]) -> Iterator[Piece]:
    for part in parts:
        yield from parser.push(0, part)
    yield from parser.finish(None, "")


def answer_of(pieces: Iterable[Piece]) -> Answer:
    """All pieces as one answer. Fails where they break a promise: order of indexes, names and ids first, no blanks."""
    content, reasoning, calls, ids = [], [], [], set()
    for piece in pieces:
        if isinstance(piece, Content | Reasoning):
            assert piece.text
            (content if isinstance(piece, Content) else reasoning).append(piece.text)
            continue
        assert isinstance(piece, ToolCall)
        if piece.name is not None:
            assert piece.index == len(calls)
            assert piece.name
            assert CALL_ID.fullmatch(piece.call_id or "")
            ids.add(piece.call_id)
            calls.append([piece.name, piece.arguments])
        else:
            assert piece.index == len(calls) - 1
            assert piece.arguments and piece.call_id is None
            calls[-1][1] += piece.arguments
    assert len(ids) == len(calls)
    return Answer("".join(content), tuple((name, arguments) for name, arguments in calls), "".join(reasoning))


def divisions(text: str) -> Iterator[list[str]]:
    """Whole, by character, by small steps, and at random places."""
    yield [text]
    for size in (1, 2, 3, 7):
        yield [text[place : place + size] for place in range(0, len(text), size)]
    chance = random.Random(text)
    for _ in range(5):
        yield cut(text, sorted(chance.randrange(len(text) + 1) for _ in range(len(text) // 4)))


def cut(text: str, places: list[int]) -> list[str]:
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


def read(make: Callable[[], Parser], text: str) -> Answer:
    """The answer, which must be the same in all divisions."""
    answers = {answer_of(pieces_of(make(), parts)) for parts in divisions(text)}
    assert len(answers) == 1, answers
    return answers.pop()
