"""An engine without a model: it answers on a thread of its own what a script says, with delays and faults on demand.

Its language is bytes: token t below 256 is the byte t, and a few tokens above spell out what models do with special
tokens. Without a script it repeats the last line of the prompt.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mlxctl.worker.adapters.base import Forced, Prompt
from mlxctl.worker.detokenizer import ByteDetokenizer
from mlxctl.worker.errors import InvalidRequest, QueueFull, RequestError, Unavailable
from mlxctl.worker.language import Language
from mlxctl.worker.parsers.base import Content, Piece, Reasoning, ToolCall
from mlxctl.worker.types import (
    Counts,
    Deliver,
    Drawn,
    Ended,
    EngineStats,
    Event,
    Failed,
    Generation,
    ModelFacts,
    Prefilled,
    TokenLogprobs,
)

END, THINK, THOUGHT, CALL, CALLED = range(256, 261)
SPELLED = {END: "<end>", THINK: "<think>", THOUGHT: "</think>", CALL: "<call>", CALLED: "</call>"}
VOCAB_SIZE = 261
LIKELIEST = -0.5
"""The log probability of every drawn token; each further one is 1 less likely."""


def said(text: str) -> list[int]:
    """The tokens of a text, with the special ones where they are spelled."""
    for token, spelled in SPELLED.items():
        if spelled in text:
            before, _, after = text.partition(spelled)
            return [*said(before), token, *said(after)]
    return list(text.encode())


class ByteTokenizer:
    def encode(self, text: str, *, special: bool) -> list[int]:
        return list(text.encode())

    def detokenizer(self, *, continues: bool = False) -> ByteDetokenizer:
        return ByteDetokenizer(self.piece_bytes)

    def piece(self, token: int) -> str:
        return self.piece_bytes(token).decode("utf-8", "replace")

    def piece_bytes(self, token: int) -> bytes:
        return bytes([token]) if token < 256 else SPELLED[token].encode()

    def is_special(self, token: int) -> bool:
        return token >= 256


class TagParser:
    """Thoughts between THINK and THOUGHT; between CALL and CALLED a name, a bar and arguments."""

    def __init__(self, *, inside_reasoning: bool) -> None:
        self._thinks = inside_reasoning
        self._name: str | None = None
        self._calls = 0

    def push(self, token: int, text: str) -> Iterator[Piece]:
        if token in (THINK, THOUGHT):
            self._thinks = token == THINK
        elif token == CALL:
            self._name = ""
        elif token == CALLED:
            self._name, self._calls = None, self._calls + 1
        elif text:
            yield from self._text(text)

    def _text(self, text: str) -> Iterator[Piece]:
        if self._name is None:
            yield Reasoning(text) if self._thinks else Content(text)
        elif self._name.endswith("|"):
            yield ToolCall(self._calls, arguments=text)
        else:
            self._name += text
            if text == "|":
                yield ToolCall(self._calls, name=self._name[:-1], call_id=f"call_{self._calls}")

    def finish(self, stop_token: int | None, text: str) -> Iterator[Piece]:
        if text:
            yield from self._text(text)


class EchoAdapter:
    """Renders `role: words`, one message a line. Told to think, it opens a thought."""

    stop_tokens = frozenset({END})

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def prompt(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None,
        kwargs: dict[str, Any],
        opening: str = "",
        *,
        constrained: bool = False,
    ) -> Prompt:
        self.asked.append({"messages": messages, "tools": tools, "kwargs": kwargs, "constrained": constrained})
        if messages[-1].get("content") == "refuse":
            raise InvalidRequest("the template refuses this conversation", param="messages")
        if messages[-1].get("content") == "break":
            raise KeyError("an adapter with a mistake")
        text = "\n".join(f"{one['role']}: {_words(one.get('content'))}" for one in messages)
        thinks = bool(kwargs.get("enable_thinking")) and not constrained
        return Prompt(tuple((text + opening).encode()), thinks)

    def parser(self, prompt: Prompt, tools: list[dict[str, Any]] | None) -> TagParser:
        return TagParser(inside_reasoning=prompt.inside_reasoning)

    def force(self, tools: list[dict[str, Any]], name: str | None) -> Forced:
        return Forced("", {"type": "object"}, name)


def _words(content: Any) -> str:
    return "".join(part.get("text", "") for part in content) if isinstance(content, list) else content or ""


@dataclass(frozen=True)
class NamedGrammar:
    text: str

    def matcher(self) -> Any:
        raise NotImplementedError("the echo engine draws what its script says")


class NamedGrammars:
    """Compiles a schema to its own text; refuses a `type` that does not exist."""

    def json_object(self) -> NamedGrammar:
        return NamedGrammar("json_object")

    def json_schema(self, schema: dict[str, Any], *, param: str = "response_format") -> NamedGrammar:
        kinds = ("object", "array", "string", "number", "integer", "boolean", "null", None)
        if schema.get("type") not in kinds:
            raise InvalidRequest(f"The JSON schema is not valid: type {schema['type']!r}", param=param)
        return NamedGrammar(json.dumps(schema))


def byte_language() -> Language:
    return Language(ByteTokenizer(), EchoAdapter(), NamedGrammars())


@dataclass(frozen=True)
class Script:
    """What is drawn, after how long. `error` comes after `fail_after` tokens; `step_s` None: the engine's own."""

    tokens: list[int] = field(default_factory=list)
    prefill_s: float = 0.0
    step_s: float | None = None
    cached: int = 0
    error: RequestError | None = None
    fail_after: int = 0


