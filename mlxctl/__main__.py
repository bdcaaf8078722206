"""`mlxctl` and `python -m mlxctl`."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from typing import NoReturn

INTERRUPTED = 130


def main() -> NoReturn:
    try:
        code = _run(sys.argv[1:])
    except KeyboardInterrupt:
        code = INTERRUPTED
    # what was asked for is done or undone. Python's own shutdown could only be interrupted, which would change the exit
    # code, and takes as long as a `status`
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


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
