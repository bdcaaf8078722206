"""`mlxctl` and `python -m mlxctl`."""

from __future__ import annotations

import sys


def main() -> None:
    from mlxctl.ui.cli.app import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
