"""From a registry entry to the command line of its server. Pure, but for what `Launchers` was told it would find."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlxctl.core.errors import NotReady, UsageError
from mlxctl.core.options import Settings
from mlxctl.core.ports import EXPERIMENTAL
from mlxctl.core.registry import ModelEntry

AUTO, WORKER, MLX_LM, MLX_OPENAI_SERVER, COMMAND = "auto", "worker", "mlx-lm", "mlx-openai-server", "command"
ENGINES = (AUTO, WORKER, MLX_LM, MLX_OPENAI_SERVER, COMMAND)
HOMEBREW_UV = "/opt/homebrew/bin/uv"

OWN_PYTHON = {WORKER: (sys.executable, "-m", "mlxctl", "worker"), MLX_LM: (sys.executable, "-m", "mlx_lm", "server")}
"""Engines that are modules of the Python that runs us."""

REQUEST_MODEL = {MLX_LM: "default_model"}
"""What an engine wants as `model` in a request, where that is not the model's id.

`mlx_lm.server` takes any other name for a model that it should load; the rest answer for what they serve.
"""


@dataclass(frozen=True, slots=True)
class Engine:
    """A server to start: its kind, and the words that stand before its flags."""

    kind: str
    prefix: tuple[str, ...]

    def request_model(self, entry: ModelEntry) -> str:
        return REQUEST_MODEL.get(self.kind, entry.model_id)


def openai_server_prefix(settings: Settings, which: Callable[[str], str | None]) -> tuple[str, ...] | None:
    """How `mlx-openai-server launch` is started here: from PATH, from beside this Python, where the extra puts it, or
    out of the launch project. None: not found.
    """
    if found := which("mlx-openai-server") or which(str(Path(sys.executable).with_name("mlx-openai-server"))):
        return (found, "launch")
    uv = which("uv") or (HOMEBREW_UV if Path(HOMEBREW_UV).exists() else None)
    if uv and (settings.launch_project / "pyproject.toml").exists():
        return (uv, "run", "--project", str(settings.launch_project), "mlx-openai-server", "launch")
    return None


def choose_engine(
    asked: str | None,
    entry: ModelEntry,
    port_range: str,
    settings: Settings,
    which: Callable[[str], str | None],
) -> Engine:
    """The engine by flag, entry or setting; `auto` decides by range and by what is installed. Raises `NotReady`."""
    kind = asked or entry.engine or settings.engine
    if kind not in ENGINES:
        raise UsageError("bad_flag", f"{kind!r} is not an engine", f"choose one of {', '.join(ENGINES)}")
    if kind == AUTO:
        kind = _auto_engine(port_range, settings, which)
    if kind == COMMAND:
        if not settings.launch_cmd:
            raise NotReady(
                "no_engine",
                "engine `command` needs MLX_LAUNCH_CMD, which is not set",
                "set it, or choose another engine",
            )
        return Engine(COMMAND, _launch_words(settings.launch_cmd))
    if kind == MLX_OPENAI_SERVER:
        prefix = openai_server_prefix(settings, which)
        if prefix is None:
            raise NotReady(
                "no_engine",
                "mlx-openai-server is neither on PATH nor in a project at " + str(settings.launch_project),
                "install it (docs/engines.md), or use --engine worker",
            )
        return Engine(MLX_OPENAI_SERVER, prefix)
    return Engine(kind, OWN_PYTHON[kind])


def _launch_words(command: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(command))
    except ValueError as error:
        raise UsageError(
            "bad_setting", f"MLX_LAUNCH_CMD cannot be understood: {error}: {command}", "quote it as for a shell"
        ) from error


def _auto_engine(port_range: str, settings: Settings, which: Callable[[str], str | None]) -> str:
    if settings.launch_cmd:
        return COMMAND
    if port_range == EXPERIMENTAL and openai_server_prefix(settings, which) is not None:
        return MLX_OPENAI_SERVER
    return WORKER


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a server is told of the chat format: the template's file and text, and the two parsers."""

    template: Path | None = None
    template_text: str = ""
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None


