"""Which paths hold when nobody gives them, on Linux and on a Mac."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlxctl.core.settings import config_path, load_settings

HOME = {"HOME": "/home/me"}
XDG = {"XDG_STATE_HOME": "/x/state", "XDG_CACHE_HOME": "/x/cache", "XDG_CONFIG_HOME": "/x/config"}
LIBRARY = "/home/me/Library"


@pytest.mark.parametrize(
    ("platform", "environ", "paths", "config"),
    [
        pytest.param(
            "linux",
            HOME,
            {
                "hf_home": "/home/me/.cache/huggingface",
                "hub_cache": "/home/me/.cache/huggingface/hub",
                "registry_path": "/home/me/.cache/huggingface/hub/registry.json",
                "state_dir": "/home/me/.local/state/mlxctl",
                "cache_dir": "/home/me/.cache/mlxctl",
                "log_dir": "/home/me/.local/state/mlxctl/logs",
            },
            "/home/me/.config/mlxctl/config.toml",
            id="linux",
        ),
        pytest.param(
            "linux",
            {**HOME, **XDG},
            # huggingface_hub follows XDG_CACHE_HOME, so the cache that people have is there
            {
                "hub_cache": "/x/cache/huggingface/hub",
                "state_dir": "/x/state/mlxctl",
                "cache_dir": "/x/cache/mlxctl",
                "log_dir": "/x/state/mlxctl/logs",
            },
            "/x/config/mlxctl/config.toml",
            id="linux with XDG",
        ),
        pytest.param(
            "darwin",
            HOME,
            {
                "hub_cache": "/home/me/.cache/huggingface/hub",
                "state_dir": f"{LIBRARY}/Application Support/mlxctl",
                "cache_dir": f"{LIBRARY}/Caches/mlxctl",
                "log_dir": f"{LIBRARY}/Application Support/mlxctl/logs",
            },
            f"{LIBRARY}/Application Support/mlxctl/config.toml",
            id="darwin",
        ),
        pytest.param(
            "darwin",
            {**HOME, **XDG},
            {
                "hub_cache": "/x/cache/huggingface/hub",
                "state_dir": f"{LIBRARY}/Application Support/mlxctl",
                "cache_dir": f"{LIBRARY}/Caches/mlxctl",
            },
            f"{LIBRARY}/Application Support/mlxctl/config.toml",
            id="darwin with XDG",
        ),
        pytest.param(
            "linux",
            {**HOME, "XDG_STATE_HOME": "", "MLXCTL_CONFIG": ""},
            {"state_dir": "/home/me/.local/state/mlxctl"},
            "/home/me/.config/mlxctl/config.toml",
            id="empty is not set",
        ),
        pytest.param(
            "linux",
            {**HOME, "HF_HOME": "/hf"},
            {"hub_cache": "/hf/hub", "registry_path": "/hf/hub/registry.json"},
            "/home/me/.config/mlxctl/config.toml",
            id="HF_HOME moves the hub cache and the registry",
        ),
        pytest.param(
            "linux",
            {**HOME, "HF_HOME": "/hf", "HF_HUB_CACHE": "/hub", "MLXCTL_STATE_DIR": "/s", "MLX_LOG_DIR": "/logs"},
            {"hf_home": "/hf", "registry_path": "/hub/registry.json", "state_dir": "/s", "log_dir": "/logs"},
            "/home/me/.config/mlxctl/config.toml",
            id="each path by its own variable",
        ),
        pytest.param(
            "linux",
            {**HOME, "MLXCTL_STATE_DIR": "/s", "MLX_REGISTRY_PATH": "/r.json", "MLXCTL_CONFIG": "/c.toml"},
            {"log_dir": "/s/logs", "registry_path": "/r.json"},
            "/c.toml",
            id="logs follow the state folder",
        ),
        pytest.param("linux", {}, {"state_dir": "/.local/state/mlxctl"}, "/.config/mlxctl/config.toml", id="no HOME"),
    ],
)
def test_default_paths(platform: str, environ: dict[str, str], paths: dict[str, str], config: str) -> None:
    settings = load_settings(environ, platform=platform)
    assert {name: str(getattr(settings, name)) for name in paths} == paths
    assert str(config_path(environ, platform)) == config


def test_a_path_in_the_file_moves_what_hangs_on_it() -> None:
    settings = load_settings(HOME, "hf_home = '/hf'\nstate_dir = '/s'")
    assert (settings.registry_path, settings.log_dir) == (Path("/hf/hub/registry.json"), Path("/s/logs"))
    assert (settings.sources["hf_home"], settings.sources["registry_path"]) == ("config.toml", "default")