def echo(generation: Generation) -> Script:
    line = bytes(token for token in generation.prompt if token < 256).rsplit(b"\n", 1)[-1]
    return Script([*line.removeprefix(b"user: "), END])


class _Row:
    def __init__(self, generation: Generation, index: int, script: Script) -> None:
        self.generation, self.index, self.script = generation, index, script
        self.drawn = 0
        self.due = time.monotonic() + script.prefill_s


class EchoEngine:
    """Satisfies `types.Engine`. `gate` stops it in its tracks while it is cleared; `phase` may be set at will."""

    def __init__(
        self,
        deliver: Deliver,
        script: Callable[[Generation], Script] = echo,
        *,
        step_s: float = 0.0,
        max_queue: int = 256,
        context_length: int = 4096,
    ) -> None:
        self.script, self.step_s, self.max_queue = script, step_s, max_queue
        self.context_length = context_length
        self.phase: Any = "ready"
        self.submitted: list[Generation] = []
        self.aborted: list[tuple[str, int | None]] = []
        self.gate = threading.Event()
        self.gate.set()
        self._deliver = deliver
        self._lock = threading.Condition()
        self._rows: list[_Row] = []
        self._fresh: list[Event] = []
        self._counts = Counts()
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run, name="echo-engine", daemon=True)
        self._thread.start()

    @property
    def running(self) -> int:
        """Choices that have not ended."""
        with self._lock:
            return len(self._rows)

    def submit(self, generation: Generation) -> None:
        with self._lock:
            if self.phase != "ready":
                raise Unavailable("the engine is draining", retry_after_s=7)
            if len(self._rows) >= self.max_queue:
                raise QueueFull("the queue is full", retry_after_s=3)
            self.submitted.append(generation)
            script = self.script(generation)
            rows = [_Row(generation, index, script) for index in range(generation.n)]
            self._rows += rows
            total = len(generation.prompt)
            self._fresh.append(Prefilled(generation.request_id, script.cached, total, script.cached))
            self._lock.notify()

    def abort(self, request_id: str, index: int | None = None) -> None:
        with self._lock:
            self.aborted.append((request_id, index))
            for row in list(self._rows):
                if row.generation.request_id == request_id and index in (None, row.index):
                    self._rows.remove(row)
                    self._fresh.append(Ended(request_id, row.index, "aborted"))
            self._lock.notify()

    def drain(self) -> None:
        self.phase = "draining"

    def stats(self) -> EngineStats:
        return EngineStats(phase=self.phase, running=len(self._rows), totals=replace(self._counts))

    def facts(self) -> ModelFacts | None:
        if self.phase == "loading":
            return None
        return ModelFacts(
            "/models/echo", "echo", self.context_length, VOCAB_SIZE, 1000, 10, "grouped", self_test={"batch": "passed"}
        )

    def inject(self, *events: Event) -> None:
        """Have these told as if a step had brought them."""
        with self._lock:
            self._fresh += events
            self._lock.notify()

    def stop(self) -> None:
        with self._lock:
            self._is_stopped = True
            self._lock.notify()
        self.gate.set()
        self._thread.join(5)

    def _run(self) -> None:
        while not self._is_stopped:
            self.gate.wait()
            with self._lock:
                if not (self._fresh or self._is_stopped):
                    self._lock.wait(self._pause())
                events = self._step()
            if events:
                self._deliver(events)

    def _pause(self) -> float | None:
        """Seconds until a row is due; None: there is none."""
        due = min((row.due for row in self._rows), default=None)
        return None if due is None else max(0.0, due - time.monotonic())

    def _step(self) -> list[Event]:
        events, self._fresh = self._fresh, []
        now = time.monotonic()
        ready = [row for row in self._rows if row.due <= now]
        for row in ready:
            if row in self._rows:
                events += self._draw(row)
                row.due = now + (self.step_s if row.script.step_s is None else row.script.step_s)
        self._counts.steps += bool(ready)
        self._counts.largest_batch = max(self._counts.largest_batch, len(ready))
        return events

    def _draw(self, row: _Row) -> list[Event]:
        script, generation = row.script, row.generation
        request_id = generation.request_id
        if script.error is not None and row.drawn >= script.fail_after:
            self._rows = [one for one in self._rows if one.generation is not generation]
            return [Failed(request_id, script.error)]
        token = script.tokens[row.drawn] if row.drawn < len(script.tokens) else END
        if token in generation.stop_tokens:
            return [self._end(row, "stop", token)]
        row.drawn += 1
        self._counts.drawn_tokens += 1
        events: list[Event] = [Drawn(request_id, row.index, token, _scores(token, generation.sampling.logprobs))]
        if row.drawn >= generation.max_tokens:
            events.append(self._end(row, "length", None))
        return events

    def _end(self, row: _Row, reason: Any, stop_token: int | None) -> Ended:
        self._rows.remove(row)
        self._counts.finished += 1
        return Ended(row.generation.request_id, row.index, reason, stop_token)


def _scores(token: int, asked: int | None) -> TokenLogprobs | None:
    if asked is None:
        return None
    return TokenLogprobs(LIKELIEST, tuple(((token + step) % 256, LIKELIEST - step) for step in range(asked)))


MODEL_FOLDER = Path("/models/echo")
