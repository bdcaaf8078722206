"""Fills `Settings`: flag > environment > config.toml > default. Given a mapping and a text; reads nothing itself."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import Field
from pathlib import Path
from typing import Any

from mlxctl.core.errors import UsageError
from mlxctl.core.options import INTEGER, NUMBER, PATH, SWITCH, TEXT, WORDS, Settings, options

PRIORITIES = ("high", "normal", "low")
_ON = frozenset({"1", "true", "yes", "on"})
_OFF = frozenset({"0", "false", "no", "off"})
_FORMS = {
    INTEGER: "a whole number, zero or more",
    NUMBER: "a number, zero or more",
    SWITCH: "one of 1/true/yes/on or 0/false/no/off",
    PATH: "a path",
    WORDS: "words parted by commas",
    TEXT: "text",
}


def config_path(environ: Mapping[str, str], platform: str) -> Path:
    """Where config.toml lies: `MLXCTL_CONFIG`, else the platform's user config folder."""
    if given := environ.get("MLXCTL_CONFIG"):
        return Path(given).expanduser()
    return _folder(environ, platform, "XDG_CONFIG_HOME", ".config", "Application Support") / "config.toml"


def load_settings(
    environ: Mapping[str, str], toml: str = "", *, platform: str = "linux", flags: Mapping[str, Any] | None = None
) -> Settings:
    """Every setting with its source. Raises `UsageError` naming the variable or line that cannot be understood."""
    written = _parse_toml(toml)
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for entry in options():
        value, source = _resolve(entry, environ, written, flags or {})
        if source != "default":
            values[entry.name] = value
        sources[entry.name] = source
    for name, value in _default_paths(values, environ, platform).items():
        values.setdefault(name, value)
    return Settings(**values, sources=sources)


def split_api_key(word: str) -> tuple[str, str]:
    """(key, priority) of a word KEY or KEY=high|normal|low; the priority is empty when none is said."""
    key, _, priority = word.rpartition("=")
    # a key may hold a = of its own
    return (key, priority) if key and priority in PRIORITIES else (word, "")


def _parse_toml(toml: str) -> dict[str, Any]:
    try:
        written = tomllib.loads(toml)
    except tomllib.TOMLDecodeError as error:
        raise UsageError("bad_setting", f"config.toml cannot be read: {error}", "mend that line") from error
    known = {entry.name for entry in options()}
    for name in written:
        if name not in known:
            raise UsageError(
                "bad_setting", f"config.toml sets {name!r}, which is no setting", "see `mlxctl config` for every name"
            )
    return written


def _resolve(
    entry: Field[Any], environ: Mapping[str, str], written: Mapping[str, Any], flags: Mapping[str, Any]
) -> tuple[Any, str]:
    if flags.get(entry.name) is not None:
        return flags[entry.name], "flag"
    for variable in entry.metadata["env"]:
        # an empty variable is how a shell says "not set"
        if environ.get(variable, "").strip():
            return parse_value(entry.metadata["kind"], environ[variable], variable), variable
    if entry.name in written:
        return parse_value(entry.metadata["kind"], written[entry.name], f"config.toml: {entry.name}"), "config.toml"
    return None, "default"


def parse_value(kind: str, given: Any, where: str) -> Any:
    """`given`, as text or as TOML's own type, in the type of `kind`. `where` is named in the error."""
    try:
        return _PARSERS[kind](given)
    except (ValueError, RuntimeError) as error:
        # RuntimeError: the home of a user that does not exist
        raise UsageError("bad_setting", f"{where} is {given!r}", f"it takes {_FORMS[kind]}") from error


def _parse_text(given: Any) -> str:
    if not isinstance(given, str):
        raise ValueError(given)
    return given.strip()


def _parse_number(given: Any) -> float:
    number = float(str(given))
    # not `number < 0`, which a NaN would pass; nothing that can be set here has a meaning below zero
    if not number >= 0 or math.isinf(number):
        raise ValueError(given)
    return number


def _parse_integer(given: Any) -> int:
    number = int(str(given))
    if number < 0:
        raise ValueError(given)
    return number


def _parse_words(given: Any) -> tuple[str, ...]:
    """Words parted by commas, or a list: TOML's, or JSON's as Model Manager writes it."""
    if isinstance(given, str):
        given = json.loads(given) if given.lstrip().startswith("[") else given.split(",")
    if not isinstance(given, list):
        raise ValueError(given)
    return tuple(word for item in given if (word := _parse_text(item)))


def _parse_switch(given: Any) -> bool:
    word = str(given).strip().lower()
    if word not in _ON | _OFF:
        raise ValueError(given)
    return word in _ON


_PARSERS: dict[str, Callable[[Any], Any]] = {
    INTEGER: _parse_integer,
    NUMBER: _parse_number,
    SWITCH: _parse_switch,
    PATH: lambda given: Path(_parse_text(given)).expanduser(),
    WORDS: _parse_words,
    TEXT: _parse_text,
}


def _folder(environ: Mapping[str, str], platform: str, variable: str, linux: str, mac: str) -> Path:
    home = Path(environ.get("HOME") or "/")
    if platform == "darwin":
        return home / "Library" / mac / "mlxctl"
    return Path(environ.get(variable) or home / linux) / "mlxctl"


def _default_paths(values: Mapping[str, Any], environ: Mapping[str, str], platform: str) -> dict[str, Path]:
    # XDG_CACHE_HOME on a Mac, too: so does huggingface_hub
    cache_home = Path(environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME") or "/") / ".cache")
    hf_home = values.get("hf_home") or cache_home / "huggingface"
    hub_cache = values.get("hub_cache") or hf_home / "hub"
    state_dir = values.get("state_dir") or _folder(
        environ, platform, "XDG_STATE_HOME", ".local/state", "Application Support"
    )
    return {
        "hf_home": hf_home,
        "hub_cache": hub_cache,
        "registry_path": hub_cache / "registry.json",
        "state_dir": state_dir,
        "cache_dir": _folder(environ, platform, "XDG_CACHE_HOME", ".cache", "Caches"),
        "log_dir": state_dir / "logs",
    }
