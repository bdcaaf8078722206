"""What turns a conversation into tokens and tokens into text, as the HTTP side sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from mlxctl.worker.adapters.base import Forced, Prompt
from mlxctl.worker.detokenizer import Detokenizer
from mlxctl.worker.parsers.base import Parser
from mlxctl.worker.types import Grammar


class Tokenizer(Protocol):
    """Every method may be called from any thread."""

    def encode(self, text: str, *, special: bool) -> list[int]: ...

    def detokenizer(self, *, continues: bool = False) -> Detokenizer: ...

    def piece(self, token: int) -> str: ...

    def piece_bytes(self, token: int) -> bytes: ...

    def is_special(self, token: int) -> bool:
        """Whether it is markup, which no answer shows unless a parser gives it a meaning."""
        ...


class Adapter(Protocol):
    """A model's family. The methods raise `InvalidRequest` for a conversation that its template refuses."""

    @property
    def stop_tokens(self) -> frozenset[int]: ...

    def prompt(
        self,
        messages: list[dict[str, Any]],
        tools: list[dict[str, Any]] | None,
        kwargs: dict[str, Any],
        opening: str = "",
        *,
        constrained: bool = False,
    ) -> Prompt: ...

    def parser(self, prompt: Prompt, tools: list[dict[str, Any]] | None) -> Parser: ...

    def force(self, tools: list[dict[str, Any]], name: str | None) -> Forced: ...


class Grammars(Protocol):
    """Compiles grammars; raises `InvalidRequest` for a schema that it cannot follow."""

    def json_object(self) -> Grammar: ...

    def json_schema(self, schema: dict[str, Any], *, param: str = ...) -> Grammar: ...


@dataclass(frozen=True, slots=True)
class Language:
    """The three together, for the model that is loaded."""

    tokenizer: Tokenizer
    adapter: Adapter
    grammars: Grammars
