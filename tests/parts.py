"""Parts of the system that some tests need: named when absent, a failure where `CI=true`."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass

from mlxctl.control.backend import blas_environment


@dataclass(frozen=True)
class Part:
    name: str
    package: str
    needed_for: str
    present: bool


def parts() -> list[Part]:
    if sys.platform != "linux":
        return []
    sbin = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    programs = {
        "sshd": ("openssh-server", "commands over SSH"),
        "ssh": ("openssh-client", "commands over SSH"),
        "strace": ("strace", "a kill at every system call of a write"),
        "systemd-analyze": ("systemd", "the systemd unit"),
        "g++": ("g++", "kernels of MLX's CPU backend"),
    }
    found = [
        Part(name, package, why, shutil.which(name, path=sbin) is not None) for name, (package, why) in programs.items()
    ]
    return [*found, Part("OpenBLAS", "libopenblas0-pthread", "a fast CPU backend", bool(blas_environment()))]


def absent(*names: str) -> list[Part]:
    """Of the parts `names` (all when none are named), those that are not here."""
    return [part for part in parts() if not part.present and (not names or part.name in names)]


def main() -> int:
    missing = absent()
    for part in missing:
        print(
            f"absent: {part.name} (Debian's {part.package}), needed for {part.needed_for}; `make test-deps` installs it"
        )
    return 1 if missing and os.environ.get("CI") == "true" else 0


if __name__ == "__main__":
    sys.exit(main())
