"""Every environment variable of the five systems that mlxctl absorbs is a setting, and its value arrives."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pytest

from mlxctl.control.commands.config import HIDDEN, config
from mlxctl.control.site import Site
from mlxctl.core.options import options
from mlxctl.core.settings import load_settings

CONTROLLER = """
    MLX_REGISTRY_PATH HF_HOME STUDIO_HOST STUDIO_MLXCTL STUDIO_SSH GATEWAY_ROOT GATEWAY_HOST GATEWAY_MLXCTL
    HANDLES_PATH MLX_HOST MLX_ROUTE_VIA_OPTILLM MLX_LAUNCH_CMD MLX_LAUNCHD_LABEL MLX_LOG_DIR MLX_TOOL_CALL_PARSER
    MLX_REASONING_PARSER MLX_CHAT_TEMPLATE MLX_CONVERT_CMD MLX_PRECONVERTED_ORGS MLX_PRECONVERTED_HINTS
    MLX_OFFLOAD_SCRIPT MLX_OFFLOAD_HOST OPTILLM_ENSEMBLES_DOC
"""
SERVER_NANO = """
    MLX_SERVER_HOST MLX_SERVER_PORT MLX_MODEL_IDLE_TIMEOUT MLX_DEFAULT_MAX_TOKENS MLX_DEFAULT_TEMPERATURE
    MLX_LOG_LEVEL MLX_CONVERSATION_CACHE_ENABLED MLX_CONVERSATION_IDLE_TIMEOUT MLX_MAX_CONVERSATIONS MLX_CACHE_TYPE
    MLX_CACHE_MAX_SIZE MLX_CACHE_CHUNK_SIZE MLX_CACHE_QUANTIZATION_ENABLED MLX_CACHE_QUANTIZATION_BITS
    MLX_MAX_CACHED_TOKENS_PER_CONVERSATION MLX_CONVERSATION_DETECTION_THRESHOLD MLX_SEMANTIC_SIMILARITY_THRESHOLD
    MLX_PREDICTIVE_CACHE_WARMING MLX_CACHE_PERSISTENCE_DIR MLX_AUTO_DETECT_CONVERSATIONS HF_HOME
    HUGGINGFACE_HUB_CACHE HF_HUB_OFFLINE HF_TOKEN
"""
MODEL_MANAGER = """
    MLX_MANAGER_JWT_SECRET MLX_MANAGER_DATABASE_PATH MLX_MANAGER_HOST MLX_MANAGER_PORT MLX_MANAGER_HF_CACHE_PATH
    MLX_MANAGER_HF_ORGANIZATION MLX_MANAGER_OFFLINE_MODE MLX_MANAGER_DEFAULT_PORT_START
    MLX_MANAGER_MAX_MEMORY_PERCENT MLX_MANAGER_HEALTH_CHECK_INTERVAL MLX_MANAGER_ALLOWED_MODEL_DIRS
    MLX_MANAGER_LOG_LEVEL MLX_MANAGER_LOG_DIR
    MLX_SERVER_MAX_MEMORY_GB MLX_SERVER_MAX_MODELS MLX_SERVER_MAX_CACHE_SIZE_GB MLX_SERVER_DEFAULT_MAX_TOKENS
    MLX_SERVER_ENABLE_BATCHING MLX_SERVER_BATCH_BLOCK_POOL_SIZE MLX_SERVER_BATCH_MAX_BATCH_SIZE
    MLX_SERVER_TIMEOUT_CHAT_SECONDS MLX_SERVER_TIMEOUT_COMPLETIONS_SECONDS MLX_SERVER_TIMEOUT_EMBEDDINGS_SECONDS
    MLX_SERVER_AUDIT_RETENTION_DAYS MLX_SERVER_AUDIT_MAX_MB MLX_SERVER_RATE_LIMIT_RPM
    MLX_SERVER_DRAIN_TIMEOUT_SECONDS MLX_SERVER_METRICS_ENABLED MLX_SERVER_ADMIN_TOKEN MLX_SERVER_PRELOAD_MODELS
    MLX_SERVER_WARMUP_PROMPT MLX_SERVER_AVAILABLE_MODELS MLX_SERVER_DEFAULT_MODEL
"""
ROUTER = "MLX_MODEL_DIR HF_HUB_CACHE INSTALL_DIR"
PROVIDER = """
    LLM__PROVIDER MLXLM__BASE_URL MLXLM__API_KEY MLXLM__MODEL_NAME MLXLM__MAX_TOKENS MLXLM__TEMPERATURE
    MLXLM__TIMEOUT
"""
SEEDS = sorted({name for seed in (CONTROLLER, SERVER_NANO, MODEL_MANAGER, ROUTER, PROVIDER) for name in seed.split()})

GIVEN: dict[str, tuple[str, Any]] = {
    "text": ("some words", "some words"),
    "integer": ("4711", 4711),
    "number": ("0.125", 0.125),
    "path": ("/somewhere/else", "/somewhere/else"),
    "words": ("org-a,org-b", ["org-a", "org-b"]),
}
"""What each kind is given, and what `config --json` then shows. A switch is given what it is not by default."""


def rows(**environ: str) -> dict[str, dict[str, Any]]:
    """`mlxctl config --json`, by the name of the setting."""
    site = Site(load_settings({"HOME": "/home/me", **environ}), environ)
    shown = json.loads(json.dumps(config(site).to_json()))
    return {row["name"]: row for row in shown["data"]["settings"]}


BARE = rows()
OPTIONS = {variable: option for option in options() for variable in option.metadata["env"]}


def test_the_lists_have_no_variable_of_our_own() -> None:
    assert len(SEEDS) == 89
    assert not [name for name in SEEDS if name.startswith("MLXCTL_")]


@pytest.mark.parametrize("variable", SEEDS)
def test_a_variable_of_the_seeds_is_in_the_table(variable: str) -> None:
    assert [row["name"] for row in BARE.values() if variable in row["variables"]] == [OPTIONS[variable].name]


@pytest.mark.parametrize("variable", OPTIONS)
def test_what_a_variable_says_is_what_config_shows(variable: str) -> None:
    option = OPTIONS[variable]
    text, value = GIVEN.get(option.metadata["kind"], ("0", False) if option.default else ("1", True))
    row = rows(**{variable: text})[option.name]
    assert row["source"] == variable
    if option.metadata["secret"]:
        assert row["value"] == HIDDEN
        kept = getattr(load_settings({variable: text}), option.name)
        assert (list(kept) if isinstance(kept, tuple) else kept) == value
        return
    assert row["value"] == value
    assert row["value"] != BARE[option.name]["value"], "the value given must differ from the default, to show anything"


@pytest.mark.parametrize("option", options(), ids=lambda option: option.name)
def test_every_setting_has_a_variable_a_room_and_a_meaning(option: Any) -> None:
    row = BARE[option.name]
    assert row["variables"]
    assert row["part"] in ("control", "gateway", "worker", "router", "client")
    assert row["meaning"].strip()
    assert row["source"] == "default"


def test_no_variable_says_two_things() -> None:
    counted = Counter(variable for option in options() for variable in option.metadata["env"])
    assert [variable for variable, times in counted.items() if times > 1] == []


def test_secrets_are_never_shown() -> None:
    secret = [o for o in options() if o.metadata["secret"]]
    assert {o.name for o in secret} >= {"hub_token", "jwt_secret", "admin_token", "client_api_key"}
    environ = {o.metadata["env"][0]: "do-not-tell" for o in secret}
    assert "do-not-tell" not in json.dumps(rows(**environ))
