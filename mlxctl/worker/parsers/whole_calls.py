"""Forms that are parsed by somebody else's function, once the closing tag is there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from mlxctl.worker.parsers.base import Piece
from mlxctl.worker.parsers.calls import Calls, Form
from mlxctl.worker.parsers.find_text import Finder, patterns
from mlxctl.worker.parsers.tape import Malformed, Steps, Tape

_FAILURES = (ValueError, TypeError, KeyError, IndexError, AttributeError, SyntaxError, RecursionError, MemoryError)
"""What parsing functions raise for text that they do not understand."""


class WholeCalls(Form):
    """The text between `begin` and `end` goes to `parse`; with an empty `end`, all that follows.

    `parse` gives one call or a list of them: objects with `name`, `arguments` and perhaps `id`.
    """

    def __init__(self, begin: str, end: str, parse: Callable[[str], Any]) -> None:
        self.opens = (begin,)
        self._end = end
        self._parse = parse

    def read(self, tape: Tape, calls: Calls) -> Steps[None]:
        body, _ = yield from tape.all_until(Finder(patterns((self._end,) if self._end else ())))
        try:
            parsed = self._parse(body)
            found = [_written(call) for call in (parsed if isinstance(parsed, list) else [parsed])]
        except _FAILURES as error:
            raise Malformed from error
        for name, arguments, call_id in found:
            yield from _whole(calls, name, arguments, call_id)


def _written(call: Any) -> tuple[str, str, str | None]:
    """Name, arguments as JSON, and id. Raises `ValueError` or `TypeError` for anything but a call."""
    name, arguments, call_id = call["name"], call.get("arguments"), call.get("id")
    if not isinstance(name, str) or not name:
        raise ValueError("a call without a name")
    if not isinstance(arguments, str):
        arguments = json.dumps({} if arguments is None else arguments, ensure_ascii=False)
    return name, arguments, call_id if isinstance(call_id, str) and call_id else None


def _whole(calls: Calls, name: str, arguments: str, call_id: str | None) -> Iterator[Piece]:
    yield calls.open(name, call_id)
    if arguments:
        yield calls.more(arguments)
    yield from calls.close()
