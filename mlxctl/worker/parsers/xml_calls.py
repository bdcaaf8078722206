"""Calls written as `<function=name><parameter=key>value</parameter></function>`: Qwen3-Coder, Nemotron, Step."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mlxctl.worker.parsers.base import Piece
from mlxctl.worker.parsers.calls import Calls, Form
from mlxctl.worker.parsers.find_text import Finder, patterns
from mlxctl.worker.parsers.json_calls import read_arguments
from mlxctl.worker.parsers.tape import Malformed, Steps, Tape
from mlxctl.worker.parsers.typed_values import json_of, text_json, types_of

_NAME = re.compile(r"[^\s<>]*")
_PARAMETER, _PARAMETER_END, _FUNCTION_END = "<parameter=", "</parameter>", "</function>"
_VALUE_ENDS = (_PARAMETER_END, _PARAMETER, _FUNCTION_END)
"""Models forget the closing tag of a value; the next tag ends it, too."""


class XmlFunction(Form):
    """`<function=…>` without the tags around it that `Hermes` takes: models forget them."""

    opens = ("<function=",)
    closes = ("</tool_call>",)

    def read(self, tape: Tape, calls: Calls) -> Steps[None]:
        yield from read_function(tape, calls)


def read_function(tape: Tape, calls: Calls) -> Steps[None]:
    """A call, behind `<function=`. Llama writes its arguments as one JSON object; that is taken, too."""
    name = yield from tape.all_of(_NAME)
    closed = yield from tape.accept(">")
    char = yield from tape.skip_blank()
    if not name or not (closed or char == "<"):
        raise Malformed
    if char == "{":
        yield calls.open(name)
        yield from read_arguments(tape, calls)
        yield from tape.skip_blank()
        yield from tape.accept(_FUNCTION_END)
        return
    if char != "<":
        raise Malformed
    yield calls.open(name)
    yield from _Arguments(tape, calls, name).read()
    yield from calls.close()


class _Arguments:
    """The parameters of one call, as the members of one JSON object."""

    def __init__(self, tape: Tape, calls: Calls, name: str) -> None:
        self._tape = tape
        self._calls = calls
        self._name = name
        self._count = 0

    def read(self) -> Steps[None]:
        tag = ""
        while tag != _FUNCTION_END:
            if tag != _PARAMETER:
                yield from self._tape.skip_blank()
                tag = yield from self._next_tag()
            if tag == _PARAMETER:
                tag = yield from self._parameter()
        if self._count:
            yield self._calls.more("}")

    def _next_tag(self) -> Steps[str]:
        """Anything but another parameter or the end: the call is over, as if it had been closed, and text follows."""
        for tag in (_PARAMETER, _FUNCTION_END):
            if (yield from self._tape.accept(tag)):
                return tag
        if self._tape.is_cut_in(_PARAMETER, _FUNCTION_END, "</tool_call>"):
            raise Malformed
        return _FUNCTION_END

    def _parameter(self) -> Steps[str]:
        """A parameter behind `<parameter=`, and the tag that ended it."""
        key = yield from self._tape.all_of(_NAME)
        yield from self._tape.accept(">")
        yield from self._tape.accept("\n")
        if not (yield from self._tape.peek()):
            raise Malformed
        types = types_of(schema) if (schema := self._calls.schema(self._name, key)) is not None else None
        head = f"{', ' if self._count else '{'}{text_json(key)}: "
        self._count += 1
        if types is None or types == {"string"}:
            return (yield from self._text(head))
        value, tag = yield from self._tape.all_until(Finder(patterns(_VALUE_ENDS)))
        if not tag:
            raise Malformed
        yield self._calls.more(head + json_of(value.removesuffix("\n"), types))
        return tag

    def _text(self, head: str) -> Steps[str]:
        """A value that is text goes out as it comes; one newline before the tag belongs to the tag."""
        yield self._calls.more(head + '"')
        finder, newline, tag = Finder(patterns(_VALUE_ENDS)), "", None
        while tag is None:
            text, tag = yield from self._tape.until(finder)
            text = newline + text
            newline = "\n" if text.endswith("\n") else ""
            yield from self._escaped(text.removesuffix("\n"))
        if not tag:
            raise Malformed
        yield self._calls.more('"')
        return tag

    def _escaped(self, text: str) -> Iterator[Piece]:
        if text:
            yield self._calls.more(text_json(text)[1:-1])
