"""One host's control plane, as a command sees it: settings, ports, registry store, port states, host and reporter."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from mlxctl.control.host import Host, LocalHost
from mlxctl.control.launch import WORKER
from mlxctl.control.state import StateFolder
from mlxctl.control.store import RegistryStore
from mlxctl.core.options import Settings
from mlxctl.core.ports import Ports
from mlxctl.core.report import Reporter, Silent
from mlxctl.core.settings import split_api_key


@dataclass(frozen=True)
class Site:
    """Handed to every command. `environ` is what children inherit."""

    settings: Settings
    environ: Mapping[str, str]
    host: Host = field(default_factory=LocalHost)
    reporter: Reporter = field(default_factory=Silent)
    which: Callable[[str], str | None] = shutil.which

    @cached_property
    def ports(self) -> Ports:
        return Ports(self.settings.port_base)

    @cached_property
    def store(self) -> RegistryStore:
        return RegistryStore(self.settings.registry_path, self.ports)

    @cached_property
    def states(self) -> StateFolder:
        return StateFolder(self.settings.state_dir)

    def key_for(self, engine: str | None) -> str:
        """What a request to a server of this kind has to bring along; empty where none asks for a key."""
        keys = self.settings.worker_api_keys
        return split_api_key(keys[0])[0] if keys and engine == WORKER else ""

    def base_url(self, port: int) -> str:
        """Where clients on this host reach `port`."""
        bind = self.settings.bind
        address = "127.0.0.1" if bind in ("0.0.0.0", "::", "") else bind
        return f"http://{f'[{address}]' if ':' in address else address}:{port}/v1"

    def sync_notices(self, no_sync: bool) -> tuple[str, ...]:
        """What a command that changed what serves has to say about the gateway."""
        if no_sync:
            return ()
        if self.settings.gateway_host is None and self.settings.gateway_root is None:
            return ("no gateway is configured: nothing to sync",)
        return (
            "a gateway is configured, but this version of mlxctl cannot sync it: the gateway's files are unchanged",
        )

    def offload_notices(self, entry_og_path: str | None, cache_path: str, no_offload: bool) -> tuple[str, ...]:
        if no_offload or not entry_og_path or entry_og_path == cache_path:
            return ()
        if self.settings.offload_host is None and self.settings.offload_script is None:
            return ("no backroom is configured: the base weights stay in the cache",)
        return (
            "a backroom is configured, but this version of mlxctl cannot offload: the base weights stay in the cache",
        )


def data_of(entry: Any) -> dict[str, Any]:
    """An entry as `--json` shows it: the registry's object, with its id."""
    shown: dict[str, Any] = entry.to_json()
    return {"model_id": entry.model_id, **shown}
