"""Calls written as Python: `[f(a=1), g(b="x")]`, bare, between tags, or in a `tool_code` fence."""

from __future__ import annotations

import re

from mlxctl.worker.parsers.calls import Calls, Form
from mlxctl.worker.parsers.tape import Malformed, Steps, Tape
from mlxctl.worker.parsers.typed_values import literal_json, text_json

_NAME = re.compile(r"[\w.]*")
_KEY = re.compile(r"\w*")
_PLAIN = re.compile(r"[^\"'()\[\]{},]*")
_COMMAS = re.compile(r"[\s,]*")
_BETWEEN = re.compile(r"[\s;,\[\])]*")
_IN_STRING = {quote: re.compile(f"[^{quote}\\\\]*") for quote in "'\""}
_CLOSERS = {"(": ")", "[": "]", "{": "}"}
_PREFIX = "default_api."
_PRINT = "print("


class Pythonic(Form):
    """The list is the answer, or stands between the tags of Llama 4 or LFM2."""

    opens = ("<|python_start|>", "<|tool_call_start|>")
    closes = ("<|python_end|>", "<|tool_call_end|>")
    starts = "["

    def read(self, tape: Tape, calls: Calls) -> Steps[None]:
        is_list = yield from _accept_blank(tape, "[")
        if not is_list and not calls.tag:
            raise Malformed
        char = ""
        while char not in ("]", "<"):
            yield from read_python_call(tape, calls)
            tape.keep()
            yield from tape.all_of(_COMMAS)
            char = yield from tape.peek()
            if not char:
                break
        tape.take(1 if char == "]" else 0)
        tape.forget()


class ToolCode(Form):
    """Gemma's fence: calls, one a line, perhaps inside `print()`."""

    opens = ("```tool_code",)
    closes = ("```",)

    def read(self, tape: Tape, calls: Calls) -> Steps[None]:
        before = calls.count
        char = yield from tape.skip_blank()
        while char and char != "`":
            yield from _accept_blank(tape, "[")
            yield from tape.accept(_PRINT)
            yield from tape.accept(_PREFIX)
            yield from read_python_call(tape, calls)
            tape.keep()
            yield from tape.all_of(_BETWEEN)
            char = yield from tape.peek()
        if calls.count > before:
            tape.forget()


def _accept_blank(tape: Tape, literal: str) -> Steps[bool]:
    yield from tape.skip_blank()
    found = yield from tape.accept(literal)
    yield from tape.skip_blank()
    return found


def read_python_call(tape: Tape, calls: Calls) -> Steps[None]:
    """`name(key=value, …)`. It is a call once a key or the closing bracket is seen. The tape must be keeping."""
    name = (yield from tape.all_of(_NAME)).removesuffix(".call")
    if not (yield from _accept_blank(tape, "(")) or not calls.may_be(name) or name[0].isdigit():
        raise Malformed
    if (yield from tape.accept(")")):
        yield calls.open(name)
        yield from calls.close()
        return
    key = yield from _key(tape)
    if not key:
        raise Malformed
    yield calls.open(name)
    yield from _arguments(tape, calls, key)


def _arguments(tape: Tape, calls: Calls, key: str) -> Steps[None]:
    """The values of `key` and of those behind it, as the members of one JSON object."""
    head, end = "{", ","
    while key and end == ",":
        tape.forget()
        value, end = yield from _value(tape)
        yield calls.more(f"{head}{text_json(key)}: {literal_json(value)}")
        head = ", "
        if end == "," and (yield from tape.skip_blank()) == ")":
            end = tape.take()
        tape.keep()
        key = (yield from _key(tape)) if end == "," else ""
    if end == "," and not (yield from tape.peek()):
        tape.forget()
        raise Malformed
    yield calls.more("}")
    if end == ",":
        raise Malformed


def _key(tape: Tape) -> Steps[str]:
    """The name of an argument, with its `=`; empty when something else comes."""
    yield from tape.skip_blank()
    key = yield from tape.all_of(_KEY)
    if not key or not (yield from _accept_blank(tape, "=")) or (yield from tape.peek()) == "=":
        return ""
    return key


def _value(tape: Tape) -> Steps[tuple[str, str]]:
    """The source of a value, and the comma or bracket behind it."""
    parts: list[str] = []
    closers: list[str] = []
    while True:
        parts.append((yield from tape.all_of(_PLAIN)))
        char = yield from tape.peek()
        if not char:
            raise Malformed
        if char in "'\"":
            parts.append((yield from _string(tape)))
            continue
        tape.take()
        if not closers and char in ",)":
            return "".join(parts), char
        parts.append(char)
        if char in "([{":
            closers.append(_CLOSERS[char])
        elif closers and closers[-1] == char:
            closers.pop()


def _string(tape: Tape) -> Steps[str]:
    """A string literal, as it is written."""
    quote = yield from tape.peek()
    triple = yield from tape.accept(quote * 3)
    if not triple and (yield from tape.accept(quote * 2)):
        return quote * 2
    end = quote * 3 if triple else quote
    parts = [end if triple else tape.take()]
    while True:
        parts.append((yield from tape.all_of(_IN_STRING[quote])))
        if not (yield from tape.peek()):
            raise Malformed
        if (yield from tape.accept(end)):
            return "".join((*parts, end))
        parts.append(tape.take())
        if parts[-1] == "\\" and (yield from tape.peek()):
            parts.append(tape.take())
