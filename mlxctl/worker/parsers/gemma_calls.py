"""Calls written as `call:name{key:value}`, with a mark of its own for quotes: FunctionGemma and Gemma 4."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mlxctl.worker.parsers.base import Piece
from mlxctl.worker.parsers.calls import Calls, Form
from mlxctl.worker.parsers.find_text import Finder, patterns
from mlxctl.worker.parsers.json_calls import take_value
from mlxctl.worker.parsers.json_scan import JsonScanner
from mlxctl.worker.parsers.tape import Malformed, Steps, Tape
from mlxctl.worker.parsers.typed_values import literal_json, text_json

_NAME = re.compile(r"[\w.-]*")
_WORD = re.compile(r"[^,:{}\[\]<\"]*")
_CLOSERS = {"{": "}", "[": "]"}


class GemmaCall(Form):
    """`quote` stands on both sides of a text."""

    def __init__(self, begin: str, end: str, quote: str) -> None:
        self.opens = (begin,)
        self.closes = (end,)
        self._quote = quote

    def read(self, tape: Tape, calls: Calls) -> Steps[None]:
        char = yield from tape.skip_blank()
        while char == "c":
            is_call = yield from tape.accept("call:")
            name = yield from tape.all_of(_NAME)
            if not is_call or not name or (yield from tape.skip_blank()) != "{":
                raise Malformed
            yield calls.open(name)
            yield from _Value(tape, calls, self._quote).read()
            tape.keep()
            char = yield from tape.skip_blank()


def function_gemma() -> GemmaCall:
    return GemmaCall("<start_function_call>", "<end_function_call>", "<escape>")


def gemma4() -> GemmaCall:
    return GemmaCall("<|tool_call>", "<tool_call|>", '<|"|>')


class _Value:
    """One object, given out as JSON while it is read: keys and words without quotes get them, texts are escaped."""

    def __init__(self, tape: Tape, calls: Calls, quote: str) -> None:
        self._tape = tape
        self._calls = calls
        self._quote = quote
        self._closers: list[str] = []
        self._wants_key = False

    def read(self) -> Steps[None]:
        tape = self._tape
        while True:
            char = yield from tape.skip_blank()
            if char in ("{", "["):
                self._closers.append(_CLOSERS[char])
            elif char in ("}", "]"):
                if self._closers.pop() != char:
                    raise Malformed
            elif char not in (",", ":"):
                yield from self._scalar(char)
                continue
            self._wants_key = char == "{" or (char == "," and self._closers[-1] == "}")
            yield self._calls.more(tape.take())
            if not self._closers:
                return

    def _scalar(self, char: str) -> Steps[None]:
        if char == '"':
            scanner = JsonScanner()
            while not scanner.is_done:
                yield from self._give((yield from take_value(self._tape, scanner)))
        elif char == "<" and (yield from self._tape.accept(self._quote)):
            yield from self._text()
        else:
            word = (yield from self._tape.all_of(_WORD)).strip()
            if not word or not (yield from self._tape.peek()):
                raise Malformed
            yield self._calls.more(text_json(word) if self._wants_key else literal_json(word))

    def _text(self) -> Steps[None]:
        yield self._calls.more('"')
        finder, end = Finder(patterns((self._quote,))), None
        while end is None:
            text, end = yield from self._tape.until(finder)
            yield from self._give(text_json(text)[1:-1])
        if not end:
            raise Malformed
        yield self._calls.more('"')

    def _give(self, text: str) -> Iterator[Piece]:
        if text:
            yield self._calls.more(text)
