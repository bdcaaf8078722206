"""Fault F10: many commands at once, on one registry and on real processes, are as good as one after another."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mlxctl.control import probe
from mlxctl.control.host import LocalHost
from mlxctl.control.store import GENERATIONS, RegistryStore
from mlxctl.core.ports import TEAM_SIZE, Ports
from mlxctl.core.registry import ModelEntry, Registry, check_invariants
from tests.fakes.home import Home
from tests.fakes.serial import Command, serial_order

MODELS = [f"m{number:02d}" for number in range(20)]
CONTESTED = 3
"""Team ports that several models are sent to, so that commands replace and move what others just put there."""
COMMANDS, AT_ONCE = 50, 10


def words(rng: random.Random, base: int) -> tuple[str, ...]:
    model = f"mlx-{rng.choice(MODELS)}"
    match rng.choices(("auto", "team", "port", "model"), (45, 20, 20, 15))[0]:
        case "auto":
            return ("load", model, "auto")
        case "team":
            return ("load", model, str(base + rng.randrange(CONTESTED)))
        case "port":
            return ("unload", str(base + rng.choice([*range(CONTESTED), *range(TEAM_SIZE, TEAM_SIZE + 8)])))
        case _:
            return ("unload", model)


def carry_out(home: Home, argv: tuple[str, ...]) -> Command:
    begun = time.monotonic()
    child = home.start(*argv, "--json")
    out, err = child.communicate(timeout=200)
    ended = time.monotonic()
    assert err == "", f"{argv}: {err}"
    told = json.loads(out)
    data = told["data"]
    assert told["ok"] == (child.returncode == 0), told
    assert child.returncode in (0, 4), f"{argv}: {told['errors']}"
    return Command(argv, begun, ended, child.returncode, data.get("port"), data.get("model_id"))


def processes_of(home: Home) -> list[int]:
    host = LocalHost()
    return [pid for state in home.site().states.known().values() if state.stamp for pid in host.stamped(state.stamp)]


@pytest.mark.parametrize("seed", [103, 107])
def test_fifty_loads_and_unloads_at_once_equal_some_serial_order(home: Home, seed: int) -> None:
    home = home.with_engine(OMP_NUM_THREADS="1")
    for model in MODELS:
        home.model(model)
    rng = random.Random(seed)
    asked = [words(rng, home.base) for _ in range(COMMANDS)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        done = list(pool.map(lambda argv: carry_out(home, argv), asked))

    registry = home.registry()
    check_invariants(registry, Ports(home.base), "")
    assert set(registry.models) == {f"mlx-{model}" for model in MODELS}
    assert home.run("registry", "validate").code == 0
    last = frozenset((port, entry.model_id) for port, entry in registry.assigned.items())
    assert serial_order(done, last, Ports(home.base).experimental), (done, last)

    site = home.site()
    for port, entry in registry.assigned.items():
        state = site.states.read(port)
        assert (state.model_id, state.phase, state.operation) == (entry.model_id, "ready", None)
        assert state.identity is not None and site.host.owns_listener(state.identity, port)
        names = probe.served_names(probe.ask("127.0.0.1", port, "/v1/models", timeout_s=5))
        assert names == [entry.cache_path]
        assert probe.is_chat_answer(probe.ask("127.0.0.1", port, "/v1/chat/completions", {"messages": []}, timeout_s=5))
    known = {site.states.read(port).pid for port in registry.assigned}
    assert set(processes_of(home)) == known, "something runs that the registry does not know"

    assert home.run("unload-all", "--yes").code == 0
    assert processes_of(home) == []
    assert not home.registry().assigned


ADDER = """
import sys
from pathlib import Path
from mlxctl.control.store import RegistryStore
from mlxctl.core.ports import Ports
from tests.faults.test_parallel_commands import count_up

store = RegistryStore(Path(sys.argv[1]), Ports())
count_up(store, sys.argv[2], int(sys.argv[3]))
"""
UPDATES, PROCESSES, THREADS = 2000, 2, 4


def count_up(store: RegistryStore, name: str, times: int) -> None:
    """`times` transactions, each of which adds one to what it read: a lost update is a missing one in the sum."""

    def add(registry: Registry) -> Registry:
        old = registry.models.get("mlx-total")
        total = 1 + (old.context_length or 0 if old else 0)
        mine = registry.models.get(name)
        own = 1 + (mine.context_length or 0 if mine else 0)
        return registry.with_entry(counter("mlx-total", total)).with_entry(counter(name, own))

    for _ in range(times):
        store.update(add)


def counter(name: str, value: int) -> ModelEntry:
    return ModelEntry(repo_id="org/" + name, model_id=name, cache_path="/none", context_length=value)


def test_no_update_of_two_thousand_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "registry.json"
    each = UPDATES // (PROCESSES + THREADS)
    children = [
        subprocess.Popen(
            [sys.executable, "-c", ADDER, str(path), f"mlx-process-{number}", str(each)], cwd=Path(__file__).parents[2]
        )
        for number in range(PROCESSES)
    ]
    rest = UPDATES - each * (PROCESSES + THREADS - 1)
    shares = [each] * (THREADS - 1) + [rest]
    threads = [
        threading.Thread(target=count_up, args=(RegistryStore(path, Ports()), f"mlx-thread-{number}", share))
        for number, share in enumerate(shares)
    ]
    for thread in threads:
        thread.start()
    seen = 0
    while any(thread.is_alive() for thread in threads) or any(child.poll() is None for child in children):
        # a reader without the lock never meets half a file, and never an older one than it saw before
        total = RegistryStore(path, Ports()).read().models.get("mlx-total")
        now = total.context_length or 0 if total else 0
        assert now >= seen
        seen = now
        time.sleep(0.005)
    assert [child.wait() for child in children] == [0] * PROCESSES
    models = RegistryStore(path, Ports()).read().models
    assert models["mlx-total"].context_length == UPDATES
    assert sum(entry.context_length or 0 for entry in models.values()) == 2 * UPDATES
    assert len(RegistryStore(path, Ports()).generations()) == GENERATIONS
