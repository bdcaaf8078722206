"""Where a setting's value comes from, and what its text may look like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlxctl.core.errors import UsageError
from mlxctl.core.options import INTEGER, NUMBER, PATH, SWITCH, TEXT, WORDS, options
from mlxctl.core.settings import load_settings, parse_value, split_api_key

HOME = {"HOME": "/home/me"}


# --- precedence -------------------------------------------------------------------------------------------------

# one setting a kind: (kind, name, variable, default, (flag), (environment text, value), (TOML text, value))
KINDS = [
    (TEXT, "engine", "MLXCTL_ENGINE", "auto", "command", ("mlx-lm", "mlx-lm"), ('"worker"', "worker")),
    (INTEGER, "max_models", "MLX_SERVER_MAX_MODELS", 4, 1, ("2", 2), ("3", 3)),
    (NUMBER, "stop_grace_s", "MLXCTL_STOP_GRACE_S", 10.0, 0.5, ("1.5", 1.5), ("2.5", 2.5)),
    (SWITCH, "offline", "HF_HUB_OFFLINE", False, True, ("1", True), ("true", True)),
    (SWITCH, "route_via_optillm", "MLX_ROUTE_VIA_OPTILLM", True, False, ("off", False), ("false", False)),
    (PATH, "state_dir", "MLXCTL_STATE_DIR", None, Path("/flag"), ("/env", Path("/env")), ('"/toml"', Path("/toml"))),
    (WORDS, "preconverted_hints", "MLX_PRECONVERTED_HINTS", ("mlx",), ("f",), ("a, b", ("a", "b")), ('["c"]', ("c",))),
]


@pytest.mark.parametrize(
    ("kind", "name", "variable", "default", "flag", "env", "toml"), KINDS, ids=[case[1] for case in KINDS]
)
def test_flag_over_environment_over_file_over_default(
    kind: str, name: str, variable: str, default: Any, flag: Any, env: tuple[str, Any], toml: tuple[str, Any]
) -> None:
    assert next(o for o in options() if o.name == name).metadata["kind"] == kind
    written = f"{name} = {toml[0]}"
    everything: dict[str, Any] = {"toml": written, "flags": {name: flag}}
    cases = [
        (load_settings({**HOME, variable: env[0]}, **everything), flag, "flag"),
        (load_settings({**HOME, variable: env[0]}, written), env[1], variable),
        (load_settings({**HOME, variable: env[0]}, written, flags={name: None}), env[1], variable),
        (load_settings({**HOME, variable: ""}, written), toml[1], "config.toml"),
        (load_settings(HOME, written), toml[1], "config.toml"),
    ]
    for settings, value, source in cases:
        assert (getattr(settings, name), settings.sources[name]) == (value, source)
    bare = load_settings(HOME)
    assert bare.sources[name] == "default"
    if default is not None:
        assert getattr(bare, name) == default


def test_the_table_above_has_every_kind() -> None:
    assert {case[0] for case in KINDS} == {option.metadata["kind"] for option in options()}


def test_a_default_that_is_false_can_be_given_as_a_flag_that_is_false() -> None:
    settings = load_settings({**HOME, "HF_HUB_OFFLINE": "1"}, flags={"offline": False})
    assert (settings.offline, settings.sources["offline"]) == (False, "flag")


@pytest.mark.parametrize("empty", ["", " ", "\t"])
def test_an_empty_variable_is_not_set(empty: str) -> None:
    every_variable = {variable: empty for option in options() for variable in option.metadata["env"]}
    assert load_settings({**HOME, **every_variable}) == load_settings(HOME)


ALIASES = [(o.name, o.metadata["kind"], o.metadata["env"]) for o in options() if len(o.metadata["env"]) > 1]


@pytest.mark.parametrize(("name", "kind", "variables"), ALIASES, ids=[name for name, _, _ in ALIASES])
def test_of_several_variables_the_first_that_is_set_wins(name: str, kind: str, variables: tuple[str, ...]) -> None:
    texts = {INTEGER: ["1", "2", "3"], SWITCH: ["1", "0", "1"]}.get(kind, ["/a", "/b", "/c"])
    environ = dict(zip(variables, texts, strict=False))
    for variable in variables:
        settings = load_settings({**HOME, **environ})
        assert settings.sources[name] == variable
        assert getattr(settings, name) == parse_value(kind, environ[variable], variable)
        environ[variable] = ""
    assert load_settings({**HOME, **environ}).sources[name] == "default"


def test_the_seeds_variables_that_mean_the_same_are_aliases() -> None:
    assert {variables for _, _, variables in ALIASES} == {
        ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "MLX_MANAGER_HF_CACHE_PATH"),
        ("HF_HUB_OFFLINE", "MLX_MANAGER_OFFLINE_MODE"),
        ("MLX_SERVER_HOST", "MLX_MANAGER_HOST"),
        ("MLX_SERVER_PORT", "MLX_MANAGER_PORT"),
        ("MLX_SERVER_DEFAULT_MAX_TOKENS", "MLX_DEFAULT_MAX_TOKENS"),
        ("MLX_LOG_LEVEL", "MLX_MANAGER_LOG_LEVEL"),
    }


# --- forms ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "given_text", "value"),
    [
        (TEXT, " 127.0.0.1 ", "127.0.0.1"),
        (INTEGER, " 42 ", 42),
        (NUMBER, "1e3", 1000.0),
        (NUMBER, "2", 2.0),
        *((SWITCH, word, True) for word in ("1", "true", "TRUE", "Yes", "on", " on ")),
        *((SWITCH, word, False) for word in ("0", "false", "No", "OFF")),
        (PATH, "/a/b c", Path("/a/b c")),
        (PATH, "~/hub", Path.home() / "hub"),
        (WORDS, "a", ("a",)),
        (WORDS, " a , b,,c ,", ("a", "b", "c")),
        (WORDS, ",", ()),
        # Model Manager writes its lists as JSON
        (WORDS, "[]", ()),
        (WORDS, ' ["org/a", " org/b "]', ("org/a", "org/b")),
    ],
)
def test_text_in_the_form_of_its_kind(kind: str, given_text: str, value: Any) -> None:
    parsed = parse_value(kind, given_text, "X")
    assert parsed == value
    assert type(parsed) is type(value)


BAD_TEXTS = [
    ("MLXCTL_PORT_BASE", "abc", "a whole number, zero or more"),
    ("MLXCTL_PORT_BASE", "8100.5", "a whole number, zero or more"),
    ("MLXCTL_PORT_BASE", "9" * 5000, "a whole number, zero or more"),
    ("MLXCTL_LOG_FILES", "-1", "a whole number, zero or more"),
    ("MLXCTL_LOCK_TIMEOUT_S", "-3", "a number, zero or more"),
    ("MLXCTL_LOCK_TIMEOUT_S", "inf", "a number, zero or more"),
    ("MLXCTL_STOP_GRACE_S", "ten", "a number, zero or more"),
    ("MLXCTL_STOP_GRACE_S", "nan", "a number, zero or more"),
    ("MLXCTL_STOP_GRACE_S", "1,5", "a number, zero or more"),
    ("HF_HUB_OFFLINE", "maybe", "1/true/yes/on or 0/false/no/off"),
    ("MLX_MANAGER_OFFLINE_MODE", "2", "1/true/yes/on or 0/false/no/off"),
    ("HF_HOME", "~nobody-of-this-name/hf", "a path"),
    ("MLX_SERVER_PRELOAD_MODELS", '["a"', "words parted by commas"),
    ("MLX_SERVER_PRELOAD_MODELS", "[1]", "words parted by commas"),
]


@pytest.mark.parametrize(("variable", "text", "form"), BAD_TEXTS, ids=[f"{v}={t[:12]}" for v, t, _ in BAD_TEXTS])
def test_a_bad_value_names_its_variable_and_the_form(variable: str, text: str, form: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_settings({**HOME, variable: text})
    assert (caught.value.code, caught.value.exit_code) == ("bad_setting", 2)
    assert variable in caught.value.message
    assert repr(text) in caught.value.message
    assert form in caught.value.hint


@given(st.sampled_from([o.metadata["kind"] for o in options()]), st.text(max_size=12))
def test_any_text_has_the_form_or_is_refused(kind: str, text: str) -> None:
    try:
        parse_value(kind, text, "X")
    except UsageError as error:
        assert error.code == "bad_setting"


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ("\nport_base = \n", ["config.toml", "line 2"]),
        ("a b", ["config.toml"]),
        ("port_bsae = 8100", ["'port_bsae'"]),
        ("[models]\nx = 1", ["'models'"]),
        ("port_base = true", ["config.toml: port_base", "True"]),
        ("port_base = 8100.5", ["config.toml: port_base"]),
        ('port_base = "abc"', ["config.toml: port_base", "'abc'"]),
        ("stop_grace_s = false", ["config.toml: stop_grace_s"]),
        ("stop_grace_s = nan", ["config.toml: stop_grace_s"]),
        ("offline = 2", ["config.toml: offline"]),
        ("bind = 127", ["config.toml: bind", "127"]),
        ("bind = ['a']", ["config.toml: bind"]),
        ("[bind]\nx = 1", ["config.toml: bind"]),
        ("hf_home = true", ["config.toml: hf_home"]),
        ("preconverted_orgs = [1]", ["config.toml: preconverted_orgs"]),
        ("preconverted_orgs = 1", ["config.toml: preconverted_orgs"]),
    ],
)
def test_a_bad_line_of_the_file_is_named(toml: str, words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        load_settings(HOME, toml)
    assert caught.value.code == "bad_setting"
    assert all(word in caught.value.message for word in words)
    assert caught.value.hint


def test_a_bad_value_that_a_better_source_hides_is_not_looked_at() -> None:
    assert load_settings({**HOME, "MLXCTL_PORT_BASE": "9000"}, 'port_base = "abc"').port_base == 9000


@pytest.mark.parametrize(
    ("toml", "name", "value"),
    [
        ("port_base = 9000", "port_base", 9000),
        ('port_base = "9000"', "port_base", 9000),
        ("stop_grace_s = 3", "stop_grace_s", 3.0),
        ("offline = 1", "offline", True),
        ('offline = "no"', "offline", False),
        ('preconverted_orgs = "a, b"', "preconverted_orgs", ("a", "b")),
        ("preconverted_orgs = ['a', 'b']", "preconverted_orgs", ("a", "b")),
        ("preconverted_orgs = []", "preconverted_orgs", ()),
    ],
)
def test_the_file_may_use_its_own_types_or_text(toml: str, name: str, value: Any) -> None:
    assert getattr(load_settings(HOME, toml), name) == value


@pytest.mark.parametrize(
    ("word", "key", "priority"),
    [
        ("k", "k", ""),
        ("k=high", "k", "high"),
        ("a=b=low", "a=b", "low"),
        ("a=b", "a=b", ""),
        ("k=urgent", "k=urgent", ""),
        ("=high", "=high", ""),
    ],
)
def test_a_key_and_its_priority(word: str, key: str, priority: str) -> None:
    assert split_api_key(word) == (key, priority)
