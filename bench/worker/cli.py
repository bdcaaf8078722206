"""The command line, the rounds, and what is printed and kept of them."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
import zlib
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from bench.worker.bars import ENGINE, OURS, SERVERS, SHORT_NAMES, bars
from bench.worker.model import smollm2, tiny, vocabulary
from bench.worker.peers import install
from bench.worker.process import SideFailed
from bench.worker.prompts import Prompts
from bench.worker.scenarios import SCENES, Sizes, Turn
from bench.worker.sides import Sides
from bench.worker.verdict import judge, table

QUICK = Sizes(decoded=16, streamed=40, joins=2, warm=2, requests=20)


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench worker", description=__doc__)
    parser.add_argument("--layers", type=int, help="cut SmolLM2 to its first layers, for quick turns")
    parser.add_argument("--model", type=Path, help="folder of another model instead of SmolLM2")
    parser.add_argument("--reps", type=int, default=5, help="alternating repetitions")
    parser.add_argument("--quick", action="store_true", help="two repetitions with fewer tokens: to see that it works")
    parser.add_argument("--only", action="append", choices=SCENES, help="one scene; may be repeated")
    parser.add_argument("--peers", default=",".join(SHORT_NAMES), help="of " + ",".join(SHORT_NAMES))
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 1) // 2), help="of OpenBLAS")
    parser.add_argument("--json", type=Path, help="write every number there too")
    parser.add_argument("--install-peers", action="store_true", help="make the other servers' environments, and stop")
    parsed = parser.parse_args(argv)
    if unknown := set(parsed.peers.split(",")) - {*SHORT_NAMES, ""}:
        parser.error(f"unknown peers: {', '.join(sorted(unknown))}")
    return parsed


def main(argv: Sequence[str]) -> int:
    asked = arguments(argv)
    if asked.install_peers:
        install()
        return 0
    model = asked.model or smollm2(asked.layers)
    peers = [SHORT_NAMES[peer] for peer in asked.peers.split(",") if peer]
    scenes = asked.only or list(SCENES)
    reps = min(asked.reps, 2) if asked.quick else asked.reps
    samples: dict[tuple[str, str], list[float]] = defaultdict(list)
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="bench-worker-") as scratch:
        sides = Sides(model, tiny(), Path(scratch), asked.threads, say)
        try:
            for scene in scenes:
                for rep in range(reps):
                    play(scene, rep, peers, sides, model, QUICK if asked.quick else Sizes(), samples)
        finally:
            sides.stop()
    rows = [bar for bar in bars([peer for peer in SERVERS if peer in peers]) if wanted(bar.figure, scenes)]
    about = {
        "model": model.name,
        "repetitions": reps,
        "minutes": round((time.perf_counter() - begun) / 60, 1),
        "machine": f"{platform.platform(terse=True)} {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "openblas_threads": asked.threads,
        "sides": sides.notes,
    }
    print(json.dumps(about, indent=1))
    print("\n" + table([judge(bar, samples) for bar in rows]))
    if asked.json:
        figures = [{"figure": figure, "side": side, "values": values} for (figure, side), values in samples.items()]
        asked.json.write_text(json.dumps({**about, "figures": figures}, indent=1))
    return 0


def play(
    scene: str,
    rep: int,
    peers: Sequence[str],
    sides: Sides,
    model: Path,
    sizes: Sizes,
    samples: dict[tuple[str, str], list[float]],
) -> None:
    """One repetition: every side has its turn with the same prompts, in an order that turns round each time."""
    act, names = SCENES[scene]
    playing = [name for name in names if name in (OURS, ENGINE) or name in peers]
    for name in playing if rep % 2 == 0 else reversed(playing):
        prompts = Prompts(model, zlib.crc32(f"{scene} {rep}".encode()))
        try:
            figures = act(Turn(sides, name, prompts, vocabulary(model), sizes))
        except SideFailed as error:
            say(f"  {scene} {rep + 1}: {name} {error}")
            continue
        for figure, value in figures.items():
            samples[figure, name].append(value)
        say(f"  {scene} {rep + 1}: {name} " + " ".join(f"{figure}={value:.4g}" for figure, value in figures.items()))


def wanted(figure: str, scenes: Sequence[str]) -> bool:
    return any(figure == scene or figure.startswith(f"{scene}-") for scene in scenes)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
