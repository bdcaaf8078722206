"""Every setting: its name, type, default, environment variables and meaning. `core.settings` fills it in.

The variables keep the names of the systems that mlxctl absorbs (`MLX_*`, `HF_*`, …); mlxctl's own are `MLXCTL_*`.
`part` names the room that reads a setting.
"""

from __future__ import annotations

from dataclasses import Field, dataclass, field
from pathlib import Path
from typing import Any

TEXT, INTEGER, NUMBER, SWITCH, PATH, WORDS = "text", "integer", "number", "switch", "path", "words"
CONTROL, GATEWAY, WORKER, ROUTER, CLIENT = "control", "gateway", "worker", "router", "client"


def option(kind: str, default: Any, part: str, env: str, meaning: str, *, secret: bool = False) -> Any:
    """A field of `Settings`. `env` may name several variables, parted by spaces; the first that is set wins."""
    facts = {"kind": kind, "part": part, "env": tuple(env.split()), "meaning": meaning, "secret": secret}
    return field(default=default, metadata=facts)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Settings:
    """What flags, environment, config.toml and defaults say together. `sources` tells where each value came from."""

    hf_home: Path = option(PATH, Path(), CONTROL, "HF_HOME", "home of the Hugging Face libraries")
    hub_cache: Path = option(
        PATH, Path(), CONTROL, "HF_HUB_CACHE HUGGINGFACE_HUB_CACHE MLX_MANAGER_HF_CACHE_PATH", "where models are kept"
    )
    registry_path: Path = option(PATH, Path(), CONTROL, "MLX_REGISTRY_PATH", "the registry's file")
    state_dir: Path = option(PATH, Path(), CONTROL, "MLXCTL_STATE_DIR", "what runs on each port, locks, logs")
    cache_dir: Path = option(
        PATH, Path(), CONTROL, "MLXCTL_CACHE_DIR", "what can be fetched again, as quickstart's wheel"
    )
    log_dir: Path = option(PATH, Path(), CONTROL, "MLX_LOG_DIR", "one log a port, mlx-PORT.log")
    port_base: int = option(INTEGER, 8100, CONTROL, "MLXCTL_PORT_BASE", "first of the forty ports; moved in tests")
    bind: str = option(TEXT, "127.0.0.1", CONTROL, "MLXCTL_BIND", "address that engines listen on")
    engine: str = option(TEXT, "auto", CONTROL, "MLXCTL_ENGINE", "engine of entries that name none")
    launch_cmd: str | None = option(
        TEXT, None, CONTROL, "MLX_LAUNCH_CMD", "stands in for `mlx-openai-server launch`; its flags are appended"
    )
    launch_project: Path = option(
        PATH, Path("/opt/mlx-launch"), CONTROL, "MLXCTL_LAUNCH_PROJECT", "uv project that holds mlx-openai-server"
    )
    trust_remote_code: bool = option(
        SWITCH, False, CONTROL, "MLXCTL_TRUST_REMOTE_CODE", "let engines run Python that a model brings along"
    )
    prompt_cache_bytes: int = option(
        INTEGER, 4 << 30, CONTROL, "MLXCTL_PROMPT_CACHE_BYTES", "bound of an engine's prompt cache, in bytes"
    )
    ready_timeout_s: float = option(
        NUMBER,
        120.0,
        CONTROL,
        "MLXCTL_READY_TIMEOUT_S",
        "least time for a model to answer; grows by 6 s/GB and with progress",
    )
    stop_grace_s: float = option(
        NUMBER, 10.0, CONTROL, "MLXCTL_STOP_GRACE_S", "time between SIGTERM and SIGKILL; grows by 0.25 s/GB"
    )
    lock_timeout_s: float = option(
        NUMBER,
        600.0,
        CONTROL,
        "MLXCTL_LOCK_TIMEOUT_S",
        "how long a command waits for another on the same port or model",
    )
    log_max_bytes: int = option(
        INTEGER, 16 << 20, CONTROL, "MLXCTL_LOG_MAX_BYTES", "size at which a port's log is rotated"
    )
    log_files: int = option(INTEGER, 3, CONTROL, "MLXCTL_LOG_FILES", "rotated logs kept for each port")
    tool_call_parser: str | None = option(
        TEXT, None, CONTROL, "MLX_TOOL_CALL_PARSER", "parser for entries that name none"
    )
    reasoning_parser: str | None = option(
        TEXT, None, CONTROL, "MLX_REASONING_PARSER", "parser for entries that name none"
    )
    chat_template: str | None = option(TEXT, None, CONTROL, "MLX_CHAT_TEMPLATE", "template for entries that name none")
    convert_cmd: str | None = option(
        TEXT,
        None,
        CONTROL,
        "MLX_CONVERT_CMD",
        "conversion command with {repo} {src} {dest}; default `python -m mlx_lm convert`",
    )
    preconverted_orgs: tuple[str, ...] = option(
        WORDS,
        ("mlx-community", "mlx", "ml-explore"),
        CONTROL,
        "MLX_PRECONVERTED_ORGS",
        "organisations whose models need no conversion",
    )
    preconverted_hints: tuple[str, ...] = option(
        WORDS, ("mlx",), CONTROL, "MLX_PRECONVERTED_HINTS", "words in a repository's name that say the same"
    )
    offline: bool = option(
        SWITCH, False, CONTROL, "HF_HUB_OFFLINE MLX_MANAGER_OFFLINE_MODE", "never use the network for models"
    )
    hub_endpoint: str | None = option(TEXT, None, CONTROL, "HF_ENDPOINT", "the hub's address")
    hub_token: str | None = option(TEXT, None, CONTROL, "HF_TOKEN", "token for private and gated models", secret=True)
    hub_organization: str | None = option(
        TEXT, None, CONTROL, "MLX_MANAGER_HF_ORGANIZATION", "organisation that is searched first"
    )
    launchd_label: str = option(TEXT, "com.bebop.mlx-launch", CONTROL, "MLX_LAUNCHD_LABEL", "label of the boot job")
    model_dir: Path | None = option(PATH, None, CONTROL, "MLX_MODEL_DIR", "a folder of models beside the hub cache")
    install_dir: Path | None = option(PATH, None, CONTROL, "INSTALL_DIR", "where a service is installed")
    allowed_model_dirs: tuple[str, ...] = option(
        WORDS, (), CONTROL, "MLX_MANAGER_ALLOWED_MODEL_DIRS", "folders from which a path may be served; none: any"
    )

    studio_host: str | None = option(TEXT, None, GATEWAY, "STUDIO_HOST", "the host that owns the ports")
    studio_mlxctl: str = option(TEXT, "mlxctl", GATEWAY, "STUDIO_MLXCTL", "mlxctl's path on that host")
    studio_ssh: str | None = option(TEXT, None, GATEWAY, "STUDIO_SSH", "user@host for SSH to it")
    gateway_host: str | None = option(TEXT, None, GATEWAY, "GATEWAY_HOST", "the host of the LiteLLM gateway")
    gateway_root: Path | None = option(PATH, None, GATEWAY, "GATEWAY_ROOT", "folder of the gateway's files there")
    gateway_mlxctl: str = option(TEXT, "mlxctl", GATEWAY, "GATEWAY_MLXCTL", "mlxctl's path on the gateway host")
    handles_path: Path | None = option(PATH, None, GATEWAY, "HANDLES_PATH", "handles.jsonl, when not below the root")
    mlx_host: str | None = option(TEXT, None, GATEWAY, "MLX_HOST", "address under which the gateway reaches the ports")
    route_via_optillm: bool = option(SWITCH, True, GATEWAY, "MLX_ROUTE_VIA_OPTILLM", "route handles through OptiLLM")
    optillm_ensembles_doc: Path | None = option(
        PATH, None, GATEWAY, "OPTILLM_ENSEMBLES_DOC", "the seed's list of ensembles"
    )
    offload_script: Path | None = option(
        PATH, None, GATEWAY, "MLX_OFFLOAD_SCRIPT", "script that moves base weights away"
    )
    offload_host: str | None = option(TEXT, None, GATEWAY, "MLX_OFFLOAD_HOST", "host to which base weights move")

    server_host: str = option(TEXT, "127.0.0.1", ROUTER, "MLX_SERVER_HOST MLX_MANAGER_HOST", "address of `serve`")
    server_port: int = option(INTEGER, 8800, ROUTER, "MLX_SERVER_PORT MLX_MANAGER_PORT", "port of `serve`")
    model_idle_timeout_s: int = option(
        INTEGER,
        300,
        ROUTER,
        "MLX_MODEL_IDLE_TIMEOUT",
        "an on-demand model is unloaded after that long without a request",
    )
    default_max_tokens: int = option(
        INTEGER, 4096, ROUTER, "MLX_SERVER_DEFAULT_MAX_TOKENS MLX_DEFAULT_MAX_TOKENS", "when a request gives none"
    )
    default_temperature: float = option(NUMBER, 0.7, ROUTER, "MLX_DEFAULT_TEMPERATURE", "when a request gives none")
    log_level: str = option(TEXT, "INFO", ROUTER, "MLX_LOG_LEVEL MLX_MANAGER_LOG_LEVEL", "what servers log")
    server_log_dir: Path | None = option(PATH, None, ROUTER, "MLX_MANAGER_LOG_DIR", "logs of `serve`")
    jwt_secret: str | None = option(TEXT, None, ROUTER, "MLX_MANAGER_JWT_SECRET", "signs the web login", secret=True)
    database_path: Path | None = option(PATH, None, ROUTER, "MLX_MANAGER_DATABASE_PATH", "routes, keys and audit")
    profile_port_start: int = option(
        INTEGER, 10240, ROUTER, "MLX_MANAGER_DEFAULT_PORT_START", "Model Manager's first port"
    )
    max_memory_percent: int = option(
        INTEGER, 80, ROUTER, "MLX_MANAGER_MAX_MEMORY_PERCENT", "share of memory for models"
    )
    health_check_interval_s: int = option(
        INTEGER, 30, ROUTER, "MLX_MANAGER_HEALTH_CHECK_INTERVAL", "between health checks"
    )
    max_memory_gb: float = option(NUMBER, 0.0, ROUTER, "MLX_SERVER_MAX_MEMORY_GB", "memory for models; 0: 75 % of it")
    max_models: int = option(INTEGER, 4, ROUTER, "MLX_SERVER_MAX_MODELS", "on-demand models at once")
    chat_timeout_s: int = option(INTEGER, 900, ROUTER, "MLX_SERVER_TIMEOUT_CHAT_SECONDS", "limit of a chat request")
    completions_timeout_s: int = option(
        INTEGER, 600, ROUTER, "MLX_SERVER_TIMEOUT_COMPLETIONS_SECONDS", "of a completion"
    )
    embeddings_timeout_s: int = option(INTEGER, 120, ROUTER, "MLX_SERVER_TIMEOUT_EMBEDDINGS_SECONDS", "of an embedding")
    audit_retention_days: int = option(
        INTEGER, 30, ROUTER, "MLX_SERVER_AUDIT_RETENTION_DAYS", "age of the oldest audit row"
    )
    audit_max_mb: int = option(INTEGER, 100, ROUTER, "MLX_SERVER_AUDIT_MAX_MB", "size of the audit log")
    rate_limit_rpm: int = option(
        INTEGER, 0, ROUTER, "MLX_SERVER_RATE_LIMIT_RPM", "requests a minute and key; 0: no limit"
    )
    admin_token: str | None = option(
        TEXT, None, ROUTER, "MLX_SERVER_ADMIN_TOKEN", "key of the admin routes", secret=True
    )
    preload_models: tuple[str, ...] = option(
        WORDS, (), ROUTER, "MLX_SERVER_PRELOAD_MODELS", "loaded when `serve` starts"
    )
    available_models: tuple[str, ...] = option(
        WORDS, (), ROUTER, "MLX_SERVER_AVAILABLE_MODELS", "listed; none: all registered"
    )
    default_model: str | None = option(TEXT, None, ROUTER, "MLX_SERVER_DEFAULT_MODEL", "when a request names no model")
    warmup_prompt: str | None = option(TEXT, None, ROUTER, "MLX_SERVER_WARMUP_PROMPT", "sent once after a load")

    enable_batching: bool = option(SWITCH, True, WORKER, "MLX_SERVER_ENABLE_BATCHING", "several requests in one step")
    block_pool_size: int = option(
        INTEGER, 0, WORKER, "MLX_SERVER_BATCH_BLOCK_POOL_SIZE", "KV blocks kept at most; 0: as many as the bytes allow"
    )
    max_batch_size: int = option(INTEGER, 32, WORKER, "MLX_SERVER_BATCH_MAX_BATCH_SIZE", "rows of one step")
    max_cache_size_gb: float = option(
        NUMBER,
        0.0,
        WORKER,
        "MLX_SERVER_MAX_CACHE_SIZE_GB",
        "memory of kept prefixes; 0: prompt_cache_bytes if that is set, else a fifth of what the weights leave",
    )
    drain_timeout_s: int = option(
        INTEGER, 30, WORKER, "MLX_SERVER_DRAIN_TIMEOUT_SECONDS", "for requests under way at a stop"
    )
    metrics_enabled: bool = option(SWITCH, True, WORKER, "MLX_SERVER_METRICS_ENABLED", "answer /metrics")
    worker_api_keys: tuple[str, ...] = option(
        WORDS,
        (),
        WORKER,
        "MLXCTL_WORKER_API_KEYS",
        "keys that clients need, each KEY or KEY=PRIORITY; none: no key is asked for",
        secret=True,
    )
    worker_priority: str = option(
        TEXT, "normal", WORKER, "MLXCTL_WORKER_PRIORITY", "of requests that say none: high, normal or low"
    )
    worker_max_queue: int = option(
        INTEGER, 256, WORKER, "MLXCTL_WORKER_MAX_QUEUE", "requests that may wait; more get 429"
    )
    worker_kv_gb: float = option(
        NUMBER,
        0.0,
        WORKER,
        "MLXCTL_WORKER_KV_GB",
        "memory of running requests; 0: worked out from the machine and the model",
    )
    worker_block_tokens: int = option(
        INTEGER, 64, WORKER, "MLXCTL_WORKER_BLOCK_TOKENS", "tokens of a KV block, 16 to 256"
    )
    worker_prefill_tokens: int = option(
        INTEGER, 2048, WORKER, "MLXCTL_WORKER_PREFILL_TOKENS", "of a prompt that are read at once while nobody streams"
    )
    worker_stall_ms: int = option(
        INTEGER, 250, WORKER, "MLXCTL_WORKER_STALL_MS", "longest pause of a stream while another's prompt is read"
    )
    worker_max_body_mb: int = option(INTEGER, 32, WORKER, "MLXCTL_WORKER_MAX_BODY_MB", "of a request; more gets 413")
    conversation_cache: bool = option(
        SWITCH,
        True,
        WORKER,
        "MLX_CONVERSATION_CACHE_ENABLED",
        "keep prefixes, so that a next turn reads only what is new",
    )
    cache_type: str = option(TEXT, "KVCache", WORKER, "MLX_CACHE_TYPE", "MLX Server Nano's name of the KV cache")
    cache_max_size: int = option(INTEGER, 1000, WORKER, "MLX_CACHE_MAX_SIZE", "tokens of a rotating cache")
    cache_chunk_size: int = option(INTEGER, 512, WORKER, "MLX_CACHE_CHUNK_SIZE", "tokens of a chunk")
    cache_quantization: bool = option(SWITCH, False, WORKER, "MLX_CACHE_QUANTIZATION_ENABLED", "quantise stored KV")
    cache_quantization_bits: int = option(INTEGER, 8, WORKER, "MLX_CACHE_QUANTIZATION_BITS", "bits of quantised KV")
    cache_persistence_dir: Path | None = option(
        PATH, None, WORKER, "MLX_CACHE_PERSISTENCE_DIR", "keep KV across restarts"
    )
    conversation_idle_timeout_s: int = option(
        INTEGER, 300, WORKER, "MLX_CONVERSATION_IDLE_TIMEOUT", "age of a kept turn"
    )
    max_conversations: int = option(INTEGER, 10, WORKER, "MLX_MAX_CONVERSATIONS", "conversations kept")
    max_cached_tokens: int = option(INTEGER, 4096, WORKER, "MLX_MAX_CACHED_TOKENS_PER_CONVERSATION", "kept of each")
    auto_detect_conversations: bool = option(SWITCH, True, WORKER, "MLX_AUTO_DETECT_CONVERSATIONS", "by shared prefix")
    conversation_threshold: float = option(
        NUMBER, 0.7, WORKER, "MLX_CONVERSATION_DETECTION_THRESHOLD", "of a shared prefix"
    )
    similarity_threshold: float = option(NUMBER, 0.85, WORKER, "MLX_SEMANTIC_SIMILARITY_THRESHOLD", "of alike prompts")
    predictive_warming: bool = option(
        SWITCH, False, WORKER, "MLX_PREDICTIVE_CACHE_WARMING", "prefill before it is asked"
    )

    provider: str = option(TEXT, "auto", CLIENT, "LLM__PROVIDER", "auto, openai, lmstudio, ollama, llamacpp or mlxlm")
    client_base_url: str = option(
        TEXT, "http://localhost:8080/v1", CLIENT, "MLXLM__BASE_URL", "server that clients ask"
    )
    client_api_key: str = option(TEXT, "not-needed", CLIENT, "MLXLM__API_KEY", "its key", secret=True)
    client_model: str = option(TEXT, "local-model", CLIENT, "MLXLM__MODEL_NAME", "model that clients ask for")
    client_max_tokens: int = option(INTEGER, 2048, CLIENT, "MLXLM__MAX_TOKENS", "of an answer")
    client_temperature: float = option(NUMBER, 0.7, CLIENT, "MLXLM__TEMPERATURE", "of an answer")
    client_timeout_s: int = option(INTEGER, 120, CLIENT, "MLXLM__TIMEOUT", "for an answer")

    sources: dict[str, str] = field(default_factory=dict, repr=False)


def options() -> tuple[Field[Any], ...]:
    """The fields of `Settings` that people can set, in the order of the table."""
    from dataclasses import fields

    return tuple(f for f in fields(Settings) if "env" in f.metadata)
