"""`mlxctl` and `python -m mlxctl`."""

from __future__ import annotations

import gc
import signal
import sys

INTERRUPTED = 130


def main() -> None:
    try:
        code = _run(sys.argv[1:])
    except KeyboardInterrupt:
        code = INTERRUPTED
    # what was asked for is done or undone: a Ctrl-C while Python shuts down must not change the exit code
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


def _run(argv: list[str]) -> int:
    # imports allocate much and free nothing, so looking for garbage in between is time lost
    gc.set_threshold(100_000, 50, 50)
    from mlxctl.ui.cli.fast import run_fast

    code = run_fast(argv)
    if code is not None:
        return code
    from mlxctl.ui.cli.app import run

    return run(argv)


if __name__ == "__main__":
    main()
