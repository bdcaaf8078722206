"""Questions to a person: only on a terminal."""

from __future__ import annotations

import sys

from mlxctl.core.errors import UsageError


def confirmed(question: str) -> bool:
    """Whether somebody typed yes. Raises `UsageError` when there is nobody to ask."""
    if not sys.stdin.isatty():
        raise UsageError("needs_yes", f"{question} There is no terminal to answer on", "repeat the command with --yes")
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
