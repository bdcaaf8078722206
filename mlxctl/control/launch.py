"""From a registry entry to the command line of its server. Pure, but for what `Launchers` was told it would find."""

from __future__ import annotations

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
    *,
    harmony: bool = False,
) -> Engine:
    """The engine by flag, entry or setting; `auto` decides by range and by what is installed. Raises `NotReady`.

    `harmony`: the model speaks in channels, which mlx_lm.server hands out raw and mlx-openai-server can parse.
    """
    kind = asked or entry.engine or settings.engine
    if kind not in ENGINES:
        raise UsageError("bad_flag", f"{kind!r} is not an engine", f"choose one of {', '.join(ENGINES)}")
    if kind == AUTO:
        kind = _auto_engine(harmony or port_range == EXPERIMENTAL, settings, which)
    if kind == WORKER:
        raise NotReady("no_engine", "this version of mlxctl has no worker of its own yet", "use --engine mlx-lm")
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
                "install it (docs/engines.md), or use --engine mlx-lm",
            )
        return Engine(MLX_OPENAI_SERVER, prefix)
    return Engine(MLX_LM, (sys.executable, "-m", "mlx_lm", "server"))


def _launch_words(command: str) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(command))
    except ValueError as error:
        raise UsageError(
            "bad_setting", f"MLX_LAUNCH_CMD cannot be understood: {error}: {command}", "quote it as for a shell"
        ) from error


def _auto_engine(openai_server_first: bool, settings: Settings, which: Callable[[str], str | None]) -> str:
    if settings.launch_cmd:
        return COMMAND
    if openai_server_first and openai_server_prefix(settings, which) is not None:
        return MLX_OPENAI_SERVER
    return MLX_LM


@dataclass(frozen=True, slots=True)
class Dialect:
    """What a server is told of the chat format: the template's file and text, and the two parsers."""

    template: Path | None = None
    template_text: str = ""
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None


def engine_argv(engine: Engine, entry: ModelEntry, port: int, dialect: Dialect, settings: Settings) -> list[str]:
    """The whole command line. `entry.cache_path` is the folder that is served."""
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
