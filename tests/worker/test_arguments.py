"""From words, variables and config.toml to what the worker does: every flag arrives, and the first that speaks wins."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from mlxctl.core.errors import UsageError
from mlxctl.core.options import options
from mlxctl.worker.arguments import FLAGS, kv_bytes_per_token, name_of, parse_flags, serve_config
from mlxctl.worker.config import EngineConfig, ServeConfig
from mlxctl.worker.types import Priority

LEAST = ["--model", "/models/a", "--port", "8101"]
MB = 1024 * 1024


def told(*words: str, toml: str = "", environ: dict[str, str] | None = None, **more: Any) -> ServeConfig:
    return serve_config([*LEAST, *words], {"HOME": "/home/me", **(environ or {})}, toml, **more)


def value_of(config: ServeConfig, name: str) -> Any:
    return getattr(config.engine if name.startswith("engine.") else config, name.removeprefix("engine."))


def test_a_model_and_a_port_are_enough() -> None:
    assert told() == ServeConfig(EngineConfig(Path("/models/a")), port=8101, served_model_name="a")


BY_FLAG = [
    ("--host 0.0.0.0", "host", "0.0.0.0"),
    ("--served-model-name mlx-a", "served_model_name", "mlx-a"),
    ("--context-length 8192", "engine.context_length", 8192),
    ("--max-tokens 512", "max_output_tokens", 512),
    ("--chat-template llama3", "chat_template", "llama3"),
    ("--tool-call-parser hermes", "tool_call_parser", "hermes"),
    ("--reasoning-parser qwen3", "reasoning_parser", "qwen3"),
    ('--request-params {"temperature":0.5,"stop":["a"]}', "request_params", {"temperature": 0.5, "stop": ["a"]}),
    ("--adapter-path ~/lora", "engine.adapter", Path("~/lora").expanduser()),
    ("--trust-remote-code", "engine.trust_remote_code", True),
    ("--max-batch 4", "engine.max_batch", 4),
    ("--max-queue 7", "engine.max_queue", 7),
    ("--cache-gb 1.5", "engine.cache_bytes", 1_500_000_000),
    ("--cache-gb 0", "engine.cache_bytes", 0),
    ("--kv-gb 2", "engine.kv_bytes", 2_000_000_000),
    ("--block-tokens 16", "engine.block_tokens", 16),
    ("--prefill-tokens 512", "engine.prefill_tokens", 512),
    ("--stall-ms 100", "engine.stall_ms", 100),
    ("--no-batching", "engine.batching", False),
    ("--default-priority low", "default_priority", Priority.LOW),
    ("--drain-timeout 5", "drain_timeout_s", 5.0),
    ("--max-body-mb 1", "max_body_bytes", MB),
    ("--no-metrics", "metrics", False),
    ("--log-level DEBUG", "log_level", "debug"),
    ("--api-key k1", "api_keys", {"k1": Priority.NORMAL}),
    (
        "--api-key k1=high --api-key a=b=low --api-key c=d",
        "api_keys",
        {"k1": Priority.HIGH, "a=b": Priority.LOW, "c=d": Priority.NORMAL},
    ),
    ("--api-key k1 --default-priority low", "api_keys", {"k1": Priority.LOW}),
]


@pytest.mark.parametrize(("words", "name", "value"), BY_FLAG, ids=[row[0] for row in BY_FLAG])
def test_a_flag_arrives(words: str, name: str, value: Any) -> None:
    assert value_of(told(*words.split()), name) == value
    assert value_of(told(), name) != value, "the value must differ from the default, to show anything"


def test_every_flag_is_tried_above_and_every_field_has_one() -> None:
    tried = {word for words, _, _ in BY_FLAG for word in words.split() if word.startswith("--")}
    assert tried == {flag.name for flag in FLAGS} - {"--model", "--port", "--json"}
    reached = {name for _, name, _ in BY_FLAG}
    settable = {f.name for f in fields(ServeConfig)} | {f"engine.{f.name}" for f in fields(EngineConfig)}
    fixed = {"engine", "port", "keep_alive_s", "engine.model", "engine.decode_share", "engine.ageing_s"}
    assert settable - reached == fixed | {"engine.integrity"}


BY_VARIABLE = [
    ("MLX_SERVER_ENABLE_BATCHING", "0", "engine.batching", False),
    ("MLX_SERVER_BATCH_MAX_BATCH_SIZE", "5", "engine.max_batch", 5),
    ("MLX_SERVER_MAX_CACHE_SIZE_GB", "2", "engine.cache_bytes", 2_000_000_000),
    ("MLXCTL_PROMPT_CACHE_BYTES", "12345", "engine.cache_bytes", 12345),
    ("MLX_CONVERSATION_CACHE_ENABLED", "off", "engine.cache_bytes", 0),
    ("MLX_SERVER_DRAIN_TIMEOUT_SECONDS", "3", "drain_timeout_s", 3.0),
    ("MLX_SERVER_METRICS_ENABLED", "no", "metrics", False),
    ("MLXCTL_WORKER_API_KEYS", "k1,k2=high", "api_keys", {"k1": Priority.NORMAL, "k2": Priority.HIGH}),
    ("MLXCTL_WORKER_PRIORITY", "High", "default_priority", Priority.HIGH),
    ("MLXCTL_WORKER_MAX_QUEUE", "9", "engine.max_queue", 9),
    ("MLXCTL_WORKER_KV_GB", "1", "engine.kv_bytes", 1_000_000_000),
    ("MLXCTL_WORKER_BLOCK_TOKENS", "128", "engine.block_tokens", 128),
    ("MLXCTL_WORKER_PREFILL_TOKENS", "100", "engine.prefill_tokens", 100),
    ("MLXCTL_WORKER_STALL_MS", "50", "engine.stall_ms", 50),
    ("MLXCTL_WORKER_MAX_BODY_MB", "2", "max_body_bytes", 2 * MB),
    ("MLXCTL_BIND", "::1", "host", "::1"),
    ("MLXCTL_TRUST_REMOTE_CODE", "1", "engine.trust_remote_code", True),
    ("MLX_CHAT_TEMPLATE", "qwen", "chat_template", "qwen"),
    ("MLX_TOOL_CALL_PARSER", "mistral", "tool_call_parser", "mistral"),
    ("MLX_REASONING_PARSER", "qwen3", "reasoning_parser", "qwen3"),
    ("MLX_LOG_LEVEL", "WARNING", "log_level", "warning"),
]


@pytest.mark.parametrize(("variable", "text", "name", "value"), BY_VARIABLE, ids=[row[0] for row in BY_VARIABLE])
def test_a_variable_arrives_and_so_does_its_line_of_config_toml(
    variable: str, text: str, name: str, value: Any
) -> None:
    assert value_of(told(environ={variable: text}), name) == value
    assert value_of(told(), name) != value
    setting = next(option.name for option in options() if variable in option.metadata["env"])
    assert value_of(told(toml=f'{setting} = "{text}"'), name) == value


def test_a_flag_goes_before_a_variable_and_that_before_config_toml() -> None:
    toml, environ = "max_batch_size = 2\nworker_max_queue = 2", {"MLX_SERVER_BATCH_MAX_BATCH_SIZE": "3"}
    assert told(toml=toml).engine.max_batch == 2
    assert told(toml=toml, environ=environ).engine.max_batch == 3
    all_three = told("--max-batch", "4", toml=toml, environ=environ).engine
    assert (all_three.max_batch, all_three.max_queue) == (4, 2)
    assert told("--no-metrics", environ={"MLX_SERVER_METRICS_ENABLED": "1"}).metrics is False


@pytest.mark.parametrize(
    ("environ", "words", "cache_bytes"),
    [
        ({}, (), None),
        ({"MLX_SERVER_MAX_CACHE_SIZE_GB": "0"}, (), None),
        ({"MLX_SERVER_MAX_CACHE_SIZE_GB": "2", "MLXCTL_PROMPT_CACHE_BYTES": "7"}, (), 2_000_000_000),
        ({"MLX_CONVERSATION_CACHE_ENABLED": "0"}, ("--cache-gb", "1"), 0),
        # 10 blocks of 64 tokens, 1,024 bytes each
        ({"MLX_SERVER_BATCH_BLOCK_POOL_SIZE": "10"}, (), 655_360),
        ({"MLX_SERVER_BATCH_BLOCK_POOL_SIZE": "10"}, ("--block-tokens", "32"), 327_680),
        ({"MLX_SERVER_BATCH_BLOCK_POOL_SIZE": "10", "MLXCTL_PROMPT_CACHE_BYTES": "7"}, (), 7),
        ({"MLX_SERVER_BATCH_BLOCK_POOL_SIZE": "10", "MLXCTL_PROMPT_CACHE_BYTES": "999999"}, (), 655_360),
    ],
)
def test_how_much_is_kept_of_prefixes(environ: dict[str, str], words: tuple[str, ...], cache_bytes: int | None) -> None:
    shape = {"num_hidden_layers": 4, "num_key_value_heads": 2, "head_dim": 32, "torch_dtype": "bfloat16"}
    assert told(*words, environ=environ, model_config=lambda _: shape).engine.cache_bytes == cache_bytes


@pytest.mark.parametrize(
    ("config", "each"),
    [
        ({"num_hidden_layers": 30, "num_key_value_heads": 3, "head_dim": 64, "torch_dtype": "float32"}, 46_080),
        ({"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 64}, 2 * 2 * 4 * 16 * 2),
        (
            {"model_type": "gemma3", "text_config": {"num_hidden_layers": 2, "num_key_value_heads": 1, "head_dim": 8}},
            64,
        ),
        ({}, 0),
        ({"num_hidden_layers": 2}, 0),
    ],
)
def test_what_a_token_takes(config: dict[str, Any], each: int) -> None:
    assert kv_bytes_per_token(config) == each


def test_a_pool_of_blocks_of_unknown_size_bounds_nothing() -> None:
    assert told(environ={"MLX_SERVER_BATCH_BLOCK_POOL_SIZE": "10"}).engine.cache_bytes is None


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("/models/a", "a"),
        ("/hub/converted--mlx-a", "converted--mlx-a"),
        ("/hub/models--org--a-b/snapshots/0123", "org/a-b"),
        ("/hub/other/snapshots/0123", "0123"),
    ],
)
def test_what_a_model_is_called(folder: str, name: str) -> None:
    assert name_of(Path(folder)) == name


WRONG = [
    ("--port x", "bad_flag", "--port"),
    ("--port 0", "bad_flag", "1 to 65535"),
    ("--port 65536", "bad_flag", "1 to 65535"),
    ("--max-batch 0", "bad_flag", "1 or more"),
    ("--max-batch 1.5", "bad_flag", "--max-batch"),
    ("--cache-gb -1", "bad_flag", "0 or more"),
    ("--cache-gb nan", "bad_flag", "0 or more"),
    ("--block-tokens 8", "bad_flag", "16 to 256"),
    ("--frobnicate", "bad_flag", "--frobnicate"),
    ("--max-ba 3", "bad_flag", "--max-ba"),
    ("stray", "bad_flag", "stray"),
    ("--request-params {", "bad_flag", "not JSON"),
    ("--request-params [1]", "bad_flag", "not a JSON object"),
    ("--default-priority urgent", "bad_setting", "high, normal, low"),
    ("--log-level loud", "bad_setting", "warning"),
    ("--host", "bad_flag", "--host"),
]


@pytest.mark.parametrize(("words", "code", "said"), WRONG, ids=[row[0] for row in WRONG])
def test_a_wrong_word_is_told(words: str, code: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        told(*words.split())
    assert caught.value.code == code
    assert said in f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("MLXCTL_WORKER_BLOCK_TOKENS", "1000"),
        ("MLXCTL_WORKER_PRIORITY", "urgent"),
        ("MLX_SERVER_BATCH_MAX_BATCH_SIZE", "many"),
        ("MLX_LOG_LEVEL", "loud"),
    ],
)
def test_a_wrong_variable_is_told(variable: str, text: str) -> None:
    with pytest.raises(UsageError, match=text) as caught:
        told(environ={variable: text})
    assert (caught.value.code, caught.value.exit_code) == ("bad_setting", 2)


@pytest.mark.parametrize("words", [[], ["--model", "/m"], ["--port", "1"]])
def test_a_model_and_a_port_must_be_given(words: list[str]) -> None:
    with pytest.raises(UsageError, match="required"):
        parse_flags(words)


def test_a_zero_from_the_environment_does_not_stop_the_engine() -> None:
    """A variable may say 0 where a flag may not; one of something is the least that works."""
    environ = dict.fromkeys(
        (
            "MLX_SERVER_BATCH_MAX_BATCH_SIZE",
            "MLXCTL_WORKER_MAX_QUEUE",
            "MLXCTL_WORKER_PREFILL_TOKENS",
            "MLXCTL_WORKER_STALL_MS",
        ),
        "0",
    )
    engine = told(environ=environ).engine
    assert (engine.max_batch, engine.max_queue, engine.prefill_tokens, engine.stall_ms) == (1, 1, 1, 1)
