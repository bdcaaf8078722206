"""`python -m bench [start|load|parallel]…`."""

from __future__ import annotations

import sys

from bench import load, parallel, start

BENCHES = {"start": start.main, "load": load.main, "parallel": parallel.main}


def main(names: list[str]) -> int:
    unknown = set(names) - BENCHES.keys()
    if unknown:
        print(f"unknown: {', '.join(sorted(unknown))}; choose of {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    for name in names or BENCHES:
        BENCHES[name]()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