def engine_argv(engine: Engine, entry: ModelEntry, port: int, dialect: Dialect, settings: Settings) -> list[str]:
    """The whole command line. `entry.cache_path` is the folder that is served."""
    if engine.kind == WORKER:
        return _worker_argv(engine, entry, port, dialect, settings)
    if engine.kind == MLX_LM:
        return _mlx_lm_argv(engine, entry, port, dialect, settings)
    argv = [*engine.prefix, "--model-path", entry.cache_path, "--model-type", "lm"]
    argv += ["--host", settings.bind, "--port", str(port)]
    argv += ["--trust-remote-code"] if settings.trust_remote_code else []
    argv += ["--tool-call-parser", dialect.tool_call_parser] if dialect.tool_call_parser else []
    argv += ["--reasoning-parser", dialect.reasoning_parser] if dialect.reasoning_parser else []
    argv += ["--chat-template-file", str(dialect.template)] if dialect.template else []
    if engine.kind == MLX_OPENAI_SERVER:
        argv += ["--served-model-name", entry.model_id, "--no-log-file"]
        argv += ["--max-bytes", str(settings.prompt_cache_bytes)]
        argv += ["--prompt-cache-dir", str(prompt_cache_dir(settings, port))]
        argv += ["--context-length", str(entry.context_length)] if entry.context_length else []
        argv += ["--max-tokens", str(entry.max_output_tokens)] if entry.max_output_tokens else []
    return argv


def prompt_cache_dir(settings: Settings, port: int) -> Path:
    """Where an engine may spill its prompt cache; emptied before each start."""
    return settings.state_dir / "prompt-cache" / str(port)


def _mlx_lm_argv(engine: Engine, entry: ModelEntry, port: int, dialect: Dialect, settings: Settings) -> list[str]:
    """`mlx_lm.server` takes a template as text, and finds its parsers by itself."""
    argv = [*engine.prefix, "--model", entry.cache_path, "--host", settings.bind, "--port", str(port)]
    argv += ["--prompt-cache-bytes", str(settings.prompt_cache_bytes)]
    argv += ["--max-tokens", str(entry.max_output_tokens)] if entry.max_output_tokens else []
    argv += ["--trust-remote-code"] if settings.trust_remote_code else []
    argv += ["--chat-template", dialect.template_text] if dialect.template_text else []
    return argv


def _worker_argv(engine: Engine, entry: ModelEntry, port: int, dialect: Dialect, settings: Settings) -> list[str]:
    """What the entry says of its model. All else the worker finds in the same environment and config.toml as we do;
    keys among them, which do not belong on a command line.
    """
    argv = [*engine.prefix, "--model", entry.cache_path, "--host", settings.bind, "--port", str(port)]
    argv += ["--served-model-name", entry.model_id]
    argv += ["--cache-gb", repr(kept)] if (kept := _cache_gb(settings)) is not None else []
    argv += ["--trust-remote-code"] if settings.trust_remote_code else []
    # the text is empty where the template is the model's own
    argv += ["--chat-template", str(dialect.template)] if dialect.template_text else []
    argv += ["--tool-call-parser", dialect.tool_call_parser] if dialect.tool_call_parser else []
    argv += ["--reasoning-parser", dialect.reasoning_parser] if dialect.reasoning_parser else []
    argv += ["--context-length", str(entry.context_length)] if entry.context_length else []
    argv += ["--max-tokens", str(entry.max_output_tokens)] if entry.max_output_tokens else []
    argv += ["--default-priority", entry.priority] if entry.priority else []
    argv += ["--request-params", json.dumps(dict(entry.request_params))] if entry.request_params else []
    return argv


def _cache_gb(settings: Settings) -> float | None:
    """The bound of kept prefixes in units of 10^9 bytes; None lets the worker go by the memory that there is."""
    if settings.max_cache_size_gb > 0:
        return settings.max_cache_size_gb
    return (
        None
        if settings.sources.get("prompt_cache_bytes", "default") == "default"
        else settings.prompt_cache_bytes / 10**9
    )
