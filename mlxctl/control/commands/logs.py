"""`mlxctl logs`: the log of a port, by port or by model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mlxctl.control.commands.unload import port_of
from mlxctl.control.logs import follow, last_lines
from mlxctl.control.site import Site
from mlxctl.core.errors import NotFound
from mlxctl.core.result import Result


def logs(site: Site, word: str, count: int) -> Result:
    path, port = log_of(site, word)
    return Result("logs", {"port": port, "path": str(path), "lines": list(last_lines(path, count))})


def follow_log(site: Site, word: str, count: int) -> Iterator[str]:
    """The last `count` lines, then every new one until the caller stops."""
    path, _port = log_of(site, word)
    yield from last_lines(path, count)
    yield from follow(path)


def log_of(site: Site, word: str) -> tuple[Path, int]:
    port = site.ports.parse(word) if word.isdigit() else port_of(site, word)
    path = Path(site.states.read(port).log_path or site.settings.log_dir / f"mlx-{port}.log")
    if not path.exists():
        raise NotFound("no_log", f"port {port} has no log yet", "nothing was ever started there")
    return path, port
