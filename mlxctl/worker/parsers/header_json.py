"""Forms in which a call is a header with its name, and then its arguments as JSON: DeepSeek, Kimi K2, Solar."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mlxctl.worker.parsers.calls import Calls, Form
from mlxctl.worker.parsers.find_text import Finder, patterns
from mlxctl.worker.parsers.json_calls import read_arguments
from mlxctl.worker.parsers.tape import Malformed, Steps, Tape

_LINE = re.compile(r"[^\n`{<]*")
_TICKS = re.compile(r"`*")
_WORD = re.compile(r"\w*")
_KIMI_ID = re.compile(r"(?:functions\.)?(?P<name>.+?)(?::\d+)?\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Marks:
    """`section`: around all calls, may be missing. `begin`, `arguments`, `end`: around one call and within it.

    `named`: before the name, where something else stands first.
    """

    section: tuple[str, str]
    begin: str
    arguments: str
    end: str
    named: str = ""


DEEPSEEK = Marks(
    ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"),
    "<｜tool▁call▁begin｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁call▁end｜>",
)
KIMI = Marks(
    ("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"),
    "<|tool_call_begin|>",
    "<|tool_call_argument_begin|>",
    "<|tool_call_end|>",
)
SOLAR = Marks(
    ("<|tool_calls|>", ""),
    "<|tool_call:begin|>",
    "<|tool_call:args|>",
    "<|tool_call:end|>",
    named="<|tool_call:name|>",
)


class _Headed(Form):
    def __init__(self, marks: Marks) -> None:
        self.opens = (marks.section[0], marks.begin)
        self.closes = (marks.end, *filter(None, marks.section[1:]))
        self._marks = marks

    def read(self, tape: Tape, calls: Calls) -> Steps[None]:
        if calls.tag != self._marks.begin:
            yield from tape.skip_blank()
            if not (yield from tape.accept(self._marks.begin)):
                raise Malformed
        header = yield from self._header(tape, self._marks.arguments)
        yield from self._call(header, tape, calls)

    def _header(self, tape: Tape, mark: str) -> Steps[str]:
        """What stands before `mark`; no other mark may come first."""
        ends = (self._marks.begin, *self.closes, mark)
        text, match = yield from tape.all_until(Finder(patterns(ends)))
        if match != mark:
            raise Malformed
        return text.strip()

    def _call(self, header: str, tape: Tape, calls: Calls) -> Steps[None]:
        if not header:
            raise Malformed
        yield calls.open(header)
        yield from read_arguments(tape, calls)


class DeepSeek(_Headed):
    """V3 and R1: `function<sep>name`, a line, and the arguments in a fence. V3.1: `name<sep>arguments`."""

    def __init__(self) -> None:
        super().__init__(DEEPSEEK)

    def _call(self, header: str, tape: Tape, calls: Calls) -> Steps[None]:
        fence = ""
        if (yield from tape.skip_blank()) != "{":
            header = (yield from tape.all_of(_LINE)).strip()
            yield from tape.skip_blank()
            if fence := (yield from tape.all_of(_TICKS)):
                yield from tape.all_of(_WORD)
        yield from super()._call(header, tape, calls)
        if fence:
            yield from tape.skip_blank()
            yield from tape.accept(fence)


class KimiK2(_Headed):
    """`functions.name:0` before the arguments: the name and, as a whole, the id that its template wants back."""

    def __init__(self) -> None:
        super().__init__(KIMI)

    def _call(self, header: str, tape: Tape, calls: Calls) -> Steps[None]:
        match = _KIMI_ID.match(header)
        if match is None:
            raise Malformed
        yield calls.open(match["name"], header if header != match["name"] else None)
        yield from read_arguments(tape, calls)


class Solar(_Headed):
    """An id, the name and the arguments, each behind a mark."""

    def __init__(self) -> None:
        super().__init__(SOLAR)

    def _header(self, tape: Tape, mark: str) -> Steps[str]:
        yield from super()._header(tape, self._marks.named)
        return (yield from super()._header(tape, mark))
