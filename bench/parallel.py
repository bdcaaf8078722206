"""Fifty `load` and `unload` commands at once on twenty models: how long, and whether all of it adds up afterwards."""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.fakes.home import Home, free_base

COMMANDS, MODELS, AT_ONCE = 50, 20, 50
ALLOWED = {0, 4}
"""done; nothing is on the port of an unload that another unload overtook"""


def main() -> None:
    with tempfile.TemporaryDirectory() as root:
        home = Home(Path(root), free_base()).with_engine()
        home.hub_cache.mkdir()
        for number in range(MODELS):
            home.model(f"m{number}")
        try:
            measure(home)
        finally:
            home.stop_everything()


def measure(home: Home) -> None:
    seed = random.Random(20)
    commands = [
        ["load", f"mlx-m{seed.randrange(MODELS)}", str(home.base + seed.randrange(40))]
        if seed.random() < 0.6
        else ["unload", str(home.base + seed.randrange(40))]
        for _ in range(COMMANDS)
    ]
    begun = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        ran = list(pool.map(lambda argv: home.run(*argv, "--json", timeout_s=600), commands))
    seconds = time.perf_counter() - begun
    codes = Counter(done.code for done in ran)
    status = home.run("status", "--json").data["ports"]
    ready = {row["port"]: row["model_id"] for row in status if row["phase"] == "ready"}
    assigned = {port: entry.model_id for port, entry in home.registry().assigned.items()}
    agrees = ready == assigned and home.run("registry", "validate").code == 0
    print(f"\nparallel: {COMMANDS} load/unload commands at once on {MODELS} models, fake engine")
    print(f"{'seconds':<28}{seconds:>10.1f}")
    print(f"{'exit codes':<28}{dict(codes)!s:>10}")
    print(f"{'models serving':<28}{len(ready):>10}")
    print(f"{'registry equals ports':<28}{'yes' if agrees and set(codes) <= ALLOWED else 'NO':>10}")
