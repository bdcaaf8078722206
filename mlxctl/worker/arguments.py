"""From the words of `mlxctl worker` and the settings to a `ServeConfig`. Its flags are declared here, once."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from mlxctl.core.errors import UsageError
from mlxctl.core.options import Settings
from mlxctl.core.settings import load_settings, split_api_key
from mlxctl.worker.config import GB, EngineConfig, ServeConfig
from mlxctl.worker.types import Priority

MB = 1024 * 1024
PRIORITIES = {priority.name.lower(): priority for priority in Priority}
LOG_LEVELS = ("critical", "error", "warning", "info", "debug")
BLOCK_TOKENS = range(16, 257)
DTYPE_BYTES = {"float32": 4, "float64": 8}
"""Of a KV entry, by the `dtype` of config.json; everything else takes 2."""


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag. `setting`: the name in `core.options` of what it overrides; `kind` bool takes no value."""

    name: str
    kind: type[str] | type[int] | type[float] | type[bool]
    meaning: str
    setting: str = ""
    metavar: str = ""
    least: int | None = None
    most: int | None = None
    required: bool = False
    repeats: bool = False

    @property
    def field(self) -> str:
        return self.name.removeprefix("--").replace("-", "_")


FLAGS = (
    Flag("--model", str, "Folder of the model, in MLX's format.", metavar="PATH", required=True),
    Flag("--port", int, "Port to listen on.", least=1, most=65535, required=True),
    Flag("--host", str, "Address to listen on.", "bind"),
    Flag("--served-model-name", str, "What clients call the model; the folder's name unless given."),
    Flag(
        "--api-key",
        str,
        "A key that clients must send, with the priority of its requests. Better in MLXCTL_WORKER_API_KEYS: others can "
        "read command lines. May be repeated.",
        "worker_api_keys",
        metavar="KEY[=high|normal|low]",
        repeats=True,
    ),
    Flag(
        "--context-length", int, "Longest prompt and answer together, in tokens; never above the model's own.", least=1
    ),
    Flag("--max-tokens", int, "Longest answer, and what a request gets that asks for no length.", least=1),
    Flag(
        "--chat-template", str, "A shipped template's name, or a file; the model's own unless given.", "chat_template"
    ),
    Flag(
        "--tool-call-parser", str, "How tool calls are found; by the model's family unless given.", "tool_call_parser"
    ),
    Flag("--reasoning-parser", str, "How reasoning is found; by the model's family unless given.", "reasoning_parser"),
    Flag("--request-params", str, "What requests get that do not say otherwise, by OpenAI's names.", metavar="JSON"),
    Flag("--adapter-path", str, "Folder of a LoRA adapter.", metavar="PATH"),
    Flag("--trust-remote-code", bool, "Run Python that the model brings along.", "trust_remote_code"),
    Flag("--max-batch", int, "Answers that are computed at once.", "max_batch_size", least=1),
    Flag("--max-queue", int, "Requests that may wait; more get 429.", "worker_max_queue", least=1),
    Flag("--cache-gb", float, "Memory for prefixes that are kept; 0 keeps none.", "max_cache_size_gb", least=0),
    Flag("--kv-gb", float, "Memory for running requests.", "worker_kv_gb", least=0),
    Flag("--block-tokens", int, "Tokens of a KV block.", "worker_block_tokens", least=16, most=256),
    Flag("--prefill-tokens", int, "Of a prompt, read at once while nobody streams.", "worker_prefill_tokens", least=1),
    Flag("--stall-ms", int, "Longest pause of a stream while a prompt is read.", "worker_stall_ms", least=1),
    Flag("--no-batching", bool, "One request at a time.", "enable_batching"),
    Flag("--default-priority", str, "Of requests that say none: high, normal or low.", "worker_priority"),
    Flag("--drain-timeout", int, "Seconds that requests under way get at a stop.", "drain_timeout_s", least=0),
    Flag("--max-body-mb", int, "Largest request; a larger one gets 413.", "worker_max_body_mb", least=1),
    Flag("--no-metrics", bool, "Do not answer /metrics.", "metrics_enabled"),
    Flag("--log-level", str, "critical, error, warning, info or debug.", "log_level"),
    Flag("--json", bool, "An error as one JSON object on standard output, for scripts."),
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError("bad_flag", message, "see `mlxctl worker --help`")


def parse_flags(argv: Sequence[str]) -> dict[str, Any]:
    """The flags that were given, by `Flag.field`. Raises `UsageError` for what no flag takes."""
    parser = _Parser(prog="mlxctl worker", add_help=False, allow_abbrev=False, argument_default=argparse.SUPPRESS)
    for flag in FLAGS:
        if flag.kind is bool:
            parser.add_argument(flag.name, action="store_true")
        else:
            parser.add_argument(
                flag.name, type=flag.kind, required=flag.required, action="append" if flag.repeats else "store"
            )
    given = vars(parser.parse_args(list(argv)))
    for flag in FLAGS:
        value = given.get(flag.field)
        if isinstance(value, int | float) and not _fits(value, flag):
            raise UsageError("bad_flag", f"{flag.name} {value} is out of range", _range_of(flag))
    return given


def _fits(value: float, flag: Flag) -> bool:
    # written so that a NaN fits nowhere
    return (flag.least is None or value >= flag.least) and (flag.most is None or value <= flag.most)


def _range_of(flag: Flag) -> str:
    return f"it takes {flag.least} to {flag.most}" if flag.most is not None else f"it takes {flag.least} or more"


def serve_config(
    argv: Sequence[str],
    environ: Mapping[str, str],
    toml: str = "",
    *,
    platform: str = "linux",
    model_config: Callable[[Path], Mapping[str, Any]] = lambda _: {},
) -> ServeConfig:
    """What the worker is to do: flag > environment > config.toml > default. Raises `UsageError`.

    `model_config` gives config.json of a model's folder; asked only when the cache is bounded in blocks.
    """
    given = parse_flags(argv)
    overrides = {
        flag.setting: _override(flag, given[flag.field]) for flag in FLAGS if flag.setting and flag.field in given
    }
    settings = load_settings(environ, toml, platform=platform, flags=overrides)
    model = Path(given["model"]).expanduser()
    priority = _priority(settings.worker_priority)
    return ServeConfig(
        engine=_engine_config(given, settings, model, model_config),
        host=settings.bind,
        port=given["port"],
        served_model_name=given.get("served_model_name") or name_of(model),
        api_keys=dict(_api_key(word, priority) for word in settings.worker_api_keys),
        default_priority=priority,
        max_output_tokens=given.get("max_tokens"),
        chat_template=settings.chat_template or "",
        tool_call_parser=settings.tool_call_parser,
        reasoning_parser=settings.reasoning_parser,
        request_params=_json_object(given.get("request_params", "{}")),
        max_body_bytes=settings.worker_max_body_mb * MB,
        drain_timeout_s=float(settings.drain_timeout_s),
        metrics=settings.metrics_enabled,
        log_level=_log_level(settings.log_level),
    )


def _override(flag: Flag, value: Any) -> Any:
    """A flag's value as its setting has it: `--no-X` turns a switch off, a repeated flag makes words."""
    if flag.kind is bool:
        return not flag.name.startswith("--no-")
    return tuple(value) if flag.repeats else value


def _engine_config(
    given: Mapping[str, Any], settings: Settings, model: Path, model_config: Callable[[Path], Mapping[str, Any]]
) -> EngineConfig:
    if settings.worker_block_tokens not in BLOCK_TOKENS:
        raise UsageError(
            "bad_setting", f"{settings.worker_block_tokens} tokens are no size of a KV block", "it takes 16 to 256"
        )
    adapter = given.get("adapter_path")
    cache_bytes = _cache_bytes(settings)
    if settings.block_pool_size and (each := kv_bytes_per_token(model_config(model))):
        pool = settings.block_pool_size * settings.worker_block_tokens * each
        cache_bytes = pool if cache_bytes is None else min(cache_bytes, pool)
    return EngineConfig(
        model=model,
        adapter=Path(adapter).expanduser() if adapter else None,
        trust_remote_code=settings.trust_remote_code,
        context_length=given.get("context_length"),
        batching=settings.enable_batching,
        max_batch=max(1, settings.max_batch_size),
        max_queue=max(1, settings.worker_max_queue),
        block_tokens=settings.worker_block_tokens,
        cache_bytes=cache_bytes,
        kv_bytes=int(settings.worker_kv_gb * GB) or None,
        prefill_tokens=max(1, settings.worker_prefill_tokens),
        stall_ms=max(1, settings.worker_stall_ms),
    )


def _cache_bytes(settings: Settings) -> int | None:
    if not settings.conversation_cache:
        return 0
    if settings.max_cache_size_gb > 0 or settings.sources["max_cache_size_gb"] == "flag":
        return int(settings.max_cache_size_gb * GB)
    # its default is for engines that cannot look at the memory themselves
    return None if settings.sources["prompt_cache_bytes"] == "default" else settings.prompt_cache_bytes


def kv_bytes_per_token(config: Mapping[str, Any]) -> int:
    """What one token takes in the cache of a model with this config.json; 0 where it does not say. An estimate: layers
    that keep a window or a state take less.
    """
    shape = {**config, **config.get("text_config", {})}
    heads = shape.get("num_key_value_heads") or shape.get("num_attention_heads") or 0
    width = shape.get("head_dim") or shape.get("hidden_size", 0) // max(1, shape.get("num_attention_heads") or 1)
    dtype = str(shape.get("torch_dtype") or shape.get("dtype"))
    return int(2 * shape.get("num_hidden_layers", 0) * heads * width * DTYPE_BYTES.get(dtype, 2))


def name_of(model: Path) -> str:
    """What a model is called when nobody says: its folder's name, or the repository's for a folder of the hub cache."""
    repository = model.parent.parent.name
    if model.parent.name == "snapshots" and repository.startswith("models--"):
        return repository.removeprefix("models--").replace("--", "/")
    return model.absolute().name


def _api_key(word: str, default: Priority) -> tuple[str, Priority]:
    key, priority = split_api_key(word)
    return key, PRIORITIES[priority] if priority else default


def _priority(word: str) -> Priority:
    if word.lower() not in PRIORITIES:
        raise UsageError("bad_setting", f"the default priority is {word!r}", f"it takes {', '.join(PRIORITIES)}")
    return PRIORITIES[word.lower()]


def _log_level(word: str) -> str:
    if word.lower() not in LOG_LEVELS:
        raise UsageError("bad_setting", f"the log level is {word!r}", f"it takes {', '.join(LOG_LEVELS)}")
    return word.lower()


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError("bad_flag", f"--request-params is not JSON: {error}", "give an object, as '{}'") from error
    if not isinstance(value, dict):
        raise UsageError("bad_flag", "--request-params is not a JSON object", "give one, as '{\"temperature\": 0.2}'")
    return value
