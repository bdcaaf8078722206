"""The commands that people type all day, without typer, which loads pydantic to read an option.

Whatever is not plainly one of these forms is left to typer: it knows every flag, and explains what is wrong.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlxctl.ui.cli.edge import execute

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlxctl.control.site import Site
    from mlxctl.core.result import Result

JSON = "--json"
SWITCHES = ("--force", "--no-sync", "--no-offload-og")


def run_fast(argv: list[str]) -> int | None:
    """The exit code, or None when typer has to have its turn."""
    if argv and argv[0] == "worker" and not {"--help", "-h"} & set(argv):
        from mlxctl.ui.cli.worker import serve

        return serve(argv[1:])
    if not argv or argv[0] not in ("list", "status", "load"):
        return None
    words = [word for word in argv[1:] if word != JSON]
    command = _load(words) if argv[0] == "load" else None if words else _look(argv[0])
    return None if command is None else execute(argv[0], JSON in argv, command)


def _look(name: str) -> Callable[[Site], Result]:
    if name == "list":
        from mlxctl.control.commands.list import list_models

        return list_models
    from mlxctl.control.commands.status import status

    return status


def _load(words: list[str]) -> Callable[[Site], Result] | None:
    """`load MODEL PORT` with nothing but switches and --engine."""
    rest = [word for word in words if word not in SWITCHES]
    engine = None
    if "--engine" in rest[:-1]:
        place = rest.index("--engine")
        engine = rest[place + 1]
        rest = rest[:place] + rest[place + 2 :]
    if len(rest) != 2 or any(word.startswith("-") for word in rest):
        return None
    from mlxctl.control.commands.load import LoadFlags, load

    model, port = rest
    flags = LoadFlags(
        engine=engine,
        force="--force" in words,
        no_sync="--no-sync" in words,
        no_offload_og="--no-offload-og" in words,
    )
    return lambda site: load(site, model, port, flags)
