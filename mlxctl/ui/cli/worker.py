"""`mlxctl worker`: serves one model in this process. Its flags are those of `mlxctl.worker.arguments`."""

from __future__ import annotations

import inspect
import sys
from typing import Annotated, Any

import typer

from mlxctl.core.errors import MlxctlError
from mlxctl.core.result import Result
from mlxctl.ui.cli.edge import read_sources, show
from mlxctl.worker.arguments import FLAGS, Flag, serve_config


def serve(argv: list[str]) -> int:
    """Serve as `argv` says, until SIGTERM. Returns the exit code."""
    try:
        from mlxctl.worker.folder import read_config

        environ, toml = read_sources()
        config = serve_config(argv, environ, toml, platform=sys.platform, model_config=read_config)
        # imports an HTTP server; a wrong flag is told without it
        from mlxctl.worker.server import serve as run

        return run(config)
    except MlxctlError as error:
        return show(Result.failed("worker", error), as_json="--json" in argv)


def worker(**given: Any) -> int:
    """Serve one model on one port, in this process, until SIGTERM. `mlxctl load` starts it in the background."""
    return serve([word for flag in FLAGS for word in _words(flag, given[flag.field])])


def _words(flag: Flag, value: Any) -> list[str]:
    """What was typed for `flag`, typer having read it."""
    if value is None or value is False:
        return []
    if flag.kind is bool:
        return [flag.name]
    return [word for one in (value if flag.repeats else [value]) for word in (flag.name, str(one))]


def _parameter(flag: Flag) -> inspect.Parameter:
    option = typer.Option(flag.name, help=flag.meaning, metavar=flag.metavar or None, min=flag.least, max=flag.most)
    kind: Any = list[str] if flag.repeats else flag.kind
    default = inspect.Parameter.empty if flag.required else False if flag.kind is bool else None
    annotation = Annotated[kind, option] if flag.required or flag.kind is bool else Annotated[kind | None, option]
    return inspect.Parameter(flag.field, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


# typer reads flags from a signature; this one is made from the table, so that no flag is declared twice
_parameters = sorted(
    (_parameter(flag) for flag in FLAGS), key=lambda parameter: parameter.default is not inspect._empty
)
worker.__signature__ = inspect.Signature(_parameters)  # type: ignore[attr-defined]
worker.__annotations__ = {parameter.name: parameter.annotation for parameter in _parameters}
