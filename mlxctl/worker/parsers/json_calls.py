"""Calls written as JSON objects: the name as soon as it is known, then the arguments as the model writes them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mlxctl.worker.parsers.base import Piece
from mlxctl.worker.parsers.calls import Calls
from mlxctl.worker.parsers.json_scan import JsonScanner
from mlxctl.worker.parsers.tape import Malformed, Steps, Tape

NAMES = ("name", "function", "tool_name")
ARGUMENTS = ("arguments", "parameters", "args")
BESIDE = ("id", "type", "index")
"""Other keys of a call. Without tags around it, an object with any further key is no call."""
_PLAIN = re.compile(r'[^"\\]*')
_COMMAS = re.compile(r"[\s,]*")
_BETWEEN = re.compile(r"[\s,;]*")
_HEX = re.compile(r"[0-9a-fA-F]{4}\Z")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f"}


def read_calls(tape: Tape, calls: Calls, *, bare: bool = False, opened: str = "") -> Steps[None]:
    """One object, several one behind the other, or an array of them. The tape must be keeping.

    `bare`: no tag has said that these are calls. `opened` is `[` when the tag took the array's bracket.
    """
    char = yield from tape.skip_blank()
    if char == "[" or opened == "[":
        tape.take(0 if opened == "[" else 1)
        yield from _read_array(tape, calls, bare)
        return
    if char != "{":
        raise Malformed
    while char == "{":
        yield from read_call(tape, calls, bare=bare)
        tape.keep()
        yield from tape.all_of(_BETWEEN)
        char = yield from tape.peek()


def _read_array(tape: Tape, calls: Calls, bare: bool) -> Steps[None]:
    """The calls of an array, behind its bracket."""
    before = calls.count
    while True:
        yield from tape.all_of(_COMMAS)
        char = yield from tape.peek()
        if char == "{":
            yield from read_call(tape, calls, bare=bare)
            tape.keep()
        elif char in ("]", "") and calls.count > before:
            tape.take(len(char))
            tape.forget()
            return
        else:
            raise Malformed


def read_call(tape: Tape, calls: Calls, *, bare: bool = False) -> Steps[None]:
    """One object. The tape must be keeping; it is made to forget when the call has a name."""
    call = _Call(tape, calls, bare)
    yield from call.members()
    yield from call.end()


class _Call:
    """What is known of a call while its object is read. Arguments that come before the name wait for it."""

    def __init__(self, tape: Tape, calls: Calls, bare: bool) -> None:
        self._tape = tape
        self._calls = calls
        self._bare = bare
        self._name: str | None = None
        self._is_open = False
        self._has_arguments = False
        self._waiting: list[str] = []

    def members(self, within: str = "") -> Steps[None]:
        """The object, from its brace on; `within`: the key that it is the value of."""
        tape = self._tape
        tape.take()
        while True:
            yield from tape.all_of(_COMMAS)
            char = yield from tape.peek()
            if char == "}":
                tape.take()
                return
            if char != '"':
                raise Malformed
            key = yield from read_string(tape)
            if (yield from tape.skip_blank()) != ":":
                raise Malformed
            tape.take()
            yield from self._member(key, (yield from tape.skip_blank()), within)

    def _member(self, key: str, char: str, within: str) -> Steps[None]:
        if key in NAMES and char == '"' and self._name is None:
            yield from self._named((yield from read_string(self._tape)))
        elif key == "function" and char == "{" and not within and self._name is None:
            yield from self.members(key)
        elif key in ARGUMENTS and not self._has_arguments:
            self._has_arguments = True
            if self._name is not None and not self._is_open:
                yield from self._open()
            yield from self._arguments(char)
        elif self._bare and key not in (*NAMES, *ARGUMENTS, *BESIDE):
            raise Malformed
        else:
            yield from self._skip()

    def _named(self, name: str) -> Steps[None]:
        if not name or (self._bare and not self._calls.may_be(name)):
            raise Malformed
        self._name = name
        if self._has_arguments or not self._bare:
            yield from self._open()

    def _open(self) -> Iterator[Piece]:
        self._is_open = True
        yield self._calls.open(self._name or "")
        for text in self._waiting:
            yield self._calls.more(text)

    def end(self) -> Iterator[Piece]:
        if not self._is_open:
            if self._name is None or (self._bare and not self._calls.has_tools):
                raise Malformed
            yield from self._open()
        yield from self._calls.close()

    def _arguments(self, char: str) -> Steps[None]:
        if char == '"':
            yield from self._written_as_text()
        elif char in ("{", "["):
            yield from self._value()
        else:
            word = yield from read_scalar(self._tape)
            if word != "null":
                yield from self._give(word)

    def _value(self) -> Steps[None]:
        scanner = JsonScanner()
        while not scanner.is_done:
            text = yield from take_value(self._tape, scanner)
            yield from self._give(text)

    def _written_as_text(self) -> Steps[None]:
        """A string that holds the JSON."""
        self._tape.take()
        while (text := (yield from string_part(self._tape))) is not None:
            yield from self._give(text)

    def _give(self, text: str) -> Iterator[Piece]:
        if text and self._is_open:
            yield self._calls.more(text)
        elif text:
            self._waiting.append(text)

    def _skip(self) -> Steps[None]:
        scanner = JsonScanner()
        while not scanner.is_done:
            yield from take_value(self._tape, scanner)


def read_arguments(tape: Tape, calls: Calls) -> Steps[None]:
    """The arguments of a call whose name is known: one JSON value, as the model writes it."""
    scanner = JsonScanner()
    if (yield from tape.skip_blank()) not in ("{", "["):
        raise Malformed
    while not scanner.is_done:
        text = yield from take_value(tape, scanner)
        if text:
            yield calls.more(text)
    yield from calls.close()


def take_value(tape: Tape, scanner: JsonScanner) -> Steps[str]:
    """The next part of the value that `scanner` walks; empty when its end has just been seen."""
    if not (yield from tape.peek()):
        raise Malformed
    text, at = tape.ahead()
    taken = tape.take(scanner.scan(text, at) - at)
    if scanner.is_broken and not taken:
        raise Malformed
    return taken


def read_scalar(tape: Tape) -> Steps[str]:
    """A number or a word."""
    scanner, parts = JsonScanner(), []
    while not scanner.is_done:
        parts.append((yield from take_value(tape, scanner)))
    return "".join(parts)


def read_string(tape: Tape) -> Steps[str]:
    """A whole JSON string, decoded."""
    tape.take()
    parts: list[str] = []
    while (text := (yield from string_part(tape))) is not None:
        parts.append(text)
    return "".join(parts)


def string_part(tape: Tape) -> Steps[str | None]:
    """The next decoded part of a JSON string, None at its closing quote. Raises `Malformed` at the end of the text."""
    char = yield from tape.peek()
    if not char:
        raise Malformed
    if char == '"':
        tape.take()
        return None
    if char == "\\":
        tape.take()
        return (yield from _escape(tape))
    return (yield from tape.run(_PLAIN))


def _escape(tape: Tape) -> Steps[str]:
    char = yield from tape.peek()
    if not char:
        raise Malformed
    tape.take()
    if char != "u":
        return _ESCAPES.get(char, char)
    code = yield from _code(tape)
    if code is None:
        return "\\u"
    if 0xD800 <= code < 0xDC00 and (yield from tape.accept("\\u")):
        low = yield from _code(tape)
        if low is None:
            return "\ufffd\\u"
        if 0xDC00 <= low < 0xE000:
            return chr(0x10000 + ((code - 0xD800) << 10) + low - 0xDC00)
        return "\ufffd" + _char(low)
    return _char(code)


def _char(code: int) -> str:
    """A lone half of a pair cannot be sent as UTF-8."""
    return "\ufffd" if 0xD800 <= code < 0xE000 else chr(code)


def _code(tape: Tape) -> Steps[int | None]:
    """Four hexadecimal digits, None when the next characters are none."""
    ahead = yield from tape.look(4)
    if not _HEX.match(ahead):
        return None
    return int(tape.take(4), 16)
