"""The parser of an answer that a grammar held to be one call, so that nothing else has to be looked for."""

from __future__ import annotations

from collections.abc import Iterator

from mlxctl.worker.parsers.base import Parser, Piece
from mlxctl.worker.parsers.calls import CallParser, Calls
from mlxctl.worker.parsers.tagged_json import BareJson
from mlxctl.worker.parsers.tape import Script, Steps


class ForcedCallParser:
    """`name` given: the whole answer is the arguments of that function. None: it is `{"name": …, "arguments": …}`."""

    def __init__(self, name: str | None) -> None:
        self._parser: Parser = CallParser([BareJson(strict=False)]) if name is None else _Arguments(name)

    def push(self, token: int, text: str) -> Iterator[Piece]:
        return self._parser.push(token, text)

    def finish(self, stop_token: int | None, text: str) -> Iterator[Piece]:
        return self._parser.finish(stop_token, text)


class _Arguments(Script):
    def __init__(self, name: str) -> None:
        super().__init__()
        self._calls = Calls(self._tape)
        self._name = name

    def _read(self) -> Steps[None]:
        yield self._calls.open(self._name)
        while (yield from self._tape.peek()):
            text, at = self._tape.ahead()
            yield self._calls.more(self._tape.take(len(text) - at))
