"""One choice's output: tokens in; content, reasoning and tool calls out, with the stop strings cut away."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

from mlxctl.worker.language import Tokenizer
from mlxctl.worker.parsers.base import Content, Parser, Piece, Reasoning, ToolCall
from mlxctl.worker.parsers.plain import PlainParser
from mlxctl.worker.stop_text import StopText
from mlxctl.worker.types import TokenLogprobs

FinishReason = Literal["stop", "length", "tool_calls"]
LEAST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON cannot say."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How one request's answers are read. `continues`: the text goes on from the prompt, its leading space is meant."""

    tokenizer: Tokenizer
    parser: Callable[[], Parser] = PlainParser
    stop: tuple[str, ...] = ()
    inside_reasoning: bool = False
    continues: bool = False
    parallel_tool_calls: bool = True


@dataclass(frozen=True, slots=True)
class SpelledToken:
    text: str
    data: bytes
    logprob: float


@dataclass(frozen=True, slots=True)
class ScoredToken(SpelledToken):
    top: tuple[SpelledToken, ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """What one batch of events brought to choice `index`. `tokens` only where logprobs were asked for."""

    index: int
    pieces: tuple[Piece, ...]
    tokens: tuple[ScoredToken, ...] = ()


@dataclass(frozen=True, slots=True)
class Finish:
    index: int
    reason: FinishReason


class Choice:
    """Push tokens, `take` what they brought; `finish_reason` is set once no more will come."""

    def __init__(self, index: int, reading: Reading) -> None:
        self.index = index
        self.finish_reason: FinishReason | None = None
        self.num_tokens = 0
        self.num_reasoning_tokens = 0
        self._reading = reading
        self._parser = reading.parser()
        self._detokenizer = reading.tokenizer.detokenizer(continues=reading.continues)
        self._stop_text = StopText(reading.stop) if reading.stop else None
        self._is_reasoning = reading.inside_reasoning
        self._has_calls = False
        self._pieces: list[Piece] = []
        self._scored: list[ScoredToken] = []
        self._undecided: list[tuple[int, TokenLogprobs]] = []
        self._marks: set[str] = set()

    def push(self, token: int, logprobs: TokenLogprobs | None) -> None:
        """Read one token; dropped after the end."""
        if self.finish_reason is not None:
            return
        self.num_tokens += 1
        if logprobs is not None:
            self._undecided.append((token, logprobs))
        if self._reading.tokenizer.is_special(token) and not self._reading.continues:
            self._marks.add(self._reading.tokenizer.piece(token))
        self._read(self._parser.push(token, self._detokenizer.push(token)))
        self.num_reasoning_tokens += self._is_reasoning

    def finish(self, reason: Literal["stop", "length"], stop_token: int | None) -> None:
        """The engine has ended this choice."""
        if self.finish_reason is not None:
            return
        self._read(self._parser.finish(stop_token, self._detokenizer.finish()))
        if self.finish_reason is None:
            self._release_held()
            self.finish_reason = "tool_calls" if self._has_calls and reason == "stop" else reason

    def take(self) -> Delta | None:
        """What came since the last time; None if there is nothing to say."""
        if not self._pieces and not self._scored:
            return None
        delta = Delta(self.index, tuple(_merged(self._pieces)), tuple(self._scored))
        self._pieces, self._scored = [], []
        return delta

    def _read(self, pieces: Iterable[Piece]) -> None:
        for piece in pieces:
            if isinstance(piece, Content):
                self._is_reasoning = False
                self._score(piece.text)
                if self._stops_in(piece):
                    return
                continue
            self._release_held()
            self._is_reasoning = isinstance(piece, Reasoning)
            self._undecided.clear()
            if isinstance(piece, Reasoning):
                self._keep(piece)
                continue
            if piece.index > 0 and not self._reading.parallel_tool_calls:
                self.finish_reason = "tool_calls"
                return
            self._has_calls = True
            self._pieces.append(piece)

    def _keep(self, piece: Content | Reasoning) -> None:
        """Without the special tokens that no parser has taken: in a conversation they are markup, and nobody's text."""
        text = piece.text
        for mark in self._marks:
            text = text.replace(mark, "")
        if text:
            self._pieces.append(piece if text == piece.text else replace(piece, text=text))

    def _stops_in(self, piece: Content) -> bool:
        """Keep content as far as it is certain. True: a stop string ended it."""
        if self._stop_text is None:
            self._keep(piece)
            return False
        released, hit = self._stop_text.push(piece.text)
        if released:
            self._keep(Content(released))
        if hit:
            self.finish_reason = "stop"
        return hit

    def _release_held(self) -> None:
        """Content that might have become a stop string did not."""
        if self._stop_text is None:
            return
        held = self._stop_text.finish()
        self._stop_text = StopText(self._reading.stop)
        if held:
            self._keep(Content(held))

    def _score(self, text: str) -> None:
        """Of the tokens since the last piece the latest say `text`; those before them were tags or cut off."""
        first, left = len(self._undecided), len(text.encode())
        while first > 0 and left > 0:
            first -= 1
            left -= len(self._reading.tokenizer.piece_bytes(self._undecided[first][0]))
        for token, logprobs in self._undecided[first:]:
            top = tuple(self._spelled(other, logprob) for other, logprob in logprobs.top)
            own = self._spelled(token, logprobs.logprob)
            self._scored.append(ScoredToken(own.text, own.data, own.logprob, top))
        self._undecided.clear()

    def _spelled(self, token: int, logprob: float) -> SpelledToken:
        tokenizer = self._reading.tokenizer
        known = logprob if math.isfinite(logprob) else LEAST_LOGPROB
        return SpelledToken(tokenizer.piece(token), tokenizer.piece_bytes(token), known)


def _merged(pieces: list[Piece]) -> Iterator[Piece]:
    """Neighbours of one kind become one piece."""
    last: Piece | None = None
    for piece in pieces:
        joined = None if last is None else _joined(last, piece)
        if joined is None and last is not None:
            yield last
        last = piece if joined is None else joined
    if last is not None:
        yield last


def _joined(first: Piece, second: Piece) -> Piece | None:
    if isinstance(first, Content) and isinstance(second, Content):
        return Content(first.text + second.text)
    if isinstance(first, Reasoning) and isinstance(second, Reasoning):
        return Reasoning(first.text + second.text)
    if isinstance(first, ToolCall) and isinstance(second, ToolCall) and second.name is None:
        return replace(first, arguments=first.arguments + second.arguments) if first.index == second.index else None
    return None
