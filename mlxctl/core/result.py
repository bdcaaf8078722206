"""What every command returns: one `Result`, rendered once, as a table for people or as the JSON envelope."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlxctl.core.errors import EXIT_OK, MlxctlError

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong: `code` for scripts, `message` for people, `hint` for what to do next."""

    code: str
    message: str
    hint: str = ""
    detail: tuple[str, ...] = ()

    @classmethod
    def of(cls, error: MlxctlError) -> Problem:
        return cls(error.code, error.message, error.hint, error.detail)

    def to_json(self) -> dict[str, Any]:
        shown: dict[str, Any] = {"code": self.code, "message": self.message, "hint": self.hint}
        if self.detail:
            shown["detail"] = list(self.detail)
        return shown


@dataclass(frozen=True, slots=True)
class Result:
    """`data` is the command's own; `messages` are notices for people that do not change the exit code."""

    command: str
    data: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[str, ...] = ()
    errors: tuple[Problem, ...] = ()
    exit_code: int = EXIT_OK

    @classmethod
    def failed(cls, command: str, error: MlxctlError) -> Result:
        return cls(command, errors=(Problem.of(error),), exit_code=error.exit_code)

    @property
    def ok(self) -> bool:
        return self.exit_code == EXIT_OK

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "command": self.command,
            "ok": self.ok,
            "data": dict(self.data),
            "messages": list(self.messages),
            "errors": [problem.to_json() for problem in self.errors],
        }
