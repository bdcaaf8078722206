"""A converter that stands in for `mlx_lm convert`: it writes a whole model in steps, and breaks where a test asks.

Run as MLX_CONVERT_CMD with `{src} {dest}`; flags of mlx_lm that mlxctl appends are taken and noted in config.json.
Every step prints `step N of M` before it is taken:

    --stop-at N        sleep for ever instead of taking step N
    --fail-at N        exit 1 instead of taking step N, after saying why
    --full-at N        the same, with what a full disk has a program say
    --torn             leave the last shard half written and exit 0, as a careless converter would
    --pause S          sleep S seconds before each step
    --mark WORD        written into config.json, to tell one conversion from another
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.fakes.models import write_shard

SHARDS = 3
STEPS = SHARDS + 4
PAYLOAD = 4096


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    parser = argparse.ArgumentParser()
    parser.add_argument("src", type=Path)
    parser.add_argument("dest", type=Path)
    for flag in ("--stop-at", "--fail-at", "--full-at"):
        parser.add_argument(flag, type=int)
    parser.add_argument("--torn", action="store_true")
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--mark", default="")
    return parser.parse_known_args(argv)


def steps(given: argparse.Namespace, flags: list[str]) -> Iterator[Callable[[], object]]:
    """What a conversion does, in an order in which the folder looks like a model long before it is one."""
    dest: Path = given.dest
    config = json.loads((given.src / "config.json").read_text())
    yield lambda: dest.mkdir(parents=True)
    yield lambda: (dest / "config.json").write_text(json.dumps({**config, "mark": given.mark, "flags": flags}))
    names = [f"model-{number:05d}-of-{SHARDS:05d}.safetensors" for number in range(1, SHARDS + 1)]
    index = {"metadata": {}, "weight_map": {f"w{number}": name for number, name in enumerate(names)}}
    yield lambda: (dest / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in names:
        yield lambda name=name: write_shard(dest / name, PAYLOAD)
    if given.torn:
        yield lambda: tear(dest / names[-1])
    else:
        yield lambda: [shutil.copy(path, dest) for path in given.src.glob("tokenizer*")]


def tear(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[: PAYLOAD // 2])


def main(argv: list[str]) -> None:
    given, flags = parse(argv)
    for number, step in enumerate(steps(given, flags)):
        print(f"step {number} of {STEPS}", flush=True)
        time.sleep(3600 if number == given.stop_at else given.pause)
        if number == given.fail_at:
            sys.exit("ValueError: model type unheard-of not supported")
        if number == given.full_at:
            sys.exit("OSError: [Errno 28] No space left on device")
        step()


if __name__ == "__main__":
    main(sys.argv[1:])
