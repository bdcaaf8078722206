"""`python -m bench [start|load|parallel]…`, or `python -m bench worker [--help | option…]`, which takes longer."""

from __future__ import annotations

import sys

from bench import load, parallel, start

BENCHES = {"start": start.main, "load": load.main, "parallel": parallel.main}


def main(names: list[str]) -> int:
    if names[:1] == ["worker"]:
        from bench.worker.cli import main as worker

        return worker(names[1:])
    unknown = set(names) - BENCHES.keys()
    if unknown:
        print(f"unknown: {', '.join(sorted(unknown))}; choose of {', '.join([*BENCHES, 'worker'])}", file=sys.stderr)
        return 2
    for name in names or BENCHES:
        BENCHES[name]()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
