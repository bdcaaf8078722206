"""From an entry to the command line of its server: which engine, and which words."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlxctl.control import launch
from mlxctl.control.launch import (
    COMMAND,
    ENGINES,
    MLX_LM,
    MLX_OPENAI_SERVER,
    WORKER,
    Dialect,
    Engine,
    choose_engine,
    engine_argv,
    openai_server_prefix,
    prompt_cache_dir,
)
from mlxctl.core.errors import MlxctlError
from mlxctl.core.options import Settings
from mlxctl.core.ports import EXPERIMENTAL, TEAM
from mlxctl.core.registry import ModelEntry
from mlxctl.core.settings import load_settings
from mlxctl.worker.arguments import serve_config
from mlxctl.worker.types import Priority

SERVER, UV = "/usr/bin/mlx-openai-server", "/usr/bin/uv"
FROM_PATH = (SERVER, "launch")


def entry(**more: Any) -> ModelEntry:
    return ModelEntry(repo_id="org/a", model_id="mlx-a", cache_path="/hub/a folder", **more)


def settings(**environ: str) -> Settings:
    return load_settings({"HOME": "/home/me", **environ})


def knows(*programs: str) -> Callable[[str], str | None]:
    return lambda name: next((program for program in programs if program.endswith("/" + name)), None)


@pytest.fixture(autouse=True)
def no_homebrew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "HOMEBREW_UV", "/no/such/homebrew/uv")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text("")
    return tmp_path


def test_mlx_openai_server_from_path_comes_first(project: Path) -> None:
    given = settings(MLXCTL_LAUNCH_PROJECT=str(project))
    assert openai_server_prefix(given, knows(SERVER, UV)) == FROM_PATH


def test_then_it_is_run_out_of_its_project(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = settings(MLXCTL_LAUNCH_PROJECT=str(project))
    rest = ("run", "--project", str(project), "mlx-openai-server", "launch")
    assert openai_server_prefix(given, knows(UV)) == (UV, *rest)
    assert openai_server_prefix(given, knows()) is None
    homebrew = project / "uv"
    homebrew.write_text("")
    monkeypatch.setattr(launch, "HOMEBREW_UV", str(homebrew))
    assert openai_server_prefix(given, knows()) == (str(homebrew), *rest)
    assert openai_server_prefix(given, knows(UV)) == (UV, *rest)


def test_a_project_that_is_not_there_is_not_used(tmp_path: Path) -> None:
    assert openai_server_prefix(settings(MLXCTL_LAUNCH_PROJECT=str(tmp_path)), knows(UV)) is None


OURS = (sys.executable, "-m", "mlxctl", "worker")
MLX_LM_SERVER = (sys.executable, "-m", "mlx_lm", "server")


@pytest.mark.parametrize(
    ("asked", "own", "environ", "port_range", "programs", "kind", "prefix"),
    [
        (None, None, {}, TEAM, (), WORKER, OURS),
        (None, None, {}, TEAM, (SERVER,), WORKER, OURS),
        (None, None, {}, EXPERIMENTAL, (), WORKER, OURS),
        (None, None, {}, EXPERIMENTAL, (SERVER,), MLX_OPENAI_SERVER, FROM_PATH),
        (None, "worker", {}, EXPERIMENTAL, (SERVER,), WORKER, OURS),
        ("worker", "mlx-lm", {"MLX_LAUNCH_CMD": "serve"}, EXPERIMENTAL, (SERVER,), WORKER, OURS),
        (None, "mlx-lm", {}, EXPERIMENTAL, (SERVER,), MLX_LM, MLX_LM_SERVER),
        (None, None, {"MLXCTL_ENGINE": "mlx-openai-server"}, TEAM, (SERVER,), MLX_OPENAI_SERVER, FROM_PATH),
        (None, None, {"MLXCTL_ENGINE": "mlx-lm"}, TEAM, (SERVER,), MLX_LM, MLX_LM_SERVER),
        (None, "mlx-lm", {"MLXCTL_ENGINE": "mlx-openai-server"}, TEAM, (SERVER,), MLX_LM, MLX_LM_SERVER),
        ("mlx-openai-server", "mlx-lm", {}, TEAM, (SERVER,), MLX_OPENAI_SERVER, FROM_PATH),
        ("auto", "mlx-lm", {}, EXPERIMENTAL, (SERVER,), MLX_OPENAI_SERVER, FROM_PATH),
        (None, None, {"MLX_LAUNCH_CMD": "serve 'a b' -x"}, TEAM, (), COMMAND, ("serve", "a b", "-x")),
        (None, None, {"MLX_LAUNCH_CMD": "serve"}, EXPERIMENTAL, (SERVER,), COMMAND, ("serve",)),
        ("mlx-lm", None, {"MLX_LAUNCH_CMD": "serve"}, TEAM, (), MLX_LM, MLX_LM_SERVER),
        ("command", None, {"MLX_LAUNCH_CMD": "serve"}, TEAM, (), COMMAND, ("serve",)),
    ],
)
def test_choose_engine(
    asked: str | None,
    own: str | None,
    environ: dict[str, str],
    port_range: str,
    programs: tuple[str, ...],
    kind: str,
    prefix: tuple[str, ...],
) -> None:
    chosen = choose_engine(asked, entry(engine=own), port_range, settings(**environ), knows(*programs))
    assert chosen == Engine(kind, prefix)


@pytest.mark.parametrize(
    ("asked", "code", "exit_code", "told"),
    [
        ("vllm", "bad_flag", 2, "'vllm' is not an engine"),
        ("command", "no_engine", 7, "needs MLX_LAUNCH_CMD"),
        ("mlx-openai-server", "no_engine", 7, "neither on PATH nor in a project at /opt/mlx-launch"),
    ],
)
def test_an_engine_that_cannot_be_had(asked: str, code: str, exit_code: int, told: str) -> None:
    with pytest.raises(MlxctlError, match=told) as caught:
        choose_engine(asked, entry(), TEAM, settings(), knows())
    assert (caught.value.code, caught.value.exit_code) == (code, exit_code)
    assert caught.value.hint


HARMONY = Dialect(Path("/t/harmony.jinja"), "the text", "harmony", "harmony")
LIMITS = {"context_length": 8192, "max_output_tokens": 4096}
FIXED = ["--model-path", "/hub/a folder", "--model-type", "lm", "--host", "127.0.0.1", "--port", "8120"]
PARSERS = ["--tool-call-parser", "harmony", "--reasoning-parser", "harmony", "--chat-template-file", "/t/harmony.jinja"]


def test_the_command_gets_the_seeds_flags_and_no_more() -> None:
    engine = Engine(COMMAND, ("serve", "--mine"))
    assert engine_argv(engine, entry(**LIMITS), 8120, Dialect(), settings()) == ["serve", "--mine", *FIXED]
    assert engine_argv(engine, entry(**LIMITS), 8120, HARMONY, settings()) == ["serve", "--mine", *FIXED, *PARSERS]
    trusting = settings(MLXCTL_TRUST_REMOTE_CODE="1", MLXCTL_BIND="0.0.0.0")
    argv = engine_argv(engine, entry(), 8120, Dialect(), trusting)
    assert argv[-1] == "--trust-remote-code"
    assert argv[argv.index("--host") + 1] == "0.0.0.0"


def test_mlx_openai_server_is_told_its_name_and_limits() -> None:
    engine = Engine(MLX_OPENAI_SERVER, FROM_PATH)
    given = settings(MLXCTL_STATE_DIR="/state", MLXCTL_PROMPT_CACHE_BYTES="1000")
    own = [
        *("--served-model-name", "mlx-a", "--no-log-file", "--max-bytes", "1000"),
        *("--prompt-cache-dir", "/state/prompt-cache/8120"),
    ]
    limits = ["--context-length", "8192", "--max-tokens", "4096"]
    assert engine_argv(engine, entry(), 8120, Dialect(), given) == [*FROM_PATH, *FIXED, *own]
    assert engine_argv(engine, entry(**LIMITS), 8120, HARMONY, given) == [*FROM_PATH, *FIXED, *PARSERS, *own, *limits]
    assert prompt_cache_dir(given, 8120) == Path("/state/prompt-cache/8120")


def test_mlx_lm_takes_the_template_as_text_and_no_parsers() -> None:
    engine = Engine(MLX_LM, MLX_LM_SERVER)
    given = settings(MLXCTL_PROMPT_CACHE_BYTES="1000")
    fixed = [
        *MLX_LM_SERVER,
        "--model",
        "/hub/a folder",
        "--host",
        "127.0.0.1",
        "--port",
        "8120",
        "--prompt-cache-bytes",
        "1000",
    ]
    assert engine_argv(engine, entry(), 8120, Dialect(), given) == fixed
    assert engine_argv(engine, entry(**LIMITS), 8120, HARMONY, given) == [
        *fixed,
        *("--max-tokens", "4096", "--chat-template", "the text"),
    ]


WORKER_FIXED = [*OURS, "--model", "/hub/a folder", "--host", "127.0.0.1", "--port", "8120"]
NAMED = ["--served-model-name", "mlx-a"]


@pytest.mark.parametrize(
    ("facts", "dialect", "environ", "rest"),
    [
        ({}, Dialect(), {}, []),
        (LIMITS, Dialect(), {}, ["--context-length", "8192", "--max-tokens", "4096"]),
        ({"priority": "low"}, Dialect(), {}, ["--default-priority", "low"]),
        (
            {"request_params": {"temperature": 0.2, "stop": "ä b"}},
            Dialect(),
            {},
            ["--request-params", '{"temperature": 0.2, "stop": "\\u00e4 b"}'],
        ),
        (
            {},
            HARMONY,
            {},
            [
                *("--chat-template", "/t/harmony.jinja"),
                *("--tool-call-parser", "harmony", "--reasoning-parser", "harmony"),
            ],
        ),
        # the model's own template has no text here: the worker reads it by itself
        ({}, Dialect(Path("/hub/a folder/chat_template.jinja")), {}, []),
        ({}, Dialect(), {"MLXCTL_PROMPT_CACHE_BYTES": "2500000000"}, ["--cache-gb", "2.5"]),
        ({}, Dialect(), {"MLX_SERVER_MAX_CACHE_SIZE_GB": "3"}, ["--cache-gb", "3.0"]),
        (
            {},
            Dialect(),
            {"MLX_SERVER_MAX_CACHE_SIZE_GB": "3", "MLXCTL_PROMPT_CACHE_BYTES": "1"},
            ["--cache-gb", "3.0"],
        ),
        ({}, Dialect(), {"MLXCTL_TRUST_REMOTE_CODE": "1"}, ["--trust-remote-code"]),
        ({}, Dialect(), {"MLX_SERVER_BATCH_MAX_BATCH_SIZE": "4"}, []),
    ],
)
def test_the_worker_is_told_what_the_entry_says(
    facts: dict[str, Any], dialect: Dialect, environ: dict[str, str], rest: list[str]
) -> None:
    argv = engine_argv(Engine(WORKER, OURS), entry(**facts), 8120, dialect, settings(**environ))
    assert argv == [*WORKER_FIXED, *NAMED, *rest]


def test_a_key_is_never_on_a_command_line() -> None:
    given = settings(MLXCTL_WORKER_API_KEYS="top-secret,other=high")
    for kind in (WORKER, MLX_LM, MLX_OPENAI_SERVER, COMMAND):
        assert "secret" not in " ".join(engine_argv(Engine(kind, ()), entry(**LIMITS), 8120, HARMONY, given))


@pytest.mark.parametrize("environ", [{}, {"MLXCTL_PROMPT_CACHE_BYTES": "2500000000"}])
@pytest.mark.parametrize("dialect", [Dialect(), HARMONY])
def test_the_worker_understands_what_it_is_told(dialect: Dialect, environ: dict[str, str]) -> None:
    """The two rooms meet in a command line: what one writes, the other reads."""
    facts: dict[str, Any] = {**LIMITS, "priority": "high", "request_params": {"temperature": 0.2}}
    given = settings(**environ)
    argv = engine_argv(Engine(WORKER, OURS), entry(**facts), 8120, dialect, given)
    told = serve_config(argv[len(OURS) :], {"HOME": "/home/me", **environ})
    assert (told.engine.model, told.host, told.port) == (Path("/hub/a folder"), "127.0.0.1", 8120)
    assert (told.served_model_name, told.default_priority) == ("mlx-a", Priority.HIGH)
    assert (told.engine.context_length, told.max_output_tokens) == (8192, 4096)
    assert told.request_params == {"temperature": 0.2}
    assert told.chat_template == (str(dialect.template) if dialect.template else "")
    assert (told.tool_call_parser, told.reasoning_parser) == (dialect.tool_call_parser, dialect.reasoning_parser)
    assert told.engine.cache_bytes == (2_500_000_000 if environ else None)


@pytest.mark.parametrize(
    ("kind", "name"),
    [(MLX_LM, "default_model"), (MLX_OPENAI_SERVER, "mlx-a"), (COMMAND, "mlx-a"), (WORKER, "mlx-a")],
)
def test_what_an_engine_wants_as_the_model_of_a_request(kind: str, name: str) -> None:
    assert kind in ENGINES
    assert Engine(kind, ()).request_model(entry()) == name


def test_the_extra_puts_the_server_beside_the_interpreter() -> None:
    beside = str(Path(sys.executable).with_name("mlx-openai-server"))
    settings = load_settings({})
    assert openai_server_prefix(settings, lambda name: name if name == beside else None) == (beside, "launch")
    on_path = {"mlx-openai-server": "/somewhere/mlx-openai-server", beside: beside}
    assert openai_server_prefix(settings, on_path.get) == ("/somewhere/mlx-openai-server", "launch")
