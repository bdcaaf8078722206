"""Forms in which a call is a JSON object or array: between tags, behind a name, in a fence, or as the whole answer."""

from __future__ import annotations

import re

from mlxctl.worker.parsers.calls import Calls, Form
from mlxctl.worker.parsers.json_calls import read_arguments, read_calls
from mlxctl.worker.parsers.pythonic import read_python_call
from mlxctl.worker.parsers.tape import Malformed, Steps, Tape
from mlxctl.worker.parsers.xml_calls import read_function

_NAME = re.compile(r"[\w.-]*")
PYTHON_TAG = "<|python_tag|>"


class Hermes(Form):
    """`<tool_call>{"name": …, "arguments": {…}}</tool_call>`, and the same tags around `<function=…>`."""

    opens = ("<tool_call>",)
    closes = ("</tool_call>",)

    def read(self, tape: Tape, calls: Calls) -> Steps[None]:
        if (yield from tape.skip_blank()) != "<":
            yield from read_calls(tape, calls)
        elif (yield from tape.accept("<function=")):
            yield from read_function(tape, calls)


class Mistral(Form):
    """`[TOOL_CALLS]` before an array of objects, or before `name[ARGS]{…}` with more of these behind it."""

    opens = ("[TOOL_CALLS]",)

    def read(self, tape: Tape, calls: Calls) -> Steps[None]:
        if (yield from tape.skip_blank()) in ("[", "{"):
            yield from read_calls(tape, calls)
            return
        yield from _named_call(tape, calls, is_first=True)
        while True:
            tape.keep()
            yield from tape.skip_blank()
            yield from _named_call(tape, calls, is_first=False)


def _named_call(tape: Tape, calls: Calls, *, is_first: bool) -> Steps[None]:
    """`name[ARGS]{…}`; an id may stand before the tag, and right behind `[TOOL_CALLS]` the tag may be missing."""
    name = yield from tape.all_of(_NAME)
    yield from tape.skip_blank()
    if (yield from tape.accept("[CALL_ID]")):
        yield from tape.all_of(_NAME)
    tagged = yield from tape.accept("[ARGS]")
    if not name or not (tagged or (is_first and (yield from tape.skip_blank()) == "{")):
        raise Malformed
    yield calls.open(name)
    yield from read_arguments(tape, calls)


class BareJson(Form):
    """The object, or an array of them, without a tag. `lines`: also at the start of a later line.

    `strict`: an object that may be something else is content: one with keys that no call has, or, where the tools are
    known, with the name of none of them.
    """

    starts = "{["

    def __init__(self, *, lines: bool = False, strict: bool = True) -> None:
        self.lines = lines
        self._strict = strict

    def read(self, tape: Tape, calls: Calls) -> Steps[None]:
        yield from read_calls(tape, calls, bare=self._strict)


class PythonTag(Form):
    """Llama's `<|python_tag|>` before the object, or before `tool.call(query="…")`."""

    opens = (PYTHON_TAG,)

    def read(self, tape: Tape, calls: Calls) -> Steps[None]:
        if (yield from tape.skip_blank()) in ("{", "["):
            yield from read_calls(tape, calls)
        else:
            yield from read_python_call(tape, calls)


class Phi4(Form):
    """`<|tool_call|>[…]<|/tool_call|>`, and `functools[…]`."""

    opens = ("<|tool_call|>", "functools[")
    closes = ("<|/tool_call|>",)

    def read(self, tape: Tape, calls: Calls) -> Steps[None]:
        yield from read_calls(tape, calls, opened=calls.tag[-1:])


class FencedJson(Form):
    """The object in a fence of its own."""

    opens = ("```json", "```tool_call")
    closes = ("```",)

    def read(self, tape: Tape, calls: Calls) -> Steps[None]:
        yield from read_calls(tape, calls, bare=calls.tag == "```json")
