"""The calls of one answer: their names and arguments on the way out, and the tools they may be of."""

from __future__ import annotations

import re
import secrets
import string
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from mlxctl.worker.parsers.base import Content, Piece, ToolCall
from mlxctl.worker.parsers.find_text import Finder, patterns
from mlxctl.worker.parsers.tape import BLANK, Malformed, Script, Steps, Tape

_ALPHABET = string.ascii_letters + string.digits
_SLACK = re.compile(r"[\s}\]]*")
"""What models write too much of behind a call, and before its closing tag."""


def new_call_id() -> str:
    return f"call_{secrets.token_hex(12)}"


def short_call_id() -> str:
    """Nine letters and digits: the only ids that Mistral's own templates take back."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(9))


class Calls:
    """Numbers the calls of one answer. What the tape kept is forgotten as soon as a call has a name.

    `tag` is what opened the call that is being read.
    """

    def __init__(self, tape: Tape, tools: Sequence[Any] | None = None, new_id: Callable[[], str] = new_call_id) -> None:
        self.count = 0
        self.tag = ""
        self._tape = tape
        self._new_id = new_id
        self._functions = dict(_functions(tools or ()))
        self._is_empty = True

    @property
    def has_tools(self) -> bool:
        return bool(self._functions)

    def may_be(self, name: str) -> bool:
        """Whether there is such a function, as far as is known."""
        return bool(name) and (not self._functions or name in self._functions)

    def schema(self, name: str, parameter: str) -> Any:
        """The JSON schema of a parameter, None when there is none."""
        parameters = self._functions.get(name)
        properties = parameters.get("properties") if isinstance(parameters, dict) else None
        return properties.get(parameter) if isinstance(properties, dict) else None

    def open(self, name: str, call_id: str | None = None) -> ToolCall:
        self._tape.forget()
        self._is_empty = True
        self.count += 1
        return ToolCall(self.count - 1, name=name, call_id=call_id or self._new_id())

    def more(self, arguments: str) -> ToolCall:
        """`arguments` go on, with JSON text that is not empty."""
        self._is_empty = False
        return ToolCall(self.count - 1, arguments)

    def close(self) -> Iterator[ToolCall]:
        """The call is whole. One without arguments has an empty object of them."""
        if self._is_empty:
            yield self.more("{}")


def _functions(tools: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    for tool in tools:
        function = tool.get("function", tool) if isinstance(tool, dict) else None
        if isinstance(function, dict) and isinstance(function.get("name"), str):
            yield function["name"], function.get("parameters")


class Form(ABC):
    """One way to write calls. `opens`: texts that begin one. `closes`: texts to drop behind one.

    `starts`: characters that begin one without a tag, as the first of the answer; of any line, if `lines`. No tag of
    the forms used together may begin with them.
    """

    opens: tuple[str, ...] = ()
    closes: tuple[str, ...] = ()
    starts: str = ""
    lines: bool = False

    @abstractmethod
    def read(self, tape: Tape, calls: Calls) -> Steps[None]:
        """Read the calls behind the tag `calls.tag`, which is empty when a character of `starts` comes next.

        What the tape still keeps when this is over, or raises `Malformed`, is content.
        """
        ...


class CallParser(Script):
    """Content with calls in it, in any of `forms`. White space around calls is dropped."""

    def __init__(
        self,
        forms: Sequence[Form],
        tools: Sequence[Any] | None = None,
        new_id: Callable[[], str] = new_call_id,
    ) -> None:
        super().__init__()
        self._forms = forms
        self._calls = Calls(self._tape, tools, new_id)
        self._by_tag = {tag: form for form in forms for tag in form.opens}
        self._by_line = any(form.lines for form in forms)
        self._owed: tuple[str, ...] = ()  # closing tags of the last call that have not come
        self._pending = ""  # white space that is content if content follows

    def _read(self) -> Steps[None]:
        at_start, at_line = True, True
        while True:
            form, tag = None, ""
            if at_start or at_line:
                self._pending += yield from self._tape.all_of(_SLACK if self._owed and at_start else BLANK)
                form = self._untagged((yield from self._tape.peek()), at_start)
            if form is None:
                tag = yield from self._talk()
            at_start = at_line = False
            if form := self._by_tag.get(tag, form):
                at_start = yield from self._call(form, tag)
            elif tag == "\n" and self._by_line:
                yield from self._say(tag)
                at_line = True
            elif tag in self._owed:
                self._owed = tuple(other for other in self._owed if other != tag)
                self._pending = ""
                at_start = True
            else:
                break
        if self._pending.strip() or not self._calls.count:
            yield from self._say("", at_end=True)

    def _untagged(self, char: str, at_start: bool) -> Form | None:
        if not char:
            return None
        return next((form for form in self._forms if char in form.starts and (at_start or form.lines)), None)

    def _talk(self) -> Steps[str]:
        """Content up to a tag, empty at the end."""
        finder = Finder(patterns(self._tags()))
        match = None
        while match is None:
            text, match = yield from self._tape.until(finder)
            if match == "" and any(tag.startswith(text) for tag in self._owed):
                break  # a closing tag that is cut short
            yield from self._say(text)
        return match or ""

    def _tags(self) -> tuple[str, ...]:
        return (*self._by_tag, *self._owed, *("\n" if self._by_line else ""))

    def _call(self, form: Form, tag: str) -> Steps[bool]:
        """Read calls. True: there were some, and nothing else."""
        before = self._calls.count
        self._tape.keep(tag)
        self._calls.tag = tag
        with suppress(Malformed):
            yield from form.read(self._tape, self._calls)
        rest = self._tape.forget()
        if self._calls.count > before:
            self._pending = ""
            self._owed = form.closes
        if not rest.strip():
            self._pending += rest
            return True
        yield from self._say(rest)
        return False

    def _say(self, text: str, at_end: bool = False) -> Iterator[Piece]:
        if text or (at_end and self._pending):
            yield Content(self._pending + text)
            self._pending = ""
