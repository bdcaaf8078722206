"""A home of its own for one test: settings, hub cache, state and forty free ports; and the real command line on it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlxctl.control.site import Site
from mlxctl.core.registry import ModelEntry, Registry
from mlxctl.core.settings import load_settings
from tests.fakes.models import write_model

ENGINE = Path(__file__).with_name("engine.py")
FIRST_BASE, LAST_BASE = 18000, 31000
"""Below the range from which the kernel hands out ports, so that no client socket sits on one of ours."""


def free_base() -> int:
    """The first of forty ports in a row that nobody listens on; parallel runs begin their search apart."""
    span = (LAST_BASE - FIRST_BASE) // 40
    for step in range(span):
        base = FIRST_BASE + 40 * ((os.getpid() * 7 + step) % span)
        if all(_is_free(port) for port in range(base, base + 40)):
            return base
    raise RuntimeError("no forty free ports in a row")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@dataclass(frozen=True)
class Home:
    """Everything below `root`. `run` is the command line in a process of its own, `site` the same without one."""

    root: Path
    base: int
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def hub_cache(self) -> Path:
        return self.root / "hub"

    @property
    def registry_path(self) -> Path:
        return self.hub_cache / "registry.json"

    def env(self, **more: str) -> dict[str, str]:
        kept = {
            name: os.environ[name]
            for name in ("PATH", "LANG", "LC_ALL", "PYTHONPATH", "VIRTUAL_ENV")
            if name in os.environ
        }
        return {
            **kept,
            "HOME": str(self.root),
            "HF_HUB_CACHE": str(self.hub_cache),
            "MLXCTL_STATE_DIR": str(self.root / "state"),
            "MLXCTL_CACHE_DIR": str(self.root / "cache"),
            "MLXCTL_PORT_BASE": str(self.base),
            "MLXCTL_STOP_GRACE_S": "2",
            "PYTHONWARNINGS": "error::ResourceWarning",
            "COLUMNS": "160",
            **self.environ,
            **more,
        }

    def with_engine(self, *faults: str, **more: str) -> Home:
        """The same home with the fake engine as MLX_LAUNCH_CMD; `faults` are its flags."""
        command = " ".join([sys.executable, str(ENGINE), *faults])
        return Home(self.root, self.base, {**self.environ, "MLX_LAUNCH_CMD": command, **more})

    def site(self, **more: Any) -> Site:
        environ = self.env()
        return Site(load_settings(environ, platform=sys.platform), environ, **more)

    def run(self, *argv: str, timeout_s: float = 120, stdin: str | None = None, **more: str) -> Ran:
        """Run `mlxctl ARGV` to its end."""
        done = subprocess.run(
            [sys.executable, "-m", "mlxctl", *argv],
            env=self.env(**more),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    def start(self, *argv: str, **more: str) -> subprocess.Popen[str]:
        """Begin `mlxctl ARGV` and leave it running; in a session of its own, so that signals reach it alone."""
        return subprocess.Popen(
            [sys.executable, "-m", "mlxctl", *argv],
            env=self.env(**more),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def model(self, name: str, *, port: int | None = None, register: bool = True, **facts: Any) -> Path:
        """A whole model folder, registered as `mlx-NAME` of `org/NAME` unless told otherwise."""
        folder = write_model(self.root / "models" / name, **facts)
        if register:
            entry = ModelEntry(
                repo_id=f"org/{name}",
                model_id=f"mlx-{name}",
                cache_path=str(folder),
                port=port,
                context_length=4096,
                max_output_tokens=4096,
            )
            self.site().store.update(lambda registry: registry.with_entry(entry))
        return folder

    def registry(self) -> Registry:
        return self.site().store.read()

    def stop_everything(self) -> None:
        """End what a test left running; only processes that carry a stamp of this home."""
        site = self.site()
        for state in site.states.known().values():
            for pid in site.host.stamped(state.stamp) if state.stamp else []:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue


@dataclass(frozen=True)
class Ran:
    """One finished command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        parsed: dict[str, Any] = json.loads(self.out.splitlines()[-1])
        return parsed

    @property
    def data(self) -> dict[str, Any]:
        return dict(self.json["data"])

    @property
    def error(self) -> dict[str, Any]:
        return dict(self.json["errors"][0])
