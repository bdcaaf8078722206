"""mlx-lm's parsers of whole tool calls, looked up by name when one is first wanted."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

from mlxctl.worker.engine.blas import open_fast_blas

MlxToolParser = tuple[str, str, Callable[[str, Any], Any]]


@cache
def mlx_tool_parser(name: str) -> MlxToolParser:
    """The tags around a call, and the function of its text and the tools. Raises `ValueError` for an unknown name."""
    open_fast_blas()  # mlx_lm imports mlx
    module_name = f"mlx_lm.tool_parsers.{name}"
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name:
            raise
        raise ValueError(f"this mlx-lm has no tool parser called {name!r}") from error
    return module.tool_call_start, module.tool_call_end, module.parse_tool_call
