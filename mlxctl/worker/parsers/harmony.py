"""gpt-oss's harmony: channels, recipients and messages, told apart by the ids of its special tokens.

An answer, behind the prompt's `<|start|>assistant`, is a row of messages:

    [ to=functions.f] <|channel|>analysis|commentary|final[ to=functions.f] [<|constrain|>json] <|message|>… <|end|>

and ends with `<|call|>` or `<|return|>`. Models also leave out the channel, the constraint, or the end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from mlxctl.worker.parsers.base import Content, Piece, Reasoning, ToolCall
from mlxctl.worker.parsers.calls import new_call_id

START, END, MESSAGE, CHANNEL = "<|start|>", "<|end|>", "<|message|>", "<|channel|>"
CONSTRAIN, RETURN, CALL = "<|constrain|>", "<|return|>", "<|call|>"
_SPECIAL = (START, END, MESSAGE, CHANNEL, CONSTRAIN, RETURN, CALL)
_RECIPIENT = re.compile(r"\bto=(?P<name>[^\s<]+)")
_PEOPLE = ("user", "assistant", "all", "system", "developer")
"""Recipients of a message that is no call."""
_ROLE = "assistant"
_ADDRESS = "to="
"""What follows the role, when no mark does: a recipient. Anything else is an answer without a header."""
_BREAK = "\n\n"
"""Between two messages of one kind, which a client sees as one text."""


class HarmonyParser:
    """Analysis is reasoning, a message to a function is a call, the rest is content: the answer and its preambles.

    Text that comes with a special token stood before it. Text without any header is content.
    """

    def __init__(self, token_id: Callable[[str], int | None]) -> None:
        self._special = {token: mark for mark in _SPECIAL if (token := token_id(mark)) is not None}
        self._header: list[str] | None = [_ROLE]  # parts of the header being read, None within a message
        self._kind: type[Content] | type[Reasoning] | None = Content  # of the message; None: a call
        self._held = ""  # of the header's last part; behind the role it may be the answer itself
        self._num_calls = 0
        self._has_arguments = False
        self._said: set[type[Piece]] = set()
        self._break = ""

    def push(self, token: int, text: str) -> Iterator[Piece]:
        mark = self._special.get(token)
        if mark is None:
            return iter(list(self._text(text)))
        pieces = list(self._text(text.removesuffix(mark)))
        pieces.extend(self._mark(mark))
        return iter(pieces)

    def finish(self, stop_token: int | None, text: str) -> Iterator[Piece]:
        pieces = list(self._text(text))
        if stop_token is not None:
            pieces.extend(self._end())
        elif self._is_first_part():
            pieces.extend(self._plain())
        return iter(pieces)

    def _is_first_part(self) -> bool:
        """The role is known, and nothing of the header has come."""
        return self._header == [_ROLE]

    def _text(self, text: str) -> Iterator[Piece]:
        if not text:
            return
        if self._header is None:
            yield from self._body(text)
        else:
            self._held += text
            if self._is_first_part() and not _ADDRESS.startswith(self._held.lstrip()[: len(_ADDRESS)]):
                yield from self._plain()

    def _plain(self) -> Iterator[Piece]:
        """What was taken for a header is the answer."""
        text, self._held = self._held, ""
        if text.strip() and not text.lstrip().startswith(_ADDRESS):
            self._header = None
            self._speak(Content)
            yield from self._body(text)

    def _body(self, text: str) -> Iterator[Piece]:
        if self._kind is None:
            self._has_arguments = True
            yield ToolCall(self._num_calls - 1, text)
            return
        yield self._kind(self._break + text)
        self._break = ""
        self._said.add(self._kind)

    def _mark(self, mark: str) -> Iterator[Piece]:
        if mark == START:
            yield from self._end()
            self._header = [""]
        elif mark == CHANNEL:
            if self._header is None:
                yield from self._end()
            self._next_part()
        elif mark == CONSTRAIN and self._header is not None:
            self._next_part()
        elif mark == MESSAGE and self._header is not None:
            yield from self._begin()
        elif mark in (END, CALL, RETURN):
            yield from self._end()

    def _next_part(self) -> None:
        if self._header is not None:
            self._header[-1] += self._held
            self._held = ""
            self._header.append("")

    def _begin(self) -> Iterator[Piece]:
        """The header is whole: what follows is its message."""
        self._next_part()
        header, self._header = self._header or [], None
        recipient = next((match["name"] for part in header if (match := _RECIPIENT.search(part))), "")
        channel = header[1].split(maxsplit=1)[0] if len(header) > 2 and header[1].strip() else ""
        name = recipient.removeprefix("functions.")
        if name and name not in _PEOPLE:
            self._kind, self._has_arguments = None, False
            self._num_calls += 1
            yield ToolCall(self._num_calls - 1, name=name, call_id=new_call_id())
            return
        self._speak(Reasoning if channel.startswith("analysis") else Content)

    def _speak(self, kind: type[Content] | type[Reasoning]) -> None:
        self._kind = kind
        self._break = _BREAK if kind in self._said else ""

    def _end(self) -> Iterator[Piece]:
        """The message is over, or there was none."""
        if self._header is None and self._kind is None and not self._has_arguments:
            self._has_arguments = True
            yield ToolCall(self._num_calls - 1, "{}")
        if self._is_first_part():
            yield from self._plain()
        self._held = ""
        self._header = [_ROLE]
