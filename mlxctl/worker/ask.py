"""One request in the worker's own words, whatever API it came through."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from mlxctl.worker.types import Priority, Sampling


@dataclass(frozen=True, slots=True)
class Terms:
    """What every kind of request may ask for. `max_tokens` None: as many as there is room for."""

    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    n: int = 1
    priority: Priority = Priority.NORMAL
    salt: str = ""


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    kind: Literal["text", "json_object", "json_schema"] = "text"
    schema: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """`required` with a `name`: a call of that tool; without: a call of any."""

    mode: Literal["none", "auto", "required"] = "auto"
    name: str | None = None


@dataclass(frozen=True, slots=True)
class ChatAsk:
    """A conversation to be answered. Messages and tools have OpenAI's fields."""

    terms: Terms
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] = field(default_factory=list)
    tool_choice: ToolChoice = ToolChoice()
    parallel_tool_calls: bool = True
    answer_format: AnswerFormat = AnswerFormat()
    template_kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TextAsk:
    """Prompts to be continued, as text or as tokens. `echo`: each answer begins with its prompt."""

    terms: Terms
    prompts: tuple[str | tuple[int, ...], ...]
    echo: bool = False


Ask = ChatAsk | TextAsk
